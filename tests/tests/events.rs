//! What happens, told: events of the agent's own and of local programs, and
//! traces that are kept although the ratio left them out.

use std::process::Stdio;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use sonde_tests::agent::binary;
use sonde_tests::ledger::text;
use sonde_tests::link::Mode;
use sonde_tests::trace_tree::hex;
use sonde_tests::world::{LATER, Otlp, SOON, finish};
use tokio::process::Command;

fn word(record: &LogRecord, key: &str) -> String {
    let found = record.attributes.iter().find(|kv| kv.key == key);
    found.map_or_else(String::new, |kv| text(kv.value.as_ref()))
}

#[tokio::test]
async fn an_outage_is_told_by_events_spans_and_gauges_and_costs_two_spans() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("events-outage");
    gateway.set("trace.routine_ratio", "0.0");
    let mut agent = gateway.start();
    otlp.tick(3).await;
    otlp.link.set(Mode::Refuse).await;
    agent
        .wait("a dozen attempts", LATER, |status| {
            let otlp = status.uplinks.first();
            otlp.is_some_and(|it| !it.up && it.down_s.is_some_and(|down| down > 8.0))
        })
        .await
        .unwrap();
    otlp.link.set(Mode::Up).await;
    let book = &otlp.collector.book;
    book.wait_event("sonde.uplink.down", LATER).await.unwrap();
    let up = |record: &LogRecord| {
        record.event_name == "sonde.uplink.up" && !word(record, "down").is_empty()
    };
    book.wait_log("the end of the outage", LATER, up)
        .await
        .unwrap();
    let span = book
        .wait_span("the attempt that ended it", LATER, |span| {
            span.events
                .iter()
                .any(|event| event.name == "sonde.uplink.up")
                && span.name == "connect otlp"
                && span
                    .attributes
                    .iter()
                    .any(|kv| kv.key == "sonde.attempts.failed")
        })
        .await
        .unwrap();
    assert_eq!(span.parent_span_id, Vec::<u8>::new());
    finish(&mut agent, Some(&otlp), None).await;
    let ledger = book.copy();
    let outage = ledger.spans().into_iter().filter(|(_, span)| {
        let told = span
            .events
            .iter()
            .any(|event| event.name.starts_with("sonde."));
        told || span
            .attributes
            .iter()
            .any(|kv| kv.key == "sonde.attempts.failed")
    });
    let names: Vec<_> = outage.map(|(_, span)| span.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let points = ledger.points();
    for gauge in ["sonde.uplink.up", "sonde.uplink.circuit.open"] {
        assert!(
            points.iter().any(|point| point.series.starts_with(gauge)),
            "{gauge}"
        );
    }
}

#[tokio::test]
async fn a_local_programs_event_becomes_a_record_of_its_span_a_count_and_a_line_in_the_status() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("events-local");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    let socket = gateway.local_socket().display().to_string();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let run = |arguments: &'static [&'static str]| {
        let mut command = Command::new(binary());
        command
            .arg("event")
            .args(["--socket", &socket])
            .args(arguments)
            .env("TRACEPARENT", format!("00-{trace}-00f067aa0ba902b7-01"))
            .stderr(Stdio::piped());
        async move { command.output().await.unwrap() }
    };
    let sent = run(&[
        "pump.start",
        "pressure=4.5",
        "pump=north",
        "--text",
        "serial=0012",
    ])
    .await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    for (arguments, wrong) in [
        (
            &["sonde.agent.stop"] as &'static [&'static str],
            "agent's own",
        ),
        (&["Pump"], "lower-case"),
        (&["pump", "x"], "KEY=VALUE"),
        (&["pump", "x y=1"], "a key"),
    ] {
        let refused = run(arguments).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(wrong), "{said}");
    }
    let record = otlp
        .collector
        .book
        .wait_log("the event", SOON, |it| it.event_name == "pump.start")
        .await
        .unwrap();
    assert_eq!(hex(&record.trace_id), trace);
    assert_eq!(hex(&record.span_id), "00f067aa0ba902b7");
    assert_eq!(
        (word(&record, "pump"), word(&record, "serial")),
        ("north".into(), "0012".into())
    );
    let pressure = record.attributes.iter().find(|kv| kv.key == "pressure");
    let pressure = pressure.unwrap().value.clone().unwrap().value;
    assert_eq!(pressure, Some(Value::DoubleValue(4.5)));
    let status = agent.status().await.unwrap();
    assert_eq!(status.events.counts.get("pump.start"), Some(&1));
    assert_eq!(status.events.counts.get("sonde.agent.ready"), Some(&1));
    assert_eq!(status.events.refused.get("name"), Some(&1));
    assert_eq!(status.events.refused.get("reserved"), Some(&1));
    let last = status
        .events
        .recent
        .iter()
        .find(|it| it.name == "pump.start");
    assert_eq!(last.unwrap().measurements.get("pressure"), Some(&4.5));
    finish(&mut agent, Some(&otlp), None).await;
    let dead = run(&["pump.start"]).await;
    assert_eq!(dead.status.code(), Some(3), "{dead:?}");
}

#[tokio::test]
async fn a_flood_of_local_events_is_refused_and_counted_and_delivery_goes_on() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("events-flood");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    let socket = gateway.local_socket();
    let (mut taken, mut refused) = (0, 0);
    for i in 0..300 {
        let body = format!(r#"{{"name":"flood.e{i}"}}"#);
        let request = sonde_agent::cli::client::Request {
            method: "POST",
            path: "/event",
            headers: &[],
            body: body.as_bytes(),
        };
        match sonde_agent::cli::client::send(&socket, &request)
            .await
            .unwrap()
            .status
        {
            202 => taken += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(taken >= 100 && refused > 0, "{taken} {refused}");
    let status = agent.status().await.unwrap();
    assert_eq!(status.events.refused.get("rate"), Some(&refused));
    assert!(
        status.events.counts.len() < 50,
        "{:?}",
        status.events.counts
    );
    otlp.tick(3).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("events-flood");
}

#[tokio::test]
async fn with_the_console_exporter_spans_go_to_standard_output_and_nowhere_else() {
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("events-console");
    let out = gateway.path("stdout");
    let script = format!(
        "OTEL_TRACES_EXPORTER=console exec {:?} \"$@\" > {:?}",
        binary(),
        out
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]);
    let mut agent = gateway.start_with(&mut command);
    otlp.tick(3).await;
    finish(&mut agent, Some(&otlp), None).await;
    let printed = std::fs::read_to_string(&out).unwrap();
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("span ") && line.contains("\"tick\""))
    );
    assert!(otlp.collector.book.copy().spans().is_empty());
}
