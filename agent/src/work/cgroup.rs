//! A cgroup of its own for each run, where the agent may make one.
//!
//! ```text
//! …/sonde.service/            delegated by systemd (Delegate=yes)
//!   agent/                    the agent itself: a cgroup with children that are
//!                             limited must hold no process (kernel, "no internal
//!                             processes")
//!   run-7f3a…/                one run: memory.max, cpu.max, pids.max
//! ```
//!
//! It is used only if it is plainly ours: cgroup 2, no process in it but the
//! agent, and writable. Anything else (an agent started by hand in somebody's
//! session) is left alone, and the status says that runs have no cgroup and why.
//!
//! Sources: Linux Documentation/admin-guide/cgroup-v2.rst; systemd's
//! CGROUP_DELEGATION.md.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::job::Limits;

/// Where runs' cgroups are made.
#[derive(Clone, Debug)]
pub struct Cgroups {
    folder: PathBuf,
}

/// One run's cgroup. Dropping it removes it, if nothing is left in it.
#[derive(Debug)]
pub struct RunGroup {
    folder: PathBuf,
}

impl Cgroups {
    /// Takes the agent's own cgroup apart into one for itself and room for runs.
    /// `root`: `/`, but in tests.
    ///
    /// # Errors
    /// Why runs get no cgroup, in words for the status.
    pub fn prepare(root: &Path) -> Result<Self, String> {
        let own = own_folder(root)?;
        let procs = own.join("cgroup.procs");
        let pid = std::process::id().to_string();
        let inside = fs::read_to_string(&procs).map_err(|error| cannot("read", &procs, &error))?;
        if inside.split_whitespace().any(|other| other != pid) {
            return Err(format!(
                "{} holds other processes too, so it is not the agent's own (Delegate=yes in the unit makes one)",
                own.display()
            ));
        }
        let leaf = own.join("agent");
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot("make", &leaf, &error));
            }
            _ => {}
        }
        write(&leaf.join("cgroup.procs"), &pid)?;
        // Each by itself: a kernel without one of them still has the others.
        let available = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_whitespace() {
            if ["cpu", "memory", "pids"].contains(&controller) {
                let change = format!("+{controller}");
                if let Err(why) = write(&own.join("cgroup.subtree_control"), &change) {
                    log::warn!("runs have no {controller} limits: {why}");
                }
            }
        }
        Ok(Self { folder: own })
    }

    /// A cgroup for one run, limited. What could not be limited is in the second part.
    ///
    /// # Errors
    /// It could not be made.
    pub fn make(&self, name: &str, limits: &Limits) -> Result<(RunGroup, Vec<String>), String> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).map_err(|error| cannot("make", &folder, &error))?;
        let group = RunGroup { folder };
        let mut missed = Vec::new();
        let mut limit = |file: &str, value: Option<String>| {
            if let Some(value) = value
                && let Err(why) = write(&group.folder.join(file), &value)
            {
                missed.push(why);
            }
        };
        limit("memory.max", limits.memory.map(|bytes| bytes.to_string()));
        // Swapping would let it through to the flash.
        let no_swap = limits.memory.map(|_| "0".to_owned());
        if group.folder.join("memory.swap.max").exists() {
            limit("memory.swap.max", no_swap);
        }
        let cpu = limits.cpu.map(|percent| format!("{}000 100000", percent));
        limit("cpu.max", cpu);
        limit("pids.max", limits.tasks.map(|tasks| tasks.to_string()));
        Ok((group, missed))
    }
}

impl RunGroup {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends every process in it (Linux 5.14); `false`: that could not be done.
    pub fn kill(&self) -> bool {
        fs::write(self.folder.join("cgroup.kill"), "1").is_ok()
    }

    /// Whether a process is in it, zombies not counted.
    pub fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.folder.join("cgroup.events"));
        events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// The ids of its processes.
    pub fn processes(&self) -> Vec<i32> {
        let procs = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// CPU time of everything that ran in it.
    pub fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(self.folder.join("cpu.stat")).ok()?;
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))?;
        usage.trim().parse().ok().map(Duration::from_micros)
    }

    /// The most memory that all of it had at one time, in bytes (Linux 5.19).
    pub fn peak_memory(&self) -> Option<u64> {
        let peak = fs::read_to_string(self.folder.join("memory.peak")).ok()?;
        peak.trim().parse().ok()
    }
}

impl Drop for RunGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            log::debug!("{} stays behind: {error}", self.folder.display());
        }
    }
}

/// The folder of the agent's cgroup in the unified hierarchy.
fn own_folder(root: &Path) -> Result<PathBuf, String> {
    let mounts = root.join("proc/self/mountinfo");
    let mounts = fs::read_to_string(&mounts).map_err(|error| cannot("read", &mounts, &error))?;
    // proc_pid_mountinfo(5): … mount point (5th) … - type source options
    let mount = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let cgroup2 = kind.split(' ').next() == Some("cgroup2");
        fields.split(' ').nth(4).filter(|_| cgroup2)
    });
    let mount = mount.ok_or("this system has no cgroup 2")?;
    let own = root.join("proc/self/cgroup");
    let own = fs::read_to_string(&own).map_err(|error| cannot("read", &own, &error))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or("the agent is in no cgroup of version 2")?;
    Ok(root.join(mount.trim_start_matches('/')).join(path))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| cannot("write", file, &error))
}

fn cannot(what: &str, file: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", file.display())
}
