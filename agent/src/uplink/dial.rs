//! Makes connections: name look-up, TCP, TLS, within one deadline, counting
//! every byte that crosses the socket (TLS and headers included).
//!
//! A resolver can hang for longer than anybody wants to wait and cannot be
//! cancelled. So a look-up runs on a thread of its own, and there is one such
//! thread in the process: whoever comes second waits for it within its own
//! deadline and is then told that the resolver hangs, rather than starting a
//! second thread that hangs as well.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::tls::{self, TlsError};
use crate::config::Tls;

/// The one look-up that this process may have under way.
static RESOLVER: Semaphore = Semaphore::const_new(1);

/// Addresses of one name that are tried; with more, each would get too little of the time.
const MAX_ADDRESSES: usize = 8;

/// Enough for any libc's resolver; the default of 2 MiB would be reserved for nothing.
const RESOLVER_STACK: usize = 256 * 1024;

/// Knows one server and how to reach it.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Host name or address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// Where bytes are counted.
    pub wire: Arc<Wire>,
}

/// What has crossed the sockets of one uplink since the start.
#[derive(Debug, Default)]
pub struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
}

/// An open connection.
#[derive(Debug)]
pub struct Stream {
    peer: SocketAddr,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Plain(Counted),
    Tls(Box<tokio_rustls::client::TlsStream<Counted>>),
}

/// What a caller does about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialErrorKind {
    /// The network or the server is away: try again, backing off.
    Unreachable,
    /// Trust, credentials or configuration are wrong: a person has to act, so
    /// hold everything and try rarely.
    Setup,
}

/// Why there is no connection, in words that say what to do.
#[derive(Debug)]
pub struct DialError {
    /// What to do about it.
    pub kind: DialErrorKind,
    message: String,
}

impl Dialer {
    /// Connects within `timeout`, which covers look-up, TCP and TLS together.
    ///
    /// The socket's `TCP_USER_TIMEOUT` is set to `timeout`, too: data that stays
    /// unacknowledged for that long ends the connection.
    pub async fn dial(&self, timeout: Duration) -> Result<Stream, DialError> {
        let deadline = Instant::now() + timeout;
        // First what needs no network: a missing file is better said than a dead link.
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some((
                TlsConnector::from(tls::client_config(tls)?),
                server_name(&self.host)?,
                tls,
            )),
        };
        let addresses = self.look_up(deadline).await?;
        let tcp = self.connect(&addresses, deadline).await?;
        let peer = tcp.peer_addr().map_err(|error| self.unreachable(&error))?;
        prepare(&tcp, timeout);
        self.wire.connections.fetch_add(1, Ordering::Relaxed);
        let tcp = Counted {
            tcp,
            wire: Arc::clone(&self.wire),
        };
        let inner = match tls {
            None => Inner::Plain(tcp),
            Some((connector, name, files)) => {
                match timeout_at(deadline, connector.connect(name, tcp)).await {
                    Ok(Ok(stream)) => Inner::Tls(Box::new(stream)),
                    Ok(Err(error)) => {
                        return Err(match tls::explain(&error, &self.host, files) {
                            Some(reason) => reason.into(),
                            None => self.unreachable(&error),
                        });
                    }
                    Err(_) => {
                        return Err(DialError::unreachable(format!(
                            "{self} took the connection but did not finish the TLS handshake in time; check that the port speaks TLS"
                        )));
                    }
                }
            }
        };
        Ok(Stream { peer, inner })
    }

    async fn look_up(&self, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let Ok(Ok(permit)) = timeout_at(deadline, RESOLVER.acquire()).await else {
            return Err(DialError::unreachable(format!(
                "cannot look up `{}`: an earlier look-up still hangs; check this machine's DNS servers",
                self.host
            )));
        };
        let (answer, waiting) = oneshot::channel();
        let host = self.host.clone();
        let port = self.port;
        std::thread::Builder::new()
            .name("sonde-resolver".into())
            .stack_size(RESOLVER_STACK)
            .spawn(move || {
                let found = (host.as_str(), port)
                    .to_socket_addrs()
                    .map(|list| in_turn(list.collect()));
                // The slot is free before the answer is known: the next look-up need not wait.
                drop(permit);
                let _ = answer.send(found);
            })
            .map_err(|error| {
                DialError::unreachable(format!(
                    "cannot look up `{}`: no thread for it ({error})",
                    self.host
                ))
            })?;
        match timeout_at(deadline, waiting).await {
            Ok(Ok(Ok(list))) if !list.is_empty() => Ok(list),
            Ok(Ok(Ok(_))) => Err(DialError::unreachable(format!(
                "`{}` has no address; check the name",
                self.host
            ))),
            Ok(Ok(Err(error))) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: {error}; check the name and this machine's DNS servers",
                self.host
            ))),
            Ok(Err(_)) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: the look-up broke off",
                self.host
            ))),
            Err(_) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: no answer in time; check this machine's DNS servers",
                self.host
            ))),
        }
    }

    /// Tries one address after the other; a silent one gets an even part of the time that is left.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<TcpStream, DialError> {
        let mut failures = Vec::with_capacity(addresses.len());
        for (done, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - done).unwrap_or(1).max(1);
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failures.push(format!("{address}: {}", plainly(&error))),
                Err(_) => failures.push(format!("{address}: no answer in time")),
            }
        }
        Err(DialError::unreachable(format!(
            "cannot connect to {self}: {}; check that the server runs and that no firewall is between",
            failures.join(", ")
        )))
    }

    fn unreachable(&self, error: &io::Error) -> DialError {
        DialError::unreachable(format!(
            "the connection to {self} broke while it was made: {}",
            plainly(error)
        ))
    }
}

impl Wire {
    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// TCP connections made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl DialError {
    fn unreachable(message: String) -> Self {
        Self {
            kind: DialErrorKind::Unreachable,
            message,
        }
    }
}

/// Trust, keys and names need a person; no network weather mends them.
impl From<TlsError> for DialError {
    fn from(error: TlsError) -> Self {
        Self {
            kind: DialErrorKind::Setup,
            message: error.to_string(),
        }
    }
}

impl std::error::Error for DialError {}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `host:port`, with brackets where they are needed.
impl fmt::Display for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName(host.to_owned()))
}

/// The resolver's order, but the families take turns: one that is broken here costs one part of the time, not all.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == six_first);
    let mut first = first.into_iter();
    let mut second = second.into_iter();
    let mut out: Vec<SocketAddr> = Vec::new();
    while out.len() < MAX_ADDRESSES {
        match (first.next(), second.next()) {
            (None, None) => break,
            (one, other) => out.extend(one.into_iter().chain(other)),
        }
    }
    out.truncate(MAX_ADDRESSES);
    out
}

/// Options that make a dead link show; a kernel without them still connects.
fn prepare(tcp: &TcpStream, timeout: Duration) {
    // Requests are written whole: waiting for more to send would only add a delay.
    let _ = tcp.set_nodelay(true);
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(tcp, millis);
}

/// An I/O error without `(os error 111)`.
fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by the server".into(),
        io::ErrorKind::UnexpectedEof => "closed by the server".into(),
        io::ErrorKind::NetworkUnreachable => "no route: network unreachable".into(),
        io::ErrorKind::HostUnreachable => "no route: host unreachable".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        _ => error.to_string(),
    }
}

/// A socket that counts.
#[derive(Debug)]
struct Counted {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        count(
            &self.wire.received,
            buf.filled().len().saturating_sub(before),
        );
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = polled {
            count(&self.wire.sent, bytes);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = polled {
            count(&self.wire.sent, bytes);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_read(cx, buf),
            Inner::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_write(cx, buf),
            Inner::Tls(inner) => Pin::new(inner).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),
            Inner::Tls(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(inner) => inner.is_write_vectored(),
            Inner::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_flush(cx),
            Inner::Tls(inner) => Pin::new(inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_shutdown(cx),
            Inner::Tls(inner) => Pin::new(inner).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn dialer(host: &str, port: u16) -> Dialer {
        Dialer {
            host: host.into(),
            port,
            tls: None,
            wire: Arc::default(),
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn every_byte_is_counted_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = dialer("localhost", listener.local_addr().unwrap().port());
        let (made, accepted) = tokio::join!(dialer.dial(LONG), listener.accept());
        let (mut stream, mut other) = (made.unwrap(), accepted.unwrap().0);
        stream.write_all(b"hello").await.unwrap();
        let mut five = [0; 5];
        other.read_exact(&mut five).await.unwrap();
        other.write_all(b"you").await.unwrap();
        drop(other);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"you");
        let wire = &dialer.wire;
        assert_eq!(
            (wire.sent(), wire.received(), wire.connections()),
            (5, 3, 1)
        );
        let Inner::Plain(counted) = &stream.inner else {
            panic!("not plain");
        };
        assert!(counted.tcp.nodelay().unwrap());
        let timeout = rustix::net::sockopt::tcp_user_timeout(&counted.tcp).unwrap();
        assert_eq!(timeout, 20_000);
    }

    #[tokio::test]
    async fn one_dead_address_does_not_hide_a_living_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = SocketAddr::new("::1".parse().unwrap(), alive.port());
        let dialer = dialer("both", alive.port());
        let tcp = dialer
            .connect(&[dead, alive], Instant::now() + LONG)
            .await
            .unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), alive);
    }

    #[tokio::test]
    async fn every_address_is_named_when_none_answers() {
        let refused = |address: &str| SocketAddr::new(address.parse().unwrap(), 1);
        let list = [refused("127.0.0.1"), refused("127.0.0.2")];
        let error = dialer("x", 1)
            .connect(&list, Instant::now() + LONG)
            .await
            .unwrap_err();
        assert_eq!(error.kind, DialErrorKind::Unreachable);
        let words = error.to_string();
        assert!(words.contains("127.0.0.1:1: connection refused"), "{words}");
        assert!(words.contains("127.0.0.2:1: connection refused"), "{words}");
    }

    #[tokio::test]
    async fn a_server_that_takes_the_connection_and_says_nothing_is_left_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut dialer = dialer("127.0.0.1", listener.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        let certificate = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, certificate.cert.pem()).unwrap();
        dialer.tls = Some(Tls {
            ca_file: Some(ca_file),
            ..Tls::default()
        });
        let error = dialer.dial(Duration::from_millis(200)).await.unwrap_err();
        assert!(
            error.to_string().contains("TLS handshake in time"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_second_look_up_waits_for_a_hung_one_and_is_told() {
        let hung = RESOLVER.acquire().await.unwrap();
        let error = dialer("localhost", 1)
            .dial(Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("earlier look-up still hangs"),
            "{error}"
        );
        // An address needs no look-up, so it is not held up.
        let error = dialer("127.0.0.1", 1).dial(LONG).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        drop(hung);
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_told_in_words() {
        let error = dialer("no such host", 1).dial(LONG).await.unwrap_err();
        assert_eq!(error.kind, DialErrorKind::Unreachable);
        assert!(error.to_string().contains("cannot look up `no such host`"));
        let mut secure = dialer("no such host", 1);
        secure.tls = Some(Tls::default());
        let error = secure.dial(LONG).await.unwrap_err();
        assert_eq!(error.kind, DialErrorKind::Setup, "{error}");
    }

    #[test]
    fn families_take_turns_and_the_list_is_bounded() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let found = ["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"].map(address);
        let turns = ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"].map(address);
        assert_eq!(in_turn(found.to_vec()), turns);
        let many = vec![address("1.1.1.1"); 1000];
        assert_eq!(in_turn(many).len(), MAX_ADDRESSES);
        assert_eq!(in_turn(Vec::new()), []);
    }

    #[test]
    fn an_ipv6_address_is_shown_in_brackets() {
        assert_eq!(dialer("::1", 4318).to_string(), "[::1]:4318");
        assert_eq!(dialer("a.example", 443).to_string(), "a.example:443");
    }
}
