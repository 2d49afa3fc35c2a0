use std::sync::Mutex as StdMutex;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;

use super::keeper::Sink;
use super::pack::{Pile, Taken};
use super::*;
use crate::cli::client;
use crate::clock::ClockTrust;
use crate::door::port::PortRoutes;
use crate::frame::{Batch, MAX_BODY, Stamp};
use crate::spool::Refused;
use crate::uplink::split;

const NOW: Stamp = Stamp {
    unix_ns: 1_800_000_000_000_000_000,
    boot_ns: 5_000_000_000,
};

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Any::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}

fn span(number: u32) -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: u64::from(number + 1).to_be_bytes().to_vec(),
        name: format!("span {number}"),
        attributes: vec![text("payload", "x")],
        ..Span::default()
    }
}

fn spans_of(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", service), text("host.name", "theirs")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "lib".into(),
                    ..InstrumentationScope::default()
                }),
                spans,
                schema_url: "scope schema".into(),
            }],
            schema_url: "schema".into(),
        }],
    }
}

fn gateway() -> Gateway {
    Gateway::new(&[
        ("device.id".into(), "gw-1".into()),
        ("host.name".into(), "ours".into()),
        ("service.name".into(), "sonde".into()),
        ("telemetry.sdk.name".into(), "ours".into()),
    ])
}

fn decoded(taken: &[pack::Sealed]) -> Vec<ExportTraceServiceRequest> {
    let bodies = taken.iter().map(|sealed| {
        assert!(sealed.batch.body.len() <= MAX_BODY);
        let body = split::gunzip(&sealed.batch.body).unwrap();
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        assert_eq!(spans_in(&request).count(), sealed.batch.items as usize);
        request
    });
    bodies.collect()
}

fn spans_in(request: &ExportTraceServiceRequest) -> impl Iterator<Item = &Span> {
    let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
    scopes.flat_map(|scope| &scope.spans)
}

fn take(pile: &mut Pile, request: &ExportTraceServiceRequest) -> Taken {
    let mut taken = pile.take_in(&request.encode_to_vec(), &gateway(), NOW);
    taken.sealed.extend(pile.empty());
    taken
}

#[test]
fn the_gateways_attributes_stand_beside_the_programs_own_and_replace_none() {
    let mut pile = Pile::new(Signal::Traces);
    let request = spans_of("theirs", vec![span(0)]);
    let taken = take(&mut pile, &request);
    let out = decoded(&taken.sealed).remove(0);
    let entry = &out.resource_spans[0];
    let attributes = &entry.resource.as_ref().unwrap().attributes;
    let pairs: Vec<_> = attributes.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(pairs, ["service.name", "host.name", "device.id"]);
    assert_eq!(attributes[1], text("host.name", "theirs"));
    assert_eq!(entry.schema_url, "schema");
    assert_eq!(entry.scope_spans, request.resource_spans[0].scope_spans);

    // A program that says nothing of itself.
    let mut bare = request;
    bare.resource_spans[0].resource = None;
    let taken = take(&mut pile, &bare);
    let out = decoded(&taken.sealed).remove(0);
    let resource = out.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0], text("device.id", "gw-1"));
    assert_eq!(resource.attributes.len(), 2);
}

#[test]
fn small_requests_of_many_programs_become_one_frame_in_order() {
    let mut pile = Pile::new(Signal::Traces);
    for number in 0..50 {
        let service = format!("program {}", number % 5);
        let request = spans_of(&service, vec![span(number)]).encode_to_vec();
        let taken = pile.take_in(&request, &gateway(), NOW);
        assert_eq!((taken.items, taken.sealed.len()), (1, 0));
    }
    assert_eq!(pile.since(), Some(NOW.boot_ns));
    let sealed = pile.empty();
    let out = decoded(&sealed);
    assert_eq!(out.len(), 1);
    let names: Vec<_> = spans_in(&out[0]).map(|span| span.name.clone()).collect();
    let expected: Vec<_> = (0..50).map(|number| format!("span {number}")).collect();
    assert_eq!(names, expected);
    assert_eq!(pile.since(), None);
}

#[test]
fn a_large_request_is_cut_and_every_span_is_in_one_frame_with_its_resource() {
    let mut seed = 1_u64;
    let mut noise = |length: usize| -> String {
        let letter = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (seed >> 33) as u8 % 90)
        };
        (0..length).map(letter).collect()
    };
    let spans = (0..3000).map(|number| {
        let mut span = span(number);
        span.attributes.push(text("noise", &noise(400)));
        span
    });
    let request = spans_of("large", spans.collect());
    let taken = take(&mut Pile::new(Signal::Traces), &request);
    assert_eq!((taken.items, taken.too_large), (3000, 0));
    assert!(taken.sealed.len() > 5);
    let out = decoded(&taken.sealed);
    let got: Vec<_> = out.iter().flat_map(spans_in).cloned().collect();
    assert_eq!(got, request.resource_spans[0].scope_spans[0].spans);
    for entry in out.iter().flat_map(|request| &request.resource_spans) {
        assert_eq!(entry.resource.as_ref().unwrap().attributes.len(), 3);
        assert_eq!(entry.schema_url, "schema");
        assert_eq!(entry.scope_spans[0].scope.as_ref().unwrap().name, "lib");
    }
    assert_eq!(taken.sealed.iter().map(|s| s.own).sum::<u32>(), 3000);
}

#[test]
fn what_no_frame_can_hold_is_rejected_alone() {
    let mut seed = 9_u64;
    let noise: Vec<u8> = (0..200_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as u8
        })
        .collect();
    let mut huge = span(1);
    huge.attributes.push(KeyValue {
        key: "noise".into(),
        value: Some(AnyValue {
            value: Some(Any::BytesValue(noise)),
        }),
        ..KeyValue::default()
    });
    let request = spans_of("huge", vec![span(0), huge, span(2)]);
    let taken = take(&mut Pile::new(Signal::Traces), &request);
    assert_eq!((taken.items, taken.too_large), (3, 1));
    let out = decoded(&taken.sealed);
    let names = out.iter().flat_map(spans_in).map(|span| span.name.clone());
    assert_eq!(names.collect::<Vec<_>>(), ["span 0", "span 2"]);
}

#[test]
fn one_huge_metric_is_cut_between_its_points() {
    let point = |at: u64| NumberDataPoint {
        attributes: vec![text(
            "id",
            &format!("{:x}", at.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        )],
        time_unix_nano: at.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ..NumberDataPoint::default()
    };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![Metric {
                    name: "m".into(),
                    data: Some(Data::Gauge(Gauge {
                        data_points: (0..8000).map(point).collect(),
                    })),
                    ..Metric::default()
                }],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let mut pile = Pile::new(Signal::Metrics);
    let taken = pile.take_in(&request.encode_to_vec(), &gateway(), NOW);
    assert_eq!((taken.items, taken.too_large), (8000, 0));
    assert!(taken.sealed.len() > 1);
    let items: u32 = taken.sealed.iter().map(|sealed| sealed.batch.items).sum();
    assert_eq!(items, 8000);
}

#[test]
fn a_set_clock_and_an_empty_request_leave_no_frame_with_two_times() {
    let mut pile = Pile::new(Signal::Traces);
    let request = spans_of("a", vec![span(0)]).encode_to_vec();
    pile.take_in(&request, &gateway(), NOW);
    let later = Stamp {
        unix_ns: NOW.unix_ns + 3_600_000_000_000,
        boot_ns: NOW.boot_ns + 1,
    };
    let taken = pile.take_in(&request, &gateway(), later);
    assert_eq!(taken.sealed.len(), 1);
    assert_eq!(taken.sealed[0].own, 0);
    assert_eq!(taken.sealed[0].batch.first, NOW);
    pile.empty();
    let empty = spans_of("a", Vec::new()).encode_to_vec();
    assert_eq!(pile.take_in(&empty, &gateway(), NOW).items, 0);
    assert_eq!(pile.take_in(b"", &gateway(), NOW).items, 0);
    assert_eq!(pile.since(), None);
}

/// All fields that a request can have, in JSON as an SDK writes it.
const JSON: &str = r#"{"resourceSpans":[{"resource":{"attributes":[
 {"key":"service.name","value":{"stringValue":"json"}},
 {"key":"n","value":{"intValue":"-5"}},{"key":"m","value":{"intValue":7}},
 {"key":"d","value":{"doubleValue":"NaN"}},{"key":"e","value":{"doubleValue":1}},
 {"key":"b","value":{"boolValue":false}},{"key":"raw","value":{"bytesValue":"AAEC/w=="}},
 {"key":"l","value":{"arrayValue":{"values":[{"stringValue":""},{}]}}},
 {"key":"k","value":{"kvlistValue":{"values":[{"key":"x","value":{"stringValue":"é😀"}}]}}}],
 "droppedAttributesCount":1},
 "scopeSpans":[{"scope":{"name":"s","version":null},"newer":{"than":[1,{"this":2}]},
 "spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"",
 "name":"n","kind":2,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,
 "events":[{"timeUnixNano":"1","name":"e"}],
 "links":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b175","flags":257}],
 "status":{"code":2,"message":"bad"},"flags":1}]}],"schemaUrl":"u"}]}"#;

#[test]
fn json_becomes_the_protobuf_that_it_says() {
    let schema = schema::request(Signal::Traces).unwrap();
    let bytes = json::to_protobuf(JSON.as_bytes(), schema).unwrap();
    wire::check(&bytes, schema).unwrap();
    let request = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
    let entry = &request.resource_spans[0];
    let resource = entry.resource.as_ref().unwrap();
    let value = |at: usize| resource.attributes[at].value.clone().unwrap().value;
    assert_eq!(value(1), Some(Any::IntValue(-5)));
    assert_eq!(value(2), Some(Any::IntValue(7)));
    assert!(matches!(value(3), Some(Any::DoubleValue(nan)) if nan.is_nan()));
    assert_eq!(value(4), Some(Any::DoubleValue(1.0)));
    assert_eq!(value(5), Some(Any::BoolValue(false)));
    assert_eq!(value(6), Some(Any::BytesValue(vec![0, 1, 2, 255])));
    let list = ArrayValue {
        values: vec![
            AnyValue {
                value: Some(Any::StringValue(String::new())),
            },
            AnyValue::default(),
        ],
    };
    assert_eq!(value(7), Some(Any::ArrayValue(list)));
    assert_eq!(resource.dropped_attributes_count, 1);
    let span = &entry.scope_spans[0].spans[0];
    assert_eq!(span.trace_id[..2], [0x5b, 0x8e]);
    assert!(span.parent_span_id.is_empty());
    assert_eq!(span.start_time_unix_nano, 1_544_712_660_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_544_712_661_000_000_000);
    assert_eq!((span.kind, span.flags), (2, 1));
    assert_eq!(span.links[0].flags, 257);
    assert_eq!(span.status.as_ref().unwrap().code, 2);
    assert_eq!(entry.schema_url, "u");

    let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
     {"name":"h","histogram":{"aggregationTemporality":2,"dataPoints":[
      {"count":"3","sum":1.5,"bucketCounts":["1",2],"explicitBounds":[1,2.5],"min":0}]}},
     {"name":"x","exponentialHistogram":{"dataPoints":[
      {"count":1,"scale":-3,"positive":{"offset":-2,"bucketCounts":["4"]}}]}},
     {"name":"s","sum":{"isMonotonic":true,"dataPoints":[{"asInt":"-9"}]}}]}]}]}"#;
    let schema = schema::request(Signal::Metrics).unwrap();
    let bytes = json::to_protobuf(metrics.as_bytes(), schema).unwrap();
    wire::check(&bytes, schema).unwrap();
    let request = ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let Some(Data::Histogram(histogram)) = &metrics[0].data else {
        panic!("{metrics:?}")
    };
    assert_eq!(histogram.data_points[0].bucket_counts, [1, 2]);
    assert_eq!(histogram.data_points[0].explicit_bounds, [1.0, 2.5]);
    assert_eq!(histogram.data_points[0].min, Some(0.0));
    let Some(Data::ExponentialHistogram(exponential)) = &metrics[1].data else {
        panic!("{metrics:?}")
    };
    assert_eq!(exponential.data_points[0].scale, -3);
    let positive = exponential.data_points[0].positive.as_ref().unwrap();
    assert_eq!((positive.offset, positive.bucket_counts[0]), (-2, 4));
}

/// Without serde_json's `float_roundtrip` the last bit of some is another.
#[test]
fn a_number_in_json_keeps_its_last_bit() {
    let schema = schema::request(Signal::Metrics).unwrap();
    for number in [0.001_908_302_307_128_906_3, 0.1 + 0.2, 5e-324, f64::MAX] {
        let text = format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[
             {{"name":"g","gauge":{{"dataPoints":[{{"asDouble":{number:?}}}]}}}}]}}]}}]}}"#
        );
        let bytes = json::to_protobuf(text.as_bytes(), schema).unwrap();
        let request = ExportMetricsServiceRequest::decode(bytes.as_slice()).unwrap();
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Gauge(gauge)) = &metric.data else {
            panic!("{metric:?}")
        };
        let read = gauge.data_points[0].value;
        assert_eq!(read, Some(number_data_point::Value::AsDouble(number)));
    }
}

#[test]
fn json_that_breaks_the_rules_is_refused() {
    let schema = schema::request(Signal::Traces).unwrap();
    let span = |inner: &str| {
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{inner}}}]}}]}}]}}"#)
    };
    for wrong in [
        "",
        "[]",
        "{",
        "{} {}",
        "nonsense",
        r#"{"resourceSpans":{}}"#,
        r#"{"resourceSpans":[[]]}"#,
        r#"{"resourceSpans":[null]}"#,
        r#"{"resourceSpans":7}"#,
        &span(r#""traceId":"xyz""#),
        &span(r#""kind":"SPAN_KIND_SERVER""#),
        &span(r#""kind":1.5"#),
        &span(r#""name":5"#),
        &span(r#""name":["a"]"#),
        &span(r#""flags":-1"#),
        &span(r#""startTimeUnixNano":"-1""#),
        &span(r#""startTimeUnixNano":"1e3""#),
        &span(r#""status":[]"#),
        &"[".repeat(1_000_000),
        &r#"{"resourceSpans":["#.repeat(100_000),
    ] {
        let short: String = wrong.chars().take(80).collect();
        assert!(
            json::to_protobuf(wrong.as_bytes(), schema).is_err(),
            "{short}"
        );
    }
    let deep = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{}{}}}]}}}}]}}"#,
        r#"{"arrayValue":{"values":["#.repeat(25),
        "]}}".repeat(25),
    );
    let bytes = json::to_protobuf(deep.as_bytes(), schema).unwrap();
    wire::check(&bytes, schema).unwrap();
    let deeper = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{}{}}}]}}}}]}}"#,
        r#"{"arrayValue":{"values":["#.repeat(40),
        "]}}".repeat(40),
    );
    assert!(json::to_protobuf(deeper.as_bytes(), schema).is_err());
}

#[test]
fn what_passes_the_check_is_decoded_by_others_and_garbage_never_panics() {
    let samples = [
        (
            Signal::Traces,
            spans_of("a", (0..3).map(span).collect()).encode_to_vec(),
        ),
        (
            Signal::Traces,
            json::to_protobuf(JSON.as_bytes(), schema::request(Signal::Traces).unwrap()).unwrap(),
        ),
    ];
    let mut seed = 42_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below.max(1)
    };
    let (mut passed, mut refused) = (0, 0);
    for round in 0..60_000 {
        let (signal, sample) = &samples[round % 2];
        let mut bytes = sample.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at),
                _ => bytes.insert(at, random(256) as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let schema = schema::request(*signal).unwrap();
        let fine = wire::check(&bytes, schema).is_ok();
        if fine {
            passed += 1;
            ExportTraceServiceRequest::decode(bytes.as_slice()).expect("prost takes it too");
            let mut pile = Pile::new(*signal);
            let taken = pile.take_in(&bytes, &gateway(), NOW);
            let mut items = 0;
            for sealed in taken.sealed.iter().chain(&pile.empty()) {
                let body = split::gunzip(&sealed.batch.body).unwrap();
                wire::check(&body, schema).unwrap();
                let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
                items += spans_in(&request).count();
            }
            assert_eq!(items, taken.items as usize);
        } else {
            refused += 1;
        }
        // The other walks must not mind either.
        let _ = Pile::new(*signal).take_in(&bytes, &gateway(), NOW);
        let _ = json::to_protobuf(&bytes, schema);
    }
    assert!(passed > 1000 && refused > 1000, "{passed} {refused}");
    let logs = schema::request(Signal::Logs).unwrap();
    for length in 0..2000 {
        let noise: Vec<u8> = (0..length % 200).map(|_| random(256) as u8).collect();
        if wire::check(&noise, logs).is_ok() {
            ExportLogsServiceRequest::decode(noise.as_slice()).expect("prost takes it too");
        }
    }
}

#[test]
fn values_nested_without_end_wrong_ids_and_wrong_types_are_refused() {
    let schema = schema::request(Signal::Traces).unwrap();
    let mut value = Vec::new();
    for _ in 0..100_000 {
        let mut array = Vec::with_capacity(value.len() + 12);
        wire::bytes(&mut array, 1, &value);
        value.clear();
        wire::bytes(&mut value, 5, &array);
        if value.len() > 300_000 {
            break;
        }
    }
    let mut pair = Vec::new();
    wire::bytes(&mut pair, 2, &value);
    let mut request = Vec::new();
    for number in [1, 1, 1] {
        let inner = if request.is_empty() { &pair } else { &request };
        let mut outer = Vec::new();
        wire::bytes(&mut outer, number, inner);
        request = outer;
    }
    assert_eq!(wire::check(&request, schema), Err(wire::Malformed::TooDeep));

    let refused = |change: fn(&mut Span)| {
        let mut one = span(0);
        change(&mut one);
        wire::check(&spans_of("a", vec![one]).encode_to_vec(), schema)
    };
    let bad = Err(wire::Malformed::BadId);
    assert_eq!(refused(|_| {}), Ok(()));
    assert_eq!(refused(|span| span.trace_id.clear()), bad);
    assert_eq!(refused(|span| span.trace_id = vec![0; 16]), bad);
    assert_eq!(refused(|span| span.span_id = vec![1; 7]), bad);
    assert_eq!(refused(|span| span.parent_span_id = vec![1; 16]), bad);
}

/// A spool that takes what it is told to.
#[derive(Clone, Default)]
struct Shelf(Arc<StdMutex<(Vec<Batch>, bool)>>);

impl Sink for Shelf {
    async fn store(&self, batch: Batch) -> Result<(), Refused> {
        let mut shelf = self.0.lock().unwrap();
        if shelf.1 {
            return Err(Refused::Full);
        }
        shelf.0.push(batch);
        Ok(())
    }
}

impl Shelf {
    fn full(&self, full: bool) {
        self.0.lock().unwrap().1 = full;
    }

    fn spans(&self) -> Vec<Span> {
        let shelf = self.0.lock().unwrap();
        let bodies = shelf
            .0
            .iter()
            .map(|batch| split::gunzip(&batch.body).unwrap());
        let requests = bodies.map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        requests
            .flat_map(|request| spans_in(&request).cloned().collect::<Vec<_>>())
            .collect()
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    shelf: Shelf,
    receiver: Receiver,
    running: Running,
    door: JoinHandle<()>,
    stop: CancellationToken,
}

async fn rig(change: fn(&mut Limits)) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut limits = Limits {
        listen: None,
        allow_remote: false,
        max_request: 1 << 20,
        request_rate: 1000,
        byte_rate: 1 << 30,
    };
    change(&mut limits);
    let shelf = Shelf::default();
    let identity = Identity::default();
    let clock = Clock::new(ClockTrust::Always);
    let hour = Duration::from_secs(3600);
    let (receiver, running) = start_with(limits, hour, &identity, &clock, shelf.clone());
    let stop = CancellationToken::new();
    let door = crate::door::bind(&path, "paths.socket").await.unwrap();
    let routes = Arc::new(PortRoutes {
        receiver: receiver.clone(),
        remote: true,
    });
    let limits = crate::door::Limits::LOCAL;
    let door = tokio::spawn(crate::door::serve(door, routes, limits, stop.clone()));
    Rig {
        _dir: dir,
        path,
        shelf,
        receiver,
        running,
        door,
        stop,
    }
}

impl Rig {
    async fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> client::Reply {
        let request = client::Request {
            method: "POST",
            path: "/v1/traces",
            headers,
            body,
        };
        client::send(&self.path, &request).await.unwrap()
    }

    async fn protobuf(&self, body: &[u8]) -> client::Reply {
        self.post(&[("Content-Type", "application/x-protobuf")], body)
            .await
    }

    async fn end(self) -> Vec<Span> {
        self.stop.cancel();
        self.door.await.unwrap();
        self.running.stop().await.unwrap();
        self.shelf.spans()
    }
}

const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");

#[tokio::test]
async fn what_was_answered_is_stored_at_the_end_in_every_encoding() {
    let rig = rig(|_| {}).await;
    let body = spans_of("a", vec![span(0)]).encode_to_vec();
    let reply = rig.protobuf(&body).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"".as_slice()));
    let packed = split::gzip(&body).unwrap();
    let reply = rig
        .post(&[PROTOBUF, ("Content-Encoding", "gzip")], &packed)
        .await;
    assert_eq!(reply.status, 200);
    // Two gzip members are one body (RFC 1952, 2.2).
    let (one, two) = body.split_at(10);
    let members = [split::gzip(one).unwrap(), split::gzip(two).unwrap()].concat();
    let reply = rig
        .post(&[PROTOBUF, ("Content-Encoding", "gzip")], &members)
        .await;
    assert_eq!(reply.status, 200);
    let json = ("Content-Type", "application/json; charset=utf-8");
    let reply = rig.post(&[json], JSON.as_bytes()).await;
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (200, b"{}".as_slice())
    );
    let empty = rig.protobuf(&spans_of("a", vec![]).encode_to_vec()).await;
    assert_eq!(empty.status, 200);
    let status = rig.receiver.status();
    assert_eq!(status.signals["traces"].items, 4);
    assert_eq!(status.signals["traces"].requests, 5);
    assert_eq!(rig.end().await.len(), 4);
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_code_that_says_it_and_counted() {
    let rig = rig(|limits| limits.max_request = 200_000).await;
    let body = spans_of("a", vec![span(0)]).encode_to_vec();
    let gzip = ("Content-Encoding", "gzip");
    assert_eq!(rig.post(&[], &body).await.status, 415);
    assert_eq!(
        rig.post(&[("Content-Type", "text/plain")], &body)
            .await
            .status,
        415
    );
    assert_eq!(
        rig.post(&[PROTOBUF, ("Content-Encoding", "br")], &body)
            .await
            .status,
        415
    );
    assert_eq!(rig.protobuf(b"garbage").await.status, 400);
    assert_eq!(rig.protobuf(&body[..body.len() - 1]).await.status, 400);
    assert_eq!(rig.post(&[PROTOBUF, gzip], b"garbage").await.status, 400);
    let packed = split::gzip(&body).unwrap();
    let cut = &packed[..packed.len() - 4];
    assert_eq!(rig.post(&[PROTOBUF, gzip], cut).await.status, 400);
    let trailing = [packed.as_slice(), b"and more"].concat();
    assert_eq!(rig.post(&[PROTOBUF, gzip], &trailing).await.status, 400);
    assert_eq!(rig.protobuf(&vec![0; 200_001]).await.status, 413);
    let bomb = split::gzip(&vec![0; 50 << 20]).unwrap();
    assert!(bomb.len() < 200_000);
    let reply = rig.post(&[PROTOBUF, gzip], &bomb).await;
    assert_eq!(reply.status, 413);
    // google.rpc.Status: code 3, then the message.
    assert_eq!(reply.body[..3], [8, 3, 0x12]);
    let reply = rig
        .post(&[("Content-Type", "application/json")], b"{]")
        .await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.body.starts_with(br#"{"code":3,"message":"#),
        "{reply:?}"
    );
    let status = rig.receiver.status();
    let refused: Vec<_> = status
        .refused
        .iter()
        .map(|(k, v)| (k.as_str(), *v))
        .collect();
    assert_eq!(
        refused,
        [("malformed", 6), ("too_large", 2), ("unsupported", 3)]
    );
    assert!(rig.end().await.is_empty());
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_again() {
    let rig = rig(|limits| limits.request_rate = 1).await;
    let body = spans_of("a", vec![span(0)]).encode_to_vec();
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(rig.protobuf(&body).await.status);
    }
    assert_eq!(codes[..4], [200; 4]);
    assert_eq!(codes[5], 429);
    let refused = rig.receiver.status().refused["rate"];
    assert!(refused >= 1);
    assert_eq!(rig.end().await.len(), 6 - refused as usize);
}

#[tokio::test]
async fn a_spool_that_refuses_is_told_on_and_nothing_is_accepted_twice() {
    let rig = rig(|_| {}).await;
    let letters = |number: u32| -> String {
        let mut seed = u64::from(number) + 1;
        let letter = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (seed >> 33) as u8 % 90)
        };
        (0..3000).map(letter).collect()
    };
    let noisy = |number| {
        let mut span = span(number);
        span.attributes.push(text("noise", &letters(number)));
        span
    };
    // Fills a pile by itself: part is stored at once, part waits.
    rig.shelf.full(true);
    let large = spans_of("a", (0..200).map(noisy).collect()).encode_to_vec();
    let reply = rig.protobuf(&large).await;
    assert_eq!(reply.status, 200);
    let response = ExportTraceServiceResponse::decode(&reply.body[..]).unwrap();
    let partial = response.partial_success.unwrap();
    assert!((1..200).contains(&partial.rejected_spans), "{partial:?}");
    assert!(partial.error_message.contains("spool"));
    // From now on nothing is taken on trust: what waited goes with this one.
    let small = spans_of("a", vec![span(1000)]).encode_to_vec();
    assert_eq!(rig.protobuf(&small).await.status, 503);
    rig.shelf.full(false);
    assert_eq!(rig.protobuf(&small).await.status, 200);
    assert_eq!(rig.shelf.spans().len(), 1);
    // And on trust again.
    assert_eq!(rig.protobuf(&small).await.status, 200);
    assert_eq!(rig.shelf.spans().len(), 1);
    assert_eq!(rig.receiver.status().refused["spool_full"], 1);
    assert_eq!(rig.end().await.len(), 2);
}
