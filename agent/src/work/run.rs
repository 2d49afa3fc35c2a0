//! One run, performed: waits, hands one event at a time to the [`Lifecycle`],
//! does what it says, and tells how it went.

use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::capture::Capture;
use super::cgroup::RunGroup;
use super::job::{Job, Program};
use super::lifecycle::{Action, Event, Lifecycle};
use super::process::{Plan, Processes, Streams};
use super::{Outcome, Output};

/// Bytes read at a time.
const PIECE: usize = 4096;

/// A stream whose limit is passed is read this much at a time …
const FLOOD: usize = 64 * 1024;
/// … and then left for so long: reading what is only counted must not cost a CPU.
const PAUSE: Duration = Duration::from_millis(5);

/// Between the first two looks at a program's memory, and the longest between any.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// All that a run needs.
pub(super) struct Assignment {
    pub job: Arc<Job>,
    pub vector: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub launcher: Option<PathBuf>,
    pub mark: String,
    /// It is over when it has printed more than its limit; else that is read and counted.
    pub flood_ends: bool,
    pub stop: CancellationToken,
    /// How long the run has when that is cancelled.
    pub stop_within: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// What a run came to, but for its span.
#[derive(Debug)]
pub(super) struct Result {
    pub outcome: Outcome,
    pub pid: Option<i32>,
    pub cpu: Option<Duration>,
    pub peak_memory: Option<u64>,
    pub output: Output,
}

impl Result {
    pub(super) fn not_started(why: String) -> Self {
        Self {
            outcome: Outcome::NotStarted(why),
            pid: None,
            cpu: None,
            peak_memory: None,
            output: Output::default(),
        }
    }
}

/// The argument vector of a job: what its arguments made of its command, or
/// the command that starts its unit.
pub(super) fn vector(job: &Job, filled: Vec<String>) -> Vec<String> {
    match &job.program {
        Program::Command(_) => filled,
        Program::Unit(unit) => [
            "systemctl",
            "--no-ask-password",
            "start",
            "--wait",
            "--",
            unit,
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

/// Starts the program and stays with it until nothing of it is left.
pub(super) async fn perform(with: Assignment, cgroup: Option<RunGroup>) -> Result {
    // Before the start: an end that comes at once must not go unnoticed.
    let mut children = match signal(SignalKind::child()) {
        Ok(children) => children,
        Err(error) => return Result::not_started(format!("cannot listen for its end: {error}")),
    };
    let plan = Plan {
        job: &with.job,
        vector: &with.vector,
        environment: &with.environment,
        launcher: with.launcher.as_deref(),
        mark: with.mark.clone(),
    };
    let (mut processes, streams) = match Processes::start(plan, cgroup).await {
        Ok(started) => started,
        Err(why) => return Result::not_started(why),
    };
    let Streams {
        mut stdout,
        mut stderr,
    } = streams;
    let limit = with.job.output_limit;
    let (mut out, mut err) = (Capture::new(limit), Capture::new(limit));
    let mut watch = Watch::new(&processes);
    let flood = Notify::new();
    let full = with.flood_ends.then_some(&flood);
    let outcome = {
        let drained = async {
            tokio::join!(
                drain(&mut stdout, &mut out, full),
                drain(&mut stderr, &mut err, full)
            )
        };
        let mut drained = pin!(drained);
        let mut is_drained = false;
        let mut is_flooded = false;
        let mut is_stopped = false;
        let mut has_exited = false;
        let started = Instant::now();
        let mut run = Lifecycle::new(with.job.timeout, with.job.grace);
        let mut event = None;
        loop {
            if let (None, false) = (event, has_exited)
                && let Some(exit) = processes.exited()
            {
                has_exited = true;
                watch.cpu = processes.cpu();
                event = Some(Event::Exited(exit));
            }
            let actions = event.take().map(|event| run.on(event, started.elapsed()));
            let mut ended = None;
            for action in actions.into_iter().flatten() {
                match action {
                    Action::Terminate => processes.signal(Signal::TERM),
                    Action::Kill => processes.signal(Signal::KILL),
                    Action::Survey => event = Some(Event::Left(processes.others_left())),
                    Action::End(outcome) => ended = Some(outcome),
                }
            }
            if let Some(outcome) = ended {
                break outcome;
            }
            if event.is_some() {
                continue;
            }
            event = tokio::select! {
                _ = children.recv(), if !has_exited => None,
                _ = &mut drained, if !is_drained => {
                    is_drained = true;
                    Some(Event::Drained)
                }
                () = flood.notified(), if !is_flooded => {
                    is_flooded = true;
                    Some(Event::Flooded)
                }
                () = with.stop.cancelled(), if !is_stopped => {
                    is_stopped = true;
                    Some(Event::Stop((with.stop_within)()))
                }
                () = watch.next(), if !has_exited => {
                    watch.look(&processes);
                    None
                }
                () = until(run.wake_at().map(|at| started + at)) => Some(Event::Timer),
            };
        }
    };
    let peak = processes.peak_of_cgroup().or(watch.peak);
    let cpu = processes.cpu().max(watch.cpu);
    let pid = Some(processes.id());
    processes.finish();
    Result {
        outcome,
        pid,
        cpu,
        peak_memory: peak,
        output: Output {
            stdout: out.finish(),
            stderr: err.finish(),
        },
    }
}

/// Reads a stream to its end, whatever comes; or, where somebody wants to hear
/// of it, until there is more than is kept.
async fn drain(stream: &mut Receiver, capture: &mut Capture, full: Option<&Notify>) {
    let mut piece = [0; PIECE];
    let mut flood = 0;
    // An error is an end too: of a pipe there is nothing else to read.
    while let Ok(count @ 1..) = stream.read(&mut piece).await {
        capture.push(piece.get(..count).unwrap_or_default());
        if capture.is_full() {
            if let Some(full) = full {
                full.notify_one();
                return;
            }
            flood += count;
        }
        if flood >= FLOOD {
            flood = 0;
            sleep(PAUSE).await;
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Looks at the program's memory while it runs, ever more seldom; not at all
/// where its cgroup remembers the peak.
struct Watch {
    peak: Option<u64>,
    cpu: Option<Duration>,
    at: Option<Instant>,
    wait: Duration,
}

impl Watch {
    fn new(processes: &Processes) -> Self {
        let needed = processes.peak_of_cgroup().is_none();
        Self {
            peak: None,
            cpu: None,
            at: needed.then(|| Instant::now() + FIRST_LOOK),
            wait: FIRST_LOOK,
        }
    }

    fn next(&self) -> impl Future<Output = ()> + use<> {
        until(self.at)
    }

    fn look(&mut self, processes: &Processes) {
        self.peak = self.peak.max(processes.peak_of_program());
        self.wait = (self.wait * 2).min(LONGEST_LOOK);
        self.at = Some(Instant::now() + self.wait);
    }
}
