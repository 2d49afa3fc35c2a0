//! What `[gauge.NAME]` says, checked: where the number comes from, and what
//! becomes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::number::Number;
use super::pattern::{NoMatch, Pattern};
use crate::gauge::{Descriptor, Missing, Value};
use crate::work::job::Job;

/// One custom gauge.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Name, unit, kind, description.
    pub gauge: Arc<Descriptor>,
    /// The same on every point.
    pub attributes: BTreeMap<String, String>,
    /// What becomes of the number.
    pub shape: Shape,
    /// How often it is read, or taken over from where it was pushed.
    pub interval: Duration,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where the number comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A file below the root.
    File(PathBuf, Extract),
    /// What a program prints.
    Command(Arc<Job>, Extract),
    /// A local program says it.
    Push {
        /// Sets of attributes.
        max_series: usize,
        /// A value that is older is none.
        expires: Duration,
    },
}

/// Where in a text the number stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extract {
    /// It is the text.
    Whole,
    /// Where a pattern says.
    Pattern(Pattern),
    /// JSON (RFC 8259), and a pointer (RFC 6901) into it.
    Pointer(String),
}

/// From the number that was found to the one that is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// It is multiplied by this …
    pub scale: f64,
    /// … then this is added.
    pub offset: f64,
    /// The least that can be true then.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
    /// Then it is rounded to a multiple of this.
    pub resolution: Option<f64>,
}

/// Why there is no value, for machines and for people.
pub type Absence = (Missing, String);

impl Extract {
    /// The number in a text.
    ///
    /// # Errors
    /// Why there is none.
    pub fn number(&self, text: &str) -> Result<Number, Absence> {
        let garbage = |why: String| (Missing::Garbage, why);
        match self {
            Extract::Whole => {
                let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
                Number::parse(text).ok_or_else(|| garbage(format!("{} is no number", shown(text))))
            }
            Extract::Pattern(pattern) => pattern.find(text).map_err(|why| {
                garbage(match why {
                    NoMatch::Absent => "no line fits the pattern".into(),
                    NoMatch::NotANumber => {
                        "what stands where the pattern has {} is no number".into()
                    }
                })
            }),
            Extract::Pointer(pointer) => {
                let json: serde_json::Value = serde_json::from_str(text)
                    .map_err(|error| garbage(format!("it is not JSON: {error}")))?;
                let found = json
                    .pointer(pointer)
                    .ok_or_else(|| garbage(format!("nothing stands at {pointer}")))?;
                of_json(found)
                    .ok_or_else(|| garbage(format!("what stands at {pointer} is no number")))
            }
        }
    }
}

/// The number that a JSON value is: a number, a text that is one as a whole,
/// `true` (1) or `false` (0).
pub fn of_json(value: &serde_json::Value) -> Option<Number> {
    match value {
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Some(Number::Whole(whole)),
            None => Number::real(number.as_f64()?),
        },
        serde_json::Value::String(text) => Number::parse(text.trim()),
        serde_json::Value::Bool(flag) => Some(Number::Whole(i64::from(*flag))),
        _ => None,
    }
}

impl Shape {
    /// The value that is told; what is out of range, or too large to be a
    /// number, is [`Missing::Garbage`].
    pub fn value(&self, number: Number) -> Result<Value, Absence> {
        let real = number.as_f64() * self.scale + self.offset;
        let outside = self.min.is_some_and(|min| real < min)
            || self.max.is_some_and(|max| real > max)
            || !real.is_finite();
        if outside {
            return Err((Missing::Garbage, format!("{real} is {}", self.bounds())));
        }
        let Some(resolution) = self.resolution else {
            return Value::float(real + 0.0).map_err(|missing| (missing, String::new()));
        };
        if let (Number::Whole(whole), true) = (number, self.is_exact()) {
            return Ok(Value::Int(whole));
        }
        // A multiple of 0.1 is best a tenth of a whole number: 0.3, not 0.30000000000000004.
        let parts = (1.0 / resolution).round();
        let rounded = match (1.0 / resolution - parts).abs() < 1e-9 * parts {
            true => (real * parts).round() / parts,
            false => (real / resolution).round() * resolution,
        };
        let whole = resolution.fract() == 0.0 && rounded.abs() < 9.0e15;
        match Value::float(rounded + 0.0) {
            Ok(_) if whole => Ok(Value::Int(rounded as i64)),
            other => other.map_err(|missing| (missing, "it is too large to be rounded".into())),
        }
    }

    /// Whether a whole number stays as it is, beyond what a float can hold.
    fn is_exact(&self) -> bool {
        self.scale == 1.0 && self.offset == 0.0 && self.resolution == Some(1.0)
    }

    fn bounds(&self) -> String {
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!("not within {min} and {max}"),
            (Some(min), None) => format!("less than {min}"),
            (None, Some(max)) => format!("more than {max}"),
            (None, None) => "too large to be a number".into(),
        }
    }
}

/// The beginning of a text, for people.
pub fn shown(text: &str) -> String {
    const LIMIT: usize = 40;
    let cut: String = text.chars().take(LIMIT).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Shape = Shape {
        scale: 1.0,
        offset: 0.0,
        min: None,
        max: None,
        resolution: None,
    };

    fn pointed(pointer: &str, text: &str) -> Result<f64, Missing> {
        let number = Extract::Pointer(pointer.into()).number(text);
        number.map(Number::as_f64).map_err(|(missing, _)| missing)
    }

    #[test]
    fn a_pointer_finds_numbers_in_json_and_nothing_else() {
        let text = r#"{"a": {"b/c": [1, 2.5, "-3", true, null, {}, "x", 1e2]}, "": 9}"#;
        assert_eq!(pointed("/a/b~1c/0", text), Ok(1.0));
        assert_eq!(pointed("/a/b~1c/1", text), Ok(2.5));
        assert_eq!(pointed("/a/b~1c/2", text), Ok(-3.0));
        assert_eq!(pointed("/a/b~1c/3", text), Ok(1.0));
        assert_eq!(pointed("/a/b~1c/7", text), Ok(100.0));
        assert_eq!(pointed("/", text), Ok(9.0));
        for pointer in [
            "/a/b~1c/4",
            "/a/b~1c/5",
            "/a/b~1c/6",
            "/a/b~1c/99",
            "/z",
            "/a",
        ] {
            assert_eq!(pointed(pointer, text), Err(Missing::Garbage), "{pointer}");
        }
        let deep = "[".repeat(60_000);
        for text in [
            "",
            "{",
            "nan",
            r#"{"a": NaN}"#,
            r#"{"a": 1e400}"#,
            deep.as_str(),
        ] {
            assert_eq!(pointed("/a", text), Err(Missing::Garbage));
        }
    }

    #[test]
    fn a_whole_text_is_a_number_or_garbage_and_the_reason_shows_its_beginning() {
        let whole = |text: &str| Extract::Whole.number(text);
        assert_eq!(whole(" 42\n"), Ok(Number::Whole(42)));
        let (missing, why) = whole(&"ä".repeat(100)).unwrap_err();
        assert_eq!(missing, Missing::Garbage);
        assert!(why.len() < 120 && why.contains("is no number"), "{why}");
        assert!(whole("21,5").is_err());
        assert!(whole("").is_err());
    }

    #[test]
    fn scale_offset_range_and_resolution_come_in_this_order() {
        let shape = Shape {
            scale: 0.001,
            offset: -273.15,
            min: Some(-40.0),
            max: Some(85.0),
            resolution: Some(0.1),
        };
        assert_eq!(shape.value(Number::Whole(293_449)), Ok(Value::Float(20.3)));
        let (missing, why) = shape.value(Number::Whole(0)).unwrap_err();
        assert_eq!(missing, Missing::Garbage);
        assert_eq!(why, "-273.15 is not within -40 and 85");
        assert!(shape.value(Number::Whole(400_000)).is_err());
    }

    #[test]
    fn a_whole_resolution_gives_whole_numbers_and_a_broken_one_its_multiples() {
        let at = |resolution, number| {
            let resolution = Some(resolution);
            Shape {
                resolution,
                ..PLAIN
            }
            .value(number)
        };
        assert_eq!(at(1.0, Number::Whole(i64::MAX)), Ok(Value::Int(i64::MAX)));
        assert_eq!(at(1.0, Number::Real(2.6)), Ok(Value::Int(3)));
        assert_eq!(at(5.0, Number::Whole(-12)), Ok(Value::Int(-10)));
        assert_eq!(
            at(0.1, Number::Real(0.30000000000000004)),
            Ok(Value::Float(0.3))
        );
        assert_eq!(at(0.25, Number::Real(1.3)), Ok(Value::Float(1.25)));
        assert_eq!(at(2.5, Number::Real(6.0)), Ok(Value::Float(5.0)));
        assert_eq!(at(1.0, Number::Real(-0.2)), Ok(Value::Int(0)));
        assert!(at(1e-300, Number::Real(1e300)).is_err());
        assert_eq!(PLAIN.value(Number::Whole(3)), Ok(Value::Float(3.0)));
        let huge = Shape {
            scale: 1e300,
            ..PLAIN
        };
        assert!(huge.value(Number::Real(1e300)).is_err());
        let Ok(Value::Float(zero)) = PLAIN.value(Number::Real(-0.0)) else {
            panic!("no zero");
        };
        assert!(zero.is_sign_positive());
    }
}
