//! What an HTTP status and its Retry-After mean for what happens next.

use std::time::Duration;

use super::delivery::{MAX_RETRY_AFTER, Verdict};

/// What an HTTP status means for the frame that was sent.
///
/// Departs from OTLP 1.11, which calls every 4xx but 429 final: only 400 and
/// 422 are about the data. The others are about us or the server, and one
/// expired token must not delete a fleet's backlog. `said` is what the server
/// gave as its reason; empty: nothing.
pub(super) fn of_status(code: u16, retry_after: Option<Duration>, said: &str) -> Verdict {
    let answer = if said.is_empty() {
        format!("the server answered {code}")
    } else {
        format!("the server answered {code}: {said}")
    };
    let hold = |todo: &str| Verdict::Hold {
        reason: format!("{answer}; {todo}"),
    };
    match code {
        200..=299 => Verdict::Delivered { rejected_items: 0 },
        400 | 422 => Verdict::Condemn { reason: answer },
        413 => Verdict::Split,
        408 | 429 | 502 | 503 | 504 => Verdict::Retry {
            after: retry_after,
            why: answer,
        },
        300..=399 => hold("redirects are not followed: put the final address into `endpoint`"),
        401 => hold("renew the token in `headers_file` (it is read again by itself)"),
        403 => hold("the token or certificate lacks the right to write here"),
        404 | 405 => hold(
            "this collector takes none of it here: check `endpoint` and the path, or send this signal elsewhere with [route]",
        ),
        407 => hold("a proxy in between wants credentials of its own"),
        415 => {
            hold("it does not take OTLP as gzipped protobuf: try `gzip = false`, check the path")
        }
        500..=599 => hold("the server is broken; see its log"),
        _ => hold("this is no answer an OTLP server gives: check `endpoint`"),
    }
}

/// Reads a Retry-After value: seconds, or a date, which is compared with the
/// server's own `Date` where it sent one, since our clock may be wrong.
///
/// Source: RFC 9110, 10.2.3 and 5.6.7 (IMF-fixdate only). Nonsense is `None`.
pub(super) fn retry_after(value: &str, server_date: Option<&str>, unix_s: u64) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds still mean "long".
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let at = http_date(value)?;
    let from = server_date.and_then(http_date).unwrap_or(unix_s);
    Some(Duration::from_secs(at.saturating_sub(from)).min(MAX_RETRY_AFTER))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
pub(super) fn http_date(text: &str) -> Option<u64> {
    let (_weekday, rest) = text.trim().split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = match words.next()? {
        "Jan" => 1,
        "Feb" => 2,
        "Mar" => 3,
        "Apr" => 4,
        "May" => 5,
        "Jun" => 6,
        "Jul" => 7,
        "Aug" => 8,
        "Sep" => 9,
        "Oct" => 10,
        "Nov" => 11,
        "Dec" => 12,
        _ => return None,
    };
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.splitn(3, ':');
    let mut part = |limit: u64| {
        time.next()?
            .parse::<u64>()
            .ok()
            .filter(|part| *part < limit)
    };
    let (hour, minute, second) = (part(24)?, part(60)?, part(61)?);
    if words.next() != Some("GMT") || !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    // Days since 1970-03-01 of a year that begins in March, so that the leap day comes last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    const TO_1970: u64 = 719_468;
    days.checked_sub(TO_1970)
        .map(|days| days * 86_400 + hour * 3_600 + minute * 60 + second)
}
