//! MQTT 5 packets as bytes, through rumqttc's codec.
//!
//! What that codec cannot do is done here, by looking at the bytes:
//!
//! - reason codes it has no name for (mosquitto answers a publish over its size
//!   limit with 0x95, which the codec's PUBACK does not know) would end the
//!   connection as malformed; here every code arrives as the number it is;
//! - a CONNACK without properties, as a broker that speaks only 3.1.1 sends it,
//!   and a DISCONNECT of two bytes, both legal, are errors to it;
//! - a truncated property inside a complete packet makes it say "more bytes
//!   needed", and a reader that believes it waits forever. Here a packet is cut
//!   out first, and what cannot be read then is malformed.
//!
//! ```text
//! byte 0       1..=4               then
//! type|flags   remaining length    CONNACK flags code [props] · PUBACK id id [code [props]] · DISCONNECT [code [props]]
//! ```

use std::fmt;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, Connect, ConnectProperties, Disconnect, Filter, LastWill,
    LastWillProperties, Login, Packet, PingReq, PubAck, Publish, PublishProperties,
    RetainForwardRule, Subscribe, check,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::piece::{Outgoing, Piece};
use crate::frame::Codec;
use crate::message::Qos;
use crate::trace::propagation::{self, Carried};

/// The largest packet we accept, announced in CONNECT: acknowledgements with
/// a long reason, and commands. A broker drops what is larger (MQTT-3.1.2-25),
/// so that a command with a megabyte of properties never gets here.
pub(super) const MAX_INCOMING: u32 = 32 * 1024;

/// Publishes the broker may have unacknowledged towards us, announced in
/// CONNECT: however many commands are sent at once, so many wait here.
pub(super) const RECEIVE_MAXIMUM: u16 = 16;

/// DISCONNECT that makes the broker forget the last will.
pub(super) const NORMAL: u8 = 0x00;

/// DISCONNECT that makes the broker publish the last will.
pub(super) const WITH_WILL: u8 = 0x04;

/// The longest text of a broker that we show.
const MAX_WORDS: usize = 200;

/// What a broker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Answer to CONNECT.
    ConnAck {
        /// 0: accepted.
        code: u8,
        /// The broker still has a session of this client identifier.
        session_present: bool,
        /// What it allows.
        limits: Limits,
        /// Its own words.
        words: Words,
    },
    /// Answer to one PUBLISH.
    PubAck {
        /// Which.
        pkid: u16,
        /// Below 0x80: taken.
        code: u8,
        /// Its own words.
        words: Words,
    },
    /// A message for us.
    Publish {
        /// Packet id; 0 at QoS 0.
        pkid: u16,
        /// 0, 1 or 2.
        qos: u8,
        /// What it says, or why that cannot be read.
        message: Result<Box<Received>, String>,
    },
    /// Answer to SUBSCRIBE.
    SubAck {
        /// Which.
        pkid: u16,
        /// For its one filter: below 0x80: granted.
        code: u8,
        /// Its own words.
        words: Words,
    },
    /// Answer to PINGREQ.
    PingResp,
    /// The broker ends the connection.
    Disconnect {
        /// Why.
        code: u8,
        /// Its own words.
        words: Words,
    },
    /// A packet that no broker may send to this client; its type.
    Unexpected(u8),
}

/// A message for us, with all that it carries and commands look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Where it was published.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// The broker may have sent it before.
    pub dup: bool,
    /// It was kept by the broker from some time ago.
    pub retain: bool,
    /// Seconds until nobody wants it any more; the broker has taken off what it waited.
    pub expiry: Option<u32>,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// What the answer has to repeat.
    pub correlation: Option<Bytes>,
    /// User properties in order.
    pub properties: Vec<(String, String)>,
}

/// What the broker adds in words; either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Reason string, cut and without control characters.
    pub(super) reason: String,
    /// Server reference: where to go instead.
    pub(super) server: String,
}

/// What the broker allows on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Unacknowledged publishes; 1 to 65,535.
    pub(super) receive_maximum: u16,
    /// Bytes of one packet.
    pub(super) packet_size: Option<u32>,
    /// Highest quality of service.
    pub(super) qos: u8,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
    /// Keep-alive in seconds that it wants instead of ours.
    pub(super) keep_alive: Option<u16>,
}

/// MQTT 5's defaults (section 3.2.2.3).
impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            packet_size: None,
            qos: 2,
            retain: true,
            keep_alive: None,
        }
    }
}

/// Bytes that are no MQTT 5, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A packet that must not be sent: it is larger than the broker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Bytes it would have.
    pub(super) size: usize,
    /// Bytes allowed.
    pub(super) limit: usize,
}

/// Who we say we are.
#[derive(Clone, Debug)]
pub(super) struct Hello<'a> {
    /// Client identifier.
    pub(super) client_id: &'a str,
    /// Seconds.
    pub(super) keep_alive: u16,
    /// Seconds the broker keeps the session after a disconnect; `None`: start
    /// clean, keep nothing.
    pub(super) keep_session: Option<u32>,
    /// User name and password; empty strings are left out.
    pub(super) login: Option<(String, String)>,
    /// Topic and payload that the broker publishes, should we vanish.
    pub(super) will: (&'a str, Bytes),
    /// Whether the will is retained (a broker without retained messages refuses it).
    pub(super) retain: bool,
}

/// Whether bytes may begin a CONNACK. Seen from the first of them: text of
/// another protocol would announce a length that never comes.
pub(super) fn may_be_answer(buffer: &[u8]) -> bool {
    buffer.first().is_none_or(|byte| *byte == 0x20)
}

/// Cuts one packet off the front of `buffer`; `None`: more bytes are needed.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
    let length = match check(buffer.iter(), Some(MAX_INCOMING)) {
        Ok(header) => header.frame_length(),
        Err(Error::InsufficientBytes(_)) => return Ok(None),
        Err(Error::PayloadSizeLimitExceeded { pkt_size, max }) => {
            return Err(Malformed(format!(
                "a packet of {pkt_size} bytes was announced, {max} is what we accept"
            )));
        }
        Err(error) => return Err(Malformed(error.to_string())),
    };
    let packet = buffer.split_to(length.min(buffer.len()));
    read(packet).map(Some)
}

fn read(packet: BytesMut) -> Result<Incoming, Malformed> {
    let kind = packet.first().map_or(0, |byte| byte >> 4);
    let more = packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0);
    let body = packet.get(2 + more.count()..).unwrap_or_default();
    match (kind, body) {
        (2, &[flags, code, ..]) => conn_ack(flags, code, packet),
        (4, &[high, low, ref rest @ ..]) => Ok(Incoming::PubAck {
            pkid: u16::from_be_bytes([high, low]),
            code: rest.first().copied().unwrap_or(0),
            words: match parse(packet) {
                Ok(Packet::PubAck(ack)) => {
                    Words::new(ack.properties.and_then(|p| p.reason_string), None)
                }
                _ => Words::default(),
            },
        }),
        (3, body) => match message_head(packet.first().copied().unwrap_or(0), body) {
            Some((pkid, qos)) => Ok(Incoming::Publish {
                pkid,
                qos,
                message: message(packet),
            }),
            None => Err(Malformed("PUBLISH cannot be read".to_owned())),
        },
        (9, &[high, low, ..]) => sub_ack(u16::from_be_bytes([high, low]), packet),
        (13, _) => Ok(Incoming::PingResp),
        (14, body) => Ok(Incoming::Disconnect {
            code: body.first().copied().unwrap_or(0),
            words: match parse(packet) {
                Ok(Packet::Disconnect(Disconnect {
                    properties: Some(p),
                    ..
                })) => Words::new(p.reason_string, p.server_reference),
                _ => Words::default(),
            },
        }),
        (2 | 4 | 9, _) => Err(Malformed(format!("packet type {kind} is cut short"))),
        _ => Ok(Incoming::Unexpected(kind)),
    }
}

/// Packet id and quality of service of a PUBLISH. They are needed even where
/// the rest is malformed: what is not acknowledged comes again for ever.
fn message_head(first: u8, body: &[u8]) -> Option<(u16, u8)> {
    let qos = first >> 1 & 3;
    let &[high, low, ref rest @ ..] = body else {
        return None;
    };
    let after = rest.get(usize::from(u16::from_be_bytes([high, low]))..)?;
    match (qos, after) {
        (0, _) => Some((0, 0)),
        (1 | 2, &[high, low, ..]) if (high, low) != (0, 0) => {
            Some((u16::from_be_bytes([high, low]), qos))
        }
        _ => None,
    }
}

fn message(packet: BytesMut) -> Result<Box<Received>, String> {
    let Packet::Publish(publish) = parse(packet).map_err(|malformed| malformed.0)? else {
        return Err("it is no PUBLISH".to_owned());
    };
    let topic = String::from_utf8(publish.topic.into())
        .ok()
        .filter(|topic| !topic.is_empty())
        .ok_or("its topic is empty or not UTF-8")?;
    let more = publish.properties.unwrap_or_default();
    Ok(Box::new(Received {
        topic,
        payload: publish.payload,
        dup: publish.dup,
        retain: publish.retain,
        expiry: more.message_expiry_interval,
        response_topic: more.response_topic,
        correlation: more.correlation_data,
        properties: more.user_properties,
    }))
}

/// The codec does not know every reason code here either.
fn sub_ack(pkid: u16, packet: BytesMut) -> Result<Incoming, Malformed> {
    let code = packet.last().copied().unwrap_or(0x80);
    let words = match parse(packet) {
        Ok(Packet::SubAck(ack)) => Words::new(ack.properties.and_then(|p| p.reason_string), None),
        _ => Words::default(),
    };
    Ok(Incoming::SubAck { pkid, code, words })
}

fn conn_ack(flags: u8, code: u8, packet: BytesMut) -> Result<Incoming, Malformed> {
    let properties = match parse(packet) {
        Ok(Packet::ConnAck(ack)) => ack.properties,
        // A refusal counts whatever is left of it; an acceptance whose limits
        // cannot be read is none.
        _ if code != 0 => None,
        Ok(_) => return Err(Malformed("CONNACK cannot be read".to_owned())),
        Err(error) => return Err(error),
    };
    let limits = properties.as_ref().map_or(Ok(Limits::default()), limits)?;
    let words = properties.map_or_else(Words::default, |p| {
        Words::new(p.reason_string, p.server_reference)
    });
    Ok(Incoming::ConnAck {
        code,
        session_present: flags & 1 != 0,
        limits,
        words,
    })
}

fn limits(properties: &ConnAckProperties) -> Result<Limits, Malformed> {
    if properties.receive_max == Some(0) || properties.max_packet_size == Some(0) {
        return Err(Malformed(
            "CONNACK allows zero publishes or zero bytes, which MQTT 5 forbids".to_owned(),
        ));
    }
    Ok(Limits {
        receive_maximum: properties.receive_max.unwrap_or(u16::MAX),
        packet_size: properties.max_packet_size,
        qos: properties.max_qos.unwrap_or(2),
        retain: properties.retain_available != Some(0),
        keep_alive: properties.server_keep_alive.filter(|seconds| *seconds > 0),
    })
}

fn parse(mut packet: BytesMut) -> Result<Packet, Malformed> {
    Packet::read(&mut packet, None).map_err(|error| Malformed(error.to_string()))
}

impl Words {
    fn new(reason: Option<String>, server: Option<String>) -> Self {
        let clean = |text: Option<String>| {
            text.unwrap_or_default()
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_WORDS)
                .collect()
        };
        Self {
            reason: clean(reason),
            server: clean(server),
        }
    }
}

/// Appends CONNECT.
pub(super) fn connect(hello: Hello<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
    let connect = Connect {
        keep_alive: hello.keep_alive,
        client_id: hello.client_id.to_owned(),
        clean_start: hello.keep_session.is_none(),
        properties: Some(ConnectProperties {
            // Absent means 0: the session ends with the connection.
            session_expiry_interval: hello.keep_session,
            receive_maximum: Some(RECEIVE_MAXIMUM),
            max_packet_size: Some(MAX_INCOMING),
            ..ConnectProperties::new()
        }),
    };
    let (topic, payload) = hello.will;
    let will = LastWill {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        message: payload,
        qos: QoS::AtLeastOnce,
        retain: hello.retain,
        properties: Some(LastWillProperties {
            delay_interval: None,
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some("application/json".to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        }),
    };
    let login = hello
        .login
        .map(|(username, password)| Login { username, password });
    append(&Packet::Connect(connect, Some(will), login), None, out).map(|_| ())
}

/// Appends a telemetry PUBLISH at QoS 1 and says how many bytes it has.
pub(super) fn telemetry(
    piece: &Piece,
    topic: &str,
    pkid: u16,
    expiry: Option<u32>,
    limit: Option<u32>,
    out: &mut BytesMut,
) -> Result<usize, TooLarge> {
    let frame = &piece.frame;
    let mut user = Vec::with_capacity(5);
    let mut add = |key: &str, value: String| user.push((key.to_owned(), value));
    if let Some(context) = &frame.batch.context {
        add("traceparent", context.traceparent());
        if !context.state.is_empty() {
            add("tracestate", context.state.to_string());
        }
    }
    add("sonde-frame", piece.id().to_string());
    if frame.resent {
        add("sonde-resent", "1".to_owned());
    }
    if frame.batch.codec == Codec::Gzip {
        add("content-encoding", "gzip".to_owned());
    }
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        pkid,
        payload: frame.batch.body.clone(),
        properties: Some(PublishProperties {
            message_expiry_interval: expiry,
            content_type: Some("application/x-protobuf".to_owned()),
            user_properties: user,
            ..PublishProperties::default()
        }),
        ..Publish::default()
    };
    append_checked(publish, limit, out)
}

/// Appends a local program's PUBLISH and says how many bytes it has. `pkid`: of
/// no meaning at QoS 0.
pub(super) fn own_message(
    piece: &Piece,
    outgoing: &Outgoing,
    pkid: u16,
    retain: bool,
    limit: Option<u32>,
    out: &mut BytesMut,
) -> Result<usize, TooLarge> {
    let message = &outgoing.message;
    let carried = Carried {
        context: message.context.clone(),
        baggage: message.baggage.clone(),
    };
    let mut user = message.properties.clone();
    let own = |(key, value): (&'static str, String)| (key.to_owned(), value);
    user.extend(propagation::fields(&carried).into_iter().map(own));
    user.push(("sonde-frame".to_owned(), piece.id().to_string()));
    if piece.frame.resent {
        user.push(("sonde-resent".to_owned(), "1".to_owned()));
    }
    let (qos, pkid) = match message.qos {
        Qos::AtMostOnce => (QoS::AtMostOnce, 0),
        Qos::AtLeastOnce => (QoS::AtLeastOnce, pkid),
    };
    let publish = Publish {
        qos,
        retain: message.retain && retain,
        topic: Bytes::copy_from_slice(message.topic.as_bytes()),
        pkid,
        payload: message.payload.clone(),
        properties: Some(PublishProperties {
            payload_format_indicator: message.text.then_some(1),
            message_expiry_interval: outgoing.left,
            content_type: message.content_type.clone(),
            response_topic: message.response_topic.clone(),
            correlation_data: message.correlation.clone(),
            user_properties: user,
            ..PublishProperties::default()
        }),
        ..Publish::default()
    };
    append_checked(publish, limit, out)
}

/// Appends a state PUBLISH (JSON) at QoS 1.
pub(super) fn state(
    topic: &str,
    payload: Bytes,
    pkid: u16,
    retain: bool,
    limit: Option<u32>,
    out: &mut BytesMut,
) -> Result<usize, TooLarge> {
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        retain,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        pkid,
        payload,
        properties: Some(PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("application/json".to_owned()),
            ..PublishProperties::default()
        }),
        ..Publish::default()
    };
    append_checked(publish, limit, out)
}

/// Appends SUBSCRIBE: QoS 1, nothing of our own, and nothing retained: what
/// was asked for once must not be done at each connection.
pub(super) fn subscribe(filter: &str, pkid: u16, out: &mut BytesMut) -> Result<(), Malformed> {
    let filter = Filter {
        path: filter.to_owned(),
        qos: QoS::AtLeastOnce,
        nolocal: true,
        preserve_retain: false,
        retain_forward_rule: RetainForwardRule::Never,
    };
    let subscribe = Subscribe {
        pkid,
        filters: vec![filter],
        properties: None,
    };
    append(&Packet::Subscribe(subscribe), None, out).map(|_| ())
}

/// Appends PINGREQ.
pub(super) fn ping(out: &mut BytesMut) {
    // Two constant bytes cannot fail.
    let _ = append(&Packet::PingReq(PingReq), None, out);
}

/// Appends PUBACK, success.
pub(super) fn acknowledge(pkid: u16, out: &mut BytesMut) {
    // Four bytes cannot fail.
    let _ = append(&Packet::PubAck(PubAck::new(pkid, None)), None, out);
}

/// Appends DISCONNECT with [`NORMAL`] or [`WITH_WILL`], by hand: the codec
/// announces one byte less than it writes.
pub(super) fn disconnect(code: u8, out: &mut BytesMut) {
    out.extend_from_slice(&[0xe0, 2, code, 0]);
}

fn append_checked(
    publish: Publish,
    limit: Option<u32>,
    out: &mut BytesMut,
) -> Result<usize, TooLarge> {
    let packet = Packet::Publish(publish);
    let size = packet.size();
    // 256 MiB less one is the protocol's own bound (section 2.1.4).
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(268_435_455);
    if size > limit {
        return Err(TooLarge { size, limit });
    }
    out.reserve(size);
    append(&packet, None, out).map_err(|_| TooLarge { size, limit })
}

fn append(packet: &Packet, limit: Option<u32>, out: &mut BytesMut) -> Result<usize, Malformed> {
    let before = out.len();
    packet.write(out, limit).map_err(|error| {
        out.truncate(before);
        Malformed(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes as they might arrive and counts what comes out until the first error.
    fn decode_all(bytes: &[u8]) -> (Vec<Incoming>, Option<Malformed>) {
        let mut buffer = BytesMut::from(bytes);
        let mut out = Vec::new();
        loop {
            match decode(&mut buffer) {
                Ok(Some(packet)) => out.push(packet),
                Ok(None) => return (out, None),
                Err(error) => return (out, Some(error)),
            }
        }
    }

    #[test]
    fn every_reason_code_arrives_as_the_number_it_is() {
        for code in 0..=u8::MAX {
            let (packets, error) = decode_all(&[0x40, 3, 1, 2, code, 0xe0, 1, code]);
            assert_eq!(error, None);
            let words = Words::default();
            let ack = Incoming::PubAck {
                pkid: 0x0102,
                code,
                words: words.clone(),
            };
            assert_eq!(packets, [ack, Incoming::Disconnect { code, words }]);
        }
    }

    #[test]
    fn the_brokers_words_are_shown_without_what_could_hurt_a_terminal() {
        let (packets, _) = decode_all(b"\x40\x0d\x00\x01\x97\x09\x1f\x00\x06no\x1b[2J");
        let Some(Incoming::PubAck { words, .. }) = packets.first() else {
            panic!("{packets:?}");
        };
        assert_eq!(words.reason, "no[2J");
    }

    #[test]
    fn limits_are_read_from_connack() {
        let (packets, error) = decode_all(
            b"\x20\x12\x00\x00\x0f\x21\x00\x14\x24\x01\x25\x00\x27\x00\x00\x10\x00\x13\x00\x1e",
        );
        assert_eq!(error, None);
        let Some(Incoming::ConnAck { limits, .. }) = packets.first() else {
            panic!("{packets:?}");
        };
        let expected = Limits {
            receive_maximum: 20,
            packet_size: Some(4096),
            qos: 1,
            retain: false,
            keep_alive: Some(30),
        };
        assert_eq!(*limits, expected);
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_is_waited_for() {
        let (_, error) = decode_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
        let error = error.expect("refused").to_string();
        assert!(error.contains("268435455 bytes was announced"), "{error}");
    }

    #[test]
    fn hostile_bytes_never_panic_and_never_ask_for_more_than_the_bound() {
        let mut state = 0x1234_5678_9abc_def0_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let length = (random() % 40) as usize;
            let mut bytes = vec![(random() % 256) as u8, length as u8];
            // Property ids and small lengths are likelier to reach deep than noise is.
            bytes.extend(
                (0..length).map(|_| (random() % [4, 48, 256][(random() % 3) as usize]) as u8),
            );
            let mut buffer = BytesMut::from(&bytes[..]);
            let before = buffer.len();
            match decode(&mut buffer) {
                Ok(Some(_)) => assert!(buffer.len() < before, "no progress: {bytes:?}"),
                Ok(None) => panic!("a whole packet is not waited for: {bytes:?}"),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_packet_cut_anywhere_is_waited_for() {
        let whole = b"\x20\x06\x00\x00\x03\x21\x00\x14";
        for cut in 0..whole.len() {
            assert_eq!(decode_all(&whole[..cut]), (Vec::new(), None), "{cut}");
        }
    }
}
