//! One connection against the scripted broker, under paused time.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, PubAck, PubAckReason};
use tokio::time::Instant;

use super::reason::{End, Reaction};
use super::script::{
    Broker, KEEP_ALIVE, Queue, accept, answered_with, attempt, delivered, frame, frames, meet,
    no_properties, plan,
};
use super::session::{Keep, Verdict};
use crate::frame::Codec;
use crate::uplink::Stop;

#[tokio::test(start_paused = true)]
async fn a_frame_travels_with_its_properties_in_order() {
    let mut resent = frame(41, b"\x1f\x8bpacked");
    resent.resent = true;
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let publish = broker.hear_publish().await;
        assert_eq!(publish.topic, "sonde/gw/telemetry/metrics");
        assert_eq!(publish.payload, &b"\x1f\x8bpacked"[..]);
        assert!(!publish.retain && !publish.dup);
        let properties = publish.properties.expect("has properties");
        assert_eq!(
            properties.content_type.as_deref(),
            Some("application/x-protobuf")
        );
        assert_eq!(properties.message_expiry_interval, Some(3600));
        assert_eq!(properties.topic_alias, None);
        let user: Vec<_> = properties
            .user_properties
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            user,
            [
                format!("traceparent=00-{}-{}-01", "ab".repeat(16), "cd".repeat(8)),
                "tracestate=vendor=1".to_owned(),
                "sonde-frame=00000007-41".to_owned(),
                "sonde-resent=1".to_owned(),
                "content-encoding=gzip".to_owned(),
            ]
        );
        broker.ack(publish.pkid).await;
        stop.now.cancel();
    };
    meet(plan(), attempt(), Queue::of([resent]), script).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_without_context_names_only_itself() {
    let mut plain = frame(1, b"x");
    plain.batch.context = None;
    plain.batch.codec = Codec::Identity;
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let publish = broker.hear_publish().await;
        let user = publish.properties.expect("some").user_properties;
        assert_eq!(user, [("sonde-frame".to_owned(), "00000007-1".to_owned())]);
        stop.now.cancel();
    };
    meet(plan(), attempt(), Queue::of([plain]), script).await;
}

#[tokio::test(start_paused = true)]
async fn connect_starts_clean_and_leaves_a_retained_will() {
    let mut login = attempt();
    login.login = Some(("user".to_owned(), "secret".to_owned()));
    let script = async |mut broker: Broker, stop: Stop| {
        let Some(Packet::Connect(connect, will, login)) = broker.hear().await else {
            panic!("no CONNECT");
        };
        assert!(connect.clean_start);
        assert_eq!(connect.client_id, "sonde-gw");
        assert_eq!(connect.keep_alive, 10);
        let properties = connect.properties.expect("some");
        assert_eq!(properties.session_expiry_interval, None);
        assert_eq!(properties.topic_alias_max, None);
        let will = will.expect("a will");
        assert_eq!(will.topic, "sonde/gw/state");
        assert_eq!(will.message, "{\"state\":\"offline\"}");
        assert!(will.retain);
        let login = login.expect("credentials");
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("user", "secret")
        );
        stop.now.cancel();
    };
    meet(plan(), login, Queue::default(), script).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_is_asked_for_and_may_be_present() {
    let mut kept = plan();
    kept.keep = Keep::Seconds(600);
    let script = async |mut broker: Broker, stop: Stop| {
        let Some(Packet::Connect(connect, ..)) = broker.hear().await else {
            panic!("no CONNECT");
        };
        assert!(!connect.clean_start);
        let properties = connect.properties.expect("some");
        assert_eq!(properties.session_expiry_interval, Some(600));
        broker.say_bytes(&[0x20, 3, 1, 0, 0]).await;
        broker.hear_publish().await;
        stop.now.cancel();
    };
    let (end, queue) = meet(kept, attempt(), Queue::default(), script).await;
    assert_eq!((end.reaction, queue.online), (Reaction::Finished, 1));
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_out_of_order_settle_their_own_frames() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let mut pkids = Vec::new();
        for _ in 0..4 {
            pkids.push(broker.hear_publish().await.pkid);
        }
        for at in [2, 0, 3, 1] {
            broker.ack(pkids[at]).await;
        }
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        assert_eq!(last.payload, "{\"state\":\"stopped\"}");
        broker.ack(last.pkid).await;
    };
    let (end, queue) = meet(plan(), attempt(), frames(4), script).await;
    assert_eq!(delivered(&queue), [3, 1, 4, 2]);
    assert_eq!(end, End::finished());
}

#[tokio::test(start_paused = true)]
async fn the_window_is_the_smaller_of_both_sides() {
    for (receive_max, expected) in [(Some(1), 1), (Some(3), 3), (None, 4), (Some(500), 4)] {
        let properties = ConnAckProperties {
            receive_max,
            ..no_properties()
        };
        let script = async |mut broker: Broker, stop: Stop| {
            broker.welcome(Some(properties)).await;
            for _ in 0..expected {
                broker.hear_publish().await;
            }
            let silence = tokio::time::timeout(Duration::from_secs(5), broker.hear()).await;
            assert!(silence.is_err(), "sent beyond a window of {expected}");
            stop.now.cancel();
        };
        meet(plan(), attempt(), frames(9), script).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_receive_maximum_of_one_still_moves_everything() {
    let properties = ConnAckProperties {
        receive_max: Some(1),
        ..no_properties()
    };
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(Some(properties)).await;
        stop.finish.cancel();
        for _ in 0..10 {
            let publish = broker.hear_publish().await;
            broker.ack(publish.pkid).await;
        }
    };
    let (end, queue) = meet(plan(), attempt(), frames(9), script).await;
    assert_eq!(delivered(&queue), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(end.reaction, Reaction::Finished);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_flight_are_bounded_besides_the_window() {
    let mut wide = plan();
    wide.window = 100;
    let big = vec![0x55; 90 * 1024];
    let queue = Queue::of((1..=9).map(|seq| frame(seq, &big)));
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        for _ in 0..3 {
            broker.hear_publish().await;
        }
        let silence = tokio::time::timeout(Duration::from_secs(5), broker.hear()).await;
        assert!(silence.is_err(), "more than 256 KiB in flight");
        stop.now.cancel();
    };
    meet(wide, attempt(), queue, script).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_over_the_brokers_packet_size_is_said_to_be_too_large_and_not_sent() {
    let properties = ConnAckProperties {
        max_packet_size: Some(300),
        ..no_properties()
    };
    let queue = Queue::of([frame(1, &[0; 400]), frame(2, b"small")]);
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(Some(properties)).await;
        let publish = broker.hear_publish().await;
        assert_eq!(publish.payload, "small");
        broker.ack(publish.pkid).await;
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    };
    let (_, queue) = meet(plan(), attempt(), queue, script).await;
    let [(1, Verdict::TooLarge(why)), (2, Verdict::Delivered)] = queue.settled.as_slice() else {
        panic!("{:?}", queue.settled);
    };
    assert!(why.contains("the broker takes at most 300"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_packet_size_too_small_for_the_state_message_is_lived_with() {
    let properties = ConnAckProperties {
        max_packet_size: Some(20),
        ..no_properties()
    };
    let script = async |mut broker: Broker, stop: Stop| {
        broker.hear().await;
        broker.say(accept(Some(properties))).await;
        stop.finish.cancel();
        let next = broker.hear().await;
        assert!(matches!(next, Some(Packet::Disconnect(_))), "{next:?}");
    };
    let (end, queue) = meet(plan(), attempt(), Queue::default(), script).await;
    assert_eq!((end.reaction, queue.online), (Reaction::Finished, 1));
}

#[tokio::test(start_paused = true)]
async fn reason_codes_decide_what_becomes_of_a_frame() {
    // 0x95 and 0xfe are codes that the codec has no name for.
    for (code, expected) in [
        (0x00, "delivered"),
        (0x10, "delivered"),
        (0x97, "again"),
        (0x80, "again"),
        (0xfe, "again"),
        (0x99, "condemned"),
        (0x95, "too large"),
    ] {
        let script = async |mut broker: Broker, stop: Stop| {
            broker.welcome(None).await;
            let [high, low] = broker.hear_publish().await.pkid.to_be_bytes();
            broker.say_bytes(&[0x40, 3, high, low, code]).await;
            stop.finish.cancel();
            let last = broker.hear_publish().await;
            broker.ack(last.pkid).await;
        };
        let (end, queue) = meet(plan(), attempt(), frames(1), script).await;
        let got = match &queue.settled[..] {
            [(1, Verdict::Delivered)] => "delivered",
            [(1, Verdict::Again(_))] => "again",
            [(1, Verdict::Condemned(_))] => "condemned",
            [(1, Verdict::TooLarge(_))] => "too large",
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (got, end.reaction),
            (expected, Reaction::Finished),
            "0x{code:02x}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_allowed_refuses_its_messages_and_keeps_the_connection() {
    for code in [PubAckReason::NotAuthorized, PubAckReason::TopicNameInvalid] {
        let script = async |mut broker: Broker, stop: Stop| {
            broker.welcome(None).await;
            let pkid = broker.hear_publish().await.pkid;
            let refused = PubAck {
                reason: code,
                ..PubAck::new(pkid, None)
            };
            broker.say(Packet::PubAck(refused)).await;
            stop.finish.cancel();
            let last = broker.hear_publish().await;
            broker.ack(last.pkid).await;
        };
        let (end, queue) = meet(plan(), attempt(), frames(1), script).await;
        assert_eq!(end.reaction, Reaction::Finished, "{}", end.text);
        let [(1, Verdict::Refused(why))] = &queue.settled[..] else {
            panic!("{:?}", queue.settled);
        };
        assert!(why.contains("topic_prefix"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_says_what_to_do() {
    for (bytes, reaction, words) in [
        (&[0x20, 3, 0, 0x86, 0][..], Reaction::Hold, "password"),
        (&[0x20, 3, 0, 0x87, 0], Reaction::Hold, "credentials"),
        (&[0x20, 3, 0, 0x89, 0], Reaction::Retry, "server busy"),
        (&[0x20, 3, 0, 0x9a, 0], Reaction::WithoutRetain, "retained"),
        // What a broker of MQTT 3.1.1 answers: no properties at all.
        (&[0x20, 2, 0, 0x01], Reaction::Hold, "does not speak MQTT 5"),
        // A code from the future.
        (&[0x20, 3, 0, 0xee, 0], Reaction::Retry, "0xee"),
        // A refusal whose properties are cut short is still that refusal.
        (&[0x20, 3, 0, 0x86, 9], Reaction::Hold, "password"),
    ] {
        let end = answered_with(bytes).await;
        assert_eq!(end.reaction, reaction, "{}", end.text);
        assert!(end.text.contains(words), "{}", end.text);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_mqtt_ends_the_attempt_with_advice() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\xff\xff",
        // A CONNACK of 256 MiB is announced.
        b"\x20\xff\xff\xff\x7f\x00\x00",
        // An acceptance whose limits are cut short: believed, it would be endless waiting.
        b"\x20\x03\x00\x00\x05",
        b"\x20\x05\x00\x00\x02\x21\x00",
        // Receive maximum 0, maximum packet size 0: forbidden.
        b"\x20\x06\x00\x00\x03\x21\x00\x00",
        b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x00",
    ] {
        let end = answered_with(bytes).await;
        assert_eq!(end.reaction, Reaction::Retry, "{bytes:?}");
        assert!(end.text.contains("not MQTT 5"), "{bytes:?}: {}", end.text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_should_not_exist_is_refused_as_the_standard_says() {
    let end = answered_with(&[0x20, 3, 1, 0, 0]).await;
    assert_eq!(end.reaction, Reaction::Retry);
    assert!(end.text.contains("asked to forget"), "{}", end.text);
}

#[tokio::test(start_paused = true)]
async fn garbage_in_the_middle_ends_the_connection_and_settles_nothing() {
    for bytes in [
        &b"\x40\xff\xff\xff\x7f"[..],
        b"\x40\x01\x00",
        b"\x20\x03\x00\x00\x00",
        b"\x50\x02\x00\x01",
        b"\xf0\x00",
        // An acknowledgement for a message that was never sent.
        b"\x40\x02\x77\x77",
        // A property longer than its packet.
        b"\x30\x07\x00\x01a\x7f\x26\xff\xff",
    ] {
        let script = async |mut broker: Broker, _| {
            broker.welcome(None).await;
            broker.hear_publish().await;
            broker.say_bytes(bytes).await;
            while broker.hear().await.is_some() {}
        };
        let (end, queue) = meet(plan(), attempt(), frames(1), script).await;
        assert_eq!(end.reaction, Reaction::Retry, "{bytes:?}");
        assert!(queue.settled.is_empty(), "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_in_single_bytes_is_understood() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.hear().await;
        for byte in [0x20, 3, 0, 0, 0] {
            broker.say_bytes(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let birth = broker.hear_publish().await;
        let [high, low] = birth.pkid.to_be_bytes();
        for byte in [0x40, 2, high, low] {
            broker.say_bytes(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.finish.cancel();
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    };
    let (end, _) = meet(plan(), attempt(), Queue::default(), script).await;
    assert_eq!(end.reaction, Reaction::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_within_two_keep_alives() {
    let began = Instant::now();
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        // Bytes are still taken, nothing comes back.
        while broker.hear().await.is_some() {}
    };
    let (end, queue) = meet(plan(), attempt(), frames(3), script).await;
    assert_eq!(end.reaction, Reaction::Retry);
    assert!(end.text.contains("link is dead"), "{}", end.text);
    assert!(began.elapsed() <= KEEP_ALIVE * 2, "{:?}", began.elapsed());
    assert!(queue.settled.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_even_read_is_noticed_too() {
    let began = Instant::now();
    let big = vec![0x55; 90 * 1024];
    let queue = Queue::of((1..=9).map(|seq| frame(seq, &big)));
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        // The pipe takes 64 KiB; the first frame does not fit.
        tokio::time::sleep(KEEP_ALIVE * 3).await;
        drop(broker);
    };
    let run = meet(plan(), attempt(), queue, script);
    let (end, _) = run.await;
    assert!(end.text.contains("link is dead"), "{}", end.text);
    assert!(began.elapsed() <= KEEP_ALIVE * 3 + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_connect_is_given_up_after_the_timeout() {
    let began = Instant::now();
    let script = async |mut broker: Broker, _| while broker.hear().await.is_some() {};
    let (end, _) = meet(plan(), attempt(), Queue::default(), script).await;
    assert!(end.text.contains("did not answer CONNECT"), "{}", end.text);
    assert_eq!(began.elapsed().as_secs(), plan().timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn pings_keep_an_idle_connection_for_hours() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let began = Instant::now();
        let mut pings = 0;
        while began.elapsed() < Duration::from_secs(7200) {
            let Some(Packet::PingReq(_)) = broker.hear().await else {
                panic!("no ping");
            };
            pings += 1;
            broker.say_bytes(&[0xd0, 0]).await;
        }
        assert_eq!(pings, 800, "one each 9 s");
        stop.now.cancel();
    };
    let (end, _) = meet(plan(), attempt(), Queue::default(), script).await;
    assert_eq!(end.reaction, Reaction::Finished);
}

#[tokio::test(start_paused = true)]
async fn the_brokers_shorter_keep_alive_counts() {
    let properties = ConnAckProperties {
        server_keep_alive: Some(5),
        ..no_properties()
    };
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(Some(properties)).await;
        let began = Instant::now();
        assert!(matches!(broker.hear().await, Some(Packet::PingReq(_))));
        assert!(began.elapsed() <= Duration::from_secs(5));
        stop.now.cancel();
    };
    meet(plan(), attempt(), Queue::default(), script).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_pings_but_acknowledges_nothing_is_left() {
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        while let Some(packet) = broker.hear().await {
            if matches!(packet, Packet::PingReq(_)) {
                broker.say_bytes(&[0xd0, 0]).await;
            }
        }
    };
    let (end, queue) = meet(plan(), attempt(), frames(1), script).await;
    assert!(end.text.contains("did not acknowledge"), "{}", end.text);
    assert!(queue.settled.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_in_mid_window_leaves_the_rest_unsettled() {
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        let first = broker.hear_publish().await;
        broker.hear_publish().await;
        broker.ack(first.pkid).await;
        // Server shutting down, without properties: two forms are legal.
        broker.say_bytes(&[0xe0, 1, 0x8b]).await;
        while broker.hear().await.is_some() {}
    };
    let (end, queue) = meet(plan(), attempt(), frames(4), script).await;
    assert_eq!(end.reaction, Reaction::Retry);
    assert!(end.text.contains("server shutting down"), "{}", end.text);
    assert_eq!(queue.settled, [(1, Verdict::Delivered)]);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_of_two_bytes_is_understood() {
    let script = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        broker.say_bytes(&[0xe0, 0]).await;
        while broker.hear().await.is_some() {}
    };
    let (end, _) = meet(plan(), attempt(), Queue::default(), script).await;
    assert!(end.text.contains("normal (0x00)"), "{}", end.text);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_the_connection_is_found_one_by_one_and_condemned() {
    let poison = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        loop {
            let publish = broker.hear_publish().await;
            if publish.payload == "poison" {
                broker.say_bytes(&[0xe0, 2, 0x95, 0]).await;
                return;
            }
        }
    };
    let queue = || Queue::of([frame(1, b"poison"), frame(2, b"good")]);
    let together = async |mut broker: Broker, _| {
        broker.welcome(None).await;
        broker.hear_publish().await;
        broker.hear_publish().await;
        broker.say_bytes(&[0xe0, 2, 0x95, 0]).await;
        while broker.hear().await.is_some() {}
    };
    let (end, unsettled) = meet(plan(), attempt(), queue(), together).await;
    assert_eq!(end.reaction, Reaction::OneByOne);
    assert_eq!(unsettled.settled, []);

    let mut careful = attempt();
    careful.one_by_one = true;
    let (end, queue) = meet(plan(), careful, queue(), poison).await;
    assert_eq!(end.reaction, Reaction::Retry);
    assert!(
        matches!(&queue.settled[..], [(1, Verdict::Condemned(_))]),
        "{:?}",
        queue.settled
    );
}

#[tokio::test(start_paused = true)]
async fn finishing_drains_says_stopped_and_disconnects() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        stop.finish.cancel();
        let mut payloads = Vec::new();
        let last = loop {
            match broker.hear().await {
                Some(Packet::Publish(publish)) => {
                    payloads.push(publish.payload.clone());
                    broker.ack(publish.pkid).await;
                }
                other => break other,
            }
        };
        assert_eq!(payloads.len(), 21, "20 frames and a state");
        assert_eq!(payloads[20], "{\"state\":\"stopped\"}");
        let Some(Packet::Disconnect(disconnect)) = last else {
            panic!("wanted DISCONNECT, got {last:?}");
        };
        assert_eq!(disconnect.reason_code as u8, 0x00);
        assert_eq!(broker.hear().await, None, "closed");
    };
    let (end, queue) = meet(plan(), attempt(), frames(20), script).await;
    assert_eq!(end.reaction, Reaction::Finished);
    assert_eq!(delivered(&queue).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn finishing_before_the_broker_answered_ends_at_once() {
    let began = Instant::now();
    let script = async |mut broker: Broker, stop: Stop| {
        broker.hear().await;
        stop.finish.cancel();
        broker.hear().await;
    };
    let (end, queue) = meet(plan(), attempt(), frames(1), script).await;
    assert_eq!(end.reaction, Reaction::Finished);
    assert_eq!((queue.online, queue.waiting.len()), (0, 1));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn ending_now_lets_the_broker_publish_the_will() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        stop.now.cancel();
        let Some(Packet::Disconnect(disconnect)) = broker.hear().await else {
            panic!("no DISCONNECT");
        };
        assert_eq!(disconnect.reason_code as u8, 0x04);
    };
    meet(plan(), attempt(), Queue::default(), script).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_retained_messages_gets_none() {
    let properties = ConnAckProperties {
        retain_available: Some(0),
        ..no_properties()
    };
    let mut plain = attempt();
    plain.without_retain = true;
    let script = async |mut broker: Broker, stop: Stop| {
        let Some(Packet::Connect(_, Some(will), _)) = broker.hear().await else {
            panic!("no CONNECT with a will");
        };
        assert!(!will.retain);
        broker.say(accept(Some(properties))).await;
        assert!(!broker.hear_publish().await.retain);
        stop.now.cancel();
    };
    meet(plan(), plain, Queue::default(), script).await;
}

#[tokio::test(start_paused = true)]
async fn messages_nobody_asked_for_are_acknowledged_and_ignored() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        broker.say_bytes(b"\x32\x08\x00\x01a\x00\x09\x00hi").await;
        let Some(Packet::PubAck(ack)) = broker.hear().await else {
            panic!("no PUBACK");
        };
        assert_eq!(ack.pkid, 9);
        stop.now.cancel();
    };
    meet(plan(), attempt(), Queue::default(), script).await;
}

#[tokio::test(start_paused = true)]
async fn packet_ids_wrap_without_touching_zero_or_one_in_flight() {
    let script = async |mut broker: Broker, stop: Stop| {
        broker.welcome(None).await;
        let slow = broker.hear_publish().await.pkid;
        stop.finish.cancel();
        for _ in 0..70_000u32 {
            let pkid = broker.hear_publish().await.pkid;
            assert!(pkid != 0 && pkid != slow);
            broker.ack(pkid).await;
            // The slow one stays behind, within its deadline.
        }
        broker.ack(slow).await;
        let last = broker.hear_publish().await;
        broker.ack(last.pkid).await;
    };
    let (end, queue) = meet(plan(), attempt(), frames(70_001), script).await;
    assert_eq!(end.reaction, Reaction::Finished, "{}", end.text);
    assert_eq!(delivered(&queue).len(), 70_001);
}
