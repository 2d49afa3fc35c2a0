//! The span of a command's processing: `process {prefix}/command/{job}`, a
//! child of the sender's. The run's span and those of the answers are its children.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::Span;

use super::decode::{Back, Places};
use crate::frame::push_hex;
use crate::trace::Tracer;
use crate::trace::propagation::{self, Carried};
use crate::work::journal::{Entry, Key, State};

/// Begins one.
pub(super) fn process(tracer: &Tracer, places: &Places, back: &Back, size: usize) -> Span {
    let builder = builder(
        places,
        &back.job,
        &back.asked_on,
        back.correlation.as_deref(),
    )
    .with_attributes_of("messaging.message.body.size", size);
    tracer.build_with_context(builder, &back.carried.parent())
}

/// Begins one for a command that was accepted by an earlier process. If that had
/// begun to run it, there is a link to what was lost.
pub(super) fn resumed(tracer: &Tracer, places: &Places, entry: &Entry) -> Span {
    let topic = format!("{}/command/{}", places.prefix, entry.job);
    let correlation = match &entry.key {
        Key::Named(correlation) => Some(&correlation[..]),
        Key::Unnamed(_) => None,
    };
    let mut builder = builder(places, &entry.job, &topic, correlation);
    if let State::Started { process, run, .. } = &entry.state {
        let lost = [Some(process), run.as_ref()].into_iter().flatten();
        let links = lost.map(|context| {
            let attributes = vec![KeyValue::new("sonde.link", "interrupted")];
            Link::new(propagation::remote(context), attributes, 0)
        });
        builder = builder.with_links(links.collect());
    }
    tracer.build_with_context(builder, &entry.carried.parent())
}

fn builder(places: &Places, job: &str, topic: &str, correlation: Option<&[u8]>) -> SpanBuilder {
    let template = format!("{}/command/{{job}}", places.template);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "mqtt"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.template", template.clone()),
        KeyValue::new("sonde.job.name", job.to_owned()),
    ];
    if !topic.is_empty() {
        let name = KeyValue::new("messaging.destination.name", topic.to_owned());
        attributes.push(name);
    }
    if let Some(correlation) = correlation {
        let id = KeyValue::new("messaging.message.conversation_id", shown(correlation));
        attributes.push(id);
    }
    SpanBuilder::from_name(format!("process {template}"))
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes)
}

trait WithAttribute {
    fn with_attributes_of(self, key: &'static str, value: usize) -> Self;
}

impl WithAttribute for SpanBuilder {
    fn with_attributes_of(mut self, key: &'static str, value: usize) -> Self {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        let attributes = self.attributes.get_or_insert_default();
        attributes.push(KeyValue::new(key, value));
        self
    }
}

/// Text as it is, anything else in hexadecimal.
fn shown(correlation: &[u8]) -> String {
    match std::str::from_utf8(correlation) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => {
            let mut hex = String::with_capacity(correlation.len() * 2);
            push_hex(&mut hex, correlation);
            hex
        }
    }
}

/// Ends one. `error`: one word and a sentence.
pub(super) fn end(mut span: Span, error: Option<(&str, &str)>) {
    if let Some((kind, words)) = error {
        span.set_attribute(KeyValue::new("error.type", kind.to_owned()));
        span.set_status(Status::error(words.to_owned()));
    }
    span.end();
}

/// What work within it sends on.
pub(super) fn within(span: &Span, carried: &Carried) -> Carried {
    carried.within(span.span_context())
}
