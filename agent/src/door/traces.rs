//! `GET /traces`: frames with spans in memory, as they are, a line of JSON each.
//! Whoever asks unpacks and searches them: it costs the agent no decoding.
//!
//! ```text
//! {"frame": "feedbeef-42" | null, "class": …, "signal": …, "codec": "gzip",
//!  "items": 3, "first_unix_ns": …, "last_unix_ns": …, "traceparent": … | null,
//!  "acknowledged": {"otlp": true, "mqtt": false}, "body": base64}
//! {"not_shown": 7}
//! ```
//!
//! `frame` is null for spans that wait for the next flush. The body is empty
//! for frames of other signals, which are here for their context. `acknowledged`
//! names the uplinks that are to get it. The last line counts frames in memory
//! that are older than all of these and did not fit in the answer.

use serde_json::{Map, Value, json};

use crate::frame::{Codec, TraceContext};
use crate::otlp::json::base64;
use crate::spool::recent::{Held, Memory};

/// The lines.
pub(crate) fn lines(memory: &Memory) -> String {
    let mut out = String::new();
    for held in &memory.frames {
        out.push_str(&line(held).to_string());
        out.push('\n');
    }
    let last = json!({"not_shown": memory.more});
    out.push_str(&last.to_string());
    out.push('\n');
    out
}

fn line(held: &Held) -> Value {
    let batch = &held.batch;
    let uplinks = held.uplinks();
    let acked: Map<String, Value> = uplinks
        .map(|(name, done)| (name.as_str().to_owned(), done.into()))
        .collect();
    json!({
        "frame": held.id.map(|id| id.to_string()),
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
