use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry::trace::{
    Link, Span as _, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::sync::watch;

use super::*;
use crate::clock::ClockTrust;
use crate::config::{Exporter, Sampler};
use crate::frame::{Batch, Codec, FrameId, MAX_BODY, Signal, Stamp};
use crate::spool::Refused;

/// Long enough that only what a test does flushes.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// A spool that keeps all in memory, and does as it is told.
#[derive(Clone)]
struct Shelf {
    stored: Arc<watch::Sender<Vec<Batch>>>,
    asked: Arc<watch::Sender<u32>>,
    mood: Arc<Mutex<Mood>>,
    seq: Arc<AtomicU32>,
}

#[derive(Clone, Copy)]
enum Mood {
    Willing,
    Refusing,
    Hung,
}

impl Shelf {
    fn new(mood: Mood) -> Self {
        Self {
            stored: Arc::new(watch::Sender::new(Vec::new())),
            asked: Arc::new(watch::Sender::new(0)),
            mood: Arc::new(Mutex::new(mood)),
            seq: Arc::default(),
        }
    }

    fn batches(&self) -> Vec<Batch> {
        self.stored.borrow().clone()
    }

    async fn until(&self, batches: usize) -> Vec<Batch> {
        let mut stored = self.stored.subscribe();
        stored
            .wait_for(|all| all.len() >= batches)
            .await
            .unwrap()
            .clone()
    }

    async fn asked(&self, times: u32) {
        self.asked
            .subscribe()
            .wait_for(|asked| *asked >= times)
            .await
            .unwrap();
    }

    fn spans(&self) -> Vec<Span> {
        self.batches()
            .iter()
            .filter(|batch| batch.signal == Signal::Traces)
            .flat_map(|batch| requested_spans(&batch.body))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.spans().into_iter().map(|span| span.name).collect()
    }

    fn logs(&self) -> Vec<LogRecord> {
        let batches = self.batches();
        let logs = batches.iter().filter(|batch| batch.signal == Signal::Logs);
        logs.flat_map(|batch| {
            let request = ExportLogsServiceRequest::decode(unzip(&batch.body).as_slice()).unwrap();
            let scopes = request
                .resource_logs
                .into_iter()
                .flat_map(|all| all.scope_logs);
            scopes
                .flat_map(|scope| scope.log_records)
                .collect::<Vec<_>>()
        })
        .collect()
    }
}

impl Sink for Shelf {
    async fn store(&self, batch: Batch) -> Result<FrameId, Refused> {
        self.asked.send_modify(|asked| *asked += 1);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Willing => {
                self.stored.send_modify(|all| all.push(batch));
                let seq = self.seq.fetch_add(1, Ordering::Relaxed);
                Ok(FrameId {
                    epoch: 1,
                    seq: seq.into(),
                })
            }
            Mood::Refusing => Err(Refused::Full),
            Mood::Hung => std::future::pending().await,
        }
    }
}

fn unzip(body: &Bytes) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut MultiGzDecoder::new(body.as_ref()), &mut plain).unwrap();
    plain
}

fn request(body: &Bytes) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(unzip(body).as_slice()).unwrap()
}

fn requested_spans(body: &Bytes) -> Vec<Span> {
    let scopes = request(body)
        .resource_spans
        .into_iter()
        .flat_map(|all| all.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn config(sampler: Sampler, routine_ratio: f64) -> Tracing {
    Tracing {
        sampler,
        routine_ratio,
        slow: Duration::from_secs(1),
        slow_work: Duration::from_secs(10),
        exporter: Exporter {
            otlp: true,
            console: false,
        },
    }
}

fn identity() -> Identity {
    Identity {
        device_id: "gw-7".into(),
        attributes: vec![
            ("device.id".into(), "gw-7".into()),
            ("service.name".into(), "sonde".into()),
        ],
        ..Identity::default()
    }
}

fn clock() -> Clock {
    Clock::new(ClockTrust::Always)
}

fn start(shelf: &Shelf, trace: &Tracing, every: Duration) -> Telemetry {
    Telemetry::start_into(shelf.clone(), trace, &identity(), clock(), every)
}

/// Starts with a willing spool, lets `work` happen, stops: what was stored.
async fn run(trace: &Tracing, work: impl FnOnce(&Tracer)) -> Shelf {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, trace, NEVER);
    work(&telemetry.tracer);
    telemetry.finish().await;
    shelf
}

fn parent(remote: bool, sampled: bool) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from(0x1234),
        SpanId::from(0x56),
        TraceFlags::default().with_sampled(sampled),
        remote,
        TraceState::from_key_value([("vendor", "x")]).unwrap(),
    ))
}

fn tick(tracer: &Tracer) -> opentelemetry_sdk::trace::Span {
    tracer.build_with_context(routine("tick", SpanKind::Internal), &Context::new())
}

/// Ends a span so that it took `time` by its own account.
fn end_after(mut span: opentelemetry_sdk::trace::Span, time: Duration) {
    let started = span.exported_data().unwrap().start_time;
    span.end_with_timestamp(started + time);
}

fn tracing_off_by_ratio() -> Tracing {
    config(Sampler::ParentAlwaysOn, 0.0)
}

#[tokio::test]
async fn healthy_routine_spans_at_ratio_zero_are_not_sent() {
    let shelf = run(&tracing_off_by_ratio(), |tracer| {
        for _ in 0..100 {
            end_after(tick(tracer), Duration::from_millis(999));
        }
    })
    .await;
    assert!(shelf.batches().is_empty());
}

#[tokio::test]
async fn a_slow_routine_span_is_kept_at_ratio_zero_with_the_flag_it_had() {
    let shelf = run(&tracing_off_by_ratio(), |tracer| {
        let span = tick(tracer);
        assert!(!span.span_context().is_sampled());
        end_after(span, Duration::from_millis(1001));
    })
    .await;
    let spans = shelf.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].flags & 1, 0);
}

#[tokio::test]
async fn a_failed_routine_span_is_kept_at_ratio_zero() {
    let shelf = run(&tracing_off_by_ratio(), |tracer| {
        let mut span = tick(tracer);
        span.set_status(Status::error("the sensor did not answer"));
    })
    .await;
    assert_eq!(shelf.names(), ["tick"]);
}

#[tokio::test]
async fn a_failed_child_keeps_all_of_an_unsampled_routine_trace() {
    for sampler in [Sampler::ParentAlwaysOn, Sampler::AlwaysOn] {
        let shelf = run(&config(sampler, 0.0), |tracer| {
            let context = Context::new().with_span(tick(tracer));
            tracer.start_with_context("healthy", &context).end();
            let mut failed = tracer.start_with_context("failed", &context);
            failed.set_status(Status::error("no"));
            failed.end();
        })
        .await;
        assert_eq!(shelf.names(), ["healthy", "failed", "tick"], "{sampler:?}");
    }
}

#[tokio::test]
async fn the_ratio_one_keeps_every_routine_span_and_its_children() {
    let shelf = run(&config(Sampler::ParentRatio(0.0), 1.0), |tracer| {
        let context = Context::new().with_span(tick(tracer));
        tracer.start_with_context("child", &context).end();
        let nested = routine("nested", SpanKind::Internal);
        tracer.build_with_context(nested, &context).end();
    })
    .await;
    assert_eq!(shelf.names(), ["child", "nested", "tick"]);
}

#[tokio::test]
async fn a_reload_changes_the_rules_for_the_spans_that_start_after_it() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &tracing_off_by_ratio(), NEVER);
    tick(&telemetry.tracer).end();
    end_after(tick(&telemetry.tracer), Duration::from_millis(500));
    telemetry.sampler.reconfigure(&Tracing {
        slow: Duration::from_millis(100),
        ..tracing_off_by_ratio()
    });
    end_after(tick(&telemetry.tracer), Duration::from_millis(500));
    telemetry
        .sampler
        .reconfigure(&config(Sampler::AlwaysOff, 1.0));
    assert!(!telemetry.tracer.start("work").span_context().is_sampled());
    telemetry.finish().await;
    assert_eq!(shelf.spans().len(), 1);
}

#[tokio::test]
async fn a_ratio_between_keeps_about_that_part() {
    let shelf = run(&config(Sampler::ParentAlwaysOn, 0.25), |tracer| {
        for _ in 0..400 {
            tick(tracer).end();
        }
    })
    .await;
    let kept = shelf.spans().len();
    assert!((50..150).contains(&kept), "{kept} of 400");
}

#[tokio::test]
async fn parent_based_sampling_follows_a_remote_parent_both_ways() {
    let shelf = run(&config(Sampler::ParentRatio(0.0), 0.0), |tracer| {
        let yes = tracer.start_with_context("yes", &parent(true, true));
        assert_eq!(yes.span_context().trace_id(), TraceId::from(0x1234));
        assert_eq!(yes.span_context().trace_state().header(), "vendor=x");
        tracer.start_with_context("no", &parent(true, false)).end();
        tracer.start_with_context("root", &Context::new()).end();
    })
    .await;
    assert_eq!(shelf.names(), ["yes"]);
    assert_eq!(
        shelf.spans()[0].parent_span_id,
        SpanId::from(0x56).to_bytes()
    );

    let shelf = run(&config(Sampler::ParentAlwaysOn, 0.0), |tracer| {
        tracer.start_with_context("no", &parent(true, false)).end();
        tracer.start_with_context("root", &Context::new()).end();
    })
    .await;
    assert_eq!(shelf.names(), ["root"]);
}

#[tokio::test]
async fn off_means_off_for_slow_and_failed_routine_spans_too() {
    for sampler in [Sampler::AlwaysOff, Sampler::ParentAlwaysOff] {
        let shelf = run(&config(sampler, 1.0), |tracer| {
            let mut span = tick(tracer);
            assert!(!span.is_recording());
            span.set_status(Status::error("no"));
            span.end();
            tracer.start_with_context("work", &Context::new()).end();
        })
        .await;
        assert!(shelf.batches().is_empty());
    }
}

#[tokio::test]
async fn a_stored_body_is_one_gzip_member_of_an_export_request_with_all_that_a_span_had() {
    let before = clock().now();
    let linked = SpanContext::new(
        TraceId::from(7),
        SpanId::from(8),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    let shelf = run(&config(Sampler::ParentAlwaysOn, 1.0), |tracer| {
        let builder = SpanBuilder::from_name("seal")
            .with_kind(SpanKind::Producer)
            .with_links(vec![Link::new(linked, vec![], 0)]);
        let mut span = tracer.build_with_context(builder, &Context::new());
        span.add_event("circuit opened", vec![]);
        span.set_status(Status::error("no room"));
        span.end();
    })
    .await;
    let after = clock().now();
    let batches = shelf.batches();
    let [batch] = batches.as_slice() else {
        panic!("{batches:?}")
    };
    assert_eq!(
        (batch.signal, batch.codec, batch.items),
        (Signal::Traces, Codec::Gzip, 1)
    );
    assert!(batch.context.is_none());
    for at in [batch.first, batch.last] {
        assert!(before.unix_ns <= at.unix_ns && at.unix_ns <= after.unix_ns);
        assert!(before.boot_ns <= at.boot_ns + 1_000_000 && at.boot_ns <= after.boot_ns);
    }
    let mut one = flate2::bufread::GzDecoder::new(batch.body.as_ref());
    std::io::copy(&mut one, &mut std::io::sink()).unwrap();
    assert!(one.into_inner().is_empty(), "a second member follows");

    let request = request(&batch.body);
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    let mut keys: Vec<_> = resource
        .attributes
        .iter()
        .map(|kv| kv.key.as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["device.id", "service.name"]);
    let scope = request.resource_spans[0].scope_spans[0]
        .scope
        .as_ref()
        .unwrap();
    assert_eq!(scope.name, "sonde");
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.kind, 4, "PRODUCER");
    assert_eq!(span.links[0].trace_id, TraceId::from(7).to_bytes());
    assert_eq!(span.links[0].span_id, SpanId::from(8).to_bytes());
    assert_eq!(span.events[0].name, "circuit opened");
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "no room"));
    assert!(span.start_time_unix_nano >= before.unix_ns);
    assert!(span.end_time_unix_nano <= batch.last.unix_ns);
}

#[tokio::test]
async fn what_a_full_buffer_cannot_take_is_counted_and_the_rest_delivered() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &config(Sampler::AlwaysOn, 0.0), NEVER);
    // No await in between: the flush task has no chance to make room.
    for _ in 0..buffer::CAPACITY + 88 {
        telemetry.tracer.start("work").end();
    }
    let drops = telemetry.drops();
    telemetry.finish().await;
    assert_eq!(shelf.spans().len(), buffer::CAPACITY);
    assert_eq!(drops.snapshot().get("spans.buffer_full"), Some(&88));
    assert_eq!(drops.snapshot().len(), 1);
}

#[tokio::test]
async fn half_full_does_not_wait_for_its_time() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &config(Sampler::AlwaysOn, 0.0), NEVER);
    for _ in 0..buffer::CAPACITY / 2 {
        telemetry.tracer.start("work").end();
    }
    let batches = shelf.until(1).await;
    assert_eq!(batches[0].items as usize, buffer::CAPACITY / 2);
    telemetry.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_makes_one_span_and_that_alone_makes_no_other_flush() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(
        &shelf,
        &config(Sampler::AlwaysOn, 1.0),
        Duration::from_secs(30),
    );
    telemetry.tracer.start("work").end();
    shelf.until(1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(shelf.names(), ["work"]);
    telemetry.tracer.start("more").end();
    shelf.until(2).await;
    assert_eq!(shelf.names(), ["work", "flush", "more"]);
    telemetry.finish().await;
    assert_eq!(shelf.names(), ["work", "flush", "more", "flush"]);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_halved_until_it_fits() {
    let noise = |bytes: usize| {
        let mut random = vec![0; bytes];
        getrandom::fill(&mut random).unwrap();
        let mut text = String::new();
        crate::frame::push_hex(&mut text, &random);
        text
    };
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &config(Sampler::AlwaysOn, 0.0), NEVER);
    for size in [4096; 100].into_iter().chain([2 * MAX_BODY, 10]) {
        let mut span = telemetry.tracer.start("work");
        span.set_attribute(KeyValue::new("noise", noise(size)));
    }
    let drops = telemetry.drops();
    telemetry.finish().await;
    let batches = shelf.batches();
    // 400 KB that do not compress: no fewer than five, and not one by one.
    assert!((5..=15).contains(&batches.len()), "{}", batches.len());
    assert!(batches.iter().all(|batch| batch.body.len() <= MAX_BODY));
    assert_eq!(batches.iter().map(|batch| batch.items).sum::<u32>(), 101);
    assert_eq!(shelf.spans().len(), 101);
    assert_eq!(
        drops.snapshot().into_iter().collect::<Vec<_>>(),
        [("spans.too_large".into(), 1)]
    );
}

#[tokio::test]
async fn what_the_spool_refuses_is_counted_and_the_flush_span_says_so() {
    let shelf = Shelf::new(Mood::Refusing);
    let telemetry = start(
        &shelf,
        &config(Sampler::AlwaysOn, 0.0),
        Duration::from_millis(100),
    );
    telemetry.tracer.start("lost").end();
    shelf.asked(1).await;
    *shelf.mood.lock().unwrap() = Mood::Willing;
    // The next flush carries the failed flush's span.
    telemetry.tracer.start("kept").end();
    shelf.until(1).await;
    let drops = telemetry.drops();
    telemetry.finish().await;
    assert_eq!(shelf.names(), ["flush", "kept"]);
    assert_eq!(shelf.spans()[0].status.as_ref().unwrap().code, 2);
    assert_eq!(drops.snapshot().get("spans.refused"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_hung_spool_blocks_nobody_and_stop_ends_in_time_with_everything_counted() {
    let shelf = Shelf::new(Mood::Hung);
    let telemetry = start(
        &shelf,
        &config(Sampler::AlwaysOn, 0.0),
        Duration::from_secs(1),
    );
    for _ in 0..10 {
        telemetry.tracer.start("taken").end();
    }
    telemetry.logger.emit(telemetry.logger.create_log_record());
    shelf.asked(2).await;
    for _ in 0..1000 {
        telemetry.tracer.start("waiting").end();
    }
    let drops = telemetry.drops();
    let started = tokio::time::Instant::now();
    telemetry.finish().await;
    assert!(started.elapsed() <= STOP_DEADLINE + Duration::from_millis(10));
    let lost = drops.snapshot();
    assert_eq!(lost.get("logs.stopped"), Some(&1));
    let spans = ["spans.stopped", "spans.buffer_full", "spans.timeout"];
    let spans: u64 = spans.iter().filter_map(|reason| lost.get(*reason)).sum();
    assert_eq!(spans, 1010, "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up() {
    let shelf = Shelf::new(Mood::Hung);
    let telemetry = start(
        &shelf,
        &config(Sampler::AlwaysOn, 0.0),
        Duration::from_secs(1),
    );
    telemetry.tracer.start("lost").end();
    shelf.asked(1).await;
    *shelf.mood.lock().unwrap() = Mood::Willing;
    telemetry.tracer.start("kept").end();
    shelf.until(1).await;
    assert!(shelf.names().contains(&"kept".to_owned()));
    assert_eq!(telemetry.drops().snapshot().get("spans.timeout"), Some(&1));
    telemetry.finish().await;
}

#[tokio::test]
async fn spans_that_end_after_the_stop_are_counted() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &config(Sampler::AlwaysOn, 0.0), NEVER);
    let (tracer, drops) = (telemetry.tracer.clone(), telemetry.drops());
    let late = tracer.start("late");
    telemetry.finish().await;
    drop(late);
    assert!(shelf.batches().is_empty());
    assert_eq!(drops.snapshot().get("spans.stopped"), Some(&1));
}

#[tokio::test]
async fn log_records_go_the_same_way_each_with_a_name_of_its_own_and_their_span() {
    let shelf = Shelf::new(Mood::Willing);
    let telemetry = start(&shelf, &config(Sampler::AlwaysOn, 0.0), NEVER);
    let span = telemetry.tracer.start("work");
    let context = span.span_context().clone();
    {
        let _active = Context::new().with_span(span).attach();
        for text in ["one", "two"] {
            let mut record = telemetry.logger.create_log_record();
            record.set_body(AnyValue::from(text));
            record.set_severity_number(Severity::Warn);
            record.set_target("uplink::mqtt");
            telemetry.logger.emit(record);
        }
    }
    telemetry.finish().await;
    let logs = shelf.logs();
    assert_eq!(logs.len(), 2);
    let uid = |log: &LogRecord| {
        let uid = log
            .attributes
            .iter()
            .find(|kv| kv.key == "log.record.uid")
            .unwrap();
        match uid.value.clone().unwrap().value {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(uid(&logs[0]).len(), 32);
    assert_ne!(uid(&logs[0]), uid(&logs[1]));
    for log in &logs {
        assert_eq!(log.severity_number, Severity::Warn as i32);
        assert_eq!(log.trace_id, context.trace_id().to_bytes());
        assert_eq!(log.span_id, context.span_id().to_bytes());
    }
    let batches = shelf.batches();
    let batch = batches
        .iter()
        .find(|batch| batch.signal == Signal::Logs)
        .unwrap();
    assert_eq!(batch.items, 2);
    assert!(batch.first.boot_ns <= batch.last.boot_ns && batch.first.unix_ns > 0);
}

#[test]
fn a_batch_is_cut_where_the_wall_clock_stepped() {
    let item = |unix_ns: u64, boot_ns: u64| {
        let at = Stamp { unix_ns, boot_ns };
        buffer::Item {
            first: at,
            last: at,
            data: (),
        }
    };
    let second = 1_000_000_000;
    let now = 1_800_000_000 * second;
    let items = [
        item(5 * second, 5 * second),
        item(6 * second + 900, 6 * second),
        item(now, 7 * second),
        item(now + second, 8 * second),
        item(9 * second, 9 * second),
    ];
    let sizes: Vec<_> = buffer::between_steps(&items).map(<[_]>::len).collect();
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(buffer::between_steps::<()>(&[]).count(), 0);
}

#[tokio::test]
async fn a_long_span_makes_its_batch_no_older_than_its_end() {
    let before = clock().now();
    let shelf = run(&config(Sampler::ParentAlwaysOn, 1.0), |tracer| {
        let began = std::time::UNIX_EPOCH + Duration::from_nanos(before.unix_ns)
            - Duration::from_secs(86_400);
        let builder = SpanBuilder::from_name("long").with_start_time(began);
        tracer.build_with_context(builder, &Context::new()).end();
    })
    .await;
    let batches = shelf.batches();
    let [batch] = batches.as_slice() else {
        panic!("{batches:?}")
    };
    assert!(
        batch.first.boot_ns >= before.boot_ns,
        "the loss window counts from here"
    );
    let span = &request(&batch.body).resource_spans[0].scope_spans[0].spans[0];
    assert!(span.start_time_unix_nano < before.unix_ns - 86_000 * 1_000_000_000);
}

#[test]
fn a_frames_context_is_the_spans_own() {
    let span = parent(true, true);
    let context = context_of(span.span().span_context());
    assert_eq!(
        context.traceparent(),
        "00-00000000000000000000000000001234-0000000000000056-01"
    );
    assert_eq!(&*context.state, "vendor=x");
}

#[tokio::test]
async fn finished_spans_can_be_awaited_by_name() {
    let (tracer, finished) = testing::tracer();
    let waiting = tokio::spawn({
        let finished = finished.clone();
        async move { finished.named("second").await }
    });
    tracer.start("first").end();
    tracer.start("second").end();
    assert_eq!(waiting.await.unwrap().name, "second");
    assert_eq!(finished.all().len(), 2);
}

/// A local trace of three under a remote parent or none, at ratio 0.
fn job(tracer: &Tracer, parent: &Context, fails: bool, took: Duration) {
    let root = tracer.start_with_context("run", parent);
    let context = Context::new().with_span(root);
    tracer.start_with_context("healthy", &context).end();
    let mut step = tracer.start_with_context("step", &context);
    if fails {
        step.set_status(Status::error("exit code 1"));
    }
    step.end();
    let now = Duration::from_nanos(clock().now().unix_ns);
    context
        .span()
        .end_with_timestamp(std::time::UNIX_EPOCH + now + took);
}

const SHORT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_healthy_local_trace_that_the_ratio_left_out_is_not_sent() {
    let shelf = run(&config(Sampler::ParentRatio(0.0), 0.0), |tracer| {
        job(tracer, &Context::new(), false, SHORT);
        job(tracer, &parent(true, false), false, Duration::from_secs(9));
    })
    .await;
    assert_eq!(shelf.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_local_trace_with_an_error_is_kept_whole_with_the_flag_that_went_downstream() {
    for parent in [Context::new(), parent(true, false)] {
        let shelf = run(&config(Sampler::ParentRatio(0.0), 0.0), |tracer| {
            job(tracer, &parent, true, SHORT);
        })
        .await;
        assert_eq!(shelf.names(), ["healthy", "step", "run"]);
        let spans = shelf.spans();
        let root = spans.iter().find(|span| span.name == "run").unwrap();
        for span in &spans {
            assert_eq!(span.flags & 1, 0, "as its children and peers were told");
            assert_eq!(span.trace_id, root.trace_id);
            assert!(span.name == "run" || span.parent_span_id == root.span_id);
            let kept = span.attributes.iter().find(|kv| kv.key == "sonde.kept");
            let kept = kept.unwrap().value.clone().unwrap().value.unwrap();
            assert_eq!(kept, Value::StringValue("error".into()));
        }
    }
}

#[tokio::test]
async fn a_local_trace_that_ran_too_long_is_kept_whole() {
    let shelf = run(&config(Sampler::ParentRatio(0.0), 0.0), |tracer| {
        job(tracer, &Context::new(), false, Duration::from_secs(11));
    })
    .await;
    assert_eq!(shelf.names(), ["healthy", "step", "run"]);
}

#[tokio::test]
async fn off_means_off_for_traces_with_errors_too() {
    let mut nowhere = config(Sampler::AlwaysOn, 1.0);
    nowhere.exporter = Exporter::default();
    for trace in [
        config(Sampler::AlwaysOff, 1.0),
        config(Sampler::ParentAlwaysOff, 1.0),
        nowhere,
    ] {
        let shelf = run(&trace, |tracer| {
            job(tracer, &Context::new(), true, Duration::from_secs(11));
            tick(tracer).end();
        })
        .await;
        assert_eq!(shelf.names(), Vec::<String>::new(), "{trace:?}");
    }
}

#[tokio::test]
async fn spans_for_the_console_alone_do_not_reach_the_spool() {
    let mut console = config(Sampler::AlwaysOn, 1.0);
    console.exporter = Exporter {
        otlp: false,
        console: true,
    };
    let shelf = run(&console, |tracer| tracer.start("work").end()).await;
    assert_eq!(shelf.names(), Vec::<String>::new());
}
