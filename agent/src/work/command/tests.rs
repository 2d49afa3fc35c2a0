//! The shell, as it runs in the agent, on a disk that can lose power at any
//! call: at most once, and every command ends in exactly one way.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Jobs;
use super::decode::Places;
use super::desk::Limits;
use super::poster::Post;
use super::shell::{Setup, spawn};
use crate::clock::{Clock, ClockTrust};
use crate::event::Events;
use crate::frame::TraceContext;
use crate::message::Message;
use crate::spool::simulated::Simulated;
use crate::status::CommandsStatus;
use crate::trace::propagation::Carried;
use crate::trace::testing;
use crate::uplink::mqtt::{Arrived, QUEUE, Receipt, Received, Subscribed};
use crate::work::{Ended, Order, Origin, Outcome, Output, Refusal};

/// What the world outside the agent has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    /// Programs started, by the argument `n`.
    starts: BTreeMap<String, u32>,
    /// Answers by correlation data, in order.
    answers: BTreeMap<String, Vec<Value>>,
    /// Orders as they came to the jobs.
    orders: Vec<Order>,
    /// Contexts that answers were posted within.
    contexts: Vec<Option<TraceContext>>,
}

impl Seen {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap()
    }

    fn ends(&self, correlation: &str) -> Vec<Value> {
        let facts = self.facts();
        let answers = facts.answers.get(correlation).cloned().unwrap_or_default();
        let ends = ["done", "refused"];
        answers
            .into_iter()
            .filter(|answer| ends.contains(&answer["state"].as_str().unwrap()))
            .collect()
    }
}

#[derive(Clone)]
struct FakeJobs {
    disk: Simulated,
    seen: Seen,
    idempotent: bool,
    stop: CancellationToken,
}

struct FakeAdmitted {
    jobs: FakeJobs,
    order: Order,
}

impl Jobs for FakeJobs {
    type Admitted = FakeAdmitted;

    fn admit(&self, order: Order) -> Result<FakeAdmitted, Refusal> {
        assert_eq!(order.origin, Origin::Command);
        match order.job.as_str() {
            "unknown" => return Err(Refusal::Unknown),
            "busy" => return Err(Refusal::Busy),
            _ => {}
        }
        if order.arguments.contains_key("bad") {
            return Err(Refusal::Arguments(vec!["bad is bad".to_owned()]));
        }
        self.seen.facts().orders.push(order.clone());
        let jobs = self.clone();
        Ok(FakeAdmitted { jobs, order })
    }

    async fn run(admitted: FakeAdmitted, _: TraceContext) -> Ended {
        let FakeAdmitted { jobs, order } = admitted;
        if jobs.disk.state().dead {
            pending::<()>().await;
        }
        let n = order.arguments.get("n").and_then(Value::as_str);
        let n = n.unwrap_or_default().to_owned();
        *jobs.seen.facts().starts.entry(n).or_default() += 1;
        let mut outcome = Outcome::Exited(0);
        if order.job == "long" {
            jobs.stop.cancelled().await;
            outcome = Outcome::Interrupted;
        }
        sleep(Duration::from_millis(5)).await;
        Ended {
            outcome,
            duration: Duration::from_millis(5),
            cpu: None,
            peak_memory: None,
            output: Output::default(),
            context: Carried::default(),
        }
    }

    fn is_idempotent(&self, _: &str) -> bool {
        self.idempotent
    }
}

#[derive(Clone)]
struct FakeOutbox {
    disk: Simulated,
    seen: Seen,
    refuses: Arc<Mutex<bool>>,
    /// The process is no more.
    gone: CancellationToken,
}

impl Post for FakeOutbox {
    async fn post(&self, message: Message) -> Result<(), String> {
        if self.disk.state().dead || self.gone.is_cancelled() || *self.refuses.lock().unwrap() {
            return Err("no".to_owned());
        }
        let correlation = message.correlation.unwrap_or_default();
        let correlation = String::from_utf8(correlation.to_vec()).unwrap();
        let answer: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        let mut facts = self.seen.facts();
        facts.answers.entry(correlation).or_default().push(answer);
        facts.contexts.push(message.context);
        Ok(())
    }
}

/// One life of the agent.
struct Life {
    to: mpsc::Sender<Arrived>,
    receipts: mpsc::Sender<u16>,
    acked: Arc<Mutex<BTreeSet<u16>>>,
    task: JoinHandle<()>,
    stop: CancellationToken,
    jobs_stop: CancellationToken,
    status: watch::Receiver<Option<CommandsStatus>>,
    refuses: Arc<Mutex<bool>>,
    gone: CancellationToken,
    _subscribed: watch::Sender<Subscribed>,
    _dropped: watch::Sender<u64>,
}

struct World {
    disk: Simulated,
    seen: Seen,
    idempotent: bool,
    limits: Limits,
    boot: [u8; 16],
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            disk: Simulated::new(seed),
            seen: Seen::default(),
            idempotent: false,
            limits: Limits {
                per_minute: 10_000,
                concurrent: 64,
                // Longer than the boot clock of any machine that tests this.
                remember_ns: u64::MAX,
                quota: 4 << 20,
            },
            boot: [1; 16],
        }
    }

    fn start(&self) -> Life {
        let (to, arrived) = mpsc::channel(QUEUE);
        let (receipts, mut acks) = mpsc::channel(1000);
        let subscribed = watch::Sender::new(Subscribed::Yes);
        let dropped = watch::Sender::new(0);
        let status = watch::Sender::new(None);
        let (stop, jobs_stop) = (CancellationToken::new(), CancellationToken::new());
        let (refuses, gone) = (Arc::new(Mutex::new(false)), CancellationToken::new());
        let shown = status.subscribe();
        let places = Places {
            prefix: "sonde/gw".to_owned(),
            template: "sonde/{device.id}".to_owned(),
            response_topics: Vec::new(),
        };
        let task = spawn(Setup {
            rules: watch::channel((places, self.limits)).1,
            boot_id: self.boot,
            clock: Clock::new(ClockTrust::Always),
            tracer: testing::tracer().0,
            events: Events::new(Clock::new(ClockTrust::Always)),
            jobs: FakeJobs {
                disk: self.disk.clone(),
                seen: self.seen.clone(),
                idempotent: self.idempotent,
                stop: jobs_stop.clone(),
            },
            outbox: FakeOutbox {
                disk: self.disk.clone(),
                seen: self.seen.clone(),
                refuses: refuses.clone(),
                gone: gone.clone(),
            },
            storage: Ok(self.disk.clone()),
            arrived,
            subscribed: subscribed.subscribe(),
            dropped: dropped.subscribe(),
            status,
            stop: stop.clone(),
        });
        let acked = Arc::new(Mutex::new(BTreeSet::new()));
        let (disk, into) = (self.disk.clone(), acked.clone());
        tokio::spawn(async move {
            while let Some(pkid) = acks.recv().await {
                if !disk.state().dead {
                    into.lock().unwrap().insert(pkid);
                }
            }
        });
        Life {
            to,
            receipts,
            acked,
            task,
            stop,
            jobs_stop,
            status: shown,
            refuses,
            gone,
            _subscribed: subscribed,
            _dropped: dropped,
        }
    }

    async fn finals(&self, correlation: &str, count: usize) -> Vec<Value> {
        self.until(|| self.seen.ends(correlation).len() >= count)
            .await;
        self.seen.ends(correlation)
    }

    async fn until(&self, done: impl Fn() -> bool) {
        for _ in 0..100_000 {
            if done() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("it never came: {:?}", self.seen.facts().answers);
    }

    /// Power goes and comes back.
    async fn cut(&self, life: Life) {
        life.gone.cancel();
        life.task.abort();
        let _ = life.task.await;
        self.disk.crash();
    }
}

fn command(job: &str, n: &str, dup: bool) -> Received {
    Received {
        topic: format!("sonde/gw/command/{job}"),
        payload: Bytes::from(format!("{{\"n\":\"{n}\"}}")),
        dup,
        correlation: Some(Bytes::from(n.to_owned())),
        ..Received::default()
    }
}

impl Life {
    async fn send(&self, pkid: u16, message: Received) {
        let receipt = match pkid {
            0 => Receipt::none(),
            pkid => Receipt::of(pkid, self.receipts.clone()),
        };
        // Fails once the shell has ended.
        let _ = self.to.send(Arrived { message, receipt }).await;
    }

    fn acked(&self) -> BTreeSet<u16> {
        self.acked.lock().unwrap().clone()
    }

    fn status(&self) -> CommandsStatus {
        self.status.borrow().clone().unwrap_or_default()
    }
}

const NAMES: [&str; 3] = ["c1", "c2", "c3"];

fn is_pkid_of(at: usize) -> u16 {
    at as u16 + 1
}

/// Three commands, power cut at call `first`, in the next life at call
/// `second`, then a life without a cut and each command sent once more.
/// `false`: the first life ended before the cut.
async fn live(seed: u64, first: u64, second: u64, idempotent: bool) -> bool {
    let mut world = World::new(seed);
    world.idempotent = idempotent;
    world.disk.state().cut = Some(first);
    let mut unacked: BTreeSet<usize> = (0..NAMES.len()).collect();
    let mut reached = true;
    for (round, cut) in [Some(first), Some(second), None].into_iter().enumerate() {
        world.disk.state().cut = cut;
        world.boot = [round as u8 / 2 + 1; 16];
        let life = world.start();
        for at in unacked.clone() {
            life.send(is_pkid_of(at), command("job", NAMES[at], round > 0))
                .await;
            sleep(Duration::from_millis(1)).await;
        }
        let all = || NAMES.iter().all(|name| !world.seen.ends(name).is_empty());
        world.until(|| world.disk.state().dead || all()).await;
        sleep(Duration::from_millis(50)).await;
        let dead = world.disk.state().dead;
        let acked = life.acked();
        unacked.retain(|at| !acked.contains(&is_pkid_of(*at)));
        if round == 0 {
            reached = dead;
        }
        if dead {
            world.cut(life).await;
            continue;
        }
        // Each is sent once more by the caller itself, in another packet.
        for (at, name) in NAMES.iter().enumerate() {
            let before = world.seen.ends(name).len();
            life.send(100 + is_pkid_of(at), command("job", name, false))
                .await;
            world.finals(name, before + 1).await;
        }
        life.stop.cancel();
        life.task.await.unwrap();
        break;
    }
    for name in NAMES {
        let starts = world.seen.facts().starts.get(name).copied().unwrap_or(0);
        let ends = world.seen.ends(name);
        let at = format!("{name}, cuts {first} and {second}, seed {seed}: {ends:?}");
        assert!(!ends.is_empty(), "no end: {at}");
        assert!(ends.iter().all(|end| *end == ends[0]), "two ends: {at}");
        assert_eq!(ends[0]["state"], "done", "{at}");
        if idempotent {
            assert_eq!(ends[0]["status"], "ok", "{at}");
            assert!(starts >= 1, "{at}");
        } else {
            assert!(starts <= 1, "{starts} starts: {at}");
            let status = if starts == 1 { "ok" } else { "interrupted" };
            let interrupted = ends[0]["status"] == "interrupted";
            assert!(ends[0]["status"] == status || interrupted, "{starts}: {at}");
        }
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_any_call_runs_nothing_twice_and_ends_everything_once() {
    for first in 1.. {
        let mut reached = false;
        for (seed, second) in [(first, 1000), (first + 7, 1 + first % 9)] {
            reached |= live(seed, first, second, false).await;
        }
        if !reached {
            assert!(first > 15, "only {first} calls");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_job_is_run_again_until_it_has_ended() {
    for first in 1.. {
        if !live(first, first, 1000, true).await {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_order_within_one_trace_and_the_ack_after_the_write() {
    let world = World::new(1);
    let life = world.start();
    let mut message = command("job", "a", false);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    message.properties = vec![("traceparent".to_owned(), parent.to_owned())];
    life.send(1, message).await;
    world.finals("a", 1).await;
    let facts = world.seen.facts();
    let states: Vec<_> = facts.answers["a"]
        .iter()
        .map(|answer| answer["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["received", "running", "done"]);
    assert_eq!(facts.answers["a"][2]["exit_code"], 0);
    for context in &facts.contexts {
        let context = context.as_ref().unwrap().traceparent();
        assert_eq!(context[3..35], parent[3..35]);
    }
    assert_eq!(life.acked(), [1].into());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_said_why_and_acknowledged() {
    let world = World::new(1);
    let life = world.start();
    let mut expired = command("job", "expired", false);
    expired.expiry = Some(0);
    let mut large = command("job", "large", false);
    large.payload = vec![b' '; 20_000].into();
    let mut elsewhere = command("job", "elsewhere", false);
    elsewhere.response_topic = Some("other/gw/command/reboot".to_owned());
    let mut bad = command("job", "bad", false);
    bad.payload = Bytes::from_static(b"{\"bad\":1}");
    let refused = [
        (command("unknown", "unknown", false), "unknown_job"),
        (command("busy", "busy", false), "busy"),
        (bad, "bad_arguments"),
        (expired, "expired"),
        (large, "too_large"),
        (elsewhere, "response_topic"),
    ];
    for (at, (message, code)) in refused.into_iter().enumerate() {
        let name = String::from_utf8(message.correlation.clone().unwrap().to_vec()).unwrap();
        let pkid = is_pkid_of(at);
        life.send(pkid, message).await;
        let ends = world.finals(&name, 1).await;
        assert_eq!(ends[0]["state"], "refused");
        assert_eq!(ends[0]["code"], code);
        assert!(ends[0]["error"].as_str().unwrap().len() > 8);
        world.until(|| life.acked().contains(&pkid)).await;
        assert_eq!(life.status().refused[code], 1);
    }
    assert!(world.seen.facts().starts.is_empty());
    assert!(world.disk.files().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_ten_thousand_is_bounded_and_counted() {
    let mut world = World::new(1);
    world.limits.per_minute = 60;
    world.limits.concurrent = 8;
    let life = world.start();
    for at in 0..10_000u32 {
        life.send(
            1 + (at % 16) as u16,
            command("job", &format!("b{at}"), false),
        )
        .await;
    }
    world
        .until(|| life.status().received == 10_000 && life.status().under_way == 0)
        .await;
    let status = life.status();
    assert!((8..=80).contains(&status.accepted), "{status:?}");
    assert_eq!(status.refused["too_many"] + status.accepted, 10_000);
    let answers: usize = world.seen.facts().answers.values().map(Vec::len).sum();
    assert!(answers < 400, "{answers} answers");
    let started = world.seen.facts().starts.len() as u64;
    assert_eq!(started, status.accepted);
    assert!(status.unanswered > 9_000, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn the_same_correlation_data_with_another_command_is_a_conflict() {
    let world = World::new(1);
    let life = world.start();
    life.send(1, command("job", "a", false)).await;
    world.finals("a", 1).await;
    let mut other = command("job", "a", false);
    other.payload = Bytes::from_static(b"{\"n\":\"b\"}");
    life.send(2, other).await;
    let ends = world.finals("a", 2).await;
    assert_eq!(ends[1]["code"], "conflict");
    assert_eq!(world.seen.facts().starts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_correlation_data_only_the_brokers_own_repeats_are_known() {
    let world = World::new(1);
    let life = world.start();
    let mut unnamed = command("job", "x", false);
    unnamed.correlation = None;
    let ran = || world.seen.facts().starts.get("x").copied().unwrap_or(0);
    life.send(1, unnamed.clone()).await;
    world.finals("", 1).await;
    unnamed.dup = true;
    life.send(1, unnamed.clone()).await;
    world.finals("", 2).await;
    assert_eq!(ran(), 1);
    unnamed.dup = false;
    life.send(2, unnamed).await;
    world.finals("", 3).await;
    assert_eq!(ran(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_a_stop_what_runs_is_interrupted_answered_and_not_run_again() {
    for idempotent in [false, true] {
        let mut world = World::new(1);
        world.idempotent = idempotent;
        let life = world.start();
        life.send(1, command("long", "a", false)).await;
        world.until(|| !world.seen.facts().starts.is_empty()).await;
        life.stop.cancel();
        life.jobs_stop.cancel();
        life.task.await.unwrap();
        let ends = world.seen.ends("a");
        assert_eq!(ends.is_empty(), idempotent, "{ends:?}");
        let life = world.start();
        if idempotent {
            world.until(|| world.seen.facts().starts["a"] == 2).await;
            life.jobs_stop.cancel();
        } else {
            sleep(Duration::from_secs(60)).await;
            assert_eq!(world.seen.facts().starts["a"], 1);
            // The answer was posted, and the journal knows it.
            assert_eq!(world.seen.ends("a").len(), 1);
        }
        assert_eq!(world.finals("a", 1).await[0]["status"], "interrupted");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_outbox_refuses_is_offered_again() {
    let world = World::new(1);
    let life = world.start();
    *life.refuses.lock().unwrap() = true;
    life.send(1, command("job", "a", false)).await;
    world
        .until(|| life.status().under_way == 0 && life.status().accepted == 1)
        .await;
    sleep(Duration::from_secs(1)).await;
    assert!(world.seen.ends("a").is_empty());
    *life.refuses.lock().unwrap() = false;
    world.finals("a", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_runs_nothing_and_says_so() {
    let world = World::new(1);
    world.disk.state().failing = true;
    let life = world.start();
    life.send(1, command("job", "a", false)).await;
    assert_eq!(world.finals("a", 1).await[0]["code"], "unavailable");
    assert!(life.status().alarm.is_some());
    assert!(world.seen.facts().starts.is_empty());
    world.disk.state().failing = false;
    life.send(2, command("job", "b", false)).await;
    assert_eq!(world.finals("b", 1).await[0]["status"], "ok");
    assert!(life.status().alarm.is_none());
}

/// A failed sync promises nothing, not even that the bytes are gone.
#[tokio::test(start_paused = true)]
async fn a_command_that_was_answered_unavailable_never_runs_though_its_record_reappears() {
    for (seed, power) in [(1, false), (2, true), (3, true), (4, true), (5, true)] {
        let world = World::new(seed);
        let life = world.start();
        life.send(1, command("job", "before", false)).await;
        world.finals("before", 1).await;
        sleep(Duration::from_secs(1)).await;
        let bytes = |world: &World| -> usize {
            let files = world.disk.files();
            files.iter().map(|(_, len)| len).sum()
        };
        let whole = bytes(&world);
        (world.disk.state().failing, world.disk.state().resurfacing) = (true, true);
        life.send(2, command("job", "a", false)).await;
        assert_eq!(world.finals("a", 1).await[0]["code"], "unavailable");
        world.until(|| life.acked().contains(&2)).await;
        (world.disk.state().failing, world.disk.state().resurfacing) = (false, false);
        life.gone.cancel();
        life.task.abort();
        let _ = life.task.await;
        if power {
            world.disk.crash();
        }
        assert!(bytes(&world) > whole, "the record is there");
        let life = world.start();
        sleep(Duration::from_secs(60)).await;
        life.send(3, command("job", "after", false)).await;
        world.finals("after", 1).await;
        let facts = world.seen.facts();
        assert_eq!(facts.starts.get("a"), None, "power {power} seed {seed}");
        assert_eq!(facts.starts["before"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_refuses_new_commands_and_forgets_no_young_one() {
    let mut world = World::new(1);
    world.limits.quota = 160 * 1024;
    let life = world.start();
    let mut refused = None;
    for at in 0..1000 {
        let name = format!("f{at}");
        life.send(1, command("job", &name, false)).await;
        let end = world.finals(&name, 1).await.remove(0);
        if end["state"] == "refused" {
            assert_eq!(end["code"], "unavailable");
            refused = Some(at);
            break;
        }
    }
    let refused = refused.expect("it filled up");
    assert!(refused > 20, "{refused}");
    // The oldest is still known.
    life.send(2, command("job", "f0", false)).await;
    world.finals("f0", 2).await;
    assert_eq!(world.seen.facts().starts["f0"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_is_never_a_command() {
    let world = World::new(1);
    let life = world.start();
    let mut retained = command("job", "a", false);
    retained.retain = true;
    life.send(1, retained).await;
    world.until(|| life.acked().contains(&1)).await;
    assert_eq!(life.status().refused["retained"], 1);
    assert!(world.seen.facts().starts.is_empty());
}
