//! `GET /traces`: frames with spans in memory, as they are, a line of JSON each.
//! Whoever asks unpacks and searches them: it costs the agent no decoding.
//!
//! ```text
//! {"frame": "feedbeef-42" | null, "class": …, "signal": …, "codec": "gzip",
//!  "items": 3, "first_unix_ns": …, "last_unix_ns": …, "traceparent": … | null,
//!  "acknowledged": ["otlp"], "body": base64}
//! ```
//!
//! `frame` is null for spans that wait for the next flush. The body is empty
//! for frames of other signals, which are here for their context.

use serde_json::{Value, json};

use crate::config::UplinkName;
use crate::frame::{Codec, TraceContext};
use crate::otlp::json::base64;
use crate::spool::recent::Stored;

/// The lines.
pub(crate) fn lines(frames: &[Stored]) -> String {
    let mut out = String::new();
    for stored in frames {
        out.push_str(&line(stored).to_string());
        out.push('\n');
    }
    out
}

fn line(stored: &Stored) -> Value {
    let batch = &stored.batch;
    let uplinks = [UplinkName::Otlp, UplinkName::Mqtt];
    let acked = uplinks.into_iter().filter(|name| stored.is_acked(*name));
    let acked: Vec<&str> = acked.map(UplinkName::as_str).collect();
    json!({
        "frame": stored.id.map(|id| id.to_string()),
        "class": batch.class.as_str(),
        "signal": batch.signal.as_str(),
        "codec": match batch.codec {
            Codec::Identity => "identity",
            Codec::Gzip => "gzip",
        },
        "items": batch.items,
        "first_unix_ns": batch.first.unix_ns,
        "last_unix_ns": batch.last.unix_ns,
        "traceparent": batch.context.as_ref().map(TraceContext::traceparent),
        "acknowledged": acked,
        "body": base64(&batch.body),
    })
}
