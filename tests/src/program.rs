//! A local program: makes spans as an SDK does and sends them to the gateway's
//! receiver, on the socket or the port.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use sonde_agent::cli::client::{self, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ledger::{Ledger, Payload, now_unix_ns};

/// What SDKs put into one request.
pub const BATCH: u32 = 512;

/// One that knows the gateway's socket.
#[derive(Clone, Debug)]
pub struct Program {
    socket: PathBuf,
    /// `service.name`
    pub service: String,
}

/// What sending took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Spans that were answered 200.
    pub spans: u64,
    /// Bytes of the requests that were.
    pub bytes: u64,
    /// Requests that were told to come again.
    pub delayed: u64,
}

impl Program {
    /// One named `service`.
    pub fn new(socket: &Path, service: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            service: service.to_owned(),
        }
    }

    /// Sends a body to a path.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, client::Failure> {
        let request = Request {
            method: "POST",
            path,
            headers,
            body,
        };
        client::send(&self.socket, &request).await
    }

    /// Sends spans of these numbers, [`BATCH`] at a time; comes again when told to.
    ///
    /// # Panics
    /// At any answer but 200, 429 and 503: a test cannot go on.
    pub async fn send(&self, numbers: Range<u32>) -> Sent {
        let mut sent = Sent::default();
        let mut next = numbers.start;
        while next < numbers.end {
            let until = numbers.end.min(next.saturating_add(BATCH));
            let body = self.request(next..until).encode_to_vec();
            let kind = ("Content-Type", "application/x-protobuf");
            let reply = self.post("/v1/traces", &[kind], &body).await;
            let reply = reply.expect("the receiver answers");
            match reply.status {
                200 => {
                    assert!(reply.body.is_empty(), "a partial success: {reply:?}");
                    sent.spans += u64::from(until - next);
                    sent.bytes += body.len() as u64;
                    next = until;
                }
                429 | 503 => {
                    sent.delayed += 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                _ => panic!("{}: {}", reply.status, reply.error()),
            }
        }
        sent
    }

    /// An export request with spans of these numbers.
    pub fn request(&self, numbers: Range<u32>) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![
                        text("service.name", &self.service),
                        text("telemetry.sdk.name", "opentelemetry"),
                        text("telemetry.sdk.language", "python"),
                    ],
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "local.program".into(),
                        version: "1.2".into(),
                        ..InstrumentationScope::default()
                    }),
                    spans: numbers.map(span).collect(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }
}

/// A name that no other number has, in every run the same.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A span as a web handler makes it: about 300 bytes.
fn span(number: u32) -> Span {
    let trace = u64::from(number / 8);
    let noise = mixed(u64::from(number));
    let start = now_unix_ns();
    Span {
        trace_id: [
            mixed(trace << 32).to_be_bytes(),
            mixed(trace << 33).to_be_bytes(),
        ]
        .concat(),
        span_id: noise.to_be_bytes().to_vec(),
        parent_span_id: mixed(u64::from(number / 8 * 8)).to_be_bytes().to_vec(),
        name: "GET /items/{id}".into(),
        kind: 2,
        start_time_unix_nano: start - 1_000_000 - noise % 20_000_000,
        end_time_unix_nano: start,
        attributes: vec![
            text("http.request.method", "GET"),
            text("url.path", &format!("/items/{}", noise % 10_000)),
            text("http.route", "/items/{id}"),
            whole("http.response.status_code", 200),
            text("server.address", "localhost"),
            whole("number", i64::from(number)),
        ],
        status: Some(Status::default()),
        flags: 0x101,
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

fn whole(key: &str, value: i64) -> KeyValue {
    pair(key, Any::IntValue(value))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// How often each of a program's span numbers came.
pub fn came(ledger: &Ledger, service: &str) -> BTreeMap<i64, u32> {
    let mut numbers = BTreeMap::new();
    for delivery in &ledger.deliveries {
        let Payload::Traces(request) = &delivery.payload else {
            continue;
        };
        for entry in &request.resource_spans {
            let resource = entry.resource.iter().flat_map(|one| &one.attributes);
            let name = pair("service.name", Any::StringValue(service.to_owned()));
            if !resource.into_iter().any(|one| *one == name) {
                continue;
            }
            for span in entry.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let number = span.attributes.iter().find(|one| one.key == "number");
                let number = number.and_then(|one| one.value.as_ref()?.value.as_ref());
                if let Some(Any::IntValue(number)) = number {
                    *numbers.entry(*number).or_default() += 1;
                }
            }
        }
    }
    numbers
}

/// Sends bytes to a port and reads until it closes, at most `limit`.
///
/// # Errors
/// When it cannot be reached or does not close in time.
pub async fn raw(port: SocketAddr, bytes: &[u8], limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect(port).await?;
    // A receiver that has had enough closes: what it said counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    match timeout(limit, stream.read_to_end(&mut answer)).await {
        Ok(_) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
