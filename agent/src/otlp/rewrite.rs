//! Changes stored batches without making anything up. Pure.
//!
//! Thinning takes several batches of metrics and makes one that says less often
//! what they say: of a gauge's points in a step the first, the least, the
//! greatest and the last; of a cumulative sum's the last. All are points that
//! were read, with their own times. Delta sums and histograms stay whole, since
//! leaving out a part of them changes what the rest means; so do names, types
//! and attributes, which are then paid for once.
//!
//! Shifting moves all times of a batch by the same amount, for a batch that was
//! made while the wall clock was wrong.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
};
use prost::Message as _;

use crate::frame::{Codec, Signal};
use crate::spool::mutant::{Mutant, made};
use crate::spool::{Rewrite, Thinned};

/// A stored body is not unpacked beyond this, in bytes.
const LIMIT: usize = 4 << 20;

/// What the spool is given to rewrite OTLP with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewriter;

impl Rewrite for Rewriter {
    fn thin(&self, bodies: &[(Codec, Bytes)], step: Duration) -> Option<Thinned> {
        thin(bodies, step)
    }

    fn shift(
        &self,
        signal: Signal,
        codec: Codec,
        body: &Bytes,
        by_ns: i64,
    ) -> Option<(Codec, Bytes)> {
        Some((Codec::Gzip, shift(signal, codec, body, by_ns)?))
    }
}

/// The same request with every time moved by `by_ns` nanoseconds, as one gzip
/// member. A time of 0 says that there is none, and stays. `None`: it is no
/// OTLP, or cannot be read.
pub fn shift(signal: Signal, codec: Codec, body: &Bytes, by_ns: i64) -> Option<Bytes> {
    let raw = unpacked(codec, body)?;
    let moved = |time: &mut u64| {
        if *time != 0 {
            *time = time.saturating_add_signed(by_ns).max(1);
        }
    };
    match signal {
        Signal::Metrics => {
            let mut request = ExportMetricsServiceRequest::decode(raw.as_ref()).ok()?;
            let resources = request.resource_metrics.iter_mut();
            let scopes = resources.flat_map(|resource| &mut resource.scope_metrics);
            for metric in scopes.flat_map(|scope| &mut scope.metrics) {
                metric_times(metric, moved);
            }
            packed(&request.encode_to_vec())
        }
        Signal::Traces => {
            let mut request = ExportTraceServiceRequest::decode(raw.as_ref()).ok()?;
            let resources = request.resource_spans.iter_mut();
            let scopes = resources.flat_map(|resource| &mut resource.scope_spans);
            for span in scopes.flat_map(|scope| &mut scope.spans) {
                moved(&mut span.start_time_unix_nano);
                moved(&mut span.end_time_unix_nano);
                let events = span.events.iter_mut();
                events.for_each(|event| moved(&mut event.time_unix_nano));
            }
            packed(&request.encode_to_vec())
        }
        Signal::Logs => {
            let mut request = ExportLogsServiceRequest::decode(raw.as_ref()).ok()?;
            let resources = request.resource_logs.iter_mut();
            let scopes = resources.flat_map(|resource| &mut resource.scope_logs);
            for record in scopes.flat_map(|scope| &mut scope.log_records) {
                moved(&mut record.time_unix_nano);
                moved(&mut record.observed_time_unix_nano);
            }
            packed(&request.encode_to_vec())
        }
        Signal::Message => None,
    }
}

fn metric_times(metric: &mut Metric, moved: impl Fn(&mut u64)) {
    macro_rules! points {
        ($data:expr $(, $exemplars:ident)?) => {
            for point in &mut $data.data_points {
                moved(&mut point.time_unix_nano);
                moved(&mut point.start_time_unix_nano);
                $(point.$exemplars.iter_mut().for_each(|e| moved(&mut e.time_unix_nano));)?
            }
        };
    }
    match &mut metric.data {
        Some(Data::Gauge(data)) => points!(data, exemplars),
        Some(Data::Sum(data)) => points!(data, exemplars),
        Some(Data::Histogram(data)) => points!(data, exemplars),
        Some(Data::ExponentialHistogram(data)) => points!(data, exemplars),
        Some(Data::Summary(data)) => points!(data),
        None => {}
    }
}

fn unpacked(codec: Codec, body: &Bytes) -> Option<Bytes> {
    match codec {
        Codec::Identity => Some(body.clone()),
        Codec::Gzip => super::gunzip(body, LIMIT).ok().map(Bytes::from),
    }
}

fn packed(raw: &[u8]) -> Option<Bytes> {
    let mut out = GzEncoder::new(Vec::new(), Compression::new(6));
    out.write_all(raw).ok()?;
    out.finish().ok().map(Bytes::from)
}

/// Several `ExportMetricsServiceRequest`s as one gzip member that holds fewer
/// points; `None`: one of them cannot be read.
pub fn thin(bodies: &[(Codec, Bytes)], step: Duration) -> Option<Thinned> {
    let step = u64::try_from(step.as_nanos()).ok()?.max(1);
    let mut all = Vec::new();
    for (codec, body) in bodies {
        let raw = unpacked(*codec, body)?;
        let request = ExportMetricsServiceRequest::decode(raw.as_ref());
        join(&mut all, request.ok()?.resource_metrics);
    }
    let mut items = 0;
    let scopes = all.iter_mut().flat_map(|r| &mut r.scope_metrics);
    for metric in scopes.flat_map(|scope| &mut scope.metrics) {
        items += match &mut metric.data {
            Some(Data::Gauge(gauge)) => thin_points(&mut gauge.data_points, step, extremes),
            Some(Data::Sum(sum)) => {
                if sum.aggregation_temporality == AggregationTemporality::Cumulative as i32 {
                    thin_points(&mut sum.data_points, step, latest);
                }
                sum.data_points.len()
            }
            Some(Data::Histogram(data)) => data.data_points.len(),
            Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
            Some(Data::Summary(data)) => data.data_points.len(),
            None => 0,
        };
    }
    let request = ExportMetricsServiceRequest {
        resource_metrics: all,
    };
    Some(Thinned {
        codec: Codec::Gzip,
        body: packed(&request.encode_to_vec())?,
        items: u32::try_from(items).ok()?,
    })
}

/// Puts what is of one resource, scope and metric together.
fn join(all: &mut Vec<ResourceMetrics>, more: Vec<ResourceMetrics>) {
    for resource in more {
        let known = all
            .iter_mut()
            .find(|k| k.resource == resource.resource && k.schema_url == resource.schema_url);
        match known {
            Some(known) => join_scopes(&mut known.scope_metrics, resource.scope_metrics),
            None => all.push(resource),
        }
    }
}

fn join_scopes(all: &mut Vec<ScopeMetrics>, more: Vec<ScopeMetrics>) {
    for scope in more {
        let known = all
            .iter_mut()
            .find(|k| k.scope == scope.scope && k.schema_url == scope.schema_url);
        let Some(known) = known else {
            all.push(scope);
            continue;
        };
        for metric in scope.metrics {
            join_metric(&mut known.metrics, metric);
        }
    }
}

fn join_metric(all: &mut Vec<Metric>, mut metric: Metric) {
    let same = |k: &&mut Metric| {
        k.name == metric.name
            && k.unit == metric.unit
            && k.description == metric.description
            && k.metadata == metric.metadata
            && match (&k.data, &metric.data) {
                (Some(Data::Gauge(_)), Some(Data::Gauge(_))) => true,
                (Some(Data::Sum(a)), Some(Data::Sum(b))) => {
                    a.aggregation_temporality == b.aggregation_temporality
                        && a.is_monotonic == b.is_monotonic
                }
                _ => false,
            }
    };
    let known = all.iter_mut().find(same).and_then(|k| k.data.as_mut());
    match (known, &mut metric.data) {
        (Some(Data::Gauge(known)), Some(Data::Gauge(more))) => {
            known.data_points.append(&mut more.data_points);
        }
        (Some(Data::Sum(known)), Some(Data::Sum(more))) => {
            known.data_points.append(&mut more.data_points);
        }
        _ => all.push(metric),
    }
}

/// Thins series by series, step by step; returns how many are left.
fn thin_points(
    points: &mut Vec<NumberDataPoint>,
    step: u64,
    pick: fn(&[NumberDataPoint]) -> Vec<usize>,
) -> usize {
    let mut series: Vec<Vec<NumberDataPoint>> = Vec::new();
    for point in points.drain(..) {
        let same = |known: &&mut Vec<NumberDataPoint>| {
            let first = known.first();
            // A sum that began anew is another sum.
            first.is_some_and(|first| {
                first.attributes == point.attributes
                    && first.start_time_unix_nano == point.start_time_unix_nano
            })
        };
        match series.iter_mut().find(same) {
            Some(known) => known.push(point),
            None => series.push(vec![point]),
        }
    }
    for mut one in series {
        one.sort_by_key(|point| point.time_unix_nano);
        let window = |point: &NumberDataPoint| point.time_unix_nano / step;
        for part in one.chunk_by(|a, b| window(a) == window(b)) {
            let mut kept = pick(part);
            kept.sort_unstable();
            kept.dedup();
            points.extend(kept.into_iter().filter_map(|at| part.get(at).cloned()));
        }
    }
    points.len()
}

/// The first, the least, the greatest, the last.
fn extremes(points: &[NumberDataPoint]) -> Vec<usize> {
    let mut kept = vec![0, points.len().saturating_sub(1)];
    if made(Mutant::ExtremesLost) {
        return kept;
    }
    let mut least: Option<(usize, Value)> = None;
    let mut greatest = least;
    for (at, point) in points.iter().enumerate() {
        let Some(value) = point.value.filter(|value| !is_nan(value)) else {
            continue;
        };
        if least.is_none_or(|(_, known)| is_less(value, known)) {
            least = Some((at, value));
        }
        if greatest.is_none_or(|(_, known)| is_less(known, value)) {
            greatest = Some((at, value));
        }
    }
    kept.extend([least, greatest].into_iter().flatten().map(|(at, _)| at));
    kept
}

fn latest(points: &[NumberDataPoint]) -> Vec<usize> {
    vec![points.len().saturating_sub(1)]
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::AsDouble(number) if number.is_nan())
}

fn is_less(a: Value, b: Value) -> bool {
    let float = |value| match value {
        Value::AsDouble(number) => number,
        Value::AsInt(number) => number as f64,
    };
    match (a, b) {
        (Value::AsInt(a), Value::AsInt(b)) => a < b,
        (a, b) => float(a) < float(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::{Gauge, Histogram, HistogramDataPoint, Sum};

    const S: u64 = 1_000_000_000;

    fn point(seconds: u64, value: Value) -> NumberDataPoint {
        NumberDataPoint {
            time_unix_nano: seconds * S,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn body(data: Vec<Data>) -> (Codec, Bytes) {
        let metrics = data.into_iter().enumerate().map(|(n, data)| Metric {
            name: format!("m{n}"),
            data: Some(data),
            ..Metric::default()
        });
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics {
                    metrics: metrics.collect(),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        (Codec::Identity, request.encode_to_vec().into())
    }

    fn metrics(thinned: &Thinned) -> Vec<Metric> {
        let raw = crate::otlp::gunzip(&thinned.body, LIMIT).unwrap();
        let mut request = ExportMetricsServiceRequest::decode(raw.as_slice()).unwrap();
        assert_eq!(request.resource_metrics.len(), 1);
        let mut scopes = request.resource_metrics.remove(0).scope_metrics;
        assert_eq!(scopes.len(), 1);
        scopes.remove(0).metrics
    }

    fn times(points: &[NumberDataPoint]) -> Vec<u64> {
        points
            .iter()
            .map(|point| point.time_unix_nano / S)
            .collect()
    }

    fn gauge(values: &[(u64, Value)]) -> Data {
        Data::Gauge(Gauge {
            data_points: values.iter().map(|&(at, value)| point(at, value)).collect(),
        })
    }

    #[test]
    fn a_gauge_keeps_the_first_least_greatest_and_last_point_of_each_step() {
        use Value::{AsDouble, AsInt};
        let one = body(vec![gauge(&[
            (0, AsDouble(5.0)),
            (10, AsDouble(f64::NAN)),
            (20, AsInt(9)),
        ])]);
        let two = body(vec![gauge(&[
            (30, AsDouble(2.0)),
            (40, AsDouble(3.0)),
            (50, AsDouble(4.0)),
            (60, AsDouble(1.0)),
            (70, AsDouble(1.5)),
        ])]);
        let thinned = thin(&[one, two], Duration::from_secs(60)).unwrap();
        let metrics = metrics(&thinned);
        assert_eq!((metrics.len(), thinned.items), (1, 6));
        let Some(Data::Gauge(gauge)) = &metrics[0].data else {
            panic!("its type stays")
        };
        assert_eq!(times(&gauge.data_points), [0, 20, 30, 50, 60, 70]);
    }

    #[test]
    fn a_cumulative_sum_keeps_the_last_of_each_step_and_each_beginning() {
        let sum = |start: u64, times: &[u64]| {
            let data_points = times.iter().map(|&at| NumberDataPoint {
                start_time_unix_nano: start * S,
                ..point(at, Value::AsInt(1))
            });
            Data::Sum(Sum {
                data_points: data_points.collect(),
                aggregation_temporality: AggregationTemporality::Cumulative as i32,
                is_monotonic: true,
            })
        };
        let bodies = [
            body(vec![sum(0, &[10, 20, 70])]),
            body(vec![sum(75, &[80, 90])]),
        ];
        let thinned = thin(&bodies, Duration::from_secs(60)).unwrap();
        let metrics = metrics(&thinned);
        let Some(Data::Sum(sum)) = &metrics[0].data else {
            panic!("its type stays")
        };
        assert_eq!(times(&sum.data_points), [20, 70, 90]);
        assert!(sum.is_monotonic);
    }

    #[test]
    fn delta_sums_and_histograms_stay_whole() {
        let delta = Data::Sum(Sum {
            data_points: (0..5).map(|n| point(n, Value::AsInt(1))).collect(),
            aggregation_temporality: AggregationTemporality::Delta as i32,
            is_monotonic: true,
        });
        let histogram = Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint::default(); 3],
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
        });
        let both = body(vec![delta.clone(), histogram.clone()]);
        let thinned = thin(&[both.clone(), both], Duration::from_secs(60)).unwrap();
        assert_eq!(thinned.items, 16);
        let metrics = metrics(&thinned);
        assert_eq!(metrics.len(), 3);
        assert_eq!(metrics[1].data, Some(histogram.clone()));
        assert_eq!(metrics[2].data, Some(histogram));
    }

    #[test]
    fn all_times_of_a_request_move_alike_and_none_where_there_is_none() {
        use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event};
        let gauge = gauge(&[(10, Value::AsInt(1)), (20, Value::AsInt(2))]);
        let (codec, metrics_body) = body(vec![gauge]);
        let by = 1000 * S.cast_signed();
        let moved = shift(Signal::Metrics, codec, &metrics_body, by).unwrap();
        let thinned = Thinned {
            codec,
            body: moved,
            items: 2,
        };
        let Some(Data::Gauge(gauge)) = &metrics(&thinned)[0].data else {
            panic!("its type stays")
        };
        assert_eq!(times(&gauge.data_points), [1010, 1020]);
        assert_eq!(gauge.data_points[0].start_time_unix_nano, 0);

        let span = Span {
            start_time_unix_nano: 5000 * S,
            end_time_unix_nano: 5001 * S,
            events: vec![Event {
                time_unix_nano: 5000 * S,
                ..Event::default()
            }],
            ..Span::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![span],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let body = Bytes::from(request.encode_to_vec());
        let moved = shift(Signal::Traces, Codec::Identity, &body, -by).unwrap();
        let raw = crate::otlp::gunzip(&moved, LIMIT).unwrap();
        let moved = ExportTraceServiceRequest::decode(raw.as_slice()).unwrap();
        let span = &moved.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!(span.start_time_unix_nano, 4000 * S);
        assert_eq!(span.end_time_unix_nano, 4001 * S);
        assert_eq!(span.events[0].time_unix_nano, 4000 * S);
        assert!(shift(Signal::Message, Codec::Identity, &body, by).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let junk = (Codec::Gzip, Bytes::from_static(b"junk"));
        assert!(thin(&[junk], Duration::from_secs(60)).is_none());
        let junk = (Codec::Identity, Bytes::from_static(b"\xff\xff"));
        assert!(thin(&[body(vec![]), junk], Duration::from_secs(60)).is_none());
    }
}
