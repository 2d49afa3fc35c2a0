//! Memory and swap from `/proc/meminfo` (proc(5)):
//!
//! ```text
//! MemTotal:       49368364 kB
//! ```
//!
//! `used` is `MemTotal - MemAvailable`, as OpenTelemetry asks; `free`,
//! `buffers` and `cached` are the kernel's own figures, so the states overlap
//! where available memory is cache. Kernels before 3.14 have no
//! `MemAvailable`: `used` and `available` are then absent, not guessed.

use std::path::Path;

use super::cpu::SHARE_GRAIN;
use super::file::KernelFile;
use super::readings::text;
use super::table::{
    MEMORY_AVAILABLE, MEMORY_LIMIT, MEMORY_USAGE, MEMORY_UTILIZATION, PAGING_USAGE,
    PAGING_UTILIZATION,
};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

const KEYS: [&str; 7] = [
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapTotal",
    "SwapFree",
];
const STATES: [&str; 4] = ["used", "free", "buffers", "cached"];

/// Reads `/proc/meminfo`.
#[derive(Debug)]
pub struct Memory {
    file: KernelFile,
    series: Option<Ids>,
}

#[derive(Clone, Copy, Debug)]
struct Ids {
    states: [(Option<SeriesId>, Option<SeriesId>); STATES.len()],
    limit: Option<SeriesId>,
    available: Option<SeriesId>,
    swap: [(Option<SeriesId>, Option<SeriesId>); 2],
}

impl Memory {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/meminfo")),
            series: None,
        }
    }
}

impl Source for Memory {
    fn family(&self) -> Family {
        Family::Memory
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [
            total,
            free,
            available,
            buffers,
            cached,
            swap_total,
            swap_free,
        ] = parse(self.file.read()?);
        let total = total.filter(|total| *total > 0).ok_or(Missing::Garbage)?;
        let ids = *self.series.get_or_insert_with(|| Ids {
            states: STATES.map(|state| {
                let state = [("system.memory.state", text(state))];
                (
                    out.series(&MEMORY_USAGE, &state),
                    out.series(&MEMORY_UTILIZATION, &state),
                )
            }),
            limit: out.series(&MEMORY_LIMIT, &[]),
            available: out.series(&MEMORY_AVAILABLE, &[]),
            swap: ["used", "free"].map(|state| {
                let state = [("system.paging.state", text(state))];
                (
                    out.series(&PAGING_USAGE, &state),
                    out.series(&PAGING_UTILIZATION, &state),
                )
            }),
        });
        let used = available.and_then(|available| total.checked_sub(available));
        for ((usage, share), bytes) in ids.states.iter().zip([used, free, buffers, cached]) {
            out.put(
                *usage,
                bytes.ok_or(Missing::Unsupported).and_then(Value::whole),
            );
            out.put(*share, share_of(bytes, total));
        }
        out.put(ids.limit, Value::whole(total));
        out.put(
            ids.available,
            available.ok_or(Missing::Unsupported).and_then(Value::whole),
        );
        // A gateway without swap has nothing to tell here: no series, not a share of nothing.
        if let Some(swap_total) = swap_total.filter(|total| *total > 0) {
            let used = swap_free.and_then(|free| swap_total.checked_sub(free));
            for ((usage, share), bytes) in ids.swap.iter().zip([used, swap_free]) {
                out.put(*usage, bytes.ok_or(Missing::Garbage).and_then(Value::whole));
                out.put(*share, share_of(bytes, swap_total));
            }
        }
        Ok(())
    }
}

fn share_of(part: Option<u64>, total: u64) -> Result<Value, Missing> {
    let part = part.ok_or(Missing::Unsupported)?;
    Value::grained(part as f64 / total as f64, SHARE_GRAIN)
}

/// Bytes of each of [`KEYS`].
fn parse(meminfo: &str) -> [Option<u64>; KEYS.len()] {
    let mut found = [None; KEYS.len()];
    for line in meminfo.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let slot = KEYS
            .iter()
            .zip(found.iter_mut())
            .find(|(name, _)| **name == key);
        if let Some((_, slot)) = slot {
            *slot = rest
                .split_ascii_whitespace()
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .and_then(|kib| kib.checked_mul(1024));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    fn read(meminfo: &str) -> (Readings, Result<(), Missing>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/meminfo"), meminfo).unwrap();
        let mut out = Readings::new(Registry::default());
        let done = Memory::new(dir.path()).read(Stamp::default(), &mut out);
        (out, done)
    }

    #[test]
    fn used_is_what_is_not_available() {
        let (out, done) = read(
            "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 750 kB\nBuffers: 1 kB\nCached: 2 kB\nSwapTotal: 4 kB\nSwapFree: 3 kB\n",
        );
        assert_eq!(done, Ok(()));
        assert_eq!(
            out.value("system.memory.usage system.memory.state=used"),
            Some(Ok(Value::Int(256_000)))
        );
        let used = out.value("system.memory.utilization system.memory.state=used");
        assert_eq!(used, Some(Ok(Value::Float(0.25))));
        assert_eq!(
            out.value("system.paging.usage system.paging.state=used"),
            Some(Ok(Value::Int(1024)))
        );
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let (out, _) = read("MemTotal: 1000 kB\nMemFree: 100 kB\nSwapTotal: 0 kB\n");
        let used = out.value("system.memory.usage system.memory.state=used");
        assert_eq!(used, Some(Err(Missing::Unsupported)));
        assert_eq!(
            out.value("system.paging.usage system.paging.state=used"),
            None
        );
    }

    #[test]
    fn garbage_is_absence_of_the_family() {
        for bad in [
            "",
            "MemTotal: 0 kB",
            "MemTotal: x kB",
            "MemTotal: 99999999999999999999 kB",
            "MemTotal",
        ] {
            assert_eq!(read(bad).1, Err(Missing::Garbage), "{bad}");
        }
    }
}
