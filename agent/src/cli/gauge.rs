//! `sonde gauge NAME VALUE [KEY=VALUE…]`: one number to the running agent.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::client::{self, Request};
use super::{FAILED, FINE, WRONG, complain};
use crate::gauge::custom::number::Number;

/// What to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The gauge: its table's name in the config, or its metric's.
    pub name: String,
    /// The number, as it was written.
    pub value: String,
    /// `KEY=VALUE` each.
    pub attributes: Vec<String>,
}

/// Sends it. 0: the agent has it; 1: it took none now; 2: it is no number that
/// this gauge takes; 3: no agent.
pub fn run(socket: &Path, options: &Options) -> ExitCode {
    let body = match body(options) {
        Ok(body) => body.to_string(),
        Err(wrong) => {
            complain(&format!("sonde gauge: {wrong}"));
            return ExitCode::from(WRONG);
        }
    };
    let request = Request {
        method: "POST",
        path: "/gauge",
        headers: &[("content-type", "application/json")],
        body: body.as_bytes(),
    };
    match client::ask(socket, &request) {
        Ok(reply) if reply.status == 202 => ExitCode::from(FINE),
        Ok(reply) => {
            complain(&format!(
                "sonde gauge: the agent refused it: {}",
                reply.error().trim_end()
            ));
            ExitCode::from(if reply.status == 400 { WRONG } else { FAILED })
        }
        Err(failure) => {
            complain(&format!("sonde gauge: {}", failure.words()));
            ExitCode::from(failure.code())
        }
    }
}

fn body(options: &Options) -> Result<Value, String> {
    let value = match Number::parse(&options.value) {
        Some(Number::Whole(whole)) => json!(whole),
        Some(Number::Real(real)) => json!(real),
        None => {
            return Err(format!(
                "{:?} is no number; write for example: sonde gauge line.speed 1.25",
                options.value
            ));
        }
    };
    let mut attributes = Map::new();
    for field in &options.attributes {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!(
                "{field:?} is not KEY=VALUE; write for example: sonde gauge line.speed 1.25 line=3"
            ));
        };
        if attributes.insert(key.to_owned(), json!(value)).is_some() {
            return Err(format!("{key:?} is given twice"));
        }
    }
    let mut push = json!({ "name": options.name, "value": value });
    if let (Value::Object(push), false) = (&mut push, attributes.is_empty()) {
        push.insert("attributes".into(), attributes.into());
    }
    Ok(push)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(value: &str, attributes: &[&str]) -> Options {
        Options {
            name: "line.speed".into(),
            value: value.into(),
            attributes: attributes.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn a_number_and_its_attributes_become_json() {
        assert_eq!(
            body(&options("-1.5", &["line=3", "note=a=b"])).unwrap(),
            json!({"name": "line.speed", "value": -1.5, "attributes": {"line": "3", "note": "a=b"}})
        );
        assert_eq!(
            body(&options("9007199254740993", &[])).unwrap(),
            json!({"name": "line.speed", "value": 9_007_199_254_740_993_i64})
        );
    }

    #[test]
    fn what_is_no_number_and_no_attribute_is_said() {
        for wrong in ["", "nan", "inf", "1e400", "0x1F", "1,5", "fast"] {
            assert!(
                body(&options(wrong, &[]))
                    .unwrap_err()
                    .contains("no number")
            );
        }
        assert!(
            body(&options("1", &["line"]))
                .unwrap_err()
                .contains("KEY=VALUE")
        );
        assert!(
            body(&options("1", &["a=1", "a=2"]))
                .unwrap_err()
                .contains("twice")
        );
    }
}
