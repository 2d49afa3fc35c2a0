//! Hostile OTLP bodies on their whole way into frames; see [`crate::fuzz`].

use opentelemetry_proto::tonic::collector::{logs, metrics, trace};
use prost::Message as _;

use super::pack::{Gateway, Pile};
use super::{json, unpack, wire};
use crate::frame::{MAX_BODY, Signal, Stamp};
use crate::fuzz::{corpus, run};
use crate::otlp::{gunzip, schema};

/// The largest request, and what may come out of a frame: never more than went in.
const LIMIT: usize = 512 * 1024;

/// Spans, records or points of a request, as a collector counts them; `None`: it refuses it.
fn count(signal: Signal, body: &[u8]) -> Option<u64> {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;

    let sum = match signal {
        Signal::Traces => {
            let request = trace::v1::ExportTraceServiceRequest::decode(body).ok()?;
            let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
            scopes.map(|scope| scope.spans.len()).sum::<usize>()
        }
        Signal::Logs => {
            let request = logs::v1::ExportLogsServiceRequest::decode(body).ok()?;
            let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
            scopes.map(|scope| scope.log_records.len()).sum()
        }
        _ => {
            let request = metrics::v1::ExportMetricsServiceRequest::decode(body).ok()?;
            let scopes = request
                .resource_metrics
                .iter()
                .flat_map(|r| &r.scope_metrics);
            let all = scopes.flat_map(|scope| &scope.metrics);
            let points = all.filter_map(|metric| metric.data.as_ref());
            let points = points.map(|data| match data {
                Data::Gauge(data) => data.data_points.len(),
                Data::Sum(data) => data.data_points.len(),
                Data::Histogram(data) => data.data_points.len(),
                Data::ExponentialHistogram(data) => data.data_points.len(),
                Data::Summary(data) => data.data_points.len(),
            });
            points.sum()
        }
    };
    Some(sum as u64)
}

/// What passed the check becomes frames that a collector takes, and no item
/// disappears without being counted.
fn taken(signal: Signal, body: &[u8], gateway: &Gateway) {
    let Some(schema) = schema::request(signal) else {
        return;
    };
    if wire::check(body, schema).is_err() {
        return;
    }
    assert!(count(signal, body).is_some(), "a collector refuses it");
    let mut pile = Pile::new(signal);
    let mut taken = pile.take_in(body, gateway, Stamp::default());
    taken.sealed.extend(pile.empty());
    let mut items = u64::from(taken.too_large);
    for sealed in &taken.sealed {
        let batch = &sealed.batch;
        assert!(batch.body.len() <= MAX_BODY);
        let unpacked = gunzip(&batch.body, 2 * LIMIT).unwrap();
        let counted = count(signal, &unpacked).expect("a frame that a collector refuses");
        assert!(counted <= u64::from(batch.items), "more than was said");
        assert_eq!(sealed.own, batch.items);
        items += u64::from(sealed.own);
    }
    assert_eq!(items, u64::from(taken.items), "{signal:?}");
}

#[test]
fn receiver() {
    let attributes = [
        ("device.id", "gw-17"),
        ("host.name", "gw"),
        ("service.name", "s"),
    ];
    let gateway = Gateway::new(&attributes.map(|(key, value)| (key.into(), value.into())));
    let target = |input: &[u8]| {
        for signal in [Signal::Metrics, Signal::Traces, Signal::Logs] {
            taken(signal, input, &gateway);
            let schema = schema::request(signal).unwrap();
            if let Ok(body) = json::to_protobuf(input, schema) {
                taken(signal, &body, &gateway);
            }
        }
        if let Ok(body) = unpack(&input.to_vec().into(), LIMIT) {
            assert!(body.len() <= LIMIT);
        }
    };
    let mut inputs = corpus("otlp");
    inputs.extend(corpus("receiver"));
    run("receiver", &inputs, target);
}
