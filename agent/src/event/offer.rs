//! What a local program may say, and how often. Whoever is refused is told why.

use std::collections::BTreeMap;
use std::fmt;

use opentelemetry::trace::SpanContext;

use super::name::is_valid;
use crate::rate::{Bucket, Rate};

/// Measurements and metadata together.
const MAX_FIELDS: usize = 32;

/// Bytes of one metadata value.
const MAX_VALUE: usize = 1024;

/// Events in a row, and after that ten a second. Far
/// more than a person or a control loop has to say, far less than flash minds.
const RATE: Rate = Rate {
    burst: 100,
    refill_ns: 100_000_000,
};

/// A local program's event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Its own; `sonde.` is the agent's.
    pub name: String,
    /// Numbers by key.
    pub measurements: Vec<(String, f64)>,
    /// Words by key.
    pub metadata: Vec<(String, String)>,
    /// The program's span.
    pub span: Option<SpanContext>,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No name, or one that breaks the rules.
    Name,
    /// A name that begins with `sonde.`.
    Reserved,
    /// A key that breaks the rules, or comes twice.
    Key,
    /// More than 32 fields.
    Fields,
    /// A value longer than 1024 bytes, or a number that is none.
    Value,
    /// Too many events.
    Rate,
}

impl Refusal {
    /// As in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Name => "name",
            Refusal::Reserved => "reserved",
            Refusal::Key => "key",
            Refusal::Fields => "fields",
            Refusal::Value => "value",
            Refusal::Rate => "rate",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Name => {
                "an event's name is of lower-case words with dots between them, such as pump.start, 64 bytes at most"
            }
            Refusal::Reserved => "names that begin with sonde. are the agent's own",
            Refusal::Key => {
                "a key is of lower-case words with dots between them, 64 bytes at most, and comes once"
            }
            Refusal::Fields => "an event has 32 measurements and metadata at most",
            Refusal::Value => "a value has 1024 bytes at most, and a measurement is a finite number",
            Refusal::Rate => "too many events: ten a second are taken; try again later",
        })
    }
}

/// The check and the rate. Pure.
#[derive(Debug, Default)]
pub(super) struct Admission {
    bucket: Bucket,
    refused: BTreeMap<String, u64>,
}

impl Admission {
    pub(super) fn admit(&mut self, offer: &Offer, now: u64) -> Result<(), Refusal> {
        let admitted = check(offer).and_then(|()| self.take(now));
        if let Err(refusal) = admitted {
            super::count(&mut self.refused, refusal.as_str());
        }
        admitted
    }

    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.clone()
    }

    fn take(&mut self, now: u64) -> Result<(), Refusal> {
        self.bucket
            .take(RATE, now)
            .then_some(())
            .ok_or(Refusal::Rate)
    }
}

fn check(offer: &Offer) -> Result<(), Refusal> {
    if !is_valid(&offer.name) {
        return Err(Refusal::Name);
    }
    if offer.name == "sonde" || offer.name.starts_with("sonde.") {
        return Err(Refusal::Reserved);
    }
    if offer.measurements.len() + offer.metadata.len() > MAX_FIELDS {
        return Err(Refusal::Fields);
    }
    let keys = || {
        let measured = offer.measurements.iter().map(|(key, _)| key);
        measured.chain(offer.metadata.iter().map(|(key, _)| key))
    };
    let once = |(at, key): (usize, &String)| keys().skip(at + 1).all(|other| other != key);
    if !keys().all(|key| is_valid(key)) || !keys().enumerate().all(once) {
        return Err(Refusal::Key);
    }
    let finite = offer
        .measurements
        .iter()
        .all(|(_, value)| value.is_finite());
    let short = offer
        .metadata
        .iter()
        .all(|(_, value)| value.len() <= MAX_VALUE);
    if !finite || !short {
        return Err(Refusal::Value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str) -> Offer {
        Offer {
            name: name.to_owned(),
            ..Offer::default()
        }
    }

    fn judged(change: impl FnOnce(&mut Offer)) -> Result<(), Refusal> {
        let mut offer = offer("pump.start");
        change(&mut offer);
        Admission::default().admit(&offer, 0)
    }

    #[test]
    fn hostile_offers_are_refused_by_reason() {
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(judged(|_| ()), Ok(()));
        assert_eq!(judged(|o| o.name.clear()), Err(Refusal::Name));
        assert_eq!(judged(|o| o.name = "Pump".into()), Err(Refusal::Name));
        assert_eq!(
            judged(|o| o.name = "sonde.agent.stop".into()),
            Err(Refusal::Reserved)
        );
        assert_eq!(judged(|o| o.name = "sonde".into()), Err(Refusal::Reserved));
        assert_eq!(
            judged(|o| o.metadata.push(text("a b", ""))),
            Err(Refusal::Key)
        );
        assert_eq!(
            judged(|o| {
                o.metadata.push(text("a", ""));
                o.measurements.push(("a".into(), 1.0));
            }),
            Err(Refusal::Key)
        );
        let many = |n: usize| (0..n).map(|i| (format!("k{i}"), 1.0)).collect::<Vec<_>>();
        assert_eq!(judged(|o| o.measurements = many(MAX_FIELDS)), Ok(()));
        assert_eq!(
            judged(|o| o.measurements = many(MAX_FIELDS + 1)),
            Err(Refusal::Fields)
        );
        for number in [f64::NAN, f64::INFINITY] {
            assert_eq!(
                judged(|o| o.measurements.push(("a".into(), number))),
                Err(Refusal::Value)
            );
        }
        let long = "x".repeat(MAX_VALUE + 1);
        assert_eq!(
            judged(|o| o.metadata.push(text("a", &long))),
            Err(Refusal::Value)
        );
    }

    #[test]
    fn a_burst_is_taken_then_ten_a_second_and_refusals_are_counted() {
        let mut admission = Admission::default();
        let offer = offer("pump.start");
        let mut taken = |now, tries: u32| {
            (0..tries)
                .filter(|_| admission.admit(&offer, now).is_ok())
                .count()
        };
        let start = 5_000_000_000;
        assert_eq!(taken(start, 1000), 100);
        assert_eq!(taken(start + 1_000_000_000, 1000), 10);
        assert_eq!(taken(start + 3_600_000_000_000, 1000), 100);
        assert_eq!(admission.refused().get("rate"), Some(&(3000 - 210)));
    }
}
