//! The spans of attempts to connect, and what came of them as span events and
//! [`Events`].
//!
//! A failed span is kept whatever the sampling ratio, and own spans cost flash
//! while the link is down. So of an outage only the first failed attempt makes
//! a span, and the attempt that ends it, which says how many failed before: two
//! spans, however long it lasts. (One for each attempt would be 288 to 576 a
//! day and uplink at the default `backoff_max` of five minutes.) A connection
//! that is made anew without an outage is routine work.
//!
//! Changes of link and circuit are edges, so they are few too. Each is an event
//! on the span of the attempt that led to it: that span is held, with its end
//! fixed, until it is known what came of it. A connection that breaks while data
//! is sent has no attempt: that edge stands on the one that follows. A circuit
//! that a server opened by refusing data has none either, and none may follow:
//! that edge makes a span of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status};
use opentelemetry_sdk::trace::Span;

use super::delivery::{Change, Turn};
use crate::clock::Clock;
use crate::event::name::{CIRCUIT_CLOSED, CIRCUIT_HALF_OPEN, CIRCUIT_OPEN, UPLINK_DOWN, UPLINK_UP};
use crate::event::{Events, Name};
use crate::frame::Stamp;
use crate::trace::{ROUTINE, Tracer};

/// Makes the spans of one uplink.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) tracer: Tracer,
    clock: Clock,
    events: Events,
    uplink: &'static str,
    attributes: Vec<KeyValue>,
    /// Failed in a row.
    failed: u32,
    /// The span of the last attempt, and its end.
    held: Option<(Span, SystemTime)>,
    /// The link went down without an attempt: for the span of the next.
    broke: Option<(SystemTime, Vec<KeyValue>)>,
}

impl Attempts {
    pub(super) fn new(
        tracer: Tracer,
        clock: Clock,
        events: Events,
        uplink: &'static str,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Self {
        Self {
            tracer,
            clock,
            events,
            uplink,
            attributes: attributes.into_iter().collect(),
            failed: 0,
            held: None,
            broke: None,
        }
    }

    /// An attempt that began then is over now, and failed if there is an `error`.
    /// Gives the context of its span, if it has one, for what is logged about it.
    pub(super) fn ended(&mut self, began: Stamp, error: Option<&str>) -> Option<SpanContext> {
        self.close();
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
        let mut span = SpanBuilder::from_name(format!("connect {}", self.uplink))
            .with_kind(SpanKind::Client)
            .with_start_time(wall(now.unix_ns.saturating_sub(took)))
            .with_attributes(attributes)
            .start(&self.tracer);
        if let Some(error) = error {
            span.set_status(Status::error(error.to_owned()));
        }
        if let Some((at, attributes)) = self.broke.take() {
            span.add_event_with_timestamp(UPLINK_DOWN.as_str(), at, attributes);
        }
        let context = span.span_context().clone();
        self.held = Some((span, wall(now.unix_ns)));
        Some(context)
    }

    /// What came of the last attempt, or of what was sent.
    pub(super) fn became(&mut self, change: Option<&Change>, turns: &[Turn]) {
        match change {
            None => {}
            Some(Change::Up { after }) => {
                let down = after.map(|after| ("down", after.as_secs_f64()));
                self.tell(UPLINK_UP, down, &[]);
            }
            Some(Change::Down { why }) => self.tell(UPLINK_DOWN, None, &[("error", why)]),
            Some(Change::Held { reason }) => self.opened(&[("error", reason)]),
            Some(Change::SignalHeld { signal, reason }) => {
                self.opened(&[("signal", signal.as_str()), ("error", reason)]);
            }
            Some(Change::SignalTaken { signal }) => {
                self.tell(CIRCUIT_CLOSED, None, &[("signal", signal.as_str())]);
            }
        }
        for turn in turns {
            match turn {
                Turn::HalfOpen => self.tell(CIRCUIT_HALF_OPEN, None, &[]),
                Turn::Closed => self.tell(CIRCUIT_CLOSED, None, &[]),
            }
        }
        if change.is_some() {
            self.close();
        }
    }

    /// Nothing more comes of the last attempt.
    pub(super) fn close(&mut self) {
        if let Some((mut span, end)) = self.held.take() {
            span.end_with_timestamp(end);
        }
    }

    fn opened(&mut self, metadata: &[(&str, &str)]) {
        if self.held.is_none() {
            let now = wall(self.clock.now().unix_ns);
            let mut span = SpanBuilder::from_name(format!("refused {}", self.uplink))
                .with_kind(SpanKind::Internal)
                .with_start_time(now)
                .with_attributes(self.attributes.clone())
                .start(&self.tracer);
            let error = metadata.last().map_or("", |(_, error)| error);
            span.set_status(Status::error(error.to_owned()));
            self.held = Some((span, now));
        }
        self.tell(CIRCUIT_OPEN, None, metadata);
    }

    fn tell(&mut self, name: Name, measured: Option<(&str, f64)>, metadata: &[(&str, &str)]) {
        let text =
            |(key, value): &(&str, &str)| KeyValue::new((*key).to_owned(), (*value).to_owned());
        let number = measured.map(|(key, value)| KeyValue::new(key.to_owned(), value));
        let attributes = metadata.iter().map(text).chain(number).collect();
        let mut context = None;
        if let Some((span, end)) = &mut self.held {
            span.add_event_with_timestamp(name.as_str(), *end, attributes);
            context = Some(span.span_context().clone());
        } else if name == UPLINK_DOWN {
            self.broke = Some((wall(self.clock.now().unix_ns), attributes));
        }
        let mut all = vec![("uplink", self.uplink)];
        all.extend_from_slice(metadata);
        self.events
            .emit_in(context, name, measured.as_slice(), &all);
    }
}

fn wall(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockTrust;
    use crate::event::testing::{Heard, events};
    use crate::trace::testing::{self, Finished};

    fn attempts() -> (Attempts, Clock, Finished, Heard) {
        let (tracer, finished) = testing::tracer();
        let (events, heard) = events();
        let clock = Clock::new(ClockTrust::Always);
        let attempts = Attempts::new(tracer, clock.clone(), events, "otlp", []);
        (attempts, clock, finished, heard)
    }

    /// Name and span events of each span.
    fn said(finished: &Finished) -> Vec<(String, Vec<String>)> {
        let spans = finished.all();
        let spans = spans.iter().map(|span| {
            let events = span.events.iter().map(|event| event.name.to_string());
            (span.name.to_string(), events.collect())
        });
        spans.collect()
    }

    #[test]
    fn an_outage_makes_two_spans_however_long_it_lasts() {
        let (mut attempts, clock, finished, _) = attempts();
        attempts.ended(clock.now(), None);
        for _ in 0..1000 {
            attempts.ended(clock.now(), Some("refused"));
        }
        attempts.ended(clock.now(), None);
        attempts.ended(clock.now(), None);
        attempts.close();
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

    #[test]
    fn what_came_of_an_attempt_is_an_event_on_its_span_and_an_event_of_its_own() {
        let (mut attempts, clock, finished, heard) = attempts();
        attempts.ended(clock.now(), Some("refused"));
        let why = "refused".to_owned();
        attempts.became(Some(&Change::Down { why }), &[]);
        for _ in 0..100 {
            attempts.ended(clock.now(), Some("refused"));
            attempts.became(None, &[]);
        }
        attempts.ended(clock.now(), None);
        attempts.became(None, &[]);
        assert_eq!(finished.all().len(), 1, "held until data is taken");
        let after = Some(Duration::from_secs(7));
        attempts.became(Some(&Change::Up { after }), &[]);
        let down = "sonde.uplink.down".to_owned();
        let up = "sonde.uplink.up".to_owned();
        let connect = || "connect otlp".to_owned();
        assert_eq!(
            said(&finished),
            [
                (connect(), vec![down.clone()]),
                (connect(), vec![up.clone()])
            ]
        );
        assert_eq!(heard.names(), [down, up]);
        let last = heard.all().pop().unwrap();
        assert!(last.has_span);
        assert_eq!(last.text("uplink"), Some("otlp"));
        assert_eq!(last.measurements, [("down".to_owned(), 7.0)]);
    }

    #[test]
    fn a_connection_that_broke_is_told_on_the_attempt_that_follows() {
        let (mut attempts, clock, finished, heard) = attempts();
        let why = "reset".to_owned();
        attempts.became(Some(&Change::Down { why }), &[]);
        attempts.ended(clock.now(), Some("refused"));
        attempts.ended(clock.now(), None);
        attempts.close();
        let connect = || "connect otlp".to_owned();
        let down = vec!["sonde.uplink.down".to_owned()];
        assert_eq!(said(&finished), [(connect(), down), (connect(), vec![])]);
        assert_eq!(heard.names(), ["sonde.uplink.down"]);
    }

    #[test]
    fn a_circuit_that_refused_data_opened_makes_one_span_and_its_probes_none() {
        let (mut attempts, _, finished, heard) = attempts();
        let reason = "401".to_owned();
        attempts.became(Some(&Change::Held { reason }), &[]);
        attempts.became(None, &[Turn::HalfOpen]);
        for _ in 0..100 {
            attempts.became(None, &[]);
        }
        attempts.became(Some(&Change::Up { after: None }), &[Turn::Closed]);
        assert_eq!(
            said(&finished),
            [(
                "refused otlp".to_owned(),
                vec!["sonde.circuit.open".to_owned()]
            )]
        );
        assert_eq!(
            heard.names(),
            [
                "sonde.circuit.open",
                "sonde.circuit.half_open",
                "sonde.uplink.up",
                "sonde.circuit.closed"
            ]
        );
    }
}
