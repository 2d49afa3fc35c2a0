//! Disks on a bad day. Nothing found on one stops the start, and with a link
//! the data flows without it.
//!
//! Read-only and full ones are small file systems of their own, mounted in a
//! namespace of the agent's: as root directly, else in a user namespace (which
//! the kernel must allow; the test fails if it does not).

use std::path::Path;

use sonde_agent::status::Status;
use sonde_tests::agent::binary;
use sonde_tests::link::Mode;
use sonde_tests::world::{END, LATER, Otlp, SOON, finish};
use tokio::process::Command;

#[tokio::test]
async fn a_missing_folder_is_made() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("disk-missing");
    let deep = gateway.path("a/b/c").display().to_string();
    gateway.text("paths.state", &deep);
    let mut agent = gateway.start();
    let status = agent.ready().await.unwrap();
    assert_eq!(status.spool.alarm, None);
    otlp.tick(2).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("disk-missing");
}

#[tokio::test]
async fn a_read_only_disk_is_said_and_data_flows_from_memory() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("disk-read-only");
    let mut agent = gateway.start_with(&mut on_disk(&gateway.path("state"), "ro,size=1m"));
    let status = agent.ready().await.unwrap();
    assert!(said(&status), "{:?}", status.spool);
    otlp.tick(4).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("disk-read-only");
}

#[tokio::test]
async fn a_full_disk_in_an_outage_is_said_and_new_data_flows_afterwards() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("disk-full");
    otlp.link.set(Mode::Refuse).await;
    let mut agent = gateway.start_with(&mut on_disk(&gateway.path("state"), "size=64k"));
    let status = agent
        .wait("the full disk in the status", LATER, |status| {
            said(status) && status.agent.ticks >= 5
        })
        .await
        .unwrap();
    otlp.link.set(Mode::Up).await;
    otlp.tick(status.agent.ticks + 2).await;
    let exit = agent.terminate(END).await.unwrap();
    assert!(exit.success(), "{exit}\n{}", agent.stderr());
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_said_and_data_flows_from_memory() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("disk-blocked");
    let blocked = gateway.path("file");
    std::fs::write(&blocked, "not a folder").unwrap();
    gateway.text("paths.state", &blocked.join("state").display().to_string());
    let mut agent = gateway.start();
    let status = agent.ready().await.unwrap();
    assert!(said(&status), "{:?}", status.spool);
    otlp.tick(4).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("disk-blocked");
}

#[tokio::test]
async fn nothing_found_in_the_folder_stops_the_start() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("disk-damaged");
    otlp.link.set(Mode::Refuse).await;
    let mut agent = gateway.start();
    agent
        .wait("files", SOON, |_| gateway.spool_bytes() > 0)
        .await
        .unwrap();
    agent
        .wait("8 ticks", SOON, |status| status.agent.ticks >= 8)
        .await
        .unwrap();
    agent.kill().await;
    let segments = gateway.segments();
    assert!(!segments.is_empty(), "no segment to damage");
    for file in segments.iter().chain(&[gateway.spool().join("cursors")]) {
        // The cursors may not have been written yet.
        let mut bytes = std::fs::read(file).unwrap_or_default();
        for at in (bytes.len() / 3..bytes.len()).step_by(97) {
            bytes[at] ^= 0x55;
        }
        bytes.truncate(bytes.len() * 9 / 10);
        std::fs::write(file, bytes).unwrap();
        let mut name = file.file_name().unwrap().to_owned();
        name.push(" (copy)");
        std::fs::write(file.with_file_name(name), [0xff; 999]).unwrap();
        std::fs::create_dir(file.with_extension("a-folder")).unwrap();
    }
    let mut agent = gateway.start();
    let found = agent.ready().await.unwrap().spool;
    assert!(found.damaged > 0, "the damage was not noticed: {found:?}");
    otlp.link.set(Mode::Up).await;
    otlp.collector
        .book
        .wait("the new start's ticks", LATER, |ledger| {
            let last = ledger.instances().pop();
            last.is_some_and(|instance| ledger.last_tick(Some(&instance)) >= 2)
        })
        .await
        .unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
    assert_eq!(otlp.collector.faults(), Vec::<String>::new());
}

/// The status says that something is wrong with the spool.
fn said(status: &Status) -> bool {
    status.spool.alarm.is_some()
        || status
            .problems
            .iter()
            .any(|problem| problem.part == "spool")
}

/// `sonde` with a small file system of its own mounted at `folder`.
fn on_disk(folder: &Path, options: &str) -> Command {
    std::fs::create_dir_all(folder).unwrap();
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg("mount -t tmpfs -o \"$1\" tmpfs \"$2\"; shift 2; exec \"$@\"")
        .args(["sh", options])
        .arg(folder)
        .arg(binary());
    command
}
