//! Local programs' telemetry: through the socket and the port into the
//! gateway's buffer, over outages and ends; and what hostile clients get.

use std::net::SocketAddr;

use prost::Message as _;
use sonde_agent::uplink::split;
use sonde_tests::agent::{Agent, Gateway};
use sonde_tests::ledger::{Ledger, Payload};
use sonde_tests::link::Mode;
use sonde_tests::program::{Program, came, raw};
use sonde_tests::world::{END, LATER, Otlp, SOON};
use sonde_tests::{process, workspace};
use tokio::process::Command;

const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

/// A gateway with a port, and the port.
fn with_port(otlp: &Otlp, id: &str) -> (Gateway, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap();
    let mut gateway = otlp.gateway(id);
    gateway
        .text("receiver.listen", &port.to_string())
        .text("device.environment", "test");
    (gateway, port)
}

async fn listens(agent: &mut Agent) {
    let there = |status: &sonde_agent::status::Status| {
        status.receiver.listen.is_some() && status.receiver.error.is_none()
    };
    agent.wait("the port", SOON, there).await.unwrap();
}

/// Every resource of a program, as `key=value` of its texts.
fn resources(ledger: &Ledger, service: &str) -> Vec<Vec<String>> {
    let resources = ledger.deliveries.iter().flat_map(|one| match &one.payload {
        Payload::Traces(request) => {
            let all = request.resource_spans.iter();
            all.filter_map(|one| one.resource.clone())
                .collect::<Vec<_>>()
        }
        Payload::Metrics(request) => {
            let all = request.resource_metrics.iter();
            all.filter_map(|one| one.resource.clone()).collect()
        }
        Payload::Logs(request) => {
            let all = request.resource_logs.iter();
            all.filter_map(|one| one.resource.clone()).collect()
        }
    });
    let texts = resources.map(|resource| {
        let pairs = resource.attributes.iter();
        pairs
            .map(|pair| {
                let value = pair.value.clone().unwrap_or_default().value;
                match value {
                    Some(
                        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text),
                    ) => format!("{}={text}", pair.key),
                    other => format!("{}={other:?}", pair.key),
                }
            })
            .collect::<Vec<_>>()
    });
    let wanted = format!("service.name={service}");
    texts.filter(|one| one.contains(&wanted)).collect()
}

fn both(resource: &[String], id: &str) {
    for expected in [
        format!("device.id={id}"),
        "deployment.environment.name=test".into(),
    ] {
        assert!(resource.contains(&expected), "{resource:?}");
    }
    let names = resource
        .iter()
        .filter(|one| one.starts_with("service.name="));
    assert_eq!(names.count(), 1, "{resource:?}");
}

#[tokio::test]
async fn every_encoding_arrives_with_the_programs_resource_and_the_gateways() {
    let id = "receiver-encodings";
    let otlp = Otlp::start().await;
    let (gateway, port) = with_port(&otlp, id);
    let mut agent = gateway.start();
    listens(&mut agent).await;
    let program = Program::new(&gateway.local_socket(), "local");
    let list = program.post("/v1/nothing", &[], b"").await.unwrap();
    assert_eq!(list.status, 404);
    let body = |from: u32| program.request(from..from + 1).encode_to_vec();
    let json = |from| serde_json::to_vec(&program.request(from..from + 1)).unwrap();
    for (headers, body) in [
        (vec![PROTOBUF], body(0)),
        (vec![PROTOBUF, GZIP], split::gzip(&body(1)).unwrap()),
        (vec![JSON], json(2)),
        (vec![JSON, GZIP], split::gzip(&json(3)).unwrap()),
    ] {
        let reply = program.post("/v1/traces", &headers, &body).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.error());
    }
    let head = |host: &str, more: &str, length: usize| {
        format!(
            "POST /v1/traces HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\
             Content-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let ask = async |host: &str, more: &str| {
        let body = body(4);
        let bytes = [head(host, more, body.len()).as_bytes(), &body].concat();
        raw(port, &bytes, SOON).await.unwrap()
    };
    assert!(ask(&port.to_string(), "").await.starts_with("HTTP/1.1 200"));
    for (host, more) in [
        (port.to_string().as_str(), "Origin: https://example.com\r\n"),
        (port.to_string().as_str(), "Sec-Fetch-Site: cross-site\r\n"),
        ("rebound.example:4318", ""),
    ] {
        let answer = ask(host, more).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let all = |ledger: &Ledger| came(ledger, "local").len() == 5;
    otlp.collector
        .book
        .wait("five spans", SOON, all)
        .await
        .unwrap();
    let ledger = otlp.collector.book.copy();
    for resource in resources(&ledger, "local") {
        both(&resource, id);
        assert!(resource.contains(&"telemetry.sdk.language=python".to_owned()));
    }
    let status = agent.status().await.unwrap();
    assert_eq!(status.receiver.signals["traces"].items, 5);
    assert_eq!(status.receiver.refused["foreign"], 3);
    assert!(agent.terminate(END).await.unwrap().success());
    assert_eq!(otlp.collector.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn the_python_sdk_delivers_all_three_signals_through_the_port() {
    let id = "receiver-python";
    let otlp = Otlp::start().await;
    let (gateway, port) = with_port(&otlp, id);
    let mut agent = gateway.start();
    listens(&mut agent).await;
    let output = Command::new(workspace().join("target/venv/bin/python"))
        .arg(workspace().join("tests/programs/otlp_sdk.py"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{port}"))
        .env("OTEL_SERVICE_NAME", "python-program")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let out = String::from_utf8(output.stdout).unwrap();
    let trace_id = out.trim();
    let three = |ledger: &Ledger| resources(ledger, "python-program").len() >= 3;
    otlp.collector
        .book
        .wait("three signals", LATER, three)
        .await
        .unwrap();
    let ledger = otlp.collector.book.copy();
    let found = resources(&ledger, "python-program");
    for resource in &found {
        both(resource, id);
    }
    let traced = ledger.deliveries.iter().any(|one| match &one.payload {
        Payload::Traces(request) => request
            .resource_spans
            .iter()
            .flat_map(|one| &one.scope_spans)
            .flat_map(|scope| &scope.spans)
            .any(|span| {
                let id: String = span.trace_id.iter().map(|b| format!("{b:02x}")).collect();
                id == trace_id
            }),
        _ => false,
    });
    assert!(traced, "no span of trace {trace_id}");
    let signals = agent.status().await.unwrap().receiver.signals;
    assert_eq!(
        signals.keys().collect::<Vec<_>>(),
        ["logs", "metrics", "traces"]
    );
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn what_was_answered_outlives_an_outage_a_kill_after_the_window_and_a_stop() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("receiver-outage");
    let mut agent = gateway.start();
    otlp.tick(2).await;
    otlp.link.set(Mode::Cut).await;
    let program = Program::new(&gateway.local_socket(), "local");
    assert_eq!(program.send(0..3000).await.spans, 3000);
    // The loss window is 4 s, a tick 1 s: by then all of it is on flash.
    let until = agent.ready().await.unwrap().agent.ticks + 7;
    let passed = |status: &sonde_agent::status::Status| status.agent.ticks >= until;
    agent.wait("a loss window", LATER, passed).await.unwrap();
    agent.kill().await;
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    // And this is told to end before its batch is due.
    assert_eq!(program.send(3000..3100).await.spans, 100);
    assert!(agent.terminate(END).await.unwrap().success());
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    otlp.link.set(Mode::Up).await;
    let all = |ledger: &Ledger| came(ledger, "local").len() == 3100;
    otlp.collector
        .book
        .wait("every span", LATER, all)
        .await
        .unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
    assert_eq!(otlp.collector.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn hostile_clients_are_refused_and_others_are_served_meanwhile() {
    let otlp = Otlp::start().await;
    let (mut gateway, port) = with_port(&otlp, "receiver-hostile");
    gateway.set("receiver.request_rate", "1000");
    let mut agent = gateway.start();
    listens(&mut agent).await;
    let program = Program::new(&gateway.local_socket(), "good");
    program.send(0..10).await;
    // Slow ones: a head that does not end, a body that does not come.
    let slow = |bytes: &'static [u8]| tokio::spawn(raw(port, bytes, LATER));
    let head = slow(b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ");
    let body = slow(
        b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\nContent-Length: 5000\r\n\r\nx",
    );
    let mut seed = 7_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let byte = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as u8
        };
        (0..length).map(byte).collect()
    };
    let good = program.request(10..20).encode_to_vec();
    let mut deep = Vec::new();
    for _ in 0..5000 {
        // AnyValue { arrayValue: ArrayValue { values: … } }, its lengths beyond the truth.
        deep.extend_from_slice(&[0x2a, 0xff, 0x7f, 0x0a, 0xff, 0x7f]);
    }
    let nested = format!(
        "{{\"resourceSpans\":[{{\"resource\":{{\"attributes\":[{{\"value\":{}",
        "{\"arrayValue\":{\"values\":[".repeat(50_000)
    );
    let bomb = split::gzip(&vec![0_u8; 60 << 20]).unwrap();
    let mut cases = vec![
        (PROTOBUF, None, noise(100_000), 400),
        (PROTOBUF, None, good[..good.len() / 2].to_vec(), 400),
        (PROTOBUF, None, deep, 400),
        (PROTOBUF, Some(GZIP), bomb, 413),
        (PROTOBUF, Some(GZIP), noise(1000), 400),
        (PROTOBUF, None, vec![0x0a; 5 << 20], 413),
        (JSON, None, nested.into_bytes(), 400),
        (JSON, None, b"[".repeat(1 << 20), 400),
        (
            JSON,
            None,
            br#"{"resourceSpans":[{"a":"#.repeat(100_000),
            400,
        ),
        (("Content-Type", "text/plain"), None, good.clone(), 415),
    ];
    for length in 1..100 {
        let mut wrong = noise(length * 10);
        // Never a message by chance: field 0.
        wrong[0] = 0;
        cases.push((PROTOBUF, None, wrong, 400));
    }
    for (kind, coding, bytes, expected) in cases {
        let headers: Vec<_> = [Some(kind), coding].into_iter().flatten().collect();
        let path = "/v1/traces";
        let reply = program.post(path, &headers, &bytes).await.unwrap();
        assert_eq!(reply.status, expected, "{kind:?} {}", reply.error());
    }
    // More connections than are allowed: the others wait, and get their turn.
    let idle: Vec<_> = (0..40)
        .map(|_| std::net::TcpStream::connect(port).unwrap())
        .collect();
    program.send(10..20).await;
    drop(idle);
    let answer = body.await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    head.await.unwrap().expect("closed in time");
    program.send(20..30).await;
    let memory = process::memory(agent.pid()).unwrap();
    assert!(memory.peak < 40 << 20, "{} bytes", memory.peak);
    let all = |ledger: &Ledger| came(ledger, "good").len() == 30;
    otlp.collector
        .book
        .wait("the good ones", SOON, all)
        .await
        .unwrap();
    let refused = agent.status().await.unwrap().receiver.refused;
    assert_eq!(refused["too_slow"], 1, "{refused:?}");
    assert!(
        refused["malformed"] >= 100 && refused["too_large"] == 2,
        "{refused:?}"
    );
    assert!(agent.terminate(END).await.unwrap().success());
    assert_eq!(otlp.collector.faults(), Vec::<String>::new());
}
