//! Command lines, and requests that somebody hostile made.

use std::ffi::OsString;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, span, status};
use opentelemetry_proto::tonic::trace::v1::{Span as Wire, Status};
use prost::Message as _;

use super::*;
use crate::cli::args::{self, Command};

fn asked(line: &str) -> Result<Ask, String> {
    match args::parse(line.split_whitespace().map(OsString::from)) {
        Ok(Command::Trace(options)) => Ok(options.ask),
        Ok(other) => panic!("{line}: {other:?}"),
        Err(wrong) => Err(wrong),
    }
}

#[test]
fn an_id_may_be_short_or_a_traceparent_and_only_one_thing_is_asked() {
    let one = |id: &str| Ok(Ask::One(id.to_owned()));
    assert_eq!(asked("trace 4BF9"), one("4bf9"));
    let parent = "trace 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(asked(parent), one("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(asked("trace --recent -c a.toml"), Ok(Ask::Recent));
    assert_eq!(asked("trace --errors --dir d"), Ok(Ask::Errors));
    for (line, part) in [
        ("trace", "which one?"),
        ("trace 4bf", "at least the first four"),
        ("trace 4bfx9", "no trace id"),
        ("trace --recent --errors", "one too many"),
        ("trace --recent --json", "give its id"),
        ("trace --rcent", "did you mean --recent?"),
    ] {
        let wrong = asked(line).unwrap_err();
        assert!(wrong.contains(part), "{line}: {wrong}");
    }
}

fn request() -> Vec<u8> {
    let resource = |name: &str| {
        Some(Resource {
            attributes: vec![KeyValue {
                key: "service.name".into(),
                value: Some(AnyValue {
                    value: Some(any_value::Value::StringValue(name.into())),
                }),
                ..KeyValue::default()
            }],
            ..Resource::default()
        })
    };
    let span = |id: u8, parent: &[u8], name: &str| Wire {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        parent_span_id: parent.to_vec(),
        name: name.into(),
        kind: 2,
        start_time_unix_nano: 1_000_000_000,
        end_time_unix_nano: 3_000_000_000,
        ..Wire::default()
    };
    let spans = |name: &str, spans: Vec<Wire>| ResourceSpans {
        resource: resource(name),
        scope_spans: vec![ScopeSpans {
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    };
    let mut failed = span(2, &[1; 8], "work\u{1b}[2J");
    failed.status = Some(Status {
        code: status::StatusCode::Error.into(),
        message: "it broke".into(),
    });
    failed.events = vec![span::Event::default(); 100];
    let resource_spans = vec![
        spans("agent", vec![span(1, &[], "command")]),
        spans("program", vec![failed]),
    ];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn part() -> Part {
    Part {
        name: "feedbeef-1".into(),
        class: Class::Normal,
        signal: Signal::Traces,
        spans: 0,
        place: "on flash",
        context: None,
        uplinks: vec![("otlp".into(), true), ("mqtt".into(), false)],
    }
}

#[test]
fn spans_of_many_services_stand_in_one_tree_once_with_their_frames() {
    let ask = Ask::One("0707".into());
    let mut found = Found::default();
    for _ in 0..2 {
        found.request(&ask, &request(), part());
    }
    let (text, any) = found.text("0707", true);
    assert!(any);
    for part in [
        "2 spans, 1 error",
        "command SERVER · agent · 2.00 s",
        "\n  work?[2J SERVER · program · 2.00 s · ERROR: it broke",
        "68 more events",
        "feedbeef-1           normal   traces   2 spans · on flash · otlp: acknowledged · mqtt: waiting",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("command SERVER").count(), 1);
}

#[test]
fn a_list_names_a_trace_by_its_root_and_its_first_error() {
    let mut found = Found::default();
    found.request(&Ask::Errors, &request(), part());
    let (text, _) = found.table.text(true);
    assert!(
        text.contains("command · agent · 2 spans · 2.00 s · 1 error · work?[2J: it broke"),
        "{text}"
    );
}

#[test]
fn a_request_of_a_million_spans_takes_bounded_memory() {
    // Two bytes a span on the wire.
    let inner: Vec<u8> = [0x12, 0].repeat(1_000_000);
    let wrap = |field: u8, bytes: &[u8]| {
        let mut out = vec![field << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    };
    let body = wrap(1, &wrap(2, &inner));
    let mut found = Found::default();
    found.request(&Ask::One("0000".into()), &body, part());
    assert_eq!(found.spans.len(), 1);
    for cut in 0..200 {
        let mut count = 0_u64;
        let _ = spans::each(&request()[..request().len().min(cut)], &mut |_| count += 1);
    }
}

#[test]
fn one_of_several_traces_is_cut_out_with_all_that_its_spans_carry() {
    let mut sent = ExportTraceServiceRequest::decode(request().as_slice()).unwrap();
    let other = Wire {
        trace_id: vec![8; 16],
        ..Wire::default()
    };
    sent.resource_spans[1].scope_spans[0]
        .spans
        .insert(0, other.clone());
    sent.resource_spans.push(ResourceSpans {
        scope_spans: vec![ScopeSpans {
            spans: vec![other],
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    });
    let wanted = |trace: &[u8]| trace == [7; 16];
    let kept = spans::only(&sent.encode_to_vec(), &wanted)
        .unwrap()
        .unwrap();
    assert_eq!(kept, request());
    let none = spans::only(&kept, &|trace| trace == [9; 16]).unwrap();
    assert!(none.is_none());
    let mut found = Found {
        json: Some(Vec::new()),
        ..Found::default()
    };
    found.request(&Ask::One("0808".into()), &sent.encode_to_vec(), part());
    let line = String::from_utf8(found.json.unwrap()).unwrap();
    assert_eq!(line.lines().count(), 1);
    assert!(line.contains("08080808") && !line.contains("07070707"));
}
