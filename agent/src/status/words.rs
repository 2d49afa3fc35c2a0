//! Figures as people say them: bytes, durations, counts. Pure; whatever comes
//! in (NaN, negative, huge), something short comes out.

use std::collections::BTreeMap;

/// `17 B`, `1.5 KiB`, `64 MiB`: binary units, at most three digits of precision.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut name = "KiB";
    for unit in UNITS {
        name = unit;
        // 1023.6 would print as `1024`.
        if value < 1023.5 {
            break;
        }
        if unit != "PiB" {
            value /= 1024.0;
        }
    }
    if value < 9.95 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.0} {name}")
    }
}

/// `0s`, `59s`, `3m 12s`, `5h 2m`, `12d 4h`: the two largest units. Unknown
/// (not finite) is `?`, negative is `0s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    // `as` saturates: a hostile 1e300 becomes a very long time, not a panic.
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `1,234,567`
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 frame`, `2 frames`
pub fn of(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(n))
}

/// Nanoseconds since 1970 as `2026-11-21 05:04:06 UTC`; 0 is `unknown`.
/// Years run from March inside, so that the leap day is a year's last.
pub fn utc(unix_ns: u64) -> String {
    if unix_ns == 0 {
        return "unknown".to_owned();
    }
    let unix_s = unix_ns / 1_000_000_000;
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let day = day - (153 * march + 2) / 5 + 1;
    let (year, month) = if march < 10 {
        (era * 400 + year, march + 3)
    } else {
        (era * 400 + year + 1, march - 9)
    };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `full 1, rate 3`: the first four; the JSON has them all.
pub(crate) fn by_reason(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().take(4);
    let words: Vec<_> = counts
        .map(|(why, n)| format!("{why} {}", count(*n)))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_a_useful_precision_at_every_size() {
        for (input, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (64 << 20, "64 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(input), expected);
        }
    }

    #[test]
    fn durations_name_two_units_and_never_panic() {
        for (input, expected) in [
            (0.0, "0s"),
            (-5.0, "0s"),
            (59.4, "59s"),
            (192.0, "3m 12s"),
            (18_120.0, "5h 2m"),
            (1_051_200.0, "12d 4h"),
            (f64::NAN, "?"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(duration(input), expected);
        }
        assert!(duration(1e300).ends_with('h'));
    }

    #[test]
    fn wall_times_are_utc_through_leap_days_and_centuries() {
        for (unix_s, expected) in [
            (1, "1970-01-01 00:00:01 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_233_600, "2026-11-21 04:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix_s * 1_000_000_000), expected);
        }
        assert_eq!(utc(0), "unknown");
        assert!(utc(u64::MAX).starts_with("2554-"));
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(of(1, "frame"), "1 frame");
    }
}
