//! What the kernel counts besides: out-of-memory kills and page faults from
//! `/proc/vmstat`, entropy.
//!
//! ```text
//! pgfault 125896632
//! pgmajfault 41243
//! oom_kill 0                                    from Linux 4.13 on
//! ```
//!
//! The kernel adds up some two hundred counts of every CPU for that text, so
//! it is asked seldom.

use std::path::Path;

use super::file::KernelFile;
use super::probe;
use super::readings::text;
use super::table::{ENTROPY, OOM_KILLS, PAGING_FAULTS};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// Reads both.
#[derive(Debug)]
pub struct Kernel {
    counts: KernelFile,
    entropy: KernelFile,
    ids: Option<[Option<SeriesId>; 4]>,
}

impl Kernel {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            counts: KernelFile::new(root.join("proc/vmstat")),
            entropy: KernelFile::new(root.join("proc/sys/kernel/random/entropy_avail")),
            ids: None,
        }
    }
}

impl Source for Kernel {
    fn family(&self) -> Family {
        Family::Kernel
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [kills, major, minor, entropy] = *self.ids.get_or_insert_with(|| {
            let faults = |kind| {
                let kind = [("system.paging.fault.type", text(kind))];
                out.series(&PAGING_FAULTS, &kind)
            };
            [
                out.series(&OOM_KILLS, &[]),
                faults("major"),
                faults("minor"),
                out.series(&ENTROPY, &[]),
            ]
        });
        let [killed, all, waited] = match self.counts.read() {
            Ok(vmstat) => parse(vmstat),
            Err(missing) => [Err(missing); 3],
        };
        let whole = |count: Result<u64, Missing>| count.and_then(Value::whole);
        out.put(kills, whole(killed));
        out.put(major, whole(waited));
        // `pgfault` counts both.
        let rest = all.and_then(|all| all.checked_sub(waited?).ok_or(Missing::Garbage));
        out.put(minor, whole(rest));
        let bits = self
            .entropy
            .head(64)
            .and_then(|text| probe::count(text.trim()));
        out.put(entropy, bits);
        Ok(())
    }
}

/// Kills, all faults, major faults.
fn parse(vmstat: &str) -> [Result<u64, Missing>; 3] {
    let mut found = [Err(Missing::Unsupported); 3];
    for line in vmstat.lines() {
        let Some((key, number)) = line.split_once(' ') else {
            continue;
        };
        let at = match key {
            "oom_kill" => 0,
            "pgfault" => 1,
            "pgmajfault" => 2,
            _ => continue,
        };
        if let Some(slot) = found.get_mut(at) {
            *slot = number.parse().map_err(|_| Missing::Garbage);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::probe::testing::{Tree, read};
    use super::*;

    #[test]
    fn kills_faults_and_entropy_are_read() {
        let tree = Tree::new(&[
            (
                "proc/vmstat",
                "nr_free_pages 1\npgfault 1000\npgmajfault 40\noom_kill 2\n",
            ),
            ("proc/sys/kernel/random/entropy_avail", "256\n"),
        ]);
        let out = read(&mut Kernel::new(tree.0.path()), 1);
        for (name, wanted) in [
            ("sonde.memory.oom_kills", 2),
            ("system.paging.faults system.paging.fault.type=major", 40),
            ("system.paging.faults system.paging.fault.type=minor", 960),
            ("sonde.entropy", 256),
        ] {
            assert_eq!(out.value(name), Some(Ok(Value::Int(wanted))), "{name}");
        }
    }

    #[test]
    fn what_an_old_kernel_does_not_count_is_unsupported() {
        let tree = Tree::new(&[("proc/vmstat", "pgfault 10\npgmajfault x\n")]);
        let out = read(&mut Kernel::new(tree.0.path()), 1);
        for (name, wanted) in [
            ("sonde.memory.oom_kills", Missing::Unsupported),
            (
                "system.paging.faults system.paging.fault.type=major",
                Missing::Garbage,
            ),
            ("sonde.entropy", Missing::Unsupported),
        ] {
            assert_eq!(out.value(name), Some(Err(wanted)), "{name}");
        }
    }
}
