//! `sonde event NAME KEY=VALUE…`: one event to the running agent.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::client::{self, Request};
use super::{FAILED, FINE, WRONG, complain};
use crate::trace::propagation;

/// What to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// `KEY=VALUE`: a measurement if the value is a number.
    pub fields: Vec<String>,
    /// `KEY=VALUE`: metadata whatever it looks like.
    pub texts: Vec<String>,
}

/// Sends it. 0: the agent has it; 1: it refused; 2: not an event; 3: no agent.
pub fn run(socket: &Path, options: &Options) -> ExitCode {
    let body = match body(options) {
        Ok(body) => body.to_string(),
        Err(wrong) => {
            complain(&format!("sonde event: {wrong}"));
            return ExitCode::from(WRONG);
        }
    };
    let carried = propagation::from_env(|name| std::env::var(name).ok());
    let fields = propagation::fields(&carried);
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
    let request = Request {
        method: "POST",
        path: "/event",
        headers: &headers,
        body: body.as_bytes(),
    };
    match client::ask(socket, &request) {
        Ok(reply) if reply.status == 202 => ExitCode::from(FINE),
        Ok(reply) => {
            complain(&format!(
                "sonde event: the agent refused it: {}",
                reply.error().trim_end()
            ));
            ExitCode::from(if reply.status == 400 { WRONG } else { FAILED })
        }
        Err(failure) => {
            complain(&format!("sonde event: {}", failure.words()));
            ExitCode::from(failure.code())
        }
    }
}

fn body(options: &Options) -> Result<Value, String> {
    let (mut measurements, mut metadata) = (Map::new(), Map::new());
    let fields = options.fields.iter().map(|field| (field, false));
    let texts = options.texts.iter().map(|text| (text, true));
    for (field, is_text) in fields.chain(texts) {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!(
                "{field:?} is not KEY=VALUE; write for example: sonde event pump.start pressure=4.5"
            ));
        };
        if measurements.contains_key(key) || metadata.contains_key(key) {
            return Err(format!("{key:?} is given twice"));
        }
        let number = value.parse().ok().filter(|number: &f64| number.is_finite());
        match number.filter(|_| !is_text) {
            Some(number) => measurements.insert(key.to_owned(), json!(number)),
            None => metadata.insert(key.to_owned(), json!(value)),
        };
    }
    let mut event = json!({ "name": options.name });
    if let Value::Object(event) = &mut event {
        event.insert("measurements".into(), measurements.into());
        event.insert("metadata".into(), metadata.into());
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &[&str], texts: &[&str]) -> Options {
        let owned = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect();
        Options {
            name: "pump.start".into(),
            fields: owned(fields),
            texts: owned(texts),
        }
    }

    #[test]
    fn numbers_are_measurements_and_the_rest_is_metadata() {
        let fields = [
            "pressure=4.5",
            "n=-3",
            "pump=a=b",
            "empty=",
            "odd=nan",
            "odd2=inf",
        ];
        assert_eq!(
            body(&options(&fields, &["serial=0012"])).unwrap(),
            json!({
                "name": "pump.start",
                "measurements": {"pressure": 4.5, "n": -3.0},
                "metadata": {"pump": "a=b", "empty": "", "odd": "nan", "odd2": "inf", "serial": "0012"},
            })
        );
    }

    #[test]
    fn what_is_no_field_or_comes_twice_is_said() {
        assert!(
            body(&options(&["pressure"], &[]))
                .unwrap_err()
                .contains("KEY=VALUE")
        );
        assert!(
            body(&options(&["a=1"], &["a=b"]))
                .unwrap_err()
                .contains("twice")
        );
    }
}
