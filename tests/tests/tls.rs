//! Whom the agent believes, and what it says when it does not.

use std::path::Path;

use sonde_tests::agent::Gateway;
use sonde_tests::broker::{Door, Subscriber};
use sonde_tests::certs::{Certs, Pair};
use sonde_tests::collector::Collector;
use sonde_tests::ledger::Ledger;
use sonde_tests::link::Link;
use sonde_tests::world::{LATER, Mqtt, SOON, newest_tick, prefix};
use tempfile::TempDir;

#[tokio::test]
async fn a_certificate_of_the_given_authority_is_believed() {
    let (_dir, certs) = certs();
    otlp_arrives("tls-otlp", &certs, false, None).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_collector_that_asks() {
    let (_dir, certs) = certs();
    otlp_arrives("mtls-otlp", &certs, true, Some(&certs.client)).await;
}

#[tokio::test]
async fn without_a_client_certificate_a_collector_that_asks_gets_nothing() {
    let (_dir, certs) = certs();
    let config = certs.server_config(&certs.server, true);
    let collector = Collector::start_tls(config).await.unwrap();
    let mut gateway = Gateway::new("mtls-none");
    gateway.otlp(&collector.url());
    trust(&mut gateway, "otlp", &certs.ca, None);
    refused(&gateway, &collector).await;
}

#[tokio::test]
async fn another_name_is_not_believed() {
    let (_dir, certs) = certs();
    not_believed("tls-name", &certs, &certs.wrong_name, &certs.ca).await;
}

#[tokio::test]
async fn an_expired_certificate_is_not_believed() {
    let (_dir, certs) = certs();
    not_believed("tls-expired", &certs, &certs.expired, &certs.ca).await;
}

#[tokio::test]
async fn another_authority_is_not_believed() {
    let (_dir, certs) = certs();
    not_believed("tls-ca", &certs, &certs.server, &certs.other_ca).await;
}

/// What the certificate's owner does when it has run out: new files, nothing else.
#[tokio::test]
async fn a_client_certificate_is_rotated_without_a_restart_or_a_reload() {
    let (_dir, certs) = certs();
    let (_other_dir, strangers) = self::certs();
    let config = certs.server_config(&certs.server, true);
    let collector = Collector::start_tls(config).await.unwrap();
    let mut gateway = Gateway::new("mtls-rotated");
    let own = Pair {
        cert: gateway.path("client.pem"),
        key: gateway.path("client.key"),
    };
    install(&strangers.client, &own);
    gateway.otlp(&collector.url());
    trust(&mut gateway, "otlp", &certs.ca, Some(&own));
    let mut agent = gateway.start();
    let status = agent
        .wait("the refusal", SOON, |status| {
            status.agent.ticks >= 4 && status.uplinks[0].last_error.is_some()
        })
        .await
        .unwrap();
    assert!(collector.book.is_empty());
    install(&certs.client, &own);
    let all = |ledger: &Ledger| newest_tick(ledger) >= status.agent.ticks;
    let came = collector.book.wait("what waited", LATER, all).await;
    came.unwrap_or_else(|error| panic!("{error}\n{}", agent.stderr()));
    assert!(agent.terminate(SOON).await.unwrap().success());
}

/// A connection may stand for months: whoever reloads wants the new certificate shown now.
#[tokio::test]
async fn a_reload_connects_anew_only_if_a_credential_has_changed() {
    let (_dir, certs) = certs();
    let config = certs.server_config(&certs.server, true);
    let collector = Collector::start_tls(config).await.unwrap();
    let mut gateway = Gateway::new("mtls-reload");
    let own = Pair {
        cert: gateway.path("client.pem"),
        key: gateway.path("client.key"),
    };
    install(&certs.client, &own);
    let link = Link::to(collector.address()).await.unwrap();
    gateway.otlp(&format!("https://{}", link.address()));
    trust(&mut gateway, "otlp", &certs.ca, Some(&own));
    let mut agent = gateway.start();
    let mut tick = 4;
    for (reloads, connections) in [(0, 1), (1, 1), (2, 2)] {
        if reloads == 2 {
            // One line more is another file.
            let mut text = std::fs::read(&own.cert).unwrap();
            text.push(b'\n');
            std::fs::write(&own.cert, text).unwrap();
        }
        if reloads > 0 {
            agent.reload();
        }
        let reloaded = agent
            .wait("the reload", SOON, |status| {
                status.config.reloads == reloads
            })
            .await
            .unwrap();
        tick = tick.max(reloaded.agent.ticks + 2);
        let came = collector
            .book
            .wait("what was sampled since", LATER, |ledger| {
                newest_tick(ledger) >= tick
            })
            .await;
        came.unwrap_or_else(|error| panic!("{error}\n{}", agent.stderr()));
        assert_eq!(link.traffic().connections, connections, "{reloads} reloads");
    }
    assert!(agent.terminate(SOON).await.unwrap().success());
}

#[tokio::test]
async fn mqtt_speaks_tls_and_shows_its_certificate() {
    let (_dir, certs) = certs();
    for (id, door, pair) in [
        ("mqtts", Door::Tls(certs.server.clone()), None),
        (
            "mmqtts",
            Door::MutualTls(certs.server.clone()),
            Some(&certs.client),
        ),
    ] {
        let mqtt = Mqtt::start(id, &door, Some(&certs)).await;
        let mut gateway = mqtt.gateway(id);
        gateway.mqtt(&format!("mqtts://{}", mqtt.link.address()));
        trust(&mut gateway, "mqtt", &certs.ca, pair);
        let mut agent = gateway.start();
        mqtt.tick(4).await;
        assert!(agent.terminate(SOON).await.unwrap().success());
    }
}

#[tokio::test]
async fn mqtt_believes_no_broker_that_it_should_not() {
    let (_dir, certs) = certs();
    for (id, pair) in [
        ("mqtts-name", &certs.wrong_name),
        ("mqtts-old", &certs.expired),
    ] {
        let mqtt = Mqtt::start(id, &Door::Tls(pair.clone()), Some(&certs)).await;
        let mut gateway = mqtt.gateway(id);
        gateway.mqtt(&format!("mqtts://{}", mqtt.link.address()));
        trust(&mut gateway, "mqtt", &certs.ca, None);
        let mut agent = gateway.start();
        says_certificate(&mut agent).await;
        let nothing = Subscriber::start(mqtt.broker.back_door(), &prefix(id))
            .await
            .unwrap();
        assert!(nothing.states().is_empty() && mqtt.subscriber.book.is_empty());
        assert!(agent.terminate(SOON).await.unwrap().success());
    }
}

fn certs() -> (TempDir, Certs) {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::make(dir.path());
    (dir, certs)
}

fn trust(gateway: &mut Gateway, uplink: &str, ca: &Path, pair: Option<&Pair>) {
    let table = format!("uplink.{uplink}.tls");
    gateway.text(&format!("{table}.ca_file"), &ca.display().to_string());
    if let Some(pair) = pair {
        gateway
            .text(
                &format!("{table}.cert_file"),
                &pair.cert.display().to_string(),
            )
            .text(
                &format!("{table}.key_file"),
                &pair.key.display().to_string(),
            );
    }
}

/// As a renewal does it: the key first.
fn install(pair: &Pair, place: &Pair) {
    std::fs::copy(&pair.key, &place.key).unwrap();
    std::fs::copy(&pair.cert, &place.cert).unwrap();
}

async fn otlp_arrives(id: &str, certs: &Certs, mutual: bool, pair: Option<&Pair>) {
    let config = certs.server_config(&certs.server, mutual);
    let collector = Collector::start_tls(config).await.unwrap();
    let mut gateway = Gateway::new(id);
    gateway.otlp(&collector.url());
    trust(&mut gateway, "otlp", &certs.ca, pair);
    let mut agent = gateway.start();
    let came = collector
        .book
        .wait("tick 4", LATER, |ledger| newest_tick(ledger) >= 4)
        .await;
    came.unwrap_or_else(|error| panic!("{error}\n{}", agent.stderr()));
    assert!(agent.terminate(SOON).await.unwrap().success());
}

async fn not_believed(id: &str, certs: &Certs, shown: &Pair, trusted: &Path) {
    let config = certs.server_config(shown, false);
    let collector = Collector::start_tls(config).await.unwrap();
    let mut gateway = Gateway::new(id);
    gateway.otlp(&collector.url());
    trust(&mut gateway, "otlp", trusted, None);
    let mut agent = gateway.start();
    says_certificate(&mut agent).await;
    assert!(agent.terminate(SOON).await.unwrap().success());
    assert!(collector.book.is_empty());
}

async fn refused(gateway: &Gateway, collector: &Collector) {
    let mut agent = gateway.start();
    agent
        .wait("an error", SOON, |status| {
            status.agent.ticks >= 4 && status.uplinks[0].last_error.is_some()
        })
        .await
        .unwrap();
    assert!(agent.terminate(SOON).await.unwrap().success());
    assert!(collector.book.is_empty());
}

/// The status names the certificate as the reason, and nothing counts as delivered.
async fn says_certificate(agent: &mut sonde_tests::agent::Agent) {
    let status = agent
        .wait("an error", SOON, |status| {
            status.agent.ticks >= 4 && status.uplinks[0].last_error.is_some()
        })
        .await
        .unwrap();
    let uplink = &status.uplinks[0];
    let error = uplink.last_error.clone().unwrap_or_default().to_lowercase();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(uplink.acked_frames, 0);
}
