//! Load averages, uptime, number of processes.
//!
//! ```text
//! /proc/loadavg   0.20 0.18 0.12 1/80 11206     1, 5, 15 minutes; threads; last pid
//! ```
//!
//! OpenTelemetry 1.44 has no name for the load averages. `/proc/loadavg`
//! counts threads. Processes are the numbered folders of `/proc`, but listing
//! them is the dearest thing a tick could do, so they are derived from its link
//! count: two, one for each folder, and the kernel adds the number of processes
//! (`proc_root_getattr` in fs/proc/root.c). The other folders are counted now
//! and then. Uptime comes from the tick's own `CLOCK_BOOTTIME`.

use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};

use super::file::KernelFile;
use super::table::{LOAD_1M, LOAD_5M, LOAD_15M, PROCESS_COUNT, UPTIME};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// Finer than the two decimals that the kernel prints.
const GRAIN: f64 = 256.0;

/// Reads `/proc/loadavg` and counts `/proc`.
#[derive(Debug)]
pub struct Load {
    file: KernelFile,
    processes: Processes,
    series: Option<[Option<SeriesId>; 5]>,
}

impl Load {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/loadavg")),
            processes: Processes {
                folder: root.join("proc"),
                others: 0,
                reads: 0,
            },
            series: None,
        }
    }
}

impl Source for Load {
    fn family(&self) -> Family {
        Family::Load
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [one, five, fifteen, uptime, processes] = *self.series.get_or_insert_with(|| {
            [&LOAD_1M, &LOAD_5M, &LOAD_15M, &UPTIME, &PROCESS_COUNT]
                .map(|gauge| out.series(gauge, &[]))
        });
        let averages = self.file.head(256).map(parse);
        for (at, id) in [one, five, fifteen].into_iter().enumerate() {
            let value = match &averages {
                Ok(found) => found.get(at).copied().unwrap_or(Err(Missing::Garbage)),
                Err(missing) => Err(*missing),
            };
            out.put(id, value);
        }
        out.put(uptime, Value::grained(now.boot_ns as f64 / 1e9, GRAIN));
        out.put(processes, self.processes.count());
        Ok(())
    }
}

fn parse(loadavg: &str) -> [Result<Value, Missing>; 3] {
    let mut fields = loadavg.split_ascii_whitespace();
    [(); 3].map(|()| {
        let load: f64 = fields
            .next()
            .and_then(|field| field.parse().ok())
            .ok_or(Missing::Garbage)?;
        if load < 0.0 {
            return Err(Missing::Garbage);
        }
        Value::grained(load, GRAIN)
    })
}

/// Drivers make folders in `/proc` when they are loaded, which is seldom.
const RECOUNT: u32 = 64;

/// Counts processes by the link count of `/proc`.
#[derive(Debug)]
struct Processes {
    folder: PathBuf,
    /// Links that are not processes.
    others: u64,
    reads: u32,
}

impl Processes {
    fn count(&mut self) -> Result<Value, Missing> {
        if self.reads.is_multiple_of(RECOUNT) {
            self.others = 2 + entries(&self.folder)?.other_folders;
        }
        self.reads = self.reads.wrapping_add(1);
        let links = rustix::fs::stat(&self.folder).map_err(|error| Missing::of(&error.into()))?;
        // As wide as the target makes it.
        #[allow(clippy::useless_conversion)]
        let links = u64::from(links.st_nlink);
        match links.checked_sub(self.others) {
            Some(processes) if processes > 0 => Value::whole(processes),
            // Not every file system counts folders as links; then they are listed.
            _ => match entries(&self.folder)?.numbered {
                // With hidepid and without a process of our own in sight there is nothing to count.
                0 => Err(Missing::Denied),
                processes => Value::whole(processes),
            },
        }
    }
}

/// What a folder holds.
#[derive(Debug, Default)]
struct Entries {
    /// Names that are numbers.
    numbered: u64,
    /// Folders with any other name.
    other_folders: u64,
}

/// Counts without allocating for each name.
fn entries(folder: &Path) -> Result<Entries, Missing> {
    let listed = || -> rustix::io::Result<Entries> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder: OwnedFd = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        let mut found = Entries::default();
        for entry in Dir::new(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.iter().all(u8::is_ascii_digit) {
                found.numbered += 1;
            } else if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                found.other_folders += 1;
            }
        }
        Ok(found)
    };
    listed().map_err(|error| Missing::of(&error.into()))
}

/// Entries of a folder of numbers.
pub(super) fn count_numbers(folder: &Path) -> Result<u64, Missing> {
    Ok(entries(folder)?.numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    #[test]
    fn averages_uptime_and_processes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc/1", "proc/77", "proc/sys", "proc/1a"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(
            dir.path().join("proc/loadavg"),
            "0.20 1.18 12.12 1/80 11206\n",
        )
        .unwrap();
        let mut out = Readings::new(Registry::default());
        let now = Stamp {
            unix_ns: 0,
            boot_ns: 2_500_000_000,
        };
        Load::new(dir.path()).read(now, &mut out).unwrap();
        let near = |name, wanted: f64| match out.value(name) {
            Some(Ok(Value::Float(got))) => (got - wanted).abs() < 0.005,
            _ => false,
        };
        assert!(
            near("sonde.load.1m", 0.2)
                && near("sonde.load.5m", 1.18)
                && near("sonde.load.15m", 12.12)
        );
        assert_eq!(out.value("system.uptime"), Some(Ok(Value::Float(2.5))));
        assert_eq!(out.value("system.process.count"), Some(Ok(Value::Int(2))));
    }

    #[test]
    fn bad_fields_are_garbage_and_the_rest_is_still_read() {
        assert_eq!(
            parse("x 0.5"),
            [
                Err(Missing::Garbage),
                Ok(Value::Float(0.5)),
                Err(Missing::Garbage)
            ]
        );
        assert_eq!(parse("NaN inf -1"), [Err(Missing::Garbage); 3]);
    }
}
