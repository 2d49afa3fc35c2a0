//! The demo: this machine as a gateway that loses its link and loses nothing.
//!
//! Starts an MQTT 5 broker and an OTLP collector inside this program, and the
//! real `sonde` binary beside it, all on loopback, without root. Cuts both
//! links for a while, restores them, and judges what arrived from the data
//! alone. Exit code 0: the proof holds; 1: it does not, with the reasons; 130:
//! interrupted before there was a proof.

use std::cell::Cell;
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use sonde_agent::status::Status;
use sonde_tests::agent::{Agent, Gateway, binary, build_if_missing};
use sonde_tests::broker::Subscriber;
use sonde_tests::collector::Collector;
use sonde_tests::ledger::{Book, Ledger};
use sonde_tests::link::{Link, Mode};
use sonde_tests::proof::{self, Verdict};
use sonde_tests::{consumer, demo_broker};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

const HELP: &str = "\
Watch a gateway agent lose its link and lose nothing. Takes about a minute.

  cargo run --release --bin demo [-- OPTIONS]

  --stay     keep everything running after the proof, until Ctrl-C
  --tamper   take one received frame away before the judgement: the proof must fail
  --help     this text

Exit code: 0 the proof holds, 1 it does not (with the reasons), 2 wrong usage,
130 interrupted before the proof.
";

/// Long enough for two batches to arrive before the cut.
const CALM: Duration = Duration::from_secs(12);
/// Longer than the loss window, so that everything must go to disk.
const OUTAGE: Duration = Duration::from_secs(20);
/// A bound, not an expectation: a backlog this small drains in a second or two.
const DRAIN: Duration = Duration::from_secs(30);
const PREFIX: &str = "sonde/demo-gateway";

struct Options {
    stay: bool,
    tamper: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut options = Options {
        stay: false,
        tamper: false,
    };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--stay" => options.stay = true,
            "--tamper" => options.tamper = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprint!("demo: {other} is not an option\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    // What the judges said, once they have: an interrupted `--stay` still answers with it.
    let judged = Cell::new(None);
    // Dropping the play ends its processes by their ids and removes its folder.
    tokio::select! {
        ended = play(&options, &judged) => match ended {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("\nThe demo could not go on: {error}");
                ExitCode::FAILURE
            }
        },
        () = interrupted() => {
            println!("\nEnded. The agent is stopped and its folder removed.");
            match judged.get() {
                Some(true) => ExitCode::SUCCESS,
                Some(false) => ExitCode::FAILURE,
                // 128 and the signal's number, as shells have it.
                None => ExitCode::from(130),
            }
        }
    }
}

/// Ctrl-C or SIGTERM.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Everything on stage.
struct Stage {
    gateway: Gateway,
    agent: Agent,
    collector: Collector,
    subscriber: Subscriber,
    links: [Link; 2],
    screen: Screen,
}

async fn play(options: &Options, judged: &Cell<Option<bool>>) -> Result<bool, Box<dyn Error>> {
    if !binary().is_file() {
        println!("Building the agent first (cargo build --release -p sonde-agent) …");
    }
    let program = build_if_missing().await?;
    let mut stage = Stage::set().await?;
    println!(
        "Sonde's demo: this machine is the gateway. The agent ({})\n\
         reads its gauges every second and sends a batch every 5 s over two links:\n\
         to an OpenTelemetry collector (OTLP/HTTP) and to an MQTT 5 broker.\n\
         Both are in this program, on loopback. Nothing is installed; no root is needed.",
        program.display()
    );

    act("1", "the links are up: what is read arrives");
    stage.watch(CALM, |_| false).await?;

    act("2", "both links are cut: what is read goes to disk");
    stage.set_links(Mode::Cut).await;
    stage.watch(OUTAGE, |_| false).await?;
    let kept = stage.gateway.spool_bytes();
    let status = stage
        .agent
        .status()
        .await
        .ok_or("the agent does not answer")?;
    let behind = status.agent.ticks;
    println!(
        "  The spool's files hold {} now; the receivers know nothing after tick {}.",
        size(kept),
        stage.last_ticks().into_iter().min().unwrap_or_default()
    );

    act("3", "the links are back: the backlog drains");
    let restored = Instant::now();
    stage.set_links(Mode::Up).await;
    let drained = stage
        .watch(DRAIN, |stage| {
            stage.books().iter().all(|book| {
                book.read(|ledger| {
                    ledger.last_tick(None) > behind && proof::judge(ledger).gaps() == 0
                })
            })
        })
        .await?;
    if drained {
        let took = restored.elapsed().as_secs_f64();
        println!("  The outage's ticks have all arrived, {took:.1} s after the links came back.");
    } else {
        println!("  Not everything has arrived after {DRAIN:?}.");
    }

    act(
        "4",
        "the proof, from what the receivers got and nothing else",
    );
    let ended = !options.stay;
    if ended {
        stage.end_agent().await?;
    }
    stage.settle().await;
    let wire = [0, 1].map(|at| stage.links[at].traffic().up);
    let mut ledgers = stage.books().map(Book::copy);
    if options.tamper {
        let points = ledgers[0].tamper();
        println!(
            "  --tamper: one frame with {points} points was taken away from the collector's ledger."
        );
    }
    let holds = judge(&ledgers, wire);
    judged.set(Some(holds));
    if !ended {
        stage.stay().await?;
    }
    Ok(holds)
}

impl Stage {
    async fn set() -> Result<Self, Box<dyn Error>> {
        let collector = Collector::start().await?;
        let broker = demo_broker::start().await?;
        let subscriber = Subscriber::start(broker, PREFIX).await?;
        let links = [
            Link::to(collector.address()).await?,
            Link::to(broker).await?,
        ];
        let mut gateway = Gateway::new("demo-gateway");
        gateway
            .otlp(&format!("http://{}", links[0].address()))
            .mqtt(&format!("mqtt://{}", links[1].address()))
            .text("uplink.mqtt.client_id", "sonde-demo-gateway")
            .text("uplink.mqtt.topic_prefix", PREFIX)
            .text("batch.length", "5s")
            .text("spool.loss_window", "10s");
        let mut agent = gateway.start();
        agent.ready().await?;
        Ok(Self {
            gateway,
            agent,
            collector,
            subscriber,
            links,
            screen: Screen::new(),
        })
    }

    fn books(&self) -> [&Book; 2] {
        [&self.collector.book, &self.subscriber.book]
    }

    /// The last tick that the collector and the broker's reader know.
    fn last_ticks(&self) -> [u64; 2] {
        self.books()
            .map(|book| book.read(|ledger| ledger.last_tick(None)))
    }

    async fn set_links(&self, mode: Mode) {
        for link in &self.links {
            link.set(mode).await;
        }
    }

    /// Shows the live view until `done`, at most for `limit`; says whether it was done.
    async fn watch(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool, Box<dyn Error>> {
        let end = Instant::now() + limit;
        let mut finished = false;
        while Instant::now() < end && !finished {
            finished = done(self);
            if let Ok(Some(status)) = timeout(Duration::from_secs(5), self.agent.status()).await {
                let lines = self.view(&status);
                self.screen.show(&lines, finished);
            } else if let Ok(exit) = self.agent.ended(Duration::from_millis(1)).await {
                return Err(format!("the agent ended: {exit}\n{}", self.gateway.stderr()).into());
            }
            sleep(Duration::from_millis(500)).await;
        }
        self.screen.leave();
        Ok(finished || done(self))
    }

    /// What a person wants to see at this moment.
    fn view(&self, status: &Status) -> Vec<String> {
        let ticks = self.last_ticks();
        let mut lines = vec![format!(
            "  gateway    tick {:>3}   {:>5} points read   on disk {:>9}   in memory {:>9}",
            status.agent.ticks,
            status.agent.points,
            size(self.gateway.spool_bytes()),
            size(status.spool.memory_bytes),
        )];
        for (name, receiver, tick) in [
            ("otlp", "collector", ticks[0]),
            ("mqtt", "broker", ticks[1]),
        ] {
            let Some(uplink) = status.uplinks.iter().find(|uplink| uplink.name == name) else {
                continue;
            };
            lines.push(format!(
                "  {name:<10} {:<10} {:>3} frames wait   {receiver:<9} has up to tick {tick:>3}",
                uplink.state, uplink.pending_frames,
            ));
        }
        lines
    }

    /// Ends the agent as a service manager would, so that nothing is under way any more.
    async fn end_agent(&mut self) -> Result<(), Box<dyn Error>> {
        let exit = self.agent.terminate(Duration::from_secs(20)).await?;
        if !exit.success() {
            return Err(format!("the agent ended with {exit} after SIGTERM").into());
        }
        println!(
            "  The agent was asked to end (SIGTERM), sent its last batch and ended with code 0."
        );
        Ok(())
    }

    /// Waits until what is under way has arrived at both: the judges look at whole batches.
    async fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(15);
        let settled = |stage: &Self| {
            let [otlp, mqtt] = stage.last_ticks();
            let judged = |book: &Book| book.read(|ledger| proof::judge(ledger).holds());
            otlp == mqtt && stage.books().into_iter().all(judged)
        };
        while Instant::now() < end && !settled(self) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Keeps everything going until somebody ends it.
    async fn stay(&mut self) -> Result<(), Box<dyn Error>> {
        println!("\nStaying until Ctrl-C. Try in another terminal:");
        let (program, socket) = (binary(), self.gateway.socket());
        println!(
            "  {} status --socket {}",
            program.display(),
            socket.display()
        );
        println!(
            "  collector  http://{}   (through its link)",
            self.links[0].address()
        );
        println!(
            "  broker     mqtt://{}   topics {PREFIX}/#",
            self.links[1].address()
        );
        println!("  files      {}\n", self.gateway.spool().display());
        loop {
            self.watch(Duration::from_secs(3600), |_| false).await?;
        }
    }
}

/// Prints the proof; says whether it holds for both.
fn judge(ledgers: &[Ledger; 2], wire: [u64; 2]) -> bool {
    let verdicts = ledgers.each_ref().map(proof::judge);
    println!();
    println!("  uplink   ticks   points sampled   delivered   gaps   repeats   bytes/point");
    for (name, verdict, wire) in [
        ("otlp", &verdicts[0], wire[0]),
        ("mqtt", &verdicts[1], wire[1]),
    ] {
        let ticks: u64 = verdict.instances.iter().map(|start| start.last_tick).sum();
        println!(
            "  {name:<6}   {ticks:>5}   {:>14}   {:>9}   {:>4}   {:>7}   {:>11.1}",
            verdict.sampled(),
            verdict.delivered(),
            verdict.gaps(),
            verdict.repeats(),
            verdict.bytes_per_point(wire),
        );
    }
    println!(
        "\n  How to read it: every tick carries a number and how many points were recorded so\n\
         \x20 far, as ordinary data. No number may be missing and the counts must match. Bytes\n\
         \x20 are all that crossed the link: bodies, headers, keep-alives, spans and logs too."
    );
    draw_trace(ledgers);
    let mut failures = Vec::new();
    for (name, verdict) in [("otlp", &verdicts[0]), ("mqtt", &verdicts[1])] {
        failures.extend(
            verdict
                .failures()
                .into_iter()
                .map(|why| format!("{name}: {why}")),
        );
    }
    failures.extend(disagreement(&verdicts));
    if failures.is_empty() {
        println!(
            "\nThe proof holds: everything that was sampled was delivered, over both uplinks."
        );
    } else {
        println!("\nTHE PROOF FAILS:");
        for failure in &failures {
            println!("  {failure}");
        }
    }
    failures.is_empty()
}

/// Both receivers must have heard of the same last tick, or one of them misses the end.
fn disagreement(verdicts: &[Verdict; 2]) -> Option<String> {
    let [otlp, mqtt] = verdicts.each_ref().map(Verdict::sampled);
    (otlp != mqtt)
        .then(|| format!("otlp heard of {otlp} points, mqtt of {mqtt}: one misses the end"))
}

/// The trace of the batch that waited longest, from its ticks to the program that read the broker.
fn draw_trace([otlp, mqtt]: &[Ledger; 2]) {
    let forest = consumer::forest(otlp, mqtt);
    println!(
        "\n  One batch's way, as a trace (the one that the outage held up longest).\n  Behind +: how long after the batch was sealed.\n"
    );
    match consumer::longest_wait(&forest) {
        Some(producer) => print!("{}", forest.draw(&forest.tree(&producer.trace_id))),
        None => println!("  none: no traceparent at the broker named a span at the collector."),
    }
}

fn act(number: &str, title: &str) {
    println!("\n── Act {number}: {title}");
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A few lines that are drawn over on a terminal, and printed now and then elsewhere.
struct Screen {
    terminal: bool,
    drawn: usize,
    printed: Option<Instant>,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            drawn: 0,
            printed: None,
        }
    }

    fn show(&mut self, lines: &[String], last: bool) {
        let every = Duration::from_secs(4);
        if !self.terminal && !last && self.printed.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        let mut out = std::io::stdout().lock();
        if self.terminal && self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
        }
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
        self.drawn = lines.len();
        self.printed = Some(Instant::now());
    }

    /// What is drawn stays.
    fn leave(&mut self) {
        self.drawn = 0;
        self.printed = None;
    }
}
