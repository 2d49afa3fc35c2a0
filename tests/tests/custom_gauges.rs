//! Gauges of the config as the whole program reads them: from real files,
//! programs and pushes to their values at the collector.

use sonde_agent::status::{GaugeStatus, Status};
use sonde_tests::agent::{Agent, Gateway, binary};
use sonde_tests::world::{Otlp, SOON, finish};
use std::path::Path;
use std::process::Output;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;

/// The values of a series at the collector so far.
fn values(otlp: &Otlp, series: &str) -> Vec<f64> {
    let points = otlp.collector.book.copy().points().into_iter();
    let of_series = points.filter(|point| point.series == series);
    of_series.filter_map(|point| point.value).collect()
}

async fn value_comes(otlp: &Otlp, series: &str, value: f64) {
    let what = format!("{series} = {value} at the collector");
    let came = |ledger: &sonde_tests::ledger::Ledger| {
        let mut points = ledger.points().into_iter();
        points.any(|point| point.series == series && point.value == Some(value))
    };
    otlp.collector.book.wait(&what, SOON, came).await.unwrap();
}

fn command(gateway: &mut Gateway, name: &str, script: &str) {
    let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
    gateway.set(&format!("gauge.{name}.command"), &command);
}

fn gauge<'a>(status: &'a Status, name: &str) -> Option<&'a GaugeStatus> {
    status.gauges.iter().find(|gauge| gauge.name == name)
}

/// Waits until a gauge has no value for this reason; returns the reason in words.
async fn absent(agent: &mut Agent, name: &str, missing: &str) -> String {
    let is_absent = |status: &Status| {
        gauge(status, name).is_some_and(|gauge| gauge.missing.as_deref() == Some(missing))
    };
    let what = format!("{name} is {missing}");
    let status = agent.wait(&what, SOON, is_absent).await.unwrap();
    gauge(&status, name)
        .unwrap()
        .why
        .clone()
        .unwrap_or_default()
}

async fn pushed(gateway: &Gateway, arguments: &[&str]) -> Output {
    Command::new(binary())
        .arg("gauge")
        .arg("--socket")
        .arg(gateway.local_socket())
        .args(arguments)
        .output()
        .await
        .unwrap()
}

/// As `curl --unix-socket … -d BODY http://sonde/gauge`: the status code and the answer.
async fn posted(gateway: &Gateway, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(gateway.local_socket()).await.unwrap();
    let request = format!(
        "POST /gauge HTTP/1.1\r\nHost: sonde\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.rsplit("\r\n\r\n").next().unwrap().to_owned())
}

#[tokio::test]
async fn files_by_pattern_pointer_and_scale_reach_the_collector() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("custom-files");
    let modem = gateway.path("modem.json");
    let table = gateway.path("table");
    std::fs::write(&modem, r#"{"modem": {"signal": [-67.25, "noise"]}}"#).unwrap();
    std::fs::write(&table, "wlan0:   0000   54.  -56.\nFree:    203 kB\n").unwrap();
    let [modem_path, table_path] = [&modem, &table].map(|path| path.display().to_string());
    gateway
        .text("gauge.signal.file", &modem_path)
        .text("gauge.signal.pointer", "/modem/signal/0")
        .text("gauge.signal.name", "modem.signal")
        .text("gauge.signal.unit", "dB")
        .set("gauge.signal.resolution", "0.5")
        .text("gauge.signal.attributes.sim", "1")
        .text("gauge.free.file", &table_path)
        .text("gauge.free.pattern", "Free: {} kB")
        .text("gauge.free.name", "store.free")
        .text("gauge.free.unit", "By")
        .set("gauge.free.scale", "1024")
        .set("gauge.free.resolution", "1")
        .text("gauge.device.file", "/dev/zero")
        .text("gauge.device.name", "no.file");
    let mut agent = gateway.start();
    value_comes(&otlp, "modem.signal{sim=1}", -67.5).await;
    value_comes(&otlp, "store.free", 207_872.0).await;
    // A program writes a new file and renames it over the old one.
    let next = gateway.path("next");
    std::fs::write(&next, r#"{"modem": {"signal": [-71]}}"#).unwrap();
    std::fs::rename(&next, &modem).unwrap();
    value_comes(&otlp, "modem.signal{sim=1}", -71.0).await;
    assert!(
        absent(&mut agent, "no.file", "unsupported")
            .await
            .contains("regular")
    );
    std::fs::write(&table, "Free: nan kB\n").unwrap();
    assert!(
        absent(&mut agent, "store.free", "garbage")
            .await
            .contains("no number")
    );
    std::fs::remove_file(&modem).unwrap();
    absent(&mut agent, "modem.signal", "gone").await;
    finish(&mut agent, Some(&otlp), None).await;
    let errors = values(&otlp, "sonde.gauge.errors{sonde.family=custom}");
    assert!(errors.iter().any(|count| *count > 0.0), "{errors:?}");
    otlp.prove("custom-files");
}

#[tokio::test]
async fn what_commands_print_reaches_the_collector_and_what_is_no_number_does_not() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("custom-commands");
    gateway
        .text("gauge.modem.unit", "dB")
        .text("gauge.modem.pattern", "rssi={} dBm")
        .text("gauge.modem.environment.LEVEL", "-67");
    command(&mut gateway, "modem", "echo up; echo rssi=$LEVEL dBm");
    let bad = [
        ("nan", "echo nan", "garbage", "no number"),
        ("inf", "echo inf", "garbage", "no number"),
        ("huge", "echo 1e400", "garbage", "no number"),
        ("hex", "echo 0x1F", "garbage", "no number"),
        ("comma", "echo 1,5", "garbage", "no number"),
        ("empty", "true", "garbage", "no number"),
        (
            "fails",
            "echo 5; echo no carrier >&2; exit 3",
            "gone",
            "exit code 3: no carrier",
        ),
        ("floods", "yes", "garbage", "output_limit"),
        (
            "long",
            "head -c 100000 /dev/zero",
            "garbage",
            "output_limit",
        ),
        ("hangs", "sleep 1000", "timeout", "killed"),
        (
            "lives",
            "echo 5; exec >&- 2>&-; sleep 1000",
            "timeout",
            "killed",
        ),
    ];
    for (name, script, _, _) in bad {
        command(&mut gateway, name, script);
        gateway.text(&format!("gauge.{name}.timeout"), "500ms");
    }
    command(&mut gateway, "zero", "echo -0");
    gateway
        .text("gauge.none.command", "x")
        .set("gauge.none.command", "[\"/none/such\"]");
    let mut agent = gateway.start();
    value_comes(&otlp, "modem", -67.0).await;
    value_comes(&otlp, "zero", 0.0).await;
    for (name, _, missing, words) in bad {
        let why = absent(&mut agent, name, missing).await;
        assert!(why.contains(words), "{name}: {why}");
    }
    assert!(
        absent(&mut agent, "none", "gone")
            .await
            .contains("/none/such")
    );
    finish(&mut agent, Some(&otlp), None).await;
    for (name, _, _, _) in bad {
        assert_eq!(values(&otlp, name), Vec::<f64>::new(), "{name}");
    }
    let zeros = values(&otlp, "zero");
    assert!(
        zeros.iter().all(|zero| zero.is_sign_positive()),
        "{zeros:?}"
    );
}

#[tokio::test]
async fn a_hanging_command_with_all_that_it_started_is_gone_when_the_agent_ends() {
    let mut gateway = Gateway::new("custom-hang");
    let pids = gateway.path("pids");
    let script = format!(
        "sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait",
        pids.display()
    );
    command(&mut gateway, "hangs", &script);
    gateway.text("gauge.hangs.timeout", "1h");
    let mut agent = gateway.start();
    agent
        .wait("the command's processes", SOON, |_| lines(&pids) >= 2)
        .await
        .unwrap();
    assert!(agent.terminate(SOON).await.unwrap().success());
    // It ran once, and never twice at once.
    assert_eq!(lines(&pids), 2);
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let alive = stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.starts_with(" Z"));
        assert!(!alive, "{pid} is left: {stat}");
    }
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn pushes_by_command_and_http_reach_the_collector_expire_and_are_bounded() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("custom-pushes");
    gateway
        .set("gauge.speed.push", "true")
        .text("gauge.speed.name", "line.speed")
        .text("gauge.speed.unit", "m/s")
        .set("gauge.speed.max", "10")
        .set("gauge.speed.max_series", "2")
        .text("gauge.speed.expires", "2s")
        .set("gauge.parts.push", "true")
        .text("gauge.parts.name", "line.parts")
        .text("gauge.parts.kind", "counter")
        .set("gauge.parts.resolution", "1");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    let why = absent(&mut agent, "line.speed", "first").await;
    assert_eq!(why, "nothing was pushed yet");

    let sent = pushed(&gateway, &["speed", "1.25", "line=3"]).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    value_comes(&otlp, "line.speed{line=3}", 1.25).await;
    let two = r#"[{"name": "line.speed", "value": -2, "attributes": {"line": "4"}}, {"name": "parts", "value": 100}]"#;
    assert_eq!(posted(&gateway, two).await, (202, String::new()));
    value_comes(&otlp, "line.speed{line=4}", -2.0).await;
    value_comes(&otlp, "line.parts", 100.0).await;

    for (arguments, words) in [
        (&["speed", "1", "line=5"][..], "2 sets of attributes"),
        (&["speed", "11", "line=3"], "11 is more than 10"),
        (&["sped", "1"], "no gauge \"sped\" is configured"),
        (&["speed", "nan"], "no number"),
    ] {
        let refused = pushed(&gateway, arguments).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
    let bad = r#"[{"name": "parts", "value": 7}, {"name": "none", "value": 1}]"#;
    let (code, said) = posted(&gateway, bad).await;
    assert_eq!(code, 400);
    assert!(
        said.contains("1 of 2 values were refused; number 2"),
        "{said}"
    );
    // The good one of a bad list was taken, and a counter may begin again.
    value_comes(&otlp, "line.parts", 7.0).await;
    let status = agent.status().await.unwrap();
    assert_eq!(status.pushes_refused.get("series"), Some(&1));
    assert_eq!(status.pushes_refused.get("unknown"), Some(&2));
    let all_gone = |status: &Status| {
        let mut lines = status
            .gauges
            .iter()
            .filter(|gauge| gauge.name == "line.speed");
        lines.all(|gauge| gauge.missing.as_deref() == Some("gone"))
    };
    agent.wait("expired values", SOON, all_gone).await.unwrap();
    assert!(
        absent(&mut agent, "line.speed", "gone")
            .await
            .contains("2s")
    );

    let page = gateway
        .run(&[
            "status",
            "--socket",
            &gateway.socket().display().to_string(),
        ])
        .await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("line.parts 7, "), "{page}");
    assert!(
        page.contains("line.speed{line=4} has no value (gone)"),
        "{page}"
    );
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("custom-pushes");
}

#[tokio::test]
async fn a_reload_brings_changes_and_takes_gauges() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("custom-reload");
    let mut agent = gateway.start();
    agent.ready().await.unwrap();
    let (code, said) = posted(&gateway, r#"{"name": "level", "value": 1}"#).await;
    assert_eq!(code, 400, "{said}");

    gateway.set("gauge.level.push", "true").write();
    agent.reload();
    let known = |status: &Status| gauge(status, "level").is_some();
    agent.wait("the new gauge", SOON, known).await.unwrap();
    assert_eq!(
        posted(&gateway, r#"{"name": "level", "value": 1}"#).await.0,
        202
    );
    value_comes(&otlp, "level", 1.0).await;

    let file = gateway.path("level");
    std::fs::write(&file, "2").unwrap();
    gateway
        .unset("gauge.level.push")
        .text("gauge.level.file", &file.display().to_string())
        .write();
    agent.reload();
    value_comes(&otlp, "level", 2.0).await;

    gateway
        .set("gauge.level.min", "5")
        .set("gauge.level.max", "4")
        .write();
    agent.reload();
    let refused = |status: &Status| {
        let error = status.config.reload_error.as_deref();
        error.is_some_and(|error| error.contains("gauge.level.min"))
    };
    agent.wait("a refused reload", SOON, refused).await.unwrap();
    std::fs::write(&file, "3").unwrap();
    value_comes(&otlp, "level", 3.0).await;

    gateway
        .set("gauge.level.enabled", "false")
        .unset("gauge.level.max")
        .write();
    agent.reload();
    let none = |status: &Status| gauge(status, "level").is_none();
    agent.wait("no such gauge", SOON, none).await.unwrap();
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("custom-reload");
}
