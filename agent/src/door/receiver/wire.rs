//! Protobuf by hand: reads fields where they stand, checks a whole request
//! without copying any of it. Pure.
//!
//! What passes [`check`] every protobuf library decodes: a request that a back
//! end refused would take other programs' items in the same frame with it.
//!
//! Source: protobuf's "Encoding" page; proto3 strings are UTF-8.

use std::fmt;

use crate::otlp::schema::{Field, Kind, Message};
use crate::otlp::wire::{self, Fields, Wire};

/// Messages in one another. OTLP's own take 8, the rest is for nested values;
/// prost, which many back ends decode with, allows 100.
pub(super) const DEPTH: usize = 64;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It ends within a field, or a length reaches beyond its end.
    Truncated,
    /// A number longer than 64 bits, field 0, or a wire type that OTLP does not have.
    NotProtobuf,
    /// A known field of another type.
    WrongType,
    /// A text that is not UTF-8.
    NotUtf8,
    /// An id of the wrong length, or of a span: none at all.
    BadId,
    /// Values nested deeper than [`DEPTH`].
    TooDeep,
}

impl Malformed {
    /// For the program's author.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Malformed::Truncated => "it is cut short, or a length is wrong",
            Malformed::NotProtobuf => "it is not protobuf",
            Malformed::WrongType => "a field has another type than OTLP says",
            Malformed::NotUtf8 => "a text is not UTF-8",
            Malformed::BadId => {
                "a trace id has not 16 bytes or a span id not 8, or a span has none or one of zeros"
            }
            Malformed::TooDeep => "its values are nested more than 64 deep",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<wire::Malformed> for Malformed {
    fn from(why: wire::Malformed) -> Self {
        match why {
            wire::Malformed::Truncated => Malformed::Truncated,
            wire::Malformed::NotProtobuf => Malformed::NotProtobuf,
        }
    }
}

/// A field where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub(super) number: u32,
    pub(super) value: Wire<'a>,
    /// All of it: key, length and content.
    pub(super) whole: &'a [u8],
}

/// The fields of a message, one after the other; ends after the first error.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Raw<'_>, Malformed>> {
    let mut left = Fields::new(message);
    std::iter::from_fn(move || {
        let start = left.rest();
        match left.next() {
            Ok(None) => None,
            Ok(Some((number, value))) => Some(Ok(Raw {
                number,
                value,
                whole: start
                    .get(..start.len() - left.rest().len())
                    .unwrap_or_default(),
            })),
            Err(why) => {
                left = Fields::new(&[]);
                Some(Err(why.into()))
            }
        }
    })
}

/// Walks all of a message.
pub(super) fn check(message: &[u8], schema: &Message) -> Result<(), Malformed> {
    walk(message, schema, DEPTH)
}

fn walk(message: &[u8], schema: &Message, depth: usize) -> Result<(), Malformed> {
    let deeper = depth.checked_sub(1).ok_or(Malformed::TooDeep)?;
    let mut missing = schema.required;
    for raw in fields(message) {
        let raw = raw?;
        let Some(field) = schema.fields.iter().find(|f| f.number == raw.number) else {
            continue;
        };
        match (field.kind, raw.value) {
            (Kind::Message(inner), Wire::Bytes(content)) => {
                walk(content, inner, deeper)?;
            }
            (Kind::Text, Wire::Bytes(content)) => {
                std::str::from_utf8(content).map_err(|_| Malformed::NotUtf8)?;
            }
            (Kind::Id(length), Wire::Bytes(content)) => {
                if !content.is_empty() && content.len() != length {
                    return Err(Malformed::BadId);
                }
                if content.iter().any(|byte| *byte != 0) {
                    missing &= !(1 << raw.number);
                }
            }
            (Kind::Bytes, Wire::Bytes(_))
            | (Kind::Bool | Kind::Zigzag, Wire::Varint(_))
            | (Kind::Fixed64 | Kind::Signed64 | Kind::Double, Wire::Fixed64(_))
            | (Kind::Fixed32, Wire::Fixed32(_)) => {}
            (kind, Wire::Varint(_)) if kind.is_whole() => {}
            (_, Wire::Bytes(content)) if field.repeated => packed(content, field)?,
            _ => return Err(Malformed::WrongType),
        }
    }
    if missing != 0 {
        return Err(Malformed::BadId);
    }
    Ok(())
}

/// Numbers one after the other, without keys.
fn packed(content: &[u8], field: &Field) -> Result<(), Malformed> {
    match field.kind {
        Kind::Fixed64 | Kind::Double if content.len().is_multiple_of(8) => Ok(()),
        kind if kind.is_whole() => {
            let mut rest = Fields::new(content);
            while !rest.rest().is_empty() {
                rest.varint()?;
            }
            Ok(())
        }
        _ => Err(Malformed::WrongType),
    }
}

/// Appends a number.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits, and that there are more.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends what stands before the content of a message, text or bytes.
pub(super) fn head(out: &mut Vec<u8>, number: u32, length: usize) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, length as u64);
}

/// Appends a message, text or bytes.
pub(super) fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    head(out, number, content.len());
    out.extend_from_slice(content);
}
