//! The MQTT uplink against the real mosquitto.

use std::collections::BTreeSet;
use std::time::Duration;

use sonde_agent::frame::Signal;
use sonde_tests::broker::Door;
use sonde_tests::link::Mode;
use sonde_tests::trace_tree::parse_traceparent;
use sonde_tests::workspace;
use sonde_tests::world::{LATER, Mqtt, SOON, finish, prefix};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// The shortest keep-alive that the agent takes.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn frames_name_themselves_and_gauges_carry_a_trace_context() {
    let id = "mqtt-names";
    let mqtt = Mqtt::plain(id).await;
    let mut agent = mqtt.gateway(id).start();
    mqtt.tick(6).await;
    finish(&mut agent, None, Some(&mqtt)).await;
    mqtt.prove();
    let ledger = mqtt.subscriber.book.copy();
    let names: BTreeSet<_> = ledger
        .deliveries
        .iter()
        .filter_map(|one| one.property("sonde-frame"))
        .collect();
    assert_eq!(
        names.len(),
        ledger.deliveries.len(),
        "a frame's name came twice"
    );
    for gauges in ledger.of(Signal::Metrics) {
        let parent = gauges.property("traceparent").expect("a traceparent");
        assert!(parse_traceparent(parent).is_some(), "{parent}");
        assert_ne!(gauges.property("tracestate"), Some(""));
        assert_eq!(gauges.property("sonde-resent"), None);
    }
    for other in [Signal::Traces, Signal::Logs] {
        assert!(
            ledger
                .of(other)
                .all(|one| one.property("traceparent").is_none())
        );
    }
}

#[tokio::test]
async fn a_reference_client_in_another_language_reads_what_is_published() {
    let id = "mqtt-reference";
    let mqtt = Mqtt::plain(id).await;
    let mut agent = mqtt.gateway(id).start();
    let reader = Command::new(workspace().join("target/venv/bin/python"))
        .arg(workspace().join("tests/reference_client.py"))
        .arg(mqtt.broker.back_door().port().to_string())
        .arg(format!("{}/telemetry/metrics", prefix(id)))
        .kill_on_drop(true)
        .output();
    let output = timeout(LATER, reader).await.expect("a message").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(read["points"].as_u64() > Some(10), "{read}");
    assert_eq!(read["device"], id, "{read}");
    let parent = read["properties"]["traceparent"]
        .as_str()
        .unwrap_or_default();
    assert!(parse_traceparent(parent).is_some(), "{read}");
    assert!(agent.terminate(SOON).await.unwrap().success());
}

#[tokio::test]
async fn refused_credentials_hold_the_data_until_they_are_right() {
    let id = "mqtt-password";
    let door = Door::Password("gateway".to_owned(), "right".to_owned());
    let mqtt = Mqtt::start(id, &door, None).await;
    let mut gateway = mqtt.gateway(id);
    let file = gateway.path("password");
    std::fs::write(&file, "wrong\n").unwrap();
    gateway
        .text("uplink.mqtt.username", "gateway")
        .text("uplink.mqtt.password_file", &file.display().to_string());
    let mut agent = gateway.start();
    let status = agent
        .wait("the refusal in the status", SOON, |status| {
            status.uplinks.iter().any(|one| one.last_error.is_some()) && status.agent.ticks >= 6
        })
        .await
        .unwrap();
    assert!(mqtt.subscriber.book.is_empty());
    assert!(status.spool.lost.is_empty(), "{:?}", status.spool.lost);
    std::fs::write(&file, "right\n").unwrap();
    mqtt.tick(8).await;
    finish(&mut agent, None, Some(&mqtt)).await;
    mqtt.prove();
}

#[tokio::test]
async fn a_black_holed_link_is_noticed_within_two_keep_alives() {
    let id = "mqtt-hole";
    let mqtt = Mqtt::plain(id).await;
    let mut agent = mqtt.gateway(id).start();
    mqtt.tick(2).await;
    mqtt.link.set(Mode::BlackHole).await;
    let from = Instant::now();
    agent
        .wait("the hole being noticed", LATER, |status| {
            status
                .uplinks
                .iter()
                .any(|one| one.state != "up" && one.last_error.is_some())
        })
        .await
        .unwrap();
    let took = from.elapsed();
    assert!(took <= 2 * KEEP_ALIVE + Duration::from_secs(1), "{took:?}");
    mqtt.link.set(Mode::Up).await;
    let until = agent.ready().await.unwrap().agent.ticks + 2;
    mqtt.tick(until).await;
    finish(&mut agent, None, Some(&mqtt)).await;
    mqtt.prove();
}

#[tokio::test]
async fn links_cut_again_and_again_lose_nothing() {
    let id = "mqtt-flaky";
    let mqtt = Mqtt::plain(id).await;
    let mut agent = mqtt.gateway(id).start();
    mqtt.tick(2).await;
    for _ in 0..5 {
        mqtt.link.set(Mode::Cut).await;
        let from = agent.ready().await.unwrap().agent.ticks;
        agent
            .wait("two ticks", SOON, |status| status.agent.ticks >= from + 2)
            .await
            .unwrap();
        mqtt.link.set(Mode::Up).await;
        mqtt.tick(from).await;
    }
    finish(&mut agent, None, Some(&mqtt)).await;
    mqtt.prove();
}

#[tokio::test]
async fn a_birth_message_comes_and_a_last_will_follows_a_kill() {
    let id = "mqtt-will";
    let mqtt = Mqtt::plain(id).await;
    let mut agent = mqtt.gateway(id).start();
    mqtt.tick(2).await;
    let birth = mqtt.subscriber.states();
    let birth = birth.last().expect("a birth message").payload.clone();
    let json: serde_json::Value = serde_json::from_str(&birth).unwrap();
    assert!(json.is_object(), "{birth}");
    agent.kill().await;
    let end = Instant::now() + SOON;
    while Instant::now() < end && mqtt.subscriber.states().last().unwrap().payload == birth {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let will = mqtt.subscriber.states().last().unwrap().payload.clone();
    assert_ne!(will, birth);
    let json: serde_json::Value = serde_json::from_str(&will).unwrap();
    assert!(json.is_object(), "{will}");
}
