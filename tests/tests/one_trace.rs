//! A command's trace from the cloud through the gateway into the program that
//! did the work and back is one tree, whatever happens on the way. The cloud
//! service and the program are OpenTelemetry's Python SDK and paho-mqtt
//! (`clients/`); the broker is mosquitto.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use sonde_agent::status::Status;
use sonde_tests::agent::{Agent, Gateway};
use sonde_tests::broker::{Broker, Door, free_port};
use sonde_tests::ledger::text;
use sonde_tests::link::{Link, Mode};
use sonde_tests::trace_tree::{Forest, hex, parse_traceparent};
use sonde_tests::workspace;
use sonde_tests::world::{END, LATER, Otlp, SOON, prefix};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

struct World {
    otlp: Otlp,
    broker: Broker,
    link: Link,
    gateway: Gateway,
    prefix: String,
}

/// The cloud service with one command under way.
struct Caller {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    responses: Vec<Value>,
}

/// What it said at its end.
struct Called {
    trace: Vec<u8>,
    responses: Vec<Value>,
}

fn python() -> PathBuf {
    workspace().join("target/venv/bin/python")
}

impl World {
    async fn new(id: &str) -> Self {
        let otlp = Otlp::start().await;
        let broker = Broker::start(&Door::Plain, None).await.expect("mosquitto");
        let link = Link::to(broker.address()).await.expect("a link");
        let prefix = prefix(id);
        let mut gateway = otlp.gateway(id);
        gateway
            .mqtt(&format!("mqtt://{}", link.address()))
            .text("uplink.mqtt.topic_prefix", &prefix)
            .text("receiver.listen", &free_port().unwrap().to_string());
        for signal in ["metrics", "traces", "logs"] {
            gateway.set(&format!("route.{signal}"), "[\"otlp\"]");
        }
        let program = workspace().join("tests/clients/program.py");
        for (name, rest) in [("read", ""), ("fail", ", \"--fails\", \"yes\"")] {
            let command = format!(
                "[{:?}, {:?}, \"--marks\", {:?}, \"--until\", {:?}{rest}]",
                python().display().to_string(),
                program.display().to_string(),
                gateway.path("marks").display().to_string(),
                gateway.path("go").display().to_string(),
            );
            gateway
                .set(&format!("job.{name}.command"), &command)
                .set(&format!("job.{name}.remote"), "true");
        }
        Self {
            otlp,
            broker,
            link,
            gateway,
            prefix,
        }
    }

    async fn start(&self) -> Agent {
        let mut agent = self.gateway.start();
        let ready = |status: &Status| {
            let commands = status.commands.as_ref();
            status.receiver.listen.is_some()
                && commands.is_some_and(|commands| commands.state == "subscribed")
        };
        agent.wait("the subscription", LATER, ready).await.unwrap();
        agent
    }

    /// Lets the program go on.
    fn go(&self) {
        std::fs::write(self.gateway.path("go"), "").unwrap();
    }

    /// The program runs and its first span was taken.
    async fn runs(&self) {
        let marks = self.gateway.path("marks");
        let running = async {
            while !marks.exists() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let limit = timeout(LATER, running).await;
        limit.unwrap_or_else(|_| panic!("it does not run\n{}", self.gateway.stderr()));
    }

    fn call(&self, job: &str, more: &[&str]) -> Caller {
        let mut child = Command::new(python())
            .arg(workspace().join("tests/clients/cloud.py"))
            .args(["--broker", &self.broker.back_door().port().to_string()])
            .args(["--collector", &self.otlp.collector.url()])
            .args(["--command", &format!("{}/command/{job}", self.prefix)])
            .args(["--answers", &format!("{}/response/{job}", self.prefix)])
            .args(["--patience", "120"])
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python with the OpenTelemetry SDK (tests/run --only nothing)");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Caller {
            child,
            lines,
            responses: Vec::new(),
        }
    }

    /// Ends the agent and judges the trace; every span of it came.
    async fn judge(&self, mut agent: Agent, called: &Called) -> Forest {
        let exit = agent.terminate(END).await.expect("a clean end");
        assert!(exit.success(), "{exit}\n{}", agent.stderr());
        let forest = self.forest();
        let faults = forest.faults(&called.trace, &[]);
        let drawn = forest.draw(&forest.tree(&called.trace));
        assert!(faults.is_empty(), "{faults:#?}\n{drawn}");
        forest
    }

    fn forest(&self) -> Forest {
        let spans = self.otlp.collector.book.copy().spans();
        Forest::of(spans.into_iter().map(|(_, span)| span))
    }
}

impl Caller {
    /// The response of that state; keeps the ones before.
    async fn response(&mut self, state: &str) {
        let next = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("a response");
                let response: Value = serde_json::from_str(&line).unwrap();
                let is = response["payload"]["state"] == state;
                self.responses.push(response);
                if is {
                    return;
                }
            }
        };
        if timeout(LATER, next).await.is_err() {
            panic!("no {state}: {:?}", self.responses);
        }
    }

    /// The end, once the caller's own spans are at the collector.
    async fn end(mut self) -> Called {
        self.response("done").await;
        let line = timeout(LATER, self.lines.next_line()).await;
        let line = line.expect("its last line").unwrap().unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        assert!(self.child.wait().await.unwrap().success());
        let trace = format!("00-{}-1111111111111111-01", said["trace"].as_str().unwrap());
        Called {
            trace: parse_traceparent(&trace).unwrap().0,
            responses: self.responses,
        }
    }
}

impl Called {
    /// In the order in which they came first: one may come again.
    fn states(&self) -> Vec<&str> {
        let mut states = Vec::new();
        for response in &self.responses {
            let state = response["payload"]["state"].as_str().unwrap();
            if !states.contains(&state) {
                states.push(state);
            }
        }
        states
    }

    fn done(&self) -> &Value {
        &self.responses.last().unwrap()["payload"]
    }

    /// Whether each response and the program were told that the trace is sampled;
    /// what else the context had must not be lost either.
    fn sampled(&self) -> Vec<bool> {
        let program = self.done()["stdout"].as_str().unwrap();
        let program: Value = serde_json::from_str(program.trim()).unwrap();
        let responses = self.responses.iter().map(|one| &one["properties"]);
        let all = responses.chain([&program]).map(|carried| {
            assert_eq!(carried["tracestate"], "vendor=1", "{carried}");
            assert_eq!(carried["baggage"], "tenant=seven", "{carried}");
            let parent = carried["traceparent"].as_str().unwrap();
            let (trace, _) = parse_traceparent(parent).unwrap();
            assert_eq!(hex(&trace), hex(&self.trace));
            let flags = u8::from_str_radix(&parent[53..], 16).unwrap();
            flags & 1 == 1
        });
        all.collect()
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == key);
    found.map_or_else(String::new, |one| text(one.value.as_ref()))
}

/// The only span whose name begins so.
fn only<'a>(spans: &[&'a Span], begin: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name.starts_with(begin));
    let first = found.next();
    assert!(found.next().is_none(), "more than one {begin}");
    first.unwrap_or_else(|| panic!("no {begin}"))
}

/// What everyone did hangs where it belongs. `answers`: how many the agent sent.
fn is_told_whole(forest: &Forest, called: &Called, answers: usize) {
    let tree = forest.tree(&called.trace);
    let drawn = forest.draw(&tree);
    let all = tree.all();
    let root = only(&all, "cloud request");
    let publish = only(tree.children(root), "publish command");
    let process = only(tree.children(publish), "process ");
    let run = only(tree.children(process), "run ");
    assert_eq!(process.kind(), SpanKind::Consumer, "{drawn}");
    assert_eq!(run.kind(), SpanKind::Internal, "{drawn}");
    only(tree.children(run), "open bus");
    let is_answer = |span: &&&Span| span.kind() == SpanKind::Producer;
    let sent: Vec<&Span> = tree
        .children(process)
        .iter()
        .filter(is_answer)
        .copied()
        .collect();
    assert_eq!(sent.len(), answers, "{drawn}");
    for span in &sent {
        let received = tree.children(span);
        assert!(!received.is_empty(), "{drawn}");
        for one in received {
            assert_eq!(one.name, "process response");
            assert_eq!(one.kind(), SpanKind::Consumer);
        }
    }
    for (span, name, kind, template) in sent
        .iter()
        .map(|span| (*span, "publish", "send", ""))
        .chain([(process, "process", "process", "/command/{job}")])
    {
        assert_eq!(attribute(span, "messaging.system"), "mqtt");
        assert_eq!(attribute(span, "messaging.operation.name"), name);
        assert_eq!(attribute(span, "messaging.operation.type"), kind);
        let shown = attribute(span, "messaging.destination.template");
        assert!(!shown.is_empty() && shown.ends_with(template), "{shown}");
        let id = attribute(span, "messaging.message.conversation_id");
        assert_eq!(id, "one", "{}", span.name);
        assert!(!attribute(span, "messaging.destination.name").is_empty());
    }
    for span in [process, run] {
        assert_eq!(span.trace_state, "vendor=1", "{}", span.name);
    }
}

#[tokio::test]
async fn a_commands_trace_from_cloud_to_program_and_back_is_one_tree() {
    let world = World::new("one-trace").await;
    world.go();
    let agent = world.start().await;
    let called = world.call("read", &[]).end().await;
    assert_eq!(called.states(), ["received", "running", "done"]);
    assert_eq!(called.done()["status"], "ok");
    assert_eq!(called.sampled(), [true; 4]);
    let forest = world.judge(agent, &called).await;
    is_told_whole(&forest, &called, 3);
    let tree = forest.tree(&called.trace);
    let all = tree.all();
    let run = only(&all, "run ");
    let measure = only(tree.children(run), "measure");
    only(tree.children(measure), "read register");
    assert_eq!(all.len(), 13, "{}", forest.draw(&tree));
}

#[tokio::test]
async fn a_link_cut_before_the_response_leaves_one_tree_and_the_order() {
    let world = World::new("one-trace-cut").await;
    let agent = world.start().await;
    let caller = world.call("read", &[]);
    world.runs().await;
    world.link.set(Mode::Refuse).await;
    world.otlp.link.set(Mode::Refuse).await;
    world.go();
    let mut agent = agent;
    let stored = |status: &Status| {
        let over = status.commands.as_ref().is_some_and(|c| c.under_way == 0);
        status.outbox.stored >= 3 && over
    };
    agent
        .wait("the answer stored", LATER, stored)
        .await
        .unwrap();
    world.link.set(Mode::Up).await;
    world.otlp.link.set(Mode::Up).await;
    let called = caller.end().await;
    assert_eq!(called.states(), ["received", "running", "done"]);
    // An agent that ends while it waits for its next attempt leaves its spans stored.
    let up = |status: &Status| status.uplinks.iter().all(|uplink| uplink.state == "up");
    agent.wait("both links up", LATER, up).await.unwrap();
    let forest = world.judge(agent, &called).await;
    is_told_whole(&forest, &called, 3);
}

#[tokio::test]
async fn a_kill_while_the_job_runs_leaves_one_tree_that_says_so() {
    let world = World::new("one-trace-kill").await;
    let mut agent = world.start().await;
    let mut caller = world.call("read", &[]);
    caller.response("running").await;
    world.runs().await;
    // What the program has sent names the run as its parent.
    let sent = |span: &Span| span.name == "open bus";
    let book = &world.otlp.collector.book;
    book.wait_span("the program's span", SOON, sent)
        .await
        .unwrap();
    agent.kill().await;
    let agent = world.start().await;
    let called = caller.end().await;
    assert_eq!(called.states(), ["received", "running", "done"]);
    assert_eq!(called.done()["status"], "interrupted");
    let forest = world.judge(agent, &called).await;
    is_told_whole(&forest, &called, 3);
    let tree = forest.tree(&called.trace);
    for name in ["process fleet", "run read"] {
        let span = only(&tree.all(), name);
        assert_eq!(attribute(span, "sonde.interrupted"), "true", "{name}");
        assert_eq!(span.status.as_ref().unwrap().code, 2, "{name}");
    }
}

#[tokio::test]
async fn a_kill_right_after_an_answer_came_leaves_no_orphan() {
    let world = World::new("one-trace-early").await;
    let mut agent = world.start().await;
    let mut caller = world.call("read", &[]);
    // Its PRODUCER span and what it hangs on are known only to the agent.
    caller.response("received").await;
    agent.kill().await;
    let agent = world.start().await;
    // If the program had not been started, it is now.
    world.go();
    let called = caller.end().await;
    let forest = world.judge(agent, &called).await;
    let tree = forest.tree(&called.trace);
    only(&tree.all(), "process fleet");
}

#[tokio::test]
async fn at_one_percent_a_sampled_callers_trace_is_whole() {
    let mut world = World::new("one-trace-sampled").await;
    world
        .gateway
        .text("trace.sampler", "parentbased_traceidratio")
        .set("trace.ratio", "0.01");
    world.go();
    let agent = world.start().await;
    let called = world.call("read", &[]).end().await;
    assert_eq!(called.sampled(), [true; 4]);
    let forest = world.judge(agent, &called).await;
    is_told_whole(&forest, &called, 3);
}

#[tokio::test]
async fn at_one_percent_an_unsampled_callers_trace_leaves_spans_only_if_it_fails() {
    let mut world = World::new("one-trace-unsampled").await;
    world
        .gateway
        .text("trace.sampler", "parentbased_traceidratio")
        .set("trace.ratio", "0.01")
        // However busy the machine is: not kept for being slow.
        .text("trace.slow_work", "1h");
    world.go();
    let mut agent = world.start().await;
    let healthy = world.call("read", &["--unsampled"]).end().await;
    assert_eq!(healthy.sampled(), [false; 4]);
    let failed = world.call("fail", &["--unsampled"]).end().await;
    assert_eq!(failed.sampled(), [false; 4]);
    assert_eq!(failed.done()["exit_code"], 3);
    assert!(agent.terminate(END).await.unwrap().success());
    let forest = world.forest();
    let left: Vec<&Span> = forest
        .spans()
        .filter(|span| span.trace_id == healthy.trace)
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    let tree = forest.tree(&failed.trace);
    let drawn = forest.draw(&tree);
    let all = tree.all();
    let process = only(&all, "process ");
    only(tree.children(process), "run ");
    for span in &all {
        assert_eq!(span.flags & 1, 0, "{drawn}");
        assert_eq!(attribute(span, "sonde.kept"), "error", "{drawn}");
    }
}
