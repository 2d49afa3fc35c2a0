//! Decides which families are due. Pure: the caller says what time it is.
//!
//! Times are `CLOCK_BOOTTIME`. Every family ticks at whole multiples of its
//! interval, so families with related intervals are read together and share
//! one timestamp. One tick runs at a time; what came due meanwhile is counted
//! as an overrun and not made up for. After a suspend there is one tick, not
//! one for every interval that was slept through.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gauge::Family;
use crate::gauge::reader::Families;

/// What the caller should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read these, then call [`Sampler::finished`].
    Read(Families),
    /// Nothing before this moment (`boot_ns`).
    WakeAt(u64),
    /// Nothing at all: no family is on, or a tick is still being read.
    Wait,
}

/// The schedule.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    families: BTreeMap<Family, Due>,
    running: bool,
    overruns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    every_ns: u64,
    at_ns: u64,
}

impl Sampler {
    /// Everything is due at once, then at multiples of its interval.
    pub fn new(intervals: &BTreeMap<Family, Duration>, now_ns: u64) -> Self {
        let mut sampler = Self::default();
        sampler.reschedule(intervals, now_ns);
        sampler
    }

    /// What to do at `now_ns`.
    pub fn poll(&mut self, now_ns: u64) -> Action {
        if self.running {
            return Action::Wait;
        }
        let mut due = Families::default();
        let mut next: Option<u64> = None;
        for (family, when) in &mut self.families {
            if when.at_ns <= now_ns {
                due.insert(*family);
                when.at_ns = after(now_ns, when.every_ns);
            }
            next = Some(next.map_or(when.at_ns, |next| next.min(when.at_ns)));
        }
        match next {
            _ if !due.is_empty() => {
                self.running = true;
                Action::Read(due)
            }
            Some(at) => Action::WakeAt(at),
            None => Action::Wait,
        }
    }

    /// The tick that [`Action::Read`] began is over. What came due while it
    /// ran is one overrun, and is next due at its following multiple.
    pub fn finished(&mut self, now_ns: u64) {
        if !self.running {
            return;
        }
        self.running = false;
        let mut late = false;
        for when in self
            .families
            .values_mut()
            .filter(|when| when.at_ns <= now_ns)
        {
            when.at_ns = after(now_ns, when.every_ns);
            late = true;
        }
        if late {
            self.overruns += 1;
        }
    }

    /// New intervals after a reload. A family whose interval stays keeps its
    /// rhythm; a new one is due at once.
    pub fn reschedule(&mut self, intervals: &BTreeMap<Family, Duration>, now_ns: u64) {
        let old = std::mem::take(&mut self.families);
        self.families = intervals
            .iter()
            .map(|(family, every)| {
                let every_ns = u64::try_from(every.as_nanos())
                    .unwrap_or(u64::MAX)
                    .max(1_000_000);
                let at_ns = match old.get(family) {
                    Some(was) if was.every_ns == every_ns => was.at_ns,
                    Some(_) => after(now_ns, every_ns),
                    None => now_ns,
                };
                (*family, Due { every_ns, at_ns })
            })
            .collect();
    }

    /// Ticks that were skipped since the start.
    pub fn overruns(&self) -> u64 {
        self.overruns
    }
}

/// The first multiple of `every_ns` after `now_ns`.
fn after(now_ns: u64, every_ns: u64) -> u64 {
    (now_ns / every_ns)
        .saturating_add(1)
        .saturating_mul(every_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn every(seconds: &[(Family, u64)]) -> BTreeMap<Family, Duration> {
        seconds
            .iter()
            .map(|(family, s)| (*family, Duration::from_secs(*s)))
            .collect()
    }

    fn set(families: &[Family]) -> Action {
        Action::Read(families.iter().copied().collect())
    }

    #[test]
    fn families_tick_together_at_multiples_of_their_intervals() {
        let mut sampler = Sampler::new(&every(&[(Family::Cpu, 1), (Family::Disk, 3)]), 100);
        assert_eq!(sampler.poll(100), set(&[Family::Cpu, Family::Disk]));
        sampler.finished(200);
        assert_eq!(sampler.poll(200), Action::WakeAt(S));
        let mut ticks = Vec::new();
        for second in 1..=6 {
            ticks.push(sampler.poll(second * S + 5));
            sampler.finished(second * S + 10);
        }
        let (cpu, both) = (set(&[Family::Cpu]), set(&[Family::Cpu, Family::Disk]));
        assert_eq!(ticks, [cpu, cpu, both, cpu, cpu, both]);
        assert_eq!(sampler.overruns(), 0);
    }

    #[test]
    fn a_tick_that_takes_too_long_is_one_overrun_and_is_not_made_up_for() {
        let mut sampler = Sampler::new(&every(&[(Family::Cpu, 1)]), 0);
        assert_eq!(sampler.poll(0), set(&[Family::Cpu]));
        assert_eq!(sampler.poll(2 * S), Action::Wait);
        sampler.finished(3 * S + S / 2);
        assert_eq!(sampler.overruns(), 1);
        assert_eq!(sampler.poll(3 * S + S / 2), Action::WakeAt(4 * S));
    }

    #[test]
    fn a_suspend_of_hours_gives_one_tick() {
        let mut sampler = Sampler::new(&every(&[(Family::Cpu, 1)]), 0);
        sampler.poll(0);
        sampler.finished(1);
        assert_eq!(sampler.poll(7200 * S + 3), set(&[Family::Cpu]));
        sampler.finished(7200 * S + 4);
        assert_eq!(sampler.poll(7200 * S + 5), Action::WakeAt(7201 * S));
        assert_eq!(sampler.overruns(), 0);
    }

    #[test]
    fn a_reload_adds_removes_and_changes_families() {
        let mut sampler = Sampler::new(&every(&[(Family::Cpu, 10), (Family::Disk, 10)]), 0);
        sampler.poll(0);
        sampler.finished(1);
        sampler.reschedule(&every(&[(Family::Cpu, 2), (Family::Load, 60)]), 5 * S);
        assert_eq!(sampler.poll(5 * S), set(&[Family::Load]));
        sampler.finished(5 * S);
        assert_eq!(sampler.poll(5 * S), Action::WakeAt(6 * S));
        sampler.reschedule(&BTreeMap::new(), 5 * S);
        assert_eq!(sampler.poll(u64::MAX), Action::Wait);
    }
}
