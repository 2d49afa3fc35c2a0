//! What a large backlog costs: `cargo run --release --example backlog -- [folder]`.
//!
//! Fills spools of 0, 16, 64 and 256 MiB in the folder (which should lie on a
//! real disk), then starts an agent's spool on each in a process of its own and
//! measures the time to the first frame, memory while it drains, and the rate.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::config::{Durability, SpoolLimits, UplinkName};
use sonde_agent::frame::{Batch, Class, Codec, Signal, Signals};
use sonde_agent::spool::{Lane, Options, Outcome, Spool, Stopped, Subscription};

type Done = Result<(), Box<dyn Error>>;

/// Bytes of a body: about half a minute of gauges.
const BODY: usize = 8 * 1024;
const MIB: u64 = 1 << 20;
const UPLINK: UplinkName = UplinkName::Otlp;

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    match args.as_slice() {
        ["fill", folder, mib] => runtime.block_on(fill(Path::new(folder), mib.parse()?)),
        ["drain", folder] => runtime.block_on(drain(Path::new(folder))),
        [] => measure(&std::env::temp_dir()),
        [folder] => measure(Path::new(folder)),
        _ => Err("give a folder on the disk to measure, or nothing".into()),
    }
}

fn measure(above: &Path) -> Done {
    let own = std::env::current_exe()?;
    println!(
        "backlog  first frame  RSS at start  with it  peak while draining  frames/s  MB per CPU s"
    );
    for mib in [0, 16, 64, 256] {
        let folder = above.join(format!("sonde-backlog-{mib}"));
        let run = |args: &[&str]| -> Done {
            let status = Command::new(&own).args(args).status()?;
            status.success().then_some(()).ok_or("a step failed".into())
        };
        let name = folder.display().to_string();
        let size = mib.to_string();
        print!("{mib:>3} MiB  ");
        std::io::Write::flush(&mut std::io::stdout())?;
        let result = run(&["fill", &name, &size]).and_then(|()| run(&["drain", &name]));
        std::fs::remove_dir_all(&folder)?;
        result?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Spool, Box<dyn Error>> {
    let options = Options {
        dir: PathBuf::from(folder),
        limits: SpoolLimits {
            quota: 1024 * MIB,
            reserve: 0,
            memory: MIB,
            loss_window: Duration::from_secs(60),
            write_budget: 0,
            durability: Durability::Window,
            outbox_in_memory: false,
        },
        subscriptions: vec![Subscription {
            uplink: UPLINK,
            required: true,
            signals: vec![Signal::Metrics],
        }],
        boot_id: [0; 16],
        clock: Clock::new(ClockTrust::Always),
    };
    Ok(Spool::start(options)?)
}

async fn fill(folder: &Path, mib: u64) -> Done {
    let spool = open(folder)?;
    let clock = Clock::new(ClockTrust::Always);
    for n in 0..mib * MIB / BODY as u64 {
        let now = clock.now();
        let body: Vec<u8> = (0..BODY as u64).map(|at| (at * 31 + n) as u8).collect();
        let batch = Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Identity,
            items: 64,
            first: now,
            last: now,
            context: None,
            body: Bytes::from(body),
        };
        spool.store(batch).await?;
    }
    match spool.stop(Duration::from_secs(60)).await {
        Stopped::Whole => Ok(()),
        other => Err(format!("not all was written: {other:?}").into()),
    }
}

async fn drain(folder: &Path) -> Done {
    let clock = Clock::new(ClockTrust::Always);
    let at_start = memory("VmRSS:");
    let began = clock.boot_ns();
    let spool = open(folder)?;
    spool.link(UPLINK, true);
    let mut first = None;
    let mut with_it = 0;
    let mut frames = 0u64;
    for lane in [Lane::Live, Lane::Backlog] {
        while let Some(frame) = spool.next(UPLINK, lane, Signals::ALL).await {
            if first.is_none() {
                first = Some(clock.boot_ns() - began);
                with_it = memory("VmRSS:");
            }
            frames += 1;
            spool.settle(UPLINK, frame.id, Outcome::Delivered);
        }
    }
    let took = (clock.boot_ns() - began) as f64 / 1e9;
    let first = first.unwrap_or(clock.boot_ns() - began) as f64 / 1e6;
    let ticks = cpu_ticks() as f64 / 100.0;
    let rate = (frames * BODY as u64) as f64 / 1e6 / ticks.max(0.01);
    println!(
        "{first:>8.2} ms  {at_start:>8} KiB  {with_it:>5} KiB  {:>15} KiB  {:>8.0}  {rate:>8.0}",
        memory("VmHWM:"),
        frames as f64 / took,
    );
    let _ = spool.stop(Duration::from_secs(60)).await;
    Ok(())
}

/// A line of `/proc/self/status`, in KiB.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// User and system time of this process, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = text.rsplit(')').next().unwrap_or_default();
    let times = rest.split_whitespace().skip(11).take(2);
    times.filter_map(|n| n.parse::<u64>().ok()).sum()
}
