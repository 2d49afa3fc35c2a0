//! The SDK's hooks: what has ended goes into a [`Buffer`]. No thread, no wait,
//! no export from here.
//!
//! A span that was sampled is kept. One that was only recorded (the sampler
//! left its trace out) waits in the [`Tail`] until it is known how its local
//! trace ends.
//!
//! If the wall clock was set while a span ran, its start is moved so that its
//! length is what the boot clock measured: otherwise the first synchronisation
//! of a gateway without a clock battery makes a span of fifty years.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::logs::LogRecord;
use opentelemetry::trace::{Span as _, SpanId, TraceContextExt as _};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::buffer::{Buffer, Item, stepped};
use super::drops::{Drops, What, Why};
use super::tail::{Tail, alone};
use super::{AgentSampler, console};
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
    drops: Drops,
    pub(crate) own_flush: OwnFlush,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<SpanId, Open>,
    tail: Tail,
}

/// A span that runs.
#[derive(Clone, Copy, Debug)]
struct Open {
    started: Stamp,
    /// The local root that it belongs to; may be itself.
    root: SpanId,
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
        drops: Drops,
        own_flush: OwnFlush,
    ) -> Self {
        Self {
            buffer,
            clock,
            sampler,
            drops,
            own_flush,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, item: Item<SpanData>) {
        let to = self.sampler.exporter();
        if to.console && !console::write(&item.data) {
            self.drops.add(What::Spans, Why::Console, 1);
        }
        if to.otlp {
            let id = item.data.span_context.span_id();
            self.buffer.push(item, !self.own_flush.is(id));
        }
    }
}

impl SpanProcessor for SpanKeeper {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        let mut state = self.state();
        if state.open.len() >= OPEN {
            return;
        }
        let id = span.span_context().span_id();
        let parent = parent.span().span_context().clone();
        // The parent of another process, and one that has ended, has no entry.
        let above = state.open.get(&parent.span_id()).map(|above| above.root);
        let started = self.clock.now();
        let root = above.unwrap_or(id);
        state.open.insert(id, Open { started, root });
        if root == id && !span.span_context().is_sampled() {
            state.tail.begin(id, started.boot_ns);
        }
    }

    fn on_end(&self, mut span: SpanData) {
        let id = span.span_context.span_id();
        let open = self.state().open.remove(&id);
        let now = self.clock.now();
        if let Some((start, end)) = open.and_then(|open| corrected(open.started, now)) {
            span.start_time = start;
            span.end_time = end;
        }
        // When the agent had it, not when it began: the loss window counts from
        // here, and one long span must not make its batch look overdue.
        let item = Item {
            first: now,
            last: now,
            data: span,
        };
        if item.data.span_context.is_sampled() {
            return self.send(item);
        }
        let slow = self.sampler.slow(&item.data.attributes);
        let released = match open {
            Some(open) => self.state().tail.end(open.root, item, slow, now.boot_ns),
            None => alone(item, slow),
        };
        self.drops.add(What::Spans, Why::TailFull, released.missing);
        released.spans.into_iter().for_each(|item| self.send(item));
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
