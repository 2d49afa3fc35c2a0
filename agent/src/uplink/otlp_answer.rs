//! What a collector's answer means for the frame that was sent. Pure.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message;

use super::delivery::Verdict;
use super::http_status;

/// A server's words are cut here before they reach a log.
const MAX_SAID: usize = 200;

/// One whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status code.
    pub(super) code: u16,
    /// Headers.
    pub(super) headers: HeaderMap,
    /// The body, as far as it was kept.
    pub(super) body: Vec<u8>,
    /// It was longer than was kept.
    pub(super) cut: bool,
}

/// A verdict, and what the server wanted a person to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    /// What to do.
    pub(super) verdict: Verdict,
    /// The message of a partial success; empty: none.
    pub(super) warning: String,
}

impl Answer {
    /// Judges it. `items`: in the request that it answers.
    pub(super) fn meaning(&self, items: u32, unix_s: u64) -> Meaning {
        if (200..300).contains(&self.code) {
            return self.success(items);
        }
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let after =
            text(RETRY_AFTER).and_then(|value| http_status::retry_after(value, text(DATE), unix_s));
        Meaning {
            verdict: http_status::of_status(self.code, after, &self.said()),
            warning: String::new(),
        }
    }

    fn success(&self, items: u32) -> Meaning {
        let kind = self.content_type();
        // A hotel's or carrier's sign-in page answers 200 to everything, and keeps nothing.
        if kind == "text/html" || self.cut {
            let what = if self.cut {
                "a body that is too long"
            } else {
                "a web page"
            };
            return Meaning {
                verdict: Verdict::Hold {
                    reason: format!(
                        "the server answered {} with {what}, which no OTLP server does: check `endpoint`, and whether this network wants a sign-in",
                        self.code
                    ),
                },
                warning: String::new(),
            };
        }
        let (rejected, message) = if kind == "application/json" {
            json_partial_success(&self.body)
        } else {
            // The three signals' answers have the same bytes: message 1 with int64 1 and string 2.
            ExportMetricsServiceResponse::decode(self.body.as_slice())
                .ok()
                .and_then(|answer| answer.partial_success)
                .map(|partial| (partial.rejected_data_points, partial.error_message))
        }
        .unwrap_or_default();
        let rejected_items = u64::try_from(rejected).unwrap_or(0).min(u64::from(items));
        Meaning {
            verdict: Verdict::Delivered { rejected_items },
            warning: match (rejected_items, printable(&message)) {
                (0, message) => message,
                (_, message) if message.is_empty() => "no reason given".into(),
                (_, message) => message,
            },
        }
    }

    /// What the server gave as a reason: google.rpc.Status as OTLP asks for, or plain text.
    fn said(&self) -> String {
        match self.content_type().as_str() {
            // Status has int32 1 and string 2, as has a partial success.
            "application/x-protobuf" => ExportMetricsPartialSuccess::decode(self.body.as_slice())
                .map(|status| printable(&status.error_message))
                .unwrap_or_default(),
            "text/html" => String::new(),
            _ => printable(&String::from_utf8_lossy(&self.body)),
        }
    }

    /// Lower case, without parameters; empty: none.
    fn content_type(&self) -> String {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_ascii_lowercase())
            .unwrap_or_default()
    }
}

/// `{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "…"}}`; 64-bit numbers are strings in OTLP's JSON.
fn json_partial_success(body: &[u8]) -> Option<(i64, String)> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let partial = answer.get("partialSuccess")?;
    let rejected = ["rejectedDataPoints", "rejectedSpans", "rejectedLogRecords"]
        .iter()
        .find_map(|name| partial.get(name))
        .and_then(|value| value.as_i64().or_else(|| value.as_str()?.parse().ok()))
        .unwrap_or(0);
    let message = partial.get("errorMessage").and_then(|value| value.as_str());
    Some((rejected, message.unwrap_or_default().to_owned()))
}

/// One line, cut, without control characters: it ends up on terminals.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        for c in word.chars() {
            if out.len() >= MAX_SAID {
                out.push('…');
                return out;
            }
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn answer(code: u16, kind: &'static str, body: &[u8]) -> Answer {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Answer {
            code,
            headers,
            body: body.to_vec(),
            cut: false,
        }
    }

    fn partial(rejected: i64, message: &str) -> Vec<u8> {
        ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: rejected,
                error_message: message.into(),
            }),
        }
        .encode_to_vec()
    }

    const PROTOBUF: &str = "application/x-protobuf";

    #[test]
    fn a_partial_success_counts_what_was_rejected_and_never_more_than_was_sent() {
        let meaning = answer(200, PROTOBUF, &partial(3, "too old")).meaning(10, 0);
        assert_eq!(meaning.verdict, Verdict::Delivered { rejected_items: 3 });
        assert_eq!(meaning.warning, "too old");
        let lying = answer(200, PROTOBUF, &partial(i64::MAX, "")).meaning(10, 0);
        assert_eq!(lying.verdict, Verdict::Delivered { rejected_items: 10 });
        assert_eq!(lying.warning, "no reason given");
        let negative = answer(200, PROTOBUF, &partial(-5, "")).meaning(10, 0);
        assert_eq!(negative.verdict, Verdict::Delivered { rejected_items: 0 });
    }

    #[test]
    fn a_partial_success_that_rejects_nothing_is_a_warning() {
        let meaning = answer(200, PROTOBUF, &partial(0, "deprecated\nfield")).meaning(10, 0);
        assert_eq!(meaning.verdict, Verdict::Delivered { rejected_items: 0 });
        assert_eq!(meaning.warning, "deprecated field");
    }

    #[test]
    fn json_and_empty_and_undecodable_successes_are_successes() {
        let json = br#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no"}}"#;
        let meaning = answer(200, "application/json; charset=utf-8", json).meaning(10, 0);
        assert_eq!(meaning.verdict, Verdict::Delivered { rejected_items: 2 });
        for (code, kind, body) in [
            (200, "", &b""[..]),
            (204, "", b""),
            (200, PROTOBUF, b"\xff"),
        ] {
            let meaning = answer(code, kind, body).meaning(1, 0);
            assert_eq!(meaning.verdict, Verdict::Delivered { rejected_items: 0 });
        }
    }

    #[test]
    fn a_sign_in_page_is_not_a_collector() {
        let page = answer(200, "text/html; charset=utf-8", b"<h1>Welcome</h1>").meaning(1, 0);
        assert!(matches!(page.verdict, Verdict::Hold { reason } if reason.contains("sign-in")));
    }

    #[test]
    fn a_servers_words_are_one_short_line() {
        let status = ExportMetricsPartialSuccess {
            rejected_data_points: 3,
            error_message: "metric\u{1b}[31m red".into(),
        }
        .encode_to_vec();
        let meaning = answer(400, PROTOBUF, &status).meaning(1, 0);
        let Verdict::Condemn { reason } = meaning.verdict else {
            panic!("{meaning:?}");
        };
        assert_eq!(reason, "the server answered 400: metric [31m red");
        let long = answer(400, "text/plain", "ü".repeat(5000).as_bytes()).meaning(1, 0);
        let Verdict::Condemn { reason } = long.verdict else {
            panic!("{long:?}");
        };
        assert!(reason.len() < 250);
    }

    #[test]
    fn retry_after_is_read_against_the_servers_own_date() {
        let mut busy = answer(503, "", b"");
        busy.headers.insert(
            RETRY_AFTER,
            HeaderValue::from_static("Sat, 21 Nov 2026 04:00:30 GMT"),
        );
        busy.headers.insert(
            DATE,
            HeaderValue::from_static("Sat, 21 Nov 2026 04:00:00 GMT"),
        );
        let meaning = busy.meaning(1, 12);
        assert!(matches!(
            meaning.verdict,
            Verdict::Retry { after: Some(after), .. } if after.as_secs() == 30
        ));
    }
}
