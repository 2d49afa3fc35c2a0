//! Halves an OTLP request that a server found too large.
//!
//! Pure: decoded bytes in, two requests out, each whole in itself (resource and
//! scope are repeated, nothing else is), together with the same items in the
//! same order. Cuts fall between data points, spans or log records. The half
//! that would have no items is never made.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;

use crate::frame::Signal;

/// The most a stored body may unpack to: what OTLP/HTTP lets a request have.
/// A damaged or hostile body of 96 KiB could otherwise claim 96 MiB of memory.
const MAX_UNPACKED: u64 = 64 << 20;

/// Two encoded requests, in the order of their items.
pub type Halves = (Vec<u8>, Vec<u8>);

/// Cuts an unpacked request in the middle. `Ok(None)`: it has fewer than two items.
pub fn halve(signal: Signal, body: &[u8]) -> Result<Option<Halves>, prost::DecodeError> {
    Ok(match signal {
        Signal::Metrics => {
            let request = ExportMetricsServiceRequest::decode(body)?;
            middle(
                request.resource_metrics,
                resource_points,
                cut_resource_metrics,
            )
            .map(|(one, two)| {
                let encode = |resource_metrics| {
                    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
                };
                (encode(one), encode(two))
            })
        }
        Signal::Traces => {
            let request = ExportTraceServiceRequest::decode(body)?;
            middle(request.resource_spans, resource_spans, cut_resource_spans).map(|(one, two)| {
                let encode =
                    |resource_spans| ExportTraceServiceRequest { resource_spans }.encode_to_vec();
                (encode(one), encode(two))
            })
        }
        Signal::Logs => {
            let request = ExportLogsServiceRequest::decode(body)?;
            middle(request.resource_logs, resource_records, cut_resource_logs).map(|(one, two)| {
                let encode =
                    |resource_logs| ExportLogsServiceRequest { resource_logs }.encode_to_vec();
                (encode(one), encode(two))
            })
        }
        Signal::Message => None,
    })
}

/// Unpacks one gzip member, refusing what unpacks to more than 64 MiB.
pub fn gunzip(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len().saturating_mul(4));
    GzDecoder::new(packed)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut out)?;
    if out.len() as u64 > MAX_UNPACKED {
        return Err(io::Error::other("it unpacks to more than 64 MiB"));
    }
    Ok(out)
}

/// Packs into one gzip member.
pub fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(6));
    out.write_all(body)?;
    out.finish()
}

fn middle<T>(
    list: Vec<T>,
    count: fn(&T) -> usize,
    cut_one: fn(T, usize) -> (T, T),
) -> Option<(Vec<T>, Vec<T>)> {
    let total: usize = list.iter().map(count).sum();
    (total >= 2).then(|| cut(list, total / 2, count, cut_one))
}

/// The first `keep` items to the left, the rest to the right; at most one element is cut itself.
fn cut<T>(
    list: Vec<T>,
    keep: usize,
    count: fn(&T) -> usize,
    cut_one: fn(T, usize) -> (T, T),
) -> (Vec<T>, Vec<T>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut room = keep;
    for element in list {
        let items = count(&element);
        if room == 0 {
            right.push(element);
        } else if items <= room {
            room -= items;
            left.push(element);
        } else {
            let (one, two) = cut_one(element, room);
            room = 0;
            left.push(one);
            right.push(two);
        }
    }
    (left, right)
}

fn resource_points(resource: &ResourceMetrics) -> usize {
    resource.scope_metrics.iter().map(scope_points).sum()
}

fn scope_points(scope: &ScopeMetrics) -> usize {
    scope.metrics.iter().map(points).sum()
}

fn points(metric: &Metric) -> usize {
    match &metric.data {
        None => 0,
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
    }
}

fn cut_resource_metrics(
    mut one: ResourceMetrics,
    keep: usize,
) -> (ResourceMetrics, ResourceMetrics) {
    let scopes = std::mem::take(&mut one.scope_metrics);
    let mut two = one.clone();
    (one.scope_metrics, two.scope_metrics) = cut(scopes, keep, scope_points, cut_scope_metrics);
    (one, two)
}

fn cut_scope_metrics(mut one: ScopeMetrics, keep: usize) -> (ScopeMetrics, ScopeMetrics) {
    let metrics = std::mem::take(&mut one.metrics);
    let mut two = one.clone();
    (one.metrics, two.metrics) = cut(metrics, keep, points, cut_metric);
    (one, two)
}

fn cut_metric(mut one: Metric, keep: usize) -> (Metric, Metric) {
    /// Takes the tail of the points; everything else of the data stays on both sides.
    fn tail<T>(points: &mut Vec<T>, keep: usize) -> Vec<T> {
        points.split_off(keep.min(points.len()))
    }
    let data = one.data.take();
    let mut two = one.clone();
    (one.data, two.data) = match data {
        None => (None, None),
        Some(Data::Gauge(mut left)) => {
            let data_points = tail(&mut left.data_points, keep);
            let right = opentelemetry_proto::tonic::metrics::v1::Gauge { data_points };
            (Some(Data::Gauge(left)), Some(Data::Gauge(right)))
        }
        Some(Data::Sum(mut left)) => {
            let data_points = tail(&mut left.data_points, keep);
            let right = opentelemetry_proto::tonic::metrics::v1::Sum {
                data_points,
                ..left
            };
            (Some(Data::Sum(left)), Some(Data::Sum(right)))
        }
        Some(Data::Histogram(mut left)) => {
            let data_points = tail(&mut left.data_points, keep);
            let right = opentelemetry_proto::tonic::metrics::v1::Histogram {
                data_points,
                ..left
            };
            (Some(Data::Histogram(left)), Some(Data::Histogram(right)))
        }
        Some(Data::ExponentialHistogram(mut left)) => {
            let data_points = tail(&mut left.data_points, keep);
            let right = opentelemetry_proto::tonic::metrics::v1::ExponentialHistogram {
                data_points,
                ..left
            };
            (
                Some(Data::ExponentialHistogram(left)),
                Some(Data::ExponentialHistogram(right)),
            )
        }
        Some(Data::Summary(mut left)) => {
            let data_points = tail(&mut left.data_points, keep);
            let right = opentelemetry_proto::tonic::metrics::v1::Summary { data_points };
            (Some(Data::Summary(left)), Some(Data::Summary(right)))
        }
    };
    (one, two)
}

fn resource_spans(resource: &ResourceSpans) -> usize {
    resource
        .scope_spans
        .iter()
        .map(|scope| scope.spans.len())
        .sum()
}

fn cut_resource_spans(mut one: ResourceSpans, keep: usize) -> (ResourceSpans, ResourceSpans) {
    let scopes = std::mem::take(&mut one.scope_spans);
    let mut two = one.clone();
    (one.scope_spans, two.scope_spans) =
        cut(scopes, keep, |scope| scope.spans.len(), cut_scope_spans);
    (one, two)
}

fn cut_scope_spans(mut one: ScopeSpans, keep: usize) -> (ScopeSpans, ScopeSpans) {
    let spans = one.spans.split_off(keep.min(one.spans.len()));
    let two = ScopeSpans {
        scope: one.scope.clone(),
        spans,
        schema_url: one.schema_url.clone(),
    };
    (one, two)
}

fn resource_records(resource: &ResourceLogs) -> usize {
    resource
        .scope_logs
        .iter()
        .map(|scope| scope.log_records.len())
        .sum()
}

fn cut_resource_logs(mut one: ResourceLogs, keep: usize) -> (ResourceLogs, ResourceLogs) {
    let scopes = std::mem::take(&mut one.scope_logs);
    let mut two = one.clone();
    (one.scope_logs, two.scope_logs) = cut(
        scopes,
        keep,
        |scope| scope.log_records.len(),
        cut_scope_logs,
    );
    (one, two)
}

fn cut_scope_logs(mut one: ScopeLogs, keep: usize) -> (ScopeLogs, ScopeLogs) {
    let log_records = one.log_records.split_off(keep.min(one.log_records.len()));
    let two = ScopeLogs {
        scope: one.scope.clone(),
        log_records,
        schema_url: one.schema_url.clone(),
    };
    (one, two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::{
        AggregationTemporality, Gauge, NumberDataPoint, Sum,
    };
    use opentelemetry_proto::tonic::trace::v1::Span;

    fn point(at: u64) -> NumberDataPoint {
        NumberDataPoint {
            time_unix_nano: at,
            ..NumberDataPoint::default()
        }
    }

    fn metric(name: &str, data: Data) -> Metric {
        Metric {
            name: name.into(),
            unit: "By".into(),
            data: Some(data),
            ..Metric::default()
        }
    }

    /// Two metrics with three and five points.
    fn request() -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                schema_url: "schema".into(),
                scope_metrics: vec![ScopeMetrics {
                    metrics: vec![
                        metric(
                            "a",
                            Data::Gauge(Gauge {
                                data_points: (0..3).map(point).collect(),
                            }),
                        ),
                        metric(
                            "b",
                            Data::Sum(Sum {
                                data_points: (3..8).map(point).collect(),
                                aggregation_temporality: AggregationTemporality::Cumulative as i32,
                                is_monotonic: true,
                            }),
                        ),
                    ],
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }

    fn times(body: &[u8]) -> Vec<u64> {
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        let mut out = Vec::new();
        for resource in request.resource_metrics {
            assert_eq!(resource.schema_url, "schema");
            for metric in resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics)
            {
                let points = match metric.data.unwrap() {
                    Data::Gauge(gauge) => gauge.data_points,
                    Data::Sum(sum) => {
                        assert!(sum.is_monotonic);
                        assert_eq!(sum.aggregation_temporality, 2);
                        sum.data_points
                    }
                    _ => panic!("another kind"),
                };
                assert!(!points.is_empty());
                out.extend(points.iter().map(|point| point.time_unix_nano));
            }
        }
        out
    }

    #[test]
    fn halves_hold_the_same_points_in_the_same_order() {
        let (one, two) = halve(Signal::Metrics, &request().encode_to_vec())
            .unwrap()
            .unwrap();
        assert_eq!(times(&one), [0, 1, 2, 3]);
        assert_eq!(times(&two), [4, 5, 6, 7]);
    }

    #[test]
    fn halving_again_and_again_ends_with_single_points() {
        let mut waiting = vec![request().encode_to_vec()];
        let mut singles = Vec::new();
        while let Some(body) = waiting.pop() {
            match halve(Signal::Metrics, &body).unwrap() {
                Some((one, two)) => waiting.extend([two, one]),
                None => singles.push(times(&body)),
            }
        }
        assert_eq!(singles, (0..8).map(|at| vec![at]).collect::<Vec<_>>());
    }

    #[test]
    fn spans_of_one_scope_are_cut_between_spans() {
        let span = |name: &str| Span {
            name: name.into(),
            ..Span::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![span("x"), span("y"), span("z")],
                    schema_url: "s".into(),
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let (one, two) = halve(Signal::Traces, &request.encode_to_vec())
            .unwrap()
            .unwrap();
        let names = |body: &[u8]| -> Vec<String> {
            ExportTraceServiceRequest::decode(body)
                .unwrap()
                .resource_spans[0]
                .scope_spans[0]
                .spans
                .iter()
                .map(|span| span.name.clone())
                .collect()
        };
        assert_eq!(names(&one), ["x"]);
        assert_eq!(names(&two), ["y", "z"]);
    }

    #[test]
    fn nonsense_is_an_error_and_an_empty_request_has_no_halves() {
        assert!(halve(Signal::Metrics, &[0xff; 40]).is_err());
        assert_eq!(halve(Signal::Logs, &[]).unwrap(), None);
        assert_eq!(halve(Signal::Message, b"hello").unwrap(), None);
    }

    #[test]
    fn a_gzip_bomb_is_refused_and_so_is_a_cut_member() {
        let zeros = vec![0; (MAX_UNPACKED + 1) as usize];
        let bomb = gzip(&zeros).unwrap();
        assert!(bomb.len() < 96 * 1024);
        assert!(gunzip(&bomb).unwrap_err().to_string().contains("64 MiB"));
        let packed = gzip(b"whole").unwrap();
        assert_eq!(gunzip(&packed).unwrap(), b"whole");
        assert!(gunzip(&packed[..packed.len() - 3]).is_err());
        assert!(gunzip(b"not gzip").is_err());
    }
}
