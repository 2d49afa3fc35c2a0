//! Performs what the [`Desk`] decides: one task, one round after the other.
//! What came together is written together, so that a burst costs few syncs.
//!
//! File work runs in `spawn_blocking`, one call at a time; the bound of what
//! waits for it is the broker's receive maximum.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::Span;
use serde_json::Map;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Unrun};
use super::decode::{Back, Code, Command, Places, Refused};
use super::desk::{Desk, Limits, Resume, Weighed};
use super::poster::{self, Letter, Post, Posted};
use super::{Jobs, spans};
use crate::clock::Clock;
use crate::event::{self, Events};
use crate::spool::storage::Storage;
use crate::status::CommandsStatus;
use crate::trace::propagation::Carried;
use crate::trace::{Tracer, ids};
use crate::uplink::mqtt::{Arrived, Receipt, Subscribed};
use crate::vitals;
use crate::work::journal::{self, Journal, Key, Record, Recovered, State};
use crate::work::{Ended, Order, Origin, Outcome, Refusal};

/// Messages taken in one round.
const ROUND: usize = 32;

/// How often what failed is tried again: answers that the outbox did not take,
/// programs that could not be started because that could not be written down.
const AGAIN: Duration = Duration::from_secs(10);

/// At the end, for the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a shell is given.
pub(crate) struct Setup<J, P, S> {
    /// Where commands come from and answers go, and the bounds.
    pub(crate) rules: watch::Receiver<(Places, Limits)>,
    /// Of this boot.
    pub(crate) boot_id: [u8; 16],
    /// Time.
    pub(crate) clock: Clock,
    /// For spans.
    pub(crate) tracer: Tracer,
    /// Where accepted, refused and ended commands are told.
    pub(crate) events: Events,
    /// Who runs jobs.
    pub(crate) jobs: J,
    /// Where answers go.
    pub(crate) outbox: P,
    /// The journal's folder, or why there is none.
    pub(crate) storage: Result<S, String>,
    /// What came.
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    /// Whether any can come.
    pub(crate) subscribed: watch::Receiver<Subscribed>,
    /// Dropped before they came here.
    pub(crate) dropped: watch::Receiver<u64>,
    /// Where the figures are shown.
    pub(crate) status: watch::Sender<Option<CommandsStatus>>,
    /// Take no more; end when what runs has ended.
    pub(crate) stop: CancellationToken,
}

/// Starts the task. It ends after `stop`, when the last run has ended.
pub(crate) fn spawn<J: Jobs, P: Post, S: Storage + 'static>(
    setup: Setup<J, P, S>,
) -> JoinHandle<()> {
    vitals::COMMANDS.spawn(run(setup))
}

async fn run<J: Jobs, P: Post, S: Storage + 'static>(setup: Setup<J, P, S>) {
    let (letters, to_post) = mpsc::channel(poster::QUEUE);
    let (report, posted) = mpsc::unbounded_channel();
    let mut poster = vitals::COMMANDS.spawn(poster::run(setup.outbox, to_post, report));
    let (disk, found) = open(setup.storage).await;
    let (places, limits) = setup.rules.borrow().clone();
    let mut shell = Shell {
        desk: Desk::new(places.clone(), limits, setup.boot_id),
        rules: setup.rules,
        places,
        clock: setup.clock,
        tracer: setup.tracer,
        events: setup.events,
        jobs: setup.jobs,
        disk,
        letters,
        posted,
        posting: BTreeSet::new(),
        active: BTreeMap::new(),
        runs: JoinSet::new(),
        lazy: Vec::new(),
        subscribed: setup.subscribed,
        dropped: setup.dropped,
        status: setup.status,
        failed: Vec::new(),
        alarm: None,
        lost_answers: 0,
    };
    shell.resume(found).await;
    shell.serve(setup.arrived, &setup.stop).await;
    // Nobody else has a sender, so the poster ends with its last letter.
    shell.letters = mpsc::channel(1).0;
    if timeout(LAST_ANSWERS, &mut poster).await.is_err() {
        // What is left is in the journal and comes at the next start.
        poster.abort();
    }
    shell.leave().await;
}

/// The journal, wherever it is at the moment.
enum Disk<S: Storage> {
    Here(Box<Journal<S>>),
    None(String),
}

async fn open<S: Storage + 'static>(storage: Result<S, String>) -> (Disk<S>, Recovered) {
    let opened = match storage {
        Ok(storage) => spawn_blocking(move || Journal::open(storage))
            .await
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    match opened {
        Ok((journal, found)) => (Disk::Here(Box::new(journal)), found),
        Err(why) => (Disk::None(why), Recovered::default()),
    }
}

/// A command that this process works on.
struct Active<A> {
    /// Taken when it starts.
    admitted: Option<A>,
    span: Span,
    within: Carried,
    back: Back,
}

struct Shell<J: Jobs, S: Storage> {
    desk: Desk,
    rules: watch::Receiver<(Places, Limits)>,
    places: Places,
    clock: Clock,
    tracer: Tracer,
    events: Events,
    jobs: J,
    disk: Disk<S>,
    letters: mpsc::Sender<Letter>,
    posted: mpsc::UnboundedReceiver<Posted>,
    /// Ends whose answers are on their way to the outbox.
    posting: BTreeSet<u64>,
    active: BTreeMap<u64, Active<J::Admitted>>,
    runs: JoinSet<(u64, Ended)>,
    /// What may wait for the next sync.
    lazy: Vec<Record>,
    subscribed: watch::Receiver<Subscribed>,
    dropped: watch::Receiver<u64>,
    status: watch::Sender<Option<CommandsStatus>>,
    /// To be run again, and not started because that could not be written down.
    failed: Vec<u64>,
    alarm: Option<String>,
    lost_answers: u64,
}

/// What one round has to write and then to do.
#[derive(Default)]
struct Round {
    accepted: Vec<(u64, Receipt)>,
    over: Vec<u64>,
    start: Vec<u64>,
}

impl<J: Jobs, S: Storage + 'static> Shell<J, S> {
    async fn serve(&mut self, mut arrived: mpsc::Receiver<Arrived>, stop: &CancellationToken) {
        loop {
            self.show();
            let stopping = stop.is_cancelled();
            if stopping && self.runs.is_empty() {
                break;
            }
            let waiting = !self.failed.is_empty() || self.has_unsent();
            let mut round = Round::default();
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {
                    // What is in the queue is not acknowledged and comes again.
                    arrived.close();
                    continue;
                }
                Some(ended) = self.runs.join_next() => {
                    self.ended(ended.ok(), stopping, &mut round);
                    while let Some(ended) = self.runs.try_join_next() {
                        self.ended(ended.ok(), stopping, &mut round);
                    }
                }
                Some(posted) = self.posted.recv() => {
                    self.noted(posted);
                    continue;
                }
                Some(one) = arrived.recv(), if !stopping => {
                    vitals::COMMANDS_IN.received(&arrived);
                    self.weigh(one, &mut round).await;
                    for _ in 1..ROUND {
                        let Ok(one) = arrived.try_recv() else { break };
                        self.weigh(one, &mut round).await;
                    }
                }
                Ok(()) = self.subscribed.changed() => continue,
                Ok(()) = self.dropped.changed() => continue,
                Ok(()) = self.rules.changed() => {
                    let (places, limits) = self.rules.borrow_and_update().clone();
                    self.places = places.clone();
                    self.desk.reconfigure(places, limits);
                    continue;
                }
                () = sleep(AGAIN), if waiting && !stopping => {
                    round.start = std::mem::take(&mut self.failed);
                    self.send_again().await;
                }
            }
            self.finish(round).await;
        }
    }

    /// Answers that were posted need not be repeated at the next start.
    async fn leave(&mut self) {
        while let Ok(posted) = self.posted.try_recv() {
            self.noted(posted);
        }
        if !self.lazy.is_empty() {
            self.write(Vec::new()).await;
        }
        // Accepted and not started: the next process goes on with the span.
        for (_, active) in std::mem::take(&mut self.active) {
            std::mem::forget(active.span);
        }
        self.show();
    }

    /// Goes on with what an earlier process left.
    async fn resume(&mut self, found: Recovered) {
        for note in &found.notes {
            log::warn!("commands: {note}");
        }
        let (now, trusted) = (self.clock.now(), self.clock.synchronised());
        let jobs = self.jobs.clone();
        let idempotent = |job: &str| jobs.is_idempotent(job);
        let needs = self.desk.recover(found.entries, now, trusted, idempotent);
        self.desk.forget_old(now);
        let mut round = Round::default();
        for (id, need) in needs {
            match need {
                Resume::Answer => {
                    if let Some(entry) = self.desk.entry(id) {
                        spans::told_again(&self.tracer, &self.places, entry);
                    }
                    self.send_end(id).await;
                }
                Resume::Run => self.readmit(id, &mut round),
                Resume::Interrupted => self.unrun(id, Unrun::Interrupted, &mut round),
            }
        }
        self.finish(round).await;
    }

    fn readmit(&mut self, id: u64, round: &mut Round) {
        let Some(entry) = self.desk.entry(id) else {
            return;
        };
        let span = spans::resumed(&self.tracer, &self.places, entry);
        let within = spans::within(&span, &entry.carried);
        spans::lost_run(&self.tracer, entry, &within);
        let arguments = serde_json::from_slice(&entry.arguments).unwrap_or_default();
        let back = back_of(entry);
        let order = order(&back.job, arguments, &within);
        match self.jobs.admit(order) {
            Ok(admitted) => {
                let active = Active {
                    admitted: Some(admitted),
                    span,
                    within,
                    back,
                };
                self.active.insert(id, active);
                round.start.push(id);
            }
            Err(refusal) => {
                let (code, words) = said(&refusal);
                let active = Active {
                    admitted: None,
                    span,
                    within,
                    back,
                };
                self.active.insert(id, active);
                self.unrun(id, Unrun::Refused(code, words), round);
            }
        }
    }

    /// It is over without a run's end.
    fn unrun(&mut self, id: u64, why: Unrun, round: &mut Round) {
        if why == Unrun::Expired {
            self.desk.run_told(id);
        }
        let Some(entry) = self.desk.entry(id) else {
            return;
        };
        let kind = match &why {
            Unrun::Interrupted => "interrupted",
            Unrun::Expired => "expired",
            Unrun::Refused(code, _) => code.as_str(),
        };
        let words = match &why {
            Unrun::Interrupted => "the agent ended while it ran",
            Unrun::Expired => "its time was up before it could be started",
            Unrun::Refused(_, words) => words,
        };
        let (mut span, within) = match self.active.remove(&id) {
            Some(active) => (active.span, active.within),
            None => {
                let span = spans::resumed(&self.tracer, &self.places, entry);
                let within = spans::within(&span, &entry.carried);
                spans::lost_run(&self.tracer, entry, &within);
                (span, within)
            }
        };
        let job = entry.job.clone();
        crate::trace::within(opentelemetry::trace::Span::span_context(&span), || {
            log::warn!("command {job}: {words}");
        });
        self.told_end(&span, id, &job, kind);
        if why == Unrun::Interrupted {
            let interrupted = KeyValue::new(spans::INTERRUPTED, true);
            opentelemetry::trace::Span::set_attribute(&mut span, interrupted);
        }
        spans::end(span, Some((kind, words)));
        let answer = answer::unrun(&job, &why, within.context.as_ref());
        let now = self.clock.now();
        self.desk.done(id, answer, within.context, now);
        round.over.push(id);
    }

    /// Decides about a message.
    async fn weigh(&mut self, one: Arrived, round: &mut Round) {
        let now = self.clock.now();
        let pkid = one.receipt.pkid();
        match self.desk.weigh(one.message, pkid, now) {
            Weighed::New(command) => {
                let size = command.payload.len();
                let span = spans::process(&self.tracer, &self.places, &command.back, size);
                let within = spans::within(&span, &command.back.carried);
                self.consider(*command, span, within, one.receipt, round)
                    .await;
            }
            Weighed::Again(id) => {
                self.say_again(id).await;
                one.receipt.acknowledge();
            }
            Weighed::Refused(refused) => {
                let span = spans::process(&self.tracer, &self.places, &refused.back, 0);
                let within = spans::within(&span, &refused.back.carried);
                self.refuse(*refused, span, within).await;
                one.receipt.acknowledge();
            }
            Weighed::Nothing => one.receipt.acknowledge(),
        }
    }

    /// Asks whether the job may run, and takes the command in.
    async fn consider(
        &mut self,
        mut command: Command,
        span: Span,
        within: Carried,
        receipt: Receipt,
        round: &mut Round,
    ) {
        let arguments = std::mem::take(&mut command.arguments);
        match self
            .jobs
            .admit(order(&command.back.job, arguments, &within))
        {
            Ok(admitted) => {
                let back = command.back.clone();
                let (now, trusted) = (self.clock.now(), self.clock.synchronised());
                let id = self.desk.accept(command, now, trusted);
                let active = Active {
                    admitted: Some(admitted),
                    span,
                    within,
                    back,
                };
                self.active.insert(id, active);
                round.accepted.push((id, receipt));
            }
            Err(refusal) => {
                let (code, words) = said(&refusal);
                if matches!(code, Code::Busy | Code::TooMany) {
                    self.desk.remember_refusal(&command);
                }
                let back = command.back;
                let refused = Box::new(Refused { code, words, back });
                match self.desk.refuse(refused, self.clock.now()) {
                    Weighed::Refused(refused) => self.refuse(*refused, span, within).await,
                    _ => spans::end(span, Some((code.as_str(), "refused"))),
                }
                receipt.acknowledge();
            }
        }
    }

    async fn refuse(&mut self, refused: Refused, span: Span, within: Carried) {
        let Refused { code, words, back } = refused;
        crate::trace::within(opentelemetry::trace::Span::span_context(&span), || {
            log::info!("command {} refused: {words}", back.job);
        });
        // Bounded as the answers are.
        let said = [("job", &*back.job), ("error", code.as_str())];
        self.tell(&span, event::name::COMMAND_REFUSED, &[], &said);
        spans::end(span, Some((code.as_str(), &words)));
        let answer = answer::refused(&back.job, code, &words, within.context.as_ref());
        self.send(None, &back, answer, within).await;
    }

    /// A program has ended.
    fn ended(&mut self, ended: Option<(u64, Ended)>, stopping: bool, round: &mut Round) {
        let Some((id, ended)) = ended else { return };
        let Some(active) = self.active.remove(&id) else {
            return;
        };
        let again = self.jobs.is_idempotent(&active.back.job);
        let interrupted = ended.outcome == Outcome::Interrupted;
        let failure = ended.outcome.is_failure();
        let words = ended.outcome.to_string();
        if interrupted && stopping && again {
            // It stays `started`, and the next start runs it again, in the same span.
            std::mem::forget(active.span);
            self.desk.run_told(id);
            let told = self.puts([id].iter());
            self.lazy.extend(told);
            return;
        }
        let outcome = answer::status(&ended.outcome);
        self.told_end(&active.span, id, &active.back.job, outcome);
        spans::end(active.span, failure.then_some(("job_failed", &*words)));
        let process = active.within.context;
        let answer = answer::done(&active.back.job, &ended, process.as_ref());
        let now = self.clock.now();
        self.desk.done(id, answer, process, now);
        round.over.push(id);
    }

    /// Writes, and does what writing makes safe.
    async fn finish(&mut self, mut round: Round) {
        let over = std::mem::take(&mut round.over);
        if !over.is_empty() {
            let records = self.puts(over.iter());
            self.write(records).await;
            for id in over {
                self.send_end(id).await;
            }
        }
        self.start(round).await;
    }

    fn tell(
        &self,
        span: &Span,
        name: event::Name,
        measurements: &[(&str, f64)],
        metadata: &[(&str, &str)],
    ) {
        let context = opentelemetry::trace::Span::span_context(span).clone();
        let events = &self.events;
        events.emit_in(Some(context), name, measurements, metadata);
    }

    fn told_end(&self, span: &Span, id: u64, job: &str, outcome: &str) {
        let now = self.clock.now();
        let age_ns = self.desk.entry(id).map_or(0, |entry| entry.age_ns(now));
        let duration = Duration::from_nanos(age_ns).as_secs_f64();
        let said = [("job", job), ("outcome", outcome)];
        let name = event::name::COMMAND_END;
        self.tell(span, name, &[("duration", duration)], &said);
    }

    /// It could not be written down, so it was never accepted.
    async fn give_back(&mut self, id: u64) {
        self.desk.drop_unwritten(id);
        if let Some(active) = self.active.remove(&id) {
            let refused = Refused {
                code: Code::Unavailable,
                words: match self.jobs.is_idempotent(&active.back.job) {
                    false => "it could not be written down, so it was not run".to_owned(),
                    // See the desk: the record may be on disk all the same.
                    true => "it could not be written down, so it was not run; as its job is \
                             idempotent, it may be after a restart"
                        .to_owned(),
                },
                back: active.back,
            };
            self.refuse(refused, active.span, active.within).await;
        }
    }

    /// Writes that programs are about to start, acknowledges what is new, and
    /// starts them.
    async fn start(&mut self, round: Round) {
        let now = self.clock.now();
        let mut fresh: BTreeMap<u64, Receipt> = round.accepted.into_iter().collect();
        let ids: Vec<u64> = fresh.keys().copied().chain(round.start).collect();
        let (mut starting, mut late) = (Vec::new(), Round::default());
        for id in ids {
            let context = self.active.get(&id).and_then(|a| a.within.context.clone());
            // Every span of ours has a context.
            let process = context.unwrap_or_else(no_context);
            let run = ids::child_of(&process);
            match self.desk.start(id, process, Some(run.clone()), now) {
                Some(before) => starting.push((id, before, run)),
                None => self.unrun(id, Unrun::Expired, &mut late),
            }
        }
        let begun = starting.iter().map(|(id, _, _)| id);
        let records = self.puts(begun.chain(&late.over));
        if records.is_empty() {
            return;
        }
        let written = self.write(records).await;
        // A slow disk takes its time.
        let now = self.clock.now();
        let mut slow = Round::default();
        for (id, before, run) in starting {
            let receipt = fresh.remove(&id);
            if !written {
                match receipt {
                    Some(receipt) => {
                        self.give_back(id).await;
                        receipt.acknowledge();
                    }
                    None => {
                        self.desk.not_started(id, before);
                        self.failed.push(id);
                    }
                }
                continue;
            }
            if let Some(receipt) = receipt {
                receipt.acknowledge();
                if let Some(active) = self.active.get(&id) {
                    let said = [("job", &*active.back.job)];
                    self.tell(&active.span, event::name::COMMAND_START, &[], &said);
                }
                self.say(id, "received").await;
            }
            if self.desk.is_expired(id, now) {
                self.unrun(id, Unrun::Expired, &mut slow);
                continue;
            }
            let admitted = self.active.get_mut(&id).and_then(|a| a.admitted.take());
            if let Some(admitted) = admitted {
                self.runs
                    .spawn(async move { (id, J::run(admitted, run).await) });
                self.say(id, "running").await;
            }
        }
        if !slow.over.is_empty() {
            let records = self.puts(slow.over.iter());
            self.write(records).await;
        }
        for id in late.over.into_iter().chain(slow.over) {
            if let Some(receipt) = fresh.remove(&id) {
                receipt.acknowledge();
            }
            self.send_end(id).await;
        }
    }

    fn puts<'a>(&self, ids: impl Iterator<Item = &'a u64>) -> Vec<Record> {
        let entries = ids.filter_map(|id| self.desk.entry(*id));
        entries
            .map(|entry| Record::Put(Box::new(entry.clone())))
            .collect()
    }

    /// Appends and syncs; after a failure once more with a new file.
    async fn write(&mut self, records: Vec<Record>) -> bool {
        let mut all = std::mem::take(&mut self.lazy);
        all.extend(records);
        let batch = journal::batch(&all);
        let quota = self.rules.borrow().1.quota;
        let mut anew = matches!(&self.disk, Disk::Here(j) if j.wants_snapshot(batch.len(), quota));
        loop {
            let lost = Disk::None("its writer was lost, which is a bug".to_owned());
            let mut journal = match std::mem::replace(&mut self.disk, lost) {
                Disk::Here(journal) => journal,
                Disk::None(why) => {
                    self.alarm = Some(format!("no command is taken: {why}"));
                    self.disk = Disk::None(why);
                    return false;
                }
            };
            if anew {
                self.desk.forget_old(self.clock.now());
            }
            let snapshot = anew.then(|| journal::snapshot(self.desk.entries()));
            let batch = batch.clone();
            let work = move || {
                let written = journal.write(&batch, snapshot.as_deref());
                (journal, written)
            };
            let Ok((journal, written)) = spawn_blocking(work).await else {
                continue;
            };
            self.disk = Disk::Here(journal);
            match written {
                Ok(()) => {
                    self.alarm = None;
                    return true;
                }
                Err(error) if anew => {
                    log::error!("commands: cannot write them down: {error}");
                    self.alarm = Some(format!("no command is taken: {error}"));
                    return false;
                }
                Err(_) => anew = true,
            }
        }
    }

    /// `received` or `running`.
    async fn say(&mut self, id: u64, state: &str) {
        let Some(active) = self.active.get(&id) else {
            return;
        };
        let answer = answer::state(&active.back.job, state, active.within.context.as_ref());
        let (back, within) = (active.back.clone(), active.within.clone());
        self.send(None, &back, answer, within).await;
    }

    /// How a command stands, for whoever asks again.
    async fn say_again(&mut self, id: u64) {
        let Some(entry) = self.desk.entry(id) else {
            return;
        };
        let (job, back) = (&entry.job, back_of(entry));
        let (answer, process) = match &entry.state {
            State::Received => (answer::state(job, "received", None), None),
            State::Started { process, .. } => {
                let answer = answer::state(job, "running", Some(process));
                (answer, Some(process.clone()))
            }
            State::Done {
                answer, process, ..
            } => (answer.clone(), process.clone()),
        };
        let within = Carried {
            context: process.or_else(|| back.carried.context.clone()),
            baggage: back.carried.baggage.clone(),
        };
        self.send(None, &back, answer, within).await;
    }

    /// The answer that ends a command.
    async fn send_end(&mut self, id: u64) {
        let Some(entry) = self.desk.entry(id) else {
            return;
        };
        let State::Done {
            answer, process, ..
        } = &entry.state
        else {
            return;
        };
        let back = back_of(entry);
        let (answer, within) = (
            answer.clone(),
            Carried {
                context: process.clone(),
                baggage: back.carried.baggage.clone(),
            },
        );
        self.posting.insert(id);
        self.send(Some(id), &back, answer, within).await;
    }

    async fn send(
        &mut self,
        ends: Option<u64>,
        back: &Back,
        answer: bytes::Bytes,
        within: Carried,
    ) {
        let letter = Letter {
            ends,
            topic: back.topic.clone(),
            correlation: back.correlation.clone(),
            answer,
            within,
        };
        // The poster lives as long as we do.
        let _ = self.letters.send(letter).await;
        vitals::ANSWERS.sent(&self.letters);
    }

    fn noted(&mut self, (ends, result): Posted) {
        if let Some(id) = ends {
            self.posting.remove(&id);
        }
        match (ends, result) {
            (Some(id), Ok(())) => {
                self.desk.posted(id);
                self.lazy.push(Record::Posted(id));
            }
            (None, Ok(())) => {}
            (ends, Err(why)) => {
                self.lost_answers += u64::from(ends.is_none());
                if self.lost_answers <= 1 || ends.is_some() {
                    log::warn!("commands: the outbox did not take an answer: {why}");
                }
            }
        }
    }

    fn unsent(&self) -> impl Iterator<Item = u64> + '_ {
        let unsent = self.desk.entries().filter(|entry| {
            matches!(entry.state, State::Done { posted: false, .. })
                && !self.posting.contains(&entry.id)
        });
        unsent.map(|entry| entry.id)
    }

    fn has_unsent(&self) -> bool {
        self.unsent().next().is_some()
    }

    async fn send_again(&mut self) {
        let unsent: Vec<u64> = self.unsent().collect();
        for id in unsent {
            self.send_end(id).await;
        }
    }

    fn show(&mut self) {
        let (state, reason) = match &*self.subscribed.borrow_and_update() {
            Subscribed::No => ("waiting", None),
            Subscribed::Yes => ("subscribed", None),
            Subscribed::Refused(why) => ("refused", Some(why.clone())),
        };
        let status = CommandsStatus {
            state: state.to_owned(),
            reason,
            alarm: self.alarm.clone(),
            dropped: *self.dropped.borrow_and_update(),
            answers_lost: self.lost_answers,
            journal_bytes: match &self.disk {
                Disk::Here(journal) => journal.bytes(),
                Disk::None(_) => 0,
            },
            ..self.desk.counts()
        };
        self.status.send_if_modified(|now| {
            let news = now.as_ref() != Some(&status);
            *now = Some(status);
            news
        });
    }
}

fn order(job: &str, arguments: Map<String, serde_json::Value>, within: &Carried) -> Order {
    Order {
        job: job.to_owned(),
        arguments,
        parent: within.clone(),
        origin: Origin::Command,
    }
}

fn back_of(entry: &journal::Entry) -> Back {
    Back {
        job: entry.job.clone(),
        asked_on: String::new(),
        topic: entry.response_topic.clone(),
        correlation: match &entry.key {
            Key::Named(correlation) => Some(correlation.clone()),
            Key::Unnamed(_) => None,
        },
        carried: entry.carried.clone(),
    }
}

fn no_context() -> crate::frame::TraceContext {
    crate::frame::TraceContext {
        trace_id: [0; 16],
        span_id: [0; 8],
        flags: 0,
        state: Box::default(),
    }
}

fn said(refusal: &Refusal) -> (Code, String) {
    match refusal {
        // Whether a job exists that no command may run is nobody's business.
        Refusal::Unknown | Refusal::NotRemote => (
            Code::UnknownJob,
            "no job of that name may be run by a command".to_owned(),
        ),
        Refusal::Arguments(wrong) => (Code::BadArguments, wrong.join("; ")),
        Refusal::Busy => (
            Code::Busy,
            "it runs already, and its concurrency rule lets no more in".to_owned(),
        ),
        Refusal::Full => (Code::TooMany, "as many jobs as may are running".to_owned()),
        Refusal::Stopping => (Code::Stopping, "the agent is stopping".to_owned()),
    }
}
