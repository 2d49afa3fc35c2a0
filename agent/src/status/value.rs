//! A gauge's value in JSON: a whole number stays whole, to its last digit.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::gauge::Value;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(whole) => whole.fmt(f),
            Value::Float(real) => real.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self {
            Value::Int(whole) => to.serialize_i64(whole),
            Value::Float(real) => to.serialize_f64(real),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Number)
    }
}

struct Number;

impl Visitor<'_> for Number {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, whole: i64) -> Result<Value, E> {
        Ok(Value::Int(whole))
    }

    fn visit_u64<E>(self, whole: u64) -> Result<Value, E> {
        Ok(i64::try_from(whole).map_or(Value::Float(whole as f64), Value::Int))
    }

    fn visit_f64<E>(self, real: f64) -> Result<Value, E> {
        Ok(Value::Float(real))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_keep_every_digit_and_others_what_they_are() {
        for (value, text) in [
            (Value::Int(i64::MAX), "9223372036854775807"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::Int(9_007_199_254_740_993), "9007199254740993"),
            (Value::Int(0), "0"),
            (Value::Float(-67.5), "-67.5"),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
            assert_eq!(value.to_string(), text);
        }
        let beyond: Value = serde_json::from_str("18446744073709551615").unwrap();
        assert_eq!(beyond, Value::Float(18_446_744_073_709_551_615.0));
        assert!(serde_json::from_str::<Value>("\"1\"").is_err());
    }
}
