//! The SDK's hooks: what has ended goes into a [`Buffer`]. No thread, no wait,
//! no export from here.
//!
//! A span that was sampled is kept. One that was only recorded (routine work
//! that the ratio left out, and its children) is kept if it failed or took
//! longer than `trace.slow`.
//!
//! If the wall clock was set while a span ran, its start is moved so that its
//! length is what the boot clock measured: otherwise the first synchronisation
//! of a gateway without a clock battery makes a span of fifty years.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::logs::LogRecord;
use opentelemetry::trace::{Span as _, SpanId, Status};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::AgentSampler;
use super::buffer::{Buffer, Item, stepped};
use crate::clock::Clock;
use crate::frame::{Stamp, push_hex};

/// Spans running at once whose start is remembered by both clocks; the rest
/// are timed by the wall clock alone.
const OPEN: usize = 256;

/// A log record and the scope it was emitted in.
pub(crate) type ScopedRecord = (SdkLogRecord, InstrumentationScope);

/// Puts finished spans into their buffer.
#[derive(Debug)]
pub(crate) struct SpanKeeper {
    pub(crate) buffer: Arc<Buffer<SpanData>>,
    pub(crate) clock: Clock,
    pub(crate) sampler: AgentSampler,
    pub(crate) own_flush: OwnFlush,
    open: Mutex<HashMap<SpanId, Stamp>>,
}

/// The span of the flush that is going on, so that its end asks for no other flush.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnFlush(Arc<AtomicU64>);

impl OwnFlush {
    pub(crate) fn set(&self, id: SpanId) {
        self.0
            .store(u64::from_be_bytes(id.to_bytes()), Ordering::Relaxed);
    }

    fn is(&self, id: SpanId) -> bool {
        self.0.load(Ordering::Relaxed) == u64::from_be_bytes(id.to_bytes())
    }
}

impl SpanKeeper {
    pub(crate) fn new(
        buffer: Arc<Buffer<SpanData>>,
        clock: Clock,
        sampler: AgentSampler,
        own_flush: OwnFlush,
    ) -> Self {
        Self {
            buffer,
            clock,
            sampler,
            own_flush,
            open: Mutex::new(HashMap::new()),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SpanId, Stamp>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpanProcessor for SpanKeeper {
    fn on_start(&self, span: &mut Span, _: &Context) {
        let mut open = self.open();
        if open.len() < OPEN {
            open.insert(span.span_context().span_id(), self.clock.now());
        }
    }

    fn on_end(&self, mut span: SpanData) {
        let id = span.span_context.span_id();
        let started = self.open().remove(&id);
        let now = self.clock.now();
        if let Some((start, end)) = started.and_then(|started| corrected(started, now)) {
            span.start_time = start;
            span.end_time = end;
        }
        if !span.span_context.is_sampled() && !is_remarkable(&span, self.sampler.slow()) {
            return;
        }
        // When the agent had it, not when it began: the loss window counts from
        // here, and one long span must not make its batch look overdue.
        let item = Item {
            first: now,
            last: now,
            data: span,
        };
        self.buffer.push(item, !self.own_flush.is(id));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Puts emitted log records into their buffer, each with a name of its own:
/// delivery is at least once, and a receiver tells a repeat by `log.record.uid`.
#[derive(Debug)]
pub(crate) struct LogKeeper {
    pub(crate) buffer: Arc<Buffer<ScopedRecord>>,
    pub(crate) clock: Clock,
}

impl LogProcessor for LogKeeper {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        let now = self.clock.now();
        if let Some(uid) = random_uid() {
            record.add_attribute("log.record.uid", uid);
        }
        let item = Item {
            first: now,
            last: now,
            data: (record.clone(), scope.clone()),
        };
        self.buffer.push(item, true);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Start and end by the clock as it is now, if it was set in between.
fn corrected(started: Stamp, now: Stamp) -> Option<(SystemTime, SystemTime)> {
    let ran = now.boot_ns.saturating_sub(started.boot_ns);
    let start = now.unix_ns.saturating_sub(ran);
    stepped(started, now).then(|| (at(start), at(now.unix_ns)))
}

/// Failed or slow.
fn is_remarkable(span: &SpanData, slow: Duration) -> bool {
    let failed = matches!(span.status, Status::Error { .. });
    let took = span.end_time.duration_since(span.start_time);
    failed || took.unwrap_or_default() > slow
}

/// 128 random bits in hexadecimal. Not a ULID: that starts with the wall
/// clock, which says the same 1970 at every start of some gateways. Without
/// randomness the record goes unnamed rather than under a name that repeats.
fn random_uid() -> Option<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).ok()?;
    let mut uid = String::with_capacity(32);
    push_hex(&mut uid, &bits);
    Some(uid)
}

fn at(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stamp(unix_s: u64, boot_s: u64) -> Stamp {
        Stamp {
            unix_ns: unix_s * SECOND,
            boot_ns: boot_s * SECOND,
        }
    }

    #[test]
    fn a_span_over_the_first_synchronisation_is_as_long_as_the_boot_clock_says() {
        let now = 1_800_000_000;
        let times = corrected(stamp(40, 40), stamp(now, 42));
        assert_eq!(times, Some((at((now - 2) * SECOND), at(now * SECOND))));
    }

    #[test]
    fn a_span_over_a_step_back_does_not_end_before_it_starts() {
        let now = 1_800_000_000;
        let times = corrected(stamp(now + 3600, 40), stamp(now, 42));
        assert_eq!(times, Some((at((now - 2) * SECOND), at(now * SECOND))));
    }

    #[test]
    fn a_clock_that_is_only_slewed_leaves_a_span_alone() {
        let mut end = stamp(1_800_000_060, 100);
        end.unix_ns += SECOND / 2;
        assert_eq!(corrected(stamp(1_800_000_000, 40), end), None);
    }
}
