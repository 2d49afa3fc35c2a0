//! Block devices from `/proc/diskstats`
//! (kernel documentation, admin-guide/iostats):
//!
//! ```text
//! major minor name reads merged sectors ms writes merged sectors ms now ms_busy …
//! ```
//!
//! `now` is the number under way. Whole disks only: what has a folder in `/sys/block`. A partition's bytes
//! are its disk's bytes, and loop, RAM, zram and device-mapper devices stand
//! on others. Sectors are 512 bytes whatever the disk's own are.

use std::path::{Path, PathBuf};

use super::file::KernelFile;
use super::readings::{found, text};
use super::table::{DISK_IN_FLIGHT, DISK_IO, DISK_IO_TIME, DISK_OPERATION_TIME, DISK_OPERATIONS};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// No gateway has more; the rest is left out with a warning.
const MAX_DISKS: usize = 64;
/// What one disk has.
const GAUGES: usize = 8;
const SECTOR: u64 = 512;
/// Finer than a millisecond.
const GRAIN: f64 = 1024.0;

/// Reads `/proc/diskstats`.
#[derive(Debug)]
pub struct Disk {
    file: KernelFile,
    block: PathBuf,
    disks: Vec<Known>,
    full: bool,
}

#[derive(Debug)]
struct Known {
    name: String,
    /// `None`: seen and not reported (a partition, a loop device).
    ids: Option<[Option<SeriesId>; GAUGES]>,
    /// A disk beyond the limit.
    beyond: bool,
    seen: bool,
}

impl Disk {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/diskstats")),
            block: root.join("sys/block"),
            disks: Vec::new(),
            full: false,
        }
    }
}

impl Source for Disk {
    fn family(&self) -> Family {
        Family::Disk
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let stats = self.file.read()?;
        for disk in &mut self.disks {
            disk.seen = false;
        }
        for line in stats.lines() {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let Some(name) = fields.next() else {
                continue;
            };
            let at = match self.disks.iter().position(|disk| disk.name == name) {
                Some(at) => at,
                None if self.disks.len() < MAX_DISKS * 8 => {
                    let reported = self.disks.iter().filter(|disk| disk.ids.is_some()).count();
                    let real = real(name) && self.block.join(name).exists();
                    if real && reported >= MAX_DISKS && !self.full {
                        self.full = true;
                        log::warn!(
                            "more than {MAX_DISKS} disks: {name} and later ones are not reported"
                        );
                    }
                    let ids = (real && reported < MAX_DISKS).then(|| series(name, out));
                    self.disks.push(Known {
                        name: name.to_owned(),
                        ids,
                        beyond: real && reported >= MAX_DISKS,
                        seen: true,
                    });
                    self.disks.len() - 1
                }
                None => continue,
            };
            let Some(disk) = self.disks.get_mut(at) else {
                continue;
            };
            disk.seen = true;
            if let Some(ids) = disk.ids {
                let values = parse(fields);
                for (id, value) in ids.into_iter().zip(values) {
                    out.put(id, value);
                }
            }
        }
        self.disks.retain(|disk| {
            if !disk.seen {
                for id in disk.ids.into_iter().flatten() {
                    out.put(id, Err(Missing::Gone));
                }
            }
            disk.seen
        });
        let beyond = self.disks.iter().filter(|disk| disk.beyond).count();
        let known = self.disks.iter().flat_map(|disk| disk.ids).flatten();
        let refused = known.filter(Option::is_none).count();
        out.leave_out(Family::Disk, beyond * GAUGES + refused);
        Ok(())
    }
}

fn real(name: &str) -> bool {
    !["loop", "ram", "zram", "dm-", "sr", "fd", "nbd"]
        .iter()
        .any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        })
}

fn series(name: &str, out: &Readings) -> [Option<SeriesId>; GAUGES] {
    let device = || ("system.device", found(name));
    let towards = |direction| [("disk.io.direction", text(direction)), device()];
    [
        out.series(&DISK_IO, &towards("read")),
        out.series(&DISK_IO, &towards("write")),
        out.series(&DISK_OPERATIONS, &towards("read")),
        out.series(&DISK_OPERATIONS, &towards("write")),
        out.series(&DISK_IO_TIME, &[device()]),
        out.series(&DISK_OPERATION_TIME, &towards("read")),
        out.series(&DISK_OPERATION_TIME, &towards("write")),
        out.series(&DISK_IN_FLIGHT, &[device()]),
    ]
}

/// In the order of [`series`], from the fields behind the name.
fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> [Result<Value, Missing>; GAUGES] {
    let mut raw = [None; 10];
    for (slot, field) in raw.iter_mut().zip(fields) {
        *slot = field.parse::<u64>().ok();
    }
    let [
        reads,
        _,
        read,
        read_ms,
        writes,
        _,
        written,
        written_ms,
        now,
        busy_ms,
    ] = raw.map(|field: Option<u64>| field.ok_or(Missing::Garbage));
    let bytes = |sectors: Result<u64, Missing>| {
        sectors
            .and_then(|sectors| sectors.checked_mul(SECTOR).ok_or(Missing::Garbage))
            .and_then(Value::whole)
    };
    let seconds = |ms: Result<u64, Missing>| Value::grained(ms? as f64 / 1000.0, GRAIN);
    [
        bytes(read),
        bytes(written),
        reads.and_then(Value::whole),
        writes.and_then(Value::whole),
        seconds(busy_ms),
        seconds(read_ms),
        seconds(written_ms),
        // Some drivers count below zero for a moment.
        now.and_then(Value::whole),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    #[test]
    fn whole_disks_are_read_and_a_vanished_one_is_gone_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc", "sys/block/mmcblk0", "sys/block/loop0"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let stats = dir.path().join("proc/diskstats");
        std::fs::write(&stats, " 179 0 mmcblk0 10 1 8 3 20 2 16 4 0 1500 7\n 179 1 mmcblk0p1 1 1 1 1 1 1 1 1 1 1 1\n 7 0 loop0 5 0 0 0 0 0 0 0 0 0 0\n").unwrap();
        let mut source = Disk::new(dir.path());
        let mut out = Readings::new(Registry::default());
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.as_slice().len(), GAUGES);
        let read = out.value("system.disk.io disk.io.direction=read system.device=mmcblk0");
        assert_eq!(read, Some(Ok(Value::Int(4096))));
        assert_eq!(
            out.value("system.disk.io_time system.device=mmcblk0"),
            Some(Ok(Value::Float(1.5)))
        );
        let device = "system.device=mmcblk0";
        let time = format!("system.disk.operation_time disk.io.direction=write {device}");
        assert_eq!(out.value(&time), Some(Ok(Value::Float(4.0 / 1024.0))));
        let under_way = format!("sonde.disk.in_flight {device}");
        assert_eq!(out.value(&under_way), Some(Ok(Value::Int(0))));

        std::fs::write(&stats, "").unwrap();
        out.clear();
        source.read(Stamp::default(), &mut out).unwrap();
        assert!(
            out.as_slice().len() == GAUGES
                && out
                    .listed()
                    .iter()
                    .all(|(_, value)| *value == Err(Missing::Gone))
        );
        out.clear();
        source.read(Stamp::default(), &mut out).unwrap();
        assert!(out.as_slice().is_empty());
    }

    #[test]
    fn a_cut_or_wild_line_is_garbage() {
        assert_eq!(parse("1 2".split(' ')).get(1), Some(&Err(Missing::Garbage)));
        let wild = parse("1 2 18446744073709551615 x -4".split(' '));
        assert_eq!(wild.first(), Some(&Err(Missing::Garbage)));
    }
}
