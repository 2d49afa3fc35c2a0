//! Patterns that say where in a text a number stands: `MemFree: {} kB`.
//!
//! The text is looked at line by line, and the first line that the pattern fits
//! is the one. It may fit anywhere in a line, but `Free` is not found within
//! `MemFree`, and a pattern that begins with a hole begins at the line's beginning. What a pattern holds:
//!
//! | part | fits |
//! |---|---|
//! | `{}` | the number; exactly one of it |
//! | `{_}` | one word, whatever it is: everything up to a blank |
//! | blanks | any number of blanks and tabs, but at least one |
//! | `{{`, `}}` | `{`, `}` |
//! | anything else | itself |
//!
//! A number ends where it ends: with nothing after `{}`, `21.5` fits and
//! `21,5` or `21x` is garbage. There is no way back and nothing is tried
//! twice, so a pattern costs at most its length times the text's.

use super::number::{Number, length};

/// A pattern that holds exactly one `{}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Blank,
    Word,
    Number,
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// No line has what stands around the number.
    Absent,
    /// A line has, and no number between.
    NotANumber,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text.trim_matches([' ', '\t']).as_bytes();
        while let [first, after @ ..] = rest {
            let (part, left) = match rest {
                [b'{', b'{', left @ ..] => (Part::Text(vec![b'{']), left),
                [b'}', b'}', left @ ..] => (Part::Text(vec![b'}']), left),
                [b'{', b'}', left @ ..] => (Part::Number, left),
                [b'{', b'_', b'}', left @ ..] => (Part::Word, left),
                [b'{' | b'}', ..] => {
                    return Err("holds a brace that is neither {} nor {_}; write {{ or }} for one");
                }
                [b' ' | b'\t', left @ ..] => (Part::Blank, left),
                _ => (Part::Text(vec![*first]), after),
            };
            match (parts.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more)) => text.extend(more),
                (Some(Part::Blank), Part::Blank) => {}
                (Some(Part::Word | Part::Number), Part::Word | Part::Number) => {
                    return Err("has two holes with nothing between them");
                }
                (_, part) => parts.push(part),
            }
            rest = left;
        }
        match parts.iter().filter(|part| **part == Part::Number).count() {
            1 => Ok(Self { parts }),
            0 => Err("has no {} where the number stands"),
            _ => Err("has more than one {}; the others are {_}"),
        }
    }

    /// The number in a text.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, text: &str) -> Result<Number, NoMatch> {
        let mut seen = NoMatch::Absent;
        for line in text.lines() {
            let line = line.trim_start_matches([' ', '\t']).as_bytes();
            for start in 0..=line.len() {
                if !self.may_begin(line, start) {
                    continue;
                }
                match self.fit(line.get(start..).unwrap_or_default()) {
                    Ok(number) => return Ok(number),
                    Err(NoMatch::NotANumber) if self.begins_with_text().is_some() => {
                        return Err(NoMatch::NotANumber);
                    }
                    Err(NoMatch::NotANumber) => seen = NoMatch::NotANumber,
                    Err(NoMatch::Absent) => {}
                }
            }
        }
        Err(seen)
    }

    fn begins_with_text(&self) -> Option<u8> {
        match self.parts.first() {
            Some(Part::Text(text)) => text.first().copied(),
            _ => None,
        }
    }

    /// A word of the pattern is no end of a longer word, and a hole at its
    /// beginning is at the line's.
    fn may_begin(&self, line: &[u8], start: usize) -> bool {
        let Some(before) = start.checked_sub(1).and_then(|at| line.get(at)) else {
            return true;
        };
        let in_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        match self.begins_with_text() {
            Some(first) => !(in_word(first) && in_word(*before)),
            None => false,
        }
    }

    /// Whether it fits at the beginning of a line's rest.
    fn fit(&self, mut rest: &[u8]) -> Result<Number, NoMatch> {
        let mut number = None;
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            let taken = match part {
                Part::Text(text) if rest.starts_with(text) => text.len(),
                Part::Blank => rest.iter().take_while(|byte| is_blank(byte)).count(),
                Part::Word => rest.iter().take_while(|byte| !is_blank(byte)).count(),
                Part::Number => {
                    let taken = length(rest);
                    let text = rest.get(..taken).unwrap_or_default();
                    let text = std::str::from_utf8(text).unwrap_or_default();
                    let after = rest.get(taken..).unwrap_or_default();
                    let ends = match parts.peek() {
                        Some(Part::Text(_)) => true,
                        _ => ends_here(after),
                    };
                    number = Number::parse(text).filter(|_| ends);
                    if number.is_none() {
                        return Err(NoMatch::NotANumber);
                    }
                    taken
                }
                Part::Text(_) => 0,
            };
            if taken == 0 {
                // What follows the number is not what the pattern says, so that was not it.
                return Err(NoMatch::Absent);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        number.ok_or(NoMatch::Absent)
    }
}

/// Whether a number that stands before this is whole: `1,5`, `1x` and `1.2.3` are not.
fn ends_here(after: &[u8]) -> bool {
    match after {
        [] => true,
        [b',' | b'.' | b':', next, ..] => !next.is_ascii_digit(),
        [first, ..] => first.is_ascii() && !first.is_ascii_alphanumeric() && *first != b'_',
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, text: &str) -> Result<f64, NoMatch> {
        Pattern::parse(pattern)
            .unwrap()
            .find(text)
            .map(Number::as_f64)
    }

    #[test]
    fn the_number_is_found_where_the_pattern_says() {
        let meminfo = "MemTotal:        1014 kB\nMemFree:          203 kB\nHugeMemFree: 1 kB\n";
        assert_eq!(find("MemFree: {} kB", meminfo), Ok(203.0));
        assert_eq!(find("{}", "42\n"), Ok(42.0));
        assert_eq!(find("signal {}dBm", "x\nsignal\t-67dBm ok"), Ok(-67.0));
        assert_eq!(find("rssi={}", "up rssi=-71, snr=9"), Ok(-71.0));
        assert_eq!(
            find("wlan0: {_} {}", "wlan0: 0000  54.  -56. -256"),
            Ok(54.0)
        );
        assert_eq!(
            find("wlan0: {_} {}.", "wlan0: 0000  54.  -56. -256"),
            Ok(54.0)
        );
        assert_eq!(find("\"t\":{}}}", "{\"t\":21.5}"), Ok(21.5));
        assert_eq!(find("{{{}", "{7"), Ok(7.0));
        assert_eq!(
            find("+CSQ: {},", "AT+CSQ\r\n\r\n+CSQ: 17,99\r\n\r\nOK\r\n"),
            Ok(17.0)
        );
        assert_eq!(find("±{}", "±3"), Ok(3.0));
        assert_eq!(find("t={}", "best=x t=5"), Ok(5.0));
        assert_eq!(find("{} {_} eth0", "  1 2 eth1\n 7 8 eth0"), Ok(7.0));
    }

    #[test]
    fn what_stands_there_and_is_no_number_is_told_from_nothing_there() {
        for text in [
            "t=", "t=nan", "t=inf", "t=1e400", "t=0x1F", "t=1,5", "t=1x", "t=1.2.3",
        ] {
            assert_eq!(find("t={}", text), Err(NoMatch::NotANumber), "{text}");
        }
        for text in ["", "\n\n", "u=1", "t =1"] {
            assert_eq!(find("t={}", text), Err(NoMatch::Absent), "{text}");
        }
        assert_eq!(find("{}", "none"), Err(NoMatch::NotANumber));
        assert_eq!(find("{}", "v12"), Err(NoMatch::NotANumber));
    }

    #[test]
    fn patterns_that_make_no_sense_are_refused() {
        for pattern in ["", "abc", "{} {}", "{", "}", "{x}", "{_}", "{}{_}", "{_}{}"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn a_hostile_text_costs_no_more_than_its_length() {
        let text = "a ".repeat(32 * 1024);
        assert_eq!(find("a {_} {_} {_} {} b", &text), Err(NoMatch::NotANumber));
        assert_eq!(
            find("{}", &"\u{fffd}".repeat(20_000)),
            Err(NoMatch::NotANumber)
        );
    }
}
