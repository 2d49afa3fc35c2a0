//! CPU time by mode and utilization, of all CPUs together.
//!
//! `/proc/stat` begins with (proc(5), in clock ticks since boot):
//!
//! ```text
//! cpu  user nice system idle iowait irq softirq steal guest guest_nice
//! ```
//!
//! `user` and `nice` already contain `guest` and `guest_nice`, so those two
//! are not reported again. `irq` and `softirq` are OpenTelemetry's `interrupt`.

use std::path::Path;

use super::file::KernelFile;
use super::readings::text;
use super::table::{CPU_TIME, CPU_UTILIZATION};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

const MODES: [&str; 7] = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "interrupt",
    "steal",
];

/// Finer than a clock tick (1/100 s), so the tick count can be got back.
const SECOND_GRAIN: f64 = 256.0;
/// Finer than 0.001.
pub(super) const SHARE_GRAIN: f64 = 1024.0;

type Times = [u64; MODES.len()];

/// Reads `/proc/stat`.
#[derive(Debug)]
pub struct Cpu {
    file: KernelFile,
    previous: Option<Times>,
    series: Option<[(Option<SeriesId>, Option<SeriesId>); MODES.len()]>,
    per_second: f64,
}

impl Cpu {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/stat")),
            previous: None,
            series: None,
            per_second: ticks_per_second(),
        }
    }
}

/// Clock ticks in a second, as the kernel tells user space.
pub(super) fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Clock ticks as seconds.
pub(super) fn seconds(ticks: u64, per_second: f64) -> Result<Value, Missing> {
    Value::grained(ticks as f64 / per_second, SECOND_GRAIN)
}

impl Source for Cpu {
    fn family(&self) -> Family {
        Family::Cpu
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let times = parse(self.file.head(512)?).ok_or(Missing::Garbage)?;
        let series = *self.series.get_or_insert_with(|| {
            MODES.map(|mode| {
                let attributes = [("cpu.mode", text(mode))];
                (
                    out.series(&CPU_TIME, &attributes),
                    out.series(&CPU_UTILIZATION, &attributes),
                )
            })
        });
        let shares = shares(self.previous.as_ref(), &times);
        self.previous = Some(times);
        for ((id, _), ticks) in series.iter().zip(times) {
            out.put(*id, seconds(ticks, self.per_second));
        }
        for ((_, id), share) in series.iter().zip(shares) {
            out.put(*id, share);
        }
        Ok(())
    }
}

/// The modes' ticks; kernels before 2.6.11 have no `steal`, which is then 0 because no host could take any.
fn parse(stat: &str) -> Option<Times> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let mut raw = [0_u64; 8];
    for (at, slot) in raw.iter_mut().enumerate() {
        *slot = match fields.next() {
            Some(field) => field.parse().ok()?,
            None if at >= 7 => 0,
            None => return None,
        };
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = raw;
    Some([
        user,
        nice,
        system,
        idle,
        iowait,
        irq.checked_add(softirq)?,
        steal,
    ])
}

/// Each mode's part of the time that passed. A mode that fell (the kernel's
/// `iowait` can) has none for this tick.
fn shares(before: Option<&Times>, after: &Times) -> [Result<Value, Missing>; MODES.len()] {
    let Some(before) = before else {
        return [Err(Missing::First); MODES.len()];
    };
    let mut passed = [None; MODES.len()];
    for (slot, (new, old)) in passed.iter_mut().zip(after.iter().zip(before)) {
        *slot = new.checked_sub(*old);
    }
    let total: u64 = passed
        .iter()
        .flatten()
        .fold(0, |sum, part| sum.saturating_add(*part));
    passed.map(|part| match part {
        // Two readings within one clock tick: nothing can be said yet.
        _ if total == 0 => Err(Missing::First),
        Some(part) => Value::grained(part as f64 / total as f64, SHARE_GRAIN),
        None => Err(Missing::Garbage),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    fn read(stats: &[&str]) -> (Readings, Result<(), Missing>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let mut source = Cpu::new(dir.path());
        let mut out = Readings::new(Registry::default());
        let mut last = Err(Missing::Gone);
        for stat in stats {
            std::fs::write(dir.path().join("proc/stat"), stat).unwrap();
            out.clear();
            last = source.read(Stamp::default(), &mut out);
        }
        (out, last)
    }

    #[test]
    fn time_is_by_mode_and_guest_time_is_not_told_twice() {
        let (out, done) = read(&["cpu  1000 2 300 4000 50 6 7 8 900 1\ncpu0 1 1\n"]);
        assert_eq!(done, Ok(()));
        assert_eq!(
            out.value("system.cpu.time cpu.mode=user"),
            Some(Ok(Value::Float(10.0)))
        );
        let Some(Ok(Value::Float(interrupt))) = out.value("system.cpu.time cpu.mode=interrupt")
        else {
            panic!("no interrupt time");
        };
        assert_eq!((interrupt * 100.0).round(), 13.0);
        assert_eq!(out.as_slice().len(), 14);
        assert_eq!(
            out.value("system.cpu.utilization cpu.mode=user"),
            Some(Err(Missing::First))
        );
    }

    #[test]
    fn utilization_is_the_share_since_the_last_tick() {
        let (out, _) = read(&[
            "cpu 100 0 0 100 9 0 0 0 0 0\n",
            "cpu 125 0 0 175 8 0 0 0 0 0\n",
        ]);
        assert_eq!(
            out.value("system.cpu.utilization cpu.mode=user"),
            Some(Ok(Value::Float(0.25)))
        );
        assert_eq!(
            out.value("system.cpu.utilization cpu.mode=idle"),
            Some(Ok(Value::Float(0.75)))
        );
        assert_eq!(
            out.value("system.cpu.utilization cpu.mode=iowait"),
            Some(Err(Missing::Garbage))
        );
    }

    #[test]
    fn garbage_is_absence_of_the_family() {
        for stat in [
            "",
            "cpu",
            "cpu x y",
            "intr 1 2 3",
            "cpu -1 0 0 0 0 0 0 0",
            "cpu 1 2 3 99999999999999999999 5 6 7 8",
        ] {
            let (out, done) = read(&[stat]);
            assert_eq!(done, Err(Missing::Garbage), "{stat}");
            assert!(out.as_slice().is_empty());
        }
    }
}
