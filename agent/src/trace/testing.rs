//! For tests of every module: a tracer whose finished spans can be awaited by
//! name, without sleeping.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::watch;

use super::Tracer;

/// Every span that a tracer of [`tracer`] has ended, oldest first.
#[derive(Clone, Debug)]
pub struct Finished(watch::Sender<Vec<SpanData>>);

/// A tracer that records everything, and where its spans end up.
pub fn tracer() -> (Tracer, Finished) {
    let finished = Finished(watch::Sender::new(Vec::new()));
    let tracer = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_id_generator(super::ids::Ids::default())
        .with_span_processor(finished.clone())
        .build()
        .tracer("test");
    (tracer, finished)
}

impl Finished {
    /// The first span of that name; waits until it has ended.
    pub async fn named(&self, name: &str) -> SpanData {
        let mut spans = self.0.subscribe();
        let found = |spans: &Vec<SpanData>| spans.iter().any(|span| span.name == name);
        let spans = spans.wait_for(found).await.unwrap();
        spans.iter().find(|span| span.name == name).unwrap().clone()
    }

    /// All that have ended so far.
    pub fn all(&self) -> Vec<SpanData> {
        self.0.borrow().clone()
    }
}

impl SpanProcessor for Finished {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.send_modify(|spans| spans.push(span));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
