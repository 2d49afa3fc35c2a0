//! Invented deliveries in the agent's shape, for the tests of the judges.

use std::ops::RangeInclusive;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use crate::ledger::{Delivery, Ledger, Payload};
use crate::proof::{POINTS, TICK};

/// Two series and the two witnesses.
pub const POINTS_PER_TICK: u64 = 4;
/// Ticks in one delivery.
const TICKS_PER_FRAME: u64 = 3;

/// When a tick was.
pub fn time(tick: u64) -> u64 {
    1_700_000_000_000_000_000 + tick * 1_000_000_000
}

/// What an undisturbed receiver gets.
pub fn ledger(instance: &str, ticks: RangeInclusive<u64>) -> Ledger {
    let ticks: Vec<u64> = ticks.collect();
    let deliveries = ticks
        .chunks(TICKS_PER_FRAME as usize)
        .map(|ticks| delivery(frame(instance, ticks)))
        .collect();
    Ledger { deliveries }
}

/// A request as it arrives.
pub fn delivery(request: ExportMetricsServiceRequest) -> Delivery {
    Delivery {
        body_bytes: request.encoded_len(),
        payload: Payload::Metrics(request),
        target: "/v1/metrics".to_owned(),
        properties: Vec::new(),
        received_unix_ns: 0,
        decoded_unix_ns: 0,
    }
}

/// One time batch.
pub fn frame(instance: &str, ticks: &[u64]) -> ExportMetricsServiceRequest {
    let series = |name: &str, value: fn(u64) -> u64| {
        gauge(name, ticks.iter().map(|&tick| (time(tick), value(tick))))
    };
    request(
        instance,
        vec![
            series("test.load", |tick| tick % 7),
            series("test.memory", |tick| 1000 - tick),
            series(TICK, |tick| tick),
            series(POINTS, |tick| tick * POINTS_PER_TICK),
        ],
    )
}

/// A single point.
pub fn one_point(
    instance: &str,
    name: &str,
    unix_ns: u64,
    value: u64,
) -> ExportMetricsServiceRequest {
    request(instance, vec![gauge(name, [(unix_ns, value)].into_iter())])
}

/// Takes one point out of wherever it is.
pub fn drop_point(ledger: &mut Ledger, series: &str, unix_ns: u64) {
    for delivery in &mut ledger.deliveries {
        let Payload::Metrics(request) = &mut delivery.payload else {
            continue;
        };
        let metrics = request
            .resource_metrics
            .iter_mut()
            .flat_map(|resource| &mut resource.scope_metrics)
            .flat_map(|scope| &mut scope.metrics)
            .filter(|metric| metric.name == series);
        for metric in metrics {
            if let Some(Data::Gauge(gauge)) = &mut metric.data {
                gauge
                    .data_points
                    .retain(|point| point.time_unix_nano != unix_ns);
            }
        }
    }
}

fn gauge(name: &str, points: impl Iterator<Item = (u64, u64)>) -> Metric {
    let data_points = points
        .map(|(time_unix_nano, value)| NumberDataPoint {
            time_unix_nano,
            value: Some(number_data_point::Value::AsInt(value as i64)),
            ..NumberDataPoint::default()
        })
        .collect();
    Metric {
        name: name.to_owned(),
        data: Some(Data::Gauge(Gauge { data_points })),
        ..Metric::default()
    }
}

fn request(instance: &str, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let attribute = KeyValue {
        key: "service.instance.id".to_owned(),
        value: Some(AnyValue {
            value: Some(Any::StringValue(instance.to_owned())),
        }),
        ..KeyValue::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: vec![attribute],
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}
