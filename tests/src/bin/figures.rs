//! Sonde's figures, measured from outside: bytes at the link, memory and
//! processor time from `/proc`, points from what the receivers got.
//!
//! Each figure is one command, printed with its result and kept in
//! `report/figures.txt`.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use sonde_agent::frame::Signal;
use sonde_tests::agent::{Agent, Gateway, binary, build_if_missing};
use sonde_tests::broker::{Broker, Door};
use sonde_tests::cloud;
use sonde_tests::ledger::Ledger;
use sonde_tests::link::Mode;
use sonde_tests::program::{Program, came};
use sonde_tests::proof;
use sonde_tests::world::{LATER, Mqtt, Otlp, newest_tick, prefix, set_links};
use sonde_tests::{backlog, exec_cost, process, publish_cost, report};
use tokio::time::{Instant, interval};

type Done = Result<(), Box<dyn Error>>;

const HELP: &str = "\
cargo run --bin figures -- WHAT [MINUTES]

  outage            120 s without links, kill -9 in the middle: sampled, delivered, repeated, lost
  steady [MINUTES]  30 s batches, 1 s ticks, link up (10 minutes): bytes a point, CPU a point, memory
  receiver          100,000 spans of a local program over an outage: in, out, CPU a span, memory
  drain             memory while a backlog of 20 MB drains
  commands          1,000 commands over MQTT, one after the other: ms to the first and the last answer
  size              the stripped binary
  exec              what `sonde exec` costs a command: ms over 200 runs in turns, instructions
  publish           messages a second and bytes of flash for each, by 1 and by 8 programs
  all [MINUTES]     all of them

Measures target/release/sonde, or SONDE_BIN; builds it if it is not there.
";

/// A gateway's defaults, which the comparison with other agents used too.
const BATCH: &str = "30s";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let minutes = match arguments.next().map(|text| text.parse::<u64>()) {
        None => 10,
        Some(Ok(minutes @ 1..=600)) => minutes,
        Some(_) => return usage(),
    };
    let done = match what.as_str() {
        "outage" => outage().await,
        "steady" => steady(minutes).await,
        "drain" => drain().await,
        "receiver" => receiver().await,
        "commands" => commands().await,
        "size" => size().await,
        "exec" => exec().await,
        "publish" => publish().await,
        "all" => all(minutes).await,
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(2)
}

async fn all(minutes: u64) -> Done {
    size().await?;
    exec().await?;
    publish().await?;
    drain().await?;
    receiver().await?;
    commands().await?;
    outage().await?;
    steady(minutes).await
}

/// What `sonde exec` costs.
async fn exec() -> Done {
    build_if_missing().await?;
    for agent in [false, true] {
        let cost = exec_cost::measure(200, agent).await?;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let instructions = cost.instructions.map_or_else(
            || "not counted: no valgrind".to_owned(),
            |count| format!("{:.2} million", count as f64 / 1e6),
        );
        say(&format!(
            "exec, {}: /bin/true {:.2} ms, wrapped {:.2} ms (p99 {:.2}), so {:.2} ms more; \
             the wrapper's instructions: {instructions}",
            if agent {
                "with an agent"
            } else {
                "without an agent"
            },
            ms(cost.bare),
            ms(cost.wrapped),
            ms(cost.wrapped_p99),
            ms(cost.wrapped.saturating_sub(cost.bare)),
        ))?;
    }
    Ok(())
}

/// What a small message costs while the link is down.
async fn publish() -> Done {
    build_if_missing().await?;
    for (publishers, each) in [(1, 200), (8, 100)] {
        let cost = publish_cost::measure(publishers, each).await?;
        let messages = cost.messages as f64;
        say(&format!(
            "publish, by {publishers}: {} messages of {} bytes, {:.0} a second; {:.0} bytes written \
             for each and {:.0} of flash, {:.1} messages a sync",
            cost.messages,
            publish_cost::PAYLOAD,
            messages / cost.took.as_secs_f64(),
            cost.written as f64 / messages,
            cost.flash as f64 / messages,
            messages / cost.syncs.max(1) as f64,
        ))?;
    }
    Ok(())
}

/// Stripped size.
async fn size() -> Done {
    let path = build_if_missing().await?;
    let bytes = std::fs::metadata(&path)?.len();
    say(&format!(
        "size: {bytes} bytes stripped ({}, {})",
        std::env::consts::ARCH,
        if cfg!(target_env = "musl") {
            "musl"
        } else {
            "glibc"
        }
    ))
}

/// Everything about a link that was gone for two minutes, and a kill in its middle.
async fn outage() -> Done {
    build_if_missing().await?;
    let id = "figures-outage";
    let (otlp, mqtt) = (Otlp::start().await, Mqtt::plain(id).await);
    let mut gateway = otlp.gateway(id);
    mqtt.connect(&mut gateway, id);
    gateway
        .text("batch.length", "10s")
        .text("spool.loss_window", "20s");
    let mut agent = gateway.start();
    otlp.tick(10).await;
    mqtt.tick(10).await;
    set_links(&otlp, &mqtt, Mode::Cut).await;
    let before = later(&mut agent, 60).await?;
    agent.kill().await;
    let mut agent = gateway.start();
    agent.ready().await?;
    later(&mut agent, 60).await?;
    set_links(&otlp, &mqtt, Mode::Up).await;
    let behind = agent.ready().await?.agent.ticks;
    otlp.tick(behind + 1).await;
    mqtt.tick(behind + 1).await;
    agent
        .wait("an empty backlog", LATER, |status| {
            status
                .uplinks
                .iter()
                .all(|uplink| uplink.pending_frames == 0)
        })
        .await?;
    sonde_tests::world::finish(&mut agent, Some(&otlp), Some(&mqtt)).await;
    for (name, ledger) in [
        ("otlp", otlp.collector.book.copy()),
        ("mqtt", mqtt.subscriber.book.copy()),
    ] {
        let verdict = proof::judge(&ledger);
        let first = verdict.instances.first().map_or(0, |start| start.last_tick);
        say(&format!(
            "outage, {name}: 120 s cut, kill -9 after 60 s, loss window 20 s: {} points sampled \
             (up to each start's last tick), {} delivered, {} repeats, {} missing ticks; \
             at the kill {} ticks of {before} lost",
            verdict.sampled(),
            verdict.delivered(),
            verdict.repeats(),
            verdict.gaps(),
            before.saturating_sub(first),
        ))?;
        if !verdict.holds() {
            return Err(verdict.failures().join("; ").into());
        }
    }
    Ok(())
}

/// Waits for that many more ticks; returns the last.
async fn later(agent: &mut Agent, ticks: u64) -> Result<u64, Box<dyn Error>> {
    let until = agent.ready().await?.agent.ticks + ticks;
    let limit = Duration::from_secs(ticks * 2 + 30);
    let what = format!("{ticks} more ticks");
    let status = agent
        .wait(&what, limit, |status| status.agent.ticks >= until)
        .await?;
    Ok(status.agent.ticks)
}

/// Nothing happens but work: bytes, processor time and memory.
async fn steady(minutes: u64) -> Done {
    build_if_missing().await?;
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("figures-steady");
    gateway
        .text("batch.length", BATCH)
        .text("spool.loss_window", "60s")
        .unset("trace.sampler")
        .unset("trace.routine_ratio");
    let agent = gateway.start();
    let pid = agent.pid();
    // From the end of one delivery to the end of another: whole batches.
    let ticks = |at_least: u64| {
        let book = &otlp.collector.book;
        let limit = Duration::from_secs(at_least + 90);
        async move {
            book.wait("a batch", limit, |ledger| newest_tick(ledger) >= at_least)
                .await
        }
    };
    ticks(1).await?;
    let (from, wire, cpu) = (points(&otlp), otlp.link.traffic(), process::cpu_ns(pid));
    let body = body(&otlp);
    ticks(minutes * 60).await?;
    let (until, wire_end, cpu_end) = (points(&otlp), otlp.link.traffic(), process::cpu_ns(pid));
    let body_end = self::body(&otlp);
    let memory = process::memory(pid).ok_or("the agent has ended")?;
    let (Some(cpu), Some(cpu_end)) = (cpu, cpu_end) else {
        return Err("the agent has ended".into());
    };
    let count = until.saturating_sub(from).max(1);
    let series = count / (minutes * 60).max(1);
    say(&format!(
        "steady: {minutes} min, 1 s ticks, {BATCH} batches, gzip, about {series} points a tick, \
         {count} points: {:.2} bytes a point sent on the wire ({:.2} are gauges' bodies; {:.2} received), \
         {:.2} us of CPU a point, {:.2} MiB resident, {:.2} MiB at most",
        (wire_end.up - wire.up) as f64 / count as f64,
        (body_end - body) as f64 / count as f64,
        (wire_end.down - wire.down) as f64 / count as f64,
        (cpu_end - cpu) as f64 / 1e3 / count as f64,
        mib(memory.resident),
        mib(memory.peak),
    ))
}

/// Bytes of gauges' bodies so far.
fn body(otlp: &Otlp) -> usize {
    let book = &otlp.collector.book;
    book.read(|ledger| ledger.body_bytes(Signal::Metrics))
}

/// Distinct points so far.
fn points(otlp: &Otlp) -> u64 {
    otlp.collector.book.read(|ledger| {
        let verdict = proof::judge(ledger);
        let beyond: u64 = verdict.instances.iter().map(|start| start.beyond).sum();
        verdict.delivered() + beyond
    })
}

/// Memory while 20 MB go out.
async fn drain() -> Done {
    build_if_missing().await?;
    let otlp = Otlp::start().await;
    let gateway = otlp.gateway("figures-drain");
    let expected = backlog::make(&gateway.spool(), 20_000_000).await?;
    let on_disk = gateway.spool_bytes();
    let started = Instant::now();
    let agent = gateway.start();
    let pid = agent.pid();
    let backlog_points = |ledger: &Ledger| {
        ledger
            .deliveries
            .iter()
            .filter(|one| is_backlog(one))
            .map(|one| one.payload.items() as u64)
            .sum::<u64>()
    };
    let mut most = process::Memory::default();
    let mut look = interval(Duration::from_millis(200));
    while otlp.collector.book.read(backlog_points) < expected {
        look.tick().await;
        most = process::memory(pid).ok_or("the agent has ended")?;
        if started.elapsed() > Duration::from_secs(600) {
            return Err("the backlog did not drain within ten minutes".into());
        }
    }
    say(&format!(
        "drain: {:.1} MB of backlog ({expected} points) in {:.1} s: {:.2} MiB resident at most, {:.2} MiB afterwards",
        on_disk as f64 / 1e6,
        started.elapsed().as_secs_f64(),
        mib(most.peak),
        mib(most.resident),
    ))
}

/// A local program sends while the link is cut; then the link comes back.
/// The broker and the caller are on the same machine: what is left is the
/// agent's own, its syncs included, and the job's.
async fn commands() -> Done {
    const COMMANDS: u32 = 1000;
    build_if_missing().await?;
    let broker = Broker::start(&Door::Plain, None).await?;
    let topics = prefix("figures-commands");
    let mut gateway = Gateway::new("figures-commands");
    gateway
        .mqtt(&format!("mqtt://{}", broker.address()))
        .text("uplink.mqtt.topic_prefix", &topics)
        .set("commands.per_minute", "60000")
        .text("commands.journal", "16MiB")
        .set("job.noop.command", "[\"/bin/true\"]")
        .set("job.noop.remote", "true");
    let mut agent = gateway.start();
    agent
        .wait("the subscription", LATER, |status| {
            let commands = status.commands.as_ref();
            commands.is_some_and(|commands| commands.state == "subscribed")
        })
        .await?;
    let port = broker.back_door().port();
    let seen = cloud::figures(port, &topics, "noop", COMMANDS).await?;
    let pair = |name: &str| format!("{} / {} ms", seen[name]["p50"], seen[name]["p99"]);
    say(&format!(
        "commands: {COMMANDS} one after the other, p50 / p99: first answer {}, last answer {}, of which \
         the job (/bin/true) {}, all but the job {}",
        pair("first_answer_ms"),
        pair("done_ms"),
        pair("job_ms"),
        pair("beside_the_job_ms"),
    ))
}

async fn receiver() -> Done {
    const SPANS: u32 = 100_000;
    build_if_missing().await?;
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("figures-receiver");
    gateway
        .text("batch.length", BATCH)
        .text("spool.loss_window", "60s")
        .unset("trace.sampler")
        .unset("trace.routine_ratio");
    let mut agent = gateway.start();
    let pid = agent.pid();
    otlp.tick(1).await;
    otlp.link.set(Mode::Cut).await;
    let cpu = |when: &str| process::cpu_ns(pid).ok_or(format!("the agent has ended {when}"));
    let (before, started) = (cpu("before")?, Instant::now());
    let program = Program::new(&gateway.local_socket(), "figures");
    let sent = program.send(0..SPANS).await;
    let (spent, took) = (cpu("while it received")? - before, started.elapsed());
    let received = process::memory(pid).ok_or("the agent has ended")?;
    let stored = agent.ready().await?.spool;
    otlp.link.set(Mode::Up).await;
    let all = |ledger: &Ledger| came(ledger, "figures").len() == SPANS as usize;
    let limit = Duration::from_secs(300);
    otlp.collector.book.wait("every span", limit, all).await?;
    let spent_in_all = cpu("at the end")? - before;
    let peak = process::memory(pid).ok_or("the agent has ended")?.peak;
    let out = otlp.collector.book.read(|ledger| came(ledger, "figures"));
    let repeats: u32 = out.values().map(|times| times - 1).sum();
    let spans = sent.spans.max(1) as f64;
    let bodies = stored.classes.get("normal").map_or(0, |class| class.bytes);
    say(&format!(
        "receiver: {} spans in ({:.0} bytes each, 512 a request, {} told to wait) within {:.1} s of a \
         cut link, {} out, {repeats} repeats; {:.2} us of CPU a span to receive and store, {:.2} with \
         delivery; {:.1} bytes a span stored; {:.2} MiB resident at most while receiving, {:.2} in all",
        sent.spans,
        sent.bytes as f64 / spans,
        sent.delayed,
        took.as_secs_f64(),
        out.len(),
        spent as f64 / 1e3 / spans,
        spent_in_all as f64 / 1e3 / spans,
        bodies as f64 / spans,
        mib(received.peak),
        mib(peak),
    ))?;
    if out.len() as u64 != sent.spans {
        return Err("spans in are not spans out".into());
    }
    Ok(())
}

fn is_backlog(delivery: &sonde_tests::ledger::Delivery) -> bool {
    use sonde_tests::ledger::Payload;
    let Payload::Metrics(request) = &delivery.payload else {
        return false;
    };
    request
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics)
        .any(|metric| metric.name.starts_with("test.backlog."))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Prints a result and keeps it.
fn say(line: &str) -> Done {
    println!("{line}");
    let folder = report::folder();
    std::fs::create_dir_all(&folder)?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("figures.txt"))?;
    writeln!(file, "{line}  [{}]", binary().display())?;
    Ok(())
}
