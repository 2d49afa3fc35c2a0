//! How fast and how often: a byte rate for the backlog, the rate at which it
//! drains, and the random parts of waits. Pure: `now` is passed in, in boot
//! nanoseconds.

use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// The drain rate is a mean over about this long.
const RATE_WINDOW_NS: u64 = 60 * SECOND_NS;

/// A token bucket that goes into debt: a frame's size is known only once it is
/// taken, so it may start as long as nothing is owed.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<u64>,
    /// All that was taken is paid for at this moment.
    paid_at: u64,
}

impl Bucket {
    pub(super) fn new(rate: Option<u64>, now: u64) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            paid_at: now,
        }
    }

    /// `None`: now.
    pub(super) fn ready_at(&self, now: u64) -> Option<u64> {
        (self.rate.is_some() && self.paid_at > now).then_some(self.paid_at)
    }

    pub(super) fn take(&mut self, now: u64, bytes: usize) {
        if let Some(rate) = self.rate {
            let cost = u128::from(SECOND_NS) * bytes as u128 / u128::from(rate);
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            self.paid_at = self.paid_at.max(now).saturating_add(cost);
        }
    }
}

/// How fast a backlog goes; measured only while one waits, since otherwise it
/// would be the rate of what comes in.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Option<u64>,
    bytes: u64,
}

impl Rate {
    pub(super) fn observe(&mut self, now: u64, backlog: bool) {
        match (backlog, self.since) {
            (false, _) => *self = Self::default(),
            (true, None) => self.since = Some(now),
            (true, Some(since)) if now.saturating_sub(since) > 2 * RATE_WINDOW_NS => {
                // Halve both: the older half of the past is forgotten.
                self.since = Some(now - (now - since) / 2);
                self.bytes /= 2;
            }
            (true, Some(_)) => {}
        }
    }

    pub(super) fn delivered(&mut self, bytes: usize) {
        if self.since.is_some() {
            self.bytes = self.bytes.saturating_add(bytes as u64);
        }
    }

    pub(super) fn bytes_a_second(&self, now: u64) -> Option<f64> {
        let elapsed = now.checked_sub(self.since?)?;
        (elapsed >= SECOND_NS / 2 && self.bytes > 0)
            .then(|| self.bytes as f64 * SECOND_NS as f64 / elapsed as f64)
    }
}

/// SplitMix64: good enough to keep a fleet apart, and a test can seed it.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from zero to `whole`.
    pub(super) fn part_of(&mut self, whole: Duration) -> Duration {
        let product = u128::from(nanos(whole)) * u128::from(self.next());
        Duration::from_nanos((product >> 64) as u64)
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
