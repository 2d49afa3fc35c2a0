//! What a serial line's frames cost the agent: from bytes as they are read to
//! the newest readings by gauge.
//!
//! ```text
//! cargo run --release -p sonde-agent --example serial_decode
//! ```
//!
//! One core, this thread's CPU time; no terminal and no reading of one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sonde_agent::serial::{Link, Settings};
use sonde_firmware_hal::wire::{Encoder, GaugeId, TraceContext};
use sonde_firmware_hal::{About, Resolution, Unit};

/// Frames of one kind.
const FRAMES: u32 = 200_000;
/// What the agent reads at once.
const CHUNK: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| frames | bytes each | frames a second | CPU µs each | good |");
    println!("|---|---|---|---|---|");
    show("1 reading", &frames(1, false)?);
    show("10 readings", &frames(10, false)?);
    show("10 readings, traced", &frames(10, true)?);
    let mut broken = frames(10, false)?;
    // One byte of each frame is wrong.
    for at in (20..broken.len()).step_by(broken.len() / FRAMES as usize) {
        if let Some(byte) = broken.get_mut(at) {
            *byte ^= 0x55;
        }
    }
    show("10 readings, one byte wrong", &broken);
    Ok(())
}

/// From four gauges that change a little, once a second, after their descriptions.
fn frames(readings: u32, traced: bool) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut encoder = Encoder::new(1);
    let mut line = Vec::new();
    for number in 0..4 {
        let name = ["water", "flow", "supply", "board"][usize::from(number)];
        let about = About {
            name,
            unit: Unit::Celsius,
            resolution: Resolution::one_in(16),
            least: -880,
            most: 2_048,
        };
        encoder.describe(1, id(number)?, &about).map_err(failed)?;
    }
    line.extend_from_slice(encoder.finish());
    let mut at_ms = 1;
    for frame in 0..FRAMES {
        for reading in 0..readings {
            at_ms += 1_000;
            let value = 300 + i32::try_from((frame + reading) % 50)?;
            let gauge = id(u8::try_from(reading % 4)?)?;
            encoder.push(at_ms, gauge, Ok(value)).map_err(failed)?;
        }
        if traced {
            let context = TraceContext::new([7; 16], [9; 8], 1);
            encoder.trace(context.ok_or("no context")?);
        }
        line.extend_from_slice(encoder.finish());
    }
    Ok(line)
}

fn id(number: u8) -> Result<GaugeId, &'static str> {
    GaugeId::new(number).ok_or("no such gauge")
}

fn failed(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn show(name: &str, line: &[u8]) {
    let settings = Settings {
        name: "boiler".into(),
        device: Path::new("/dev/ttyS0").into(),
        baud: 115_200,
        max_series: 32,
        stale: Duration::from_secs(30),
        gauges: Vec::new(),
    };
    let mut link = Link::new(Arc::new(settings), 0);
    link.opened(0);
    let before = cpu();
    let mut now_ns = 0;
    for chunk in line.chunks(CHUNK) {
        now_ns += 20_000_000;
        link.feed(chunk, now_ns, |traced| {
            std::hint::black_box(traced);
        });
    }
    let took = (cpu() - before).as_secs_f64();
    let frames = f64::from(FRAMES);
    println!(
        "| {name} | {:.1} | {:.0} | {:.2} | {} |",
        line.len() as f64 / frames,
        frames / took,
        took / frames * 1e6,
        link.counts().frames
    );
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
