//! Buffered items to gzipped OTLP bodies that fit a frame.
//!
//! `opentelemetry-otlp` encodes; its HTTP client is a [`Handoff`] that keeps
//! the body in memory. It must never wait: the exporter runs on the thread that
//! would have to make room. Endpoint, headers and compression from
//! `OTEL_EXPORTER_OTLP_*` have no meaning here, the uplink sees to them.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};

use super::buffer::{Item, span_of};
use super::drops::{Drops, What, Why};
use super::processor::ScopedRecord;
use crate::frame::{Batch, Class, Codec, MAX_BODY, Signal};

/// Never dialled. A fixed one keeps the exporter from reading the environment's,
/// which may be one that it does not accept.
const NOWHERE: &str = "http://localhost/";

/// Holds one body between the exporter and [`Encoder`].
#[derive(Clone, Debug, Default)]
struct Handoff(Arc<Mutex<Option<Bytes>>>);

impl Handoff {
    fn put(&self, body: Bytes) -> Result<(), HttpError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Err("the body before this one was not taken".into());
        }
        *slot = Some(body);
        Ok(())
    }

    fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Handoff {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let answer = self
            .put(request.into_body())
            .map(|()| Response::new(Bytes::new()));
        Box::pin(std::future::ready(answer))
    }
}

/// What both signals can do: one export request of some items.
pub(crate) trait Export {
    /// Span or record.
    type Data: Clone;
    /// What the body is.
    const SIGNAL: Signal;
    /// What is counted if it is lost.
    const WHAT: What;
    /// The encoded request; `None`: the exporter gave none.
    fn request(&self, items: &[Item<Self::Data>]) -> impl Future<Output = Option<Bytes>> + Send;
}

/// Spans to `ExportTraceServiceRequest`.
#[derive(Debug)]
pub(crate) struct SpanEncoder {
    exporter: SpanExporter,
    handoff: Handoff,
}

/// Log records to `ExportLogsServiceRequest`.
#[derive(Debug)]
pub(crate) struct LogEncoder {
    exporter: LogExporter,
    handoff: Handoff,
}

impl SpanEncoder {
    pub(crate) fn new(resource: &Resource) -> Result<Self, ExporterBuildError> {
        let handoff = Handoff::default();
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(NOWHERE)
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(handoff.clone())
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        exporter.set_resource(resource);
        Ok(Self { exporter, handoff })
    }
}

impl LogEncoder {
    pub(crate) fn new(resource: &Resource) -> Result<Self, ExporterBuildError> {
        let handoff = Handoff::default();
        let mut exporter = LogExporter::builder()
            .with_http()
            .with_endpoint(NOWHERE)
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(handoff.clone())
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        exporter.set_resource(resource);
        Ok(Self { exporter, handoff })
    }
}

impl Export for SpanEncoder {
    type Data = SpanData;
    const SIGNAL: Signal = Signal::Traces;
    const WHAT: What = What::Spans;

    async fn request(&self, items: &[Item<SpanData>]) -> Option<Bytes> {
        let spans = items.iter().map(|item| item.data.clone()).collect();
        self.exporter.export(spans).await.ok()?;
        self.handoff.take()
    }
}

impl Export for LogEncoder {
    type Data = ScopedRecord;
    const SIGNAL: Signal = Signal::Logs;
    const WHAT: What = What::Logs;

    async fn request(&self, items: &[Item<ScopedRecord>]) -> Option<Bytes> {
        let records: Vec<_> = items
            .iter()
            .map(|Item { data, .. }| (&data.0, &data.1))
            .collect();
        self.exporter.export(LogBatch::new(&records)).await.ok()?;
        self.handoff.take()
    }
}

/// One batch of the items at the front that fit a frame, and how many they
/// are. `None`: they were lost, and counted; go on after them.
///
/// Halves until it fits: what is too large is rare, and how well the rest
/// compresses cannot be known before.
pub(crate) async fn front<E: Export>(
    encoder: &E,
    items: &[Item<E::Data>],
    class: Class,
    drops: &Drops,
) -> (usize, Option<Batch>) {
    let mut count = items.len();
    loop {
        let part = items.get(..count).unwrap_or_default();
        let Some(body) = encoder.request(part).await.and_then(|body| gzip(&body)) else {
            drops.add(E::WHAT, Why::Encode, count);
            return (count, None);
        };
        if body.len() <= MAX_BODY {
            let (first, last) = span_of(part);
            let batch = Batch {
                signal: E::SIGNAL,
                class,
                codec: Codec::Gzip,
                items: u32::try_from(count).unwrap_or(u32::MAX),
                first,
                last,
                context: None,
                body,
            };
            return (count, Some(batch));
        }
        if count == 1 {
            drops.add(E::WHAT, Why::TooLarge, 1);
            return (1, None);
        }
        count = count.div_ceil(2);
    }
}

/// One member.
fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut packer = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(6));
    packer.write_all(body).ok()?;
    packer.finish().ok().map(Bytes::from)
}
