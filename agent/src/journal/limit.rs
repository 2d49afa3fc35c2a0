//! How often one place in the code may speak. Pure.
//!
//! The first few records of a call site pass, then one per interval, which says
//! how many were held back since. A site that was quiet for an interval starts
//! anew. Bounded: sites that have been quiet make room for others; if none has,
//! the newcomers share one allowance.

use std::collections::BTreeMap;

/// Records that pass before the limit sets in: enough for a start or a reload
/// where one line of code reports several uplinks or gauges.
const BURST: u32 = 5;

/// Then one per minute: 1,440 lines a day are the most that one fault can cost
/// in journal flash.
const INTERVAL_NS: u64 = 60_000_000_000;

/// Sites remembered at a time, at about 50 bytes each.
const SITES: usize = 256;

/// The allowance that is shared when there are too many sites.
const OTHERS: u64 = 0;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes; so many like it were held back since the last one.
    Pass { repeated: u64 },
    /// It is held back.
    Hold,
}

#[derive(Debug, Default)]
struct Site {
    burst: u32,
    passed_ns: u64,
    seen_ns: u64,
    held: u64,
}

/// All call sites.
#[derive(Debug, Default)]
pub(super) struct Limit {
    sites: BTreeMap<u64, Site>,
}

impl Limit {
    pub(super) const fn new() -> Self {
        Self {
            sites: BTreeMap::new(),
        }
    }

    /// Judges a record of the call site `key` at `now_ns` since boot.
    pub(super) fn judge(&mut self, key: u64, now_ns: u64) -> Verdict {
        let known = self.sites.contains_key(&key);
        if !known && self.sites.len() >= SITES {
            self.sites
                .retain(|_, site| now_ns.saturating_sub(site.seen_ns) < INTERVAL_NS);
        }
        let full = !known && self.sites.len() >= SITES;
        let site = self
            .sites
            .entry(if full { OTHERS } else { key })
            .or_default();
        site.judge(now_ns)
    }
}

impl Site {
    fn judge(&mut self, now_ns: u64) -> Verdict {
        if now_ns.saturating_sub(self.seen_ns) >= INTERVAL_NS {
            self.burst = 0;
        }
        self.seen_ns = now_ns;
        let in_burst = self.burst < BURST;
        if !in_burst && now_ns.saturating_sub(self.passed_ns) < INTERVAL_NS {
            self.held += 1;
            return Verdict::Hold;
        }
        self.burst = self.burst.saturating_add(1).min(BURST);
        self.passed_ns = now_ns;
        Verdict::Pass {
            repeated: std::mem::take(&mut self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn passed(limit: &mut Limit, times: u64, from_ns: u64) -> u64 {
        let verdicts = (0..times).map(|i| limit.judge(7, from_ns + i));
        verdicts.filter(|v| *v != Verdict::Hold).count() as u64
    }

    #[test]
    fn the_first_records_pass_and_the_rest_are_held_and_counted() {
        let mut limit = Limit::new();
        assert_eq!(passed(&mut limit, 100, SECOND), u64::from(BURST));
        // The last that passed did so 4 ns after the first.
        let next = SECOND + 4 + INTERVAL_NS;
        assert_eq!(limit.judge(7, next - 1), Verdict::Hold);
        assert_eq!(limit.judge(7, next), Verdict::Pass { repeated: 96 });
        assert_eq!(limit.judge(7, next + 1), Verdict::Hold);
    }

    #[test]
    fn a_site_that_was_quiet_starts_anew() {
        let mut limit = Limit::new();
        passed(&mut limit, 100, SECOND);
        let later = SECOND * 1000;
        assert_eq!(limit.judge(7, later), Verdict::Pass { repeated: 95 });
        assert_eq!(passed(&mut limit, 100, later + 1), u64::from(BURST) - 1);
    }

    #[test]
    fn one_site_does_not_silence_another() {
        let mut limit = Limit::new();
        passed(&mut limit, 100, SECOND);
        assert_eq!(limit.judge(8, SECOND), Verdict::Pass { repeated: 0 });
    }

    #[test]
    fn endless_new_sites_take_bounded_memory_and_share_one_allowance() {
        let mut limit = Limit::new();
        for key in 1..100_000 {
            limit.judge(key, SECOND + key);
        }
        assert!(limit.sites.len() <= SITES + 1);
        assert_eq!(limit.judge(u64::MAX, 2 * SECOND), Verdict::Hold);
    }

    #[test]
    fn quiet_sites_make_room() {
        let mut limit = Limit::new();
        for key in 1..=SITES as u64 {
            limit.judge(key, SECOND);
        }
        // Even one that held something back: it is counted, and may never speak again.
        passed(&mut limit, 100, SECOND);
        limit.judge(9999, 100 * SECOND);
        assert_eq!(limit.sites.len(), 1);
    }
}
