//! Where processes are found: by a look through `/proc`, in a file that holds a
//! number, in a systemd unit's control group.
//!
//! ```text
//! /proc/PID/comm                      mosquitto
//! /proc/PID/exe                    -> /usr/sbin/mosquitto (deleted)
//! /proc/loadavg                       0.20 0.18 0.12 1/80 11206     last: the newest number
//! /sys/fs/cgroup/…/NAME/cgroup.procs  a number a line
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Dir, Mode, OFlags, readlinkat};

use super::super::Missing;
use super::super::file::KernelFile;
use super::By;
use super::one::{gone, read};
use crate::frame::Stamp;

/// Processes that one look sees: what a gateway never has.
const MAX_SEEN: usize = 10_000;
/// Processes that one look finds for all rules.
const MAX_FOUND: usize = 1024;
/// Folders of control groups that are looked into for a unit, and for its processes.
const MAX_FOLDERS: usize = 256;
/// How deep.
const MAX_DEPTH: usize = 5;
/// Bytes of a list of numbers.
const MAX_LIST: u64 = 64 * 1024;

/// What a look through `/proc` found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Which rule, and the process' number.
    pub(super) found: Vec<(usize, u32)>,
    /// Some did not show what they run.
    pub(super) denied: bool,
}

/// How many processes were ever started, as far as that can be told.
#[derive(Debug)]
pub(super) struct Births(KernelFile);

impl Births {
    pub(super) fn new(root: &Path) -> Self {
        Self(KernelFile::new(root.join("proc/loadavg")))
    }

    /// The newest process' number.
    pub(super) fn last(&mut self) -> Option<u64> {
        let text = self.0.head(256).ok()?;
        text.split_ascii_whitespace().nth(4)?.parse().ok()
    }
}

/// Looks through `/proc` for every rule that needs it.
pub(super) fn scan(proc: &Path, rules: &[&By]) -> Result<Scan, Missing> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open =
        || rustix::fs::open(proc, flags, Mode::empty()).map_err(|error| Missing::of(&error.into()));
    let folder = open()?;
    let entries = Dir::read_from(&folder).map_err(|error| Missing::of(&error.into()))?;
    let names = rules.iter().any(|rule| matches!(rule, By::Name(_)));
    let files = rules.iter().any(|rule| matches!(rule, By::Executable(_)));
    let mut scan = Scan::default();
    let pids = entries.filter_map(|entry| number(entry.ok()?.file_name().to_bytes()));
    for pid in pids.take(MAX_SEEN) {
        // Each may end while it is looked at.
        let mut buffer = [0; 64];
        let name = match names {
            true => read(&folder, &format!("{pid}/comm"), &mut buffer).ok(),
            false => None,
        };
        let name = name.map(|name| name.strip_suffix(b"\n").unwrap_or(name));
        let file = match files {
            true => executable(&folder, pid, &mut scan.denied),
            false => None,
        };
        for (at, rule) in rules.iter().enumerate() {
            let is = match rule {
                By::Name(wanted) => name == Some(wanted.as_bytes()),
                By::Executable(path) => file.as_ref() == Some(path),
                By::PidFile(_) | By::Unit(_) => false,
            };
            if is && scan.found.len() < MAX_FOUND {
                scan.found.push((at, pid));
            }
        }
    }
    Ok(scan)
}

/// The file that a process runs; none for the kernel's own.
fn executable(proc: &OwnedFd, pid: u32, denied: &mut bool) -> Option<PathBuf> {
    match readlinkat(proc, format!("{pid}/exe"), Vec::new()) {
        Ok(path) => {
            let path = path.as_bytes();
            // It was replaced, as by an update, and still runs.
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            Some(PathBuf::from(OsStr::from_bytes(path)))
        }
        Err(error) => {
            *denied |= gone(&error.into()) == Missing::Denied;
            None
        }
    }
}

/// A path of the host below another root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A file as it was written: its inode, and the wall time of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    unix_ns: i128,
}

/// A number that was used again sooner is not noticed …
const REUSED_NS: i128 = 90_000_000_000;
/// … which leaves room for how late in a boot [`EARLY`] files come.
const EARLY_NS: i128 = 60_000_000_000;
/// Made once in a boot, early, and never touched again.
const EARLY: [&str; 2] = ["run/systemd/inaccessible/reg", "dev/null"];

impl Mark {
    fn of(file: &std::fs::Metadata) -> Self {
        Self {
            inode: file.ino(),
            unix_ns: i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec()),
        }
    }

    /// Whether it was written well before a moment since boot. A file's time is
    /// the wall clock's, which many gateways set only after the start; so this
    /// is believed only where something shows that it was right all along.
    pub(super) fn is_before(self, boot_ns: u64, root: &Path, now: Stamp) -> bool {
        let booted = i128::from(now.unix_ns) - i128::from(now.boot_ns);
        let since_boot = |mark: Mark| mark.unix_ns - booted;
        let kept = |early: &&str| {
            let file = std::fs::symlink_metadata(root.join(early));
            // Whole seconds may be cut off.
            file.is_ok_and(|file| (-2_000_000_000..EARLY_NS).contains(&since_boot(Mark::of(&file))))
        };
        since_boot(self) + REUSED_NS < i128::from(boot_ns) && EARLY.iter().any(kept)
    }
}

/// The number in a file, and which file; `None`: it is not there, so nothing runs.
pub(super) fn pid_file(path: &Path) -> Result<Option<(u32, Mark)>, Missing> {
    let (text, file) = match list_of(path, 64) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Missing::of(&error)),
    };
    let mut words = text.split(u8::is_ascii_whitespace);
    let word = words.find(|word| !word.is_empty()).unwrap_or_default();
    let pid = number(word).ok_or(Missing::Garbage)?;
    Ok(Some((pid, Mark::of(&file))))
}

/// The numbers of a unit's processes; none: it does not run. `folder` keeps
/// where it was found.
pub(super) fn unit(
    root: &Path,
    unit: &str,
    folder: &mut Option<PathBuf>,
) -> Result<Vec<u32>, Missing> {
    if folder.as_ref().is_none_or(|folder| !folder.is_dir()) {
        *folder = unit_folder(root, unit)?;
    }
    let Some(folder) = folder else {
        return Ok(Vec::new());
    };
    let mut pids = Vec::new();
    let mut todo = vec![(folder.clone(), 0)];
    let mut looked = 0;
    while let Some((folder, depth)) = todo.pop() {
        looked += 1;
        // A group that is removed meanwhile, or only has threads, has no processes.
        let text = list(&folder.join("cgroup.procs"), MAX_LIST).unwrap_or_default();
        // One of another namespace is 0.
        pids.extend(text.split(|byte| *byte == b'\n').filter_map(number));
        if looked < MAX_FOLDERS && depth < MAX_DEPTH {
            let inner = folders(&folder, |_| true);
            todo.extend(inner.into_iter().map(|inner| (inner, depth + 1)));
        }
    }
    Ok(pids)
}

/// Where a unit's control group is: in its slice, which may be any.
fn unit_folder(root: &Path, unit: &str) -> Result<Option<PathBuf>, Missing> {
    let tops = ["", "/unified", "/systemd"];
    let tops = tops.map(|top| root.join(format!("sys/fs/cgroup{top}")));
    let slices = |folder: &Path| folders(folder, |name| name.ends_with(b".slice"));
    let mut todo: Vec<(PathBuf, usize)> = Vec::new();
    for top in &tops {
        // Its units are beside its slices only at the top of another manager's.
        todo.extend(slices(top).into_iter().map(|slice| (slice, 1)));
    }
    if todo.is_empty() {
        return Err(Missing::Unsupported);
    }
    let mut looked = 0;
    while let Some((folder, depth)) = todo.pop() {
        looked += 1;
        let wanted = folder.join(unit);
        if wanted.is_dir() {
            return Ok(Some(wanted));
        }
        if looked < MAX_FOLDERS && depth < MAX_DEPTH {
            let inner = slices(&folder);
            todo.extend(inner.into_iter().map(|inner| (inner, depth + 1)));
        }
    }
    Ok(None)
}

/// Folders in a folder, at most [`MAX_FOLDERS`].
fn folders(folder: &Path, is: impl Fn(&[u8]) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let entries = entries.flatten().filter(|entry| {
        is(entry.file_name().as_bytes()) && entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    entries
        .take(MAX_FOLDERS)
        .map(|entry| entry.path())
        .collect()
}

/// A small file's bytes; a pipe or a terminal in its place does not hold anybody up.
fn list(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    list_of(path, limit).map(|(bytes, _)| bytes)
}

fn list_of(path: &Path, limit: u64) -> std::io::Result<(Vec<u8>, std::fs::Metadata)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

/// A process' number.
fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|pid| *pid > 0 && digits)
}
