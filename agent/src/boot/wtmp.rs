//! Login records (utmp(5)): init systems write down there that the machine
//! was told to shut down.
//!
//! `/var/log/wtmp` outlives the boot, `/run/utmp` does not: its boot record is
//! this boot's, and the same record stands in the other. So no clock has to be
//! right to know which shutdown came just before this boot.

use std::path::Path;

use super::evidence::{shown, tail};

const WTMP: &str = "var/log/wtmp";
const UTMP: [&str; 2] = ["run/utmp", "var/run/utmp"];
/// The end of the file that is looked at: whole records in either layout.
const BYTES: u64 = 384 * 400;

const RUN_LEVEL: i16 = 1;
const BOOT_TIME: i16 = 2;
const LAST_TYPE: i16 = 9;

/// glibc's two layouts of `struct utmpx`: length, and where seconds and
/// microseconds are and how long.
const LAYOUTS: [Layout; 2] = [
    Layout {
        length: 384,
        time: 340..348,
    },
    Layout {
        length: 400,
        time: 344..360,
    },
];

struct Layout {
    length: usize,
    time: std::ops::Range<usize>,
}

struct Record<'a> {
    kind: i16,
    pid: i32,
    user: &'a [u8],
    time: &'a [u8],
}

/// The shutdown that the records have between the last boot and this one.
pub(super) fn shutdown(root: &Path) -> Option<String> {
    let path = root.join(WTMP);
    let bytes = tail(&path, BYTES).ok()?;
    let records = records(&bytes)?;
    let mut marks = records
        .iter()
        .filter(|record| record.is_boot() || record.is_shutdown())
        .rev();
    let mut last = marks.next()?;
    if last.is_boot() {
        // Only if it is known to be this boot's own does what came before it count.
        let utmp = utmp(root)?;
        let own = self::records(&utmp)?;
        let own = own.iter().rfind(|record| record.is_boot())?;
        if own.time != last.time {
            return None;
        }
        last = marks.next()?;
    }
    last.is_shutdown()
        .then(|| format!("{} has a shutdown just before", shown(root, &path)))
}

/// Whether init has noted that it goes to the run level of a halt or a reboot
/// (sysvinit does before it stops anything).
pub(super) fn run_level_ends(root: &Path) -> bool {
    let Some(bytes) = utmp(root) else {
        return false;
    };
    let records = records(&bytes).unwrap_or_default();
    let last = records.iter().rfind(|record| record.kind == RUN_LEVEL);
    last.is_some_and(|record| record.is_shutdown() || matches!(record.pid & 0xff, 0x30 | 0x36))
}

fn utmp(root: &Path) -> Option<Vec<u8>> {
    UTMP.iter()
        .find_map(|path| tail(&root.join(path), BYTES).ok())
}

impl Record<'_> {
    fn is_boot(&self) -> bool {
        self.kind == BOOT_TIME
    }

    fn is_shutdown(&self) -> bool {
        self.kind == RUN_LEVEL && self.user.starts_with(b"shutdown\0")
    }
}

/// The records of a file in the layout that fits better; `None`: neither does.
fn records(bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let fitting = LAYOUTS.iter().filter_map(|layout| {
        let whole = bytes.chunks_exact(layout.length);
        if !whole.remainder().is_empty() {
            return None;
        }
        let records: Option<Vec<_>> = whole.map(|bytes| record(bytes, layout)).collect();
        let mut records = records?;
        let known = |record: &Record<'_>| (0..=LAST_TYPE).contains(&record.kind);
        if !records.iter().all(known) {
            return None;
        }
        // In the wrong layout most records begin somewhere within one, with zeros.
        records.retain(|record| record.kind != 0);
        let share = records.len() * layout.length;
        (share > 0).then_some((share, records))
    });
    fitting
        .max_by_key(|(share, _)| *share)
        .map(|(_, records)| records)
}

fn record<'a>(bytes: &'a [u8], layout: &Layout) -> Option<Record<'a>> {
    Some(Record {
        kind: i16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?),
        pid: i32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?),
        user: bytes.get(44..76)?,
        time: bytes.get(layout.time.clone())?,
    })
}
