//! One process, by its open folder of `/proc` (proc_pid_stat(5), proc_pid_io(5)).
//!
//! ```text
//! stat    pid (comm) state … utime(14) stime(15) … num_threads(20) … starttime(22) vsize(23) rss(24) …
//! io      read_bytes: 4096   write_bytes: 0   …
//! fd      one entry for each open file; since Linux 6.2 the folder's size says how many
//! ```
//!
//! `comm` is whatever the program likes: blanks, brackets, line breaks, bytes
//! that are no text. So fields count from the last `)`, and names stay bytes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};

use super::super::Missing;

/// More than `stat` or `io` ever have.
const MAX_BYTES: usize = 2048;

/// Open files of one process that are counted one by one.
const MAX_FILES: u64 = 65_536;

/// A process that lives, or did when it was read last.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    folder: OwnedFd,
    /// It was found in this tick.
    pub(super) new: bool,
    /// As last read.
    pub(super) stat: Stat,
    /// As last read.
    pub(super) used: Used,
}

/// What it used since its start: clock ticks and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) read: u64,
    pub(super) written: u64,
}

/// From its `stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: Vec<u8>,
    /// Neither a zombie nor dead. A zombie that still has threads only lost its first one.
    pub(super) lives: bool,
    pub(super) threads: u64,
    /// In clock ticks since boot.
    pub(super) start: u64,
    pub(super) size: u64,
    /// In pages.
    pub(super) resident: u64,
    user: u64,
    system: u64,
}

impl Used {
    pub(super) fn add(&mut self, other: &Self) {
        self.user = self.user.saturating_add(other.user);
        self.system = self.system.saturating_add(other.system);
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
    }
}

impl Process {
    /// One that lives.
    pub(super) fn open(proc: &Path, pid: u32) -> Result<Self, Missing> {
        let folder = rustix::fs::open(
            proc.join(pid.to_string()),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let mut process = Self {
            pid,
            folder: folder.map_err(|error| gone(&error.into()))?,
            new: true,
            stat: Stat::default(),
            used: Used::default(),
        };
        process.look()?;
        Ok(process)
    }

    /// Reads its `stat` again; an error: it has ended, or another has its number.
    pub(super) fn refresh(&mut self) -> Result<(), Missing> {
        let start = self.stat.start;
        self.look()?;
        match self.stat.start == start {
            true => Ok(()),
            false => Err(Missing::Gone),
        }
    }

    fn look(&mut self) -> Result<(), Missing> {
        let mut buffer = [0; MAX_BYTES];
        let text = read(&self.folder, "stat", &mut buffer).map_err(|error| gone(&error))?;
        let stat = Stat::parse(text).ok_or(Missing::Garbage)?;
        // Another's time is none of its own; a zombie's is its last word.
        if self.stat.start == 0 || stat.start == self.stat.start {
            (self.used.user, self.used.system) = (stat.user, stat.system);
        }
        self.stat = stat;
        match self.stat.lives {
            true => Ok(()),
            false => Err(Missing::Gone),
        }
    }

    /// Reads what it read and wrote; [`Missing::Gone`]: it has just ended.
    pub(super) fn read_io(&mut self) -> Result<(), Missing> {
        let mut buffer = [0; MAX_BYTES];
        // Without CONFIG_TASK_IO_ACCOUNTING there is none.
        let text = read(&self.folder, "io", &mut buffer).map_err(|error| Missing::of(&error))?;
        let text = std::str::from_utf8(text).map_err(|_| Missing::Garbage)?;
        let number = |name: &str| {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.and_then(|number| number.trim().parse::<u64>().ok())
        };
        // Nothing at all is what a process gives that ends in this moment.
        if text.is_empty() {
            return Err(Missing::Gone);
        }
        let read = number("read_bytes").ok_or(Missing::Garbage)?;
        let written = number("write_bytes").ok_or(Missing::Garbage)?;
        (self.used.read, self.used.written) = (read, written);
        Ok(())
    }

    /// Files that it has open. `sized`: the kernel's own `/proc`, where the
    /// folder's size may say so, which needs no permission.
    pub(super) fn files(&self, sized: bool) -> Result<u64, Missing> {
        if sized
            && let Ok(folder) = statat(&self.folder, "fd", AtFlags::empty())
            && let Ok(open) = u64::try_from(folder.st_size)
            && open > 0
        {
            return Ok(open);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.folder, "fd", flags, Mode::empty())
            .map_err(|error| gone(&error.into()))?;
        let entries = Dir::read_from(folder).map_err(|error| gone(&error.into()))?;
        let mut open = 0;
        for entry in entries {
            let entry = entry.map_err(|error| gone(&error.into()))?;
            if entry.file_name().to_bytes().first() != Some(&b'.') {
                open += 1;
            }
            if open >= MAX_FILES {
                break;
            }
        }
        Ok(open)
    }
}

impl Stat {
    pub(super) fn parse(stat: &[u8]) -> Option<Self> {
        let begin = stat.iter().position(|byte| *byte == b'(')?;
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let name = stat.get(begin + 1..end)?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
        // Behind the state comes field 4.
        let (user, system) = (number(10)?, number(0)?);
        let threads = number(4)?;
        let (start, size, resident) = (number(1)?, number(0)?, number(0)?);
        let dead = matches!(state, "X" | "x") || (state == "Z" && threads <= 1);
        Some(Self {
            name: name.to_vec(),
            lives: !dead,
            threads,
            start,
            size,
            resident,
            user,
            system,
        })
    }
}

/// The beginning of a small file.
pub(super) fn read<'a>(folder: &OwnedFd, name: &str, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(openat(folder, name, flags, Mode::empty())?);
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..length).unwrap_or_default())
}

/// What is not there of a process has ended with it.
pub(super) fn gone(error: &io::Error) -> Missing {
    match Missing::of(error) {
        Missing::Unsupported => Missing::Gone,
        missing => missing,
    }
}
