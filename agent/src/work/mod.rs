//! Local work: jobs that the configuration names, and their runs.
//!
//! ```text
//!  Order ─ admit ─► Admitted ─ run ─► process group, own cgroup ─► Ended
//!           │  job, origin,  │                                    span, status
//!           └► Refusal       └ lifecycle (pure): timeout, stop, leftovers
//! ```
//!
//! Promises: nothing runs that the configuration does not name, with arguments
//! that its schema does not allow, or with more rights than the agent has; no
//! shell reads any of it. What a run prints is kept up to a limit and otherwise
//! only counted. A run ends within its timeout and its grace, and takes along
//! what it started. When the agent ends, so do its runs.
//!
//! [`schema`], [`lifecycle`], [`schedule`] and [`capture`] are pure.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::trace::propagation::Carried;

pub mod agenda;
pub mod capture;
pub mod cgroup;
pub(crate) mod command;
mod desk;
pub mod job;
pub(crate) mod journal;
pub mod launch;
pub mod lifecycle;
pub mod process;
mod run;
pub mod schedule;
pub mod schema;
pub(crate) mod span;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use desk::{Admitted, Setup, Work};
pub use job::Job;

/// Somebody wants a job to run.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Its name.
    pub job: String,
    /// What its schema has to allow.
    pub arguments: Map<String, Value>,
    /// The trace that the run continues.
    pub parent: Carried,
    /// Who wants it.
    pub origin: Origin,
}

/// Who wants a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Its schedule.
    Schedule,
    /// A command over MQTT: only jobs with `remote = true`.
    Command,
    /// A program on this gateway.
    #[default]
    Local,
}

/// Why nothing runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No job of that name is configured.
    Unknown,
    /// The configuration does not let a command start it (`remote`).
    NotRemote,
    /// What is wrong with the arguments, a sentence each.
    Arguments(Vec<String>),
    /// It runs already, and its concurrency rule lets no more in.
    Busy,
    /// As many runs as the agent bears at once are running or waiting.
    Full,
    /// The agent is stopping.
    Stopping,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// From its start to its end; zero if it did not start.
    pub duration: Duration,
    /// CPU time of it and of what it started and waited for; `None`: unknown.
    pub cpu: Option<Duration>,
    /// The most memory that it had, in bytes; `None`: unknown.
    pub peak_memory: Option<u64>,
    /// What it printed.
    pub output: Output,
    /// The run's own span, for what follows from it.
    pub context: Carried,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal, which the agent did not send.
    Signalled(i32),
    /// Its time was up, or it printed more than it may, and it was ended.
    TimedOut,
    /// It could not be started; why.
    NotStarted(String),
    /// The agent stopped, and ended it.
    Interrupted,
}

/// What a run printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
}

/// The beginning and the end of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// All of it, or its beginning.
    pub head: Vec<u8>,
    /// Its end, if not all of it is in `head`.
    pub tail: Vec<u8>,
    /// Bytes between the two that were not kept.
    pub omitted: u64,
}

impl Origin {
    /// One word, as on spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Schedule => "schedule",
            Origin::Command => "command",
            Origin::Local => "local",
        }
    }
}

impl Refusal {
    /// One word for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::Unknown => "unknown_job",
            Refusal::NotRemote => "not_remote",
            Refusal::Arguments(_) => "bad_arguments",
            Refusal::Busy => "busy",
            Refusal::Full => "full",
            Refusal::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown => f.write_str("no such job is configured"),
            Refusal::NotRemote => f.write_str("this job may not be started by a command"),
            Refusal::Arguments(problems) => f.write_str(&problems.join("; ")),
            Refusal::Busy => f.write_str("it runs already, and may not run more often at once"),
            Refusal::Full => f.write_str("too many runs are under way on this gateway"),
            Refusal::Stopping => f.write_str("the agent is stopping"),
        }
    }
}

impl Outcome {
    /// Whether it did not do what it should: anything but exit code 0.
    pub fn is_failure(&self) -> bool {
        *self != Outcome::Exited(0)
    }

    /// One word for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Exited(0) => "succeeded",
            Outcome::Exited(_) => "failed",
            Outcome::Signalled(_) => "signalled",
            Outcome::TimedOut => "timed_out",
            Outcome::NotStarted(_) => "not_started",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// `error.type`: the exit code or the signal where there is one.
    fn error_type(&self) -> String {
        match self {
            Outcome::Exited(code) => code.to_string(),
            Outcome::Signalled(signal) => span::signal_name(*signal).into_owned(),
            other => other.as_str().to_owned(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited(code) => write!(f, "exit code {code}"),
            Outcome::Signalled(signal) => write!(f, "ended by {}", span::signal_name(*signal)),
            Outcome::TimedOut => f.write_str("timed out and was ended"),
            Outcome::NotStarted(why) => f.write_str(why),
            Outcome::Interrupted => f.write_str("interrupted: the agent stopped"),
        }
    }
}
