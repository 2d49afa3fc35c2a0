//! From what is due to a stored batch: the shell around the sampler, the
//! reader thread, the recorder and the encoder. It waits, hands each event to
//! the pure parts, and does what they say.
//!
//! A tick that the reader thread does not answer within `PATIENCE` goes on
//! without it: its families are typed [`Missing::Timeout`] until it returns,
//! and the agent's own gauges, the tick number among them, are recorded all
//! the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
    Tracer as _,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::boot::Boot;
use crate::clock::{Clock, monotonic_ns};
use crate::config::Config;
use crate::event::{self, Events};
use crate::frame::{Batch, Class, Codec, MAX_BODY, Signal, Stamp, TraceContext};
use crate::gauge::agent::{Agent, Figures};
use crate::gauge::custom::Custom;
use crate::gauge::custom::files::Files;
use crate::gauge::processes::{self, Processes, Watches};
use crate::gauge::reader::{Answer, Families, Reader, Report};
use crate::gauge::runtime::Runtime;
use crate::gauge::throttling;
use crate::gauge::{self, Family, Missing, Readings, Registry, host_sources};
use crate::identity::Identity;
use crate::otlp::Encoder;
use crate::recorder::{Recorder, Sealed};
use crate::sampler::{Action, Sampler};
use crate::sensor::Sensors;
use crate::serial::Serial;
use crate::spool::{Refused, Spool};
use crate::status::{GaugeStatus, SpoolStatus};
use crate::trace::{self, Tracer};
use crate::uplink::Roster;
use crate::vitals;
use crate::work::Work;

/// The longest that one tick waits for the reader thread. Two hung mounts
/// take a second of it once; a healthy host takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest that the end waits for the reader thread.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// The longest sleep: timers may not count a suspend, so look at the clock now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// People asking at the same time; more wait their turn.
const ASKERS: usize = 8;

/// What the pipeline is given.
pub struct PipelineDeps {
    /// Time.
    pub clock: Clock,
    /// Where batches go.
    pub spool: Spool,
    /// How long a batch may grow while nobody can send it: [`Spool::horizon`].
    pub horizon: watch::Receiver<Option<Duration>>,
    /// For spans of ticks and batches.
    pub tracer: Tracer,
    /// Read by the agent family.
    pub spool_status: watch::Receiver<SpoolStatus>,
    /// Read by the agent family.
    pub uplinks: Roster,
    /// Read by the agent family.
    pub work: Work,
    /// Read by the process family.
    pub processes: watch::Receiver<Watches>,
    /// Read by the sensor family.
    pub sensors: Sensors,
    /// Read by the serial family.
    pub serial: Serial,
    /// Told of clock steps, and read by the agent family.
    pub events: Events,
    /// The gauges that the config describes.
    pub custom: Custom,
    /// Read by the boot family.
    pub boot: Boot,
    /// Ends it: the last batch is sealed and stored.
    pub stop: CancellationToken,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    /// For asking and telling it things.
    pub handle: PipelineHandle,
    /// Ends after `stop`; any other end is a bug.
    pub task: JoinHandle<()>,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct PipelineHandle {
    orders: mpsc::Sender<Order>,
    figures: Arc<Mutex<Figures>>,
    due: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Latest(oneshot::Sender<Vec<GaugeStatus>>),
    Reload(Box<Config>),
}

impl PipelineHandle {
    /// The latest value of every series, made when asked; empty once the pipeline has ended.
    pub async fn gauges(&self) -> Vec<GaugeStatus> {
        let (reply, answer) = oneshot::channel();
        if self.orders.send(Order::Latest(reply)).await.is_err() {
            return Vec::new();
        }
        vitals::SAMPLER_ORDERS.sent(&self.orders);
        answer.await.unwrap_or_default()
    }

    /// Counts since the start.
    pub fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the sampler wants to tick next, or wanted to and has not yet
    /// (`boot_ns`); `u64::MAX`: nothing is due.
    pub fn due_ns(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    /// Takes over intervals and batch length of a new configuration.
    pub async fn reload(&self, config: &Config) {
        // An ended pipeline has nothing to reload.
        let _ = self
            .orders
            .send(Order::Reload(Box::new(config.clone())))
            .await;
    }
}

/// Starts it. Must be called within a runtime. `Err`: the reader thread could not be started.
pub fn spawn(
    config: &Config,
    identity: &Identity,
    deps: PipelineDeps,
) -> std::io::Result<Pipeline> {
    let root = &config.paths.root;
    let mut sources = host_sources(root, &deps.clock);
    sources.push(Box::new(Files::new(deps.custom.clone(), root)));
    let watches = deps.processes.clone();
    sources.push(Box::new(Processes::new(root, deps.processes)));
    sources.push(Box::new(gauge::sensor::Sensor::new(
        deps.sensors,
        &config.paths.root,
        deps.clock.clone(),
    )));
    sources.push(Box::new(gauge::serial::Serial::new(deps.serial)));
    let clock = deps.clock.clone();
    let suspended = Box::new(move || clock.suspended_ns());
    let boot = deps.boot.clone();
    sources.push(Box::new(gauge::boot::Boot::new(deps.boot, suspended)));
    let reader = Reader::with(sources, deps.clock.clone())?;
    let runtime = Runtime::new(deps.spool_status.clone(), deps.uplinks.clone());
    let agent = Agent::new(deps.spool_status, deps.uplinks)
        .with_work(deps.work)
        .with_events(deps.events.tally());
    let parts = Parts {
        reader,
        agent,
        runtime,
        custom: deps.custom,
        watches,
        boot,
        horizon: deps.horizon,
        clock: deps.clock,
        tracer: deps.tracer,
        events: deps.events,
        stop: deps.stop,
    };
    Ok(start(config, identity, parts, deps.spool))
}

struct Parts {
    reader: Reader,
    agent: Agent,
    runtime: Runtime,
    custom: Custom,
    watches: watch::Receiver<Watches>,
    boot: Boot,
    horizon: watch::Receiver<Option<Duration>>,
    clock: Clock,
    tracer: Tracer,
    events: Events,
    stop: CancellationToken,
}

fn start<S: Store + Sync>(
    config: &Config,
    identity: &Identity,
    parts: Parts,
    spool: S,
) -> Pipeline {
    let now = parts.clock.now();
    let suspended_ns = parts.clock.suspended_ns();
    let registry = Registry::default();
    let (orders, inbox) = mpsc::channel(ASKERS);
    let figures = Arc::new(Mutex::new(Figures::default()));
    // The first tick is due at once.
    let due = Arc::new(AtomicU64::new(now.boot_ns));
    let shell = Shell {
        sampler: Sampler::new(&config.gauges.families, now.boot_ns),
        recorder: Recorder::new(registry.clone(), config.batch.length, now),
        encoder: Encoder::new(&identity.attributes, env!("CARGO_PKG_VERSION")),
        agent: parts.agent,
        runtime: parts.runtime,
        custom: parts.custom,
        watches: parts.watches,
        boot: parts.boot,
        reader: parts.reader,
        outstanding: None,
        spare: None,
        registry,
        figures: Figures::default(),
        shared: figures.clone(),
        due: due.clone(),
        horizon: parts.horizon,
        clock: parts.clock,
        spool,
        tracer: parts.tracer,
        events: parts.events,
        last: now,
        suspended_ns,
    };
    Pipeline {
        handle: PipelineHandle {
            orders,
            figures,
            due,
        },
        task: vitals::SAMPLER.spawn(shell.run(inbox, parts.stop)),
    }
}

/// Where batches go: the spool, or a test's list.
trait Store: Send + 'static {
    fn store(&self, batch: Batch) -> impl Future<Output = Result<(), Refused>> + Send;
}

impl Store for Spool {
    async fn store(&self, batch: Batch) -> Result<(), Refused> {
        Spool::store(self, batch).await.map(|_| ())
    }
}

struct Shell<S> {
    sampler: Sampler,
    recorder: Recorder,
    encoder: Encoder,
    agent: Agent,
    runtime: Runtime,
    custom: Custom,
    watches: watch::Receiver<Watches>,
    boot: Boot,
    reader: Reader,
    /// A request that was not answered in time.
    outstanding: Option<oneshot::Receiver<Answer>>,
    spare: Option<Readings>,
    registry: Registry,
    figures: Figures,
    shared: Arc<Mutex<Figures>>,
    due: Arc<AtomicU64>,
    horizon: watch::Receiver<Option<Duration>>,
    clock: Clock,
    spool: S,
    tracer: Tracer,
    events: Events,
    /// When the last tick was.
    last: Stamp,
    /// How long the machine had been suspended by then.
    suspended_ns: u64,
}

impl<S: Store + Sync> Shell<S> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>, stop: CancellationToken) {
        loop {
            let now_ns = self.clock.boot_ns();
            self.recorder.hold(*self.horizon.borrow_and_update());
            if self.recorder.is_due(now_ns) {
                self.seal().await;
            }
            let wake = match self.sampler.poll(now_ns) {
                Action::Read(families) => {
                    self.tick(families).await;
                    continue;
                }
                Action::WakeAt(at) => Some(at),
                Action::Wait => None,
            };
            self.due.store(wake.unwrap_or(u64::MAX), Ordering::Relaxed);
            let wake = [wake, self.recorder.due_at()].into_iter().flatten().min();
            let sleep = wake.map_or(LONGEST_SLEEP, |at| {
                Duration::from_nanos(at.saturating_sub(now_ns)).min(LONGEST_SLEEP)
            });
            let asleep = monotonic_ns();
            tokio::select! {
                () = stop.cancelled() => break,
                // When nobody can ask any more, sampling goes on until it is stopped.
                Some(order) = inbox.recv() => {
                    vitals::SAMPLER_ORDERS.received(&inbox);
                    self.obey(order);
                }
                // An uplink came or went; a spool that has ended changes nothing.
                Ok(()) = self.horizon.changed() => {}
                () = tokio::time::sleep(sleep) => {
                    vitals::LAG.took(vitals::since(asleep).saturating_sub(sleep));
                }
            }
        }
        self.seal().await;
        if !self.reader.stop(STOP_PATIENCE).await {
            log::warn!(
                "a gauge still hangs (a dead mount or bus); the agent ends without waiting for it"
            );
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Latest(reply) => {
                // Whoever asked may be gone.
                let mut latest = self.recorder.latest(self.clock.boot_ns());
                self.custom.annotate(self.clock.boot_ns(), &mut latest);
                processes::annotate(&self.watches.borrow(), &mut latest);
                let _ = reply.send(latest);
            }
            Order::Reload(config) => {
                self.sampler
                    .reschedule(&config.gauges.families, self.clock.boot_ns());
                self.recorder.set_length(config.batch.length);
                let custom = &self.custom;
                self.recorder.forget(|series| {
                    series.gauge.family == Family::Custom && !custom.holds(series)
                        || processes::is_of_none(series, &config.processes)
                });
            }
        }
    }

    async fn tick(&mut self, families: Families) {
        let mut span = self
            .tracer
            .build(trace::routine("tick", SpanKind::Internal));
        let now = self.clock.now();
        if let Some(step) = step_s(self.last, now) {
            let span = Some(span.span_context().clone());
            self.events
                .emit_in(span, event::name::CLOCK_STEP, &[("step", step)], &[]);
        }
        self.last = now;
        let suspended_ns = self.clock.suspended_ns();
        if let Some(slept) = slept_s(self.suspended_ns, suspended_ns) {
            self.events
                .emit(event::name::RESUME, &[("suspended", slept)], &[]);
        }
        self.suspended_ns = self.suspended_ns.max(suspended_ns);
        if self.recorder.steps_at(now) {
            trace::within(span.span_context(), || {
                log::warn!("the wall clock was set; the batch before it is sealed");
            });
            self.seal().await;
        }
        let host: Families = families
            .iter()
            .filter(|family| *family != Family::Agent)
            .collect();
        let mut readings = self.read(host, now, &mut span).await;
        self.tell(&mut readings, &span);
        let powered = families.contains(Family::Throttling) || families.contains(Family::Hardware);
        if powered
            && !self.boot.is_faint()
            && let Some(by) = throttling::faint(&readings)
        {
            self.boot.faint(&by);
        }
        if families.contains(Family::Runtime) {
            self.runtime.read(now, &mut readings);
        }
        if families.contains(Family::Custom) {
            let from = readings.as_slice().len();
            if let Some(took) = self.custom.collect(now.boot_ns, &mut readings) {
                self.runtime.note(Family::Custom, took);
            }
            self.count(Family::Custom, readings.errors_from(from));
        }
        self.figures.ticks += 1;
        self.figures.overruns = self.sampler.overruns();
        self.figures.left_out = self.registry.left_out();
        // Also when the agent family itself is not due: the tick number must have no hole.
        self.figures.points = self.agent.read(&self.figures, &mut readings);
        let context = trace::context_of(span.span_context());
        let context = Some(context).filter(|_| span.span_context().is_sampled());
        self.recorder.record(now, readings.as_slice(), context);
        readings.clear();
        self.spare = Some(readings);
        span.set_attribute(KeyValue::new(
            "sonde.tick",
            i64::try_from(self.figures.ticks).unwrap_or(i64::MAX),
        ));
        span.end();
        self.sampler.finished(self.clock.boot_ns());
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.figures;
    }

    /// The host's readings; empty where the reader thread does not answer.
    async fn read(
        &mut self,
        families: Families,
        now: Stamp,
        span: &mut opentelemetry_sdk::trace::Span,
    ) -> Readings {
        if let Some(late) = &mut self.outstanding {
            match late.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.hung(families, now, span);
                    return self.buffer();
                }
                Ok(answer) => {
                    self.outstanding = None;
                    self.late(answer, span);
                }
                Err(oneshot::error::TryRecvError::Closed) => self.outstanding = None,
            }
        }
        let buffer = self.buffer();
        if families.is_empty() {
            return buffer;
        }
        let mut answer = match self.reader.ask(families, now, buffer) {
            Ok(answer) => answer,
            Err(buffer) => {
                self.hung(families, now, span);
                return buffer;
            }
        };
        // What is due meanwhile is sealed meanwhile: the loss window waits for no gauge.
        let due = self.recorder.due_at().map_or(PATIENCE, |at| {
            Duration::from_nanos(at.saturating_sub(self.clock.boot_ns())).min(PATIENCE)
        });
        let mut waited = tokio::time::timeout(due, &mut answer).await;
        if waited.is_err() && due < PATIENCE {
            self.seal().await;
            waited = tokio::time::timeout(PATIENCE - due, &mut answer).await;
        }
        match waited {
            Ok(Ok(answer)) => {
                for report in &answer.reports {
                    self.note(report, now, span);
                }
                answer.readings
            }
            Ok(Err(_)) => {
                self.hung(families, now, span);
                self.buffer()
            }
            Err(_) => {
                self.outstanding = Some(answer);
                self.hung(families, now, span);
                self.buffer()
            }
        }
    }

    /// What was read belongs to a tick that is over, and is lost: its readings
    /// were absent there. What the sources have to say beside it is not.
    fn late(&mut self, answer: Answer, span: &opentelemetry_sdk::trace::Span) {
        let mut readings = answer.readings;
        self.tell(&mut readings, span);
        for report in &answer.reports {
            self.runtime.note(report.family, report.took);
        }
        let values = readings.as_slice().iter();
        let lost = values.filter(|(_, value)| value.is_ok()).count();
        self.figures.late += u64::try_from(lost).unwrap_or(0);
        readings.clear();
        self.spare = Some(readings);
    }

    /// Hands on what happened, and since when series count.
    fn tell(&mut self, readings: &mut Readings, span: &opentelemetry_sdk::trace::Span) {
        for notice in readings.take_notices() {
            let metadata = notice.metadata.iter();
            let metadata: Vec<_> = metadata.map(|(key, text)| (*key, text.as_str())).collect();
            let span = Some(span.span_context().clone());
            self.events.emit_in(span, notice.name, &[], &metadata);
        }
        for (series, since_ns) in readings.beginnings() {
            self.recorder.begin(*series, *since_ns);
        }
    }

    fn buffer(&mut self) -> Readings {
        self.spare
            .take()
            .unwrap_or_else(|| Readings::new(self.registry.clone()))
    }

    fn note(&mut self, report: &Report, now: Stamp, span: &mut opentelemetry_sdk::trace::Span) {
        self.count(report.family, report.errors);
        self.runtime.note(report.family, report.took);
        match report.failed {
            None | Some(Missing::Unsupported) => {}
            Some(missing) => {
                self.recorder.absent(report.family, missing, now);
                let text = format!(
                    "{} could not be read: {}",
                    report.family.as_str(),
                    missing.as_str()
                );
                span.set_status(Status::error(text));
            }
        }
    }

    fn hung(&mut self, families: Families, now: Stamp, span: &mut opentelemetry_sdk::trace::Span) {
        for family in families.iter() {
            self.count(family, 1);
            self.recorder.absent(family, Missing::Timeout, now);
        }
        span.set_status(Status::error(
            "the gauge-reader thread did not answer in time",
        ));
    }

    fn count(&mut self, family: Family, errors: u64) {
        let at = Family::ALL.iter().position(|other| *other == family);
        if let Some(count) = at.and_then(|at| self.figures.errors.get_mut(at)) {
            *count += errors;
        }
    }

    /// Encodes what was recorded and hands it to the spool.
    async fn seal(&mut self) {
        let batches = match self.recorder.sealed() {
            Some(sealed) => {
                let links = self.recorder.contexts().map(link).collect();
                let mut batches = Vec::with_capacity(1);
                encode(&mut self.encoder, sealed, &self.tracer, links, &mut batches);
                batches
            }
            None => Vec::new(),
        };
        let bodies = batches.iter().map(|batch| batch.body.len()).sum();
        let points = batches
            .iter()
            .map(|batch| usize::try_from(batch.items).unwrap_or(0))
            .sum();
        self.recorder.measured(points, bodies);
        self.recorder.clear();
        for batch in batches {
            let items = u64::from(batch.items);
            let producer = batch.context.as_ref().map(span_context);
            self.figures.batches += 1;
            if let Err(refused) = self.spool.store(batch).await {
                self.figures.refused += items;
                trace::within(&producer.unwrap_or(SpanContext::NONE), || {
                    log::warn!("the spool refused a batch of {items} data points: {refused}");
                });
            }
        }
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.figures;
    }
}

/// For how many seconds the machine was suspended between two moments; a
/// difference below a tenth is what looking at two clocks takes.
fn slept_s(before_ns: u64, now_ns: u64) -> Option<f64> {
    let slept = now_ns.saturating_sub(before_ns);
    (slept >= 100_000_000).then(|| (slept / 1_000_000) as f64 / 1e3)
}

/// By how many seconds the wall clock was set between two moments, beyond a
/// second and what slewing can do (500 ppm, adjtimex(2)) with room.
fn step_s(before: Stamp, now: Stamp) -> Option<f64> {
    let wall = i128::from(now.unix_ns) - i128::from(before.unix_ns);
    let boot = i128::from(now.boot_ns) - i128::from(before.boot_ns);
    let step = wall - boot;
    (step.abs() > 1_000_000_000 + boot.abs() / 1000).then(|| step as f64 / 1e9)
}

/// One frame per batch; halves where a body comes out longer than a frame may be.
fn encode(
    encoder: &mut Encoder,
    sealed: Sealed<'_>,
    tracer: &Tracer,
    links: Vec<Link>,
    out: &mut Vec<Batch>,
) {
    let body = encoder.metrics(sealed);
    if body.len() > MAX_BODY
        && let Some((first, second)) = sealed.halved()
    {
        encode(encoder, first, tracer, links.clone(), out);
        encode(encoder, second, tracer, links, out);
        return;
    }
    let items = sealed.points();
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let builder = trace::routine("publish sonde.metrics", SpanKind::Producer).with_links(links);
    let mut span = tracer.build(builder);
    span.set_attribute(KeyValue::new("messaging.operation.name", "publish"));
    span.set_attribute(KeyValue::new("messaging.operation.type", "create"));
    span.set_attribute(KeyValue::new(
        "messaging.destination.template",
        "sonde.metrics",
    ));
    span.set_attribute(KeyValue::new(
        "messaging.message.body.size",
        whole(body.len()),
    ));
    span.set_attribute(KeyValue::new("sonde.batch.ticks", whole(sealed.ticks())));
    span.set_attribute(KeyValue::new("sonde.batch.points", whole(items)));
    let context = trace::context_of(span.span_context());
    span.end();
    let (first, last) = sealed.span();
    out.push(Batch {
        signal: Signal::Metrics,
        class: Class::Normal,
        codec: Codec::Gzip,
        items: u32::try_from(items).unwrap_or(u32::MAX),
        first,
        last,
        context: Some(context).filter(|context| context.trace_id != [0; 16]),
        body,
    });
}

fn link(context: &TraceContext) -> Link {
    Link::with_context(span_context(context))
}

fn span_context(context: &TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::new(context.flags),
        false,
        TraceState::default(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::ClockTrust;
    use crate::config::{
        Batching, Device, Durability, Gauges, Logging, Paths, Routes, Sampler as Sampling,
        SpoolLimits, Tracing,
    };
    use opentelemetry::trace::TracerProvider as _;
    use std::path::Path;

    /// A configuration for tests: every family each second, nothing to send to.
    pub(crate) fn config(root: &Path) -> Config {
        Config {
            files: Vec::new(),
            device: Device {
                service_name: "sonde".into(),
                ..Device::default()
            },
            paths: Paths {
                state: root.join("state"),
                runtime: root.join("run"),
                status_socket: root.join("run/status.sock"),
                socket: root.join("run/sonde.sock"),
                root: root.to_owned(),
            },
            clock: ClockTrust::Always,
            gauges: Gauges {
                families: Family::ALL
                    .into_iter()
                    .map(|family| (family, Duration::from_secs(1)))
                    .collect(),
            },
            batch: Batching {
                length: Duration::from_secs(30),
            },
            custom: [].into(),
            jobs: [].into(),
            processes: [].into(),
            sensors: Vec::new(),
            serial: Default::default(),
            spool: SpoolLimits {
                quota: 1 << 20,
                reserve: 0,
                memory: 1 << 20,
                loss_window: Duration::from_secs(60),
                write_budget: 0,
                durability: Durability::Window,
                outbox_in_memory: false,
            },
            receiver: crate::config::Receiver {
                listen: None,
                allow_remote: false,
                max_request: 1 << 20,
                request_rate: 100,
                byte_rate: 1 << 20,
            },
            otlp: None,
            mqtt: None,
            outbox: Default::default(),
            commands: Default::default(),
            routes: Routes {
                metrics: Vec::new(),
                traces: Vec::new(),
                logs: Vec::new(),
            },
            trace: Tracing {
                sampler: Sampling::AlwaysOn,
                routine_ratio: 1.0,
                slow: Duration::from_secs(1),
                slow_work: Duration::from_secs(10),
                exporter: crate::config::Exporter {
                    otlp: true,
                    console: false,
                },
            },
            log: Logging {
                level: log::LevelFilter::Info,
                send: log::LevelFilter::Warn,
            },
            shutdown: Duration::from_secs(5),
        }
    }

    fn tracer() -> Tracer {
        opentelemetry_sdk::trace::SdkTracerProvider::builder()
            .build()
            .tracer("test")
    }

    #[test]
    fn a_suspend_is_told_with_its_length_and_looking_at_two_clocks_is_none() {
        const S: u64 = 1_000_000_000;
        assert_eq!(slept_s(5 * S, 5 * S + 90_000_000), None);
        assert_eq!(slept_s(5 * S, 5 * S - 40_000), None);
        assert_eq!(slept_s(5 * S, 3605 * S + 400_000), Some(3600.0));
    }

    #[test]
    fn a_body_that_is_too_long_is_halved_and_every_point_is_in_one_frame() {
        let registry = Registry::default();
        let id = registry.series(&crate::gauge::table::LOAD_1M, &[]).unwrap();
        let mut recorder = Recorder::new(registry, Duration::from_secs(30), Stamp::default());
        let mut noise = 1_u64;
        for tick in 0..4000_u64 {
            let stamp = Stamp {
                unix_ns: tick * 1_234_567_891,
                boot_ns: tick * 1_234_567_891,
            };
            let readings: Vec<_> = (0..10)
                .map(|_| {
                    noise = noise
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (id, Ok(crate::gauge::Value::Int(noise.cast_signed())))
                })
                .collect();
            recorder.record(stamp, &readings, None);
        }
        let mut batches = Vec::new();
        let sealed = recorder.sealed().unwrap();
        encode(
            &mut Encoder::new(&[], "0"),
            sealed,
            &tracer(),
            Vec::new(),
            &mut batches,
        );
        assert!(batches.len() > 1 && batches.iter().all(|batch| batch.body.len() <= MAX_BODY));
        let items: u32 = batches.iter().map(|batch| batch.items).sum();
        assert_eq!(usize::try_from(items).unwrap(), sealed.points());
        assert!(
            batches
                .windows(2)
                .all(|pair| pair[0].last.boot_ns < pair[1].first.boot_ns)
        );
        assert!(batches.iter().all(|batch| batch.context.is_some()));
    }

    struct Sink(mpsc::UnboundedSender<Batch>);

    impl Store for Sink {
        async fn store(&self, batch: Batch) -> Result<(), Refused> {
            self.0.send(batch).map_err(|_| Refused::Stopped)
        }
    }

    /// Hangs at its second reading until it is let go.
    struct Hangs(u32, std::sync::mpsc::Receiver<()>);

    impl crate::gauge::Source for Hangs {
        fn family(&self) -> Family {
            Family::Load
        }

        fn read(&mut self, _: Stamp, out: &mut Readings) -> Result<(), Missing> {
            self.0 += 1;
            if self.0 > 1 {
                let _ = self.1.recv();
            }
            let id = out.series(&crate::gauge::table::LOAD_1M, &[]);
            out.put(id, Ok(crate::gauge::Value::Int(1)));
            Ok(())
        }
    }

    fn ticks_of(batches: &[Batch]) -> Vec<i64> {
        use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
        use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
        use prost::Message as _;
        let mut ticks = Vec::new();
        for batch in batches {
            let raw = crate::otlp::gunzip(&batch.body, 1 << 24).unwrap();
            let request = ExportMetricsServiceRequest::decode(raw.as_slice()).unwrap();
            let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
            let tick = metrics
                .iter()
                .find(|m| m.name == "sonde.sampler.tick")
                .unwrap();
            let Some(Data::Gauge(gauge)) = &tick.data else {
                panic!("not a gauge")
            };
            ticks.extend(gauge.data_points.iter().map(|point| match point.value {
                Some(Value::AsInt(tick)) => tick,
                _ => panic!("not whole"),
            }));
        }
        ticks
    }

    fn begin(
        root: &Path,
        reader: Reader,
        sink: Sink,
        length: Duration,
    ) -> (Pipeline, CancellationToken) {
        begin_held(root, reader, sink, length, watch::channel(None).1)
    }

    fn begin_held(
        root: &Path,
        reader: Reader,
        sink: Sink,
        length: Duration,
        horizon: watch::Receiver<Option<Duration>>,
    ) -> (Pipeline, CancellationToken) {
        let mut config = config(root);
        for every in config.gauges.families.values_mut() {
            *every = Duration::from_millis(20);
        }
        config.batch.length = length;
        let (_, spool) = watch::channel(SpoolStatus::default());
        let stop = CancellationToken::new();
        let parts = Parts {
            reader,
            runtime: Runtime::new(spool.clone(), Roster::default()),
            agent: Agent::new(spool, Roster::default()),
            custom: Custom::default(),
            watches: watch::channel(Watches::new()).1,
            boot: Boot::of_tests(),
            horizon,
            clock: Clock::new(ClockTrust::Always),
            tracer: tracer(),
            events: crate::event::testing::events().0,
            stop: stop.clone(),
        };
        (start(&config, &Identity::find(&config), parts, sink), stop)
    }

    #[tokio::test]
    async fn the_host_is_sampled_without_a_hole_and_the_last_batch_is_stored_at_the_end() {
        let reader = Reader::start(Path::new("/"), Clock::new(ClockTrust::Always)).unwrap();
        let (sink, mut stored) = mpsc::unbounded_channel();
        let (pipeline, stop) = begin(
            Path::new("/"),
            reader,
            Sink(sink),
            Duration::from_millis(200),
        );
        let mut batches = Vec::new();
        for _ in 0..2 {
            batches.push(stored.recv().await.unwrap());
        }
        let gauges = pipeline.handle.gauges().await;
        assert!(
            gauges
                .iter()
                .any(|g| g.name == "system.cpu.time" && g.value.is_some())
        );
        stop.cancel();
        pipeline.task.await.unwrap();
        while let Some(batch) = stored.recv().await {
            batches.push(batch);
        }
        let figures = pipeline.handle.figures();
        let wanted: Vec<i64> = (1..=i64::try_from(figures.ticks).unwrap()).collect();
        assert_eq!(ticks_of(&batches), wanted);
        let items: u64 = batches.iter().map(|batch| u64::from(batch.items)).sum();
        assert_eq!(items, figures.points);
        assert!(pipeline.handle.gauges().await.is_empty());
    }

    #[tokio::test]
    async fn a_batch_grows_while_nobody_can_send_it_and_is_sealed_when_somebody_can() {
        let (_open, gate) = std::sync::mpsc::channel();
        // Its first reading comes, its second hangs: what is due is sealed all the same.
        let reader = Reader::with(
            vec![Box::new(Hangs(0, gate))],
            Clock::new(ClockTrust::Always),
        )
        .unwrap();
        let (sink, mut stored) = mpsc::unbounded_channel();
        let (horizon, seen) = watch::channel(Some(Duration::from_secs(3600)));
        let length = Duration::from_millis(200);
        let (pipeline, stop) = begin_held(Path::new("/nowhere"), reader, Sink(sink), length, seen);
        while pipeline.handle.figures().ticks < 30 {
            tokio::task::yield_now().await;
        }
        assert!(stored.try_recv().is_err());
        horizon.send(None).unwrap();
        let first = stored.recv().await.unwrap();
        assert!(ticks_of(&[first]).len() >= 30);
        // A spool that has ended changes nothing.
        drop(horizon);
        stored.recv().await.unwrap();
        stop.cancel();
        pipeline.task.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_due_is_sealed_while_a_gauge_hangs() {
        let (_open, gate) = std::sync::mpsc::channel();
        let reader = Reader::with(
            vec![Box::new(Hangs(0, gate))],
            Clock::new(ClockTrust::Always),
        )
        .unwrap();
        let (sink, mut stored) = mpsc::unbounded_channel();
        let length = Duration::from_millis(200);
        let (pipeline, stop) = begin(Path::new("/nowhere"), reader, Sink(sink), length);
        let first = stored.recv().await.unwrap();
        // Not after the tick that waits, with its readings.
        assert_eq!(ticks_of(&[first]), [1]);
        stop.cancel();
        pipeline.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_hangs_is_a_timeout_and_the_ticks_go_on() {
        let (_open, gate) = std::sync::mpsc::channel();
        let reader = Reader::with(
            vec![Box::new(Hangs(0, gate))],
            Clock::new(ClockTrust::Always),
        )
        .unwrap();
        let (sink, mut stored) = mpsc::unbounded_channel();
        let (pipeline, stop) = begin(Path::new("/nowhere"), reader, Sink(sink), PATIENCE * 2);
        let batch = stored.recv().await.unwrap();
        let gauges = pipeline.handle.gauges().await;
        let load = gauges.iter().find(|g| g.name == "sonde.load.1m").unwrap();
        assert_eq!(
            (load.value, load.missing.as_deref()),
            (None, Some("timeout"))
        );
        let ticks = ticks_of(&[batch]);
        assert!(ticks.len() > 10 && ticks.iter().zip(1..).all(|(a, b)| *a == b));
        stop.cancel();
        pipeline.task.await.unwrap();
    }

    #[tokio::test]
    async fn readings_that_come_too_late_for_their_tick_are_counted() {
        let (open, gate) = std::sync::mpsc::channel();
        let reader = Reader::with(
            vec![Box::new(Hangs(0, gate))],
            Clock::new(ClockTrust::Always),
        )
        .unwrap();
        let (sink, _stored) = mpsc::unbounded_channel();
        let (pipeline, stop) = begin(Path::new("/nowhere"), reader, Sink(sink), PATIENCE * 20);
        let load = async || {
            let gauges = pipeline.handle.gauges().await;
            let load = gauges.into_iter().find(|g| g.name == "sonde.load.1m");
            load.and_then(|load| load.missing)
        };
        while load().await.as_deref() != Some("timeout") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(pipeline.handle.figures().late, 0);
        // From now on nothing hangs.
        drop(open);
        while pipeline.handle.figures().late == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while load().await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(pipeline.handle.figures().late, 1);
        let gauges = pipeline.handle.gauges().await;
        let late = gauges
            .iter()
            .find(|g| g.name == "sonde.sampler.late")
            .unwrap();
        assert_eq!(late.number(), Some(1.0));
        stop.cancel();
        pipeline.task.await.unwrap();
    }
}
