//! Ids of spans: random, but where a span that an earlier process began, or
//! that is known before it begins, goes by the id that others have heard of.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::frame::TraceContext;

thread_local! {
    /// For the one span that is being built on this thread.
    static KNOWN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// The generator of every tracer.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        let known = KNOWN.get().map(|(trace, _)| trace);
        known.unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        let known = KNOWN.get().map(|(_, span)| span);
        known.unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Builds one span under the id that `context` names. Its trace is its parent's.
pub(crate) fn as_known<T>(context: &TraceContext, build: impl FnOnce() -> T) -> T {
    let trace = TraceId::from_bytes(context.trace_id);
    KNOWN.set(Some((trace, SpanId::from_bytes(context.span_id))));
    let built = build();
    KNOWN.set(None);
    built
}

/// The context that a child of `parent` will have.
pub(crate) fn child_of(parent: &TraceContext) -> TraceContext {
    let id = RandomIdGenerator::default().new_span_id();
    TraceContext {
        span_id: id.to_bytes(),
        ..parent.clone()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;
    use crate::trace::{context_of, testing};

    #[test]
    fn a_span_goes_by_a_known_id_and_the_next_one_by_its_own() {
        let (tracer, _) = testing::tracer();
        let first = context_of(tracer.start("first").span_context());
        let known = child_of(&first);
        assert_ne!(known.span_id, first.span_id);
        let again = as_known(&known, || tracer.start("again"));
        assert_eq!(context_of(again.span_context()), known);
        let next = context_of(tracer.start("next").span_context());
        assert_ne!(next.trace_id, known.trace_id);
    }
}
