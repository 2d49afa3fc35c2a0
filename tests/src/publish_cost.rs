//! What a small message of the outbox costs while the link is down: time and flash.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use sonde_agent::cli::client::{Request, send};
use tokio::time::Instant;

use crate::link::Mode;
use crate::world::Mqtt;

/// Bytes of a payload.
pub const PAYLOAD: usize = 200;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Messages answered with 200.
    pub messages: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Syncs of files.
    pub syncs: u64,
    /// Bytes in files.
    pub written: u64,
    /// Bytes that reach the flash, by the agent's own estimate.
    pub flash: u64,
}

/// Posts `each` messages from each of `publishers`, which each wait for the
/// answer before the next.
///
/// # Errors
/// The agent did not come up, or refused one.
pub async fn measure(publishers: u64, each: u64) -> Result<Cost, Box<dyn Error>> {
    let id = format!("figures-publish-{publishers}");
    let mqtt = Mqtt::plain(&id).await;
    mqtt.link.set(Mode::Cut).await;
    let mut gateway = mqtt.gateway(&id);
    gateway
        .set("outbox.allow", "[\"plant/\"]")
        .set("outbox.rate", "10000")
        .text("outbox.byte_rate", "1GiB")
        // Telemetry stays in memory meanwhile.
        .text("spool.loss_window", "10m")
        .text("batch.length", "60s");
    let mut agent = gateway.start();
    let before = agent.ready().await?.spool;
    let started = Instant::now();
    let tasks: Vec<_> = (0..publishers)
        .map(|n| tokio::spawn(publish(gateway.local_socket(), n, each)))
        .collect();
    for task in tasks {
        task.await??;
    }
    let took = started.elapsed();
    let after = agent.ready().await?.spool;
    Ok(Cost {
        messages: publishers * each,
        took,
        syncs: after.syncs.saturating_sub(before.syncs),
        written: after.written_bytes.saturating_sub(before.written_bytes),
        flash: after.flash_bytes.saturating_sub(before.flash_bytes),
    })
}

async fn publish(socket: PathBuf, n: u64, each: u64) -> Result<(), String> {
    let path = format!("/publish?topic=plant/{n}");
    let request = Request {
        method: "POST",
        path: &path,
        headers: &[],
        body: &[b'x'; PAYLOAD],
    };
    for _ in 0..each {
        let reply = send(&socket, &request).await;
        let reply = reply.map_err(|error| format!("{error:?}"))?;
        if reply.status != 200 {
            return Err(reply.error());
        }
    }
    Ok(())
}
