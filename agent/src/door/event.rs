//! `POST /event`: a local program says that something happened.
//!
//! ```json
//! {"name": "pump.start", "measurements": {"pressure": 4.5}, "metadata": {"pump": "2"}}
//! ```
//!
//! `traceparent` and `tracestate` in the head tie it to the program's span. Answered 202
//! once the handlers have it; it is not synced: the loss-window rules of log
//! records hold for the record that it becomes.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::{Answer, body, refusal};
use crate::event::{Events, Offer, Refusal};
use crate::trace::propagation;

/// Thirty-two values of the greatest length fit, escaped.
const MAX_BODY: usize = 64 * 1024;

/// For a body of that size from the same machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Takes one event.
pub(super) async fn answer(events: &Events, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = match body::read(body, MAX_BODY, DEADLINE).await {
        Ok(body) => body,
        Err(unread) => return unread.answer(),
    };
    let mut offer = match parse(&body) {
        Ok(offer) => offer,
        Err(wrong) => return refusal(StatusCode::BAD_REQUEST, wrong),
    };
    let fields = head.headers.iter();
    let fields = fields.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let carried = propagation::extract(fields);
    offer.span = carried.context.as_ref().map(propagation::remote);
    match events.offer(&offer) {
        Ok(()) => {
            let mut answer = super::text(String::new());
            *answer.status_mut() = StatusCode::ACCEPTED;
            answer
        }
        Err(Refusal::Rate) => refusal(StatusCode::TOO_MANY_REQUESTS, &Refusal::Rate.to_string()),
        Err(other) => refusal(StatusCode::BAD_REQUEST, &other.to_string()),
    }
}

fn parse(body: &[u8]) -> Result<Offer, &'static str> {
    let Ok(Value::Object(mut event)) = serde_json::from_slice(body) else {
        return Err("the body is not a JSON object, such as {\"name\": \"pump.start\"}");
    };
    let Some(Value::String(name)) = event.remove("name") else {
        return Err("the event has no \"name\" that is a text");
    };
    let mut offer = Offer {
        name,
        ..Offer::default()
    };
    for (key, value) in table(event.remove("measurements"))? {
        let Some(number) = value.as_f64() else {
            return Err("\"measurements\" holds something that is not a number");
        };
        offer.measurements.push((key, number));
    }
    for (key, value) in table(event.remove("metadata"))? {
        let Value::String(text) = value else {
            return Err("\"metadata\" holds something that is not a text");
        };
        offer.metadata.push((key, text));
    }
    if !event.is_empty() {
        return Err("an event has \"name\", \"measurements\" and \"metadata\", nothing else");
    }
    Ok(offer)
}

fn table(value: Option<Value>) -> Result<Map<String, Value>, &'static str> {
    match value {
        None => Ok(Map::new()),
        Some(Value::Object(table)) => Ok(table),
        Some(_) => Err("\"measurements\" and \"metadata\" are objects"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_is_documented() {
        let text = r#"{"name": "pump.start", "measurements": {"pressure": 4.5, "n": 2}, "metadata": {"pump": "2"}}"#;
        let expected = Offer {
            name: "pump.start".into(),
            measurements: vec![("n".into(), 2.0), ("pressure".into(), 4.5)],
            metadata: vec![("pump".into(), "2".into())],
            span: None,
        };
        let mut offer = parse(text.as_bytes()).unwrap();
        offer.measurements.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(offer, expected);
        assert_eq!(parse(br#"{"name": "a"}"#).unwrap().name, "a");
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong() {
        for (text, wrong) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            ("{", "JSON object"),
            ("\u{ff}\u{0}", "JSON object"),
            ("{}", "name"),
            (r#"{"name": 1}"#, "name"),
            (r#"{"name": "a", "measurements": 1}"#, "objects"),
            (r#"{"name": "a", "measurements": {"b": "1"}}"#, "number"),
            (r#"{"name": "a", "metadata": {"b": 1}}"#, "text"),
            (r#"{"name": "a", "more": 1}"#, "nothing else"),
        ] {
            assert!(
                parse(text.as_bytes()).unwrap_err().contains(wrong),
                "{text}"
            );
        }
        let deep = "[".repeat(60_000);
        assert!(parse(deep.as_bytes()).is_err());
    }
}
