//! The agent's own spans and log records, through the OpenTelemetry SDK into
//! the spool.
//!
//! ```text
//!  tracer ─ sampler ─ SpanKeeper ─┐ bounded            ┌ opentelemetry-otlp
//!                                 ├ Buffer ─ Flusher ──┤ encodes, Handoff ─ gzip ─► spool
//!  log! ─ journal ─ LogKeeper ────┘ never blocks       └ one request, one frame
//! ```
//!
//! Promises: ending a span or logging never waits and never starts a thread;
//! what does not reach the spool is counted by reason ([`Drops`]). Refuses to
//! watch itself: the path from the buffers to the spool makes no telemetry but
//! one routine span per flush, and none at all about uploading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::logs::LoggerProvider as _;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanKind, TraceContextExt as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::config::{Logging, Tracing};
use crate::event;
use crate::frame::TraceContext;
use crate::identity::Identity;
use crate::journal;
use crate::spool::Spool;
use crate::vitals;

pub(crate) mod buffer;
mod console;
mod drops;
mod export;
mod flush;
pub(crate) mod ids;
mod keeper;
mod processor;
pub mod propagation;
mod sampler;
mod tail;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod unsealed;

pub use drops::Drops;
pub use keeper::Keeper;
pub use sampler::AgentSampler;
pub use unsealed::Unsealed;

use buffer::Buffer;
use drops::{What, Why};
use export::{LogEncoder, SpanEncoder};
use flush::{Flusher, Sink};
use processor::{LogKeeper, OwnFlush, ScopedRecord, SpanKeeper};

/// The SDK's tracer; cheap to clone.
pub type Tracer = opentelemetry_sdk::trace::SdkTracer;

/// The attribute that marks a routine span for the sampler: healthy ones are
/// kept at `trace.routine_ratio`, failed and slow ones always.
pub const ROUTINE: &str = "sonde.routine";

/// The attribute that marks a span that others hang on: it is on flash before its
/// context leaves the gateway. Not sent itself.
pub const DURABLE: &str = "sonde.durable";

/// The longest that [`Telemetry::stop`] takes. A part of the shutdown's bound:
/// the spool still has to write afterwards.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

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

/// The context of work that is done within a span: what it logs names that
/// span. For futures: `work.with_context(trace::inside(span.span_context()))`.
pub fn inside(span: &SpanContext) -> Context {
    Context::current().with_remote_span_context(span.clone())
}

/// Does something short within a span, see [`inside`].
pub fn within<T>(span: &SpanContext, work: impl FnOnce() -> T) -> T {
    let _entered = inside(span).attach();
    work()
}

/// The SDK and the path from it into the spool: spans and log records.
#[derive(Debug)]
pub struct Telemetry {
    /// For everybody's spans.
    pub tracer: Tracer,
    logger: SdkLogger,
    sampler: AgentSampler,
    spans: Arc<Buffer<SpanData>>,
    logs: Arc<Buffer<ScopedRecord>>,
    resource: Resource,
    drops: Drops,
    keeper: Keeper,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Telemetry {
    /// Starts the providers, installs the journal's upstream path and the flush
    /// task. Needs a running tokio runtime.
    ///
    /// `flush_every`: the batch length. A buffer that is half full does not wait for it.
    pub fn start(
        trace: &Tracing,
        log: &Logging,
        identity: &Identity,
        spool: Spool,
        clock: Clock,
        flush_every: Duration,
    ) -> Self {
        let telemetry = Self::start_into(spool, trace, identity, clock, flush_every);
        journal::reconfigure(log);
        journal::attach(telemetry.logger.clone());
        telemetry
    }

    /// New sampling rules and log levels, as after a reload.
    pub fn reconfigure(&self, trace: &Tracing, log: &Logging) {
        self.sampler.reconfigure(trace);
        journal::reconfigure(log);
    }

    /// What was dropped since the start, by reason, the journal's part included.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        let mut all = self.drops.snapshot();
        all.extend(journal::dropped());
        all
    }

    /// The counters of spans and log records lost between here and the spool,
    /// for whoever outlives or cannot borrow `self`; [`journal::dropped`] has the rest.
    pub fn drops(&self) -> Drops {
        self.drops.clone()
    }

    /// Makes spans safe, for whoever sends their contexts on.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// The handler that makes log records of events.
    pub fn event_log(&self) -> event::Upstream {
        event::Upstream::new(self.logger.clone())
    }

    /// The spans that wait for the next flush.
    pub fn unsealed(&self) -> Unsealed {
        Unsealed {
            spans: self.spans.clone(),
            resource: self.resource.clone(),
        }
    }

    /// Sends what is buffered to the spool and ends the flush task, within
    /// three seconds; what has not reached the spool by then is counted.
    /// Spans that end later are counted and lost, records only reach stderr:
    /// call it when everything else but the spool has stopped.
    pub async fn stop(self) {
        journal::detach();
        self.finish().await;
    }

    async fn finish(self) {
        // Fails only if the task has ended already.
        let _ = self.stop.send(());
        let mut task = self.task;
        if timeout(STOP_DEADLINE, &mut task).await.is_err() {
            task.abort();
            let _ = task.await;
        }
        // Empty unless the task did not come to its own end.
        self.drops
            .add(What::Spans, Why::Stopped, self.spans.close().len());
        self.drops
            .add(What::Logs, Why::Stopped, self.logs.close().len());
    }

    /// [`Telemetry::start`] without the process-wide journal.
    fn start_into(
        sink: impl Sink,
        trace: &Tracing,
        identity: &Identity,
        clock: Clock,
        flush_every: Duration,
    ) -> Self {
        let resource = resource_of(identity);
        let sampler = AgentSampler::new(trace);
        let drops = Drops::default();
        let half_full = Arc::new(Notify::new());
        let own_flush = OwnFlush::default();
        let spans = Arc::new(Buffer::new(What::Spans, drops.clone(), half_full.clone()));
        let logs = Arc::new(Buffer::new(What::Logs, drops.clone(), half_full.clone()));

        let scope = InstrumentationScope::builder("sonde")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let tracer = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_sampler(sampler.clone())
            .with_id_generator(ids::Ids::default())
            .with_span_processor(SpanKeeper::new(
                spans.clone(),
                clock.clone(),
                sampler.clone(),
                drops.clone(),
                own_flush.clone(),
            ))
            .build()
            .tracer_with_scope(scope.clone());
        let logger = SdkLoggerProvider::builder()
            .with_resource(resource.clone())
            .with_log_processor(LogKeeper {
                buffer: logs.clone(),
                clock,
            })
            .build()
            .logger_with_scope(scope);

        let (stop, stopped) = oneshot::channel();
        let (keeper, keep) = Keeper::new();
        let flusher = Flusher {
            spans: spans.clone(),
            logs: logs.clone(),
            span_encoder: working(SpanEncoder::new(&resource)),
            log_encoder: working(LogEncoder::new(&resource)),
            half_full,
            tracer: tracer.clone(),
            own_flush,
            drops: drops.clone(),
            keep,
            sink,
        };
        Self {
            tracer,
            logger,
            sampler,
            spans,
            logs,
            resource,
            drops,
            keeper,
            stop,
            task: vitals::SPANS.spawn(flusher.run(flush_every, stopped)),
        }
    }
}

/// Exactly the identity: spans, logs and gauges of one device share one resource.
fn resource_of(identity: &Identity) -> Resource {
    let attributes = identity.attributes.iter();
    Resource::builder_empty()
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .build()
}

/// An agent that cannot encode its own spans still samples gauges: say so and go on.
fn working<E, F: std::fmt::Display>(encoder: Result<E, F>) -> Option<E> {
    encoder
        .inspect_err(|error| {
            log::error!(
                "Own spans and logs will not be sent: their encoder did not start: {error}."
            );
        })
        .ok()
}
