//! How often something may happen: some in a row, then one in each interval.
//! Pure: the caller says what time it is.

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// So many in a row.
    pub burst: u64,
    /// After that one in each of these, in nanoseconds.
    pub refill_ns: u64,
}

/// What was taken, as the one moment that says all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When the bucket is full again (`boot_ns`).
    full_at: u64,
}

impl Bucket {
    /// Takes one. `false`: there is none, and nothing was taken.
    pub fn take(&mut self, rate: Rate, now: u64) -> bool {
        let after = self.full_at.max(now).saturating_add(rate.refill_ns);
        let allowed = after.saturating_sub(now) <= rate.burst * rate.refill_ns;
        if allowed {
            self.full_at = after;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_row_and_then_one_an_interval() {
        let rate = Rate {
            burst: 3,
            refill_ns: 10,
        };
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..9).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(&mut bucket, 100), 3);
        assert_eq!(taken(&mut bucket, 109), 0);
        assert_eq!(taken(&mut bucket, 110), 1);
        assert_eq!(taken(&mut bucket, 1000), 3);
    }
}
