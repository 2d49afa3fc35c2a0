//! The spans of attempts to connect.
//!
//! A failed span is kept whatever the sampling ratio, and own spans cost flash
//! while the link is down. So of an outage only the first failed attempt makes
//! a span, and the attempt that ends it, which says how many failed before: two
//! spans, however long it lasts. (One for each attempt would be 288 to 576 a
//! day and uplink at the default `backoff_max` of five minutes.) A connection
//! that is made anew without an outage is routine work.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status};

use crate::clock::Clock;
use crate::frame::Stamp;
use crate::trace::{ROUTINE, Tracer};

/// Makes the spans of one uplink.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) tracer: Tracer,
    clock: Clock,
    name: &'static str,
    attributes: Vec<KeyValue>,
    /// Failed in a row.
    failed: u32,
}

impl Attempts {
    pub(super) fn new(
        tracer: Tracer,
        clock: Clock,
        name: &'static str,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Self {
        Self {
            tracer,
            clock,
            name,
            attributes: attributes.into_iter().collect(),
            failed: 0,
        }
    }

    /// An attempt that began then is over now, and failed if there is an `error`.
    /// Gives the context of its span, if it has one, for what is logged about it.
    pub(super) fn ended(&mut self, began: Stamp, error: Option<&str>) -> Option<SpanContext> {
        let before = self.failed;
        self.failed = match error {
            Some(_) => before.saturating_add(1),
            None => 0,
        };
        if error.is_some() && before > 0 {
            return None;
        }
        let mut attributes = self.attributes.clone();
        if before > 0 {
            attributes.push(KeyValue::new("sonde.attempts.failed", i64::from(before)));
        } else {
            attributes.push(KeyValue::new(ROUTINE, true));
        }
        // By the clock as it is now, should it have been set meanwhile.
        let now = self.clock.now();
        let took = now.boot_ns.saturating_sub(began.boot_ns);
        let mut span = SpanBuilder::from_name(self.name)
            .with_kind(SpanKind::Client)
            .with_start_time(wall(now.unix_ns.saturating_sub(took)))
            .with_attributes(attributes)
            .start(&self.tracer);
        if let Some(error) = error {
            span.set_status(Status::error(error.to_owned()));
        }
        span.end_with_timestamp(wall(now.unix_ns));
        Some(span.span_context().clone())
    }
}

fn wall(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockTrust;
    use crate::trace::testing;

    #[test]
    fn an_outage_makes_two_spans_however_long_it_lasts() {
        let (tracer, finished) = testing::tracer();
        let clock = Clock::new(ClockTrust::Always);
        let mut attempts = Attempts::new(tracer, clock.clone(), "connect", []);
        attempts.ended(clock.now(), None);
        for _ in 0..1000 {
            attempts.ended(clock.now(), Some("refused"));
        }
        attempts.ended(clock.now(), None);
        attempts.ended(clock.now(), None);
        let spans = finished.all();
        let said: Vec<_> = spans
            .iter()
            .map(|span| {
                let has = |key: &str| span.attributes.iter().find(|kv| kv.key.as_str() == key);
                let failed = has("sonde.attempts.failed").map(|kv| kv.value.as_str().into_owned());
                let error = matches!(span.status, Status::Error { .. });
                (error, has(ROUTINE).is_some(), failed)
            })
            .collect();
        let end = Some("1000".to_owned());
        assert_eq!(
            said,
            [
                (false, true, None),
                (true, true, None),
                (false, false, end),
                (false, true, None)
            ]
        );
    }
}
