//! Mounted file systems: which, from `/proc/self/mountinfo` (proc(5)); how
//! full, from `statvfs` on a helper thread.
//!
//! ```text
//! 36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/vda rw,errors=continue
//!       device     mount point              - type source   superblock options
//! ```
//!
//! Only types that keep files for somebody are reported (see `KEEPS`):
//! neither the kernel's own, nor RAM, nor images that are full by nature. A
//! device is reported once, at its first mount point. Read-only is what the
//! superblock says: under a unit's `ProtectSystem=` every mount looks
//! read-only. A mount that hangs is a timeout, alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::StatVfs;

use super::cpu::SHARE_GRAIN;
use super::file::{KernelFile, unescape};
use super::helper::{Helpers, Question};
use super::readings::{found, text};
use super::table::{FILESYSTEM_INODES, FILESYSTEM_LIMIT, FILESYSTEM_USAGE, FILESYSTEM_UTILIZATION};
use super::{Attribute, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// Types that are reported; `overlay` only as the root.
const KEEPS: [&str; 20] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "vfat", "exfat", "ntfs3",
    "fuseblk", "ubifs", "jffs2", "zfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs",
];
/// No gateway has more; the rest is left out with a warning.
const MAX_MOUNTS: usize = 64;
/// What one file system has: used, free, reserved; utilization; limit; inodes used and free.
const GAUGES: usize = 7;

/// Reads `/proc/self/mountinfo` and asks every mount.
pub struct Filesystem {
    file: KernelFile,
    table: String,
    mounts: Vec<Mount>,
    paths: Arc<[PathBuf]>,
    helpers: Helpers<PathBuf, StatVfs>,
    root: PathBuf,
    changes: Changes,
}

/// Whether the mount table may have changed since it was last asked. Making
/// its text costs the kernel more than all other gauges together.
enum Changes {
    /// A descriptor that polls as exceptional after each change (proc(5)).
    Polled(File),
    /// No such descriptor (another root, or it could not be opened): always maybe.
    Unknown,
}

impl Changes {
    fn of(root: &Path) -> Self {
        let polled = (root == Path::new("/"))
            .then(|| File::open("/proc/self/mountinfo").ok())
            .flatten();
        polled.map_or(Self::Unknown, Self::Polled)
    }

    fn maybe(&self) -> bool {
        let Self::Polled(file) = self else {
            return true;
        };
        let mut asked = [PollFd::new(file, PollFlags::PRI)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // An error says nothing about the mounts, so look.
        poll(&mut asked, Some(&now)).map_or(true, |ready| ready > 0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    point: String,
    kind: String,
    source: String,
    mode: &'static str,
    ids: Option<[Option<SeriesId>; GAUGES]>,
}

impl Filesystem {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self::with(
            root,
            Arc::new(|path| {
                rustix::fs::statvfs(path.as_path()).map_err(|error| Missing::of(&error.into()))
            }),
        )
    }

    fn with(root: &Path, question: Question<PathBuf, StatVfs>) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/self/mountinfo")),
            table: String::new(),
            mounts: Vec::new(),
            paths: Arc::new([]),
            helpers: Helpers::new(question),
            root: root.to_owned(),
            changes: Changes::of(root),
        }
    }

    /// Takes over a mount table that changed; says of each mount that went that it is gone.
    fn update(&mut self, out: &mut Readings) -> Result<(), Missing> {
        if !self.changes.maybe() && !self.table.is_empty() {
            return Ok(());
        }
        let table = self.file.read()?;
        if table == self.table {
            return Ok(());
        }
        table.clone_into(&mut self.table);
        let mut mounts = parse(table);
        let beyond = mounts.len().saturating_sub(MAX_MOUNTS);
        if beyond > 0 {
            log::warn!(
                "{} file systems are mounted; only the first {MAX_MOUNTS} are reported",
                mounts.len()
            );
            mounts.truncate(MAX_MOUNTS);
        }
        for mount in &mut mounts {
            mount.ids = Some(mount.series(out));
        }
        let refused = mounts.iter().flat_map(|mount| mount.ids).flatten();
        let refused = refused.filter(Option::is_none).count();
        out.leave_out(Family::Filesystem, beyond * GAUGES + refused);
        for old in &self.mounts {
            if !mounts.iter().any(|mount| mount.ids == old.ids) {
                for id in old.ids.into_iter().flatten() {
                    out.put(id, Err(Missing::Gone));
                }
            }
        }
        self.paths = mounts
            .iter()
            .map(|mount| self.root.join(mount.point.trim_start_matches('/')))
            .collect();
        self.mounts = mounts;
        Ok(())
    }
}

impl Source for Filesystem {
    fn family(&self) -> Family {
        Family::Filesystem
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        self.update(out)?;
        let mounts = &self.mounts;
        self.helpers.ask(&self.paths, |at, answer| {
            let Some(ids) = mounts.get(at).and_then(|mount| mount.ids) else {
                return;
            };
            let values = match answer {
                Ok(figures) => values(&figures),
                Err(missing) => [Some(Err(missing)); GAUGES],
            };
            for (id, value) in ids.into_iter().zip(values) {
                if let Some(value) = value {
                    out.put(id, value);
                }
            }
        });
        Ok(())
    }
}

impl Mount {
    fn series(&self, out: &Readings) -> [Option<SeriesId>; GAUGES] {
        let with = |state: Option<&'static str>| {
            let mut attributes: Vec<(&'static str, Attribute)> = vec![
                ("system.device", found(&self.source)),
                ("system.filesystem.mode", text(self.mode)),
                ("system.filesystem.mountpoint", found(&self.point)),
            ];
            if let Some(state) = state {
                attributes.push(("system.filesystem.state", text(state)));
            }
            attributes.push(("system.filesystem.type", found(&self.kind)));
            attributes
        };
        [
            out.series(&FILESYSTEM_USAGE, &with(Some("used"))),
            out.series(&FILESYSTEM_USAGE, &with(Some("free"))),
            out.series(&FILESYSTEM_USAGE, &with(Some("reserved"))),
            out.series(&FILESYSTEM_UTILIZATION, &with(None)),
            out.series(&FILESYSTEM_LIMIT, &with(None)),
            out.series(&FILESYSTEM_INODES, &with(Some("used"))),
            out.series(&FILESYSTEM_INODES, &with(Some("free"))),
        ]
    }
}

/// `None`: the file system does not have such a thing.
fn values(figures: &StatVfs) -> [Option<Result<Value, Missing>>; GAUGES] {
    let bytes = |blocks: Option<u64>| {
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(figures.f_frsize));
        Some(bytes.ok_or(Missing::Garbage).and_then(Value::whole))
    };
    if figures.f_blocks == 0 {
        return [Some(Err(Missing::Unsupported)); GAUGES];
    }
    let used = figures.f_blocks.checked_sub(figures.f_bfree);
    let reserved = figures.f_bfree.checked_sub(figures.f_bavail);
    let share = match used {
        Some(used) if used.saturating_add(figures.f_bavail) > 0 => Value::grained(
            used as f64 / (used as f64 + figures.f_bavail as f64),
            SHARE_GRAIN,
        ),
        _ => Err(Missing::Garbage),
    };
    let has_inodes = figures.f_files > 0;
    let inodes = |count: Option<u64>| {
        has_inodes.then(|| count.ok_or(Missing::Garbage).and_then(Value::whole))
    };
    [
        bytes(used),
        bytes(Some(figures.f_bavail)),
        bytes(reserved),
        Some(share),
        bytes(Some(figures.f_blocks)),
        inodes(figures.f_files.checked_sub(figures.f_ffree)),
        inodes(Some(figures.f_ffree)),
    ]
}

/// The mounts to report; a line that cannot be read is passed over.
fn parse(mountinfo: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(2);
        let mut right = right.split(' ');
        let (Some(device), Some(_), Some(point)) = (left.next(), left.next(), left.next()) else {
            continue;
        };
        let (Some(kind), Some(source), Some(options)) = (right.next(), right.next(), right.next())
        else {
            continue;
        };
        // What is mounted over another hides it.
        let point = unescape(point);
        mounts.retain(|mount| mount.point != point);
        let wanted = KEEPS.contains(&kind) || (kind == "overlay" && point == "/");
        if !wanted || mounts.iter().any(|mount| mount.device == device) {
            continue;
        }
        let read_only = options.split(',').any(|option| option == "ro");
        mounts.push(Mount {
            device: device.to_owned(),
            point,
            kind: kind.to_owned(),
            source: unescape(source),
            mode: if read_only { "ro" } else { "rw" },
            ids: None,
        });
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    const TABLE: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw,discard\n\
        28 27 254:0 /x /bind rw - ext4 /dev/vda rw\n\
        29 27 254:1 / /mnt/a\\040b rw - vfat /dev/vdb ro,x\n\
        30 27 0:9 / /tmp rw - tmpfs tmpfs rw\n\
        junk\n31 27 - ext4\n";

    #[test]
    fn only_what_keeps_files_is_reported_and_once() {
        let mounts = parse(TABLE);
        let seen: Vec<_> = mounts.iter().map(|m| (m.point.as_str(), m.mode)).collect();
        assert_eq!(seen, [("/", "rw"), ("/mnt/a b", "ro")]);
    }

    #[test]
    fn a_mount_that_fails_is_typed_and_one_that_went_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let table = dir.path().join("proc/self/mountinfo");
        std::fs::write(&table, TABLE).unwrap();
        let question: Question<PathBuf, StatVfs> = Arc::new(|path| {
            if path.ends_with("a b") {
                Err(Missing::Gone)
            } else {
                rustix::fs::statvfs("/").map_err(|_| Missing::Gone)
            }
        });
        let mut source = Filesystem::with(dir.path(), question);
        let mut out = Readings::new(Registry::default());
        source.read(Stamp::default(), &mut out).unwrap();
        let good = "system.filesystem.limit system.device=/dev/vda system.filesystem.mode=rw system.filesystem.mountpoint=/ system.filesystem.type=ext4";
        assert!(matches!(out.value(good), Some(Ok(Value::Int(bytes))) if bytes > 0));
        let bad = "system.filesystem.limit system.device=/dev/vdb system.filesystem.mode=ro system.filesystem.mountpoint=/mnt/a b system.filesystem.type=vfat";
        assert_eq!(out.value(bad), Some(Err(Missing::Gone)));

        std::fs::write(&table, "").unwrap();
        out.clear();
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.value(good), Some(Err(Missing::Gone)));
    }

    #[test]
    fn impossible_figures_are_garbage() {
        let mut figures = rustix::fs::statvfs("/").unwrap();
        figures.f_blocks = 1;
        figures.f_bfree = u64::MAX;
        figures.f_bavail = u64::MAX;
        figures.f_files = 0;
        let [used, _, _, share, _, inodes, _] = values(&figures);
        assert_eq!(
            (used, share),
            (Some(Err(Missing::Garbage)), Some(Err(Missing::Garbage)))
        );
        assert_eq!(inodes, None);
    }
}
