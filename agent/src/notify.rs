//! Words to systemd, as sd_notify(3) defines them: one datagram each, without
//! libsystemd. Nothing here can fail the agent: outside systemd there is no
//! socket and the words go nowhere, and an error is a debug log line.
//!
//! ```text
//! NOTIFY_SOCKET=/run/systemd/notify      a path
//! NOTIFY_SOCKET=@name                    the abstract name "name"
//! ```

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock;

pub mod keepalive;

/// The way to systemd, if it started us.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    address: Option<SocketAddr>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`.
    pub fn from_env() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(socket) => Self::to(&socket),
            None => Self::default(),
        }
    }

    /// To a socket named as in `NOTIFY_SOCKET`; anything but a path or an
    /// abstract name is ignored.
    pub fn to(socket: &OsStr) -> Self {
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(socket),
            _ => Err(io::Error::other("neither a path nor @name")),
        };
        if let Err(error) = &address {
            log::debug!("NOTIFY_SOCKET {socket:?} is ignored: {error}");
        }
        Self {
            address: address.ok(),
        }
    }

    /// The start, or a reload, is complete.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload has begun; say [`ready`](Self::ready) when it ends, well or badly.
    pub fn reloading(&self) {
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            clock::monotonic_us()
        ));
    }

    /// Shutdown has begun and takes up to `budget`, whatever `TimeoutStopSec=` says.
    pub fn stopping(&self, budget: Duration) {
        self.send(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}",
            budget.as_micros()
        ));
    }

    /// One line for `systemctl status`; further lines would be fields, so line
    /// breaks become blanks.
    pub fn status(&self, line: &str) {
        self.send(&format!(
            "STATUS={}",
            line.replace(|c: char| c.is_control(), " ")
        ));
    }

    /// Still alive (`WatchdogSec=`).
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, words: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not hold the agent up.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(words.as_bytes(), address)
        });
        if let Err(error) = sent {
            log::debug!("systemd did not take {words:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("a datagram is there");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn each_word_is_one_datagram_on_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.as_os_str());
        notifier.ready();
        assert_eq!(heard(&socket), "READY=1");
        notifier.stopping(Duration::from_secs(12));
        assert_eq!(heard(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=12000000");
        notifier.watchdog();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        notifier.status("fine\nREADY=1");
        assert_eq!(heard(&socket), "STATUS=fine READY=1");
        notifier.reloading();
        let words = heard(&socket);
        let usec = words
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect("both fields");
        assert!(usec.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn an_abstract_socket_hears_too() {
        let name = format!("sonde-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::to(OsStr::new(&format!("@{name}"))).ready();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn a_missing_or_senseless_socket_is_ignored() {
        for socket in ["", "relative", "vsock:2:1234", "/nowhere/notify", "@"] {
            Notifier::to(OsStr::new(socket)).ready();
        }
        Notifier::to(OsStr::from_bytes(&[b'/'; 300])).ready();
        Notifier::default().ready();
    }
}
