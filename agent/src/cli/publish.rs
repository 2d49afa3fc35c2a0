//! `sonde publish TOPIC`: hands one MQTT message to the running agent, and ends
//! when it is on flash.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::client::{self, Request};
use super::{FAILED, FINE, WRONG, complain, say};
use crate::frame::MAX_BODY;
use crate::trace::propagation;

/// What to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where to.
    pub topic: String,
    /// `--message`
    pub message: Option<String>,
    /// `--file`; without it and a message: standard input.
    pub file: Option<PathBuf>,
    /// `--qos`
    pub qos: Option<String>,
    /// `--retain`
    pub retain: bool,
    /// `--expiry`, in seconds.
    pub expiry: Option<String>,
    /// `--content-type`
    pub content_type: Option<String>,
    /// `--response-topic`
    pub response_topic: Option<String>,
    /// `--correlation`
    pub correlation: Option<String>,
    /// `--property NAME=VALUE`, in order.
    pub properties: Vec<String>,
}

/// Sends it. 0: it is stored; 1: it was refused; 2: it is no message; 3: no agent.
pub fn run(socket: &Path, options: &Options) -> ExitCode {
    let payload = match payload(options) {
        Ok(payload) => payload,
        Err(wrong) => {
            complain(&format!("sonde publish: {wrong}"));
            return ExitCode::from(FAILED);
        }
    };
    let path = path(options);
    let carried = propagation::from_env(|name| std::env::var(name).ok());
    let fields = propagation::fields(&carried);
    let mut headers: Vec<(&str, &str)> = Vec::new();
    headers.extend(
        options
            .content_type
            .as_deref()
            .map(|kind| ("content-type", kind)),
    );
    headers.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
    let request = Request {
        method: "POST",
        path: &path,
        headers: &headers,
        body: &payload,
    };
    match client::ask(socket, &request) {
        Ok(reply) if reply.status == 200 => {
            let json = serde_json::from_slice::<serde_json::Value>(&reply.body).ok();
            let frame = json.as_ref().and_then(|json| json.get("frame")?.as_str());
            let said = say(&format!("{}\n", frame.unwrap_or_default()));
            ExitCode::from(if said { FINE } else { FAILED })
        }
        Ok(reply) => {
            complain(&format!(
                "sonde publish: not published: {}",
                reply.error().trim_end()
            ));
            ExitCode::from(if reply.status == 400 { WRONG } else { FAILED })
        }
        Err(failure) => {
            complain(&format!("sonde publish: {}", failure.words()));
            ExitCode::from(failure.code())
        }
    }
}

fn payload(options: &Options) -> Result<Vec<u8>, String> {
    if let Some(message) = &options.message {
        return Ok(message.clone().into_bytes());
    }
    let (read, what) = match &options.file {
        Some(file) => (
            File::open(file).and_then(limited),
            file.display().to_string(),
        ),
        None => (limited(io::stdin().lock()), "standard input".to_owned()),
    };
    let payload = read.map_err(|error| format!("cannot read {what}: {error}"))?;
    if payload.len() > MAX_BODY {
        return Err(format!(
            "{what} has more than the {MAX_BODY} bytes that a message may have; send it in parts"
        ));
    }
    Ok(payload)
}

fn limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    from.take(MAX_BODY as u64 + 1).read_to_end(&mut payload)?;
    Ok(payload)
}

fn path(options: &Options) -> String {
    let mut path = format!("/publish?topic={}", encoded(&options.topic));
    let mut add = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = write!(path, "&{name}={}", encoded(value));
    };
    for (name, value) in [
        ("qos", &options.qos),
        ("expiry", &options.expiry),
        ("response-topic", &options.response_topic),
        ("correlation", &options.correlation),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    if options.retain {
        add("retain", "1");
    }
    if options.message.is_some() {
        add("text", "1");
    }
    for property in &options.properties {
        add("property", property);
    }
    path
}

/// Percent-encoded but for what RFC 3986 calls unreserved, and the slash.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_query_that_the_door_reads() {
        let options = Options {
            topic: "plant/1 ü".to_owned(),
            message: Some("21.5".to_owned()),
            qos: Some("0".to_owned()),
            retain: true,
            expiry: Some("60".to_owned()),
            response_topic: Some("r".to_owned()),
            correlation: Some("a&b".to_owned()),
            properties: vec!["unit=Cel".to_owned()],
            ..Options::default()
        };
        assert_eq!(
            path(&options),
            "/publish?topic=plant/1%20%C3%BC&qos=0&expiry=60&response-topic=r&correlation=a%26b\
             &retain=1&text=1&property=unit%3DCel"
        );
        assert_eq!(payload(&options), Ok(b"21.5".to_vec()));
    }

    #[test]
    fn a_file_that_is_too_long_or_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let options = Options {
            file: Some(file.clone()),
            ..Options::default()
        };
        assert!(payload(&options).unwrap_err().contains("cannot read"));
        std::fs::write(&file, vec![0; MAX_BODY + 1]).unwrap();
        assert!(payload(&options).unwrap_err().contains("more than"));
        std::fs::write(&file, [0, 255]).unwrap();
        assert_eq!(payload(&options), Ok(vec![0, 255]));
    }
}
