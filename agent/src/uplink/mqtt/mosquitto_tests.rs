//! The whole uplink against a real mosquitto, through a link that can be cut
//! or turned into a black hole. Without mosquitto on this machine these tests
//! say so and prove nothing; `tests/run` installs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use rumqttc::v5::mqttbytes::v5::Packet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::feed::Store;
use super::{rfc3339, spawn_on};
use crate::clock::{Clock, ClockTrust};
use crate::config::{Delivery, MqttUplink, Tls};
use crate::frame::{Frame, FrameId, Signal, Signals};
use crate::spool::{Lane, Outcome, Pending};
use crate::uplink::mqtt::script::{frame, frame_of_points};
use crate::uplink::{Stop, Uplink};

const PATIENCE: Duration = Duration::from_secs(20);

/// A spool in memory, with the same rules.
#[derive(Clone)]
struct Memory(Arc<Inner>);

struct Inner {
    queue: Mutex<Queue>,
    pending: watch::Sender<Pending>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Frame>,
    flight: BTreeMap<FrameId, Frame>,
    delivered: BTreeSet<u64>,
    condemned: BTreeMap<u64, String>,
    returned: u64,
}

impl Memory {
    fn of(frames: impl IntoIterator<Item = Frame>) -> Self {
        let memory = Self(Arc::new(Inner {
            queue: Mutex::default(),
            pending: watch::channel(Pending::default()).0,
        }));
        memory.add(frames);
        memory
    }

    fn add(&self, frames: impl IntoIterator<Item = Frame>) {
        self.change(|queue| queue.waiting.extend(frames));
    }

    fn change<T>(&self, what: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.0.queue.lock().expect("not poisoned");
        let out = what(&mut queue);
        let mut pending = Pending {
            live: queue.waiting.len() as u64,
            ..Pending::default()
        };
        for (signal, part) in Signal::ALL.into_iter().zip(&mut pending.signals) {
            let of_it = |frame: &&Frame| frame.batch.signal == signal;
            part.live = queue.waiting.iter().filter(of_it).count() as u64;
        }
        self.0.pending.send_replace(pending);
        out
    }

    fn delivered(&self) -> usize {
        self.change(|queue| queue.delivered.len())
    }
}

impl Store for Memory {
    fn next(&self, lane: Lane, signals: Signals) -> impl Future<Output = Option<Frame>> + Send {
        let frame = self.change(|queue| {
            let mut waiting = queue.waiting.iter();
            let at = waiting.position(|frame| signals.contains(frame.batch.signal));
            let frame = queue.waiting.remove(at.filter(|_| lane == Lane::Live)?)?;
            queue.flight.insert(frame.id, frame.clone());
            Some(frame)
        });
        std::future::ready(frame)
    }

    fn settle(&self, id: FrameId, outcome: Outcome) {
        self.change(|queue| {
            let mut frame = queue.flight.remove(&id).expect("was in flight");
            match outcome {
                Outcome::Delivered => assert!(queue.delivered.insert(id.seq), "settled twice"),
                Outcome::Condemned(why) => {
                    queue.condemned.insert(id.seq, why);
                }
                Outcome::Expired => {
                    queue.condemned.insert(id.seq, "expired".to_owned());
                }
                Outcome::Returned => {
                    frame.resent = true;
                    queue.returned += 1;
                    queue.waiting.push_back(frame);
                }
            }
        });
    }

    fn link(&self, up: bool) {
        self.change(|queue| {
            if !up {
                for (_, mut frame) in std::mem::take(&mut queue.flight) {
                    frame.resent = true;
                    queue.returned += 1;
                    queue.waiting.push_back(frame);
                }
            }
        });
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        self.0.pending.subscribe()
    }
}

/// A broker of our own on a loopback port; ends with the value.
struct Mosquitto {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Mosquitto {
    /// Without mosquitto a test fails: one that passes would prove nothing.
    async fn start(settings: &str) -> Self {
        let binary = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let binary = binary
            .expect("mosquitto is not installed: install mosquitto, or run tests/run, which does");
        let port = free_port().await;
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("mosquitto.conf");
        let user = "user root\n";
        let settings = settings.replace("DIR", &dir.path().display().to_string());
        let text = format!("listener {port} 127.0.0.1\npersistence false\n{user}{settings}\n");
        std::fs::write(&config, text).expect("written");
        let passwords = dir.path().join("passwords");
        let made = Command::new("mosquitto_passwd")
            .args(["-c", "-b"])
            .arg(&passwords)
            .args(["gw", "right"])
            .output()
            .expect("comes with mosquitto");
        assert!(made.status.success());
        if settings.contains("certfile") {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
            let files = [
                ("server.pem", made.cert.pem()),
                ("server.key", made.signing_key.serialize_pem()),
            ];
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).expect("written");
            }
        }
        let rules = "topic read #\ntopic write sonde/+/state\n";
        std::fs::write(dir.path().join("acl"), rules).expect("written");
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts");
        let broker = Self { child, port, dir };
        until("mosquitto listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        broker
    }

    /// A subscriber that prints `format` per message and ends after `count` of them.
    async fn listen(&self, topic: &str, format: &str, count: usize) -> Listener {
        let mut child = Command::new("mosquitto_sub")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-q", "1", "-t", topic, "-F", format, "-W", "20"])
            .args(["-C", &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub starts");
        let mut output = child.stdout.take().expect("piped");
        let pid = rustix::process::Pid::from_child(&child);
        let lines = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).expect("text");
            child.wait().expect("ends");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        // It subscribes some milliseconds after it starts and does not say so.
        sleep(Duration::from_millis(300)).await;
        Listener { lines, pid }
    }
}

struct Listener {
    lines: tokio::task::JoinHandle<Vec<String>>,
    pid: rustix::process::Pid,
}

impl Listener {
    async fn lines(self) -> Vec<String> {
        self.lines.await.expect("reads")
    }

    /// Ends it before it has heard all it wanted.
    async fn stop(self) -> Vec<String> {
        // What the broker sent last may still be on its way to it.
        sleep(Duration::from_millis(300)).await;
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::TERM);
        self.lines().await
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// A link that can be cut and turned into a black hole.
struct Cable {
    port: u16,
    mode: watch::Sender<Mode>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Good,
    Cut,
    /// Bytes are swallowed, connections stay.
    Hole,
}

impl Cable {
    async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mode = watch::channel(Mode::Good).0;
        let state = mode.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, broker, state.clone()));
            }
        });
        Self { port, mode }
    }
}

async fn carry(mut near: TcpStream, broker: u16, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow_and_update() == Mode::Cut {
        return;
    }
    let mut far = TcpStream::connect(("127.0.0.1", broker))
        .await
        .expect("broker");
    while *mode.borrow_and_update() == Mode::Good {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
            _ = mode.changed() => {}
        }
    }
    while *mode.borrow_and_update() == Mode::Hole {
        let mut swallowed = [0; 4096];
        tokio::select! {
            got = near.read(&mut swallowed) => if got.is_ok_and(|n| n == 0) { return },
            _ = mode.changed() => {}
        }
    }
}

fn config(port: u16) -> MqttUplink {
    MqttUplink {
        delivery: Delivery {
            required: true,
            timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(100), Duration::from_millis(500)),
            backlog_rate: None,
            first_send_jitter: Duration::ZERO,
        },
        tls: None,
        host: "127.0.0.1".to_owned(),
        port,
        client_id: None,
        username: None,
        password_file: None,
        keep_alive: Duration::from_secs(5),
        topic_prefix: "sonde/{device.id}".to_owned(),
        message_expiry: Some(Duration::from_secs(600)),
        window: 8,
    }
}

struct Running {
    uplink: Uplink,
    stop: Stop,
}

fn start(config: MqttUplink, memory: &Memory) -> Running {
    let stop = Stop::default();
    let clock = Clock::new(ClockTrust::Always);
    let tracer = opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .build()
        .tracer("test");
    let world = super::Parts {
        clock,
        tracer,
        events: crate::event::testing::events().0,
        device_id: "gw/1".to_owned(),
        boot_id: [1; 16],
        stop: stop.clone(),
    };
    Running {
        uplink: spawn_on(config, world, memory.clone(), None),
        stop,
    }
}

impl Running {
    async fn until_state(&self, wanted: &str) {
        let mut status = self.uplink.status.clone();
        let seen = status.wait_for(|status| status.state == wanted);
        let seen = timeout(PATIENCE, seen)
            .await
            .map(|seen| seen.map(|s| s.state.clone()));
        assert!(
            matches!(seen, Ok(Ok(_))),
            "never {wanted}: {:?}",
            self.uplink.status.borrow()
        );
    }

    async fn finish(self) {
        self.stop.finish.cancel();
        timeout(PATIENCE, self.uplink.task)
            .await
            .expect("ends")
            .expect("no panic");
    }
}

fn some(from: u64, count: u64) -> impl Iterator<Item = Frame> {
    (from..from + count).map(|seq| frame(seq, format!("body {seq}").as_bytes()))
}

#[tokio::test]
async fn what_arrives_at_a_subscriber_is_what_was_promised() {
    let broker = Mosquitto::start("allow_anonymous true").await;
    let telemetry = broker
        .listen("sonde/+/telemetry/#", "%t|%r|%q|%C|%E|%P|%p", 3)
        .await;
    let states = broker.listen("sonde/+/state", "%t|%C|%p", 2).await;
    let memory = Memory::of(some(1, 3));
    let running = start(config(broker.port), &memory);
    until("delivered", async || memory.delivered() == 3).await;
    let status = running.uplink.status.borrow().clone();
    assert_eq!((status.state.as_str(), status.acked_frames), ("up", 3));
    assert!(status.wire_sent_bytes > 500 && status.connections == 1);
    running.finish().await;
    let context = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
    for (line, seq) in telemetry.lines().await.iter().zip(1..) {
        let properties = format!(
            "traceparent:{context} tracestate:vendor=1 sonde-frame:00000007-{seq} content-encoding:gzip"
        );
        assert_eq!(
            *line,
            format!(
                "sonde/gw%2F1/telemetry/metrics|0|1|application/x-protobuf|600|{properties}|body {seq}"
            )
        );
    }
    let states = states.lines().await;
    assert!(
        states[0].starts_with("sonde/gw%2F1/state|application/json|{"),
        "{states:?}"
    );
    assert!(states[0].contains("\"state\":\"online\""), "{states:?}");
    assert!(states[1].contains("\"state\":\"stopped\""), "{states:?}");
    // Retained: who comes later sees it.
    let late = broker.listen("sonde/+/state", "%r %p", 1).await;
    let late = late.lines().await;
    assert!(
        late[0].starts_with("1 {") && late[0].contains("stopped"),
        "{late:?}"
    );
}

#[tokio::test]
async fn an_agent_that_vanishes_leaves_its_last_will() {
    let broker = Mosquitto::start("allow_anonymous true").await;
    let running = start(config(broker.port), &Memory::of([]));
    running.until_state("up").await;
    let states = broker.listen("sonde/+/state", "%r %p", 2).await;
    // As a kill: the socket closes, nothing is said.
    running.uplink.task.abort();
    let states = states.lines().await;
    assert!(states[0].contains("online"), "{states:?}");
    assert_eq!(states[1], "0 {\"device\":\"gw/1\",\"state\":\"offline\"}");
}

#[tokio::test]
async fn nothing_is_lost_over_cuts_and_black_holes() {
    let broker = Mosquitto::start("allow_anonymous true").await;
    let cable = Cable::to(broker.port).await;
    let everything = broker.listen("sonde/+/telemetry/#", "%P", 100_000).await;
    let memory = Memory::of(some(1, 400));
    let running = start(config(cable.port), &memory);
    for round in 0..3 {
        let enough = 100 * (round + 1);
        until("some delivered", async || memory.delivered() > enough).await;
        cable.mode.send_replace(Mode::Cut);
        until("noticed", async || {
            running.uplink.status.borrow().state == "waiting"
        })
        .await;
        memory.add(some(1000 * (round as u64 + 1), 50));
        cable.mode.send_replace(Mode::Good);
    }
    until("all delivered", async || memory.delivered() == 550).await;

    cable.mode.send_replace(Mode::Hole);
    let began = tokio::time::Instant::now();
    memory.add(some(9000, 20));
    running.until_state("waiting").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "two keep-alives, took {:?}",
        began.elapsed()
    );
    cable.mode.send_replace(Mode::Cut);
    cable.mode.send_replace(Mode::Good);
    until("all delivered", async || memory.delivered() == 570).await;
    running.finish().await;
    assert_eq!(memory.change(|queue| queue.condemned.len()), 0);
    assert!(memory.change(|queue| queue.returned) > 0);
    let lines = everything.stop().await;
    let names: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| line.split("sonde-frame:").nth(1)?.split(' ').next())
        .collect();
    assert_eq!(names.len(), 570, "counted by the subscriber");
    assert!(lines.iter().any(|line| line.contains("sonde-resent:1")));
}

#[tokio::test]
async fn wrong_credentials_hold_the_data_until_the_file_is_right() {
    let settings = "allow_anonymous false\npassword_file DIR/passwords";
    let broker = Mosquitto::start(settings).await;
    let secret: PathBuf = broker.dir.path().join("secret");
    let mut config = config(broker.port);
    config.username = Some("gw".to_owned());
    config.password_file = Some(secret.clone());
    config.delivery.backoff.1 = Duration::from_secs(3600);
    let memory = Memory::of(some(1, 5));
    let running = start(config, &memory);

    running.until_state("open").await;
    let why = running.uplink.status.borrow().last_error.clone();
    assert!(
        why.as_deref()
            .is_some_and(|why| why.contains("cannot read the password")),
        "{why:?}"
    );

    std::fs::write(&secret, "wrong\n").expect("written");
    let mut status = running.uplink.status.clone();
    let said = |status: &crate::status::UplinkStatus| {
        status
            .last_error
            .as_deref()
            .is_some_and(|why| why.contains("refused the connection"))
    };
    timeout(PATIENCE, status.wait_for(said))
        .await
        .expect("refused")
        .expect("runs");
    assert_eq!(memory.delivered(), 0);
    assert_eq!(running.uplink.status.borrow().state, "open");

    std::fs::write(&secret, "right\n").expect("written");
    until("delivered", async || memory.delivered() == 5).await;
    running.until_state("up").await;
    running.finish().await;
    assert_eq!(memory.change(|queue| queue.condemned.len()), 0);
}

#[tokio::test]
async fn a_message_over_mosquittos_limit_is_condemned_alone() {
    let settings = "allow_anonymous true\nmessage_size_limit 1000";
    let broker = Mosquitto::start(settings).await;
    let memory = Memory::of([
        frame(1, &[7; 5000]),
        frame(2, b"small"),
        frame(3, b"small too"),
    ]);
    let running = start(config(broker.port), &memory);
    until("settled", async || memory.delivered() == 2).await;
    until("condemned", async || {
        memory.change(|queue| queue.condemned.contains_key(&1))
    })
    .await;
    let why = memory.change(|queue| queue.condemned[&1].clone());
    assert!(why.contains("packet too large"), "{why}");
    running.finish().await;
}

#[tokio::test]
async fn an_announced_packet_size_is_respected_before_sending() {
    let settings = "allow_anonymous true\nmax_packet_size 2000";
    let broker = Mosquitto::start(settings).await;
    let memory = Memory::of([frame(1, &[7; 5000]), frame(2, b"small")]);
    let running = start(config(broker.port), &memory);
    until("settled", async || memory.delivered() == 1).await;
    let why = memory.change(|queue| queue.condemned[&1].clone());
    assert!(why.contains("the broker takes at most 2000"), "{why}");
    assert_eq!(running.uplink.status.borrow().connections, 1);
    running.finish().await;
}

#[tokio::test]
async fn a_batch_over_the_brokers_limits_arrives_in_pieces() {
    for limit in ["message_size_limit 3000", "max_packet_size 3000"] {
        let settings = format!("allow_anonymous true\n{limit}");
        let broker = Mosquitto::start(&settings).await;
        let subscriber = broker.listen("sonde/+/telemetry/#", "%P", 100_000).await;
        let large = frame_of_points(1, 1000);
        assert!(large.batch.body.len() > 6000, "{}", large.batch.body.len());
        let memory = Memory::of([large, frame(2, b"small")]);
        let running = start(config(broker.port), &memory);
        until("delivered", async || memory.delivered() == 2).await;
        running.finish().await;
        let lines = subscriber.stop().await;
        let pieces = lines
            .iter()
            .filter(|l| l.contains("sonde-frame:00000007-1."));
        assert!(pieces.count() >= 4, "{lines:?}");
    }
}

#[tokio::test]
async fn a_topic_the_broker_does_not_allow_loses_nothing() {
    let settings = "allow_anonymous true\nacl_file DIR/acl";
    let broker = Mosquitto::start(settings).await;
    let memory = Memory::of(some(1, 5));
    let running = start(config(broker.port), &memory);
    running.until_state("open").await;
    let why = running.uplink.status.borrow().last_error.clone();
    assert!(
        why.as_deref()
            .is_some_and(|why| why.contains("not authorized")),
        "{why:?}"
    );
    // Those that were on their way are refused one by one.
    let kept = async || memory.change(|queue| queue.waiting.len()) == 5;
    until("all came back", kept).await;
    let lost = memory.change(|queue| queue.condemned.len());
    assert_eq!((lost, memory.delivered()), (0, 0));

    std::fs::write(broker.dir.path().join("acl"), "topic readwrite #\n").expect("written");
    let reload = rustix::process::Pid::from_child(&broker.child);
    rustix::process::kill_process(reload, rustix::process::Signal::HUP).expect("alive");
    until("delivered", async || memory.delivered() == 5).await;
    running.finish().await;
}

#[tokio::test]
async fn a_topic_the_broker_does_not_allow_holds_only_its_signal() {
    let settings = "allow_anonymous true\nacl_file DIR/acl";
    let broker = Mosquitto::start(settings).await;
    let acl = broker.dir.path().join("acl");
    let reload = || {
        let pid = rustix::process::Pid::from_child(&broker.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("alive");
    };
    let rules = "topic write sonde/+/state\ntopic write sonde/+/telemetry/metrics\n";
    std::fs::write(&acl, rules).expect("written");
    reload();
    let logs = some(100, 5).map(|mut frame| {
        frame.batch.signal = Signal::Logs;
        frame
    });
    let mut metrics = some(1, 20).map(|mut frame| {
        frame.batch.signal = Signal::Metrics;
        frame
    });
    let memory = Memory::of(logs.chain(metrics.by_ref().take(10)));
    let mut config = config(broker.port);
    config.delivery.backoff.1 = Duration::from_secs(2);
    let running = start(config, &memory);
    until("metrics pass", async || memory.delivered() == 10).await;
    memory.add(metrics);
    until("and go on passing", async || memory.delivered() == 20).await;
    let mut status = running.uplink.status.clone();
    let held =
        |status: &crate::status::UplinkStatus| status.state == "up" && status.held.len() == 1;
    let status = timeout(PATIENCE, status.wait_for(held)).await;
    let status = status.expect("in time").expect("runs").clone();
    assert_eq!(status.held[0].signal, "logs");
    assert!(
        status.held[0].reason.contains("not authorized"),
        "{status:?}"
    );
    assert_eq!(status.connections, 1, "the connection stays");

    std::fs::write(&acl, "topic readwrite #\n").expect("written");
    reload();
    until("logs pass at a probe", async || memory.delivered() == 25).await;
    running.finish().await;
    assert_eq!(memory.change(|queue| queue.condemned.len()), 0);
}

#[tokio::test]
async fn nobody_listening_is_waited_for_and_ended_at_once_when_asked() {
    let running = start(config(free_port().await), &Memory::of(some(1, 1)));
    running.until_state("waiting").await;
    let why = running.uplink.status.borrow().last_error.clone();
    assert!(
        why.as_deref().is_some_and(|why| why.contains("refused")),
        "{why:?}"
    );
    running.finish().await;
}

#[tokio::test]
async fn tls_is_spoken_and_a_wrong_name_is_said_before_anything_is_sent() {
    let settings = "allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server.key";
    let broker = Mosquitto::start(settings).await;
    let ca_file = Some(broker.dir.path().join("server.pem"));
    let tls = |host: &str| MqttUplink {
        host: host.to_owned(),
        tls: Some(Tls {
            ca_file: ca_file.clone(),
            ..Tls::default()
        }),
        ..config(broker.port)
    };
    let memory = Memory::of(some(1, 20));
    let running = start(tls("localhost"), &memory);
    until("delivered", async || memory.delivered() == 20).await;
    running.finish().await;

    let memory = Memory::of(some(1, 1));
    let running = start(tls("127.0.0.1"), &memory);
    running.until_state("open").await;
    let why = running.uplink.status.borrow().last_error.clone();
    assert!(
        why.as_deref().is_some_and(|why| why.contains("127.0.0.1")),
        "{why:?}"
    );
    running.finish().await;
    assert_eq!(memory.delivered(), 0);
}

/// With TLS 1.3 it says so after the handshake, in answer to our CONNECT.
#[tokio::test]
async fn a_broker_that_refuses_our_certificate_is_a_matter_of_credentials() {
    let settings = "allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server.key\n\
        require_certificate true\ncafile DIR/server.pem";
    let broker = Mosquitto::start(settings).await;
    let stranger = rcgen::generate_simple_self_signed(["device-7".to_owned()]).expect("made");
    let (cert, key) = (
        broker.dir.path().join("client.pem"),
        broker.dir.path().join("client.key"),
    );
    std::fs::write(&cert, stranger.cert.pem()).expect("written");
    std::fs::write(&key, stranger.signing_key.serialize_pem()).expect("written");
    let without = Tls {
        ca_file: Some(broker.dir.path().join("server.pem")),
        ..Tls::default()
    };
    let with = Tls {
        cert_file: Some(cert),
        key_file: Some(key),
        ..without.clone()
    };
    for (tls, words) in [
        (without, "demands a client certificate"),
        (with, "refused our client certificate"),
    ] {
        let mut config = config(broker.port);
        config.host = "localhost".into();
        config.tls = Some(tls);
        let memory = Memory::of(some(1, 1));
        let running = start(config, &memory);
        running.until_state("open").await;
        let why = running.uplink.status.borrow().last_error.clone();
        assert!(
            why.as_deref().is_some_and(|why| why.contains(words)),
            "{why:?}"
        );
        running.finish().await;
        assert_eq!(memory.delivered(), 0);
    }
}

/// A broker that takes state messages and puts everything else off (0x97).
/// Counts what it was sent.
async fn full_broker() -> (u16, Arc<Mutex<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let publishes = Arc::new(Mutex::new(0));
    let count = Arc::clone(&publishes);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("agent");
        let mut buffer = bytes::BytesMut::new();
        loop {
            let answer = match Packet::read(&mut buffer, None) {
                Ok(Packet::Connect(..)) => vec![0x20, 3, 0, 0, 0],
                Ok(Packet::PingReq(_)) => vec![0xd0, 0],
                Ok(Packet::Publish(publish)) => {
                    let [high, low] = publish.pkid.to_be_bytes();
                    let state = publish.topic.ends_with(b"/state");
                    *count.lock().expect("fine") += u32::from(!state);
                    vec![0x40, 3, high, low, if state { 0 } else { 0x97 }]
                }
                Ok(_) => return,
                Err(_) => match stream.read_buf(&mut buffer).await {
                    Ok(1..) => continue,
                    _ => return,
                },
            };
            stream.write_all(&answer).await.expect("agent listens");
        }
    });
    (port, publishes)
}

#[tokio::test]
async fn a_broker_over_its_quota_is_not_pressed_even_by_the_last_drain() {
    let (port, publishes) = full_broker().await;
    let memory = Memory::of(some(1, 3));
    let mut config = config(port);
    config.delivery.backoff = (Duration::from_secs(60), Duration::from_secs(60));
    let running = start(config, &memory);
    running.until_state("waiting").await;
    running.finish().await;
    let sent = *publishes.lock().expect("fine");
    assert!((1..=8).contains(&sent), "{sent} publishes for 3 frames");
    let kept = memory.change(|queue| queue.waiting.len());
    assert_eq!((kept, memory.delivered()), (3, 0));
}

#[test]
fn since_is_written_as_people_and_machines_read_it() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(rfc3339(1_795_233_906), "2026-11-21T04:05:06Z");
    assert_eq!(rfc3339(4_102_444_799), "2099-12-31T23:59:59Z");
}
