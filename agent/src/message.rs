//! A local program's own MQTT message, as it waits in the outbox.
//!
//! Whoever makes one (`sonde publish`, the door, an answer to a command) fills
//! in a [`Message`]; the outbox stores it, the MQTT uplink sends it. Pure data:
//! nothing here reads a clock, a file or a socket.

use bytes::Bytes;

use crate::frame::TraceContext;

/// How hard the broker is asked to take it (MQTT 5, 4.3). QoS 2 is refused
/// where a message is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Qos {
    /// At most once on the last hop; the outbox keeps it until it was sent.
    AtMostOnce = 0,
    /// At least once.
    #[default]
    AtLeastOnce = 1,
}

/// One application message with the properties that MQTT 5 gives it.
///
/// Source: MQTT 5.0, 3.3 PUBLISH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// A topic name: no wildcards, no NUL, 1 to 65,535 bytes.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// Quality of service towards the broker.
    pub qos: Qos,
    /// The broker keeps it for whoever subscribes later.
    pub retain: bool,
    /// Seconds after which nobody wants it any more, counted from when it was
    /// stored; `None`: never.
    pub expiry: Option<u32>,
    /// The payload is UTF-8 text (payload format indicator 1).
    pub text: bool,
    /// MIME type or what the two sides agreed upon.
    pub content_type: Option<String>,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// What the answer has to repeat.
    pub correlation: Option<Bytes>,
    /// User properties in order, trace context not among them.
    pub properties: Vec<(String, String)>,
    /// The context of the PRODUCER span that goes with it on the wire.
    pub context: Option<TraceContext>,
    /// The `baggage` header's value; empty: none.
    pub baggage: Box<str>,
}
