//! What an operator allows to be run: the checked shape of `[job.NAME]`.
//!
//! Pure data. The configuration builds it and proves that it holds together
//! (every placeholder has an argument, every default fits), so nobody who
//! holds a [`Job`] checks it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Configured work.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name: 1 to 64 letters, digits, `_` and `-`; a level of a topic and a folder's name.
    pub name: String,
    /// What is started.
    pub program: Program,
    /// The arguments that a run may be given, by name.
    pub arguments: BTreeMap<String, Argument>,
    /// Where it runs.
    pub directory: PathBuf,
    /// What its environment has besides the few variables that every run gets.
    pub environment: BTreeMap<String, String>,
    /// From its start to SIGTERM.
    pub timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// When it runs by itself; `None`: only when asked.
    pub schedule: Option<Schedule>,
    /// What happens when it is wanted while it runs.
    pub concurrency: Concurrency,
    /// Bytes kept of each of standard output and standard error.
    pub output_limit: usize,
    /// What it may use.
    pub limits: Limits,
    /// It may be asked for by a command over MQTT.
    pub remote: bool,
    /// Running it twice is as good as once: an interrupted run may be repeated.
    pub idempotent: bool,
}

/// What a job starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, each a [`Word`]; at least one, and the
    /// first is a [`Word`] without placeholders. Never through a shell.
    Command(Vec<Word>),
    /// A systemd unit, by `systemctl start --wait`.
    Unit(String),
}

/// One element of an argument vector: text with placeholders in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(pub Vec<Part>);

/// A stretch of a [`Word`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// The value of the argument of this name.
    Argument(String),
}

/// What one argument may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its type and its bounds.
    pub kind: ArgumentKind,
    /// A run without it is refused.
    pub required: bool,
    /// What it is when it is not given.
    pub default: Option<Value>,
    /// The only values that it may have; empty: any.
    pub choices: Vec<Value>,
}

/// Types as JSON has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArgumentKind {
    /// Text without control characters, at most so many bytes.
    Text {
        /// Bytes.
        max_length: usize,
    },
    /// A whole number, ends included.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// Any finite number, ends included.
    Number {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// `true` or `false`.
    Boolean,
}

/// When a job runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From one time to the next.
    pub every: Duration,
    /// Each run starts up to this much later, by chance, so that a fleet does
    /// not start at once.
    pub jitter: Duration,
    /// The first time is the agent's start, not one interval after it.
    pub at_start: bool,
}

/// What happens when a job is wanted while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// The later one is refused.
    Refuse,
    /// The later one waits; at most so many wait.
    Queue(usize),
    /// At most so many run at once.
    Parallel(usize),
}

/// What a run may use; `None`: as much as the agent may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory (cgroup `memory.max`).
    pub memory: Option<u64>,
    /// Percent of one CPU (cgroup `cpu.max`).
    pub cpu: Option<u32>,
    /// Processes and threads (cgroup `pids.max`).
    pub tasks: Option<u32>,
    /// Niceness added, 0 to 19.
    pub nice: Option<u8>,
    /// The largest file that it may write, in bytes (`RLIMIT_FSIZE`).
    pub file_size: Option<u64>,
    /// Files that it may have open (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
}

impl Limits {
    /// Whether some limit needs a cgroup.
    pub fn need_cgroup(&self) -> bool {
        self.memory.is_some() || self.cpu.is_some() || self.tasks.is_some()
    }
}

impl ArgumentKind {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ArgumentKind::Text { .. } => "string",
            ArgumentKind::Integer { .. } => "integer",
            ArgumentKind::Number { .. } => "number",
            ArgumentKind::Boolean => "boolean",
        }
    }
}

impl Concurrency {
    /// How many may run at once.
    pub fn at_once(self) -> usize {
        match self {
            Concurrency::Refuse | Concurrency::Queue(_) => 1,
            Concurrency::Parallel(most) => most.max(1),
        }
    }

    /// How many may wait.
    pub fn may_wait(self) -> usize {
        match self {
            Concurrency::Queue(most) => most,
            Concurrency::Refuse | Concurrency::Parallel(_) => 0,
        }
    }
}
