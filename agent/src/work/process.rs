//! One run's processes: started, watched, signalled, looked for, reaped.
//!
//! The program leads a process group of its own and, where there is one, has
//! its own cgroup. It is reaped last: until then its number is nobody else's,
//! so a signal to the group can hit no stranger.

use std::fs;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::cgroup::RunGroup;
use super::job::{Job, Limits};
use super::launch;
use super::lifecycle::Exit;

/// The longest that a launcher may take to become the program.
const LAUNCH: Duration = Duration::from_secs(10);

/// Where programs are looked for, unless the job's environment says otherwise.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A variable that marks all that belongs to a run, so that what left its
/// process group is found where there is no cgroup.
pub const MARK: &str = "SONDE_RUN";

/// The processes of one run. Dropping it kills and reaps what is left.
#[derive(Debug)]
pub struct Processes {
    child: Option<Child>,
    pid: Pid,
    cgroup: Option<RunGroup>,
    mark: String,
    over: bool,
}

/// What the run prints.
#[derive(Debug)]
pub struct Streams {
    /// Standard output.
    pub stdout: Receiver,
    /// Standard error.
    pub stderr: Receiver,
}

/// How a program is started.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What.
    pub job: &'a Job,
    /// The program and its arguments.
    pub vector: &'a [String],
    /// All of its environment.
    pub environment: &'a [(String, String)],
    /// The binary that applies limits; `None`: start it directly, without any.
    pub launcher: Option<&'a Path>,
    /// The run's mark, unique.
    pub mark: String,
}

impl Processes {
    /// Starts it.
    ///
    /// # Errors
    /// What was tried and how it failed, in a sentence.
    pub async fn start(
        plan: Plan<'_>,
        cgroup: Option<RunGroup>,
    ) -> Result<(Self, Streams), String> {
        reap(None);
        let (name, arguments) = plan.vector.split_first().ok_or("there is no program")?;
        let path = plan.environment.iter().find(|(key, _)| key == "PATH");
        let program = find(name, path.map_or("", |(_, value)| value))?;
        let pipe = |error: io::Error| format!("cannot make a pipe: {error}");
        let (report, told) = io::pipe().map_err(pipe)?;
        let folder = cgroup.as_ref().map(RunGroup::folder);
        let mut command = match plan.launcher {
            Some(launcher) => {
                let limits = &plan.job.limits;
                launched(launcher, limits, folder, &program, arguments, told)
            }
            None => {
                drop(told);
                let mut command = Command::new(&program);
                command.args(arguments).stdin(Stdio::null());
                command
            }
        };
        let directory = &plan.job.directory;
        // Else its absence would be told as the program's.
        if !directory.is_dir() {
            let shown = directory.display();
            return Err(format!("cannot start in {shown}: it is not a folder"));
        }
        command
            .env_clear()
            .envs(plan.environment.iter().map(|(key, value)| (key, value)))
            .env(MARK, &plan.mark)
            .current_dir(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        // Holds the other end of the pipe.
        drop(command);
        let pid = Pid::from_child(&child);
        let streams = (child.stdout.take(), child.stderr.take());
        let mut processes = Self {
            child: Some(child),
            pid,
            cgroup,
            mark: plan.mark,
            over: false,
        };
        let (Some(stdout), Some(stderr)) = streams else {
            return Err("its output cannot be read".into());
        };
        let unreadable = |error: io::Error| format!("its output cannot be read: {error}");
        let streams = Streams {
            stdout: Receiver::from_owned_fd(stdout.into()).map_err(unreadable)?,
            stderr: Receiver::from_owned_fd(stderr.into()).map_err(unreadable)?,
        };
        if plan.launcher.is_some() {
            let report = Receiver::from_owned_fd(OwnedFd::from(report)).map_err(pipe)?;
            if let Err(why) = launched_well(report).await {
                processes.finish();
                return Err(why);
            }
        }
        Ok((processes, streams))
    }

    /// Its process id, which is its group's too.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// How the program ended, if it has; leaves it unreaped.
    pub fn exited(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => return None,
            }),
            // Not ours any more: then nobody will ever say how it ended.
            Err(_) => Some(Exit::Code(-1)),
        }
    }

    /// Sends a signal to all of it.
    pub fn signal(&self, signal: Signal) {
        // Fails only if nobody is left to get it.
        let _ = kill_process_group(self.pid, signal);
        match &self.cgroup {
            Some(group) => {
                if signal != Signal::KILL || !group.kill() {
                    signal_each(group.processes(), signal);
                }
            }
            None => signal_each(marked(&self.mark, self.pid), signal),
        }
    }

    /// Whether processes are left besides the program, which may be a zombie.
    pub fn others_left(&self) -> bool {
        match &self.cgroup {
            Some(group) => group.is_populated(),
            None => !marked(&self.mark, self.pid).is_empty(),
        }
    }

    /// CPU time of it: all of its cgroup, else of the program and those of its
    /// children that it waited for, in clock ticks. Ask when it has exited.
    pub fn cpu(&self) -> Option<Duration> {
        if let Some(cpu) = self.cgroup.as_ref().and_then(RunGroup::cpu) {
            return Some(cpu);
        }
        cpu_of(self.pid)
    }

    /// The most memory that its cgroup had, in bytes.
    pub fn peak_of_cgroup(&self) -> Option<u64> {
        self.cgroup.as_ref()?.peak_memory()
    }

    /// The most memory that the program itself has had so far, in bytes. Ask
    /// while it runs: with its end this is gone.
    pub fn peak_of_program(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }

    /// Kills what is left of it and reaps the program, if it can be reaped.
    pub fn finish(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        self.signal(Signal::KILL);
        reap(self.child.take());
    }
}

/// Killed, and not gone when that was looked at: a process can hang in the kernel.
static DYING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Takes notice of the end of those that were killed, so that no zombies gather.
fn reap(child: Option<Child>) {
    let mut dying = DYING.lock().unwrap_or_else(PoisonError::into_inner);
    dying.extend(child);
    dying.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.finish();
    }
}

/// CPU time of a process that was not reaped yet, and of the children that it waited
/// for, to a clock tick (mostly 10 ms).
pub fn cpu_of(pid: Pid) -> Option<Duration> {
    let pid = pid.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): utime, stime, cutime, cstime are fields 14 to 17;
    // the name in parentheses is field 2 and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let ms = ticks.saturating_mul(1000) / per_second;
    Some(Duration::from_millis(ms))
}

fn launched(
    launcher: &Path,
    limits: &Limits,
    cgroup: Option<&Path>,
    program: &Path,
    arguments: &[String],
    told: PipeWriter,
) -> Command {
    let mut command = launch::command(launcher, limits, cgroup, program, arguments);
    command.stdin(told);
    command
}

/// Waits until the launcher has become the program, or says why not.
async fn launched_well(mut report: Receiver) -> Result<(), String> {
    let mut message = Vec::new();
    let most = launch::MAX_MESSAGE as u64;
    let mut report = (&mut report).take(most);
    match timeout(LAUNCH, report.read_to_end(&mut message)).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(_)) => Err(String::from_utf8_lossy(&message).into_owned()),
        Ok(Err(error)) => Err(format!("its launcher cannot be heard: {error}")),
        Err(_) => Err(format!("its launcher did not start it within {LAUNCH:?}")),
    }
}

/// The program of a name: itself if it is a path, else what the folders of
/// `path` have. The result can be executed as far as its mode says.
///
/// # Errors
/// There is none.
pub fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    let found = folders
        .map(|folder| Path::new(folder).join(name))
        .find(|file| is_program(file));
    found.ok_or_else(|| format!("cannot start {name}: there is no such program in {path}"))
}

/// Whether a file is there that may be executed.
pub fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn signal_each(processes: Vec<i32>, signal: Signal) {
    for pid in processes.into_iter().filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Processes in the group `leader` or with `mark` in their environment, the
/// leader itself and zombies not counted. Those of other users are not seen,
/// and could not be signalled either.
fn marked(mark: &str, leader: Pid) -> Vec<i32> {
    let leader = leader.as_raw_nonzero().get();
    let marker = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| name.parse().ok())
        .filter(|pid| *pid != leader)
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let mut fields = fields.split_whitespace();
            let (state, group) = (fields.next(), fields.nth(1));
            if matches!(state, None | Some("Z" | "X")) {
                return false;
            }
            let in_group = group.and_then(|group| group.parse().ok()) == Some(leader);
            in_group || carries(*pid, marker.as_bytes())
        })
        .collect()
}

fn carries(pid: i32, marker: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == marker)
}
