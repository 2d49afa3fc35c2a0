//! Local traces that the sampler left out, until it is known how they end.
//!
//! A local trace is a span without a local parent and everything below it. As
//! soon as one span of it fails, or it runs longer than the threshold, all of
//! it is kept: what waits here goes on, and what ends later does not wait. If
//! its root ends before that, it is forgotten.
//!
//! Bounded in traces, spans, bytes and age. What no longer fits is missing if
//! the trace is kept after all, and only then counted: the rest would have
//! been forgotten anyway. Pure.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::trace::SpanData;

use super::buffer::Item;

/// Says on a span that the sampler left out why it is sent nevertheless:
/// `error` or `slow`. Its sampled flag stays 0, see [`super::sampler`].
pub(crate) const KEPT: &str = "sonde.kept";

/// Local traces at a time: a gateway runs a handful of jobs at once.
const MAX_TRACES: usize = 64;

/// Spans of one; a runaway trace must not take the room of the others.
const MAX_TRACE_SPANS: usize = 128;

/// Spans and their bytes (estimated) over all.
const MAX_SPANS: usize = 512;
const MAX_BYTES: usize = 256 * 1024;

/// Spans that have waited longer are let go.
const MAX_AGE_NS: u64 = 600_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    traces: HashMap<SpanId, Trace>,
    spans: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Trace {
    began_ns: u64,
    kept: Option<&'static str>,
    waiting: Vec<Item<SpanData>>,
    bytes: usize,
    /// Spans that found no room.
    missing: usize,
}

/// What is to be sent, and how many are missing from it.
#[derive(Debug, Default)]
pub(crate) struct Released {
    pub(crate) spans: Vec<Item<SpanData>>,
    pub(crate) missing: usize,
}

impl Tail {
    /// A local root begins that the sampler left out. Without room for it, each
    /// of its spans is judged alone.
    pub(crate) fn begin(&mut self, root: SpanId, now_ns: u64) {
        if self.traces.len() < MAX_TRACES {
            self.traces.insert(
                root,
                Trace {
                    began_ns: now_ns,
                    kept: None,
                    waiting: Vec::new(),
                    bytes: 0,
                    missing: 0,
                },
            );
        }
    }

    /// A span below `root`, or the root itself, has ended. `slow`: for how long
    /// a healthy local trace may run.
    pub(crate) fn end(
        &mut self,
        root: SpanId,
        item: Item<SpanData>,
        slow: Duration,
        now_ns: u64,
    ) -> Released {
        let is_root = item.data.span_context.span_id() == root;
        let Some(mut trace) = self.traces.remove(&root) else {
            return alone(item, slow);
        };
        self.spans -= trace.waiting.len();
        self.bytes -= trace.bytes;
        let age_ns = now_ns.saturating_sub(trace.began_ns);
        // The root says for itself: it knows its kind, and its times were corrected.
        let ran = if is_root {
            Duration::ZERO
        } else {
            Duration::from_nanos(age_ns)
        };
        trace.kept = trace
            .kept
            .or(why(&item.data, is_root, slow))
            .or((ran > slow).then_some("slow"));
        if age_ns > MAX_AGE_NS && trace.kept.is_none() {
            trace.missing += trace.waiting.len();
            trace.waiting.clear();
            trace.bytes = 0;
        }
        let mut released = Released::default();
        if let Some(why) = trace.kept {
            trace.waiting.push(item);
            trace.bytes = 0;
            released.spans = std::mem::take(&mut trace.waiting);
            released.missing = std::mem::take(&mut trace.missing);
            for span in &mut released.spans {
                span.data.attributes.push(KeyValue::new(KEPT, why));
            }
        } else {
            let bytes = size(&item.data);
            let fits = trace.waiting.len() < MAX_TRACE_SPANS
                && self.spans + trace.waiting.len() < MAX_SPANS
                && self.bytes + trace.bytes + bytes <= MAX_BYTES;
            if fits {
                trace.waiting.push(item);
                trace.bytes += bytes;
            } else {
                trace.missing += 1;
            }
        }
        if !is_root {
            self.spans += trace.waiting.len();
            self.bytes += trace.bytes;
            self.traces.insert(root, trace);
        }
        released
    }
}

/// A span whose trace is not known here: kept if it is remarkable itself.
pub(crate) fn alone(mut item: Item<SpanData>, slow: Duration) -> Released {
    let mut released = Released::default();
    if let Some(why) = why(&item.data, true, slow) {
        item.data.attributes.push(KeyValue::new(KEPT, why));
        released.spans.push(item);
    }
    released
}

fn why(span: &SpanData, by_length: bool, slow: Duration) -> Option<&'static str> {
    if matches!(span.status, Status::Error { .. }) {
        return Some("error");
    }
    let took = span.end_time.duration_since(span.start_time);
    (by_length && took.unwrap_or_default() > slow).then_some("slow")
}

/// About what a span takes in memory.
fn size(span: &SpanData) -> usize {
    let fields = |attributes: &[KeyValue]| -> usize {
        let text = |kv: &KeyValue| 64 + kv.key.as_str().len() + kv.value.as_str().len();
        attributes.iter().map(text).sum()
    };
    let events = span
        .events
        .iter()
        .map(|it| 64 + it.name.len() + fields(&it.attributes));
    let links = span.links.iter().map(|it| 96 + fields(&it.attributes));
    300 + span.name.len() + fields(&span.attributes) + events.sum::<usize>() + links.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, SpanBuilder, Tracer as _};

    use super::*;
    use crate::trace::testing;

    const SLOW: Duration = Duration::from_secs(10);
    const SECOND: u64 = 1_000_000_000;

    fn item(failed: bool, name: &str) -> Item<SpanData> {
        let (tracer, finished) = testing::tracer();
        let builder = SpanBuilder::from_name(name.to_owned());
        let mut span = tracer.build(builder);
        if failed {
            span.set_status(Status::error("no"));
        }
        span.end();
        Item {
            first: crate::frame::Stamp::default(),
            last: crate::frame::Stamp::default(),
            data: finished.all().remove(0),
        }
    }

    fn id(item: &Item<SpanData>) -> SpanId {
        item.data.span_context.span_id()
    }

    #[test]
    fn a_healthy_trace_is_forgotten_and_leaves_nothing_behind() {
        let mut tail = Tail::default();
        let root = item(false, "root");
        tail.begin(id(&root), 0);
        assert!(
            tail.end(id(&root), item(false, "a"), SLOW, SECOND)
                .spans
                .is_empty()
        );
        assert_eq!(tail.spans, 1);
        assert!(tail.end(id(&root), root, SLOW, SECOND).spans.is_empty());
        assert_eq!((tail.traces.len(), tail.spans, tail.bytes), (0, 0, 0));
    }

    #[test]
    fn a_failed_child_keeps_what_came_before_it_and_what_comes_after() {
        let mut tail = Tail::default();
        let root = item(false, "root");
        let of = id(&root);
        tail.begin(of, 0);
        tail.end(of, item(false, "before"), SLOW, 0);
        let released = tail.end(of, item(true, "failed"), SLOW, 0);
        assert_eq!(released.spans.len(), 2);
        assert_eq!(tail.end(of, item(false, "after"), SLOW, 0).spans.len(), 1);
        let last = tail.end(of, root, SLOW, 0).spans;
        assert_eq!(last.len(), 1);
        assert!(
            last[0]
                .data
                .attributes
                .contains(&KeyValue::new(KEPT, "error"))
        );
        assert_eq!((tail.traces.len(), tail.spans, tail.bytes), (0, 0, 0));
    }

    #[test]
    fn a_trace_that_runs_too_long_is_kept_before_it_ends() {
        let mut tail = Tail::default();
        let of = SpanId::from(7);
        tail.begin(of, 0);
        assert!(
            tail.end(of, item(false, "early"), SLOW, 9 * SECOND)
                .spans
                .is_empty()
        );
        let released = tail.end(of, item(false, "late"), SLOW, 11 * SECOND);
        assert_eq!(released.spans.len(), 2);
        assert!(
            released.spans[0]
                .data
                .attributes
                .contains(&KeyValue::new(KEPT, "slow"))
        );
    }

    #[test]
    fn a_runaway_trace_is_bounded_and_says_what_is_missing_once_it_fails() {
        let mut tail = Tail::default();
        let of = SpanId::from(7);
        tail.begin(of, 0);
        for _ in 0..1000 {
            assert_eq!(tail.end(of, item(false, "a"), SLOW, 0).missing, 0);
        }
        assert!(tail.bytes <= MAX_BYTES && tail.spans == MAX_TRACE_SPANS);
        let released = tail.end(of, item(true, "failed"), SLOW, 0);
        assert_eq!(released.spans.len(), MAX_TRACE_SPANS + 1);
        assert_eq!(released.missing, 1000 - MAX_TRACE_SPANS);
    }

    #[test]
    fn many_traces_share_the_room() {
        let mut tail = Tail::default();
        let long = "x".repeat(2000);
        for trace in 1..=200_u64 {
            tail.begin(SpanId::from(trace), 0);
            for _ in 0..4 {
                tail.end(SpanId::from(trace), item(false, &long), SLOW, 0);
            }
        }
        assert_eq!(tail.traces.len(), MAX_TRACES);
        assert!(
            tail.bytes <= MAX_BYTES && tail.spans <= MAX_SPANS,
            "{} {}",
            tail.bytes,
            tail.spans
        );
        let failed = tail.end(SpanId::from(150), item(true, "alone"), SLOW, 0);
        assert_eq!(failed.spans.len(), 1, "judged alone");
    }

    #[test]
    fn spans_that_have_waited_too_long_are_let_go() {
        let mut tail = Tail::default();
        let of = SpanId::from(7);
        let day = Duration::from_secs(86_400);
        tail.begin(of, 0);
        tail.end(of, item(false, "old"), day, 0);
        tail.end(of, item(false, "new"), day, MAX_AGE_NS + 1);
        let released = tail.end(of, item(true, "failed"), day, MAX_AGE_NS + 1);
        assert_eq!((released.spans.len(), released.missing), (2, 1));
    }
}
