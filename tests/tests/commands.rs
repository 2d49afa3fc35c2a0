//! Commands over MQTT, against the real mosquitto and with paho-mqtt as the
//! cloud service.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sonde_agent::status::Status;
use sonde_tests::agent::{Agent, Gateway};
use sonde_tests::broker::{Broker, Door};
use sonde_tests::cloud::Cloud;
use sonde_tests::link::{Link, Mode};
use sonde_tests::trace_tree::{Forest, hex, parse_traceparent};
use sonde_tests::world::{END, LATER, Otlp, SOON, prefix};
use tokio::time::sleep;

/// The caller's span.
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct World {
    broker: Broker,
    link: Link,
    cloud: Cloud,
    gateway: Gateway,
    prefix: String,
}

impl World {
    async fn new(id: &str) -> Self {
        let broker = Broker::start(&Door::Plain, None).await.expect("mosquitto");
        let link = Link::to(broker.address()).await.expect("a link");
        let prefix = prefix(id);
        let answers = format!("{prefix}/response/#");
        let cloud = Cloud::start(broker.back_door().port(), &[&answers, "cloud/#"]).await;
        let mut gateway = Gateway::new(id);
        gateway
            .mqtt(&format!("mqtt://{}", link.address()))
            .text("uplink.mqtt.topic_prefix", &prefix);
        for name in ["ping", "slow", "again", "local"] {
            gateway.set(
                &format!("job.{name}.remote"),
                &(name != "local").to_string(),
            );
        }
        let runs = gateway.path("runs").display().to_string();
        let script = |rest: &str| format!("[\"/bin/sh\", \"-c\", \"echo run >> {runs}; {rest}\"]");
        gateway
            .set("job.ping.command", &script("echo {n} $TRACEPARENT"))
            .text("job.ping.arguments.n.type", "integer")
            .text("job.ping.concurrency", "queue")
            .set("job.ping.concurrency_max", "16")
            .set("job.slow.command", &script("sleep 60"))
            .set("job.again.command", &script("sleep 2"))
            .set("job.again.idempotent", "true")
            .set("job.local.command", &script("true"));
        Self {
            broker,
            link,
            cloud: cloud.expect("python with paho-mqtt (tests/run --only nothing)"),
            gateway,
            prefix,
        }
    }

    async fn start(&self) -> Agent {
        let mut agent = self.gateway.start();
        self.subscribed(&mut agent).await;
        agent
    }

    async fn subscribed(&self, agent: &mut Agent) {
        agent
            .wait("the subscription", SOON, |status| {
                let commands = status.commands.as_ref();
                commands.is_some_and(|commands| commands.state == "subscribed")
            })
            .await
            .unwrap();
    }

    async fn command(&mut self, job: &str, payload: &str, correlation: &str) {
        let prefix = self.prefix.clone();
        self.cloud.command(&prefix, job, payload, correlation).await;
    }

    fn runs(&self) -> usize {
        let runs = std::fs::read_to_string(self.gateway.path("runs")).unwrap_or_default();
        runs.lines().count()
    }

    async fn ran(&self, times: usize) {
        for _ in 0..2000 {
            if self.runs() >= times {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} runs of {times}\n{}", self.runs(), self.gateway.stderr());
    }
}

#[tokio::test]
async fn a_command_is_received_run_and_answered_with_what_it_printed() {
    let mut world = World::new("commands-run").await;
    let mut agent = world.start().await;
    world.command("ping", "{\"n\": 7}", "c1").await;
    let done = world.cloud.wait("c1", "done").await;
    assert_eq!(done.body["status"], "ok", "{done:?}");
    assert_eq!(done.body["exit_code"], 0);
    let said = done.body["stdout"].as_str().unwrap();
    assert!(said.starts_with("7 00-"), "{said}");
    assert_eq!(done.content_type.as_deref(), Some("application/json"));
    assert_eq!(done.topic, format!("{}/response/ping", world.prefix));
    let states: Vec<_> = world
        .cloud
        .of("c1")
        .iter()
        .map(|a| a.body["state"].clone())
        .collect();
    assert_eq!(states, ["received", "running", "done"]);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn what_may_not_be_run_is_refused_with_a_code_and_not_run() {
    let mut world = World::new("commands-refuse").await;
    let mut agent = world.start().await;
    let large = format!("{{\"n\": \"{}\"}}", "x".repeat(17_000));
    for (job, payload, code) in [
        ("nothing", "", "unknown_job"),
        ("local", "", "unknown_job"),
        ("ping", "{\"n\": \"seven\"}", "bad_arguments"),
        ("ping", "{\"m\": 7}", "bad_arguments"),
        ("ping", "[7]", "bad_arguments"),
        ("ping", "{", "bad_arguments"),
        ("ping", &large, "too_large"),
    ] {
        let correlation = format!("{job}-{code}-{}", payload.len());
        world.command(job, payload, &correlation).await;
        let refused = world.cloud.wait(&correlation, "refused").await;
        assert_eq!(refused.body["code"], code, "{refused:?}");
        assert!(refused.body["error"].as_str().unwrap().len() > 8);
    }
    let topic = format!("{}/command/ping", world.prefix);
    for (response_topic, allowed) in [("cloud/answers", false), ("fleet/other/command/x", false)] {
        let request = json!({
            "topic": topic, "payload": "{\"n\": 1}", "correlation": response_topic,
            "response_topic": response_topic,
        });
        world.cloud.send(request).await;
        let refused = world.cloud.wait(response_topic, "refused").await;
        assert_eq!(refused.body["code"], "response_topic");
        assert_eq!(refused.topic == response_topic, allowed);
    }
    assert_eq!(world.runs(), 0);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_repeated_command_is_answered_again_and_not_run_also_after_a_restart() {
    let mut world = World::new("commands-repeat").await;
    let mut agent = world.start().await;
    world.command("ping", "{\"n\": 1}", "c1").await;
    let first = world.cloud.wait("c1", "done").await;
    world.command("ping", "{\"n\": 1}", "c1").await;
    world.cloud.wait_for("c1", "done", 2).await;
    assert!(agent.terminate(END).await.unwrap().success());
    let mut agent = world.start().await;
    world.command("ping", "{\"n\": 1}", "c1").await;
    let all = world.cloud.wait_for("c1", "done", 3).await;
    assert!(
        all.iter().all(|answer| answer.body == first.body),
        "{all:?}"
    );
    assert_eq!(world.runs(), 1);
    agent.kill().await;
    let mut agent = world.start().await;
    world.command("ping", "{\"n\": 1}", "c1").await;
    world.cloud.wait_for("c1", "done", 4).await;
    assert_eq!(world.runs(), 1);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_run_that_a_kill_interrupted_is_reported_and_not_repeated() {
    let mut world = World::new("commands-kill").await;
    let mut agent = world.start().await;
    world.command("slow", "", "c1").await;
    world.cloud.wait("c1", "running").await;
    world.ran(1).await;
    agent.kill().await;
    let mut agent = world.start().await;
    let done = world.cloud.wait("c1", "done").await;
    assert_eq!(done.body["status"], "interrupted", "{done:?}");
    world.command("slow", "", "c1").await;
    world.cloud.wait_for("c1", "done", 2).await;
    assert_eq!(world.runs(), 1);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn an_idempotent_job_is_run_again_after_a_kill() {
    let mut world = World::new("commands-again").await;
    let mut agent = world.start().await;
    world.command("again", "", "c1").await;
    world.ran(1).await;
    agent.kill().await;
    let mut agent = world.start().await;
    let done = world.cloud.wait("c1", "done").await;
    assert_eq!(done.body["status"], "ok", "{done:?}");
    assert_eq!(world.runs(), 2);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn at_an_orderly_end_what_runs_is_ended_and_its_answer_is_not_lost() {
    let mut world = World::new("commands-stop").await;
    let mut agent = world.start().await;
    world.command("slow", "", "c1").await;
    world.cloud.wait("c1", "running").await;
    assert!(agent.terminate(END).await.unwrap().success());
    let mut agent = world.start().await;
    let done = world.cloud.wait("c1", "done").await;
    assert_eq!(done.body["status"], "interrupted");
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn an_answer_waits_out_a_cut_link_and_a_command_an_absent_agent() {
    let mut world = World::new("commands-cut").await;
    let mut agent = world.start().await;
    world.command("again", "", "c1").await;
    world.cloud.wait("c1", "running").await;
    world.link.set(Mode::Refuse).await;
    world.ran(1).await;
    sleep(Duration::from_secs(3)).await;
    agent.kill().await;
    world.command("ping", "{\"n\": 2}", "c2").await;
    world.link.set(Mode::Up).await;
    let mut agent = world.start().await;
    assert_eq!(world.cloud.wait("c1", "done").await.body["status"], "ok");
    assert_eq!(world.cloud.wait("c2", "done").await.body["status"], "ok");
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_command_that_expired_while_the_agent_was_away_is_not_run() {
    let mut world = World::new("commands-expiry").await;
    let mut agent = world.start().await;
    assert!(agent.terminate(END).await.unwrap().success());
    let request = json!({
        "topic": format!("{}/command/ping", world.prefix), "payload": "{\"n\": 1}",
        "correlation": "late", "expiry": 1,
    });
    world.cloud.send(request).await;
    world.command("ping", "{\"n\": 2}", "fresh").await;
    sleep(Duration::from_secs(2)).await;
    let mut agent = world.start().await;
    world.cloud.wait("fresh", "done").await;
    assert_eq!(world.runs(), 1);
    assert!(world.cloud.of("late").is_empty());
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_retained_command_is_not_run_at_a_connect() {
    let mut world = World::new("commands-retained").await;
    let request = json!({
        "topic": format!("{}/command/ping", world.prefix), "payload": "{\"n\": 1}",
        "correlation": "old", "retain": true,
    });
    world.cloud.send(request).await;
    let mut agent = world.start().await;
    world.command("ping", "{\"n\": 2}", "fresh").await;
    world.cloud.wait("fresh", "done").await;
    assert!(world.cloud.of("old").is_empty());
    assert_eq!(world.runs(), 1);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_burst_of_ten_thousand_is_bounded_counted_and_leaves_the_agent_well() {
    const BURST: u64 = 10_000;
    let mut world = World::new("commands-burst").await;
    let mut agent = world.start().await;
    let before = agent.status().await.unwrap();
    let request = json!({
        "topic": format!("{}/command/ping", world.prefix), "payload": "{\"n\": 1}",
        "correlation": "b", "count": BURST,
    });
    world.cloud.send(request).await;
    // Telemetry goes on meanwhile: something is acknowledged while commands come.
    let acked = |status: &Status| status.uplinks[0].acked_frames;
    let came = |status: &Status| status.commands.as_ref().map_or(0, |c| c.received);
    let after = acked(&before);
    let peak = Cell::new(0);
    let amid = agent
        .wait("telemetry amid the burst", LATER, |status| {
            acked(status) > after && (100..BURST).contains(&came(status))
        })
        .await
        .unwrap();
    assert!(came(&amid) < BURST);
    let status = agent
        .wait("the burst", LATER * 2, |status| {
            peak.set(peak.get().max(status.agent.rss_bytes.unwrap_or_default()));
            let commands = status.commands.as_ref();
            // No more than this comes, or less: the broker keeps and sends each once.
            commands.is_some_and(|c| c.received >= BURST && c.under_way == 0)
        })
        .await
        .unwrap();
    let commands = status.commands.unwrap();
    assert_eq!(commands.received, BURST, "{commands:?}");
    assert_eq!(commands.dropped, 0, "{commands:?}");
    assert_eq!(commands.repeated, 0, "{commands:?}");
    let refused: u64 = commands.refused.values().sum();
    assert_eq!(commands.accepted + refused, BURST, "{commands:?}");
    assert!((1..=200).contains(&commands.accepted), "{commands:?}");
    assert_eq!(world.runs() as u64, commands.accepted, "{commands:?}");
    // Each has its answer or is counted as one without.
    let answered = BURST - commands.unanswered;
    let told = |cloud: &Cloud| {
        let answers = cloud.answers();
        let over = |state: &Value| state == "done" || state == "refused";
        let over = answers.iter().filter(|a| over(&a.body["state"]));
        let told: std::collections::BTreeSet<_> = over.map(|a| a.correlation.clone()).collect();
        told.len() as u64
    };
    for _ in 0..1000 {
        if told(&world.cloud) >= answered {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(&world.cloud), answered, "{commands:?}");
    // By one connection, which is well afterwards.
    let uplink = &status.uplinks[0];
    assert_eq!(
        uplink.transitions.get("down").copied().unwrap_or(0),
        0,
        "{uplink:?}"
    );
    assert_eq!(uplink.retries, before.uplinks[0].retries, "{uplink:?}");
    let peak = peak.get();
    assert!((1..48 << 20).contains(&peak), "{peak} bytes");
    for at in 0..20 {
        let name = format!("after{at}");
        world.command("ping", "{\"n\": \"x\"}", &name).await;
        sleep(Duration::from_secs(1)).await;
        if !world.cloud.of(&name).is_empty() {
            break;
        }
        assert!(at < 19, "no answers any more");
    }
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn a_megabyte_of_properties_stays_at_the_broker_and_hurts_nothing() {
    let mut world = World::new("commands-properties").await;
    let mut agent = world.start().await;
    let long = "x".repeat(50_000);
    let properties: Vec<_> = (0..20).map(|at| json!([format!("k{at}"), long])).collect();
    let topic = format!("{}/command/ping", world.prefix);
    world
        .cloud
        .send(json!({
            "topic": topic, "payload": "{\"n\": 1}", "correlation": "huge",
            "properties": properties,
        }))
        .await;
    // As many as fit, and a context that is none.
    let many: Vec<_> = (0..500).map(|at| json!([format!("k{at}"), "v"])).collect();
    let broken = [
        json!(["traceparent", "00-XYZ"]),
        json!(["traceparent", "again"]),
    ];
    let properties: Vec<_> = many.into_iter().chain(broken).collect();
    world
        .cloud
        .send(json!({
            "topic": topic, "payload": "{\"n\": 2}", "correlation": "many",
            "properties": properties,
        }))
        .await;
    let done = world.cloud.wait("many", "done").await;
    assert_eq!(done.body["status"], "ok");
    assert!(world.cloud.of("huge").is_empty());
    assert_eq!(world.runs(), 1);
    assert!(agent.terminate(END).await.unwrap().success());
}

#[tokio::test]
async fn one_trace_goes_from_the_caller_to_the_answer() {
    let mut world = World::new("commands-trace").await;
    let otlp = Otlp::start().await;
    world.gateway.otlp(&otlp.url());
    for signal in ["metrics", "traces", "logs"] {
        world.gateway.set(&format!("route.{signal}"), "[\"otlp\"]");
    }
    world
        .gateway
        .set("commands.response_topics", "[\"cloud/answers\"]");
    let mut agent = world.start().await;
    let request = json!({
        "topic": format!("{}/command/ping", world.prefix), "payload": "{\"n\": 1}",
        "correlation": "c1", "response_topic": "cloud/answers/7",
        "properties": [["traceparent", CALLER], ["tracestate", "vendor=1"]],
    });
    world.cloud.send(request).await;
    let done = world.cloud.wait("c1", "done").await;
    assert_eq!(done.topic, "cloud/answers/7");
    assert!(agent.terminate(END).await.unwrap().success());

    let (trace, caller) = parse_traceparent(CALLER).unwrap();
    let ledger = otlp.collector.book.copy();
    let spans = ledger.spans().into_iter().map(|(_, span)| span);
    let forest = Forest::of(spans.chain([sonde_tests::cloud::caller(CALLER)]));
    let tree = forest.tree(&trace);
    assert!(tree.is_whole(), "{}", forest.draw(&tree));
    let drawn = forest.draw(&tree);
    let process = tree.all().into_iter().find(|s| s.parent_span_id == caller);
    let process = process.unwrap_or_else(|| panic!("{drawn}"));
    assert!(process.name.starts_with("process "), "{drawn}");
    let names: Vec<_> = tree
        .children(process)
        .iter()
        .map(|s| s.name.clone())
        .collect();
    assert!(names.contains(&"run ping".to_owned()), "{drawn}");
    let answers = names
        .iter()
        .filter(|name| name.starts_with("publish "))
        .count();
    assert_eq!(answers, 3, "{drawn}");
    // The program was given the run's context, and each answer carries its own.
    let run = tree
        .children(process)
        .iter()
        .find(|s| s.name == "run ping")
        .unwrap();
    let said = done.body["stdout"].as_str().unwrap();
    assert!(said.contains(&hex(&run.span_id)), "{said}\n{drawn}");
    assert_eq!(done.body["trace_id"], hex(&trace));
    for answer in world.cloud.of("c1") {
        let carried = |name: &str| {
            let mut properties = answer.properties.iter();
            let found = properties.find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let (id, parent) = parse_traceparent(&carried("traceparent")).unwrap();
        let producer = forest
            .find(&id, &parent)
            .unwrap_or_else(|| panic!("{drawn}"));
        assert_eq!(producer.parent_span_id, process.span_id);
        assert_eq!(carried("tracestate"), "vendor=1");
    }
}

#[tokio::test]
async fn commands_are_off_until_a_job_may_be_run_remotely() {
    let mut world = World::new("commands-off").await;
    for job in ["ping", "slow", "again"] {
        world.gateway.set(&format!("job.{job}.remote"), "false");
    }
    let mut agent = world.gateway.start();
    let up = |status: &sonde_agent::status::Status| status.uplinks.iter().any(|u| u.state == "up");
    let status = agent.wait("the uplink", SOON, up).await.unwrap();
    assert!(status.commands.is_none());
    world.command("ping", "{\"n\": 1}", "c1").await;
    world.gateway.set("job.ping.remote", "true");
    world.gateway.write();
    agent.reload();
    world.subscribed(&mut agent).await;
    world.command("ping", "{\"n\": 2}", "c2").await;
    world.cloud.wait("c2", "done").await;
    assert!(world.cloud.of("c1").is_empty());
    assert_eq!(world.runs(), 1);
    assert!(!world.broker.log().is_empty());
    assert!(agent.terminate(END).await.unwrap().success());
    let journal: PathBuf = world.gateway.path("state/commands");
    assert!(journal.is_dir());
}
