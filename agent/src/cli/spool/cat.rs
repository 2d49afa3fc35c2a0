//! `sonde spool cat`: what frames say, a line each.

use std::io::{self, BufWriter, Write};

use super::select::{Frame, Selection, each};
use super::{Place, complain};
use serde_json::{Value, json};

use crate::frame::{Codec, Signal, TraceContext};
use crate::otlp::{gunzip, json};
use crate::outbox::envelope;

/// The most that a body may unpack to. Bodies are at most 96 KiB packed; only
/// hostile ones get here.
pub(in crate::cli) const LONGEST: usize = 16 << 20;

/// A body as it was before it was packed.
pub(in crate::cli) enum Body {
    Plain(bytes::Bytes),
    Unpacked(Vec<u8>),
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Plain(bytes) => bytes,
            Body::Unpacked(bytes) => bytes,
        }
    }
}

/// Unpacks a frame's body; otherwise why not.
pub(in crate::cli) fn body_of(frame: &Frame) -> Result<Body, String> {
    let Some(body) = &frame.body else {
        return Err("it is damaged: its checksum does not match".to_owned());
    };
    match frame.header.codec {
        Codec::Identity => Ok(Body::Plain(body.clone())),
        Codec::Gzip => gunzip(body, LONGEST)
            .map(Body::Unpacked)
            .map_err(|why| why.to_string()),
    }
}

pub(super) fn run(place: &Place, select: &Selection) -> io::Result<bool> {
    let ledger = place.folder.ledger()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut found, mut unread) = (0_u64, 0_u64);
    each(place, select, &ledger, true, &mut |frame| {
        found += 1;
        match line(&mut out, frame) {
            Ok(()) => Ok(()),
            Err(Line::Io(error)) => Err(error),
            Err(Line::Not(why)) => {
                unread += 1;
                complain(&format!(
                    "sonde spool: frame {} ({}) was left out: {why}",
                    frame.id,
                    frame.signal.as_str()
                ));
                Ok(())
            }
        }
    })?;
    out.flush()?;
    if found == 0 && select.frame.is_some() {
        complain("sonde spool: there is no such frame; see sonde spool ls --frames");
        return Ok(false);
    }
    Ok(unread == 0)
}

enum Line {
    Io(io::Error),
    Not(String),
}

impl From<io::Error> for Line {
    fn from(error: io::Error) -> Self {
        Line::Io(error)
    }
}

fn line(out: &mut dyn Write, frame: &Frame) -> Result<(), Line> {
    let body = body_of(frame).map_err(Line::Not)?;
    match frame.signal {
        Signal::Message => {
            message(out, &body, frame.header.context.as_ref()).map_err(Line::Not)??
        }
        signal => match json::write(out, signal, &body) {
            Ok(()) => {}
            Err(json::Refusal::Io(error)) => return Err(Line::Io(error)),
            Err(why) => return Err(Line::Not(why.to_string())),
        },
    }
    out.write_all(b"\n")?;
    Ok(())
}

/// A local program's message as JSON. What it says is text if it is, else base64.
pub(super) fn message(
    out: &mut dyn Write,
    body: &[u8],
    context: Option<&TraceContext>,
) -> Result<io::Result<()>, String> {
    let message = envelope::decode(body).map_err(|why| why.to_string())?;
    let (key, payload) = match std::str::from_utf8(&message.payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payloadBase64", json::base64(&message.payload)),
    };
    let properties = message.properties.iter();
    let properties: Vec<Value> = properties
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    let line = json!({
        "topic": message.topic,
        "qos": message.qos as u8,
        "retain": message.retain,
        "expirySeconds": message.expiry,
        "contentType": message.content_type,
        "responseTopic": message.response_topic,
        "correlationDataBase64": message.correlation.as_deref().map(json::base64),
        "userProperties": properties,
        "traceparent": context.map(TraceContext::traceparent),
        "tracestate": context.map(|context| &*context.state),
        "baggage": &*message.baggage,
        key: payload,
    });
    Ok(write!(out, "{line}"))
}
