//! Spans that wait for the next flush, for whoever asks for a trace now.
//!
//! They are encoded as they will be, but stay where they are: asking changes
//! nothing about when and in which frames they go.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::FutureExt as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

use super::buffer::Buffer;
use super::drops::Drops;
use super::export::{SpanEncoder, front};
use crate::frame::{Batch, Class};

/// A view of the buffer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsealed {
    pub(super) spans: Arc<Buffer<SpanData>>,
    pub(super) resource: Resource,
}

impl Unsealed {
    /// The spans that wait, as batches.
    pub(crate) async fn batches(&self) -> Vec<Batch> {
        let items = self.spans.copy();
        let Ok(encoder) = SpanEncoder::new(&self.resource) else {
            return Vec::new();
        };
        // What does not fit is counted when it is flushed.
        let drops = Drops::default();
        let encode = async {
            let mut batches = Vec::new();
            let mut rest = items.as_slice();
            while !rest.is_empty() {
                let (count, batch) = front(&encoder, rest, Class::Normal, &drops).await;
                rest = rest.get(count.max(1)..).unwrap_or_default();
                batches.extend(batch);
            }
            batches
        };
        let quiet = Context::new().with_telemetry_suppressed();
        encode.with_context(quiet).await
    }
}
