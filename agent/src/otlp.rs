//! Sealed batches to OTLP bytes, and gzip both ways. Pure.
//!
//! A batch is written straight from the recorder's columns through one small
//! buffer into the compressor; the message itself, ten times as long as what
//! comes out, never exists as a whole. Protobuf wants lengths first, so sizes
//! are computed in a first pass (opentelemetry-proto `metrics.proto`, 1.x):
//!
//! ```text
//! ExportMetricsServiceRequest { 1: ResourceMetrics {
//!     1: Resource { 1: KeyValue… }
//!     2: ScopeMetrics { 1: Scope { 1: name, 2: version }
//!         2: Metric { 1: name, 2: description, 3: unit, 5: Gauge | 7: Sum {
//!             1: NumberDataPoint { 7: KeyValue…, 2: start, 3: time, 4: double | 6: int }
//!             Sum only: 2: temporality, 3: monotonic } } }
//!     3: schema_url } }
//! ```
//!
//! OTLP repeats attributes and times at every point, so what counts is what
//! gzip finds. Points go series by series, their fields as attributes, start,
//! time, value, so that one repeat reaches from the end of a value into the
//! time of the next point. Metrics whose series have attributes of the same
//! lengths stand side by side: network bytes, errors and drops; disk bytes and
//! operations; all that have none.
//! The times come from the recorder with zeros at the low end, see there.
//! Other orders (tick by tick, value or time first) were measured on a real
//! host: none is better by 1 %, some are worse by 8 %.
//! Descriptions stay at home, in `docs/GAUGES.md`: a metered link would pay
//! for them with every batch.

pub(crate) mod json;
pub mod rewrite;
pub(crate) mod schema;
pub(crate) mod wire;

use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::gauge::{Attribute, Descriptor, Family, Kind, Series, Value};
use crate::recorder::{Point, Sealed};

/// The conventions that the names follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
/// Bytes handed to the compressor at a time.
const CHUNK: usize = 8 * 1024;
/// `AggregationTemporality::Cumulative`
const CUMULATIVE: u64 = 2;

/// Writes batches; keeps the compressor's memory.
pub struct Encoder {
    resource: Vec<u8>,
    scope: Vec<u8>,
    deflate: Compress,
    chunk: Vec<u8>,
    out: Vec<u8>,
    crc: Crc,
}

/// Why a body could not be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpack {
    /// Not one whole gzip member.
    Damaged,
    /// Longer than the limit when unpacked.
    TooLong,
}

impl fmt::Display for Unpack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unpack::Damaged => "the gzip stream is damaged or cut short",
            Unpack::TooLong => "the gzip stream unpacks to more than is allowed",
        })
    }
}

impl std::error::Error for Unpack {}

/// Unpacks gzip to at most `limit` bytes.
pub fn gunzip(body: &[u8], limit: usize) -> Result<Vec<u8>, Unpack> {
    let room = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    let decoder = flate2::read::GzDecoder::new(body);
    decoder
        .take(room)
        .read_to_end(&mut out)
        .map_err(|_| Unpack::Damaged)?;
    if out.len() > limit {
        return Err(Unpack::TooLong);
    }
    Ok(out)
}

/// One series of one metric, ready to be written.
struct Column<P> {
    attributes: Vec<u8>,
    points: P,
}

impl Encoder {
    /// For one resource, whose attributes go with every batch.
    pub fn new(resource: &[(String, String)], scope_version: &str) -> Self {
        let mut attributes = Vec::new();
        for (key, value) in resource {
            key_value(
                &mut attributes,
                1,
                key,
                &Attribute::Text(value.clone().into()),
            );
        }
        let mut scope = Vec::new();
        string(&mut scope, 1, "sonde");
        string(&mut scope, 2, scope_version);
        Self {
            resource: attributes,
            scope,
            deflate: Compress::new(Compression::new(6), false),
            chunk: Vec::with_capacity(CHUNK + 1024),
            out: Vec::new(),
            crc: Crc::new(),
        }
    }

    /// A batch as one gzip member.
    pub fn metrics(&mut self, sealed: Sealed<'_>) -> Bytes {
        self.begin();
        encode(self, sealed);
        self.finish()
    }

    fn begin(&mut self) {
        self.deflate.reset();
        self.crc.reset();
        self.chunk.clear();
        self.out.clear();
        // RFC 1952: magic, deflate, no flags, no time, no hint, made on Unix.
        self.out
            .extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    }

    fn finish(&mut self) -> Bytes {
        self.pack(FlushCompress::Finish);
        self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        let body = Bytes::copy_from_slice(&self.out);
        // One batch that was out of the ordinary must not keep its room for ever.
        self.out.shrink_to(64 * 1024);
        body
    }

    /// Called between fields: hands a full chunk on.
    fn spill(&mut self) {
        if self.chunk.len() >= CHUNK {
            self.pack(FlushCompress::None);
        }
    }

    fn pack(&mut self, flush: FlushCompress) {
        self.crc.update(&self.chunk);
        let mut rest = self.chunk.as_slice();
        loop {
            self.out.reserve(CHUNK);
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(rest, &mut self.out, flush);
            let taken = usize::try_from(self.deflate.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            let more = match status {
                Ok(Status::Ok) => !rest.is_empty() || matches!(flush, FlushCompress::Finish),
                Ok(Status::BufError) => !rest.is_empty() || matches!(flush, FlushCompress::Finish),
                // The encoder is used in the right order, so this is the end.
                Ok(Status::StreamEnd) | Err(_) => false,
            };
            if !more {
                break;
            }
        }
        self.chunk.clear();
    }
}

/// Writes the request into the chunk, spilling as it grows: all series of one
/// gauge under one metric, each series' points in time order.
fn encode(to: &mut Encoder, sealed: Sealed<'_>) {
    let mut columns: Vec<(&Series, Column<_>)> = sealed
        .columns()
        .map(|(series, points)| {
            let mut attributes = Vec::new();
            for (key, value) in &series.attributes {
                key_value(&mut attributes, 7, key, value);
            }
            (series, Column { attributes, points })
        })
        .collect();
    columns.sort_by(|(a, one), (b, other)| {
        (&a.gauge.name, &one.attributes).cmp(&(&b.gauge.name, &other.attributes))
    });
    let mut metrics: Vec<&[(&Series, Column<_>)]> = columns
        .chunk_by(|(a, _), (b, _)| Arc::ptr_eq(&a.gauge, &b.gauge))
        .collect();
    metrics.sort_by(|a, b| attribute_lengths(a).cmp(attribute_lengths(b)));

    let sizes: Vec<(usize, usize)> = metrics.iter().map(|metric| metric_size(metric)).collect();
    let scope_metrics = field_size(to.scope.len())
        + sizes
            .iter()
            .map(|(_, metric)| field_size(*metric))
            .sum::<usize>();
    let resource_metrics =
        field_size(to.resource.len()) + field_size(scope_metrics) + field_size(SCHEMA_URL.len());

    let resource = std::mem::take(&mut to.resource);
    let scope = std::mem::take(&mut to.scope);
    head(&mut to.chunk, 1, resource_metrics);
    bytes(&mut to.chunk, 1, &resource);
    head(&mut to.chunk, 2, scope_metrics);
    bytes(&mut to.chunk, 1, &scope);
    to.resource = resource;
    to.scope = scope;
    for (metric, (data, size)) in metrics.into_iter().zip(sizes) {
        let Some((series, _)) = metric.first() else {
            continue;
        };
        let gauge = &series.gauge;
        head(&mut to.chunk, 2, size);
        string(&mut to.chunk, 1, &gauge.name);
        if let Some(description) = described(gauge) {
            string(&mut to.chunk, 2, description);
        }
        string(&mut to.chunk, 3, &gauge.unit);
        head(&mut to.chunk, data_field(gauge.kind), data);
        write_points(to, metric);
        sum_fields(&mut to.chunk, gauge.kind);
        to.spill();
    }
    string(&mut to.chunk, 3, SCHEMA_URL);
}

/// What a metric's neighbours are chosen by: points that are alike are as long.
fn attribute_lengths<P>(metric: &[(&Series, Column<P>)]) -> impl Iterator<Item = usize> {
    metric.iter().map(|(_, column)| column.attributes.len())
}

fn write_points<P: Iterator<Item = Point> + Clone>(
    to: &mut Encoder,
    metric: &[(&Series, Column<P>)],
) {
    for (_, column) in metric {
        for point in column.points.clone() {
            write_point(&mut to.chunk, &column.attributes, &point);
            to.spill();
        }
    }
}

fn write_point(out: &mut Vec<u8>, attributes: &[u8], point: &Point) {
    head(out, 1, point_size(attributes.len(), point));
    out.extend_from_slice(attributes);
    if point.start_ns != 0 {
        fixed(out, 2, point.start_ns);
    }
    fixed(out, 3, point.unix_ns);
    match point.value {
        Value::Float(value) => fixed(out, 4, value.to_bits()),
        Value::Int(value) => fixed(out, 6, value.cast_unsigned()),
    }
}

fn point_size(attributes: usize, point: &Point) -> usize {
    const FIXED: usize = 9;
    attributes + FIXED + FIXED + if point.start_ns != 0 { FIXED } else { 0 }
}

/// Length of the Gauge or Sum, and of the Metric around it.
fn metric_size<P: Iterator<Item = Point> + Clone>(
    metric: &[(&Series, Column<P>)],
) -> (usize, usize) {
    let Some((series, _)) = metric.first() else {
        return (0, 0);
    };
    let mut data = 0;
    for (_, column) in metric {
        for point in column.points.clone() {
            data += field_size(point_size(column.attributes.len(), &point));
        }
    }
    data += match series.gauge.kind {
        Kind::Gauge => 0,
        Kind::UpDownCounter => 2,
        Kind::Counter => 4,
    };
    let size = field_size(series.gauge.name.len())
        + described(&series.gauge).map_or(0, |text| field_size(text.len()))
        + field_size(series.gauge.unit.len())
        + field_size(data);
    (data, size)
}

/// Only what nobody can look up is said on the wire.
fn described(gauge: &Descriptor) -> Option<&str> {
    let unknown = gauge.family == Family::Custom && !gauge.description.is_empty();
    unknown.then_some(&*gauge.description)
}

fn data_field(kind: Kind) -> u32 {
    match kind {
        Kind::Gauge => 5,
        Kind::Counter | Kind::UpDownCounter => 7,
    }
}

fn sum_fields(out: &mut Vec<u8>, kind: Kind) {
    if kind != Kind::Gauge {
        out.push(2 << 3);
        varint(out, CUMULATIVE);
    }
    if kind == Kind::Counter {
        out.extend_from_slice(&[3 << 3, 1]);
    }
}

fn key_value(out: &mut Vec<u8>, field: u32, key: &str, value: &Attribute) {
    let mut any = Vec::new();
    match value {
        Attribute::Text(text) => string(&mut any, 1, text),
        Attribute::Int(number) => {
            any.push(3 << 3);
            varint(&mut any, number.cast_unsigned());
        }
    }
    head(out, field, field_size(key.len()) + field_size(any.len()));
    string(out, 1, key);
    bytes(out, 2, &any);
}

/// Key and length of a length-delimited field; all fields here are below 16, so keys are one byte.
fn head(out: &mut Vec<u8>, field: u32, length: usize) {
    varint(out, u64::from(field << 3 | 2));
    varint(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    head(out, field, value.len());
    out.extend_from_slice(value);
}

fn string(out: &mut Vec<u8>, field: u32, value: &str) {
    bytes(out, field, value.as_bytes());
}

fn fixed(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field << 3 | 1));
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

fn field_size(length: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(u64::try_from(length).unwrap_or(u64::MAX)) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stamp;
    use crate::gauge::readings::{found, text};
    use crate::gauge::{Registry, SeriesId, table};
    use crate::recorder::Recorder;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value;
    use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
    use prost::Message as _;
    use std::time::Duration;

    const S: u64 = 1_000_000_000;

    /// Gzipped bytes a point of the mix below, and 3 % of room.
    const BOUND: f64 = 5.2;

    fn at(tick: u64) -> Stamp {
        Stamp {
            unix_ns: 1_700_000_000 * S + tick * S,
            boot_ns: 50 * S + tick * S,
        }
    }

    fn filled(ticks: u64) -> (Recorder, [SeriesId; 3]) {
        let registry = Registry::default();
        let ids = [
            registry.series(&table::LOAD_1M, &[]).unwrap(),
            registry
                .series(
                    &table::DISK_IO,
                    &[
                        ("disk.io.direction", text("read")),
                        ("system.device", found("größe")),
                    ],
                )
                .unwrap(),
            registry
                .series(&table::DISK_IO, &[("n", Attribute::Int(-3))])
                .unwrap(),
        ];
        let mut recorder = Recorder::new(registry, Duration::from_secs(30), at(0));
        for tick in 0..ticks {
            let grows = i64::try_from(tick).unwrap();
            let mut readings = vec![
                (ids[0], Ok(Value::Float(0.25))),
                (ids[1], Ok(Value::Int(grows))),
            ];
            if tick % 2 == 0 {
                readings.push((ids[2], Ok(Value::Int(-grows))));
            }
            recorder.record(at(tick), &readings, None);
        }
        (recorder, ids)
    }

    fn decode(body: &[u8]) -> ExportMetricsServiceRequest {
        let raw = gunzip(body, 16 << 20).unwrap();
        ExportMetricsServiceRequest::decode(raw.as_slice()).unwrap()
    }

    #[test]
    fn a_gauge_of_the_config_says_what_it_is_and_counts_from_its_first_reading() {
        let registry = Registry::default();
        let [name, unit, text] = ["line.parts", "{part}", "Parts made."].map(String::from);
        let gauge = Descriptor::owned(name, unit, text, Kind::Counter, Family::Custom);
        let id = registry.owned(&gauge, Vec::new()).unwrap();
        let mut recorder = Recorder::new(registry, Duration::from_secs(30), at(0));
        for (tick, value) in [(10, 500), (11, 510), (12, 3)] {
            recorder.record(at(tick), &[(id, Ok(Value::Int(value)))], None);
        }
        let body = Encoder::new(&[], "1").metrics(recorder.sealed().unwrap());
        let request = decode(&body);
        assert_eq!(request.encoded_len(), gunzip(&body, 1 << 20).unwrap().len());
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!(
            (metric.description.as_str(), metric.unit.as_str()),
            ("Parts made.", "{part}")
        );
        let Some(Data::Sum(sum)) = &metric.data else {
            panic!("no sum");
        };
        let since: Vec<u64> = sum
            .data_points
            .iter()
            .map(|point| point.start_time_unix_nano)
            .collect();
        let begun = |tick| at(tick).unix_ns & (u64::MAX << 24);
        assert_eq!(since, [begun(10), begun(10), begun(11)]);
    }

    #[test]
    fn the_official_messages_decode_it_and_encode_to_the_same_length() {
        let (recorder, _) = filled(2000);
        let mut encoder = Encoder::new(&[("device.id".into(), "d".into())], "1.2.3");
        for _ in 0..2 {
            let body = encoder.metrics(recorder.sealed().unwrap());
            let request = decode(&body);
            assert_eq!(
                request.encoded_len(),
                gunzip(&body, 16 << 20).unwrap().len()
            );
            let resource = request.resource_metrics[0].resource.as_ref().unwrap();
            assert_eq!(resource.attributes[0].key, "device.id");
            let scope = &request.resource_metrics[0].scope_metrics[0];
            assert_eq!(scope.scope.as_ref().unwrap().version, "1.2.3");
            let metrics = &scope.metrics;
            assert_eq!(metrics.len(), 2);
            let Some(Data::Sum(sum)) = metrics
                .iter()
                .find(|m| m.name == "system.disk.io")
                .and_then(|m| m.data.clone())
            else {
                panic!("no sum");
            };
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
            // Every second value of the third series falls, which begins a new count.
            assert_eq!(sum.data_points.len(), 3000);
            let mut seen = 0;
            for point in &sum.data_points {
                // Rounded down by less than 2^24 ns.
                let tick = (point.time_unix_nano + (1 << 24) - at(0).unix_ns) / S;
                let wanted = i64::try_from(tick).unwrap();
                match point.attributes[0]
                    .value
                    .as_ref()
                    .unwrap()
                    .value
                    .as_ref()
                    .unwrap()
                {
                    any_value::Value::IntValue(-3) => {
                        assert_eq!(point.value, Some(number_data_point::Value::AsInt(-wanted)))
                    }
                    any_value::Value::StringValue(direction) => {
                        assert_eq!(direction, "read");
                        assert_eq!(point.value, Some(number_data_point::Value::AsInt(wanted)));
                        let boot = at(0).unix_ns - at(0).boot_ns;
                        assert_eq!(point.start_time_unix_nano, boot >> 24 << 24);
                        seen += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(seen, 2000);
            let Some(Data::Gauge(gauge)) = metrics
                .iter()
                .find(|m| m.name == "sonde.load.1m")
                .and_then(|m| m.data.clone())
            else {
                panic!("no gauge");
            };
            assert!(
                gauge
                    .data_points
                    .iter()
                    .all(|p| p.start_time_unix_nano == 0 && p.attributes.is_empty())
            );
        }
    }

    /// Thirty ticks of a made-up gateway: idle gauges, counters and noisy ones.
    #[test]
    fn a_batch_of_a_usual_mix_stays_within_its_bytes_a_point() {
        let registry = Registry::default();
        let mut series = Vec::new();
        for mode in ["user", "nice", "system", "idle", "iowait"] {
            let attributes = [("cpu.mode", text(mode))];
            series.push((registry.series(&table::CPU_TIME, &attributes).unwrap(), 9));
            let share = registry.series(&table::CPU_UTILIZATION, &attributes);
            series.push((share.unwrap(), 300));
        }
        for gauge in [
            &table::NETWORK_IO,
            &table::NETWORK_ERRORS,
            &table::NETWORK_DROPPED,
        ] {
            for direction in ["receive", "transmit"] {
                let attributes = [
                    ("network.interface.name", text("eth0")),
                    ("network.io.direction", text(direction)),
                ];
                let grows = if gauge.name == "system.network.io" {
                    4000
                } else {
                    1
                };
                series.push((registry.series(gauge, &attributes).unwrap(), grows));
            }
        }
        for gauge in [&table::LOAD_1M, &table::LOAD_5M, &table::MEMORY_LIMIT] {
            series.push((registry.series(gauge, &[]).unwrap(), 1));
        }
        let mut recorder = Recorder::new(registry, Duration::from_secs(30), at(0));
        let mut random = 7_u64;
        let mut totals = vec![1_000_i64; series.len()];
        for tick in 0..30 {
            let mut stamp = at(tick);
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            stamp.unix_ns += random % 3_000_000;
            let readings: Vec<_> = series
                .iter()
                .zip(&mut totals)
                .map(|((id, grows), total)| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    *total += i64::try_from((random >> 33) % grows).unwrap();
                    (*id, Ok(Value::Int(*total)))
                })
                .collect();
            recorder.record(stamp, &readings, None);
        }
        let sealed = recorder.sealed().unwrap();
        let body = Encoder::new(&[], "1").metrics(sealed);
        let each = body.len() as f64 / sealed.points() as f64;
        assert!(each < BOUND, "{each:.2} bytes a point");
    }

    #[test]
    fn halves_decode_to_the_same_points() {
        let (recorder, _) = filled(9);
        let mut encoder = Encoder::new(&[], "1");
        let (a, b) = recorder.sealed().unwrap().halved().unwrap();
        let count = |request: ExportMetricsServiceRequest| -> usize {
            request.resource_metrics[0].scope_metrics[0]
                .metrics
                .iter()
                .map(|metric| match &metric.data {
                    Some(Data::Gauge(gauge)) => gauge.data_points.len(),
                    Some(Data::Sum(sum)) => sum.data_points.len(),
                    _ => 0,
                })
                .sum()
        };
        let halves = count(decode(&encoder.metrics(a))) + count(decode(&encoder.metrics(b)));
        assert_eq!(halves, recorder.sealed().unwrap().points());
    }

    #[test]
    fn gunzip_is_bounded_and_refuses_damage() {
        let (recorder, _) = filled(100);
        let body = Encoder::new(&[], "1").metrics(recorder.sealed().unwrap());
        let raw = gunzip(&body, 1 << 20).unwrap();
        assert_eq!(gunzip(&body, raw.len()), Ok(raw.clone()));
        assert_eq!(gunzip(&body, raw.len() - 1), Err(Unpack::TooLong));
        assert_eq!(
            gunzip(&body[..body.len() - 9], 1 << 20),
            Err(Unpack::Damaged)
        );
        assert_eq!(gunzip(b"", 10), Err(Unpack::Damaged));
        let mut flipped = body.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(gunzip(&flipped, 1 << 20).is_err());
    }
}
