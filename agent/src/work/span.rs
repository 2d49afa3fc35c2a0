//! A run as a span: `run {job}`, with what it was, how it ended and what it
//! printed.
//!
//! Names are the semantic conventions' (`process.*`, `log.iostream`,
//! `error.type`), and `sonde.job.*` where they have none. Arguments are not on
//! it: they may hold what nobody should read in a trace.

use std::borrow::Cow;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::Span;

use super::job::{Job, Program};
use super::run::Result;
use super::{Captured, Origin, Outcome};
use crate::frame::TraceContext;
use crate::trace::propagation::Carried;
use crate::trace::{DURABLE, Tracer, ids};

/// Of each stream this much is put on the span. A frame takes 96 KiB and
/// brokers not much more, and a span that does not fit into one is lost.
const SHOWN: usize = 4096;

/// Starts the span of a run that is about to start.
/// `known`: what others have been told of it already.
pub(super) fn start(
    tracer: &Tracer,
    job: &Job,
    origin: Origin,
    parent: &Carried,
    known: Option<&TraceContext>,
) -> Span {
    let mut attributes = vec![
        KeyValue::new("sonde.job.name", job.name.clone()),
        KeyValue::new("sonde.job.origin", origin.as_str()),
    ];
    match &job.program {
        Program::Command(_) => {
            let folder = job.directory.display().to_string();
            attributes.push(KeyValue::new("process.working_directory", folder));
        }
        Program::Unit(unit) => attributes.push(KeyValue::new("systemd.unit", unit.clone())),
    }
    if known.is_some() {
        attributes.push(KeyValue::new(DURABLE, true));
    }
    let builder = tracer
        .span_builder(format!("run {}", job.name))
        .with_kind(SpanKind::Internal)
        .with_attributes(attributes);
    let build = || tracer.build_with_context(builder, &parent.parent());
    match known {
        Some(context) => ids::as_known(context, build),
        None => build(),
    }
}

/// Puts the result on it and ends it.
pub(super) fn end(mut span: Span, vector: &[String], result: &Result) {
    if span.is_recording() {
        describe(&mut span, vector, result);
    }
    span.end();
}

fn describe(span: &mut Span, vector: &[String], result: &Result) {
    if let Some(program) = vector.first() {
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        span.set_attribute(KeyValue::new("process.executable.name", name));
        if program.starts_with('/') {
            let path = KeyValue::new("process.executable.path", program.clone());
            span.set_attribute(path);
        }
    }
    if let Some(pid) = result.pid {
        span.set_attribute(KeyValue::new("process.pid", i64::from(pid)));
    }
    span.set_attribute(KeyValue::new("sonde.job.outcome", result.outcome.as_str()));
    match result.outcome {
        Outcome::Exited(code) => {
            span.set_attribute(KeyValue::new("process.exit.code", i64::from(code)));
        }
        Outcome::Signalled(signal) => {
            span.set_attribute(KeyValue::new("sonde.job.signal", signal_name(signal)));
        }
        _ => {}
    }
    if let Some(cpu) = result.cpu {
        let seconds = cpu.as_secs_f64();
        span.set_attribute(KeyValue::new("sonde.job.cpu_time", seconds));
    }
    if let Some(peak) = result.peak_memory {
        let bytes = i64::try_from(peak).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("sonde.job.memory_peak", bytes));
    }
    for (stream, captured) in [
        ("stdout", &result.output.stdout),
        ("stderr", &result.output.stderr),
    ] {
        if !captured.is_empty() {
            span.add_event("output", of_output(stream, captured));
        }
    }
    if result.outcome.is_failure() {
        let kind = KeyValue::new("error.type", result.outcome.error_type());
        span.set_attribute(kind);
        span.set_status(Status::error(result.outcome.to_string()));
    }
}

fn of_output(stream: &'static str, captured: &Captured) -> Vec<KeyValue> {
    let shown = captured.within(SHOWN);
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    vec![
        KeyValue::new("log.iostream", stream),
        KeyValue::new("sonde.output.text", shown.text()),
        KeyValue::new("sonde.output.bytes", bytes(captured.total())),
        KeyValue::new("sonde.output.omitted_bytes", bytes(shown.omitted)),
    ]
}

/// `SIGKILL`, or `signal 40` where it has no name (signal(7)).
pub(crate) fn signal_name(signal: i32) -> Cow<'static, str> {
    Cow::Borrowed(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return Cow::Owned(format!("signal {other}")),
    })
}
