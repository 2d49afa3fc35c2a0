//! Start, reload, end, and the commands beside `run`.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use sonde_tests::agent::{Gateway, run};
use sonde_tests::ledger::Ledger;
use sonde_tests::link::Mode;
use sonde_tests::workspace;
use sonde_tests::world::{END, LATER, Mqtt, Otlp, SOON, finish, set_links};

#[tokio::test]
async fn sigterm_sends_what_is_left_and_ends_with_0() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("term-up");
    // Longer than the test: nothing would arrive if the end did not send it.
    gateway
        .text("batch.length", "60s")
        .text("spool.loss_window", "120s");
    let mut agent = gateway.start();
    let status = agent
        .wait("4 ticks", SOON, |status| status.agent.ticks >= 4)
        .await
        .unwrap();
    finish(&mut agent, Some(&otlp), None).await;
    let verdict = otlp.prove("term-up");
    assert!(
        verdict.instances[0].last_tick >= status.agent.ticks,
        "{verdict:?}"
    );
}

#[tokio::test]
async fn sigterm_without_a_link_keeps_everything_for_the_next_start() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("term-down");
    otlp.link.set(Mode::Refuse).await;
    let mut agent = gateway.start();
    let status = agent
        .wait("6 ticks", SOON, |status| status.agent.ticks >= 6)
        .await
        .unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
    otlp.link.set(Mode::Up).await;
    let mut agent = gateway.start();
    otlp.collector
        .book
        .wait("both starts", LATER, |ledger| ledger.instances().len() == 2)
        .await
        .unwrap();
    otlp.tick(2).await;
    finish(&mut agent, Some(&otlp), None).await;
    let verdict = otlp.prove("term-down");
    assert!(
        verdict.instances[0].last_tick >= status.agent.ticks,
        "{verdict:?}"
    );
}

#[tokio::test]
async fn sigterm_in_a_black_hole_ends_within_its_bound() {
    let otlp = Otlp::start().await;
    let id = "term-hole";
    let mqtt = Mqtt::plain(id).await;
    let mut gateway = otlp.gateway(id);
    mqtt.connect(&mut gateway, id);
    gateway.text("shutdown.timeout", "6s");
    // Requests that would outlast the bound by far.
    gateway
        .text("uplink.otlp.timeout", "60s")
        .text("uplink.mqtt.timeout", "60s");
    let mut agent = gateway.start();
    otlp.tick(2).await;
    mqtt.tick(2).await;
    set_links(&otlp, &mqtt, Mode::BlackHole).await;
    let from = agent.ready().await.unwrap().agent.ticks;
    let last = agent
        .wait("frames sent into the hole", SOON, |status| {
            status.agent.ticks >= from + 4
        })
        .await
        .unwrap()
        .agent
        .ticks;
    // The bound, and what a busy machine adds to it.
    let exit = agent.terminate(Duration::from_secs(6 + 4)).await.unwrap();
    assert!(exit.success(), "{exit}\n{}", agent.stderr());
    // And what was in flight is there after the next start.
    set_links(&otlp, &mqtt, Mode::Up).await;
    let mut agent = gateway.start();
    let both = |ledger: &Ledger| ledger.instances().len() == 2;
    for book in [&otlp.collector.book, &mqtt.subscriber.book] {
        book.wait("both starts", LATER, both).await.unwrap();
    }
    otlp.tick(2).await;
    mqtt.tick(2).await;
    finish(&mut agent, Some(&otlp), Some(&mqtt)).await;
    for verdict in [otlp.prove(id), mqtt.prove()] {
        assert!(verdict.instances[0].last_tick >= last, "{verdict:?}");
    }
}

#[tokio::test]
async fn sighup_takes_a_good_config() {
    let first = Otlp::start().await;
    let second = Otlp::start().await;
    let mut gateway = first.gateway("hup-good");
    let mut agent = gateway.start();
    first.tick(2).await;
    let before = agent.ready().await.unwrap().config.loaded_unix_ns;
    gateway.otlp(&second.url()).write();
    agent.reload();
    let status = agent
        .wait("the new config", SOON, |status| {
            status.config.loaded_unix_ns > before
        })
        .await
        .unwrap();
    assert_eq!(status.config.reload_error, None);
    second
        .collector
        .book
        .wait("ticks at the new address", LATER, |ledger| {
            ledger.last_tick(None) > 2
        })
        .await
        .unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
    // Nothing fell between the two.
    let mut all = first.collector.book.copy();
    all.deliveries
        .extend(second.collector.book.copy().deliveries);
    let verdict = sonde_tests::proof::judge(&all);
    assert!(verdict.holds(), "{:?}", verdict.failures());
}

#[tokio::test]
async fn a_reload_to_another_address_takes_along_what_waits() {
    let dead = Otlp::start().await;
    let alive = Otlp::start().await;
    dead.link.set(Mode::BlackHole).await;
    let mut gateway = dead.gateway("hup-moves");
    let mut agent = gateway.start();
    agent
        .wait("a backlog in memory and on disk", LATER, |status| {
            status.agent.ticks >= 10 && gateway.spool_bytes() > 0
        })
        .await
        .unwrap();
    gateway.otlp(&alive.url()).write();
    agent.reload();
    alive.tick(12).await;
    finish(&mut agent, Some(&alive), None).await;
    // From the first tick on: the proof finds gaps only up to the last tick that came.
    let verdict = alive.prove("hup-moves");
    assert_eq!(verdict.instances.len(), 1, "{verdict:?}");
    assert!(dead.collector.book.is_empty());
}

#[tokio::test]
async fn sighup_refuses_a_bad_config_says_why_and_goes_on() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("hup-bad");
    let mut agent = gateway.start();
    otlp.tick(2).await;
    gateway.text("batch.lenght", "5s").write();
    agent.reload();
    let status = agent
        .wait("the refusal", SOON, |status| {
            status.config.reload_error.is_some()
        })
        .await
        .unwrap();
    let why = status.config.reload_error.unwrap_or_default();
    assert!(why.contains("lenght"), "{why}");
    otlp.tick(status.agent.ticks + 3).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("hup-bad");
}

#[tokio::test]
async fn the_reload_command_exits_with_what_the_agent_made_of_it() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("reload");
    let mut agent = gateway.start();
    otlp.tick(1).await;
    let config = gateway.path("sonde.toml").display().to_string();
    let arguments = ["reload", "--config", &config];
    let reload = || run(&arguments);
    let good = reload().await;
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    gateway.text("device.environment", "lab").write();
    let later = reload().await;
    assert_eq!(later.status.code(), Some(0), "{}", said(&later));
    assert!(said(&later).contains("[device]"), "{}", said(&later));
    gateway.text("batch.lenght", "5s").write();
    let bad = reload().await;
    assert_eq!(bad.status.code(), Some(2), "{}", said(&bad));
    assert!(said(&bad).contains("lenght"), "{}", said(&bad));
    finish(&mut agent, Some(&otlp), None).await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_state_folder_is_refused() {
    let gateway = Gateway::new("twin");
    let mut first = gateway.start();
    first.ready().await.unwrap();
    let mut other = Gateway::new("twin-2");
    let state = gateway.path("state").display().to_string();
    other.text("paths.state", &state);
    let mut second = other.start();
    let exit = second.ended(SOON).await.unwrap();
    assert_eq!(exit.code(), Some(1), "{}", second.stderr());
    assert!(second.stderr().contains(&state), "{}", second.stderr());
    first.ready().await.unwrap();
    assert!(first.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn status_of_a_dead_socket_is_3_with_a_helpful_line() {
    let gateway = Gateway::new("dead");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    agent.kill().await;
    let socket = gateway.socket().display().to_string();
    for socket in [socket.as_str(), "/nonexistent/status.sock"] {
        let output = run(&["status", "--socket", socket]).await;
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains(socket), "{}", said(&output));
    }
    // And what is left of it does not stop the next start.
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn check_takes_every_shipped_config() {
    let mut files = Vec::new();
    for folder in ["systemd", "docs", "docs/examples"] {
        let entries = std::fs::read_dir(workspace().join(folder))
            .into_iter()
            .flatten();
        files.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|kind| kind == "toml")),
        );
    }
    assert!(!files.is_empty(), "no config is shipped");
    for file in files {
        check(&file, 0, &[]).await;
    }
}

#[tokio::test]
async fn check_says_what_is_wrong_and_where() {
    let gateway = Gateway::new("check");
    let file = gateway.path("bad.toml");
    for (text, expected) in [
        (
            "[batch]\nlenght = \"5s\"\n",
            ["2", "lenght", "length"].as_slice(),
        ),
        ("[batch]\nlength = 5.5\n", &["2", "length"]),
        ("[gauges]\ninterval = \"0s\"\n", &["2", "interval"]),
        ("[gauges]\ninterval = \"-1s\"\n", &["2", "interval"]),
        ("[gauges]\ninterval = \"3650d\"\n", &["2", "interval"]),
        ("[[[", &["1"]),
        // All problems at once.
        (
            "[batch]\nlenght = 1\n[gauges]\ninterval = 0\n",
            &["lenght", "interval"],
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        check(&file, 2, expected).await;
    }
    std::fs::write(&file, [b'[', 0xff, 0xfe, b']']).unwrap();
    check(&file, 2, &["UTF-8"]).await;
    check(&gateway.path("missing.toml"), 2, &["missing.toml"]).await;
}

#[tokio::test]
async fn a_secret_that_comes_later_is_waited_for() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("late-secret");
    let secret = gateway.path("headers");
    gateway.text("uplink.otlp.headers_file", &secret.display().to_string());
    let mut agent = gateway.start();
    let status = agent
        .wait("the missing secret in the status", SOON, |status| {
            let error = status.uplinks[0].last_error.as_deref();
            status.agent.ticks >= 4 && error.is_some_and(|why| why.contains("headers"))
        })
        .await
        .unwrap();
    assert!(status.spool.lost.is_empty(), "{:?}", status.spool.lost);
    assert!(otlp.collector.book.is_empty(), "sent without its secret");
    std::fs::write(&secret, "Authorization: Bearer late\n").unwrap();
    otlp.tick(status.agent.ticks + 1).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("late-secret");
}

/// It may come later (a credential that is rotated in): data waits, nothing is refused.
#[tokio::test]
async fn a_secret_that_cannot_be_read_is_warned_of() {
    let mut gateway = Gateway::new("check-secret");
    gateway
        .otlp("http://127.0.0.1:4318")
        .text("uplink.otlp.headers_file", "/nonexistent/token");
    check(&gateway.write(), 0, &["warning", "/nonexistent/token"]).await;
}

#[tokio::test]
async fn run_refuses_what_check_refuses() {
    let mut gateway = Gateway::new("run-bad");
    gateway.text("batch.lenght", "5s");
    let file = gateway.write();
    let output = run(&["run", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("lenght"), "{}", said(&output));
    assert!(!gateway.path("state").exists(), "something was made");
}

#[tokio::test]
async fn effective_shows_the_config_without_its_secrets() {
    let mut gateway = Gateway::new("effective");
    gateway.otlp("http://127.0.0.1:4318");
    let secret = gateway.path("headers");
    std::fs::write(&secret, "Authorization: Bearer hidden-word\n").unwrap();
    gateway.text("uplink.otlp.headers_file", &secret.display().to_string());
    let file = gateway.write();
    let output = run(&["check", "--effective", "--config", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("127.0.0.1"), "{}", said(&output));
    assert!(!said(&output).contains("hidden-word"), "{}", said(&output));
}

#[tokio::test]
async fn wrong_usage_is_2() {
    for args in [["dance"].as_slice(), &["run", "--no-such-option"]] {
        let output = run(args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
}

async fn check(file: &Path, code: i32, expected: &[&str]) {
    let output = run(&["check", "--config", file.to_str().unwrap()]).await;
    let said = said(&output);
    let shown = file.display();
    assert_eq!(output.status.code(), Some(code), "{shown}: {said}");
    for part in expected {
        assert!(said.contains(part), "{shown}: no {part:?} in: {said}");
    }
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).into_owned()
}
