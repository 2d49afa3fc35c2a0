//! The flush task: buffers to spool, at its time or when one is half full.
//!
//! It makes one routine span per flush that had something to do, and no other
//! telemetry: everything beneath runs with telemetry suppressed, and a flush
//! span alone is no reason for another flush.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{FutureExt, Span as _, SpanKind, Status, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::buffer::{Buffer, Item, between_steps};
use super::drops::{Drops, Why};
use super::export::{Export, LogEncoder, SpanEncoder, front};
use super::keeper::{Waiting, is_durable};
use super::processor::{OwnFlush, ScopedRecord};
use super::{DURABLE, Tracer, routine};
use crate::frame::{Batch, Class, FrameId};
use crate::spool::{Refused, Spool};
use crate::vitals;

/// How long the spool may take for one batch. Generous: it waits for its
/// owner's queue, which waits for flash; the buffers are bounded meanwhile.
const STORE_DEADLINE: Duration = Duration::from_secs(30);

/// The shortest time between two flushes, whatever the config says.
const SHORTEST: Duration = Duration::from_millis(100);

/// Where sealed batches go: the spool, or a test's list.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Takes a batch or says why not.
    fn store(&self, batch: Batch) -> impl Future<Output = Result<FrameId, Refused>> + Send;
}

impl Sink for Spool {
    fn store(&self, batch: Batch) -> impl Future<Output = Result<FrameId, Refused>> + Send {
        Spool::store(self, batch)
    }
}

/// All that the task owns.
pub(crate) struct Flusher<S> {
    pub(crate) spans: Arc<Buffer<SpanData>>,
    pub(crate) logs: Arc<Buffer<ScopedRecord>>,
    pub(crate) span_encoder: Option<SpanEncoder>,
    pub(crate) log_encoder: Option<LogEncoder>,
    pub(crate) half_full: Arc<Notify>,
    pub(crate) tracer: Tracer,
    pub(crate) own_flush: OwnFlush,
    pub(crate) drops: Drops,
    pub(crate) keep: Waiting,
    pub(crate) sink: S,
}

impl<S: Sink> Flusher<S> {
    /// Until `stop` is sent or dropped; then once more, and the buffers are closed.
    pub(crate) async fn run(mut self, every: Duration, mut stop: oneshot::Receiver<()>) {
        let mut ticks = interval(every.max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = &mut stop => break,
                Some(first) = self.keep.recv() => {
                    vitals::KEEPING.received(&self.keep);
                    self.keep(first).await;
                    continue;
                }
                _ = ticks.tick() => {}
                () = self.half_full.notified() => {}
            }
            if self.spans.is_due() || self.logs.is_due() {
                self.flush().await;
            }
        }
        self.send(self.spans.close(), self.logs.close()).await;
    }

    /// For all who ask at once.
    async fn keep(&mut self, first: oneshot::Sender<()>) {
        let mut waiting = vec![first];
        while let Ok(next) = self.keep.try_recv() {
            waiting.push(next);
        }
        self.send(self.spans.take_if(is_durable), Vec::new()).await;
        for one in waiting {
            // It may have lost its patience.
            let _ = one.send(());
        }
    }

    async fn flush(&self) {
        let spans = self.spans.take();
        let logs = self.logs.take();
        let mut span = self
            .tracer
            .build_with_context(routine("flush", SpanKind::Internal), &Context::new());
        self.own_flush.set(span.span_context().span_id());
        span.set_attribute(KeyValue::new("sonde.flush.spans", count(spans.len())));
        span.set_attribute(KeyValue::new("sonde.flush.logs", count(logs.len())));
        let lost = self.send(spans, logs).await;
        if lost > 0 {
            let text = format!("{lost} spans or log records were lost on the way to the spool");
            span.set_status(Status::error(text));
        }
        span.end();
    }

    /// How many were lost.
    async fn send(&self, spans: Vec<Item<SpanData>>, logs: Vec<Item<ScopedRecord>>) -> usize {
        let quiet = Context::new().with_telemetry_suppressed();
        let (mut durable, spans): (Vec<_>, Vec<_>) =
            spans.into_iter().partition(|item| is_durable(&item.data));
        for item in &mut durable {
            let attributes = &mut item.data.attributes;
            attributes.retain(|attribute| attribute.key.as_str() != DURABLE);
        }
        // Together, so that what is taken is accounted for from the first poll on.
        async {
            let both_kinds = async {
                let encoder = self.span_encoder.as_ref();
                self.send_all(encoder, durable, Class::Critical).await
                    + self.send_all(encoder, spans, Class::Normal).await
            };
            let (spans, logs) = tokio::join!(
                both_kinds,
                self.send_all(self.log_encoder.as_ref(), logs, Class::Normal),
            );
            spans + logs
        }
        .with_context(quiet)
        .await
    }

    async fn send_all<E: Export>(
        &self,
        encoder: Option<&E>,
        items: Vec<Item<E::Data>>,
        class: Class,
    ) -> usize {
        let mut unsent = Unsent {
            drops: &self.drops,
            what: E::WHAT,
            items: items.len(),
        };
        let Some(encoder) = encoder else {
            return unsent.lost(items.len(), Why::Encode);
        };
        let mut lost = 0;
        for mut rest in between_steps(&items) {
            while !rest.is_empty() {
                let (count, batch) = front(encoder, rest, class, &self.drops).await;
                rest = rest.get(count..).unwrap_or_default();
                lost += match batch {
                    None => unsent.done(count),
                    Some(batch) => match timeout(STORE_DEADLINE, self.sink.store(batch)).await {
                        Ok(Ok(_)) => {
                            unsent.done(count);
                            0
                        }
                        Ok(Err(_)) => unsent.lost(count, Why::Refused),
                        Err(_) => unsent.lost(count, Why::Timeout),
                    },
                };
            }
        }
        lost
    }
}

/// What a flush has taken out of a buffer and not yet settled. If the task is
/// ended in the middle, that is counted too.
struct Unsent<'a> {
    drops: &'a Drops,
    what: super::drops::What,
    items: usize,
}

impl Unsent<'_> {
    fn done(&mut self, count: usize) -> usize {
        self.items = self.items.saturating_sub(count);
        count
    }

    fn lost(&mut self, count: usize, why: Why) -> usize {
        self.drops.add(self.what, why, count);
        self.done(count)
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.drops.add(self.what, Why::Stopped, self.items);
    }
}

fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}
