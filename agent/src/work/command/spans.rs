//! The span of a command's processing: `process {prefix}/command/{job}`, a
//! child of the sender's. The run's span and those of the answers are its children.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::Span;

use super::decode::{Back, Places};
use crate::frame::TraceContext;
use crate::outbox::shown;
use crate::trace::propagation::Carried;
use crate::trace::{DURABLE, Tracer, ids};
use crate::work::journal::{Entry, Key, State};

/// The process that began it ended before it did.
pub(super) const INTERRUPTED: &str = "sonde.interrupted";

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

/// Goes on with the one of a command that an earlier process accepted: the same
/// span, for answers that have left hang on it.
pub(super) fn resumed(tracer: &Tracer, places: &Places, entry: &Entry) -> Span {
    let topic = format!("{}/command/{}", places.prefix, entry.job);
    let correlation = match &entry.key {
        Key::Named(correlation) => Some(&correlation[..]),
        Key::Unnamed(_) => None,
    };
    let builder =
        builder(places, &entry.job, &topic, correlation).with_start_time(at(entry.came_unix_ns()));
    known(tracer, builder, entry.state.process(), &entry.carried)
}

/// Tells of a run that an earlier process began, and of whose end nobody knows.
pub(super) fn lost_run(tracer: &Tracer, entry: &Entry, within: &Carried) {
    if let State::Started {
        run: Some(run), at, ..
    } = &entry.state
    {
        let mut span = run_again(tracer, entry, run, at.unix_ns, within);
        span.set_attribute(KeyValue::new(INTERRUPTED, true));
        end(span, Some(("interrupted", "the agent ended while it ran")));
    }
}

/// Tells once more of a command that is over, and of its run: its end may have
/// been written down and the process ended before they were safe.
pub(super) fn told_again(tracer: &Tracer, places: &Places, entry: &Entry) {
    let State::Done {
        answer,
        process: Some(_),
        run,
        times,
        ..
    } = &entry.state
    else {
        return;
    };
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let error = answer.get("error").and_then(|error| error.as_str());
    let error = error.map(|words| Status::error(words.to_owned()));
    let process = resumed(tracer, places, entry);
    let within = within(&process, &entry.carried);
    let run = run
        .as_ref()
        .map(|run| run_again(tracer, entry, run, times.0.unix_ns, &within));
    for mut span in run.into_iter().chain([process]) {
        if let Some(error) = &error {
            span.set_status(error.clone());
        }
        span.end_with_timestamp(at(times.1.unix_ns));
    }
}

fn run_again(
    tracer: &Tracer,
    entry: &Entry,
    run: &TraceContext,
    began: u64,
    within: &Carried,
) -> Span {
    let builder = SpanBuilder::from_name(format!("run {}", entry.job))
        .with_kind(SpanKind::Internal)
        .with_start_time(at(began))
        .with_attributes([
            KeyValue::new("sonde.job.name", entry.job.clone()),
            KeyValue::new("sonde.job.origin", "command"),
            KeyValue::new(DURABLE, true),
        ]);
    known(tracer, builder, Some(run), within)
}

fn known(
    tracer: &Tracer,
    builder: SpanBuilder,
    context: Option<&TraceContext>,
    parent: &Carried,
) -> Span {
    let build = || tracer.build_with_context(builder, &parent.parent());
    match context {
        Some(context) => ids::as_known(context, build),
        None => build(),
    }
}

fn at(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

fn builder(places: &Places, job: &str, topic: &str, correlation: Option<&[u8]>) -> SpanBuilder {
    let template = format!("{}/command/{{job}}", places.template);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "mqtt"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.template", template.clone()),
        KeyValue::new("sonde.job.name", job.to_owned()),
        KeyValue::new(DURABLE, true),
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
