//! `sonde spool` on spools that real agents wrote, and a reader of somebody
//! else's: `spool_reader.py` was made from docs/SPOOL.md alone.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sonde_tests::agent::{Gateway, run};
use sonde_tests::link::Mode;
use sonde_tests::workspace;
use sonde_tests::world::{LATER, Otlp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

#[tokio::test]
async fn an_outage_can_be_carried_to_the_collector_by_hand_after_a_kill() {
    let otlp = Otlp::start().await;
    let gateway = outage(&otlp, "spool-export", 4, 6).await;
    let to = gateway.path("carried").display().to_string();
    let state = gateway.path("state").display().to_string();
    let output = run(&["spool", "export", "--dir", &state, "--to", &to]).await;
    assert!(output.status.success(), "{}", words(&output));
    let manifest = std::fs::read_to_string(gateway.path("carried/manifest.jsonl")).unwrap();
    let mut names = Vec::new();
    for line in lines(manifest.as_bytes()) {
        let name = line["file"].as_str().unwrap().to_owned();
        let body = std::fs::read(gateway.path("carried").join(&name)).unwrap();
        assert_eq!(line["bytes"], body.len());
        let gzip = line["encoding"] == "gzip";
        let path = line["path"].as_str().unwrap();
        post(&otlp.collector.address().to_string(), path, gzip, &body).await;
        names.push(name);
    }
    assert!(names.len() > 4 && names.is_sorted(), "{names:?}");
    // By what came, nothing is missing: ticks have no hole.
    otlp.prove("spool-export");
    // Nothing is overwritten.
    let again = run(&["spool", "export", "--dir", &state, "--to", &to]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(words(&again).contains("is not empty"), "{}", words(&again));
}

#[tokio::test]
async fn cat_is_otlp_json_as_others_read_it_and_an_independent_reader_finds_the_same_frames() {
    let otlp = Otlp::start().await;
    let gateway = outage(&otlp, "spool-cat", 3, 6).await;
    let spool = gateway.spool().display().to_string();
    let cat = run(&["spool", "cat", "--dir", &spool]).await;
    assert!(cat.status.success(), "{}", words(&cat));
    let mine = run(&["spool", "ls", "--frames", "--json", "--dir", &spool]).await;
    let mut theirs = reader(&gateway.spool()).await;
    let last = theirs.pop().unwrap();
    assert!(last["ledger"].as_u64().unwrap() > 0, "{last}");
    let mine = lines(&mine.stdout);
    assert!(mine.len() > 5);
    assert_eq!(mine.len(), theirs.len());
    for (mine, theirs) in mine.iter().zip(&theirs) {
        for key in [
            "frame",
            "class",
            "signal",
            "items",
            "bytes",
            "first_unix_ns",
            "traceparent",
            "acknowledged",
        ] {
            assert_eq!(mine[key], theirs[key], "{key}: {mine} {theirs}");
        }
        assert_eq!(theirs["whole"], true);
    }
    let text = String::from_utf8(cat.stdout).unwrap();
    assert_eq!(text.lines().count(), theirs.len());
    for (line, frame) in text.lines().zip(&theirs) {
        let body = unbase64(frame["body"].as_str().unwrap());
        match frame["signal"].as_str().unwrap() {
            "metrics" => same::<ExportMetricsServiceRequest>(line, &body),
            "traces" => same::<ExportTraceServiceRequest>(line, &body),
            "logs" => same::<ExportLogsServiceRequest>(line, &body),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_where_it_is_and_costs_one_frame() {
    let otlp = Otlp::start().await;
    let gateway = outage(&otlp, "spool-verify", 2, 5).await;
    let spool = gateway.spool().display().to_string();
    let whole = run(&["spool", "verify", "--dir", &spool]).await;
    assert_eq!(whole.status.code(), Some(0), "{}", words(&whole));
    let file = gateway.segments().pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = run(&["spool", "verify", "--json", "--dir", &spool]).await;
    assert_eq!(damaged.status.code(), Some(1), "{}", words(&damaged));
    let report = &lines(&damaged.stdout)[0];
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(damage[0]["file"].as_str().unwrap().ends_with(name));
    assert!(damage[0]["offset"].as_u64().unwrap() <= middle as u64);
    assert!(damage[0]["frames"].as_u64().unwrap() <= 1);
    let theirs = reader(&gateway.spool()).await;
    let whole = theirs.iter().filter(|frame| frame["whole"] == true).count();
    assert_eq!(report["frames"], whole);
}

#[tokio::test]
async fn looking_while_the_agent_writes_and_deletes_finds_no_damage() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("spool-live");
    otlp.link.set(Mode::Refuse).await;
    let mut agent = gateway.start();
    let config = gateway.path("sonde.toml").display().to_string();
    let mut looks = 0;
    let mut up = false;
    loop {
        for act in ["verify", "ls", "cat"] {
            let output = run(&["spool", act, "--config", &config]).await;
            let unborn = words(&output).contains("No such file");
            assert!(
                output.status.success() || unborn,
                "{act}: {}",
                words(&output)
            );
        }
        looks += 1;
        let status = agent.status().await;
        let Some(status) = status else { continue };
        if !up && status.spool.frames > 8 {
            otlp.link.set(Mode::Up).await;
            up = true;
        }
        if up && status.spool.frames == 0 && looks > 10 {
            break;
        }
    }
    agent.terminate(LATER).await.unwrap();
    let output = run(&["spool", "verify", "--config", &config]).await;
    assert!(output.status.success(), "{}", words(&output));
}

#[tokio::test]
async fn the_pinned_files_of_version_1_are_what_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = workspace().join("agent/src/spool/inspect/vectors");
    std::fs::create_dir(folder.path().join("normal")).unwrap();
    std::fs::copy(vectors.join("cursors"), folder.path().join("cursors")).unwrap();
    for name in ["sealed.seg", "open.seg"] {
        let segment = folder.path().join("normal/000000000000002a.seg");
        std::fs::copy(vectors.join(name), segment).unwrap();
        let mut frames = reader(folder.path()).await;
        let ledger = frames.pop().unwrap();
        assert_eq!(ledger["ledger"], 7);
        assert_eq!(ledger["next"], 46);
        assert_eq!(ledger["lost"][0]["reason"], "quota");
        assert_eq!(ledger["lost"][0]["items"], 300);
        let names: Vec<&Value> = frames.iter().map(|frame| &frame["frame"]).collect();
        assert_eq!(names, ["feedbeef-41", "feedbeef-42", "feedbeef-43"]);
        assert_eq!(
            unbase64(frames[1]["body"].as_str().unwrap()),
            b"hello SNf\x01 there"
        );
        let context = "00-74726163652d69642d31366279746573-7370616e2d696438-01";
        assert_eq!(frames[1]["traceparent"], context);
        assert_eq!(frames[1]["acknowledged"][0], "otlp");
        assert_eq!(frames[0]["acknowledged"].as_array().unwrap().len(), 0);
        assert_eq!(frames[2]["items"], 12);
    }
}

#[tokio::test]
async fn a_trace_is_found_in_memory_on_flash_and_after_a_kill_and_says_who_has_it() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("trace-tool");
    let mut agent = gateway.start();
    let config = gateway.path("sonde.toml").display().to_string();
    otlp.tick(3).await;
    // Delivered, and still held.
    let delivered = traced(&config, "tick · sonde").await;
    let tree = wait_for(
        &["trace", &delivered, "--config", &config],
        "otlp: acknowledged",
    )
    .await;
    assert!(tree.contains(" · in memory · otlp: acknowledged"), "{tree}");
    otlp.link.set(Mode::Refuse).await;
    let ticks = agent.ready().await.unwrap().agent.ticks;
    agent
        .wait("an outage", LATER, |status| {
            status.agent.ticks > ticks + 8 && gateway.spool_bytes() > 0
        })
        .await
        .unwrap();
    let waiting = traced(&config, "publish sonde.metrics").await;
    let what = ["trace", &waiting, "--config", &config];
    // Its spans, not only the metrics they are about.
    let before = wait_for(&what, "span · in memory and on flash · otlp: waiting").await;
    assert!(
        before.contains("carries the context of publish sonde.metrics"),
        "{before}"
    );
    agent.kill().await;
    let output = run(&what).await;
    assert!(output.status.success(), "{}", words(&output));
    let after = String::from_utf8(output.stdout).unwrap();
    let tree = |text: &str| text.split("frames").next().unwrap().to_owned();
    assert_eq!(tree(&before), tree(&after));
    assert!(after.contains("publish sonde.metrics PRODUCER"), "{after}");
    assert!(after.contains("link "), "{after}");
    let errors = run(&["trace", "--errors", "--config", &config]).await;
    assert!(
        words(&errors).contains("connect otlp"),
        "{}",
        words(&errors)
    );
    let nothing = run(&["trace", "00000000000000000000000000000001", "-c", &config]).await;
    assert_eq!(nothing.status.code(), Some(1), "{}", words(&nothing));
}

/// The id of the newest trace that `--recent` has of that name.
async fn traced(config: &str, name: &str) -> String {
    let list = wait_for(&["trace", "--recent", "--config", config], name).await;
    let line = list.lines().rfind(|line| line.contains(name)).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

/// Runs it until it says `part`.
async fn wait_for(arguments: &[&str], part: &str) -> String {
    let mut last = String::new();
    let end = tokio::time::Instant::now() + LATER;
    while tokio::time::Instant::now() < end {
        let output = run(arguments).await;
        last = words(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        if output.status.success() && text.contains(part) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{arguments:?} never says {part:?}: {last}");
}

/// A gateway whose link was up for some ticks, then down for some, and whose
/// agent was killed in the middle of it.
async fn outage(otlp: &Otlp, id: &str, up: u64, down: u64) -> Gateway {
    let gateway = otlp.gateway(id);
    let mut agent = gateway.start();
    otlp.tick(up).await;
    otlp.link.set(Mode::Refuse).await;
    let before = agent.ready().await.unwrap().agent.ticks;
    let settled = Duration::from_secs(5);
    agent
        .wait("ticks of the outage on flash", LATER, |status| {
            status.agent.ticks > before + down && gateway.spool_bytes() > 0
        })
        .await
        .unwrap();
    // What is younger than the loss window is in memory, and a kill may take it.
    let ticks = agent.ready().await.unwrap().agent.ticks;
    let after = ticks + settled.as_secs();
    agent
        .wait("the loss window", LATER, |status| {
            status.agent.ticks > after
        })
        .await
        .unwrap();
    agent.kill().await;
    gateway
}

async fn reader(spool: &Path) -> Vec<Value> {
    let output = Command::new("python3")
        .arg(workspace().join("tests/spool_reader.py"))
        .args([spool.as_os_str(), "--bodies".as_ref()])
        .output()
        .await
        .expect("python3");
    assert!(output.status.success(), "{}", words(&output));
    lines(&output.stdout)
}

fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The messages' own JSON reader makes of a line what protobuf's makes of the body.
fn same<M: Message + Default + PartialEq + DeserializeOwned + std::fmt::Debug>(
    line: &str,
    body: &[u8],
) {
    let read: M = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(read, M::decode(body).unwrap());
}

fn words(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    let text = [out, err].map(|bytes| String::from_utf8_lossy(bytes.get(..4000).unwrap_or(bytes)));
    format!("{}: {}", output.status, text.join("\n"))
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four
            .iter()
            .fold(0u32, |bits, c| bits << 6 | u32::from(digit(*c)));
        let bits = bits << (8 + 6 * (4 - four.len()));
        out.extend_from_slice(&bits.to_be_bytes()[..four.len() - 1]);
    }
    out
}

/// What `curl --data-binary @FILE -H …` sends.
async fn post(address: &str, path: &str, gzip: bool, body: &[u8]) {
    let encoding = if gzip {
        "content-encoding: gzip\r\n"
    } else {
        ""
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n{encoding}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
