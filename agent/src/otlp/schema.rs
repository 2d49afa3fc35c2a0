//! What OTLP's messages are made of, as tables: field numbers, JSON names and
//! kinds. For whoever goes over a body without knowing its messages as types:
//! what is stored becomes JSON by them, what local programs send is checked by
//! them, and their JSON becomes protobuf.
//!
//! Source: opentelemetry-proto 1.x, `*.proto` of the three signals. A field
//! that is not here is newer than this program.

use crate::frame::Signal;

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) fields: &'static [Field],
    /// One bit for each number of a field without which it means nothing.
    pub(crate) required: u32,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// As in JSON.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    /// One of several that exclude each other: the last on the wire holds.
    pub(crate) one_of: bool,
}

/// How a value lies on the wire and stands in JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    /// Base64.
    Bytes,
    /// So many bytes, or none; hexadecimal digits in JSON: OTLP's own rule for
    /// trace and span ids.
    Id(usize),
    Bool,
    /// A varint with a sign that is a number in JSON.
    Enum,
    /// `uint32`: a varint that is a number in JSON.
    Small,
    /// A varint in zigzag that is a number in JSON.
    Zigzag,
    /// `int64`: a string in JSON.
    Int,
    /// `uint64`: a string in JSON.
    Uint,
    /// `fixed32`: a number in JSON.
    Fixed32,
    /// `fixed64`: a string in JSON.
    Fixed64,
    /// `sfixed64`: a string in JSON.
    Signed64,
    Double,
    Message(&'static Message),
}

impl Kind {
    /// A plain varint: not zigzag, not a truth.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Kind::Enum | Kind::Small | Kind::Int | Kind::Uint)
    }
}

/// The message of a signal's export request; `None`: it is not one of OTLP's.
pub(crate) fn request(signal: Signal) -> Option<&'static Message> {
    match signal {
        Signal::Metrics => Some(&METRICS),
        Signal::Traces => Some(&TRACES),
        Signal::Logs => Some(&LOGS),
        Signal::Message => None,
    }
}

use Kind::{
    Bool, Bytes, Double, Enum, Fixed32, Fixed64, Id, Int, Signed64, Small, Text, Uint, Zigzag,
};

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: false,
        one_of: false,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: true,
        one_of: false,
    }
}

const fn either(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: false,
        one_of: true,
    }
}

const fn sub(message: &'static Message) -> Kind {
    Kind::Message(message)
}

macro_rules! message {
    ($name:ident: $($field:expr),+ $(,)?) => {
        message!($name; 0; $($field),+);
    };
    ($name:ident; $required:expr; $($field:expr),+ $(,)?) => {
        static $name: Message = Message {
            fields: &[$($field),+],
            required: $required,
        };
    };
}

message!(ANY_VALUE:
    either(1, "stringValue", Text),
    either(2, "boolValue", Bool),
    either(3, "intValue", Int),
    either(4, "doubleValue", Double),
    either(5, "arrayValue", sub(&ARRAY_VALUE)),
    either(6, "kvlistValue", sub(&KEY_VALUE_LIST)),
    either(7, "bytesValue", Bytes),
    // Means something in profiles only.
    either(8, "stringValueStrindex", Enum),
);
message!(ARRAY_VALUE: many(1, "values", sub(&ANY_VALUE)));
message!(KEY_VALUE_LIST: many(1, "values", sub(&KEY_VALUE)));
message!(KEY_VALUE:
    one(1, "key", Text),
    one(2, "value", sub(&ANY_VALUE)),
    // Means something in profiles only.
    one(3, "keyStrindex", Enum),
);
message!(SCOPE:
    one(1, "name", Text),
    one(2, "version", Text),
    many(3, "attributes", sub(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Small),
);
message!(ENTITY:
    one(1, "schemaUrl", Text),
    one(2, "type", Text),
    many(3, "idKeys", Text),
    many(4, "descriptionKeys", Text),
);
message!(RESOURCE:
    many(1, "attributes", sub(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Small),
    many(3, "entityRefs", sub(&ENTITY)),
);

message!(TRACES: many(1, "resourceSpans", sub(&RESOURCE_SPANS)));
message!(RESOURCE_SPANS:
    one(1, "resource", sub(&RESOURCE)),
    many(2, "scopeSpans", sub(&SCOPE_SPANS)),
    one(3, "schemaUrl", Text),
);
message!(SCOPE_SPANS:
    one(1, "scope", sub(&SCOPE)),
    many(2, "spans", sub(&SPAN)),
    one(3, "schemaUrl", Text),
);
// A span without its ids is one that no back end can place, and some refuse the
// whole request for it: other programs' spans may be in the same.
message!(SPAN; 1 << 1 | 1 << 2;
    one(1, "traceId", Id(16)),
    one(2, "spanId", Id(8)),
    one(3, "traceState", Text),
    one(4, "parentSpanId", Id(8)),
    one(16, "flags", Fixed32),
    one(5, "name", Text),
    one(6, "kind", Enum),
    one(7, "startTimeUnixNano", Fixed64),
    one(8, "endTimeUnixNano", Fixed64),
    many(9, "attributes", sub(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Small),
    many(11, "events", sub(&EVENT)),
    one(12, "droppedEventsCount", Small),
    many(13, "links", sub(&LINK)),
    one(14, "droppedLinksCount", Small),
    one(15, "status", sub(&STATUS)),
);
message!(EVENT:
    one(1, "timeUnixNano", Fixed64),
    one(2, "name", Text),
    many(3, "attributes", sub(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Small),
);
message!(LINK:
    one(1, "traceId", Id(16)),
    one(2, "spanId", Id(8)),
    one(3, "traceState", Text),
    many(4, "attributes", sub(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Small),
    one(6, "flags", Fixed32),
);
message!(STATUS: one(2, "message", Text), one(3, "code", Enum));

message!(LOGS: many(1, "resourceLogs", sub(&RESOURCE_LOGS)));
message!(RESOURCE_LOGS:
    one(1, "resource", sub(&RESOURCE)),
    many(2, "scopeLogs", sub(&SCOPE_LOGS)),
    one(3, "schemaUrl", Text),
);
message!(SCOPE_LOGS:
    one(1, "scope", sub(&SCOPE)),
    many(2, "logRecords", sub(&LOG_RECORD)),
    one(3, "schemaUrl", Text),
);
message!(LOG_RECORD:
    one(1, "timeUnixNano", Fixed64),
    one(11, "observedTimeUnixNano", Fixed64),
    one(2, "severityNumber", Enum),
    one(3, "severityText", Text),
    one(5, "body", sub(&ANY_VALUE)),
    many(6, "attributes", sub(&KEY_VALUE)),
    one(7, "droppedAttributesCount", Small),
    one(8, "flags", Fixed32),
    one(9, "traceId", Id(16)),
    one(10, "spanId", Id(8)),
    one(12, "eventName", Text),
);

message!(METRICS: many(1, "resourceMetrics", sub(&RESOURCE_METRICS)));
message!(RESOURCE_METRICS:
    one(1, "resource", sub(&RESOURCE)),
    many(2, "scopeMetrics", sub(&SCOPE_METRICS)),
    one(3, "schemaUrl", Text),
);
message!(SCOPE_METRICS:
    one(1, "scope", sub(&SCOPE)),
    many(2, "metrics", sub(&METRIC)),
    one(3, "schemaUrl", Text),
);
message!(METRIC:
    one(1, "name", Text),
    one(2, "description", Text),
    one(3, "unit", Text),
    either(5, "gauge", sub(&GAUGE)),
    either(7, "sum", sub(&SUM)),
    either(9, "histogram", sub(&HISTOGRAM)),
    either(10, "exponentialHistogram", sub(&EXPONENTIAL)),
    either(11, "summary", sub(&SUMMARY)),
    many(12, "metadata", sub(&KEY_VALUE)),
);
message!(GAUGE: many(1, "dataPoints", sub(&NUMBER_POINT)));
message!(SUM:
    many(1, "dataPoints", sub(&NUMBER_POINT)),
    one(2, "aggregationTemporality", Enum),
    one(3, "isMonotonic", Bool),
);
message!(HISTOGRAM:
    many(1, "dataPoints", sub(&HISTOGRAM_POINT)),
    one(2, "aggregationTemporality", Enum),
);
message!(EXPONENTIAL:
    many(1, "dataPoints", sub(&EXPONENTIAL_POINT)),
    one(2, "aggregationTemporality", Enum),
);
message!(SUMMARY: many(1, "dataPoints", sub(&SUMMARY_POINT)));
message!(NUMBER_POINT:
    many(7, "attributes", sub(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    either(4, "asDouble", Double),
    either(6, "asInt", Signed64),
    many(5, "exemplars", sub(&EXEMPLAR)),
    one(8, "flags", Small),
);
message!(HISTOGRAM_POINT:
    many(9, "attributes", sub(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "bucketCounts", Fixed64),
    many(7, "explicitBounds", Double),
    many(8, "exemplars", sub(&EXEMPLAR)),
    one(10, "flags", Small),
    one(11, "min", Double),
    one(12, "max", Double),
);
message!(EXPONENTIAL_POINT:
    many(1, "attributes", sub(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    one(6, "scale", Zigzag),
    one(7, "zeroCount", Fixed64),
    one(8, "positive", sub(&BUCKETS)),
    one(9, "negative", sub(&BUCKETS)),
    one(10, "flags", Small),
    many(11, "exemplars", sub(&EXEMPLAR)),
    one(12, "min", Double),
    one(13, "max", Double),
    one(14, "zeroThreshold", Double),
);
message!(BUCKETS: one(1, "offset", Zigzag), many(2, "bucketCounts", Uint));
message!(SUMMARY_POINT:
    many(7, "attributes", sub(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "quantileValues", sub(&QUANTILE)),
    one(8, "flags", Small),
);
message!(QUANTILE: one(1, "quantile", Double), one(2, "value", Double));
message!(EXEMPLAR:
    many(7, "filteredAttributes", sub(&KEY_VALUE)),
    one(2, "timeUnixNano", Fixed64),
    either(3, "asDouble", Double),
    either(6, "asInt", Signed64),
    one(4, "spanId", Id(8)),
    one(5, "traceId", Id(16)),
);
