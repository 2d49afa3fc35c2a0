//! Spans on standard output, a line each, for development.
//!
//! ```text
//! span 4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7 < 0000000000000000 INTERNAL "tick" 1.204 ms unset sonde.tick=3
//! ```
//!
//! Never waits for whoever reads it: a line that does not fit now is counted and lost.

use std::fmt::Write as _;
use std::io;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a pipe that polls as writable takes whole without waiting (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes a span. `false`: nobody takes it now.
pub(crate) fn write(span: &SpanData) -> bool {
    let mut text = line(span);
    text.truncate(text.floor_char_boundary(AT_ONCE - 1));
    text.push('\n');
    let out = io::stdout().lock();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&now));
    ready.is_ok_and(|ready| ready > 0) && rustix::io::write(&out, text.as_bytes()).is_ok()
}

fn line(span: &SpanData) -> String {
    let context = &span.span_context;
    let kind = match span.span_kind {
        SpanKind::Client => "CLIENT",
        SpanKind::Server => "SERVER",
        SpanKind::Producer => "PRODUCER",
        SpanKind::Consumer => "CONSUMER",
        SpanKind::Internal => "INTERNAL",
    };
    let took = span.end_time.duration_since(span.start_time);
    let mut out = format!(
        "span {} {} < {} {kind} {:?} {:.3} ms ",
        context.trace_id(),
        context.span_id(),
        span.parent_span_id,
        span.name,
        took.unwrap_or_default().as_secs_f64() * 1e3,
    );
    // Writing to a String does not fail.
    let _ = match &span.status {
        Status::Unset => write!(out, "unset"),
        Status::Ok => write!(out, "ok"),
        Status::Error { description } => write!(out, "error {description:?}"),
    };
    for kv in &span.attributes {
        let _ = write!(out, " {}={:?}", kv.key, kv.value.as_str());
    }
    for event in span.events.iter() {
        let _ = write!(out, " event:{:?}", event.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;
    use crate::trace::testing;

    #[test]
    fn a_span_is_one_line_whatever_it_holds() {
        let (tracer, finished) = testing::tracer();
        let mut span = tracer.start("a\nb");
        span.set_attribute(KeyValue::new("k", "x\ny"));
        span.add_event("e\n", Vec::new());
        span.set_status(Status::error("no\n"));
        span.end();
        let text = line(&finished.all()[0]);
        assert!(!text.contains('\n'), "{text}");
        let trace = finished.all()[0].span_context.trace_id().to_string();
        assert!(text.starts_with(&format!("span {trace} ")), "{text}");
        assert!(
            text.contains(r#"INTERNAL "a\nb" "#) && text.contains(r#" k="x\ny""#),
            "{text}"
        );
        assert!(text.contains(r#" error "no\n""#), "{text}");
    }
}
