//! `POST /publish`: a local program hands in an MQTT message.
//!
//! ```text
//! curl --unix-socket /run/sonde/sonde.sock -H 'traceparent: 00-…' \
//!      --data-binary 21.5 'http://sonde/publish?topic=plant/1/temperature&retain=1'
//! ```
//!
//! The body is the payload as it is; what else a message has stands in the
//! query, percent-encoded (`+` is a plus): `topic`, `qos` (0 or 1), `retain`,
//! `text` (the payload is UTF-8), `expiry` (seconds), `response-topic`,
//! `correlation`, and `property=NAME=VALUE`, as often as there are any. The
//! message's content type is the request's. `traceparent`, `tracestate` and
//! `baggage` in the head are the program's own; its message becomes a span below.
//!
//! 200 means that it is on flash (or delivered meanwhile); `frame` in the answer
//! is its name. Anything else means that it was not taken, but for 504: then it
//! may or may not have been.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header, request};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Answer, answer, body, refusal};
use crate::config::percent_decode;
use crate::frame::MAX_BODY;
use crate::message::{Message, Qos};
use crate::outbox::{Origin, Outbox, Refusal};
use crate::trace::propagation;

/// For a body of that size from the same machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// From the body's last byte to the sync. Shorter than `sonde publish` waits.
const STORED: Duration = Duration::from_millis(4500);

/// Takes one message.
pub(super) async fn answer_publish(outbox: &Outbox, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let payload = match body::read(body, MAX_BODY, DEADLINE).await {
        Ok(payload) => payload,
        Err(unread) => return unread.answer(),
    };
    let message = match message_of(&head, payload) {
        Ok(message) => message,
        Err(wrong) => return refusal(StatusCode::BAD_REQUEST, &wrong),
    };
    match timeout(STORED, outbox.post(message, Origin::Local)).await {
        Ok(Ok(id)) => {
            let frame = serde_json::json!({ "frame": id.to_string() }).to_string();
            answer(StatusCode::OK, "application/json", frame)
        }
        Ok(Err(refused)) => refused_with(&refused),
        Err(_) => refusal(
            StatusCode::GATEWAY_TIMEOUT,
            "the disk did not answer in time; the message may or may not be stored",
        ),
    }
}

fn refused_with(refused: &Refusal) -> Answer {
    let code = match refused {
        Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
        Refusal::NotAllowed(_) => StatusCode::FORBIDDEN,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::TooFast { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::NoUplink | Refusal::Disk(_) | Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = refusal(code, &refused.to_string());
    if let Refusal::TooFast { after } = refused {
        let seconds = after.as_secs().saturating_add(1);
        let headers = answer.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn message_of(head: &request::Parts, payload: Bytes) -> Result<Message, String> {
    let mut message = of_query(head.uri.query().unwrap_or_default())?;
    message.payload = payload;
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    // What curl says of any body that nobody said anything of.
    let kind = kind.filter(|kind| *kind != "application/x-www-form-urlencoded");
    message.content_type = kind.map(str::to_owned);
    let fields = head.headers.iter();
    let fields = fields.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let carried = propagation::extract(fields);
    message.context = carried.context;
    message.baggage = carried.baggage;
    Ok(message)
}

fn of_query(query: &str) -> Result<Message, String> {
    let mut message = Message::default();
    let mut seen: Vec<&str> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = (value.is_empty().then(String::new))
            .or_else(|| percent_decode(value))
            .ok_or_else(|| format!("the value of {name} is not percent-encoded UTF-8"))?;
        if name != "property" {
            if seen.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            seen.push(name);
        }
        match name {
            "topic" => message.topic = value,
            "qos" => message.qos = qos(&value)?,
            "retain" => message.retain = flag(name, &value)?,
            "text" => message.text = flag(name, &value)?,
            "expiry" => {
                let seconds = value.parse().map_err(|_| {
                    format!("expiry is \"{value}\", not whole seconds up to 4294967295")
                })?;
                message.expiry = Some(seconds);
            }
            "response-topic" => message.response_topic = Some(value),
            "correlation" => message.correlation = Some(Bytes::from(value)),
            "property" => {
                let Some((key, value)) = value.split_once('=') else {
                    return Err(format!("property is \"{value}\", not NAME=VALUE"));
                };
                let property = (key.to_owned(), value.to_owned());
                message.properties.push(property);
            }
            _ => {
                return Err(format!(
                    "there is no parameter {name}; there are topic, qos, retain, text, expiry, \
                     response-topic, correlation and property"
                ));
            }
        }
    }
    if !seen.contains(&"topic") {
        return Err("topic is missing: POST /publish?topic=plant/1".to_owned());
    }
    Ok(message)
}

/// The quality of service that was asked for.
///
/// # Errors
/// It is not one that the outbox offers.
pub fn qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        "2" => Err(
            "QoS 2 is not offered; use 1: what is stored is delivered at least once, and repeats \
             carry the same sonde-frame"
                .to_owned(),
        ),
        _ => Err(format!("qos is \"{text}\", not 0 or 1")),
    }
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("{name} is \"{value}\", not 1 or 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: request::Builder) -> Result<Message, String> {
        let (head, ()) = request.body(()).expect("a request").into_parts();
        message_of(&head, Bytes::from_static(b"21.5"))
    }

    #[test]
    fn a_request_says_all_that_a_message_can() {
        let request = Request::post(
            "/publish?topic=plant/1%2Fa&qos=0&retain&text=1&expiry=60&response-topic=r\
             &correlation=%00x&property=unit=Cel&property=unit=a%26b",
        )
        .header("content-type", "text/plain")
        .header(
            "traceparent",
            format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8)),
        )
        .header("baggage", "k=v");
        let message = read(request).expect("a message");
        assert_eq!(message.topic, "plant/1/a");
        assert_eq!(message.qos, Qos::AtMostOnce);
        assert!(message.retain && message.text);
        assert_eq!(message.expiry, Some(60));
        assert_eq!(message.response_topic.as_deref(), Some("r"));
        assert_eq!(message.correlation.as_deref(), Some(&b"\0x"[..]));
        assert_eq!(message.content_type.as_deref(), Some("text/plain"));
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            message.properties,
            [pair("unit", "Cel"), pair("unit", "a&b")]
        );
        assert_eq!(message.context.expect("a context").span_id, [0xcd; 8]);
        assert_eq!(&*message.baggage, "k=v");
        assert_eq!(message.payload, "21.5");
    }

    #[test]
    fn what_curl_says_of_every_body_is_no_content_type() {
        let request = Request::post("/publish?topic=a")
            .header("content-type", "application/x-www-form-urlencoded");
        let message = read(request).expect("a message");
        assert_eq!(
            (message.content_type, message.qos),
            (None, Qos::AtLeastOnce)
        );
    }

    #[test]
    fn a_wrong_request_is_told_what_is_wrong() {
        for (query, wrong) in [
            ("", "topic is missing"),
            ("?qos=1", "topic is missing"),
            ("?topic=a&qos=2", "QoS 2 is not offered"),
            ("?topic=a&qos=x", "not 0 or 1"),
            ("?topic=a&retain=maybe", "not 1 or 0"),
            ("?topic=a&expiry=-1", "whole seconds"),
            ("?topic=a&expiry=1h", "whole seconds"),
            ("?topic=a&topic=b", "given twice"),
            ("?topic=a&property=x", "NAME=VALUE"),
            ("?topic=%ff", "percent-encoded UTF-8"),
            ("?topic=a&Topic=b", "no parameter Topic"),
        ] {
            let refused = read(Request::post(format!("/publish{query}"))).expect_err(query);
            assert!(refused.contains(wrong), "{query}: {refused}");
        }
    }

    #[test]
    fn each_refusal_has_its_status() {
        let after = Duration::from_millis(2100);
        let answer = refused_with(&Refusal::TooFast { after });
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "3");
        for (refused, code) in [
            (Refusal::Invalid(String::new()), 400),
            (Refusal::NotAllowed(String::new()), 403),
            (Refusal::TooLarge { size: 1 }, 413),
            (Refusal::Full(String::new()), 507),
            (Refusal::NoUplink, 503),
            (Refusal::Disk(String::new()), 503),
            (Refusal::Stopping, 503),
        ] {
            assert_eq!(refused_with(&refused).status(), code, "{refused:?}");
        }
    }
}
