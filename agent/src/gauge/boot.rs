//! Boots, the agent's restarts, and suspends: facts that the start has found,
//! and the two clocks that a suspend tells apart.

use super::readings::text;
use super::table::{AGENT_RESTARTS, BOOT_COUNT, BOOT_REASON, SUSPENDED};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::boot::{self, Reason};
use crate::frame::Stamp;

/// Where the time of suspends comes from: the clock, or a test.
pub type Suspended = Box<dyn Fn() -> u64 + Send>;

/// Reads the family.
pub struct Boot {
    boot: boot::Boot,
    suspended: Suspended,
    /// The most that was seen, in milliseconds: looking takes time too.
    most_ms: u64,
    ids: Option<Ids>,
}

struct Ids {
    count: Option<SeriesId>,
    reason: Option<SeriesId>,
    restarts: Vec<(Reason, Option<SeriesId>)>,
    suspended: Option<SeriesId>,
}

impl Boot {
    /// With what the start has found.
    pub fn new(boot: boot::Boot, suspended: Suspended) -> Self {
        Self {
            boot,
            suspended,
            most_ms: 0,
            ids: None,
        }
    }

    fn name(&self, out: &mut Readings) -> Ids {
        let by = |reason: Reason| [("sonde.reason", text(reason.as_str()))];
        let restarts = self.boot.restarts().map(|(reason, _)| {
            let id = out.series(&AGENT_RESTARTS, &by(reason));
            (reason, id)
        });
        let restarts = restarts.collect();
        let reason = self.boot.reason();
        Ids {
            count: out.series(&BOOT_COUNT, &[]),
            reason: reason.and_then(|reason| out.series(&BOOT_REASON, &by(reason))),
            restarts,
            suspended: out.series(&SUSPENDED, &[]),
        }
    }
}

impl Source for Boot {
    fn family(&self) -> Family {
        Family::Boot
    }

    fn read(&mut self, _: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let ids = match self.ids.take() {
            Some(ids) => ids,
            None => self.name(out),
        };
        let count = self.boot.count().ok_or(Missing::Unsupported);
        out.put(ids.count, count.and_then(Value::whole));
        if self.boot.reason().is_some() {
            out.put(ids.reason, Ok(Value::Int(1)));
        }
        for ((_, count), (_, id)) in self.boot.restarts().zip(&ids.restarts) {
            out.put(*id, Value::whole(count));
        }
        let ms = ((self.suspended)() + 500_000) / 1_000_000;
        self.most_ms = self.most_ms.max(ms);
        out.put(ids.suspended, Ok(Value::Float(self.most_ms as f64 / 1e3)));
        self.ids = Some(ids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::gauge::Registry;

    const MS: u64 = 1_000_000;

    #[test]
    fn suspended_time_never_falls_and_is_not_what_looking_takes() {
        let slept = Arc::new(AtomicU64::new(0));
        let clock = slept.clone();
        let boot = boot::Boot::of_tests();
        let mut source = Boot::new(boot, Box::new(move || clock.load(Ordering::Relaxed)));
        for (ns, seconds) in [
            (300_000, 0.0),
            (7_200_000 * MS, 7200.0),
            (7_199_999 * MS + 400_000, 7200.0),
            (7_200_000 * MS + 90_000, 7200.0),
            (9_000_001 * MS, 9000.001),
        ] {
            slept.store(ns, Ordering::Relaxed);
            let mut out = Readings::new(Registry::default());
            source.ids = None;
            source.read(Stamp::default(), &mut out).unwrap();
            let value = out.value("sonde.host.suspended");
            assert_eq!(value, Some(Ok(Value::Float(seconds))));
        }
    }

    #[test]
    fn a_boot_that_cannot_be_told_from_others_has_no_number() {
        let mut source = Boot::new(boot::Boot::of_tests(), Box::new(|| 0));
        let mut out = Readings::new(Registry::default());
        source.read(Stamp::default(), &mut out).unwrap();
        let count = out.value("sonde.boot.count");
        assert_eq!(count, Some(Err(Missing::Unsupported)));
        assert_eq!(out.value("sonde.boot.reason sonde.reason=unknown"), None);
    }
}
