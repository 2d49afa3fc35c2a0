//! How much local programs may ask of the gateway in a second. Pure.

use std::time::Duration;

/// How many seconds' worth may come at once.
const BURST: f64 = 4.0;

/// Fills at a rate; what is taken may leave it in debt.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: f64,
    level: f64,
}

impl Bucket {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            level: rate * BURST,
        }
    }

    fn fill(&mut self, seconds: f64) {
        self.level = (self.level + seconds * self.rate).min(self.rate * BURST);
    }

    /// Until there is something in it again.
    fn wait(&self) -> Option<Duration> {
        let missing = 1.0 - self.level;
        (missing > 0.0).then(|| Duration::from_secs_f64((missing / self.rate).min(60.0)))
    }
}

/// Requests and bytes, of all programs together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    requests: Bucket,
    bytes: Bucket,
    at_ns: u64,
}

impl Gate {
    /// Both per second, at least 1.
    pub(super) fn new(requests: u64, bytes: u64) -> Self {
        Self {
            requests: Bucket::new(requests.max(1) as f64),
            bytes: Bucket::new(bytes.max(1) as f64),
            at_ns: 0,
        }
    }

    /// Lets one request in, or says when to try again. How large it is shows
    /// later: [`Gate::charge`].
    pub(super) fn admit(&mut self, now_ns: u64) -> Result<(), Duration> {
        let seconds = now_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        self.at_ns = self.at_ns.max(now_ns);
        self.requests.fill(seconds);
        self.bytes.fill(seconds);
        match self.requests.wait().max(self.bytes.wait()) {
            Some(wait) => Err(wait),
            None => {
                self.requests.level -= 1.0;
                Ok(())
            }
        }
    }

    /// Takes unpacked bytes.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.bytes.level -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_let_in_and_the_rest_at_the_rate() {
        let mut gate = Gate::new(10, 1_000_000);
        let admitted = (0..100).filter(|_| gate.admit(S).is_ok()).count();
        assert_eq!(admitted, 40);
        assert!(gate.admit(S).unwrap_err() <= Duration::from_millis(100));
        assert_eq!((0..100).filter(|_| gate.admit(2 * S).is_ok()).count(), 10);
        // A clock that stands still or goes back fills nothing.
        assert!(gate.admit(S).is_err());
    }

    #[test]
    fn bytes_may_go_into_debt_once_and_are_waited_for() {
        let mut gate = Gate::new(1000, 1000);
        assert!(gate.admit(S).is_ok());
        gate.charge(9_000);
        let wait = gate.admit(S).unwrap_err();
        assert!((5.0..5.1).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(gate.admit(7 * S).is_ok());
    }
}
