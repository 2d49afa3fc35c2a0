//! The promise itself: what was accepted is delivered, or at most one loss
//! window of it is gone after a kill.

use std::time::Duration;

use sonde_agent::status::{Status, UplinkStatus};
use sonde_tests::agent::Gateway;
use sonde_tests::link::Mode;
use sonde_tests::proof;
use sonde_tests::world::{LATER, Mqtt, Otlp, SOON, finish, set_links, traces_reach_the_consumer};

/// `spool.loss_window` of [`Gateway::new`] in ticks, and one tick that may be half read.
const LOSS_TICKS: u64 = 4 + 1;

#[tokio::test]
async fn an_outage_of_both_links_delivers_everything_to_both_uplinks() {
    let id = "outage-both";
    let (otlp, mqtt) = (Otlp::start().await, Mqtt::plain(id).await);
    let mut gateway = otlp.gateway(id);
    mqtt.connect(&mut gateway, id);
    let mut agent = gateway.start();
    otlp.tick(4).await;
    mqtt.tick(4).await;
    set_links(&otlp, &mqtt, Mode::Cut).await;
    let until = agent.ready().await.unwrap().agent.ticks + 15;
    let during = agent
        .wait("15 ticks of outage", LATER, |status| {
            status.agent.ticks >= until
        })
        .await
        .unwrap();
    assert!(
        gateway.spool_bytes() > 0,
        "nothing was written: {:?}",
        during.spool
    );
    for name in ["otlp", "mqtt"] {
        let uplink = uplink(&during, name);
        assert_ne!(uplink.state, "up", "{uplink:?}");
        assert!(uplink.last_error.is_some(), "{uplink:?}");
    }
    set_links(&otlp, &mqtt, Mode::Up).await;
    otlp.tick(until + 2).await;
    mqtt.tick(until + 2).await;
    finish(&mut agent, Some(&otlp), Some(&mqtt)).await;
    let verdict = otlp.prove("outage-both");
    assert_eq!(verdict.gaps(), 0);
    assert_eq!(mqtt.prove().sampled(), verdict.sampled());
    assert!(traces_reach_the_consumer(&otlp, &mqtt) > 3);
}

#[tokio::test]
async fn a_refused_link_is_like_a_cut_one() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("outage-refused").start();
    otlp.tick(2).await;
    otlp.link.set(Mode::Refuse).await;
    let until = agent.ready().await.unwrap().agent.ticks + 8;
    agent
        .wait("8 ticks of outage", LATER, |status| {
            status.agent.ticks >= until
        })
        .await
        .unwrap();
    otlp.link.set(Mode::Up).await;
    otlp.tick(until).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("outage-refused");
}

#[tokio::test]
async fn a_kill_in_an_outage_loses_at_most_the_loss_window() {
    let id = "outage-kill";
    let (otlp, mqtt) = (Otlp::start().await, Mqtt::plain(id).await);
    let mut gateway = otlp.gateway(id);
    mqtt.connect(&mut gateway, id);
    let mut agent = gateway.start();
    otlp.tick(2).await;
    mqtt.tick(2).await;
    set_links(&otlp, &mqtt, Mode::Cut).await;
    let until = agent.ready().await.unwrap().agent.ticks + 12;
    let last = agent
        .wait("12 ticks of outage", LATER, |status| {
            status.agent.ticks >= until
        })
        .await
        .unwrap()
        .agent
        .ticks;
    agent.kill().await;
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    set_links(&otlp, &mqtt, Mode::Up).await;
    // Both starts must have come: the second is the newest once its own ticks are there.
    for book in [&otlp.collector.book, &mqtt.subscriber.book] {
        book.wait("ticks of both starts", LATER, |ledger| {
            let starts = proof::judge(ledger).instances;
            starts.len() == 2 && starts.iter().all(|start| start.last_tick >= 4)
        })
        .await
        .unwrap();
    }
    agent
        .wait("an empty backlog", LATER, |status| {
            status
                .uplinks
                .iter()
                .all(|uplink| uplink.pending_frames == 0)
        })
        .await
        .unwrap();
    finish(&mut agent, Some(&otlp), Some(&mqtt)).await;
    for verdict in [otlp.prove("outage-kill"), mqtt.prove()] {
        let first = &verdict.instances[0];
        let lost = last.saturating_sub(first.last_tick);
        assert!(lost <= LOSS_TICKS, "{lost} ticks lost of {last}: {first:?}");
    }
}

#[tokio::test]
async fn a_kill_with_the_link_up_loses_at_most_the_loss_window() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("kill-up");
    let mut agent = gateway.start();
    otlp.tick(6).await;
    let last = agent.ready().await.unwrap().agent.ticks;
    agent.kill().await;
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    otlp.collector
        .book
        .wait("the second start", LATER, |ledger| {
            ledger.instances().len() == 2
        })
        .await
        .unwrap();
    otlp.tick(2).await;
    finish(&mut agent, Some(&otlp), None).await;
    let verdict = otlp.prove("kill-up");
    assert!(
        last - verdict.instances[0].last_tick <= LOSS_TICKS,
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_black_hole_ends_a_request_by_its_deadline_and_nothing_is_lost() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("hole-otlp").start();
    otlp.tick(2).await;
    otlp.link.set(Mode::BlackHole).await;
    agent
        .wait("the hole being noticed", SOON, |status| {
            let uplink = uplink(status, "otlp");
            uplink.state != "up" && uplink.last_error.is_some()
        })
        .await
        .unwrap();
    otlp.link.set(Mode::Up).await;
    let until = agent.ready().await.unwrap().agent.ticks + 2;
    otlp.tick(until).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("hole-otlp");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_said_and_stops_nothing_else() {
    let mut gateway = Gateway::new("dns");
    gateway.otlp("http://no-such-host.invalid:4318");
    let mut agent = gateway.start();
    let status = agent
        .wait("the DNS failure", SOON, |status| {
            uplink(status, "otlp").last_error.is_some()
        })
        .await
        .unwrap();
    let error = uplink(&status, "otlp").last_error.clone().unwrap();
    assert!(error.contains("no-such-host.invalid"), "{error}");
    agent
        .wait("ticks going on", SOON, |status| status.agent.ticks >= 5)
        .await
        .unwrap();
    assert!(
        agent
            .terminate(Duration::from_secs(20))
            .await
            .unwrap()
            .success()
    );
}

fn uplink<'a>(status: &'a Status, name: &str) -> &'a UplinkStatus {
    status
        .uplinks
        .iter()
        .find(|uplink| uplink.name == name)
        .unwrap_or_else(|| panic!("no uplink {name} in the status"))
}
