//! What OTLP's requests are made of, as tables: one walk checks protobuf by
//! them, another turns JSON into protobuf.
//!
//! Source: opentelemetry-proto 1.x (`trace.proto`, `metrics.proto`,
//! `logs.proto`, `common.proto`, `resource.proto`). A field that is not here is
//! newer than this program: kept as it is in protobuf, ignored in JSON, as the
//! OTLP specification says.

use crate::frame::Signal;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `bool`
    Bool,
    /// `int32`, `int64`, `uint32`, `uint64`, enumerations.
    Int,
    /// `sint32`
    Zigzag,
    /// `fixed64`
    Fixed64,
    /// `sfixed64`
    Signed64,
    /// `fixed32`
    Fixed32,
    /// `double`
    Double,
    /// `string`
    Text,
    /// `bytes`
    Bytes,
    /// An id of that many bytes, or none.
    Id(usize),
    /// A message.
    Message(&'static Schema),
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// In JSON.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
}

/// A message.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) fields: &'static [Field],
    /// One bit for each number of a field without which it means nothing.
    pub(super) required: u32,
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: false,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        repeated: true,
        ..one(number, name, kind)
    }
}

const fn of(fields: &'static [Field]) -> Schema {
    Schema {
        fields,
        required: 0,
    }
}

/// The schema of a signal's export request; `None`: it is not one of OTLP's.
pub(super) fn request(signal: Signal) -> Option<&'static Schema> {
    match signal {
        Signal::Traces => Some(&TRACES),
        Signal::Metrics => Some(&METRICS),
        Signal::Logs => Some(&LOGS),
        Signal::Message => None,
    }
}

use Kind::{Bool, Bytes, Double, Fixed32, Fixed64, Id, Int, Message, Signed64, Text, Zigzag};

static TRACES: Schema = of(&[many(1, "resourceSpans", Message(&RESOURCE_SPANS))]);
static METRICS: Schema = of(&[many(1, "resourceMetrics", Message(&RESOURCE_METRICS))]);
static LOGS: Schema = of(&[many(1, "resourceLogs", Message(&RESOURCE_LOGS))]);

static RESOURCE_SPANS: Schema = of(&[
    one(1, "resource", Message(&RESOURCE)),
    many(2, "scopeSpans", Message(&SCOPE_SPANS)),
    one(3, "schemaUrl", Text),
]);
static RESOURCE_METRICS: Schema = of(&[
    one(1, "resource", Message(&RESOURCE)),
    many(2, "scopeMetrics", Message(&SCOPE_METRICS)),
    one(3, "schemaUrl", Text),
]);
static RESOURCE_LOGS: Schema = of(&[
    one(1, "resource", Message(&RESOURCE)),
    many(2, "scopeLogs", Message(&SCOPE_LOGS)),
    one(3, "schemaUrl", Text),
]);
static SCOPE_SPANS: Schema = of(&[
    one(1, "scope", Message(&SCOPE)),
    many(2, "spans", Message(&SPAN)),
    one(3, "schemaUrl", Text),
]);
static SCOPE_METRICS: Schema = of(&[
    one(1, "scope", Message(&SCOPE)),
    many(2, "metrics", Message(&METRIC)),
    one(3, "schemaUrl", Text),
]);
static SCOPE_LOGS: Schema = of(&[
    one(1, "scope", Message(&SCOPE)),
    many(2, "logRecords", Message(&LOG_RECORD)),
    one(3, "schemaUrl", Text),
]);

static RESOURCE: Schema = of(&[
    many(1, "attributes", Message(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Int),
    many(3, "entityRefs", Message(&ENTITY_REF)),
]);
static ENTITY_REF: Schema = of(&[
    one(1, "schemaUrl", Text),
    one(2, "type", Text),
    many(3, "idKeys", Text),
    many(4, "descriptionKeys", Text),
]);
static SCOPE: Schema = of(&[
    one(1, "name", Text),
    one(2, "version", Text),
    many(3, "attributes", Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Int),
]);
static KEY_VALUE: Schema = of(&[
    one(1, "key", Text),
    one(2, "value", Message(&ANY_VALUE)),
    // Means something in profiles only.
    one(3, "keyStrindex", Int),
]);
static ANY_VALUE: Schema = of(&[
    one(1, "stringValue", Text),
    one(2, "boolValue", Bool),
    one(3, "intValue", Int),
    one(4, "doubleValue", Double),
    one(5, "arrayValue", Message(&ARRAY)),
    one(6, "kvlistValue", Message(&KV_LIST)),
    one(7, "bytesValue", Bytes),
    // Means something in profiles only.
    one(8, "stringValueStrindex", Int),
]);
static ARRAY: Schema = of(&[many(1, "values", Message(&ANY_VALUE))]);
static KV_LIST: Schema = of(&[many(1, "values", Message(&KEY_VALUE))]);

/// A span without its ids is one that no back end can place, and some refuse
/// the whole request for it: other programs' spans may be in the same.
static SPAN: Schema = Schema {
    fields: &[
        one(1, "traceId", Id(16)),
        one(2, "spanId", Id(8)),
        one(3, "traceState", Text),
        one(4, "parentSpanId", Id(8)),
        one(5, "name", Text),
        one(6, "kind", Int),
        one(7, "startTimeUnixNano", Fixed64),
        one(8, "endTimeUnixNano", Fixed64),
        many(9, "attributes", Message(&KEY_VALUE)),
        one(10, "droppedAttributesCount", Int),
        many(11, "events", Message(&EVENT)),
        one(12, "droppedEventsCount", Int),
        many(13, "links", Message(&LINK)),
        one(14, "droppedLinksCount", Int),
        one(15, "status", Message(&STATUS)),
        one(16, "flags", Fixed32),
    ],
    required: 1 << 1 | 1 << 2,
};
static EVENT: Schema = of(&[
    one(1, "timeUnixNano", Fixed64),
    one(2, "name", Text),
    many(3, "attributes", Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Int),
]);
static LINK: Schema = of(&[
    one(1, "traceId", Id(16)),
    one(2, "spanId", Id(8)),
    one(3, "traceState", Text),
    many(4, "attributes", Message(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Int),
    one(6, "flags", Fixed32),
]);
static STATUS: Schema = of(&[one(2, "message", Text), one(3, "code", Int)]);

static LOG_RECORD: Schema = of(&[
    one(1, "timeUnixNano", Fixed64),
    one(2, "severityNumber", Int),
    one(3, "severityText", Text),
    one(5, "body", Message(&ANY_VALUE)),
    many(6, "attributes", Message(&KEY_VALUE)),
    one(7, "droppedAttributesCount", Int),
    one(8, "flags", Fixed32),
    one(9, "traceId", Id(16)),
    one(10, "spanId", Id(8)),
    one(11, "observedTimeUnixNano", Fixed64),
    one(12, "eventName", Text),
]);

static METRIC: Schema = of(&[
    one(1, "name", Text),
    one(2, "description", Text),
    one(3, "unit", Text),
    one(5, "gauge", Message(&GAUGE)),
    one(7, "sum", Message(&SUM)),
    one(9, "histogram", Message(&HISTOGRAM)),
    one(10, "exponentialHistogram", Message(&EXPONENTIAL)),
    one(11, "summary", Message(&SUMMARY)),
    many(12, "metadata", Message(&KEY_VALUE)),
]);
static GAUGE: Schema = of(&[many(1, "dataPoints", Message(&NUMBER_POINT))]);
static SUM: Schema = of(&[
    many(1, "dataPoints", Message(&NUMBER_POINT)),
    one(2, "aggregationTemporality", Int),
    one(3, "isMonotonic", Bool),
]);
static HISTOGRAM: Schema = of(&[
    many(1, "dataPoints", Message(&HISTOGRAM_POINT)),
    one(2, "aggregationTemporality", Int),
]);
static EXPONENTIAL: Schema = of(&[
    many(1, "dataPoints", Message(&EXPONENTIAL_POINT)),
    one(2, "aggregationTemporality", Int),
]);
static SUMMARY: Schema = of(&[many(1, "dataPoints", Message(&SUMMARY_POINT))]);
static NUMBER_POINT: Schema = of(&[
    many(7, "attributes", Message(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "asDouble", Double),
    one(6, "asInt", Signed64),
    many(5, "exemplars", Message(&EXEMPLAR)),
    one(8, "flags", Int),
]);
static HISTOGRAM_POINT: Schema = of(&[
    many(9, "attributes", Message(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "bucketCounts", Fixed64),
    many(7, "explicitBounds", Double),
    many(8, "exemplars", Message(&EXEMPLAR)),
    one(10, "flags", Int),
    one(11, "min", Double),
    one(12, "max", Double),
]);
static EXPONENTIAL_POINT: Schema = of(&[
    many(1, "attributes", Message(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    one(6, "scale", Zigzag),
    one(7, "zeroCount", Fixed64),
    one(8, "positive", Message(&BUCKETS)),
    one(9, "negative", Message(&BUCKETS)),
    one(10, "flags", Int),
    many(11, "exemplars", Message(&EXEMPLAR)),
    one(12, "min", Double),
    one(13, "max", Double),
    one(14, "zeroThreshold", Double),
]);
static BUCKETS: Schema = of(&[one(1, "offset", Zigzag), many(2, "bucketCounts", Int)]);
static SUMMARY_POINT: Schema = of(&[
    many(7, "attributes", Message(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "quantileValues", Message(&QUANTILE)),
    one(8, "flags", Int),
]);
static QUANTILE: Schema = of(&[one(1, "quantile", Double), one(2, "value", Double)]);
static EXEMPLAR: Schema = of(&[
    many(7, "filteredAttributes", Message(&KEY_VALUE)),
    one(2, "timeUnixNano", Fixed64),
    one(3, "asDouble", Double),
    one(6, "asInt", Signed64),
    one(4, "spanId", Id(8)),
    one(5, "traceId", Id(16)),
]);
