//! Why the last boot and the agent's last run ended, as a collector hears it.

use std::path::Path;
use std::process::Stdio;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use sonde_tests::agent::{Agent, Gateway, binary};
use sonde_tests::ledger::{Ledger, text};
use sonde_tests::link::Mode;
use sonde_tests::world::{END, LATER, Otlp, SOON, finish};
use tokio::process::Command;

fn word(record: &LogRecord, key: &str) -> String {
    let found = record.attributes.iter().find(|kv| kv.key == key);
    found.map_or_else(String::new, |kv| text(kv.value.as_ref()))
}

/// A gateway whose machine is a folder.
fn machine(otlp: &Otlp, id: &str) -> Gateway {
    let mut gateway = otlp.gateway(id);
    let root = gateway.path("root");
    boot_id(&root, 1);
    gateway.text("paths.root", &root.display().to_string());
    gateway
}

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn boot_id(root: &Path, boot: u8) {
    let id = format!("{boot:08x}-1111-4222-8333-444444444444\n");
    put(root, "proc/sys/kernel/random/boot_id", &id);
}

/// The machine begins a new boot: `/run` is empty.
fn reboot(gateway: &Gateway, boot: u8) {
    let _ = std::fs::remove_dir_all(gateway.path("run"));
    let _ = std::fs::remove_dir_all(gateway.path("root/run"));
    boot_id(&gateway.path("root"), boot);
}

/// All records of these names that came, each uid once.
fn told(otlp: &Otlp, names: &[&str]) -> Vec<LogRecord> {
    otlp.collector.book.read(|ledger| among(ledger, names))
}

fn among(ledger: &Ledger, names: &[&str]) -> Vec<LogRecord> {
    let mut found: Vec<LogRecord> = Vec::new();
    for record in ledger.logs() {
        let uid = word(record, "log.record.uid");
        let known = found
            .iter()
            .any(|other| word(other, "log.record.uid") == uid);
        if names.contains(&record.event_name.as_str()) && !known {
            found.push(record.clone());
        }
    }
    found
}

const RUN: [&str; 2] = ["sonde.agent.end", "sonde.agent.failed"];
const BOOT: [&str; 2] = ["sonde.boot.end", "sonde.boot.failed"];

async fn wait(otlp: &Otlp, names: [&str; 2], count: usize) -> Vec<LogRecord> {
    let what = format!("{count} of {names:?}");
    let came = |ledger: &Ledger| among(ledger, &names).len() >= count;
    let book = &otlp.collector.book;
    if let Err(error) = book.wait(&what, LATER, came).await {
        panic!("{error}");
    }
    told(otlp, &names)
}

/// Waits until the agent has remembered that its reports are stored.
async fn settled(gateway: &Gateway, agent: &mut Agent) {
    let run = gateway.path("run/boot");
    agent
        .wait("nothing left to report", SOON, |_| {
            let text = std::fs::read_to_string(&run).unwrap_or_default();
            text.contains("crc\t") && !text.contains("pending\t")
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_kill_and_a_stop_are_each_told_once_with_what_they_were() {
    let otlp = Otlp::start().await;
    let gateway = machine(&otlp, "boot-kill");
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    agent.kill().await;
    let mut agent = gateway.start();
    let status = agent.ready().await.unwrap();
    assert_eq!(status.boot.last_run.unwrap().reason, "killed");
    settled(&gateway, &mut agent).await;
    assert!(agent.terminate(END).await.unwrap().success());
    let mut agent = gateway.start();
    let status = agent.ready().await.unwrap();
    assert_eq!(status.boot.last_run.unwrap().reason, "stopped");
    assert_eq!(status.boot.count, Some(1));
    let restarts = status.boot.restarts;
    assert_eq!(
        restarts,
        [("killed".into(), 1), ("stopped".into(), 1)].into()
    );
    let runs = wait(&otlp, RUN, 2).await;
    otlp.tick(2).await;
    finish(&mut agent, Some(&otlp), None).await;
    let reasons: Vec<_> = runs.iter().map(|run| word(run, "reason")).collect();
    assert_eq!(reasons, ["killed", "stopped"]);
    assert_eq!((told(&otlp, &RUN).len(), told(&otlp, &BOOT).len()), (2, 0));
    let points = otlp.collector.book.copy().points();
    for (name, reason) in [
        ("sonde.boot.count", ""),
        ("sonde.boot.reason", "unknown"),
        ("sonde.agent.restarts", "killed"),
        ("sonde.host.suspended", ""),
    ] {
        let found = points
            .iter()
            .any(|point| point.series.starts_with(name) && point.series.contains(reason));
        assert!(found, "{name} {reason}");
    }
    otlp.prove("boot-kill");
}

#[tokio::test]
async fn how_each_boot_ended_reaches_the_collector_with_its_evidence_although_the_link_was_down() {
    let otlp = Otlp::start().await;
    let gateway = machine(&otlp, "boot-reasons");
    let root = gateway.path("root");
    otlp.link.set(Mode::Refuse).await;
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    // The kernel panics.
    agent.kill().await;
    reboot(&gateway, 2);
    let panic = "<0>[  12.345678] Kernel panic - not syncing: Fatal exception\n";
    put(&root, "sys/fs/pstore/dmesg-ramoops-0", panic);
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    // Somebody asks for a reboot.
    put(
        &root,
        "run/nologin",
        "System is going down. Unprivileged users may not log in.",
    );
    assert!(agent.terminate(END).await.unwrap().success());
    reboot(&gateway, 3);
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    // Nobody knows; the record of the panic still lies there.
    agent.kill().await;
    reboot(&gateway, 4);
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    otlp.link.set(Mode::Up).await;
    let boots = wait(&otlp, BOOT, 3).await;
    let status = agent.ready().await.unwrap();
    assert_eq!(status.boot.count, Some(4));
    finish(&mut agent, Some(&otlp), None).await;
    let mut found: Vec<_> = boots
        .iter()
        .map(|boot| {
            (
                word(boot, "boot"),
                word(boot, "reason"),
                boot.event_name.as_str(),
            )
        })
        .collect();
    found.sort();
    let expected = [
        ("2", "panic", "sonde.boot.failed"),
        ("3", "clean", "sonde.boot.end"),
        ("4", "unknown", "sonde.boot.failed"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(boot, reason, name)| ((*boot).to_owned(), (*reason).to_owned(), *name))
        .collect();
    assert_eq!(found, expected);
    let evidence = boots.iter().map(|boot| word(boot, "evidence"));
    assert!(
        evidence
            .into_iter()
            .any(|text| text.contains("Fatal exception"))
    );
    let reasons: Vec<_> = told(&otlp, &RUN)
        .iter()
        .map(|run| word(run, "reason"))
        .collect();
    assert_eq!(
        reasons.iter().filter(|reason| *reason == "boot").count(),
        2,
        "{reasons:?}"
    );
    assert!(reasons.contains(&"stopped".to_owned()), "{reasons:?}");
}

#[tokio::test]
async fn a_panic_of_the_agents_own_is_told_by_the_next_start_with_its_message_and_place() {
    let otlp = Otlp::start().await;
    let gateway = machine(&otlp, "boot-crash");
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    agent.kill().await;
    // The agent's own library and panic hook, in a program that panics.
    let config = gateway.write();
    let mut panicker = Command::new(env!("CARGO_BIN_EXE_panicker"));
    let ended = panicker.arg(config).stderr(Stdio::null()).status().await;
    assert!(!ended.unwrap().success());
    let mut agent = gateway.start();
    let status = agent.ready().await.unwrap();
    let end = status.boot.last_run.unwrap();
    assert_eq!(end.reason, "crash");
    let evidence = end.evidence.join("; ");
    assert!(evidence.contains("panicker.rs:"), "{evidence}");
    assert!(evidence.contains("a bug, on purpose"), "{evidence}");
    settled(&gateway, &mut agent).await;
    assert!(!gateway.path("state/boot/panic").exists());
    let crash = |record: &LogRecord| {
        record.event_name == "sonde.agent.failed" && word(record, "reason") == "crash"
    };
    let book = &otlp.collector.book;
    let record = book.wait_log("the crash", LATER, crash).await.unwrap();
    assert!(word(&record, "evidence").contains("a bug, on purpose"));
    let body = record.body.and_then(|body| body.value);
    assert!(matches!(body, Some(Value::StringValue(text)) if text.contains("crash")));
    finish(&mut agent, Some(&otlp), None).await;
}

#[tokio::test]
async fn the_status_says_how_the_last_ones_ended_for_people() {
    let otlp = Otlp::start().await;
    let gateway = machine(&otlp, "boot-status");
    put(
        &gateway.path("root"),
        "sys/class/watchdog/watchdog0/bootstatus",
        "32\n",
    );
    let mut agent = gateway.start();
    settled(&gateway, &mut agent).await;
    let socket = gateway.socket().display().to_string();
    let shown = Command::new(binary())
        .args(["status", "--socket", &socket])
        .output()
        .await
        .unwrap();
    let page = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(page.contains("boot     number 1"), "{page}");
    assert!(page.contains("last boot ended: watchdog"), "{page}");
    finish(&mut agent, Some(&otlp), None).await;
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_said_and_the_agent_goes_on() {
    let otlp = Otlp::start().await;
    let gateway = machine(&otlp, "boot-readonly");
    std::fs::write(gateway.path("state"), "no folder").unwrap();
    let status = "sys/class/watchdog/watchdog0/bootstatus";
    put(&gateway.path("root"), status, "32\n");
    let mut agent = gateway.start();
    otlp.tick(2).await;
    let status = agent.ready().await.unwrap();
    assert!(status.boot.alarm.is_some(), "{:?}", status.boot);
    assert_eq!(status.boot.count, Some(1));
    wait(&otlp, BOOT, 1).await;
    finish(&mut agent, Some(&otlp), None).await;
}
