//! The task that runs the programs of custom gauges: waits, asks the board what
//! is due, runs a few at a time, and hands over what they printed.
//!
//! The programs are processes as those of jobs are: no shell, a process group
//! (and a cgroup where there is one) that is killed at the timeout, output
//! within a limit: one that passes it is killed at once. A gauge's program never runs twice at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::board::Custom;
use super::definition::Absence;
use crate::clock::Clock;
use crate::gauge::Missing;
use crate::work::job::Job;
use crate::work::{Ended, Outcome, Work};

/// Programs at a time; those of jobs are counted apart.
pub const MAX_AT_ONCE: usize = 4;
/// Timers may not count a suspend, so look at the clock now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Until `stop`; what runs then is ended by [`Work::stop`].
pub async fn run(custom: Custom, work: Work, clock: Clock, stop: CancellationToken) {
    let mut changes = custom.changes();
    let mut running = JoinSet::new();
    loop {
        let now = clock.boot_ns();
        let room = MAX_AT_ONCE.saturating_sub(running.len());
        for (name, job) in custom.commands_due(now, room) {
            running.spawn(once(custom.clone(), work.clone(), clock.clone(), name, job));
        }
        let next = custom
            .next_command()
            .filter(|_| running.len() < MAX_AT_ONCE);
        let wait = async {
            match next {
                Some(next) => {
                    let left = Duration::from_nanos(next.saturating_sub(clock.boot_ns()));
                    sleep(left.min(LONGEST_SLEEP)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    log::error!("a gauge's command was lost, which is a bug: {error}");
                }
            }
            // Fails only with the board, which this task holds.
            _ = changes.changed() => {}
            () = stop.cancelled() => break,
        }
    }
    while running.join_next().await.is_some() {}
}

async fn once(custom: Custom, work: Work, clock: Clock, name: String, job: Arc<Job>) {
    let ended = work.measure(&job).await;
    let now = clock.boot_ns();
    let text = String::from_utf8_lossy(&ended.output.stdout.head);
    let printed = judged(&ended, job.output_limit).map(|whole| whole.map(|()| &*text));
    custom.ran(&name, &job, ended.duration, printed, now);
}

/// Whether what it printed can be believed; `None`: the agent ended it.
fn judged(ended: &Ended, limit: usize) -> Option<Result<(), Absence>> {
    let because = |missing: Missing, why: String| Some(Err((missing, why)));
    let omitted = ended.output.stdout.omitted + ended.output.stderr.omitted;
    match &ended.outcome {
        Outcome::Interrupted => None,
        Outcome::Exited(0) | Outcome::TimedOut if omitted > 0 => because(
            Missing::Garbage,
            format!("it printed more than output_limit allows ({limit} bytes)"),
        ),
        Outcome::Exited(0) => Some(Ok(())),
        Outcome::TimedOut => because(
            Missing::Timeout,
            "it did not end in time and was killed".into(),
        ),
        failed => because(Missing::Gone, format!("{failed}{}", complaint(ended))),
    }
}

/// The first line of its standard error, cut.
fn complaint(ended: &Ended) -> String {
    const LIMIT: usize = 120;
    let text = String::from_utf8_lossy(&ended.output.stderr.head);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let plain = |line: &str| -> String {
        let shown = line.chars().map(|c| if c.is_control() { '?' } else { c });
        shown.take(LIMIT).collect()
    };
    line.map(|line| format!(": {}", plain(line)))
        .unwrap_or_default()
}
