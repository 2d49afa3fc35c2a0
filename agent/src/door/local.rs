//! What `sonde.sock` answers: a path each to the module that handles it.
//!
//! A program that may write to the socket may send; who that is, the socket's
//! mode and group say. Whatever is answered 2xx has been accepted under the
//! rules that its path documents.

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::receiver::Receiver;
use super::{Answer, Boxed, Routes, event, gauge, publish, refusal, text};
use crate::clock::Clock;
use crate::event::Events;
use crate::gauge::custom::Custom;
use crate::outbox::Outbox;

/// What the handlers need.
pub struct LocalRoutes {
    /// `/v1/…`
    pub receiver: Receiver,
    /// For `POST /event`.
    pub events: Events,
    /// For `POST /gauge`.
    pub custom: Custom,
    /// Time.
    pub clock: Clock,
    /// For `POST /publish`.
    pub outbox: Outbox,
}

/// One line of the list that `GET /` gives.
struct Path {
    method: Method,
    path: &'static str,
    about: &'static str,
}

/// Every path, as people read it.
const PATHS: &[Path] = &[
    Path {
        method: Method::GET,
        path: "/",
        about: "this list",
    },
    Path {
        method: Method::POST,
        path: "/event",
        about: "say that something happened: name, measurements, metadata as JSON",
    },
    Path {
        method: Method::POST,
        path: "/gauge",
        about: "a number for a gauge with push = true: name, value, attributes as JSON; or a list",
    },
    Path {
        method: Method::POST,
        path: "/publish",
        about: "an MQTT message: ?topic=…&qos=…&retain&expiry=…, the body is the payload",
    },
    Path {
        method: Method::POST,
        path: "/v1/traces",
        about: "OTLP spans, protobuf or JSON",
    },
    Path {
        method: Method::POST,
        path: "/v1/metrics",
        about: "OTLP metrics",
    },
    Path {
        method: Method::POST,
        path: "/v1/logs",
        about: "OTLP log records",
    },
];

impl Routes for LocalRoutes {
    fn answer(&self, request: Request<Incoming>) -> Boxed<'_, Answer> {
        Box::pin(async move {
            if let Some(wrong) = misdirected(request.method(), request.uri().path()) {
                return wrong;
            }
            if let Some(signal) = Receiver::signal(request.uri().path()) {
                return self.receiver.answer(signal, request).await;
            }
            match request.uri().path() {
                "/event" => event::answer(&self.events, request).await,
                "/gauge" => gauge::answer(&self.custom, &self.clock, request).await,
                "/publish" => publish::answer_publish(&self.outbox, request).await,
                _ => list(),
            }
        })
    }

    fn connected(&self, opened: bool) {
        self.receiver.connected(opened);
    }
}

/// The refusal, if no path takes such a request.
pub(super) fn misdirected(method: &Method, path: &str) -> Option<Answer> {
    let Some(known) = PATHS.iter().find(|known| known.path == path) else {
        return Some(refusal(
            StatusCode::NOT_FOUND,
            "no such path; GET / lists what there is",
        ));
    };
    if known.method == *method {
        return None;
    }
    let mut answer = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("this path takes {} only", known.method),
    );
    if let Ok(allow) = header::HeaderValue::from_str(known.method.as_str()) {
        answer.headers_mut().insert(header::ALLOW, allow);
    }
    Some(answer)
}

fn list() -> Answer {
    let line = |known: &Path| {
        let method = known.method.as_str();
        format!("{method:<4} {:<12} {}\n", known.path, known.about)
    };
    text(PATHS.iter().map(line).collect::<String>())
}
