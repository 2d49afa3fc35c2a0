//! How much a day the flash may be written, and what the loss window becomes
//! as that runs out. Pure.
//!
//! A target, not a wall: the window stretches in steps of two from half the
//! budget on, up to sixteenfold; what must be written beyond it is written and
//! reported. The figure is an estimate of what reaches the device, since the
//! device's own counters hold everybody's writes: whole blocks, and what the
//! journal takes per sync (as measured on ext4).

use std::time::Duration;

const DAY: u64 = 24 * 3600 * 1_000_000_000;
/// The window is stretched to this at most.
const LONGEST: Duration = Duration::from_secs(3600);

/// A day's budget that refills as time passes.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    /// 0: none is set.
    a_day: u64,
    left: u64,
    at: u64,
    /// Bytes written when nothing was left.
    pub(super) overrun: u64,
    /// By how much the window is stretched.
    stretch: u32,
}

impl Budget {
    /// A full budget; 0: no target.
    pub(super) fn new(a_day: u64) -> Self {
        Self {
            a_day,
            left: a_day,
            at: 0,
            overrun: 0,
            stretch: 1,
        }
    }

    /// Another target; what was used stays used.
    pub(super) fn resize(&mut self, a_day: u64) {
        let used = self.a_day.saturating_sub(self.left);
        self.a_day = a_day;
        self.left = a_day.saturating_sub(used);
    }

    /// Bytes were written by boot time `at`. `true`: the window has another length now.
    pub(super) fn spend(&mut self, bytes: u64, at: u64) -> bool {
        let passed = at.saturating_sub(self.at).min(DAY);
        let back = u128::from(self.a_day) * u128::from(passed) / u128::from(DAY);
        // What is less than a byte is not thrown away with the time it took.
        if back > 0 || self.at == 0 {
            self.at = at;
        }
        let back = u64::try_from(back).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(back).min(self.a_day);
        if self.a_day > 0 {
            let over = bytes.saturating_sub(self.left);
            self.overrun = self.overrun.saturating_add(over);
        }
        self.left = self.left.saturating_sub(bytes);
        let before = self.stretch;
        self.stretch = self.now();
        before != self.stretch
    }

    /// The window that `window` has become.
    pub(super) fn stretched(&self, window: Duration) -> Duration {
        let stretched = window.saturating_mul(self.stretch.max(1));
        stretched.min(LONGEST.max(window))
    }

    /// What a day may take, and what is left; `None`: no target.
    pub(super) fn left(&self) -> Option<(u64, u64)> {
        (self.a_day > 0).then_some((self.a_day, self.left))
    }

    fn now(&self) -> u32 {
        if self.a_day == 0 {
            return 1;
        }
        let steps = [(2, 1), (4, 2), (8, 4), (16, 8)];
        let step = steps
            .into_iter()
            .find(|(part, _)| self.left >= self.a_day / part);
        step.map_or(16, |(_, stretch)| stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = DAY / 24;
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_window_stretches_as_the_budget_drains_and_comes_back_with_time() {
        let mut budget = Budget::new(240_000);
        assert!(!budget.spend(100_000, HOUR));
        assert_eq!(budget.stretched(MINUTE), MINUTE);
        assert!(budget.spend(100_000, HOUR));
        assert_eq!(budget.stretched(MINUTE), 4 * MINUTE);
        assert!(budget.spend(60_000, HOUR));
        assert_eq!(budget.stretched(MINUTE), 16 * MINUTE);
        assert_eq!(budget.overrun, 20_000);
        assert_eq!(budget.stretched(10 * MINUTE), LONGEST);
        assert!(budget.spend(0, 13 * HOUR));
        assert_eq!(budget.left(), Some((240_000, 120_000)));
        assert_eq!(budget.stretched(MINUTE), MINUTE);
    }

    #[test]
    fn looking_often_refills_no_less() {
        let mut budget = Budget::new(1000);
        budget.spend(1000, 1);
        for step in 1..=10_000u64 {
            budget.spend(0, 1 + step * (DAY / 10_000));
        }
        assert!(budget.left().unwrap().1 > 950);
    }

    #[test]
    fn no_target_never_stretches_and_never_overruns() {
        let mut budget = Budget::new(0);
        assert!(!budget.spend(u64::MAX, HOUR));
        assert_eq!((budget.overrun, budget.left()), (0, None));
        assert_eq!(budget.stretched(MINUTE), MINUTE);
    }

    #[test]
    fn a_year_at_full_demand_stays_within_the_target_once_stretched() {
        let (mut budget, mut at, mut spent) = (Budget::new(10 << 20), DAY, 0u64);
        // 20 KiB a write, one each window: 28 MiB a day unstretched.
        while at < 366 * DAY {
            spent += 20 << 10;
            budget.spend(20 << 10, at);
            at += u64::try_from(budget.stretched(MINUTE).as_nanos()).unwrap();
        }
        assert_eq!(budget.overrun, 0);
        assert!(spent <= 366 * (10 << 20));
    }
}
