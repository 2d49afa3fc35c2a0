//! Messages of the outbox through a whole feed against the scripted broker,
//! order over cuts, refusals, what a message says.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, Publish};
use tokio::io::duplex;
use tokio::sync::watch;

use super::feed::{Feed, Store};
use super::inbox::Inbox;
use super::link::run;
use super::order::{MAX_WAITING, Order};
use super::reason::Reaction;
use super::script::{Broker, attempt, frame, no_properties, plan};
use crate::clock::{Clock, ClockTrust};
use crate::config;
use crate::frame::{Class, Codec, Frame, FrameId, Signal, Signals};
use crate::message::{Message, Qos};
use crate::outbox::envelope::{Birth, Envelope};
use crate::spool::{Lane, Outcome, Pending, PendingSignal};
use crate::status::UplinkStatus;
use crate::uplink::Stop;
use crate::uplink::attempts::Attempts;
use crate::uplink::delivery::Delivery;
use crate::uplink::dial::Wire;

const BOOT: [u8; 16] = [7; 16];

/// A spool in memory that keeps the order of seqs.
#[derive(Clone)]
struct Memory(Arc<Mutex<Held>>, watch::Sender<Pending>);

#[derive(Default)]
struct Held {
    waiting: BTreeMap<u64, Frame>,
    flight: BTreeMap<u64, Frame>,
    delivered: Vec<u64>,
    condemned: BTreeMap<u64, String>,
    expired: Vec<u64>,
}

impl Memory {
    fn of(frames: impl IntoIterator<Item = Frame>) -> Self {
        let memory = Self(Arc::default(), watch::channel(Pending::default()).0);
        memory.change(|held| {
            let frames = frames.into_iter().map(|frame| (frame.id.seq, frame));
            held.waiting.extend(frames);
        });
        memory
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.0.lock().unwrap();
        let out = change(&mut held);
        let mut pending = Pending::default();
        for frame in held.waiting.values() {
            let part = &mut pending.signals[frame.batch.signal as usize - 1];
            part.backlog += 1;
            pending.backlog += 1;
        }
        self.1.send_replace(pending);
        out
    }
}

impl Store for Memory {
    fn next(&self, lane: Lane, signals: Signals) -> impl Future<Output = Option<Frame>> + Send {
        std::future::ready(self.change(|held| {
            let mut waiting = held.waiting.values();
            let found = waiting.find(|frame| signals.contains(frame.batch.signal));
            let seq = found.filter(|_| lane == Lane::Backlog)?.id.seq;
            let frame = held.waiting.remove(&seq)?;
            held.flight.insert(seq, frame.clone());
            Some(frame)
        }))
    }

    fn settle(&self, id: FrameId, outcome: Outcome) {
        self.change(|held| {
            let frame = held.flight.remove(&id.seq).expect("was in flight");
            match outcome {
                Outcome::Delivered => held.delivered.push(id.seq),
                Outcome::Condemned(why) => drop(held.condemned.insert(id.seq, why)),
                Outcome::Expired => held.expired.push(id.seq),
                Outcome::Returned => drop(held.waiting.insert(id.seq, frame)),
            }
        });
    }

    fn link(&self, up: bool) {
        if !up {
            self.change(|held| {
                let flight = std::mem::take(&mut held.flight);
                held.waiting.extend(flight);
            });
        }
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        self.1.subscribe()
    }
}

fn feed(memory: &Memory) -> Feed<Memory> {
    let delivery = config::Delivery {
        required: true,
        timeout: Duration::from_secs(10),
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        backlog_rate: None,
        first_send_jitter: Duration::ZERO,
    };
    let clock = Clock::new(ClockTrust::Always);
    let (tracer, _) = crate::trace::testing::tracer();
    let order = Order::new(delivery.backoff);
    Feed::new(
        memory.clone(),
        clock.clone(),
        BOOT,
        (Delivery::new(delivery, 1, clock.boot_ns()), order),
        Arc::new(Wire::default()),
        watch::channel(UplinkStatus::default()).0,
        Attempts::new(
            tracer,
            clock,
            crate::event::testing::events().0,
            "connect",
            [],
        ),
    )
}

fn message(seq: u64, message: &Message) -> Frame {
    let clock = Clock::new(ClockTrust::Always);
    let birth = Birth {
        boot_id: BOOT,
        believed: true,
    };
    let mut stored = frame(seq, b"");
    stored.batch.signal = Signal::Message;
    stored.batch.class = Class::Outbox;
    stored.batch.codec = Codec::Identity;
    stored.batch.body = Envelope::encode(message, birth);
    (stored.batch.first, stored.batch.last) = (clock.now(), clock.now());
    stored
}

fn to(seq: u64, topic: &str) -> Frame {
    let said = Message {
        topic: topic.to_owned(),
        payload: Bytes::from(seq.to_string()),
        ..Message::default()
    };
    message(seq, &said)
}

/// One connection of a feed against a script.
async fn meet<S, Fut>(feed: &mut Feed<Memory>, script: S) -> Reaction
where
    S: FnOnce(Broker, Stop) -> Fut,
    Fut: Future<Output = ()>,
{
    meet_so(feed, false, script).await
}

async fn meet_so<S, Fut>(feed: &mut Feed<Memory>, one_by_one: bool, script: S) -> Reaction
where
    S: FnOnce(Broker, Stop) -> Fut,
    Fut: Future<Output = ()>,
{
    let (near, far) = duplex(64 * 1024);
    let stop = Stop::default();
    let broker = Broker {
        stream: far,
        buffer: BytesMut::new(),
    };
    let script = script(broker, stop.clone());
    let (plan, mut attempt, mut inbox) = (plan(), attempt(), Inbox::new(None));
    attempt.one_by_one = one_by_one;
    let (end, ()) = tokio::join!(run(near, &plan, &attempt, feed, &mut inbox, &stop), script);
    let reaction = end.reaction;
    feed.ended(end);
    reaction
}

fn seq_of(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload)
        .unwrap()
        .parse()
        .unwrap()
}

async fn refuse(broker: &mut Broker, pkid: u16, code: u8) {
    let [high, low] = pkid.to_be_bytes();
    broker.say_bytes(&[0x40, 3, high, low, code]).await;
}

#[tokio::test]
async fn cuts_in_mid_window_shuffled_answers_and_a_shrinking_window_keep_the_order() {
    let topics = ["a", "b", "c"];
    let all = (1..=30).map(|seq| to(seq, topics[seq as usize % 3]));
    let memory = Memory::of(all);
    let mut feed = feed(&memory);
    let seen = Arc::new(Mutex::new(Vec::new()));
    for connection in 0..80_u16 {
        if memory.change(|held| held.delivered.len()) == 30 {
            break;
        }
        let book = Arc::clone(&seen);
        let properties = ConnAckProperties {
            receive_max: Some(4 - connection % 4),
            ..no_properties()
        };
        meet(&mut feed, async |mut broker: Broker, _: Stop| {
            broker.welcome(Some(properties)).await;
            let mut open = Vec::new();
            for _ in 0..2 + connection % 3 {
                let heard = broker.hear_publish();
                let heard = tokio::time::timeout(Duration::from_millis(150), heard).await;
                let Ok(publish) = heard else {
                    // The last one is alone.
                    if connection % 2 == 0 {
                        while let Some(pkid) = open.pop() {
                            broker.ack(pkid).await;
                        }
                    }
                    break;
                };
                book.lock().unwrap().push(seq_of(&publish));
                open.push(publish.pkid);
                if open.len() == 2 {
                    // The later one first; the other only now and then.
                    broker.ack(open.pop().unwrap()).await;
                    if connection % 2 == 0 {
                        broker.ack(open.pop().unwrap()).await;
                    }
                }
            }
        })
        .await;
    }
    let seen = seen.lock().unwrap().clone();
    for topic in 0..3 {
        let mut next = if topic == 0 { 3 } else { topic };
        for seq in seen.iter().copied().filter(|seq| seq % 3 == topic) {
            assert!(seq <= next, "{seq} overtook {next}: {seen:?}");
            next = next.max(seq + 3);
        }
        assert!(next > 30, "a gap: {seen:?}");
    }
    let delivered: BTreeSet<u64> = memory.change(|held| held.delivered.iter().copied().collect());
    assert_eq!(delivered.len(), 30);
}

#[tokio::test]
async fn one_refused_topic_stops_neither_the_others_nor_telemetry() {
    let mut telemetry = frame(9, b"x");
    telemetry.batch.codec = Codec::Identity;
    let frames = (1..=6).map(|seq| to(seq, if seq % 2 == 0 { "bad" } else { "good" }));
    let memory = Memory::of(frames.chain([telemetry]));
    let mut feed = feed(&memory);
    meet(&mut feed, async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let mut taken = 0;
        while taken < 4 {
            let publish = broker.hear_publish().await;
            if publish.topic == "bad" {
                refuse(&mut broker, publish.pkid, 0x87).await;
            } else {
                broker.ack(publish.pkid).await;
                taken += 1;
            }
        }
        // Now it is allowed: what waited comes, in its order.
        let mut came = Vec::new();
        while came.len() < 3 {
            let publish = broker.hear_publish().await;
            assert_eq!(publish.topic, "bad");
            came.push(seq_of(&publish));
            broker.ack(publish.pkid).await;
        }
        assert_eq!(came, [2, 4, 6]);
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    })
    .await;
    memory.change(|held| {
        assert_eq!(held.delivered.len(), 7);
        assert!(held.condemned.is_empty());
    });
}

#[tokio::test]
async fn a_broker_that_hangs_up_over_a_topic_is_asked_one_by_one_and_telemetry_goes_on() {
    let frames = [to(1, "bad"), to(2, "good"), frame(3, b"x")];
    let memory = Memory::of(frames);
    let mut feed = feed(&memory);
    let first = meet(&mut feed, async |mut broker: Broker, _| {
        broker.welcome(None).await;
        broker.hear_publish().await;
        broker.hear_publish().await;
        // DISCONNECT, not authorized.
        broker.say_bytes(&[0xe0, 2, 0x87, 0]).await;
        broker.hear().await;
    })
    .await;
    assert_eq!(first, Reaction::OneByOne, "not held");
}

#[tokio::test]
async fn what_the_broker_never_takes_is_counted_and_the_rest_goes_on() {
    let mut large = Message {
        topic: "a".to_owned(),
        payload: Bytes::from(vec![b'x'; 500]),
        ..Message::default()
    };
    let memory = Memory::of([to(1, "a"), message(2, &large), to(3, "a"), to(4, "a")]);
    large.payload = Bytes::new();
    let mut feed = feed(&memory);
    let properties = ConnAckProperties {
        max_packet_size: Some(400),
        ..no_properties()
    };
    meet(&mut feed, async |mut broker: Broker, stop: Stop| {
        broker.welcome(Some(properties)).await;
        for code in [0x90, 0x99, 0] {
            let publish = broker.hear_publish().await;
            refuse(&mut broker, publish.pkid, code).await;
        }
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    })
    .await;
    memory.change(|held| {
        assert_eq!(held.delivered, [4]);
        let condemned: Vec<_> = held.condemned.keys().copied().collect();
        assert_eq!(condemned, [1, 2, 3]);
        assert!(held.condemned[&2].contains("the broker takes at most 400"));
    });
}

#[tokio::test]
async fn more_refused_messages_than_can_wait_stay_in_the_spool_and_telemetry_goes_on() {
    let many = MAX_WAITING as u64 + 40;
    let bad = (1..=many).map(|seq| to(seq, "bad"));
    let telemetry = (0..8).map(|n| frame(many + 2 + n, b"x"));
    let memory = Memory::of(bad.chain([to(many + 1, "good")]).chain(telemetry));
    let mut feed = feed(&memory);
    meet(&mut feed, async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let mut telemetry = 0;
        let mut refused = 0;
        // All telemetry passes; then the refused one is only probed.
        while telemetry < 8 || refused < 12 {
            let publish = broker.hear_publish().await;
            if publish.topic == "bad" {
                refused += 1;
                refuse(&mut broker, publish.pkid, 0x87).await;
            } else {
                telemetry += u32::from(publish.payload == "x");
                broker.ack(publish.pkid).await;
            }
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&many) || !seen.contains(&(many + 1)) {
            let publish = broker.hear_publish().await;
            seen.push(seq_of(&publish));
            broker.ack(publish.pkid).await;
        }
        seen.retain(|seq| *seq <= many);
        assert!(seen.is_sorted(), "{seen:?}");
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    })
    .await;
    memory.change(|held| {
        assert!(held.condemned.is_empty(), "{:?}", held.condemned);
        assert_eq!(held.delivered.len() as u64, many + 9);
    });
}

#[tokio::test]
async fn an_expired_message_behind_a_refused_one_is_counted_and_holds_up_nobody() {
    let bad = |seq: u64, expiry| {
        let said = Message {
            topic: "bad".to_owned(),
            payload: Bytes::from(seq.to_string()),
            expiry,
            ..Message::default()
        };
        let mut stored = message(seq, &said);
        stored.batch.first.boot_ns = stored.batch.first.boot_ns.saturating_sub(2_000_000_000);
        stored
    };
    let frames = [
        bad(1, Some(3600)),
        bad(2, Some(1)),
        to(3, "good"),
        to(4, "bad"),
    ];
    let memory = Memory::of(frames);
    let mut feed = feed(&memory);
    meet(&mut feed, async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let mut refused = Vec::new();
        let mut taken = Vec::new();
        while taken.len() < 3 {
            let publish = broker.hear_publish().await;
            let seq = seq_of(&publish);
            assert_ne!(seq, 2, "it has expired");
            if seq != 3 && !refused.contains(&seq) {
                refused.push(seq);
                refuse(&mut broker, publish.pkid, 0x87).await;
            } else {
                broker.ack(publish.pkid).await;
                taken.push(seq);
            }
        }
        assert_eq!(taken, [3, 1, 4]);
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    })
    .await;
    memory.change(|held| {
        assert_eq!(held.expired, [2]);
        assert_eq!(held.delivered.len(), 3);
    });
}

/// A broker that hangs up when it sees what it does not like, and takes the rest.
async fn hangs_up(mut broker: Broker, poison: impl Fn(&Publish) -> bool) -> Broker {
    broker.welcome(None).await;
    loop {
        let publish = broker.hear_publish().await;
        if poison(&publish) {
            return broker;
        }
        broker.ack(publish.pkid).await;
    }
}

#[tokio::test]
async fn what_the_broker_hangs_up_over_again_and_again_is_given_up_and_the_rest_goes_on() {
    let said = |seq, payload: &'static str| {
        let said = Message {
            topic: "a".to_owned(),
            payload: Bytes::from_static(payload.as_bytes()),
            ..Message::default()
        };
        message(seq, &said)
    };
    let poisons = [said(1, "good"), said(2, "poison"), frame(3, b"poison")];
    let rest = [frame(4, b"x"), said(5, "good"), said(6, "good")];
    let memory = Memory::of(poisons.into_iter().chain(rest));
    let mut feed = feed(&memory);
    let mut one_by_one = false;
    let mut connections = 0;
    while memory.change(|held| held.delivered.len()) < 4 {
        connections += 1;
        assert!(
            connections < 40,
            "{:?}",
            memory.change(|h| h.delivered.clone())
        );
        let reaction = meet_so(&mut feed, one_by_one, async |broker: Broker, _: Stop| {
            let heard = hangs_up(broker, |publish| publish.payload == "poison");
            let ended = tokio::time::timeout(Duration::from_millis(300), heard).await;
            drop(ended);
        })
        .await;
        one_by_one = reaction == Reaction::OneByOne;
    }
    memory.change(|held| {
        let condemned: Vec<_> = held.condemned.keys().copied().collect();
        assert_eq!(condemned, [2, 3]);
        assert!(held.condemned[&2].contains("closed 5 connections over it"));
    });
}

#[tokio::test]
async fn a_broker_that_hangs_up_over_everything_costs_one_message_and_no_more() {
    let memory = Memory::of((1..=20).map(|seq| to(seq, "a")));
    let mut feed = feed(&memory);
    for connection in 0..40 {
        meet_so(
            &mut feed,
            connection > 0,
            async |broker: Broker, _: Stop| {
                drop(hangs_up(broker, |_| true).await);
            },
        )
        .await;
    }
    memory.change(|held| assert_eq!(held.condemned.len(), 1));
}

#[tokio::test]
async fn a_message_says_all_it_was_given_and_goes_at_its_own_qos() {
    let said = Message {
        topic: "plant/1".to_owned(),
        payload: Bytes::from_static(b"7"),
        qos: Qos::AtMostOnce,
        retain: true,
        expiry: Some(3600),
        text: true,
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("r".to_owned()),
        correlation: Some(Bytes::from_static(b"c")),
        properties: vec![("unit".to_owned(), "Cel".to_owned())],
        context: None,
        baggage: "k=v".into(),
    };
    let mut late = message(
        2,
        &Message {
            expiry: Some(1),
            ..said.clone()
        },
    );
    late.batch.first.boot_ns = late.batch.first.boot_ns.saturating_sub(2_000_000_000);
    let memory = Memory::of([message(1, &said), late]);
    let mut feed = feed(&memory);
    meet(&mut feed, async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let publish = broker.hear_publish().await;
        assert_eq!(
            (publish.topic.as_ref(), publish.qos),
            (&b"plant/1"[..], QoS::AtMostOnce)
        );
        assert!(publish.retain);
        let properties = publish.properties.expect("some");
        assert_eq!(properties.message_expiry_interval, Some(3600));
        assert_eq!(properties.payload_format_indicator, Some(1));
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.response_topic.as_deref(), Some("r"));
        assert_eq!(properties.correlation_data.as_deref(), Some(&b"c"[..]));
        let user: Vec<_> = properties
            .user_properties
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let traceparent = format!("traceparent=00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
        let expected = [
            "unit=Cel",
            &traceparent,
            "tracestate=vendor=1",
            "baggage=k=v",
            "sonde-frame=00000007-1",
        ];
        assert_eq!(user, expected);
        stop.finish.cancel();
        let last = broker.hear().await;
        let Some(Packet::Publish(last)) = last else {
            panic!("{last:?}")
        };
        broker.ack(last.pkid).await;
    })
    .await;
    memory.change(|held| {
        assert_eq!(held.delivered, [1], "written is delivered at QoS 0");
        assert_eq!(held.expired, [2]);
    });
}

#[test]
fn the_pending_of_this_memory_is_by_signal() {
    let memory = Memory::of([to(1, "a"), frame(2, b"x")]);
    let pending = *memory.pending().borrow();
    let one = PendingSignal {
        backlog: 1,
        ..PendingSignal::default()
    };
    assert_eq!(
        pending.signals,
        [one, PendingSignal::default(), PendingSignal::default(), one]
    );
}
