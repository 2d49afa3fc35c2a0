//! Local programs' own messages through the whole program and the real mosquitto.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use sonde_agent::cli::client::{Reply, Request, send};
use sonde_tests::agent::{Agent, Gateway, binary, run};
use sonde_tests::link::Mode;
use sonde_tests::trace_tree::parse_traceparent;
use sonde_tests::world::{LATER, Mqtt, SOON};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const TOPICS: u64 = 5;
const EACH: u64 = 100;

/// Everything under `plant/`, in the order in which the broker handed it on.
struct Listener {
    seen: Arc<Mutex<Vec<Publish>>>,
    news: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    async fn start(mqtt: &Mqtt) -> Self {
        let broker = mqtt.broker.back_door();
        let mut options = MqttOptions::new("listener", broker.ip().to_string(), broker.port());
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe("plant/#", QoS::AtLeastOnce).await.unwrap();
        let seen = Arc::<Mutex<Vec<Publish>>>::default();
        let (count, mut news) = watch::channel(usize::MAX);
        let book = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let _client = client;
            loop {
                match events.poll().await.expect("the back door stays open") {
                    Event::Incoming(Packet::SubAck(_)) => {
                        count.send_replace(0);
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        let mut book = book.lock().unwrap();
                        book.push(publish);
                        count.send_replace(book.len());
                    }
                    _ => {}
                }
            }
        });
        news.wait_for(|count| *count == 0).await.unwrap();
        Self { seen, news, task }
    }

    async fn wait(&mut self, what: &str, enough: impl Fn(&[Publish]) -> bool) {
        let seen = Arc::clone(&self.seen);
        let came = self.news.wait_for(|_| enough(&seen.lock().unwrap()));
        let came = timeout(LATER, came).await.is_ok();
        assert!(came, "{what}: {} came", self.seen.lock().unwrap().len());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn socket(gateway: &Gateway) -> PathBuf {
    gateway.path("sonde.sock")
}

async fn post(socket: &Path, query: &str, body: &[u8], traceparent: Option<&str>) -> Option<Reply> {
    let headers: Vec<_> = traceparent.iter().map(|it| ("traceparent", *it)).collect();
    let path = format!("/publish?{query}");
    let request = Request {
        method: "POST",
        path: &path,
        headers: &headers,
        body,
    };
    send(socket, &request).await.ok()
}

fn gateway(mqtt: &Mqtt, id: &str) -> Gateway {
    let mut gateway = mqtt.gateway(id);
    gateway
        .set("outbox.allow", "[\"plant/\"]")
        .set("outbox.rate", "1000");
    gateway
}

async fn up(agent: &mut Agent) {
    let up = |status: &sonde_agent::status::Status| status.uplinks[0].state == "up";
    agent.wait("the uplink", SOON, up).await.unwrap();
}

/// The program's own span of one message.
fn traceparent(topic: u64, n: u64) -> String {
    format!("00-{:032x}-{:016x}-01", topic * 1000 + n + 1, 0xabc)
}

fn property<'a>(publish: &'a Publish, name: &str) -> Option<&'a str> {
    let properties = publish.properties.as_ref()?.user_properties.iter();
    let mut found = properties.filter(|(key, _)| key == name);
    found.next().map(|(_, value)| value.as_str())
}

fn by_topic(seen: &[Publish]) -> BTreeMap<String, Vec<(u64, &Publish)>> {
    let mut topics: BTreeMap<String, Vec<(u64, &Publish)>> = BTreeMap::new();
    for publish in seen {
        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
        let n = std::str::from_utf8(&publish.payload).unwrap();
        topics
            .entry(topic)
            .or_default()
            .push((n.parse().unwrap(), publish));
    }
    topics
}

#[tokio::test]
async fn what_was_answered_arrives_in_order_after_an_outage_and_a_kill() {
    let id = "outbox-order";
    let mqtt = Mqtt::plain(id).await;
    let mut listener = Listener::start(&mqtt).await;
    let gateway = gateway(&mqtt, id);
    let mut agent = gateway.start();
    up(&mut agent).await;
    mqtt.link.set(Mode::Cut).await;

    let answered = Arc::new(AtomicU64::new(0));
    let programs: Vec<_> = (0..TOPICS)
        .map(|topic| {
            let (socket, answered) = (socket(&gateway), Arc::clone(&answered));
            tokio::spawn(async move {
                for n in 0..EACH {
                    let query = format!("topic=plant/{topic}");
                    let (body, parent) = (n.to_string(), traceparent(topic, n));
                    // Not answered means not known: hand it in again.
                    loop {
                        let reply = post(&socket, &query, body.as_bytes(), Some(&parent)).await;
                        match reply {
                            Some(reply) if reply.status == 200 => break,
                            Some(reply) if reply.status != 503 => panic!("{}", reply.error()),
                            _ => sleep(Duration::from_millis(50)).await,
                        }
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < TOPICS * EACH / 2 {
        sleep(Duration::from_millis(10)).await;
    }
    agent.kill().await;
    let mut agent = gateway.start();
    for program in programs {
        timeout(LATER, program).await.expect("in time").unwrap();
    }
    mqtt.link.set(Mode::Up).await;
    listener
        .wait("all messages", |seen| {
            let topics = by_topic(seen);
            topics.len() as u64 == TOPICS
                && topics
                    .values()
                    .all(|all| all.iter().any(|(n, _)| *n == EACH - 1))
        })
        .await;

    let seen = listener.seen.lock().unwrap().clone();
    let mut spans = BTreeMap::new();
    for (topic, messages) in by_topic(&seen) {
        let number: u64 = topic.strip_prefix("plant/").unwrap().parse().unwrap();
        let mut next = 0;
        for (n, publish) in messages {
            assert!(n <= next, "{topic}: {n} overtook {next}");
            next = next.max(n + 1);
            let parent = traceparent(number, n);
            let (own_trace, own_span) = parse_traceparent(&parent).unwrap();
            let carried = property(publish, "traceparent").expect("a traceparent");
            let (trace, span) = parse_traceparent(carried).expect("a valid one");
            assert_eq!(trace, own_trace, "{topic} {n}");
            assert_ne!(span, own_span, "the message has a span of its own");
            assert!(property(publish, "sonde-frame").is_some());
            spans.insert(span, own_span);
        }
        assert_eq!(next, EACH, "{topic}: a gap");
    }
    // The spans of the killed process may have been in its memory only.
    let producers = |ledger: &sonde_tests::ledger::Ledger| {
        let all = ledger.spans().into_iter();
        let own = all.filter(|(_, span)| span.name == "publish plant/#");
        own.filter(|(_, span)| spans.get(&span.span_id) == Some(&span.parent_span_id))
            .count() as u64
    };
    mqtt.subscriber
        .book
        .wait("PRODUCER spans", LATER, |ledger| {
            producers(ledger) >= TOPICS * EACH / 3
        })
        .await
        .unwrap();
    assert!(agent.terminate(SOON).await.unwrap().success());
}

#[tokio::test]
async fn a_message_travels_with_all_that_was_said_of_it_by_the_command() {
    let id = "outbox-command";
    let mqtt = Mqtt::plain(id).await;
    let mut listener = Listener::start(&mqtt).await;
    let gateway = gateway(&mqtt, id);
    let mut agent = gateway.start();
    up(&mut agent).await;
    let config = gateway.write().display().to_string();
    let publish = async |rest: &[&str]| {
        let mut args = vec!["publish", "--config", &config];
        args.extend(rest);
        run(&args).await
    };
    let all = [
        "plant/1",
        "--message",
        "21,5 °C",
        "--qos",
        "0",
        "--expiry",
        "60",
        "--content-type",
        "text/plain",
        "--response-topic",
        "plant/r",
        "--correlation",
        "c",
        "--property",
        "a=b",
    ];
    let output = publish(&all).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let frame = String::from_utf8(output.stdout).unwrap();
    listener.wait("the message", |seen| !seen.is_empty()).await;
    let seen = listener.seen.lock().unwrap()[0].clone();
    assert_eq!(seen.payload, "21,5 °C");
    assert_eq!(property(&seen, "a"), Some("b"));
    assert_eq!(property(&seen, "sonde-frame"), Some(frame.trim()));
    let properties = seen.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("plant/r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"c"[..]));
    assert_eq!(properties.payload_format_indicator, Some(1));
    let left = properties.message_expiry_interval.unwrap();
    assert!((50..=60).contains(&left), "{left}");

    for (rest, code, words) in [
        (&["plants/1", "--message", "x"][..], 1, "outbox.allow"),
        (&["plant/+", "--message", "x"], 2, "wildcard"),
        (&["plant/1", "--message", "x", "--qos", "2"], 2, "QoS 2"),
        (&["--message", "x"], 2, "topic"),
        (&["plant/1", "--colour", "red"], 2, "--colour"),
    ] {
        let output = publish(rest).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{rest:?}: {errors}");
        assert!(errors.contains(words), "{rest:?}: {errors}");
    }
    assert!(agent.terminate(SOON).await.unwrap().success());
    let output = publish(&["plant/1", "--message", "x"]).await;
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test]
async fn the_callers_trace_its_state_and_its_baggage_go_with_the_message() {
    let id = "outbox-trace";
    let mqtt = Mqtt::plain(id).await;
    let mut listener = Listener::start(&mqtt).await;
    let gateway = gateway(&mqtt, id);
    let mut agent = gateway.start();
    up(&mut agent).await;
    let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let output = tokio::process::Command::new(binary())
        .args(["publish", "plant/1", "--message", "7", "--config"])
        .arg(gateway.write())
        .env("TRACEPARENT", own)
        .env("TRACESTATE", "vendor=a,other=b")
        .env("BAGGAGE", "batch=17,shift=late")
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    listener.wait("the message", |seen| !seen.is_empty()).await;
    let seen = listener.seen.lock().unwrap()[0].clone();
    let carried = property(&seen, "traceparent").expect("a traceparent");
    let (trace, span) = parse_traceparent(carried).unwrap();
    let (own_trace, own_span) = parse_traceparent(own).unwrap();
    assert_eq!(trace, own_trace);
    assert_ne!(span, own_span);
    assert_eq!(property(&seen, "tracestate"), Some("vendor=a,other=b"));
    assert_eq!(property(&seen, "baggage"), Some("batch=17,shift=late"));
    assert!(agent.terminate(SOON).await.unwrap().success());
}

#[tokio::test]
async fn a_full_outbox_and_a_hasty_program_are_refused_with_words() {
    let id = "outbox-refuses";
    let mqtt = Mqtt::plain(id).await;
    mqtt.link.set(Mode::Cut).await;
    let mut gateway = gateway(&mqtt, id);
    gateway
        .text("spool.quota", "4MiB")
        .text("spool.memory", "1MiB")
        .text("outbox.byte_rate", "1GiB");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    let body = vec![b'x'; 90_000];
    let mut stored = 0;
    let refused = loop {
        let reply = post(&socket(&gateway), "topic=plant/1", &body, None)
            .await
            .unwrap();
        if reply.status != 200 {
            break reply;
        }
        stored += 1;
        assert!(stored < 100, "4 MiB hold no 9 MB");
    };
    assert_eq!(refused.status, 507, "{}", refused.error());
    assert!(
        refused.error().contains("the outbox is full"),
        "{}",
        refused.error()
    );
    assert!(stored >= 8, "a quarter is the outbox's: {stored}");
    let status = agent.status().await.unwrap();
    assert_eq!(status.outbox.stored, stored);
    assert_eq!(status.outbox.refused.get("full"), Some(&1));

    gateway.set("outbox.rate", "1");
    gateway.write();
    agent.reload();
    let reloaded = |status: &sonde_agent::status::Status| status.config.reloads == 1;
    agent.wait("the reload", SOON, reloaded).await.unwrap();
    let mut hasty = None;
    for _ in 0..20 {
        let reply = post(&socket(&gateway), "topic=plant/1", b"x", None)
            .await
            .unwrap();
        if reply.status == 429 {
            hasty = Some(reply);
            break;
        }
    }
    let hasty = hasty.expect("refused within eleven");
    assert!(hasty.error().contains("outbox.rate"), "{}", hasty.error());
}
