//! OTLP bodies as JSON, by the rules of OTLP/JSON: names in lowerCamelCase, ids
//! in hexadecimal, 64-bit integers as strings, enums as numbers, bytes in
//! base64. Pure.
//!
//! Goes over the bytes with the tables of [`schema`](super::schema) and writes
//! as it reads: no message exists as a whole, and unknown fields are stepped
//! over. Hostile bodies cost no more than their length: depth is bounded.
//!
//! Source: OTLP specification 1.x, "JSON Protobuf Encoding".

use std::fmt;
use std::io::{self, Write};

use crate::frame::{Signal, push_hex};

use super::schema::{self, Field, Kind, Message};
use super::wire::{Fields, Malformed, Wire};

/// Messages within messages; protobuf's own readers stop at 100.
const DEPTH: u32 = 100;

/// Why a body has no JSON.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is no protobuf, or not that message.
    Malformed,
    /// Messages within messages without end.
    TooDeep,
    /// It could not be written.
    Io(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed => f.write_str("it is no OTLP request"),
            Refusal::TooDeep => f.write_str("its values are nested too deep"),
            Refusal::Io(error) => error.fmt(f),
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Refusal::Malformed
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Io(error)
    }
}

/// Writes an export request of a signal, on one line without its end.
pub(crate) fn write(out: &mut dyn Write, signal: Signal, body: &[u8]) -> Result<(), Refusal> {
    let message = schema::request(signal).ok_or(Refusal::Malformed)?;
    check(body, message, DEPTH)?;
    object(out, message, body)
}

/// Text as a JSON string.
pub(crate) fn text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

/// Base64 with padding (RFC 4648, 4), as proto3's JSON has it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let mut bits = 0;
        for at in 0..3 {
            bits = bits << 8 | u32::from(part.get(at).copied().unwrap_or(0));
        }
        for at in 0..4_usize {
            let digit = DIGITS.get((bits >> (18 - 6 * at)) as usize & 63);
            match digit.filter(|_| at <= part.len()) {
                Some(digit) => out.push(char::from(*digit)),
                None => out.push('='),
            }
        }
    }
    out
}

/// Goes over everything once, so that nothing is written of what is no such message.
fn check(body: &[u8], message: &'static Message, depth: u32) -> Result<(), Refusal> {
    let mut fields = Fields::new(body);
    while let Some((number, wire)) = fields.next()? {
        let Some(field) = message.fields.iter().find(|field| field.number == number) else {
            continue;
        };
        match (field.kind, wire) {
            (Kind::Message(inner), Wire::Bytes(bytes)) => {
                let depth = depth.checked_sub(1).ok_or(Refusal::TooDeep)?;
                check(bytes, inner, depth)?;
            }
            (Kind::Text, Wire::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed)?;
            }
            (Kind::Bytes | Kind::Id(_), Wire::Bytes(_)) => {}
            (kind, Wire::Bytes(bytes)) if field.repeated => {
                let mut packed = Packed { kind, rest: bytes };
                while packed.next()?.is_some() {}
            }
            (kind, wire) if fits(kind, wire) => {}
            _ => return Err(Refusal::Malformed),
        }
    }
    Ok(())
}

fn fits(kind: Kind, wire: Wire<'_>) -> bool {
    match kind {
        Kind::Bool | Kind::Enum | Kind::Small | Kind::Zigzag | Kind::Int | Kind::Uint => {
            matches!(wire, Wire::Varint(_))
        }
        Kind::Fixed32 => matches!(wire, Wire::Fixed32(_)),
        Kind::Fixed64 | Kind::Signed64 | Kind::Double => matches!(wire, Wire::Fixed64(_)),
        Kind::Text | Kind::Bytes | Kind::Id(_) | Kind::Message(_) => matches!(wire, Wire::Bytes(_)),
    }
}

/// Scalars that share one length.
struct Packed<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Packed<'a> {
    fn next(&mut self) -> Result<Option<Wire<'a>>, Refusal> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut fields = Fields::new(self.rest);
        let wire = match self.kind {
            Kind::Fixed64 | Kind::Signed64 | Kind::Double => {
                Wire::Fixed64(u64::from_le_bytes(fields.array()?))
            }
            Kind::Fixed32 => Wire::Fixed32(u32::from_le_bytes(fields.array()?)),
            Kind::Text | Kind::Bytes | Kind::Id(_) | Kind::Message(_) => {
                return Err(Refusal::Malformed);
            }
            _ => Wire::Varint(fields.varint()?),
        };
        self.rest = fields.rest();
        Ok(Some(wire))
    }
}

/// A checked message.
fn object(out: &mut dyn Write, message: &'static Message, body: &[u8]) -> Result<(), Refusal> {
    out.write_all(b"{")?;
    let mut comma = "";
    // Of those that exclude each other the last one holds.
    let mut chosen = None;
    let mut present = 0_u32;
    let mut fields = Fields::new(body);
    while let Some((number, _)) = fields.next()? {
        let place = message
            .fields
            .iter()
            .position(|field| field.number == number);
        if let Some(place) = place {
            present |= 1 << place;
            if message.fields.get(place).is_some_and(|field| field.one_of) {
                chosen = Some(number);
            }
        }
    }
    for (place, field) in message.fields.iter().enumerate() {
        let left_out = field.one_of && chosen != Some(field.number);
        if present & (1 << place) == 0 || left_out {
            continue;
        }
        write!(out, "{comma}\"{}\":", field.name)?;
        comma = ",";
        match field.repeated {
            true => array(out, field, body)?,
            false => single(out, field, body)?,
        }
    }
    out.write_all(b"}")?;
    Ok(())
}

fn array(out: &mut dyn Write, field: &Field, body: &[u8]) -> Result<(), Refusal> {
    out.write_all(b"[")?;
    let mut comma: &[u8] = b"";
    let mut fields = Fields::new(body);
    while let Some((number, wire)) = fields.next()? {
        if number != field.number {
            continue;
        }
        match wire {
            Wire::Bytes(rest) if !fits(field.kind, wire) => {
                let kind = field.kind;
                let mut packed = Packed { kind, rest };
                while let Some(wire) = packed.next()? {
                    out.write_all(comma)?;
                    comma = b",";
                    value(out, kind, wire)?;
                }
            }
            _ => {
                out.write_all(comma)?;
                comma = b",";
                value(out, field.kind, wire)?;
            }
        }
    }
    out.write_all(b"]")?;
    Ok(())
}

/// The last one on the wire. (A message given in two parts would have to be
/// merged; nobody writes one so.)
fn single(out: &mut dyn Write, field: &Field, body: &[u8]) -> Result<(), Refusal> {
    let mut last = None;
    let mut fields = Fields::new(body);
    while let Some((number, wire)) = fields.next()? {
        if number == field.number {
            last = Some(wire);
        }
    }
    value(out, field.kind, last.ok_or(Refusal::Malformed)?)
}

fn value(out: &mut dyn Write, kind: Kind, wire: Wire<'_>) -> Result<(), Refusal> {
    match (kind, wire) {
        (Kind::Message(message), Wire::Bytes(bytes)) => object(out, message, bytes)?,
        (Kind::Text, Wire::Bytes(bytes)) => text(out, &String::from_utf8_lossy(bytes))?,
        (Kind::Id(_), Wire::Bytes(bytes)) => {
            let mut digits = String::with_capacity(bytes.len() * 2);
            push_hex(&mut digits, bytes);
            write!(out, "\"{digits}\"")?;
        }
        (Kind::Bytes, Wire::Bytes(bytes)) => write!(out, "\"{}\"", base64(bytes))?,
        (Kind::Bool, Wire::Varint(bits)) => write!(out, "{}", bits != 0)?,
        (Kind::Enum, Wire::Varint(bits)) => write!(out, "{}", (bits as u32).cast_signed())?,
        (Kind::Small, Wire::Varint(bits)) => write!(out, "{}", bits as u32)?,
        (Kind::Zigzag, Wire::Varint(bits)) => {
            let bits = bits as u32;
            let number = (bits >> 1).cast_signed() ^ -((bits & 1).cast_signed());
            write!(out, "{number}")?;
        }
        (Kind::Int, Wire::Varint(bits)) => write!(out, "\"{}\"", bits.cast_signed())?,
        (Kind::Uint, Wire::Varint(bits)) => write!(out, "\"{bits}\"")?,
        (Kind::Fixed32, Wire::Fixed32(bits)) => write!(out, "{bits}")?,
        (Kind::Fixed64, Wire::Fixed64(bits)) => write!(out, "\"{bits}\"")?,
        (Kind::Signed64, Wire::Fixed64(bits)) => write!(out, "\"{}\"", bits.cast_signed())?,
        (Kind::Double, Wire::Fixed64(bits)) => double(out, f64::from_bits(bits))?,
        _ => return Err(Refusal::Malformed),
    }
    Ok(())
}

/// JSON has no word for these; proto3 writes them as strings.
fn double(out: &mut dyn Write, number: f64) -> io::Result<()> {
    if number.is_nan() {
        out.write_all(b"\"NaN\"")
    } else if number.is_infinite() {
        let word: &[u8] = if number > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        out.write_all(word)
    } else {
        serde_json::to_writer(out, &number).map_err(io::Error::from)
    }
}
