//! What a program is told, in the encoding that it sent.
//!
//! Source: OTLP/HTTP, "Response": `Export…ServiceResponse` with 200, else
//! `google.rpc.Status`; `Retry-After` in seconds.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};

use super::wire;
use crate::door::body::Unread;
use crate::door::{Answer, answer, refusal};
use crate::frame::Signal;

/// How a request is encoded, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

/// Why nothing of a request was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A content type or content encoding that OTLP does not have.
    Unsupported(&'static str),
    /// Its body did not come.
    Unread(Unread),
    /// What is wrong with it.
    Malformed(String),
    /// More requests or bytes than the limits allow.
    Rate(Duration),
    /// The memory for requests is in use.
    Memory,
    /// The spool took none of it.
    Spool,
    /// The agent is about to end.
    Stopping,
}

impl Refusal {
    /// As it is counted in the status.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Refusal::Unsupported(_) => "unsupported",
            Refusal::Unread(Unread::TooLarge) => "too_large",
            Refusal::Unread(Unread::TooSlow) => "too_slow",
            Refusal::Unread(Unread::Broken) => "broken_off",
            Refusal::Malformed(_) => "malformed",
            Refusal::Rate(_) => "rate",
            Refusal::Memory => "memory",
            Refusal::Spool => "spool_full",
            Refusal::Stopping => "stopping",
        }
    }

    /// HTTP's code and gRPC's (google.rpc.Code).
    fn codes(&self) -> (StatusCode, u64) {
        match self {
            Refusal::Unsupported(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, 3),
            Refusal::Unread(why) => (why.code(), 3),
            Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, 3),
            Refusal::Rate(_) | Refusal::Memory => (StatusCode::TOO_MANY_REQUESTS, 8),
            Refusal::Spool | Refusal::Stopping => (StatusCode::SERVICE_UNAVAILABLE, 14),
        }
    }

    fn words(&self) -> &str {
        match self {
            Refusal::Unsupported(what) => what,
            Refusal::Unread(why) => why.as_str(),
            Refusal::Malformed(what) => what,
            Refusal::Rate(_) => "more than receiver.request_rate or receiver.byte_rate allow",
            Refusal::Memory => "the memory for requests is in use",
            Refusal::Spool => "the spool is full and takes nothing more",
            Refusal::Stopping => "the agent is stopping",
        }
    }

    /// When it may be tried again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::Rate(wait) => Some(wait.as_secs().saturating_add(1)),
            Refusal::Memory | Refusal::Stopping => Some(1),
            Refusal::Spool => Some(30),
            _ => None,
        }
    }

    /// `None`: an encoding that is not known here.
    pub(super) fn answer(&self, encoding: Option<Encoding>) -> Answer {
        let (code, grpc) = self.codes();
        let mut out = match encoding {
            None => refusal(code, self.words()),
            Some(Encoding::Json) => {
                let status = serde_json::json!({ "code": grpc, "message": self.words() });
                answer(code, JSON, status.to_string())
            }
            Some(Encoding::Protobuf) => {
                let mut status = vec![1 << 3];
                wire::varint(&mut status, grpc);
                wire::bytes(&mut status, 2, self.words().as_bytes());
                answer(code, PROTOBUF, status)
            }
        };
        if let Some(seconds) = self.retry_after() {
            let value = header::HeaderValue::from(seconds);
            out.headers_mut().insert(header::RETRY_AFTER, value);
        }
        if matches!(self, Refusal::Unread(_)) {
            // The rest of the body is not waited for.
            let close = header::HeaderValue::from_static("close");
            out.headers_mut().insert(header::CONNECTION, close);
        }
        out
    }
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// All of it was taken, but for `rejected` items.
pub(super) fn taken(encoding: Encoding, signal: Signal, rejected: u32, why: &str) -> Answer {
    let body = match (encoding, rejected) {
        (Encoding::Json, 0) => Bytes::from_static(b"{}"),
        (Encoding::Protobuf, 0) => Bytes::new(),
        (Encoding::Json, _) => {
            let count = match signal {
                Signal::Metrics => "rejectedDataPoints",
                Signal::Logs => "rejectedLogRecords",
                Signal::Traces | Signal::Message => "rejectedSpans",
            };
            let partial = serde_json::json!({
                "partialSuccess": { count: rejected.to_string(), "errorMessage": why }
            });
            partial.to_string().into()
        }
        (Encoding::Protobuf, _) => {
            let mut partial = vec![1 << 3];
            wire::varint(&mut partial, rejected.into());
            wire::bytes(&mut partial, 2, why.as_bytes());
            let mut response = Vec::new();
            wire::bytes(&mut response, 1, &partial);
            response.into()
        }
    };
    let kind = match encoding {
        Encoding::Json => JSON,
        Encoding::Protobuf => PROTOBUF,
    };
    answer(StatusCode::OK, kind, body)
}
