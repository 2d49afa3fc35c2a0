//! Judges whether a receiver got everything that was sampled: from the data
//! alone, never from the agent's counters.
//!
//! Two series of every process start make the data its own witness:
//!
//! - `sonde.sampler.tick` is 1, 2, 3, … with one point a tick. A number that
//!   is missing between 1 and the last that came is a **gap**.
//! - `sonde.sampler.points` is the number of data points recorded up to and
//!   including its tick, itself included. So a tick has as many points as this
//!   number grew since the tick before (since 0 for tick 1).
//!
//! How points are counted, exactly: a point is its process start
//! (`service.instance.id`), metric name, attributes and timestamp; the second
//! one with all four equal is a **repeat** and counts only as such. A distinct
//! point belongs to the tick whose timestamp is the first one at or after its
//! own. A tick is **short** when fewer (or more) distinct points belong to it
//! than the counter says. The tick that follows a gap is not compared: the gap
//! has failed the proof already. Points later than the last tick that came
//! (its frame died with the process) are counted as `beyond` and prove nothing.
//!
//! The proof holds when at least one tick came, there is no gap and no tick is
//! short or long. What a killed process sampled after its last delivered tick
//! is by nature not in the data; tests that kill measure it from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sonde_agent::frame::Signal;

use crate::ledger::Ledger;

/// The sequence.
pub const TICK: &str = "sonde.sampler.tick";
/// The sum.
pub const POINTS: &str = "sonde.sampler.points";

/// What the data says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Per process start, in order of first sight.
    pub instances: Vec<Instance>,
    /// Bytes of all bodies that carried data points.
    pub body_bytes: u64,
}

/// One process start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// `service.instance.id`
    pub id: String,
    /// The highest tick that came.
    pub last_tick: u64,
    /// Wall time of the first tick that came, nanoseconds.
    pub first_unix_ns: u64,
    /// Wall time of the last tick that came, nanoseconds.
    pub last_unix_ns: u64,
    /// Points that the process says it had recorded by then.
    pub sampled: u64,
    /// Distinct points that came, up to the last tick.
    pub delivered: u64,
    /// Points that came again.
    pub repeats: u64,
    /// Missing stretches of ticks, both ends included.
    pub gaps: Vec<(u64, u64)>,
    /// Ticks with a wrong number of points.
    pub wrong: Vec<Wrong>,
    /// Distinct points later than the last tick.
    pub beyond: u64,
}

/// A tick whose points are not as many as were recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which.
    pub tick: u64,
    /// How many the counter says.
    pub expected: u64,
    /// How many came.
    pub delivered: u64,
}

/// Judges a ledger.
pub fn judge(ledger: &Ledger) -> Verdict {
    let mut starts: BTreeMap<String, Start> = BTreeMap::new();
    for point in ledger.points() {
        let start = starts.entry(point.instance).or_default();
        if !start.distinct.insert((point.unix_ns, point.series.clone())) {
            start.repeats += 1;
            continue;
        }
        // Both are whole numbers far below 2^53.
        let value = point.value.unwrap_or_default() as u64;
        if point.series == TICK {
            start.ticks.insert(value, point.unix_ns);
        } else if point.series == POINTS {
            start.counts.insert(point.unix_ns, value);
        }
    }
    let mut instances: Vec<Instance> = starts
        .into_iter()
        .map(|(id, start)| start.judge(id))
        .collect();
    instances.sort_by_key(|instance| instance.first_unix_ns);
    Verdict {
        instances,
        body_bytes: ledger.body_bytes(Signal::Metrics) as u64,
    }
}

impl Verdict {
    /// Whether everything that was sampled came.
    pub fn holds(&self) -> bool {
        self.failures().is_empty()
    }

    /// Why it does not hold, in words; empty when it does.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self
            .instances
            .iter()
            .all(|instance| instance.last_tick == 0)
        {
            failures.push(format!(
                "no point of {TICK} came: there is nothing to judge"
            ));
        }
        for instance in &self.instances {
            let id = &instance.id;
            if instance.last_tick == 0 {
                failures.push(format!("start {id}: points came, but none of {TICK}"));
            }
            for (first, last) in &instance.gaps {
                failures.push(format!("start {id}: ticks {first} to {last} are missing"));
            }
            for wrong in instance.wrong.iter().take(5) {
                failures.push(format!("start {id}: {wrong}"));
            }
            if instance.wrong.len() > 5 {
                let more = instance.wrong.len() - 5;
                failures.push(format!(
                    "start {id}: and {more} more ticks with a wrong count"
                ));
            }
        }
        failures
    }

    /// Missing ticks.
    pub fn gaps(&self) -> u64 {
        self.instances
            .iter()
            .flat_map(|instance| &instance.gaps)
            .map(|(first, last)| last - first + 1)
            .sum()
    }

    /// Points that came again.
    pub fn repeats(&self) -> u64 {
        self.instances.iter().map(|instance| instance.repeats).sum()
    }

    /// Points recorded up to the last tick of each start.
    pub fn sampled(&self) -> u64 {
        self.instances.iter().map(|instance| instance.sampled).sum()
    }

    /// Distinct points that came up to the last tick of each start.
    pub fn delivered(&self) -> u64 {
        self.instances
            .iter()
            .map(|instance| instance.delivered)
            .sum()
    }

    /// Bytes a distinct point, when `bytes` carried them all.
    pub fn bytes_per_point(&self, bytes: u64) -> f64 {
        bytes as f64 / self.delivered().max(1) as f64
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tick {} recorded {} points, {} came",
            self.tick, self.expected, self.delivered
        )
    }
}

/// What came from one process start.
#[derive(Default)]
struct Start {
    /// (time, series)
    distinct: BTreeSet<(u64, String)>,
    repeats: u64,
    /// tick -> time
    ticks: BTreeMap<u64, u64>,
    /// time -> points recorded so far
    counts: BTreeMap<u64, u64>,
}

impl Start {
    fn judge(self, id: String) -> Instance {
        let mut instance = Instance {
            id,
            repeats: self.repeats,
            ..Instance::default()
        };
        let mut per_tick: BTreeMap<u64, u64> = self.ticks.values().map(|time| (*time, 0)).collect();
        for (time, _) in &self.distinct {
            match per_tick.range_mut(time..).next() {
                Some((_, count)) => {
                    *count += 1;
                    instance.delivered += 1;
                }
                None => instance.beyond += 1,
            }
        }
        let (mut previous, mut counted) = (0, Some(0));
        for (&tick, time) in &self.ticks {
            if previous == 0 {
                instance.first_unix_ns = *time;
            }
            if tick > previous + 1 {
                instance.gaps.push((previous + 1, tick - 1));
                counted = None;
            }
            let total = self.counts.get(time).copied();
            let delivered = per_tick.get(time).copied().unwrap_or_default();
            if let (Some(before), Some(total)) = (counted, total) {
                let expected = total.saturating_sub(before);
                if expected != delivered {
                    instance.wrong.push(Wrong {
                        tick,
                        expected,
                        delivered,
                    });
                }
            } else if total.is_none() {
                // The counter's own point of this tick is missing: one short at least.
                instance.wrong.push(Wrong {
                    tick,
                    expected: delivered + 1,
                    delivered,
                });
            }
            instance.sampled = total.unwrap_or(instance.sampled);
            counted = total;
            previous = tick;
            instance.last_unix_ns = *time;
        }
        instance.last_tick = previous;
        instance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_whole_ledger_is_proven() {
        let verdict = judge(&sample::ledger("a", 1..=12));
        assert_eq!(verdict.failures(), Vec::<String>::new());
        assert_eq!(verdict.sampled(), 12 * sample::POINTS_PER_TICK);
        assert_eq!(verdict.delivered(), verdict.sampled());
        assert_eq!((verdict.gaps(), verdict.repeats()), (0, 0));
    }

    #[test]
    fn one_deleted_frame_fails_the_proof_and_names_its_ticks() {
        let mut ledger = sample::ledger("a", 1..=12);
        ledger.deliveries.remove(1);
        let verdict = judge(&ledger);
        assert!(!verdict.holds());
        assert_eq!(verdict.instances[0].gaps, vec![(4, 6)]);
        assert_eq!(
            verdict.sampled() - verdict.delivered(),
            3 * sample::POINTS_PER_TICK
        );
    }

    #[test]
    fn the_first_frame_is_missed_like_any_other() {
        let mut ledger = sample::ledger("a", 1..=12);
        ledger.deliveries.remove(0);
        assert_eq!(judge(&ledger).instances[0].gaps, vec![(1, 3)]);
    }

    #[test]
    fn one_duplicated_frame_passes_and_is_counted() {
        let mut ledger = sample::ledger("a", 1..=12);
        let twice = ledger.deliveries[2].clone();
        ledger.deliveries.push(twice);
        let verdict = judge(&ledger);
        assert!(verdict.holds(), "{:?}", verdict.failures());
        assert_eq!(verdict.repeats(), 3 * sample::POINTS_PER_TICK);
    }

    #[test]
    fn one_duplicated_point_is_one_repeat() {
        let mut ledger = sample::ledger("a", 1..=3);
        ledger.deliveries.push(sample::delivery(sample::one_point(
            "a",
            TICK,
            sample::time(2),
            2,
        )));
        let verdict = judge(&ledger);
        assert!(verdict.holds(), "{:?}", verdict.failures());
        assert_eq!(verdict.repeats(), 1);
    }

    #[test]
    fn one_lost_point_of_any_series_is_missed() {
        for series in ["test.load", POINTS] {
            let mut ledger = sample::ledger("a", 1..=6);
            sample::drop_point(&mut ledger, series, sample::time(5));
            let verdict = judge(&ledger);
            assert_eq!(verdict.instances[0].wrong[0].tick, 5, "{series}");
        }
        let mut ledger = sample::ledger("a", 1..=6);
        sample::drop_point(&mut ledger, TICK, sample::time(5));
        assert_eq!(judge(&ledger).instances[0].gaps, vec![(5, 5)]);
    }

    #[test]
    fn an_invented_point_is_noticed() {
        let mut ledger = sample::ledger("a", 1..=6);
        ledger.deliveries.push(sample::delivery(sample::one_point(
            "a",
            "test.ghost",
            sample::time(2),
            1,
        )));
        assert_eq!(judge(&ledger).instances[0].wrong[0].tick, 2);
    }

    #[test]
    fn each_process_start_is_judged_for_itself() {
        let mut ledger = sample::ledger("a", 1..=6);
        ledger
            .deliveries
            .extend(sample::ledger("b", 1..=9).deliveries);
        ledger.deliveries.remove(2);
        let verdict = judge(&ledger);
        let of = |id| verdict.instances.iter().find(|one| one.id == id).unwrap();
        assert_eq!(of("a").gaps, vec![]);
        assert_eq!(of("b").gaps, vec![(1, 3)]);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let mut ledger = sample::ledger("a", 1..=12);
        ledger.deliveries.reverse();
        assert!(judge(&ledger).holds());
    }

    #[test]
    fn an_empty_ledger_proves_nothing() {
        assert!(!judge(&Ledger::default()).holds());
    }

    #[test]
    fn tampering_is_seen() {
        let mut ledger = sample::ledger("a", 1..=12);
        assert_eq!(ledger.tamper() as u64, 3 * sample::POINTS_PER_TICK);
        assert!(!judge(&ledger).holds());
    }
}
