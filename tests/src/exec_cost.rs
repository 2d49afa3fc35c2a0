//! What `sonde exec` costs a command: `/bin/true` by itself and wrapped, in
//! turns, so that what else the machine does falls on both.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{Gateway, binary};

/// Milliseconds, and what the wrapper itself executes.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Median of the bare command.
    pub bare: Duration,
    /// Median of the wrapped one.
    pub wrapped: Duration,
    /// Of the wrapped one, 99 in 100 are shorter.
    pub wrapped_p99: Duration,
    /// Instructions of the wrapper, the command's not among them; `None`: valgrind is not there.
    pub instructions: Option<u64>,
}

/// Measures `runs` pairs. `agent`: with one that takes the span.
///
/// # Errors
/// A command could not be started, or did not end well.
pub async fn measure(runs: usize, agent: bool) -> Result<Cost, Box<dyn Error>> {
    let gateway = Gateway::new("exec-cost");
    let running = agent.then(|| gateway.start());
    let mut running = running;
    if let Some(agent) = &mut running {
        agent.ready().await?;
    }
    let socket = gateway.path("run/sonde.sock");
    let exec = || {
        let mut command = Command::new(binary());
        command
            .arg("exec")
            .arg("--socket")
            .arg(&socket)
            .args(["--", "/bin/true"]);
        command
    };
    let (mut bare, mut wrapped) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        bare.push(timed(&mut Command::new("/bin/true"))?);
        wrapped.push(timed(&mut exec())?);
    }
    bare.sort();
    wrapped.sort();
    let at = |times: &[Duration], part: usize| times.get(times.len() * part / 100).copied();
    let cost = Cost {
        bare: at(&bare, 50).unwrap_or_default(),
        wrapped: at(&wrapped, 50).unwrap_or_default(),
        wrapped_p99: at(&wrapped, 99).unwrap_or_default(),
        instructions: instructions(&exec()),
    };
    Ok(cost)
}

fn timed(command: &mut Command) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).status()?;
    let took = started.elapsed();
    match status.success() {
        true => Ok(took),
        false => Err(format!("{command:?}: {status}").into()),
    }
}

/// Counted by callgrind, which stays with the wrapper and leaves its child alone.
fn instructions(command: &Command) -> Option<u64> {
    let out = Path::new("/dev/null").display();
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={out}")])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&counted.stderr).into_owned();
    let line = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}
