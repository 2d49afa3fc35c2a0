//! The spool alone, under a program that does nothing but store and send.
//!
//! ```text
//! spooler run FOLDER FROM PROGRAMS    stores for ever, as PROGRAMS programs; numbers begin after FROM
//! spooler list FOLDER                 starts the spool once, says what it holds
//! ```
//!
//! What it has to say goes to standard output, a line each, and whoever reads
//! it must keep it: the reader is the server that never forgets.
//!
//! ```text
//! HAS T N LENGTH SUM .    a start found message N of topic T, byte for byte
//! BAD FRAME .             a start found something that was never stored
//! READY                   everything that the start found has been told
//! ACK T N LENGTH .        message N of topic T was acknowledged as stored
//! NAK T N REASON .        it was not
//! SENT T N .              it was delivered; told before the spool learns of it
//! ```

mod text;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::config::{Durability, SpoolLimits, UplinkName};
use sonde_agent::frame::{Batch, Class, Codec, Signal, Signals};
use sonde_agent::spool::{Lane, Options, Outcome, Spool, Stopped, Subscription};

use text::Text;

type Done = Result<(), Box<dyn Error>>;

const MIB: u64 = 1 << 20;
const UPLINK: UplinkName = UplinkName::Mqtt;

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    match args.as_slice() {
        ["run", folder, from, programs] => {
            runtime.block_on(run(folder, from.parse()?, programs.parse()?))
        }
        ["list", folder] => runtime.block_on(list(folder)),
        _ => Err("usage: spooler run FOLDER FROM PROGRAMS | spooler list FOLDER".into()),
    }
}

/// Small segments and a short window, so that much happens in little time.
fn open(folder: &str) -> Result<Spool, Box<dyn Error>> {
    let options = Options {
        dir: PathBuf::from(folder),
        limits: SpoolLimits {
            quota: 16 * MIB,
            reserve: 0,
            memory: MIB,
            loss_window: Duration::from_secs(2),
            write_budget: 0,
            durability: Durability::Window,
            outbox_in_memory: false,
        },
        subscriptions: vec![Subscription {
            uplink: UPLINK,
            required: true,
            signals: vec![Signal::Metrics, Signal::Message],
        }],
        boot_id: [0; 16],
        clock: Clock::new(ClockTrust::Always),
    };
    Ok(Spool::start(options)?)
}

async fn list(folder: &str) -> Done {
    let spool = open(folder)?;
    found(&spool).await?;
    match spool.stop(Duration::from_secs(60)).await {
        Stopped::Whole => Ok(()),
        less => Err(format!("the stop left something behind: {less:?}").into()),
    }
}

/// Says everything that the spool holds, and takes nothing away.
async fn found(spool: &Spool) -> Done {
    spool.link(UPLINK, true);
    for lane in [Lane::Backlog, Lane::Live] {
        while let Some(frame) = spool.next(UPLINK, lane, Signals::ALL).await {
            match Text::read(&frame.batch.body) {
                Some(text) => say(&format!("HAS {text} {}", frame.id))?,
                None => say(&format!("BAD {}", frame.id))?,
            }
        }
    }
    // What is in flight when the link goes down is returned.
    spool.link(UPLINK, false);
    Ok(())
}

async fn run(folder: &str, from: u64, programs: u64) -> Done {
    let spool = open(folder)?;
    found(&spool).await?;
    say("READY")?;
    let tasks = tokio::task::LocalSet::new();
    for number in 1..=programs {
        let spool = spool.clone();
        tasks.spawn_local(async move { program(&spool, number, from).await });
    }
    tasks.spawn_local(async move { server(&spool).await });
    tasks.await;
    Ok(())
}

/// Stores message after message; every eighth time gauges, which nobody waits for.
async fn program(spool: &Spool, number: u64, from: u64) {
    let clock = Clock::new(ClockTrust::Always);
    let mut at = from;
    loop {
        at += 1;
        let (signal, class, topic) = match at % 8 {
            0 => (Signal::Metrics, Class::Normal, format!("g{number}")),
            _ => (Signal::Message, Class::Outbox, format!("t{number}")),
        };
        let length = match random(20) {
            0 => random(40_000),
            1..=3 => random(4_000),
            _ => random(400),
        };
        let now = clock.now();
        let text = Text::new(&topic, at, length);
        let batch = Batch {
            signal,
            class,
            codec: Codec::Identity,
            items: 1,
            first: now,
            last: now,
            context: None,
            body: text.body().into(),
        };
        let line = match spool.store(batch).await {
            Ok(_) if class == Class::Normal => continue,
            Ok(_) => format!("ACK {topic} {at} {length}"),
            Err(why) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                format!("NAK {topic} {at} {why:?}")
            }
        };
        if say(&line).is_err() {
            return;
        }
    }
}

/// A link that comes and goes, and a server behind it that takes its time.
async fn server(spool: &Spool) {
    loop {
        tokio::time::sleep(Duration::from_millis(random(2_000))).await;
        spool.link(UPLINK, true);
        for _ in 0..random(80) {
            let mut frame = spool.next(UPLINK, Lane::Live, Signals::ALL).await;
            if frame.is_none() || random(2) == 0 {
                frame = spool
                    .next(UPLINK, Lane::Backlog, Signals::ALL)
                    .await
                    .or(frame);
            }
            let Some(frame) = frame else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if random(10) == 0 {
                spool.settle(UPLINK, frame.id, Outcome::Returned);
                continue;
            }
            let line = match Text::read(&frame.batch.body) {
                Some(text) => format!("SENT {} {}", text.topic, text.number),
                None => format!("BAD {}", frame.id),
            };
            if say(&line).is_err() {
                return;
            }
            // A console has a buffer, which would be lost at a cut; other outputs refuse this.
            let _ = rustix::termios::tcdrain(std::io::stdout());
            spool.settle(UPLINK, frame.id, Outcome::Delivered);
        }
        spool.link(UPLINK, false);
    }
}

/// A line is one write: lines of several writers do not mix on a console. The
/// full stop at its end tells the whole from what a cut left.
fn say(line: &str) -> std::io::Result<()> {
    let line = if line == "READY" {
        format!("{line}\n")
    } else {
        format!("{line} .\n")
    };
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Below `end`; 0 where there is no randomness.
fn random(end: u64) -> u64 {
    getrandom::u64().map_or(0, |number| number % end.max(1))
}
