//! `sonde reload`: SIGHUP to the process that serves the status socket.
//!
//! The kernel says who that is (SO_PEERCRED of a listening socket names the
//! process that listens), so nothing that the agent answers is trusted with
//! choosing whom to signal.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};

use super::{FAILED, FINE, UNREACHABLE, complain, say};

/// Finds the agent and signals it.
pub fn run(socket: &Path) -> ExitCode {
    let shown = socket.display();
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => {
            complain(&format!(
                "sonde reload: no agent answers at {shown}: {error}; is it running? (systemctl status sonde)"
            ));
            return ExitCode::from(UNREACHABLE);
        }
    };
    let agent = match socket_peercred(&stream) {
        // With socket activation the listener would be the service manager.
        Ok(peer) if peer.pid != Pid::INIT => peer.pid,
        Ok(_) => {
            complain(&format!(
                "sonde reload: {shown} belongs to the service manager; use: systemctl reload sonde"
            ));
            return ExitCode::from(FAILED);
        }
        Err(error) => {
            complain(&format!(
                "sonde reload: the kernel does not say who serves {shown}: {error}"
            ));
            return ExitCode::from(FAILED);
        }
    };
    match kill_process(agent, Signal::HUP) {
        Ok(()) => {
            say(&format!(
                "asked process {} to reload; `sonde status` says what it made of it\n",
                agent.as_raw_nonzero()
            ));
            ExitCode::from(FINE)
        }
        Err(error) => {
            complain(&format!(
                "sonde reload: cannot signal process {}: {error}; run it as root or as the agent's user",
                agent.as_raw_nonzero()
            ));
            ExitCode::from(FAILED)
        }
    }
}
