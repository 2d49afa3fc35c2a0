//! One number out of text, read strictly: what a program printed is a number
//! or it is not, and nothing is guessed.
//!
//! `NaN`, `inf`, `1e400`, `0x1F`, `1_000` and the `1,5` of other countries are
//! no numbers here; a zero has no sign.

/// A number as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Without point or exponent, and within 64 bits.
    Whole(i64),
    /// Finite.
    Real(f64),
}

impl Number {
    /// As a float.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Whole(whole) => whole as f64,
            Number::Real(real) => real,
        }
    }

    /// A float that is a number.
    pub fn real(value: f64) -> Option<Self> {
        // Adding zero takes the sign from a negative one.
        value.is_finite().then_some(Number::Real(value + 0.0))
    }

    /// A text that is a number as a whole.
    pub fn parse(text: &str) -> Option<Self> {
        let length = length(text.as_bytes());
        if length == 0 || length != text.len() {
            return None;
        }
        match text.strip_prefix('+').unwrap_or(text).parse() {
            Ok(whole) => Some(Number::Whole(whole)),
            Err(_) => Self::real(text.parse().ok()?),
        }
    }
}

/// Bytes of the decimal number that a text begins with; 0: with none.
pub fn length(text: &[u8]) -> usize {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let at = |at: usize| text.get(at).copied().unwrap_or(0);
    let mut end = usize::from(matches!(at(0), b'-' | b'+'));
    let whole = digits(end);
    end += whole;
    let fraction = if at(end) == b'.' { digits(end + 1) } else { 0 };
    if whole + fraction == 0 {
        return 0;
    }
    if fraction > 0 {
        end += 1 + fraction;
    }
    if matches!(at(end), b'e' | b'E') {
        let sign = usize::from(matches!(at(end + 1), b'-' | b'+'));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_read_as_written() {
        for (text, number) in [
            ("0", Number::Whole(0)),
            ("-67", Number::Whole(-67)),
            ("+5", Number::Whole(5)),
            ("007", Number::Whole(7)),
            ("9223372036854775807", Number::Whole(i64::MAX)),
            (
                "9223372036854775808",
                Number::Real(9_223_372_036_854_775_808.0),
            ),
            ("1.5", Number::Real(1.5)),
            (".5", Number::Real(0.5)),
            ("-1e3", Number::Real(-1000.0)),
            ("2.5E-1", Number::Real(0.25)),
        ] {
            assert_eq!(Number::parse(text), Some(number), "{text}");
        }
        for zero in ["-0", "-0.0"] {
            let value = Number::parse(zero).unwrap().as_f64();
            assert!(value == 0.0 && value.is_sign_positive(), "{zero}");
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", "-", "+", ".", "e5", "nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400",
            "0x1F", "1,5", "1_000", "1 ", " 1", "1.5.2", "--1", "1e", "5.", "1.e3", "\u{661}", "½",
            "1\0",
        ] {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
    }
}
