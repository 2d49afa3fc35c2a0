//! Durations and sizes as people write them: whole numbers with a unit.

use std::time::Duration;

use super::problem::quoted;

/// `10s`, `1500ms`, `2d`: the largest unit that keeps it whole.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (size, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ] {
        let whole = ms >= size && ms.is_multiple_of(size);
        // 60s reads better than 1m beside 30s and 90s.
        if whole && (ms != 60_000 || unit == "s") {
            return format!("{}{unit}", ms / size);
        }
    }
    match ms {
        0 => "0s".into(),
        _ => format!("{ms}ms"),
    }
}

/// `64MiB`, `1000B`: the largest unit that keeps it whole.
pub(super) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// `Ok(None)`: a duration, but too long to count.
pub(crate) fn parse_duration(text: &str) -> Result<Option<Duration>, String> {
    let (number, unit) = split_unit(text);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("{} has no unit", quoted(text))),
        _ => return Err(format!("{} is not a duration", quoted(text))),
    };
    whole_number(number, text, "duration").map(|number| {
        number
            .and_then(|number| number.checked_mul(unit_ms))
            .map(Duration::from_millis)
    })
}

/// `Ok(None)`: a size, but too large to count.
pub(super) fn parse_size(text: &str) -> Result<Option<u64>, String> {
    let (number, unit) = split_unit(text);
    let unit_bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(format!("{} is not a size", quoted(text))),
    };
    whole_number(number, text, "size")
        .map(|number| number.and_then(|number| number.checked_mul(unit_bytes)))
}

/// `Ok(None)`: a number, but negative or over 64 bits, so out of every range.
fn whole_number(number: &str, text: &str, what: &str) -> Result<Option<u64>, String> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{} is not a {what} in whole numbers", quoted(text)));
    }
    Ok(number.parse().ok())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).unwrap_or((text, ""));
    (number.trim(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back_as_the_same_value() {
        for ms in [
            1, 100, 999, 1000, 1500, 60_000, 90_000, 120_000, 3_600_000, 86_400_000,
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(Some(duration)));
        }
        for bytes in [0, 1, 1000, 1024, 1536, 64 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(Some(bytes)), "{bytes}");
        }
    }
}
