//! `sonde reload`: SIGHUP to the process that serves the status socket.
//!
//! The kernel says who that is (SO_PEERCRED of a listening socket names the
//! process that listens), so nothing that the agent answers is trusted with
//! choosing whom to signal.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{FAILED, FINE, UNREACHABLE, WRONG, complain, say, status};

/// How long the agent may take: its uplinks are given two seconds to end.
const PATIENCE: u32 = 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Finds the agent, signals it, and says what it made of it.
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
    let before = status::ask(socket).and_then(|status| reloads(&status));
    match kill_process(agent, Signal::HUP) {
        Ok(()) => outcome(socket, before),
        Err(error) => {
            complain(&format!(
                "sonde reload: cannot signal process {}: {error}; run it as root or as the agent's user",
                agent.as_raw_nonzero()
            ));
            ExitCode::from(FAILED)
        }
    }
}

/// Reloads that the agent has counted.
fn reloads(status: &Value) -> Option<u64> {
    status.get("config")?.get("reloads")?.as_u64()
}

/// Waits until the agent has counted one reload more than `before`.
fn outcome(socket: &Path, before: Option<u64>) -> ExitCode {
    let answered = || {
        let answer = status::ask(socket)?;
        (reloads(&answer)? != before.unwrap_or(u64::MAX)).then_some(answer)
    };
    let mut looks = (0..PATIENCE).map(|_| {
        status::pause(LOOK);
        answered()
    });
    let Some(answer) = looks.find_map(|found| found) else {
        complain(
            "sonde reload: the agent was asked to reload and has not said what it made of it; \
             see `sonde status`",
        );
        return ExitCode::from(FAILED);
    };
    let config = |key: &str| answer.get("config")?.get(key);
    if let Some(why) = config("reload_error").and_then(Value::as_str) {
        complain(&format!(
            "sonde reload: refused, the old configuration stays:\n{}",
            why.lines()
                .map(status::clean)
                .collect::<Vec<_>>()
                .join("\n")
        ));
        return ExitCode::from(WRONG);
    }
    let kept = config("restart_needed").and_then(Value::as_array);
    let kept: Vec<&str> = kept
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let later = match kept.as_slice() {
        [] => String::new(),
        kept => format!(
            "; {} changed, which takes effect when sonde is started again",
            status::clean(&kept.join(", "))
        ),
    };
    say(&format!("loaded again{later}\n"));
    ExitCode::from(FINE)
}
