//! Other programs that the agent watches: started, killed, started again and
//! multiplied under it, with what it makes of them at the collector; and its
//! own workings.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point::Value};
use sonde_agent::frame::Signal;
use sonde_tests::ledger::{Ledger, Payload, text};
use sonde_tests::world::{LATER, Otlp, SOON, finish};

/// A program of its own name that does nothing.
fn program(folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    std::fs::copy("/bin/sleep", &to).expect("a copy of sleep");
    to
}

fn start(program: &Path) -> Child {
    let child = Command::new(program)
        .arg("1000")
        .stdin(Stdio::null())
        .spawn();
    child.expect("a child")
}

fn kill(mut child: Child) {
    child.kill().expect("a kill");
    assert_eq!(child.wait().expect("its end").signal(), Some(9));
}

/// The points of a gauge with these attributes, in the order of their time.
fn points(ledger: &Ledger, name: &str, wanted: &[(&str, &str)]) -> Vec<NumberDataPoint> {
    let mut all = Vec::new();
    for delivery in ledger.of(Signal::Metrics) {
        let Payload::Metrics(request) = &delivery.payload else {
            continue;
        };
        let scopes = request
            .resource_metrics
            .iter()
            .flat_map(|resource| &resource.scope_metrics);
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            let points = match &metric.data {
                Some(Data::Gauge(gauge)) if metric.name == name => &gauge.data_points,
                Some(Data::Sum(sum)) if metric.name == name => &sum.data_points,
                _ => continue,
            };
            all.extend(points.iter().filter(|point| has(point, wanted)).cloned());
        }
    }
    all.sort_by_key(|point| point.time_unix_nano);
    all
}

fn has(point: &NumberDataPoint, wanted: &[(&str, &str)]) -> bool {
    let is = |key: &str, value: &str| {
        let mut attributes = point.attributes.iter();
        attributes.any(|one| one.key == key && text(one.value.as_ref()) == value)
    };
    point.attributes.len() == wanted.len() && wanted.iter().all(|(key, value)| is(key, value))
}

fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(Value::AsInt(value)) => value as f64,
        Some(Value::AsDouble(value)) => value,
        None => panic!("a point without a value"),
    }
}

/// Waits until the newest point of a watched process' gauge is this.
async fn reads(otlp: &Otlp, gauge: &str, process: &str, value: f64) {
    let by = [("sonde.process.name", process)];
    let what = format!("{gauge} of {process} is {value}");
    let is = |ledger: &Ledger| {
        let last = points(ledger, gauge, &by).pop();
        last.is_some_and(|point| number(&point) == value)
    };
    let waited = otlp.collector.book.wait(&what, LATER, is).await;
    waited.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_watched_process_is_seen_to_start_to_die_and_to_come_back() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("processes");
    let folder = tempfile::tempdir().unwrap();
    let by_name = program(folder.path(), "sonde-watched-a");
    let by_file = program(folder.path(), "some other name that is too long");
    let pid_file = folder.path().join("own.pid");
    gateway
        .text("process.named.name", "sonde-watched-a")
        .text("process.file.executable", by_file.to_str().unwrap())
        .text("batch.length", "1s")
        .text("process.own.pid_file", pid_file.to_str().unwrap());
    let mut agent = gateway.start();
    // Not the executable: where other users' may not be seen, it might be one of theirs.
    for process in ["named", "own"] {
        reads(&otlp, "sonde.process.count", process, 0.0).await;
    }

    let (named, file) = (start(&by_name), start(&by_file));
    std::fs::write(&pid_file, format!("{}\n", file.id())).unwrap();
    for process in ["named", "file", "own"] {
        reads(&otlp, "sonde.process.count", process, 1.0).await;
        reads(&otlp, "sonde.process.restarts", process, 0.0).await;
    }
    kill(named);
    reads(&otlp, "sonde.process.count", "named", 0.0).await;
    agent
        .wait("the problem", SOON, |status| {
            let mut problems = status.problems.iter();
            problems.any(|problem| problem.part == "process named")
        })
        .await
        .unwrap();
    let named = start(&by_name);
    reads(&otlp, "sonde.process.restarts", "named", 1.0).await;
    let more = start(&by_name);
    reads(&otlp, "sonde.process.count", "named", 2.0).await;
    // One of two that ends is no restart.
    kill(more);
    reads(&otlp, "sonde.process.count", "named", 1.0).await;
    reads(&otlp, "sonde.process.restarts", "named", 1.0).await;

    let ledger = otlp.collector.book.copy();
    let by = [("sonde.process.name", "named")];
    for (gauge, least) in [
        ("process.memory.usage", 4096.0),
        ("process.memory.virtual", 4096.0),
        ("process.thread.count", 1.0),
        ("process.unix.file_descriptor.count", 1.0),
        ("process.uptime", 0.0),
    ] {
        let points = points(&ledger, gauge, &by);
        let good = points.iter().all(|point| number(point) >= least);
        assert!(points.len() > 1 && good, "{gauge}: {points:?}");
    }
    // Each life has a start of its own, and within one nothing falls.
    let user = [("cpu.mode", "user"), by[0]];
    let sums = points(&ledger, "process.cpu.time", &user);
    let mut starts: Vec<u64> = sums.iter().map(|sum| sum.start_time_unix_nano).collect();
    starts.dedup();
    assert_eq!(starts.len(), 2, "{sums:?}");
    for sum in &sums {
        assert!(sum.start_time_unix_nano <= sum.time_unix_nano, "{sum:?}");
    }
    // The agent's own are what they were, without a name.
    let own = points(&ledger, "process.memory.usage", &[]);
    assert!(!own.is_empty() && own.iter().all(|point| number(point) > 100_000.0));

    // A reload watches another, and no longer these.
    gateway
        .set("process.named.enabled", "false")
        .set("process.file.enabled", "false")
        .text("process.late.name", "sonde-watched-a")
        .write();
    agent.reload();
    reads(&otlp, "sonde.process.count", "late", 1.0).await;
    agent
        .wait("only what is watched", SOON, |status| {
            let gauges = status.gauges.iter();
            let mut names: Vec<_> = gauges
                .filter_map(|gauge| gauge.attributes.get("sonde.process.name"))
                .collect();
            names.sort();
            names.dedup();
            names == ["late", "own"]
        })
        .await
        .unwrap();
    kill(named);
    reads(&otlp, "sonde.process.count", "late", 0.0).await;
    kill(file);
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("processes");
}

#[tokio::test]
async fn the_event_loop_its_tasks_and_its_gauges_tell_how_long_they_take() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("runtime");
    gateway.text("gauges.runtime.interval", "1s");
    let mut agent = gateway.start();
    let wanted: [(&str, &[(&str, &str)]); 9] = [
        ("sonde.runtime.busy", &[]),
        ("sonde.runtime.parks", &[]),
        ("sonde.runtime.lag", &[]),
        ("sonde.task.busy", &[("sonde.task", "sampler")]),
        ("sonde.task.busy", &[("sonde.task", "otlp")]),
        ("sonde.queue.high_water", &[("sonde.queue", "spool")]),
        ("sonde.gauge.read.longest", &[("sonde.family", "cpu")]),
        ("sonde.uplink.round_trip", &[("sonde.uplink", "otlp")]),
        ("sonde.process.memory.peak", &[]),
    ];
    for (gauge, by) in wanted {
        let what = format!("{gauge} {by:?}");
        let grew = |ledger: &Ledger| points(ledger, gauge, by).iter().any(|p| number(p) > 0.0);
        let waited = otlp.collector.book.wait(&what, LATER, grew).await;
        waited.unwrap_or_else(|error| panic!("{error}"));
    }
    let ledger = otlp.collector.book.copy();
    // A task is a part of the loop, and the loop's time only grows.
    let last = |gauge: &str, by: &[(&str, &str)]| {
        let last = points(&ledger, gauge, by).pop();
        number(&last.expect("a point"))
    };
    let busy = points(&ledger, "sonde.runtime.busy", &[]);
    assert!(
        busy.windows(2)
            .all(|pair| number(&pair[0]) <= number(&pair[1]))
    );
    let sampler = last("sonde.task.busy", &[("sonde.task", "sampler")]);
    assert!(sampler > 0.0 && last("sonde.uplink.attempts", &[("sonde.uplink", "otlp")]) >= 1.0);
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("runtime");
}
