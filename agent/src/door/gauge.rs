//! `POST /gauge`: a local program pushes numbers for gauges that the config
//! declares with `push = true`.
//!
//! ```json
//! {"name": "line.speed", "value": 1.25, "attributes": {"line": "3"}}
//! ```
//!
//! or a list of such objects. Answered 202 once all are taken; each goes out
//! with the next tick of its gauge, under the loss-window rules of gauges. If
//! some are refused the others are taken all the same, and the answer says how
//! many, and why the first one was not.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::{Answer, body, refusal};
use crate::clock::Clock;
use crate::gauge::custom::Custom;
use crate::gauge::custom::number::Number;
use crate::gauge::custom::push::{Push, Refusal};

/// A full list of values with some attributes fits.
const MAX_BODY: usize = 64 * 1024;

/// Values of one request.
const MAX_BATCH: usize = 256;

/// For a body of that size from the same machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Takes one value or a list of them.
pub(super) async fn answer(custom: &Custom, clock: &Clock, request: Request<Incoming>) -> Answer {
    let body = match body::read(request.into_body(), MAX_BODY, DEADLINE).await {
        Ok(body) => body,
        Err(unread) => return unread.answer(),
    };
    let pushes = match parse(&body) {
        Ok(pushes) => pushes,
        Err(wrong) => return refusal(StatusCode::BAD_REQUEST, &wrong),
    };
    let now = clock.boot_ns();
    let total = pushes.len();
    let mut refused = 0;
    let mut first = None;
    for (at, push) in pushes.into_iter().enumerate() {
        if let Err(refusal) = custom.push(push, now) {
            refused += 1;
            first.get_or_insert((at, refusal));
        }
    }
    let Some((at, why)) = first else {
        let mut answer = super::text(String::new());
        *answer.status_mut() = StatusCode::ACCEPTED;
        return answer;
    };
    let code = match why {
        Refusal::Rate => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_REQUEST,
    };
    match total {
        1 => refusal(code, &why.to_string()),
        _ => refusal(
            code,
            &format!(
                "{refused} of {total} values were refused; number {}: {why}",
                at + 1
            ),
        ),
    }
}

/// Nothing of a body with a mistake in its form is taken.
fn parse(body: &[u8]) -> Result<Vec<Push>, String> {
    let form = "the body is no JSON object such as {\"name\": \"line.speed\", \"value\": 1.25}, and no list of them";
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(vec![push(object)?]),
        Ok(Value::Array(list)) if list.len() > MAX_BATCH => Err(format!(
            "the list has {} values; at most {MAX_BATCH} are taken",
            list.len()
        )),
        Ok(Value::Array(list)) => {
            let mut pushes = Vec::with_capacity(list.len());
            for (at, item) in list.into_iter().enumerate() {
                let Value::Object(object) = item else {
                    return Err(format!("number {}: {form}", at + 1));
                };
                pushes.push(push(object).map_err(|wrong| format!("number {}: {wrong}", at + 1))?);
            }
            Ok(pushes)
        }
        Ok(_) => Err(form.into()),
        Err(error) => Err(format!("{form}: {error}")),
    }
}

fn push(mut object: Map<String, Value>) -> Result<Push, &'static str> {
    let Some(Value::String(name)) = object.remove("name") else {
        return Err("there is no \"name\" that is a text");
    };
    let value = match object.remove("value") {
        Some(Value::Number(number)) => match number.as_i64() {
            Some(whole) => Some(Number::Whole(whole)),
            None => number.as_f64().and_then(Number::real),
        },
        _ => None,
    };
    let Some(value) = value else {
        return Err("there is no \"value\" that is a number");
    };
    let mut attributes = BTreeMap::new();
    match object.remove("attributes") {
        None => {}
        Some(Value::Object(table)) => {
            for (key, value) in table {
                let Value::String(text) = value else {
                    return Err("\"attributes\" holds something that is not a text");
                };
                attributes.insert(key, text);
            }
        }
        Some(_) => return Err("\"attributes\" is not an object"),
    }
    if !object.is_empty() {
        return Err("a value has \"name\", \"value\" and \"attributes\", nothing else");
    }
    Ok(Push {
        name,
        value,
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_or_a_list_is_read_as_it_is_documented() {
        let one = r#"{"name": "line.speed", "value": 1.25, "attributes": {"line": "3"}}"#;
        let expected = Push {
            name: "line.speed".into(),
            value: Number::Real(1.25),
            attributes: [("line".to_owned(), "3".to_owned())].into(),
        };
        assert_eq!(parse(one.as_bytes()), Ok(vec![expected.clone()]));
        let list = format!("[{one}, {{\"name\": \"n\", \"value\": -7}}]");
        let pushes = parse(list.as_bytes()).unwrap();
        assert_eq!(pushes[0], expected);
        assert_eq!(pushes[1].value, Number::Whole(-7));
        assert_eq!(parse(b"[]"), Ok(vec![]));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong() {
        let many = format!("[{}1]", "1,".repeat(MAX_BATCH));
        let deep = "[".repeat(60_000);
        for (text, wrong) in [
            ("", "no JSON object"),
            ("7", "no JSON object"),
            ("{", "no JSON object"),
            ("\u{ff}\u{0}", "no JSON object"),
            ("[1]", "number 1"),
            ("{}", "name"),
            (r#"{"name": 1, "value": 1}"#, "name"),
            (r#"{"name": "a"}"#, "value"),
            (r#"{"name": "a", "value": "1"}"#, "value"),
            (r#"{"name": "a", "value": null}"#, "value"),
            (r#"{"name": "a", "value": NaN}"#, "no JSON object"),
            (r#"{"name": "a", "value": 1e400}"#, "no JSON object"),
            (r#"{"name": "a", "value": 1, "attributes": []}"#, "object"),
            (
                r#"{"name": "a", "value": 1, "attributes": {"b": 1}}"#,
                "text",
            ),
            (r#"{"name": "a", "value": 1, "more": 1}"#, "nothing else"),
            (many.as_str(), "at most 256"),
            (deep.as_str(), "no JSON object"),
        ] {
            assert!(
                parse(text.as_bytes()).unwrap_err().contains(wrong),
                "{text:.60}"
            );
        }
    }
}
