//! What a data point costs on flash: `cargo run --release -p sonde-agent --example flash_bytes -- [folder]`.
//!
//! The agent's own recorder, encoder and spool, in a folder that should lie on
//! the disk in question. Two sets: 64 gauges (half of them walk by tenths, a
//! quarter seldom change, a quarter are counters), and all that this machine
//! has. Three ticks ten seconds apart make a batch; each batch is one write and
//! one sync, as with a loss window of 30 s. Times are made up, so that an hour
//! takes seconds; the machine's own gauges are read a quarter of a second apart.
//!
//! Then the same hour with a link that takes every batch at once.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::config::{Durability, SpoolLimits, UplinkName};
use sonde_agent::frame::{Batch, Class, Codec, Signal, Signals, Stamp};
use sonde_agent::gauge::{Descriptor, Family, Kind, Readings, Registry, SeriesId};
use sonde_agent::gauge::{Source, Value, host_sources};
use sonde_agent::otlp::Encoder;
use sonde_agent::recorder::Recorder;
use sonde_agent::spool::{Lane, Options, Outcome, Spool, Subscription};
use sonde_agent::status::SpoolStatus;

type Failure = Box<dyn Error>;

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;
/// An hour of batches, three ticks each.
const BATCHES: u64 = 120;
const TICKS: u64 = 3;
const UPLINK: UplinkName = UplinkName::Otlp;

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).map(PathBuf::from);
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    println!(
        "an hour of batches, 30 s each   points  file B/point  written B/point  device B/point"
    );
    for (name, up, machine) in [
        ("link down, 64 gauges / 10 s", false, false),
        ("link down, this machine's", false, true),
        ("link up, 64 gauges / 10 s", true, false),
    ] {
        let folder = folder.join("sonde-flash-bytes");
        let result = runtime.block_on(hour(&folder, up, machine));
        std::fs::remove_dir_all(&folder)?;
        let (points, status, files) = result?;
        let each = |bytes: u64| bytes as f64 / points as f64;
        let device = match status.device_written_bytes {
            Some(bytes) if bytes > 0 => format!("{:.2}", each(bytes)),
            Some(_) | None => format!("not counted; about {:.2}", each(status.flash_bytes)),
        };
        println!(
            "{name:<30} {points:>7}  {:>12.2}  {:>15.2}  {device}",
            each(files),
            each(status.written_bytes),
        );
        if up {
            println!(
                "bytes written in that hour besides the cursor file's 32 KiB: {}",
                status.written_bytes.saturating_sub(32 << 10)
            );
        }
    }
    Ok(())
}

/// Points, the last status, and how long the segments are together.
async fn hour(folder: &Path, up: bool, machine: bool) -> Result<(u64, SpoolStatus, u64), Failure> {
    let clock = Clock::new(ClockTrust::Always);
    let registry = Registry::default();
    let mut at = clock.now();
    let mut recorder = Recorder::new(registry.clone(), Duration::from_secs(30), at);
    let mut readings = Readings::new(registry);
    let mut encoder = Encoder::new(&[("device.id".into(), "gateway-0017".into())], "0.1.0");
    let mut invented = Invented::new(&readings);
    let mut sources = if machine {
        host_sources(
            Path::new("/"),
            &sonde_agent::clock::Clock::new(sonde_agent::clock::ClockTrust::Always),
        )
    } else {
        Vec::new()
    };
    let spool = open(folder, up)?;
    spool.link(UPLINK, up);
    let mut points = 0;
    for _ in 0..BATCHES {
        for _ in 0..TICKS {
            at = Stamp {
                unix_ns: at.unix_ns + 10 * SECOND,
                boot_ns: at.boot_ns + 10 * SECOND,
            };
            readings.clear();
            if machine {
                tokio::time::sleep(Duration::from_millis(250)).await;
                read(&mut sources, at, &mut readings);
            } else {
                invented.read(&mut readings);
            }
            recorder.record(at, readings.as_slice(), None);
        }
        let Some(sealed) = recorder.sealed() else {
            return Err("nothing was read".into());
        };
        points += sealed.points() as u64;
        let (first, last) = sealed.span();
        let batch = Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Gzip,
            items: u32::try_from(sealed.points())?,
            first,
            last,
            context: None,
            body: encoder.metrics(sealed),
        };
        recorder.clear();
        spool.store(batch).await?;
        while up && let Some(frame) = spool.next(UPLINK, Lane::Live, Signals::ALL).await {
            spool.settle(UPLINK, frame.id, Outcome::Delivered);
        }
    }
    // The device counts what has reached it.
    if !up {
        tokio::time::sleep(Duration::from_secs(11)).await;
        spool.link(UPLINK, false);
    }
    let _ = spool.stop(Duration::from_secs(60)).await;
    let status = spool.status().borrow().clone();
    Ok((points, status, lengths(&folder.join("normal"))))
}

fn read(sources: &mut [Box<dyn Source>], at: Stamp, readings: &mut Readings) {
    for source in sources {
        // A family that this machine does not have gives no points.
        let _ = source.read(at, readings);
    }
}

fn open(folder: &Path, up: bool) -> Result<Spool, Failure> {
    let options = Options {
        dir: PathBuf::from(folder),
        limits: SpoolLimits {
            quota: 64 * MIB,
            reserve: 0,
            memory: MIB,
            loss_window: Duration::from_secs(60),
            write_budget: 0,
            // Each batch is written by itself while the link is down.
            durability: if up {
                Durability::Window
            } else {
                Durability::Always
            },
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

fn lengths(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let lens = files.filter_map(|file| file.metadata().ok());
    lens.map(|meta| meta.len()).sum()
}

/// 64 gauges.
struct Invented {
    ids: Vec<Option<SeriesId>>,
    values: Vec<i64>,
    noise: u64,
}

impl Invented {
    fn new(readings: &Readings) -> Self {
        let ids = (0..64).map(|n| {
            let gauge = Descriptor {
                name: format!("plant.sensor{n:02}.value").into(),
                unit: "Cel".into(),
                description: "".into(),
                kind: if n % 4 == 3 {
                    Kind::Counter
                } else {
                    Kind::Gauge
                },
                family: Family::Temperature,
            };
            readings.series(Box::leak(Box::new(gauge)), &[])
        });
        Self {
            ids: ids.collect(),
            values: (0..64).map(|n| 200 + n).collect(),
            noise: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn read(&mut self, readings: &mut Readings) {
        for (n, (id, value)) in self.ids.iter().zip(&mut self.values).enumerate() {
            // xorshift64
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            let step = i64::try_from(self.noise >> 33).unwrap_or(0);
            let reading = match n % 4 {
                3 => {
                    *value += step % 1000;
                    Ok(Value::Int(*value))
                }
                2 => {
                    *value += i64::from(step % 30 == 0);
                    Ok(Value::Int(*value))
                }
                _ => {
                    *value += step % 7 - 3;
                    Value::grained(*value as f64 / 10.0, 16.0)
                }
            };
            readings.put(*id, reading);
        }
    }
}
