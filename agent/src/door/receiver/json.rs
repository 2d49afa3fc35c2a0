//! OTLP/JSON to protobuf, by the tables of [`crate::otlp::schema`]. Pure.
//!
//! Source: the OTLP specification, "JSON Protobuf Encoding": lowerCamelCase
//! names, unknown ones ignored; ids in hexadecimal; enumerations as numbers;
//! 64-bit numbers as decimal text (or numbers); bytes in base64; null is unset.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::wire::{self, DEPTH};
use crate::otlp::schema::{self, Field, Kind};

/// A request's protobuf. `Err`: what is wrong, and where.
pub(super) fn to_protobuf(
    text: &[u8],
    schema: &'static schema::Message,
) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut json = serde_json::Deserializer::from_slice(text);
    let seed = Message {
        schema,
        depth: DEPTH,
        out: &mut out,
    };
    let read = seed.deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| error.to_string())?;
    Ok(out)
}

/// An object, its fields appended without a length before them.
struct Message<'a> {
    schema: &'static schema::Message,
    depth: usize,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name(self.schema))? {
            match field {
                None => {
                    map.next_value::<de::IgnoredAny>()?;
                }
                Some(field) => map.next_value_seed(Content {
                    field,
                    element: false,
                    depth: self.depth,
                    out: &mut *self.out,
                })?,
            }
        }
        Ok(())
    }
}

/// A key; `None`: no field that is known here.
struct Name(&'static schema::Message);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| field.name == name))
    }
}

/// What stands behind a key, or within its array.
struct Content<'a> {
    field: &'static Field,
    element: bool,
    depth: usize,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl Content<'_> {
    fn wrong<E: de::Error>(&self, found: &str) -> E {
        E::custom(format_args!("{} cannot be {found}", self.field.name))
    }

    fn key(&mut self, wire: u64) {
        wire::varint(self.out, u64::from(self.field.number) << 3 | wire);
    }

    fn eight(&mut self, bits: u64) {
        self.key(1);
        self.out.extend_from_slice(&bits.to_le_bytes());
    }

    /// A whole number, in a width that holds every one of OTLP's.
    fn whole<E: de::Error>(mut self, value: i128) -> Result<(), E> {
        let unsigned = u64::try_from(value).ok();
        let signed = i64::try_from(value).ok();
        match (self.field.kind, unsigned, signed) {
            (kind, Some(bits), _) if kind.is_whole() => {
                self.key(0);
                wire::varint(self.out, bits);
            }
            (kind, _, Some(bits)) if kind.is_whole() => {
                self.key(0);
                wire::varint(self.out, bits.cast_unsigned());
            }
            (Kind::Zigzag, _, Some(bits)) if i32::try_from(bits).is_ok() => {
                self.key(0);
                wire::varint(self.out, ((bits << 1) ^ (bits >> 63)).cast_unsigned());
            }
            (Kind::Fixed64, Some(bits), _) => self.eight(bits),
            (Kind::Signed64, _, Some(bits)) => self.eight(bits.cast_unsigned()),
            (Kind::Fixed32, Some(bits), _) if u32::try_from(bits).is_ok() => {
                self.key(5);
                let bits = u32::try_from(bits).unwrap_or_default();
                self.out.extend_from_slice(&bits.to_le_bytes());
            }
            (Kind::Double, ..) => self.eight((value as f64).to_bits()),
            _ => return Err(self.wrong("this number")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {}", self.field.name)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.element {
            return Err(self.wrong("null within an array"));
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<(), E> {
        if !matches!(self.field.kind, Kind::Bool) {
            return Err(self.wrong("true or false"));
        }
        self.key(0);
        self.out.push(u8::from(value));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.whole(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.whole(value.into())
    }

    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => {
                self.eight(value.to_bits());
                Ok(())
            }
            // 1e3 is a whole number in JSON; as i128 holds every one of 64 bits.
            _ if value.fract() == 0.0 && value.abs() < 2e19 => self.whole(value as i128),
            _ => Err(self.wrong("a fraction")),
        }
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::Text => wire::bytes(self.out, self.field.number, text.as_bytes()),
            Kind::Id(_) => {
                let id = hex(text).ok_or_else(|| self.wrong("this text: not hexadecimal"))?;
                wire::bytes(self.out, self.field.number, &id);
            }
            Kind::Bytes => {
                let bytes = base64(text).ok_or_else(|| self.wrong("this text: not base64"))?;
                wire::bytes(self.out, self.field.number, &bytes);
            }
            Kind::Double => {
                let value = match text {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => text.parse().map_err(|_| self.wrong("this text"))?,
                };
                self.eight(value.to_bits());
            }
            Kind::Message(_) | Kind::Bool => return Err(self.wrong("a text")),
            _ => {
                let value = text.parse().map_err(|_| self.wrong("this text"))?;
                return self.whole(value);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.field.repeated || self.element {
            return Err(self.wrong("an array"));
        }
        while seq
            .next_element_seed(Content {
                element: true,
                out: &mut *self.out,
                ..self
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(schema) = self.field.kind else {
            return Err(self.wrong("an object"));
        };
        if self.field.repeated && !self.element {
            return Err(self.wrong("an object: it is an array"));
        }
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(self.wrong("nested so deep"));
        };
        // Its length stands before it and is known after it.
        let start = self.out.len();
        Message {
            schema,
            depth,
            out: &mut *self.out,
        }
        .visit_map(map)?;
        let length = self.out.len() - start;
        wire::head(self.out, self.field.number, length);
        let head = self.out.len() - start - length;
        if let Some(both) = self.out.get_mut(start..) {
            both.rotate_right(head);
        }
        Ok(())
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if !digits.len().is_multiple_of(2) || digits.len() > 64 {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Standard or URL-safe alphabet, with or without padding, as proto3's JSON allows.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0);
    for byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    // One letter alone holds no byte.
    (held < 6).then_some(out)
}
