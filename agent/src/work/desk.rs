//! The desk where orders come in: who may run what, how many at once, and how
//! it went. One for the agent; every clone is the same desk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{Span as _, SpanContext};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cgroup::{Cgroups, RunGroup};
use super::job::Program;
use super::process::PATH;
use super::run::{self, Assignment};
use super::schedule::Agenda;
use super::{Ended, Job, Order, Origin, Outcome, Refusal, launch, schema, span};
use crate::clock::Clock;
use crate::event::{self, Events};
use crate::frame::{Stamp, TraceContext, push_hex};
use crate::status::{JobStatus, RunStatus};
use crate::trace::propagation::{self, Carried};
use crate::trace::{self, Tracer};

/// Runs that may be under way or waiting in all. Each holds up to two output
/// limits of memory, and the agent's own limit of tasks is not far beyond.
const MAX_RUNS: usize = 16;

/// What runs inherit from the agent's own environment, if it is there.
const INHERITED: [&str; 6] = ["HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

/// What the desk is given.
#[derive(Debug)]
pub struct Setup {
    /// Time.
    pub clock: Clock,
    /// For spans of runs.
    pub tracer: Tracer,
    /// Told of each run's start and end.
    pub events: Events,
    /// Where `/proc` and `/sys` are: `/`, but in tests.
    pub root: PathBuf,
    /// The binary that applies limits ([`launch`]); `None`: programs are
    /// started directly and have none.
    pub launcher: Option<PathBuf>,
    /// The agent's environment, for what runs inherit.
    pub environment: Vec<(String, String)>,
}

/// The jobs and their runs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Work(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    setup: Setup,
    inherited: Vec<(String, String)>,
    cells: Mutex<BTreeMap<String, Arc<Cell>>>,
    /// Where a program finds the agent's OTLP receiver.
    receiver: Mutex<Option<String>>,
    /// When scheduled jobs are due; changed by a reload, asked by the status.
    agenda: Mutex<Agenda>,
    /// `None`: nobody has needed it yet.
    cgroups: Mutex<Option<Result<Cgroups, String>>>,
    under_way: AtomicUsize,
    /// Runs whose program may be running.
    running: watch::Sender<usize>,
    stop: CancellationToken,
    /// What runs are given when the agent stops.
    stop_within: Mutex<Duration>,
    changed: watch::Sender<u64>,
}

/// One job and the places it has.
#[derive(Debug)]
struct Cell {
    job: Arc<Job>,
    turn: Arc<Semaphore>,
    tally: Arc<Mutex<Tally>>,
}

/// What is known about a job's runs.
#[derive(Debug, Default)]
struct Tally {
    admitted: usize,
    running: usize,
    outcomes: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<&'static str, u64>,
    last: Option<Last>,
    cpu: Duration,
}

#[derive(Clone, Debug)]
struct Last {
    outcome: Outcome,
    ended: Stamp,
    duration: Duration,
    cpu: Option<Duration>,
    peak_memory: Option<u64>,
    trace_id: String,
}

/// A run that may start. Its place is kept until this, or the run, is gone.
#[derive(Debug)]
pub struct Admitted {
    job: Arc<Job>,
    vector: Vec<String>,
    parent: Carried,
    origin: Origin,
    /// The context that its span will have, if others were told.
    known: Option<TraceContext>,
    seat: Seat,
}

/// A place among those that are under way.
#[derive(Debug)]
struct Seat {
    work: Work,
    cell: Arc<Cell>,
}

impl Work {
    /// A desk without jobs.
    pub fn new(setup: Setup) -> Self {
        let environment = setup.environment.iter();
        let inherited = environment.filter(|(name, _)| INHERITED.contains(&name.as_str()));
        Self(Arc::new(Shared {
            inherited: inherited.cloned().collect(),
            setup,
            cells: Mutex::default(),
            receiver: Mutex::default(),
            agenda: Mutex::default(),
            cgroups: Mutex::default(),
            under_way: AtomicUsize::new(0),
            running: watch::Sender::new(0),
            stop: CancellationToken::new(),
            stop_within: Mutex::default(),
            changed: watch::Sender::new(0),
        }))
    }

    /// Takes over the configured jobs. What runs goes on as it was; counts and
    /// times of jobs that stay are kept. `receiver`: the URL of the OTLP
    /// receiver, for programs' `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn configure(&self, jobs: &BTreeMap<String, Job>, receiver: Option<String>) {
        *lock(&self.0.receiver) = receiver;
        let mut cells = lock(&self.0.cells);
        let before = std::mem::take(&mut *cells);
        for (name, job) in jobs {
            let old = before.get(name);
            let tally = old.map(|cell| cell.tally.clone()).unwrap_or_default();
            let turn = old.filter(|cell| cell.job.concurrency == job.concurrency);
            let turn = turn.map(|cell| cell.turn.clone());
            let cell = Cell {
                turn: turn.unwrap_or_else(|| Arc::new(Semaphore::new(job.concurrency.at_once()))),
                job: Arc::new(job.clone()),
                tally,
            };
            cells.insert(name.clone(), Arc::new(cell));
        }
        drop(cells);
        let scheduled = jobs
            .iter()
            .filter_map(|(name, job)| Some((name.clone(), job.schedule?)));
        lock(&self.0.agenda).set(scheduled, self.0.setup.clock.boot_ns(), random);
        self.0.changed.send_modify(|changes| *changes += 1);
    }

    /// The job of a name.
    pub fn job(&self, name: &str) -> Option<Arc<Job>> {
        lock(&self.0.cells).get(name).map(|cell| cell.job.clone())
    }

    /// Decides about an order; nothing runs yet.
    ///
    /// # Errors
    /// Why it will not run.
    pub fn admit(&self, order: Order) -> Result<Admitted, Refusal> {
        let Some(cell) = lock(&self.0.cells).get(&order.job).cloned() else {
            return Err(Refusal::Unknown);
        };
        let admitted = self.seat(&cell, order);
        if let Err(refusal) = &admitted {
            let mut tally = lock(&cell.tally);
            *tally.refusals.entry(refusal.as_str()).or_default() += 1;
        }
        admitted
    }

    fn seat(&self, cell: &Arc<Cell>, order: Order) -> Result<Admitted, Refusal> {
        let job = &cell.job;
        if order.origin == Origin::Command && !job.remote {
            return Err(Refusal::NotRemote);
        }
        if self.0.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let vector = schema::argument_vector(job, &order.arguments).map_err(Refusal::Arguments)?;
        let mut tally = lock(&cell.tally);
        if tally.admitted >= job.concurrency.at_once() + job.concurrency.may_wait() {
            return Err(Refusal::Busy);
        }
        if self.0.under_way.load(Ordering::Relaxed) >= MAX_RUNS {
            return Err(Refusal::Full);
        }
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        tally.admitted += 1;
        Ok(Admitted {
            job: job.clone(),
            vector: run::vector(job, vector),
            parent: order.parent,
            origin: order.origin,
            known: None,
            seat: Seat {
                work: self.clone(),
                cell: cell.clone(),
            },
        })
    }

    /// Takes no more orders, ends what runs, and waits for it. `false`: some
    /// run had not ended within the budget.
    pub async fn stop(&self, budget: Duration) -> bool {
        // The rest is for their spans.
        *lock(&self.0.stop_within) = budget * 3 / 4;
        self.0.stop.cancel();
        let mut running = self.0.running.subscribe();
        let none = running.wait_for(|running| *running == 0);
        timeout(budget, none).await.is_ok()
    }

    /// What the status shows, in the order of the names.
    pub fn status(&self, now: Stamp) -> Vec<JobStatus> {
        let cells: Vec<Arc<Cell>> = lock(&self.0.cells).values().cloned().collect();
        let isolation = match &*lock(&self.0.cgroups) {
            Some(Ok(_)) => "cgroup".to_owned(),
            Some(Err(why)) => format!("process group: {why}"),
            None => String::new(),
        };
        let mut all = Vec::with_capacity(cells.len());
        for cell in cells {
            let due = lock(&self.0.agenda).due_of(&cell.job.name);
            let tally = lock(&cell.tally);
            let seconds = |ns: u64| ns as f64 / 1e9;
            all.push(JobStatus {
                name: cell.job.name.clone(),
                remote: cell.job.remote,
                every_s: cell
                    .job
                    .schedule
                    .map(|schedule| schedule.every.as_secs_f64()),
                next_run_s: due.map(|due| seconds(due.saturating_sub(now.boot_ns))),
                running: tally.running as u64,
                waiting: tally.admitted.saturating_sub(tally.running) as u64,
                runs: named(&tally.outcomes),
                refused: named(&tally.refusals),
                cpu_s: tally.cpu.as_secs_f64(),
                isolation: isolation.clone(),
                last: tally.last.as_ref().map(|last| last.status(now)),
            });
        }
        all
    }

    pub(super) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        lock(&self.0.agenda)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.setup.clock
    }

    pub(super) fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// A cgroup for one run; `None`: there is none to be had. What its limits
    /// lack then is said in the log, each time the run would have had them.
    fn cgroup(&self, job: &Job, mark: &str) -> Option<RunGroup> {
        self.0.setup.launcher.as_ref()?;
        let mut cgroups = lock(&self.0.cgroups);
        let root = &self.0.setup.root;
        let cgroups = cgroups.get_or_insert_with(|| Cgroups::prepare(root));
        let made = match cgroups {
            Ok(cgroups) => cgroups.make(&format!("run-{mark}"), &job.limits),
            Err(why) => Err(why.clone()),
        };
        let (group, missed) = match made {
            Ok((group, missed)) => (Some(group), missed),
            Err(why) if job.limits.need_cgroup() => (None, vec![why]),
            Err(_) => (None, vec![]),
        };
        for why in missed {
            log::warn!("job {} runs without a limit that it has: {why}", job.name);
        }
        group
    }

    /// Runs a program for what it prints: at once, beside the jobs, without a
    /// span or an event, and in nobody's statistics. The caller sees to it that
    /// there are few.
    pub async fn measure(&self, job: &Arc<Job>) -> Ended {
        let shared = &self.0;
        let vector = schema::argument_vector(job, &Default::default()).unwrap_or_default();
        if shared.stop.is_cancelled() {
            return Ended::without_a_run(Outcome::Interrupted, Carried::default());
        }
        shared.running.send_modify(|running| *running += 1);
        let _running = Counted(self);
        let started = shared.setup.clock.boot_ns();
        let mut environment = self.environment(job, &Carried::default());
        environment.retain(|(name, _)| name != "SONDE_JOB");
        let result = self.perform(job, vector, environment, true).await;
        let took = shared.setup.clock.boot_ns().saturating_sub(started);
        Ended {
            outcome: result.outcome,
            duration: Duration::from_nanos(took),
            cpu: result.cpu,
            peak_memory: result.peak_memory,
            output: result.output,
            context: Carried::default(),
        }
    }

    async fn perform(
        &self,
        job: &Arc<Job>,
        vector: Vec<String>,
        environment: Vec<(String, String)>,
        flood_ends: bool,
    ) -> run::Result {
        let shared = &self.0;
        let mark = mark();
        let cgroup = self.cgroup(job, &mark);
        let launcher = shared.setup.launcher.clone();
        let assignment = Assignment {
            // A unit runs elsewhere: what is started here only waits for it.
            launcher: launcher.filter(|_| matches!(job.program, Program::Command(_))),
            environment,
            job: job.clone(),
            vector,
            mark,
            flood_ends,
            stop: shared.stop.clone(),
            stop_within: Box::new({
                let work = self.clone();
                move || *lock(&work.0.stop_within)
            }),
        };
        Box::pin(run::perform(assignment, cgroup)).await
    }

    fn environment(&self, job: &Job, carried: &Carried) -> Vec<(String, String)> {
        let mut variables: BTreeMap<String, String> = self.0.inherited.iter().cloned().collect();
        variables.insert("PATH".into(), PATH.into());
        if let Some(receiver) = lock(&self.0.receiver).clone() {
            variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".into(), receiver);
            variables.insert("OTEL_EXPORTER_OTLP_PROTOCOL".into(), "http/protobuf".into());
        }
        variables.extend(job.environment.clone());
        variables.insert("SONDE_JOB".into(), job.name.clone());
        let context = propagation::environment(carried);
        variables.extend(
            context
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        variables.into_iter().collect()
    }
}

impl Admitted {
    /// The job that was ordered.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Its span will have this context, which is below the order's parent.
    #[must_use]
    pub fn known_as(mut self, context: TraceContext) -> Self {
        self.known = Some(context);
        self
    }

    /// Waits for its turn, starts the program, and stays with it to the end.
    /// The run goes on if nobody waits for this any more.
    pub async fn run(self) -> Ended {
        let work = self.seat.work.clone();
        let parent = self.parent.clone();
        match tokio::spawn(self.perform()).await {
            Ok(ended) => ended,
            Err(error) => {
                log::error!("a run was lost, which is a bug: {error}");
                let why = "the agent lost it, which is a bug".into();
                drop(work);
                Ended::without_a_run(Outcome::NotStarted(why), parent)
            }
        }
    }

    async fn perform(self) -> Ended {
        let Admitted {
            job,
            vector,
            parent,
            origin,
            known,
            seat,
        } = self;
        let work = seat.work.clone();
        let shared = &work.0;
        let turn = tokio::select! {
            turn = seat.cell.turn.clone().acquire_owned() => turn,
            () = shared.stop.cancelled() => return Ended::without_a_run(Outcome::Interrupted, parent),
        };
        let _running = Running::new(&seat);
        let started = shared.setup.clock.now();
        let span = span::start(&shared.setup.tracer, &job, origin, &parent, known.as_ref());
        let context = span.span_context().clone();
        let carried = parent.within(&context);
        let said = [("job", job.name.as_str()), ("origin", origin.as_str())];
        let events = &shared.setup.events;
        events.emit_in(Some(context.clone()), event::name::JOB_START, &[], &said);
        let environment = work.environment(&job, &carried);
        let result = work.perform(&job, vector.clone(), environment, false).await;
        let ended = shared.setup.clock.now();
        let duration = Duration::from_nanos(ended.boot_ns.saturating_sub(started.boot_ns));
        trace::within(&context, || {
            let (name, outcome) = (&job.name, &result.outcome);
            match outcome.is_failure() {
                true => log::warn!("job {name}: {outcome} after {duration:.1?}"),
                false => log::debug!("job {name}: done in {duration:.1?}"),
            }
        });
        tell_end(events, &context, &job.name, &result.outcome, duration);
        span::end(span, &vector, &result);
        let mut trace_id = String::new();
        push_hex(&mut trace_id, &context.trace_id().to_bytes());
        lock(&seat.cell.tally).note(Last {
            outcome: result.outcome.clone(),
            ended,
            duration,
            cpu: result.cpu,
            peak_memory: result.peak_memory,
            trace_id,
        });
        drop(turn);
        Ended {
            outcome: result.outcome,
            duration,
            cpu: result.cpu,
            peak_memory: result.peak_memory,
            output: result.output,
            context: carried,
        }
    }
}

/// One event, named by how the run went.
fn tell_end(events: &Events, span: &SpanContext, job: &str, outcome: &Outcome, duration: Duration) {
    let name = match outcome.is_failure() {
        true => event::name::JOB_FAILED,
        false => event::name::JOB_END,
    };
    let mut measured = vec![("duration", duration.as_secs_f64())];
    if let Outcome::Exited(code) = outcome {
        measured.push(("exit_code", f64::from(*code)));
    }
    let said = [("job", job), ("outcome", outcome.as_str())];
    events.emit_in(Some(span.clone()), name, &measured, &said);
}

impl Ended {
    fn without_a_run(outcome: Outcome, parent: Carried) -> Self {
        Self {
            outcome,
            duration: Duration::ZERO,
            cpu: None,
            peak_memory: None,
            output: Default::default(),
            context: parent,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.work.0.under_way.fetch_sub(1, Ordering::Relaxed);
        let mut tally = lock(&self.cell.tally);
        tally.admitted = tally.admitted.saturating_sub(1);
    }
}

/// A run whose program may be running.
struct Running<'a>(&'a Seat);

/// A program whose run is in no job's tally.
struct Counted<'a>(&'a Work);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let running = &self.0.0.running;
        running.send_modify(|running| *running = running.saturating_sub(1));
    }
}

impl<'a> Running<'a> {
    fn new(seat: &'a Seat) -> Self {
        lock(&seat.cell.tally).running += 1;
        seat.work.0.running.send_modify(|running| *running += 1);
        Self(seat)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut tally = lock(&self.0.cell.tally);
        tally.running = tally.running.saturating_sub(1);
        drop(tally);
        let running = &self.0.work.0.running;
        running.send_modify(|running| *running = running.saturating_sub(1));
    }
}

impl Tally {
    fn note(&mut self, last: Last) {
        *self.outcomes.entry(last.outcome.as_str()).or_default() += 1;
        self.cpu += last.cpu.unwrap_or_default();
        self.last = Some(last);
    }
}

impl Last {
    fn status(&self, now: Stamp) -> RunStatus {
        let ago = now.boot_ns.saturating_sub(self.ended.boot_ns);
        RunStatus {
            outcome: self.outcome.as_str().into(),
            message: self.outcome.to_string(),
            exit_code: match self.outcome {
                Outcome::Exited(code) => Some(code),
                _ => None,
            },
            ended_unix_ns: self.ended.unix_ns,
            ago_s: ago as f64 / 1e9,
            duration_s: self.duration.as_secs_f64(),
            cpu_s: self.cpu.map(|cpu| cpu.as_secs_f64()),
            peak_memory_bytes: self.peak_memory,
            trace_id: self.trace_id.clone(),
        }
    }
}

fn named(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// A run's mark: unique as long as any run lives.
fn mark() -> String {
    let mut mark = String::with_capacity(16);
    push_hex(&mut mark, &random().to_be_bytes());
    mark
}

/// Without randomness jobs run without jitter, and marks are told apart by the clock.
pub(super) fn random() -> u64 {
    let mut bits = [0; 8];
    match getrandom::fill(&mut bits) {
        Ok(()) => u64::from_be_bytes(bits),
        Err(_) => crate::clock::monotonic_us(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Setup {
    /// For the daemon: this process, its environment, this binary as the launcher.
    pub fn of_process(clock: Clock, tracer: Tracer, events: Events, root: &Path) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            clock,
            tracer,
            events,
            root: root.to_owned(),
            launcher: Some(launch::this_binary()),
            environment: std::env::vars_os().filter_map(text).collect(),
        }
    }
}
