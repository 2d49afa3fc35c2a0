//! What comes to us, against the scripted broker.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Packet, Publish, PublishProperties, RetainForwardRule, SubAck, SubscribeReasonCode,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::inbox::{Arrived, Inbound, Inbox, QUEUE, Subscribed};
use super::packet::{RECEIVE_MAXIMUM, Received};
use super::reason::Reaction;
use super::script::{Broker, KEEP_ALIVE, Queue, attempt, delivered, frames, meet_with, plan};
use super::session::{Attempt, Keep, Plan};
use crate::uplink::Stop;

struct Taker {
    arrived: mpsc::Receiver<Arrived>,
    subscribed: watch::Receiver<Subscribed>,
    dropped: watch::Receiver<u64>,
}

fn inbound() -> (Inbound, Taker) {
    let (to, arrived) = mpsc::channel(QUEUE);
    let inbound = Inbound {
        session_expiry: 600,
        to,
        subscribed: watch::Sender::new(Subscribed::No),
        dropped: watch::Sender::new(0),
    };
    let taker = Taker {
        arrived,
        subscribed: inbound.subscribed.subscribe(),
        dropped: inbound.dropped.subscribe(),
    };
    (inbound, taker)
}

fn keeping() -> Plan {
    Plan {
        keep: Keep::Seconds(600),
        ..plan()
    }
}

fn command(pkid: u16, qos: QoS) -> Packet {
    Packet::Publish(Publish {
        qos,
        topic: Bytes::from_static(b"sonde/gw/command/ping"),
        pkid,
        payload: Bytes::from_static(b"{}"),
        ..Publish::default()
    })
}

/// CONNECT to SUBACK; what was subscribed to.
async fn meet_subscriber(broker: &mut Broker, code: u8) {
    broker.hear().await;
    broker.say_bytes(&[0x20, 3, 0, 0, 0]).await;
    let birth = broker.hear_publish().await;
    broker.ack(birth.pkid).await;
    let Some(Packet::Subscribe(subscribe)) = broker.hear().await else {
        panic!("no SUBSCRIBE");
    };
    assert_ne!(subscribe.pkid, birth.pkid);
    let [filter] = &subscribe.filters[..] else {
        panic!("{subscribe:?}");
    };
    assert_eq!(filter.path, "sonde/gw/command/+");
    assert_eq!(filter.qos, QoS::AtLeastOnce);
    assert_eq!(filter.retain_forward_rule, RetainForwardRule::Never);
    assert!(filter.nolocal);
    let [high, low] = subscribe.pkid.to_be_bytes();
    broker.say_bytes(&[0x90, 4, high, low, 0, code]).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_only_when_whoever_took_it_says_so() {
    let (inbound, mut taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 1).await;
        broker
            .say(Packet::Publish(Publish {
                dup: true,
                qos: QoS::AtLeastOnce,
                topic: Bytes::from_static(b"sonde/gw/command/ping"),
                pkid: 77,
                payload: Bytes::from_static(b"{\"n\":1}"),
                properties: Some(PublishProperties {
                    message_expiry_interval: Some(30),
                    response_topic: Some("cloud/answers".to_owned()),
                    correlation_data: Some(Bytes::from_static(b"\x00\x01")),
                    user_properties: vec![("traceparent".to_owned(), "x".to_owned())],
                    ..PublishProperties::default()
                }),
                ..Publish::default()
            }))
            .await;
        let arrived = taker.arrived.recv().await.expect("one came");
        assert_eq!(
            arrived.message,
            Received {
                topic: "sonde/gw/command/ping".to_owned(),
                payload: Bytes::from_static(b"{\"n\":1}"),
                dup: true,
                retain: false,
                expiry: Some(30),
                response_topic: Some("cloud/answers".to_owned()),
                correlation: Some(Bytes::from_static(b"\x00\x01")),
                properties: vec![("traceparent".to_owned(), "x".to_owned())],
            }
        );
        let silence = timeout(Duration::from_secs(5), broker.hear()).await;
        assert!(silence.is_err(), "acknowledged too early: {silence:?}");
        arrived.receipt.acknowledge();
        let Some(Packet::PubAck(ack)) = broker.hear().await else {
            panic!("no PUBACK");
        };
        assert_eq!(ack.pkid, 77);
        assert_eq!(*taker.subscribed.borrow(), Subscribed::Yes);
        stop.now.cancel();
    };
    meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_said_and_telemetry_goes_on() {
    for code in [0x00, 0x02, 0x80, 0x87, 0x97, 0xf0] {
        let (inbound, mut taker) = inbound();
        let script = async |mut broker: Broker, stop: Stop| {
            meet_subscriber(&mut broker, code).await;
            for _ in 0..3 {
                let publish = broker.hear_publish().await;
                broker.ack(publish.pkid).await;
            }
            let said = |now: &Subscribed| *now != Subscribed::No;
            let said = taker.subscribed.wait_for(said).await.expect("said").clone();
            let Subscribed::Refused(words) = said else {
                panic!("0x{code:02x}: {said:?}");
            };
            assert!(words.contains("sonde/gw/command/+"), "{words}");
            stop.finish.cancel();
            let last = broker.hear_publish().await;
            broker.ack(last.pkid).await;
        };
        let (end, queue) = meet_with(keeping(), attempt(), frames(3), Some(inbound), script).await;
        assert_eq!(end.reaction, Reaction::Finished);
        assert_eq!(delivered(&queue), [1, 2, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_acknowledged_counted_and_ends_nothing() {
    let (inbound, mut taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 1).await;
        // A property that no PUBLISH has, one cut short, and a topic that is not text.
        for bytes in [
            &b"\x32\x08\x00\x01a\x00\x05\x02\x7f\x00"[..],
            &b"\x32\x08\x00\x01a\x00\x06\x02\x09\xff"[..],
            &b"\x32\x06\x00\x01\xff\x00\x07\x00"[..],
        ] {
            broker.say_bytes(bytes).await;
            let Some(Packet::PubAck(ack)) = broker.hear().await else {
                panic!("no PUBACK for {bytes:?}");
            };
            assert_eq!(ack.pkid, u16::from(bytes[6]).max(5));
        }
        assert_eq!(*taker.dropped.borrow(), 3);
        broker.say(command(8, QoS::AtLeastOnce)).await;
        assert!(taker.arrived.recv().await.is_some());
        stop.now.cancel();
    };
    meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_unacknowledged_messages_than_announced_wait_on_the_wire() {
    let (inbound, mut taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 1).await;
        for pkid in 1..=RECEIVE_MAXIMUM * 3 {
            broker.say(command(pkid, QoS::AtLeastOnce)).await;
        }
        let silence = timeout(Duration::from_secs(5), broker.hear()).await;
        assert!(silence.is_err(), "{silence:?}");
        assert_eq!(taker.arrived.len(), usize::from(RECEIVE_MAXIMUM));
        for pkid in 1..=RECEIVE_MAXIMUM * 3 {
            let arrived = taker.arrived.recv().await.expect("one more");
            assert_eq!(arrived.receipt.pkid(), pkid);
            arrived.receipt.acknowledge();
            assert!(matches!(broker.hear().await, Some(Packet::PubAck(ack)) if ack.pkid == pkid));
        }
        stop.now.cancel();
    };
    meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_at_qos_0_is_bounded_counted_and_leaves_room_for_qos_1() {
    let (inbound, mut taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 1).await;
        for _ in 0..1000 {
            broker.say(command(0, QoS::AtMostOnce)).await;
        }
        for pkid in 1..=RECEIVE_MAXIMUM {
            broker.say(command(pkid, QoS::AtLeastOnce)).await;
        }
        let dropped = 1000 - (QUEUE - usize::from(RECEIVE_MAXIMUM)) as u64;
        taker
            .dropped
            .wait_for(|count| *count == dropped)
            .await
            .expect("counted");
        for _ in 0..QUEUE {
            let arrived = taker.arrived.recv().await.expect("kept");
            arrived.receipt.acknowledge();
        }
        let mut acknowledged = Vec::new();
        for _ in 0..RECEIVE_MAXIMUM {
            let Some(Packet::PubAck(ack)) = broker.hear().await else {
                panic!("no PUBACK");
            };
            acknowledged.push(ack.pkid);
        }
        assert_eq!(acknowledged, (1..=RECEIVE_MAXIMUM).collect::<Vec<_>>());
        stop.now.cancel();
    };
    meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_subscribe_ends_the_connection() {
    let (inbound, _taker) = inbound();
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        while let Some(packet) = broker.hear().await {
            if matches!(packet, Packet::PingReq(_)) {
                broker.say_bytes(&[0xd0, 0]).await;
            }
        }
    };
    let (end, _) = meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
    assert!(end.text.contains("SUBSCRIBE"), "{}", end.text);
}

#[tokio::test(start_paused = true)]
async fn without_a_taker_nothing_is_subscribed_to() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let silence = timeout(Duration::from_secs(5), broker.hear()).await;
        assert!(silence.is_err(), "{silence:?}");
        let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
        broker
            .say(Packet::SubAck(SubAck {
                pkid: 9,
                return_codes: codes,
                properties: None,
            }))
            .await;
        broker.hear().await;
        stop.now.cancel();
    };
    let (end, _) = meet_with(plan(), attempt(), Queue::default(), None, script).await;
    assert!(end.text.contains("SUBACK"), "{}", end.text);
}

/// Answers pings until something else comes, and says when that was.
async fn hear_beside_pings(broker: &mut Broker) -> (Option<Packet>, Instant) {
    loop {
        match broker.hear().await {
            Some(Packet::PingReq(_)) => broker.say_bytes(&[0xd0, 0]).await,
            other => return (other, Instant::now()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_asked_for_again_ever_less_often_on_the_same_connection() {
    let (inbound, taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 0x87).await;
        let mut before = Instant::now();
        for (seconds, code) in [(30, 0x87), (60, 0x87), (120, 0x80), (240, 1)] {
            let (heard, at) = hear_beside_pings(&mut broker).await;
            let Some(Packet::Subscribe(subscribe)) = heard else {
                panic!("{heard:?}");
            };
            assert_eq!((at - before).as_secs(), seconds);
            if let Subscribed::Refused(words) = &*taker.subscribed.borrow() {
                assert!(words.contains(&format!("in {seconds} s")), "{words}");
            } else {
                panic!("{:?}", taker.subscribed);
            }
            let [high, low] = subscribe.pkid.to_be_bytes();
            broker.say_bytes(&[0x90, 4, high, low, 0, code]).await;
            before = at;
        }
        let mut subscribed = taker.subscribed.clone();
        let yes = subscribed.wait_for(|now| *now == Subscribed::Yes).await;
        assert!(yes.is_ok());
        drop(yes);
        let quiet = timeout(Duration::from_secs(4000), hear_beside_pings(&mut broker)).await;
        assert!(quiet.is_err(), "{quiet:?}");
        stop.now.cancel();
    };
    meet_with(
        keeping(),
        attempt(),
        Queue::default(),
        Some(inbound),
        script,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ends_connections_over_the_subscription_gets_the_telemetry_first() {
    let (inbound, taker) = inbound();
    let mut inbox = Inbox::new(Some(inbound));
    inbox.ended(true);
    assert!(inbox.ask_after().is_zero(), "a link may break at any time");
    inbox.ended(true);
    assert_eq!(inbox.ask_after(), Duration::from_secs(30));
    inbox.begin();
    assert!(
        matches!(&*taker.subscribed.borrow(), Subscribed::Refused(words) if words.contains("30 s"))
    );
    inbox.ended(false);
    inbox.ended(true);
    assert_eq!(inbox.ask_after(), Duration::from_secs(60));
    inbox.answered(Subscribed::Yes);
    assert!(inbox.ask_after().is_zero());

    let (inbound, _taker) = self::inbound();
    let later = Attempt {
        ask_after: Duration::from_secs(60),
        ..attempt()
    };
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        let began = Instant::now();
        for _ in 0..2 {
            let publish = broker.hear_publish().await;
            broker.ack(publish.pkid).await;
        }
        let (heard, at) = hear_beside_pings(&mut broker).await;
        assert!(matches!(heard, Some(Packet::Subscribe(_))), "{heard:?}");
        assert_eq!((at - began).as_secs(), 60);
        // DISCONNECT: not authorised.
        broker.say_bytes(&[0xe0, 2, 0x87, 0]).await;
        broker.hear().await;
    };
    let (end, queue) = meet_with(keeping(), later, frames(2), Some(inbound), script).await;
    assert_eq!(end.reaction, Reaction::Retry, "telemetry is not held");
    assert_eq!(delivered(&queue), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn while_commands_wait_for_a_slow_disk_the_broker_is_not_taken_for_dead() {
    let (inbound, mut taker) = inbound();
    let script = async |mut broker: Broker, stop: Stop| {
        meet_subscriber(&mut broker, 1).await;
        let publish = broker.hear_publish().await;
        for pkid in 1..=RECEIVE_MAXIMUM + 1 {
            broker.say(command(pkid, QoS::AtLeastOnce)).await;
        }
        // Behind what is not read.
        broker.ack(publish.pkid).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(120) {
            let heard = timeout(KEEP_ALIVE * 3 / 2, broker.hear()).await;
            let heard = heard.expect("a broker ends silent connections");
            assert!(matches!(heard, Some(Packet::PingReq(_))), "{heard:?}");
            broker.say_bytes(&[0xd0, 0]).await;
        }
        for _ in 0..=RECEIVE_MAXIMUM {
            let arrived = taker.arrived.recv().await.expect("one came");
            arrived.receipt.acknowledge();
        }
        for _ in 0..=RECEIVE_MAXIMUM {
            let (heard, _) = hear_beside_pings(&mut broker).await;
            assert!(matches!(heard, Some(Packet::PubAck(_))), "{heard:?}");
        }
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    };
    let (end, queue) = meet_with(keeping(), attempt(), frames(1), Some(inbound), script).await;
    assert_eq!(end.reaction, Reaction::Finished, "{}", end.text);
    assert_eq!(delivered(&queue), [1]);
}
