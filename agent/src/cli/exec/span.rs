//! A command's span as an OTLP request. Pure.
//!
//! Semantic conventions, "CLI programs", the caller's side: kind CLIENT, named
//! for the executable. Arguments are not on it: they may hold secrets.

use std::path::Path;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use crate::frame::TraceContext;
use crate::work::lifecycle::Exit;
use crate::work::span::signal_name;

/// The parent's remoteness is known, and it is remote (trace.proto, SpanFlags).
const REMOTE_PARENT: u32 = 0x300;

/// How the command ended.
pub(super) enum Ended {
    /// It ran.
    Ran {
        pid: u32,
        exit: Exit,
        cpu: Option<Duration>,
    },
    /// It did not; why.
    NotStarted(String),
}

/// All that the span tells.
pub(super) struct Report<'a> {
    pub program: &'a Path,
    pub name: Option<&'a str>,
    pub service: Option<&'a str>,
    pub parent: Option<&'a TraceContext>,
    pub context: &'a TraceContext,
    pub started_unix_ns: u64,
    pub ended_unix_ns: u64,
    pub ended: Ended,
}

impl Report<'_> {
    /// The request's body. `get`: the environment, for the resource.
    pub(super) fn encode<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> Vec<u8> {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: self.resource(get),
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "sonde.exec".into(),
                        version: env!("CARGO_PKG_VERSION").into(),
                        ..InstrumentationScope::default()
                    }),
                    spans: vec![self.span()],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        request.encode_to_vec()
    }

    fn executable(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// `--service`, then the variables, then the program's name.
    fn resource<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> Vec<KeyValue> {
        let mut attributes = Vec::new();
        let listed = get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (key, value) in listed.split(',').filter_map(|pair| pair.split_once('=')) {
            attributes.push(text(key.trim(), decoded(value.trim())));
        }
        let named = get("OTEL_SERVICE_NAME").filter(|name| !name.is_empty());
        let service = self.service.or(named).map(str::to_owned);
        let in_list = attributes.iter().any(|a| a.key == "service.name");
        match service {
            Some(service) => {
                attributes.retain(|attribute| attribute.key != "service.name");
                attributes.push(text("service.name", service));
            }
            None if !in_list => attributes.push(text("service.name", self.executable())),
            None => {}
        }
        attributes
    }

    fn span(&self) -> Span {
        let mut attributes = vec![text("process.executable.name", self.executable())];
        let mut failure = None;
        match &self.ended {
            Ended::Ran { pid, exit, cpu } => {
                attributes.push(whole("process.pid", i64::from(*pid)));
                match exit {
                    Exit::Code(code) => {
                        attributes.push(whole("process.exit.code", i64::from(*code)));
                        if *code != 0 {
                            failure = Some((code.to_string(), format!("exit code {code}")));
                        }
                    }
                    Exit::Signal(signal) => {
                        let name = signal_name(*signal).into_owned();
                        attributes.push(text("sonde.exec.signal", name.clone()));
                        failure = Some((name.clone(), format!("ended by {name}")));
                    }
                }
                if let Some(cpu) = cpu {
                    let seconds = any_value::Value::DoubleValue(cpu.as_secs_f64());
                    attributes.push(attribute("sonde.exec.cpu_time", seconds));
                }
            }
            Ended::NotStarted(why) => failure = Some(("not_started".into(), why.clone())),
        }
        let mut status = Status::default();
        if let Some((kind, message)) = failure {
            attributes.push(text("error.type", kind));
            status.message = message;
            status.set_code(StatusCode::Error);
        }
        let remote = if self.parent.is_some() {
            REMOTE_PARENT
        } else {
            0x100
        };
        Span {
            trace_id: self.context.trace_id.to_vec(),
            span_id: self.context.span_id.to_vec(),
            trace_state: self.context.state.to_string(),
            parent_span_id: self.parent.map_or_else(Vec::new, |p| p.span_id.to_vec()),
            flags: u32::from(self.context.flags) | remote,
            name: self.name.map_or_else(|| self.executable(), str::to_owned),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: self.started_unix_ns,
            end_time_unix_nano: self.ended_unix_ns,
            attributes,
            status: Some(status),
            ..Span::default()
        }
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

fn whole(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Percent-encoding undone, as in W3C Baggage; what is none stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(ended: Ended, variables: &[(&str, &'static str)]) -> (Vec<String>, Span) {
        let context = TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
            state: "v=1".into(),
        };
        let report = Report {
            program: Path::new("/usr/bin/backup"),
            name: None,
            service: None,
            parent: None,
            context: &context,
            started_unix_ns: 5,
            ended_unix_ns: 9,
            ended,
        };
        let body = report.encode(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        });
        let mut request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        let mut spans = request.resource_spans.remove(0);
        let shown =
            |a: &KeyValue| format!("{}={:?}", a.key, a.value.clone().unwrap().value.unwrap());
        let resource = spans
            .resource
            .unwrap()
            .attributes
            .iter()
            .map(shown)
            .collect();
        (resource, spans.scope_spans.remove(0).spans.remove(0))
    }

    #[test]
    fn a_failure_is_an_error_with_its_code_and_a_success_is_unset() {
        let ran = |exit| Ended::Ran {
            pid: 7,
            exit,
            cpu: None,
        };
        let (_, fine) = sent(ran(Exit::Code(0)), &[]);
        assert_eq!(fine.status.unwrap().code, 0);
        assert_eq!((fine.name.as_str(), fine.kind), ("backup", 3));
        let (_, failed) = sent(ran(Exit::Code(3)), &[]);
        let keys: Vec<&str> = failed.attributes.iter().map(|a| a.key.as_str()).collect();
        assert!(keys.contains(&"error.type") && keys.contains(&"process.exit.code"));
        assert_eq!(failed.status.unwrap().message, "exit code 3");
        let (_, killed) = sent(ran(Exit::Signal(9)), &[]);
        assert_eq!(killed.status.unwrap().message, "ended by SIGKILL");
        let (_, absent) = sent(Ended::NotStarted("No such file".into()), &[]);
        assert_eq!(absent.status.unwrap().code, 2);
    }

    #[test]
    fn the_service_is_named_by_the_variables_or_for_the_program() {
        let ended = || Ended::NotStarted(String::new());
        let (resource, _) = sent(ended(), &[]);
        assert_eq!(resource, ["service.name=StringValue(\"backup\")"]);
        let list = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,site=plant%207");
        let (resource, _) = sent(ended(), &[list]);
        assert_eq!(
            resource,
            [
                "service.name=StringValue(\"a\")",
                "site=StringValue(\"plant 7\")"
            ]
        );
        let (resource, _) = sent(ended(), &[list, ("OTEL_SERVICE_NAME", "b")]);
        assert!(resource.contains(&"service.name=StringValue(\"b\")".to_owned()));
        assert_eq!(resource.len(), 2);
    }
}
