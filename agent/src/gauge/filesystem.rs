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
use super::table::{
    FILESYSTEM_INODES, FILESYSTEM_LIMIT, FILESYSTEM_READ_ONLY, FILESYSTEM_USAGE,
    FILESYSTEM_UTILIZATION,
};
use super::{Attribute, Family, Missing, Readings, SeriesId, Source, Value};
use crate::event;
use crate::frame::Stamp;

/// Types that are reported; `overlay` only as the root.
const KEEPS: [&str; 20] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "vfat", "exfat", "ntfs3",
    "fuseblk", "ubifs", "jffs2", "zfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs",
];
/// No gateway has more; the rest is left out with a warning.
const MAX_MOUNTS: usize = 64;
/// What one file system has: used, free, reserved; utilization; limit; inodes
/// used and free; whether it is read-only.
const GAUGES: usize = 8;

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
        let now: Vec<_> = mounts
            .iter()
            .filter_map(|mount| mount.ids)
            .flatten()
            .collect();
        for old in &self.mounts {
            for id in old.ids.into_iter().flatten().filter(|id| !now.contains(id)) {
                out.put(id, Err(Missing::Gone));
            }
            if mounts.iter().any(|mount| mount.is_read_only_now(old)) {
                let metadata = vec![
                    ("device", old.source.clone()),
                    ("mountpoint", old.point.clone()),
                    ("type", old.kind.clone()),
                ];
                out.notice(event::name::FILESYSTEM_READ_ONLY, metadata);
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
            let Some((mount, ids)) = mounts.get(at).and_then(|mount| Some((mount, mount.ids?)))
            else {
                return;
            };
            let values = match answer {
                Ok(figures) => values(&figures),
                Err(missing) => [Some(Err(missing)); GAUGES - 1],
            };
            // The mount table knows it, whether the device answers or not.
            let read_only = i64::from(mount.mode == "ro");
            let values = values.into_iter().chain([Some(Ok(Value::Int(read_only)))]);
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
    /// Whether this is the other one, which could be written then and cannot now.
    fn is_read_only_now(&self, before: &Mount) -> bool {
        (before.mode, self.mode) == ("rw", "ro")
            && (&self.source, &self.point, &self.kind)
                == (&before.source, &before.point, &before.kind)
    }

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
        let mut whatever_mode = with(None);
        whatever_mode.retain(|(key, _)| *key != "system.filesystem.mode");
        [
            out.series(&FILESYSTEM_USAGE, &with(Some("used"))),
            out.series(&FILESYSTEM_USAGE, &with(Some("free"))),
            out.series(&FILESYSTEM_USAGE, &with(Some("reserved"))),
            out.series(&FILESYSTEM_UTILIZATION, &with(None)),
            out.series(&FILESYSTEM_LIMIT, &with(None)),
            out.series(&FILESYSTEM_INODES, &with(Some("used"))),
            out.series(&FILESYSTEM_INODES, &with(Some("free"))),
            out.series(&FILESYSTEM_READ_ONLY, &whatever_mode),
        ]
    }
}

/// `None`: the file system does not have such a thing.
fn values(figures: &StatVfs) -> [Option<Result<Value, Missing>>; GAUGES - 1] {
    let bytes = |blocks: Option<u64>| {
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(figures.f_frsize));
        Some(bytes.ok_or(Missing::Garbage).and_then(Value::whole))
    };
    if figures.f_blocks == 0 {
        return [Some(Err(Missing::Unsupported)); GAUGES - 1];
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
    fn a_remount_to_read_only_is_a_gauge_and_told_once() {
        const MOUNT: &str = "25 1 254:0 / / rw,noatime - ext4 /dev/vda rw\n";
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let table = dir.path().join("proc/self/mountinfo");
        // Whether it is read-only is known although the device is dead.
        let mut source = Filesystem::with(dir.path(), Arc::new(|_| Err(Missing::Gone)));
        let mut out = Readings::new(Registry::default());
        let gauge = "sonde.filesystem.read_only system.device=/dev/vda system.filesystem.mountpoint=/ system.filesystem.type=ext4";
        let steps = [
            (MOUNT, 0, 0),
            (MOUNT, 0, 0),
            ("ro", 1, 1),
            ("ro", 1, 0),
            (MOUNT, 0, 0),
        ];
        for (content, value, notices) in steps {
            let remounted = MOUNT.replace("vda rw", "vda ro,errors=remount-ro");
            let content = if content == "ro" { &remounted } else { content };
            std::fs::write(&table, content).unwrap();
            out.clear();
            source.read(Stamp::default(), &mut out).unwrap();
            let read: Vec<_> = out
                .listed()
                .into_iter()
                .filter(|(name, _)| name == gauge)
                .collect();
            assert_eq!(read, [(gauge.to_owned(), Ok(Value::Int(value)))]);
            let told = out.take_notices();
            assert_eq!(told.len(), notices);
            if let [notice] = told.as_slice() {
                assert_eq!(notice.name, event::name::FILESYSTEM_READ_ONLY);
                assert_eq!(
                    notice.metadata.get(1),
                    Some(&("mountpoint", "/".to_owned()))
                );
            }
        }
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
