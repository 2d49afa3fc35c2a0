//! One gateway with its links and receivers, set up and judged in few words.

use std::time::Duration;

use crate::agent::{Agent, Gateway};
use crate::broker::{Broker, Door, Subscriber};
use crate::certs::Certs;
use crate::collector::Collector;
use crate::ledger::Ledger;
use crate::link::{Link, Mode};
use crate::proof::{self, Verdict};
use crate::{consumer, report};

/// For what should happen at once on a machine with other work to do.
pub const SOON: Duration = Duration::from_secs(20);
/// For what takes some batches.
pub const LATER: Duration = Duration::from_secs(60);
/// The agent's own bound between SIGTERM and its end, with room for a busy machine.
pub const END: Duration = Duration::from_secs(20);

/// A collector behind a link.
#[derive(Debug)]
pub struct Otlp {
    /// The sink.
    pub collector: Collector,
    /// Between it and the gateway.
    pub link: Link,
}

/// A broker behind a link, and who reads from it.
#[derive(Debug)]
pub struct Mqtt {
    /// mosquitto
    pub broker: Broker,
    /// Reads everything under the gateway's prefix.
    pub subscriber: Subscriber,
    /// Between the broker and the gateway.
    pub link: Link,
}

impl Otlp {
    /// A plain one.
    pub async fn start() -> Self {
        let collector = Collector::start().await.expect("a collector");
        let link = Link::to(collector.address()).await.expect("a link");
        Self { collector, link }
    }

    /// A gateway that sends to it.
    pub fn gateway(&self, id: &str) -> Gateway {
        let mut gateway = Gateway::new(id);
        gateway.otlp(&self.url());
        gateway
    }

    /// Its address through the link.
    pub fn url(&self) -> String {
        format!("http://{}", self.link.address())
    }

    /// Waits until a tick of the newest process start has come.
    pub async fn tick(&self, tick: u64) {
        let what = format!("tick {tick} at the collector");
        let came = |ledger: &Ledger| newest_tick(ledger) >= tick;
        self.collector
            .book
            .wait(&what, LATER, came)
            .await
            .unwrap_or_else(|error| panic!("{error}; answered {:?}", self.collector.statuses()));
    }

    /// Demands the proof, and that every request was OTLP. Leaves the traces in the report.
    pub fn prove(&self, name: &str) -> Verdict {
        assert_eq!(self.collector.faults(), Vec::<String>::new());
        let ledger = self.collector.book.copy();
        report::traces(name, &ledger).expect("the report");
        demand(&ledger)
    }
}

impl Mqtt {
    /// One with this door for the gateway `id`.
    pub async fn start(id: &str, door: &Door, certs: Option<&Certs>) -> Self {
        let broker = Broker::start(door, certs).await.expect("mosquitto");
        let prefix = prefix(id);
        let subscriber = Subscriber::start(broker.back_door(), &prefix)
            .await
            .expect("a subscriber");
        let link = Link::to(broker.address()).await.expect("a link");
        Self {
            broker,
            subscriber,
            link,
        }
    }

    /// A plain, anonymous one.
    pub async fn plain(id: &str) -> Self {
        Self::start(id, &Door::Plain, None).await
    }

    /// A gateway that sends to it.
    pub fn gateway(&self, id: &str) -> Gateway {
        let mut gateway = Gateway::new(id);
        self.connect(&mut gateway, id);
        gateway
    }

    /// Adds this uplink to a gateway.
    pub fn connect(&self, gateway: &mut Gateway, id: &str) {
        gateway
            .mqtt(&format!("mqtt://{}", self.link.address()))
            .text("uplink.mqtt.topic_prefix", &prefix(id));
    }

    /// Waits until a tick of the newest process start has come.
    pub async fn tick(&self, tick: u64) {
        let what = format!("tick {tick} at the broker");
        let came = |ledger: &Ledger| newest_tick(ledger) >= tick;
        self.subscriber
            .book
            .wait(&what, LATER, came)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", self.broker.log()));
    }

    /// Demands the proof, and that every message was as documented.
    pub fn prove(&self) -> Verdict {
        assert_eq!(self.subscriber.faults(), Vec::<String>::new());
        demand(&self.subscriber.book.copy())
    }
}

/// Asks the agent to end, and waits until what it sent last has come to all
/// receivers: the broker hands on after it has acknowledged.
pub async fn finish(agent: &mut Agent, otlp: Option<&Otlp>, mqtt: Option<&Mqtt>) {
    let exit = agent.terminate(END).await.expect("a clean end");
    assert!(exit.success(), "{exit}\n{}", agent.stderr());
    if let (Some(otlp), Some(mqtt)) = (otlp, mqtt) {
        let last = otlp.collector.book.read(newest_tick);
        mqtt.tick(last).await;
    }
    if let Some(mqtt) = mqtt {
        let whole = |ledger: &Ledger| proof::judge(ledger).holds();
        // What is wrong is said by the proof that follows.
        let _ = mqtt.subscriber.book.wait("the rest", SOON, whole).await;
    }
}

/// Every CONSUMER span at the broker hangs on a PRODUCER span at the collector,
/// and each of these traces is one tree. Returns how many there are.
pub fn traces_reach_the_consumer(otlp: &Otlp, mqtt: &Mqtt) -> usize {
    let (spans, messages) = (otlp.collector.book.copy(), mqtt.subscriber.book.copy());
    let forest = consumer::forest(&spans, &messages);
    let consumers: Vec<_> = messages
        .deliveries
        .iter()
        .filter_map(consumer::span)
        .collect();
    for span in &consumers {
        let tree = forest.tree(&span.trace_id);
        assert!(tree.is_whole(), "not one tree:\n{}", forest.draw(&tree));
    }
    consumers.len()
}

/// Both links at once.
pub async fn set_links(otlp: &Otlp, mqtt: &Mqtt, mode: Mode) {
    otlp.link.set(mode).await;
    mqtt.link.set(mode).await;
}

/// The last tick of the process start that was seen last.
pub fn newest_tick(ledger: &Ledger) -> u64 {
    let newest = proof::judge(ledger).instances.pop();
    newest.map_or(0, |instance| instance.last_tick)
}

/// The prefix of a test's gateway.
pub fn prefix(id: &str) -> String {
    format!("fleet/{id}")
}

fn demand(ledger: &Ledger) -> Verdict {
    let verdict = proof::judge(ledger);
    assert!(verdict.holds(), "{:#?}", verdict.failures());
    verdict
}
