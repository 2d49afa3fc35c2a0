//! The few milliseconds between the agent and a job's program: this binary
//! again, which puts limits on itself and then becomes the program.
//!
//! Limits must hold before the program's first instruction, and must cover
//! what it starts. Between fork and exec only unsafe code could set them, so a
//! program of its own does: it enters the run's cgroup, takes its limits, asks
//! to be killed when the agent dies, and executes the job's program in its place.
//!
//! What goes wrong is told over its standard input, which is one end of a pipe
//! for that purpose; the program itself gets `/dev/null`. The pipe closes when
//! the program starts, so silence means that it did.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, getpriority_process, set_parent_process_death_signal,
    setpriority_process, setrlimit,
};

use super::job::Limits;

/// The first argument that makes this binary a launcher. Not for people.
pub const ARGUMENT: &str = "--launch-job";

/// The longest message of a failure, in bytes.
pub const MAX_MESSAGE: usize = 1024;

/// This binary, as long as the process lives, whatever an upgrade puts in its place.
pub fn this_binary() -> PathBuf {
    "/proc/self/exe".into()
}

/// A command that becomes `program` with `arguments` under `limits`. The
/// caller gives it its standard input: the writing end of a pipe.
pub fn command(
    launcher: &Path,
    limits: &Limits,
    cgroup: Option<&Path>,
    program: &Path,
    arguments: &[String],
) -> Command {
    let mut command = Command::new(launcher);
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    command
        .arg(ARGUMENT)
        .arg(cgroup.map_or(OsStr::new(""), Path::as_os_str))
        .arg(number(limits.nice.map(u64::from)))
        .arg(number(limits.file_size))
        .arg(number(limits.open_files))
        .arg(program)
        .args(arguments);
    command
}

/// Becomes the program; returns only if that failed, which it has told already.
/// `arguments`: what follows [`ARGUMENT`].
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Ok(report) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut word = || arguments.next().unwrap_or_default();
    let [cgroup, nice, file_size, open_files, program] = std::array::from_fn(|_| word());
    let limits = (number(&nice), number(&file_size), number(&open_files));
    let mut report = File::from(report);
    let mut tell = |what: String| {
        let mut message = what.into_bytes();
        message.truncate(MAX_MESSAGE);
        // If nobody reads it any more, nobody needs it.
        let _ = report.write_all(&message);
    };
    if let Err(what) = prepare(&cgroup, limits) {
        tell(what);
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .exec();
    tell(format!(
        "cannot start {}: {error}",
        Path::new(&program).display()
    ));
    ExitCode::FAILURE
}

fn prepare(
    cgroup: &OsStr,
    (nice, file_size, open_files): (Option<u64>, Option<u64>, Option<u64>),
) -> Result<(), String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    if !cgroup.is_empty() {
        let procs = Path::new(cgroup).join("cgroup.procs");
        // 0: the process that writes.
        std::fs::write(procs, "0").map_err(|error| failed("enter the run's cgroup", &error))?;
    }
    if let Some(nice) = nice.and_then(|nice| i32::try_from(nice).ok()) {
        let now = getpriority_process(None).unwrap_or(0);
        setpriority_process(None, (now + nice).min(19))
            .map_err(|error| failed("lower the priority", &error))?;
    }
    for (what, resource, limit) in [
        ("limit file sizes", Resource::Fsize, file_size),
        ("limit open files", Resource::Nofile, open_files),
    ] {
        if limit.is_some() {
            let rlimit = Rlimit {
                current: limit,
                maximum: limit,
            };
            setrlimit(resource, rlimit).map_err(|error| failed(what, &error))?;
        }
    }
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| failed("be killed with the agent", &error))
}

fn number(text: &OsStr) -> Option<u64> {
    std::str::from_utf8(text.as_bytes()).ok()?.parse().ok()
}
