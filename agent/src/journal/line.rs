//! One record as one line. Pure.
//!
//! ```text
//! journald   <4>uplink::mqtt: The broker refused the password.
//! terminal   2026-11-21T04:02:34.123Z WARN  uplink::mqtt: The broker refused the password.
//! ```
//!
//! `<N>` is syslog's priority, as sd-daemon(3) and `SyslogLevelPrefix=` read it.
//! A record is one line whatever its message holds: control characters are
//! escaped, so that a broker's error text can neither forge a line with a
//! priority of its own nor talk to a terminal.

use std::fmt::Write;

use log::Level;

/// Messages are cut here: an error that quotes what a server sent is as long as
/// the server likes.
pub(super) const MAX_MESSAGE: usize = 4096;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With syslog's priority, for journald, which knows the time itself.
    Journald,
    /// With the time in UTC, for people.
    Terminal,
}

/// What a line is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) unix_ns: u64,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) message: &'a str,
    /// Records like it that were held back.
    pub(super) repeated: u64,
}

/// The line, its newline included.
pub(super) fn line(form: Form, entry: Entry<'_>) -> String {
    let mut out = String::with_capacity(entry.message.len() + entry.target.len() + 48);
    match form {
        Form::Journald => push(&mut out, format_args!("<{}>", priority(entry.level))),
        Form::Terminal => {
            push_utc(&mut out, entry.unix_ns);
            push(&mut out, format_args!(" {:<5} ", entry.level.as_str()));
        }
    }
    push_escaped(&mut out, short(entry.target));
    out.push_str(": ");
    push_escaped(&mut out, entry.message);
    if entry.repeated > 0 {
        push(
            &mut out,
            format_args!(" (repeated {} times)", entry.repeated),
        );
    }
    out.push('\n');
    out
}

/// At most [`MAX_MESSAGE`] bytes, and how much is missing.
pub(super) fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let whole = message.len();
        let end = message.floor_char_boundary(MAX_MESSAGE);
        message.truncate(end);
        push(
            &mut message,
            format_args!(" … ({} bytes more)", whole - end),
        );
    }
    message
}

/// Module path without the crate's own name.
pub(super) fn short(target: &str) -> &str {
    target.strip_prefix("sonde_agent::").unwrap_or(target)
}

/// syslog(3)
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        // The two separators count as line ends in some viewers.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// RFC 3339 with milliseconds. Days to a date after the proleptic Gregorian
/// calendar, counted from 0000-03-01 so that the leap day ends a year.
fn push_utc(out: &mut String, unix_ns: u64) {
    let millis = unix_ns / 1_000_000;
    let seconds = millis / 1000;
    let days = seconds / 86_400 + 719_468;
    let era_day = days % 146_097;
    let year_of_era = (era_day - era_day / 1460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * year_day + 2) / 153;
    let day = year_day - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    push(
        out,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            millis % 1000
        ),
    );
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> Entry<'_> {
        Entry {
            unix_ns: 0,
            level: Level::Warn,
            target: "sonde_agent::uplink::mqtt",
            message,
            repeated: 0,
        }
    }

    fn utc(unix_seconds: u64) -> String {
        let mut out = String::new();
        push_utc(&mut out, unix_seconds * 1_000_000_000);
        out
    }

    #[test]
    fn journald_gets_the_priority_and_the_short_module() {
        let text = line(Form::Journald, entry("The broker refused the password."));
        assert_eq!(text, "<4>uplink::mqtt: The broker refused the password.\n");
    }

    #[test]
    fn no_message_and_no_target_can_make_a_second_line() {
        let evil = "a\n<0>forged\r\u{1b}[2J\u{85}\u{2028}\u{0}\u{7f}b";
        for form in [Form::Journald, Form::Terminal] {
            let mut entry = entry(evil);
            entry.target = evil;
            let text = line(form, entry);
            let (body, end) = text.split_at(text.len() - 1);
            assert_eq!(end, "\n");
            assert!(
                !body.chars().any(|c| c.is_control() || c == '\u{2028}'),
                "{body:?}"
            );
        }
    }

    #[test]
    fn repeats_are_said() {
        let text = line(
            Form::Journald,
            Entry {
                repeated: 12,
                ..entry("No.")
            },
        );
        assert_eq!(text, "<4>uplink::mqtt: No. (repeated 12 times)\n");
    }

    #[test]
    fn a_terminal_gets_the_time_in_utc() {
        let text = line(Form::Terminal, entry("No."));
        assert_eq!(text, "1970-01-01T00:00:00.000Z WARN  uplink::mqtt: No.\n");
    }

    #[test]
    fn dates_are_right_around_leap_days_and_far_ahead() {
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(951_868_800), "2000-03-01T00:00:00.000Z");
        assert_eq!(utc(1_795_233_754), "2026-11-21T04:02:34.000Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert!(utc(u64::MAX / 1_000_000_000).starts_with("2554-07-21T23:34:33"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = cut("é".repeat(10_000) + "!");
        assert!(cut.len() < MAX_MESSAGE + 40);
        assert!(cut.ends_with("… (15905 bytes more)"), "{}", &cut[4000..]);
        assert_eq!(super::cut("short".into()), "short");
    }
}
