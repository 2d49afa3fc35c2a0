//! The nouns that flow through Sonde: a [`Batch`] is made once, stored as a
//! [`Frame`], sent as it was stored.
//!
//! Pure data: nothing here reads a clock, a file or a socket.

use std::fmt;

use bytes::Bytes;

/// A moment, by both clocks that matter on a gateway.
///
/// `boot_ns` never steps and goes on through suspend; everything that orders
/// or expires uses it. `unix_ns` is what the wall clock claimed at that moment;
/// it may be wrong by decades and is only for people and for the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since 1970-01-01 UTC (`CLOCK_REALTIME`).
    pub unix_ns: u64,
    /// Nanoseconds since this boot, suspend included (`CLOCK_BOOTTIME`).
    pub boot_ns: u64,
}

/// What a stored body is, and so which path it takes at an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Signal {
    /// An OTLP `ExportMetricsServiceRequest`.
    Metrics = 1,
    /// An OTLP `ExportTraceServiceRequest`.
    Traces = 2,
    /// An OTLP `ExportLogsServiceRequest`.
    Logs = 3,
    /// A local program's own MQTT message.
    Message = 4,
}

/// A set of signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(u8);

/// What a frame is worth when room runs out. Ordered from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Boot and crash reasons, alarms.
    Critical = 0,
    /// Local programs' messages: never evicted, refused when full.
    Outbox = 1,
    /// Spans, logs, gauges.
    Normal = 2,
    /// Fine-grained gauges, debug logs.
    Bulk = 3,
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Identity = 0,
    /// One gzip member (RFC 1952).
    Gzip = 1,
}

/// A W3C trace context that travels with a frame.
///
/// Source: W3C Trace Context, level 1 and 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes, never all zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, never all zero.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 is `sampled`.
    pub flags: u8,
    /// `tracestate` as it goes on the wire; empty means: send none.
    pub state: Box<str>,
}

/// One export request, encoded once; what producers hand to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the body is.
    pub signal: Signal,
    /// What it is worth.
    pub class: Class,
    /// How the body is packed.
    pub codec: Codec,
    /// Data points, spans, log records or messages in the body.
    pub items: u32,
    /// The earliest reading inside.
    pub first: Stamp,
    /// The latest reading inside.
    pub last: Stamp,
    /// The context of the PRODUCER span that made it; `None` for spans and logs.
    pub context: Option<TraceContext>,
    /// The packed body, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

/// The largest body one frame may have: some brokers take no more than
/// 128 KiB a message, and topic and properties need their share.
pub const MAX_BODY: usize = 96 * 1024;

/// A frame's name: unique over all starts of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// Random at each process start.
    pub epoch: u32,
    /// Strictly increasing, assigned when the spool accepts the batch.
    pub seq: u64,
}

/// `epoch-seq`, as it stands in the `sonde-frame` user property.
impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.epoch, self.seq)
    }
}

/// A stored batch on its way to an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name.
    pub id: FrameId,
    /// What was stored.
    pub batch: Batch,
    /// It may have been sent before (by this process or an earlier one).
    pub resent: bool,
}

impl Signal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Signal; 4] = [
        Signal::Metrics,
        Signal::Traces,
        Signal::Logs,
        Signal::Message,
    ];

    /// Lower-case plural, as in topics, routes and the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics",
            Signal::Traces => "traces",
            Signal::Logs => "logs",
            Signal::Message => "messages",
        }
    }
}

impl Signals {
    /// Every signal.
    pub const ALL: Self = Self(0b1111);
    /// None.
    pub const NONE: Self = Self(0);

    /// With `signal` in it.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | Self::bit(signal))
    }

    /// With `signal` not in it.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !Self::bit(signal))
    }

    /// Whether `signal` is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & Self::bit(signal) != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One bit a signal, in the order of [`Signal::ALL`], lowest first.
    pub const fn bits(self) -> u8 {
        self.0
    }

    const fn bit(signal: Signal) -> u8 {
        1 << (signal as u8 - 1)
    }
}

impl Class {
    /// All of them, most valuable first.
    pub const ALL: [Class; 4] = [Class::Critical, Class::Outbox, Class::Normal, Class::Bulk];

    /// Lower-case name, as in folders and the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Outbox => "outbox",
            Class::Normal => "normal",
            Class::Bulk => "bulk",
        }
    }
}

impl TraceContext {
    /// The `traceparent` header, version 00.
    pub fn traceparent(&self) -> String {
        let mut out = String::with_capacity(55);
        out.push_str("00-");
        push_hex(&mut out, &self.trace_id);
        out.push('-');
        push_hex(&mut out, &self.span_id);
        out.push('-');
        push_hex(&mut out, &[self.flags]);
        out
    }
}

/// Appends lower-case hexadecimal digits.
pub fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}
