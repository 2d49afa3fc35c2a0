//! What the agent's door says about traces in memory.

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::tree::hex;
use super::{Ask, Found, Part};
use crate::cli::client::{self, Failure, Request};
use crate::cli::spool::LONGEST;
use crate::frame::{Class, Signal};
use crate::otlp::gunzip;
use crate::trace::propagation::parse;

/// Asks, and takes what is wanted.
pub(super) fn ask(socket: &Path, ask: &Ask, found: &mut Found) -> Result<(), Failure> {
    let request = Request {
        method: "GET",
        path: "/traces",
        headers: &[],
        body: b"",
    };
    let reply = client::ask(socket, &request)?;
    if reply.status != 200 {
        return Err(Failure::Nonsense(reply.error()));
    }
    for line in reply.body.split(|byte| *byte == b'\n') {
        if !line.is_empty() && take(line, ask, found).is_none() {
            found.unread += 1;
        }
    }
    Ok(())
}

fn take(line: &[u8], ask: &Ask, found: &mut Found) -> Option<()> {
    let line: Value = serde_json::from_slice(line).ok()?;
    if let Some(more) = line.get("not_shown") {
        found.not_shown += more.as_u64()?;
        return Some(());
    }
    let text = |key: &str| line.get(key).and_then(Value::as_str);
    let class = Class::ALL
        .into_iter()
        .find(|class| Some(class.as_str()) == text("class"))?;
    let mut signals = Signal::ALL.into_iter();
    let signal = signals.find(|signal| Some(signal.as_str()) == text("signal"))?;
    let acked = line.get("acknowledged")?.as_object()?.iter();
    let uplinks = acked
        .map(|(name, done)| Some((super::status::clean(name), done.as_bool()?)))
        .collect::<Option<Vec<_>>>()?;
    let parent = text("traceparent").and_then(|text| parse(text, ""));
    let name = text("frame").unwrap_or_default().to_owned();
    let part = Part {
        name: name.clone(),
        class,
        signal,
        spans: 0,
        place: "in memory",
        uplinks,
        context: parent.as_ref().map(|parent| parent.span_id),
    };
    found.names.insert(name);
    if signal == Signal::Traces {
        let body = unbase64(text("body")?)?;
        let body = match text("codec")? {
            "gzip" => Bytes::from(gunzip(&body, LONGEST).ok()?),
            _ => Bytes::from(body),
        };
        found.request(ask, &body, part);
    } else if let Ask::One(id) = ask
        && let Some(parent) = parent
        && hex(&parent.trace_id).starts_with(id)
    {
        found.part(part);
    }
    Some(())
}

/// Base64 with padding; `None`: it is none.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::json::base64;

    #[test]
    fn base64_comes_back_as_it_went_in() {
        for length in 0..40_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(97)).collect();
            assert_eq!(unbase64(&base64(&bytes)), Some(bytes));
        }
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(unbase64("a b"), None);
    }
}
