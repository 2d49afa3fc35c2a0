//! What a data point of this machine costs on the wire: thirty real seconds of
//! the host's gauges and the agent's own as one gzipped batch, and the time
//! that reading, recording and encoding took.
//!
//! `cargo run --release -p sonde-agent --example wire_bytes`
//!
//! Every family ticks each second, whatever its default interval is.

use std::path::Path;
use std::time::Duration;

use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::gauge::agent::{Agent, Figures};
use sonde_agent::gauge::{Readings, Registry, host_sources};
use sonde_agent::otlp::{Encoder, gunzip};
use sonde_agent::recorder::Recorder;
use sonde_agent::status::{SpoolStatus, UplinkStatus};
use sonde_agent::uplink::Roster;
use tokio::sync::watch;

const TICKS: u64 = 30;

#[expect(
    clippy::disallowed_methods,
    reason = "one thread, nothing else to do: it waits for the second to pass"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock = Clock::new(ClockTrust::Always);
    let registry = Registry::default();
    let length = Duration::from_secs(TICKS);
    let mut recorder = Recorder::new(registry.clone(), length, clock.now());
    let (_spool, spool) = watch::channel(SpoolStatus::default());
    let (up, otlp) = watch::channel(UplinkStatus {
        name: "otlp".into(),
        state: "up".into(),
        ..UplinkStatus::default()
    });
    let roster = Roster::default();
    roster.set([otlp].into_iter());
    let mut agent = Agent::new(spool, roster);
    let mut sources = host_sources(
        Path::new("/"),
        &sonde_agent::clock::Clock::new(sonde_agent::clock::ClockTrust::Always),
    );
    let mut figures = Figures::default();
    let mut readings = Readings::new(registry.clone());
    // As long as a gateway's usual resource.
    let resource: Vec<(String, String)> = [
        ("device.id", "7d3c1f0a9be24c5d8e6f7a8b9c0d1e2f"),
        ("host.arch", "arm64"),
        ("host.name", "gateway-0017"),
        ("os.type", "linux"),
        ("os.version", "12"),
        (
            "service.instance.id",
            "0c2b5c1e-6b1f-4c52-9a63-1f0d6c1b7e55",
        ),
        ("service.name", "sonde"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec();
    let mut spent = 0;
    for _ in 0..TICKS {
        let now_ns = clock.boot_ns();
        std::thread::sleep(Duration::from_nanos(1_000_000_000 - now_ns % 1_000_000_000));
        let now = clock.now();
        readings.clear();
        for source in &mut sources {
            // A family that this machine does not have gives no points.
            let _ = source.read(now, &mut readings);
        }
        figures.ticks += 1;
        if figures.ticks % 10 == 0 {
            up.send_modify(|status| {
                status.wire_sent_bytes += 7193;
                status.acked_items += 900;
            });
        }
        figures.points = agent.read(&figures, &mut readings);
        recorder.record(now, readings.as_slice(), None);
        spent += clock.boot_ns() - now.boot_ns;
    }
    let Some(sealed) = recorder.sealed() else {
        return Err("nothing was read".into());
    };
    let begun = clock.boot_ns();
    let body = Encoder::new(&resource, env!("CARGO_PKG_VERSION")).metrics(sealed);
    let encoding = clock.boot_ns() - begun;
    let points = sealed.points();
    let raw = gunzip(&body, 1 << 26)?;
    let each = |total: f64| total / points as f64;
    println!(
        "{} series, {TICKS} ticks, {points} points: {} bytes, {} gzipped, {:.2} a point",
        registry.len(),
        raw.len(),
        body.len(),
        each(body.len() as f64),
    );
    println!(
        "reading and recording {:.2} µs a point, encoding {:.2} µs a point",
        each(spent as f64 / 1000.0),
        each(encoding as f64 / 1000.0),
    );
    Ok(())
}
