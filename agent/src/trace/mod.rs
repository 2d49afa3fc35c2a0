//! The agent's own spans, through the OpenTelemetry SDK into the spool.

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanBuilder, SpanContext, SpanKind};

use crate::clock::Clock;
use crate::config::{Logging, Tracing};
use crate::frame::TraceContext;
use crate::identity::Identity;
use crate::spool::Spool;

/// The SDK's tracer; cheap to clone.
pub type Tracer = opentelemetry_sdk::trace::SdkTracer;

/// The attribute that marks a routine span for the sampler: healthy ones are
/// kept at `trace.routine_ratio`, failed and slow ones always.
pub const ROUTINE: &str = "sonde.routine";

/// A builder for a span of routine work.
pub fn routine(name: &'static str, kind: SpanKind) -> SpanBuilder {
    SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_attributes([KeyValue::new(ROUTINE, true)])
}

/// A span's context as it travels with a frame.
pub fn context_of(span: &SpanContext) -> TraceContext {
    TraceContext {
        trace_id: span.trace_id().to_bytes(),
        span_id: span.span_id().to_bytes(),
        flags: span.trace_flags().to_u8(),
        state: span.trace_state().header().into(),
    }
}

/// The SDK and the path from it into the spool: spans and log records.
pub struct Telemetry {
    /// For everybody's spans.
    pub tracer: Tracer,
}

impl Telemetry {
    /// Starts the providers, installs the journal's upstream path and the flush task.
    pub fn start(
        trace: &Tracing,
        log: &Logging,
        identity: &Identity,
        spool: Spool,
        clock: Clock,
        flush_every: std::time::Duration,
    ) -> Self {
        let _ = (trace, log, identity, spool, clock, flush_every);
        todo!()
    }

    /// Sends what is buffered to the spool and ends the flush task.
    pub async fn stop(self) {
        todo!()
    }
}
