//! A message as bytes: the body of an outbox frame.
//!
//! ```text
//! 0        1      2          4          4+n
//! version  flags  n: u16 BE  topic (n)  fields …  end: 0x00  payload …
//!
//! flags   bit 0: QoS 1, bit 1: retain, bit 2: the payload is UTF-8 text; others 0
//! field   tag u8 · length u16 BE · value
//!         1 expiry: seconds u32 BE · clock believed u8 (0 or 1) · boot id (16)
//!         2 content type   3 response topic   4 correlation data   5 baggage
//!         6 user property: key length u16 BE · key · value (any number, in order)
//! ```
//!
//! Fields stand in the order of their tags, each but the sixth at most once;
//! what is not there takes no byte. The trace context is not in here: the frame
//! carries it. `docs/OUTBOX.md` says the same for readers without this code.
//!
//! Pure. Promises: what [`Envelope::encode`] writes reads back as it was; no
//! bytes make [`Envelope::decode`] panic or take more memory than they are long.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::message::{Message, Qos};

/// The one version there is.
const VERSION: u8 = 1;

const QOS_1: u8 = 1;
const RETAIN: u8 = 1 << 1;
const TEXT: u8 = 1 << 2;

const END: u8 = 0;
const EXPIRY: u8 = 1;
const CONTENT_TYPE: u8 = 2;
const RESPONSE_TOPIC: u8 = 3;
const CORRELATION: u8 = 4;
const BAGGAGE: u8 = 5;
const PROPERTY: u8 = 6;

/// A message and what its expiry needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// What somebody wants to say; its `context` is the frame's.
    pub message: Message,
    /// Under which clock it was stored; kept only with a message that expires.
    pub birth: Birth,
}

/// Which clocks its time of storage was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// `/proc/sys/kernel/random/boot_id`: boot time counts within one boot only.
    pub boot_id: [u8; 16],
    /// The wall clock was believed.
    pub believed: bool,
}

/// Bytes that are no envelope, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A newer program's.
    Version(u8),
    /// It ends too early.
    Short,
    /// A field that this version has not, or that comes twice or out of turn.
    Field(u8),
    /// Text that is not UTF-8.
    Text,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Version(version) => write!(
                f,
                "a stored message has envelope version {version}; this program reads version {VERSION}"
            ),
            Malformed::Short => f.write_str("a stored message is cut short"),
            Malformed::Field(tag) => {
                write!(
                    f,
                    "a stored message has a field {tag} that does not belong there"
                )
            }
            Malformed::Text => f.write_str("a stored message has text that is not UTF-8"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A message alone, as of a boot that nobody knows. For tools and tests; what
/// is stored is an [`Envelope`].
pub fn encode(message: &Message) -> Bytes {
    Envelope::encode(message, Birth::default())
}

/// The message alone.
///
/// # Errors
/// The bytes are no envelope.
pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    Envelope::decode(&Bytes::copy_from_slice(bytes)).map(|envelope| envelope.message)
}

impl Envelope {
    /// As bytes. Texts longer than the 65,535 bytes that MQTT allows are cut to
    /// that; whoever takes messages from others checks before (`rules`).
    pub fn encode(message: &Message, birth: Birth) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + message.topic.len() + message.payload.len());
        out.put_u8(VERSION);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.put_u8(
            flag(message.qos == Qos::AtLeastOnce, QOS_1)
                | flag(message.retain, RETAIN)
                | flag(message.text, TEXT),
        );
        put(&mut out, &[message.topic.as_bytes()]);
        if let Some(seconds) = message.expiry {
            out.put_u8(EXPIRY);
            put(
                &mut out,
                &[
                    &seconds.to_be_bytes(),
                    &[u8::from(birth.believed)],
                    &birth.boot_id,
                ],
            );
        }
        let baggage = (!message.baggage.is_empty()).then_some(message.baggage.as_bytes());
        let fields = [
            (
                CONTENT_TYPE,
                message.content_type.as_deref().map(str::as_bytes),
            ),
            (
                RESPONSE_TOPIC,
                message.response_topic.as_deref().map(str::as_bytes),
            ),
            (CORRELATION, message.correlation.as_deref()),
            (BAGGAGE, baggage),
        ];
        for (tag, value) in fields {
            if let Some(value) = value {
                out.put_u8(tag);
                put(&mut out, &[value]);
            }
        }
        for (key, value) in &message.properties {
            out.put_u8(PROPERTY);
            let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
            put(
                &mut out,
                &[&length.to_be_bytes(), key.as_bytes(), value.as_bytes()],
            );
        }
        out.put_u8(END);
        out.put_slice(&message.payload);
        out.freeze()
    }

    /// Back from bytes; the payload shares them.
    ///
    /// # Errors
    /// The bytes are no envelope of this version, whole and with nothing unknown.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut rest = Reader(bytes);
        let version = rest.byte()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let flags = rest.byte()?;
        if flags & !(QOS_1 | RETAIN | TEXT) != 0 {
            return Err(Malformed::Version(version));
        }
        let mut envelope = Envelope {
            message: Message {
                topic: text(rest.value()?)?,
                qos: if flags & QOS_1 == 0 {
                    Qos::AtMostOnce
                } else {
                    Qos::AtLeastOnce
                },
                retain: flags & RETAIN != 0,
                text: flags & TEXT != 0,
                ..Message::default()
            },
            birth: Birth::default(),
        };
        let mut before = 0;
        loop {
            let tag = rest.byte()?;
            if tag == END {
                break;
            }
            if tag < before || (tag == before && tag != PROPERTY) {
                return Err(Malformed::Field(tag));
            }
            before = tag;
            envelope.field(tag, rest.value()?)?;
        }
        envelope.message.payload = bytes.slice_ref(rest.0);
        Ok(envelope)
    }

    fn field(&mut self, tag: u8, value: &[u8]) -> Result<(), Malformed> {
        let message = &mut self.message;
        match tag {
            EXPIRY => {
                let Some((seconds, [believed @ (0 | 1), boot_id @ ..])) =
                    value.split_first_chunk::<4>()
                else {
                    return Err(Malformed::Field(tag));
                };
                message.expiry = Some(u32::from_be_bytes(*seconds));
                self.birth = Birth {
                    believed: *believed == 1,
                    boot_id: boot_id.try_into().map_err(|_| Malformed::Field(tag))?,
                };
            }
            CONTENT_TYPE => message.content_type = Some(text(value)?),
            RESPONSE_TOPIC => message.response_topic = Some(text(value)?),
            CORRELATION => message.correlation = Some(Bytes::copy_from_slice(value)),
            BAGGAGE => message.baggage = text(value)?.into(),
            PROPERTY => {
                let mut pair = Reader(value);
                let key = text(pair.value()?)?;
                message.properties.push((key, text(pair.0)?));
            }
            _ => return Err(Malformed::Field(tag)),
        }
        Ok(())
    }
}

/// A length and what it counts.
fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out.put_u16(length);
    let mut left = usize::from(length);
    for part in parts {
        let part = part.get(..left).unwrap_or(part);
        out.put_slice(part);
        left -= part.len();
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A length and what it counts.
    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let (length, rest) = self.0.split_first_chunk::<2>().ok_or(Malformed::Short)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, rest) = rest.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(value)
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Message {
        Message {
            topic: "plant/1".to_owned(),
            payload: Bytes::from_static(b"21.5"),
            qos: Qos::AtLeastOnce,
            retain: true,
            expiry: Some(3600),
            text: true,
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("r".to_owned()),
            correlation: Some(Bytes::from_static(&[0, 255])),
            properties: vec![
                ("unit".to_owned(), "Cel".to_owned()),
                ("unit".to_owned(), String::new()),
            ],
            context: None,
            baggage: "a=1".into(),
        }
    }

    fn birth() -> Birth {
        Birth {
            boot_id: *b"0123456789abcdef",
            believed: true,
        }
    }

    /// Whoever breaks this: stored messages of fielded devices would be lost.
    /// Undo the change, or give the new form a version of its own.
    #[test]
    fn version_1_is_these_bytes() {
        let mut expected = b"\x01\x07\x00\x07plant/1".to_vec();
        expected.extend(b"\x01\x00\x15\x00\x00\x0e\x10\x010123456789abcdef");
        expected.extend(b"\x02\x00\x0atext/plain\x03\x00\x01r\x04\x00\x02\x00\xff\x05\x00\x03a=1");
        expected.extend(b"\x06\x00\x09\x00\x04unitCel\x06\x00\x06\x00\x04unit\x0021.5");
        assert_eq!(Envelope::encode(&full(), birth()), expected);
        let plain = Message {
            topic: "t".to_owned(),
            qos: Qos::AtMostOnce,
            ..Message::default()
        };
        assert_eq!(encode(&plain), b"\x01\x00\x00\x01t\x00"[..]);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let envelope = Envelope {
            message: full(),
            birth: birth(),
        };
        let bytes = Envelope::encode(&envelope.message, envelope.birth);
        assert_eq!(Envelope::decode(&bytes), Ok(envelope));
        let plain = Message {
            topic: "ü/x".to_owned(),
            ..Message::default()
        };
        assert_eq!(decode(&encode(&plain)), Ok(plain));
    }

    #[test]
    fn an_envelope_cut_anywhere_before_its_payload_is_refused() {
        let bytes = Envelope::encode(&full(), birth());
        for cut in 0..bytes.len() - 4 {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused_and_not_guessed_at() {
        assert_eq!(decode(b"\x02\x00\x00\x01t\x00"), Err(Malformed::Version(2)));
        assert_eq!(decode(b"\x01\x08\x00\x01t\x00"), Err(Malformed::Version(1)));
        let unknown = decode(b"\x01\x00\x00\x01t\x07\x00\x00\x00");
        assert_eq!(unknown, Err(Malformed::Field(7)));
        let twice = decode(b"\x01\x00\x00\x01t\x02\x00\x00\x02\x00\x00\x00");
        assert_eq!(twice, Err(Malformed::Field(2)));
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let mut state = 0x1234_5678_9abc_def0_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = Envelope::encode(&full(), birth());
        for _ in 0..200_000 {
            // Half noise, half a good one with a few bytes changed.
            let mut bytes = good.to_vec();
            if random() % 2 == 0 {
                let length = (random() % 60) as usize;
                bytes = (0..length).map(|_| (random() % 8) as u8).collect();
                if let Some(first) = bytes.first_mut() {
                    *first = 1;
                }
            } else {
                for _ in 0..random() % 4 {
                    let at = (random() % bytes.len() as u64) as usize;
                    bytes[at] = random() as u8;
                }
            }
            if let Ok(message) = decode(&bytes) {
                assert!(message.payload.len() <= bytes.len());
            }
        }
    }
}
