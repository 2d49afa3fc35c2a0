//! What the door shows: the owners' latest figures, put together when somebody asks.

use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::parts::Parts;
use crate::boot::Boot;
use crate::clock::{Clock, ClockTrust};
use crate::config::Config;
use crate::door::receiver::Receiver;
use crate::door::{self, Boxed, Snapshot};
use crate::event::Events;
use crate::gauge::Family;
use crate::gauge::custom::Custom;
use crate::identity::Identity;
use crate::journal;
use crate::outbox::Outbox;
use crate::pipeline::PipelineHandle;
use crate::sensor::Sensors;
use crate::serial::Serial;
use crate::spool::Spool;
use crate::status::{
    AgentStatus, ClockStatus, CommandsStatus, ConfigStatus, DeviceStatus, GaugeStatus, SCHEMA,
    SpoolStatus, Status,
};
use crate::trace::{Drops, Unsealed};
use crate::uplink::Roster;
use crate::work::Work;

/// The owners' channels.
pub(super) struct Board {
    clock: Clock,
    trust: String,
    started_boot_ns: u64,
    device: DeviceStatus,
    spool: watch::Receiver<SpoolStatus>,
    held: Spool,
    unsealed: Unsealed,
    uplinks: Roster,
    boot: Boot,
    events: Events,
    outbox: Outbox,
    pipeline: PipelineHandle,
    drops: Drops,
    work: Work,
    custom: Custom,
    sensors: Sensors,
    serial: Serial,
    receiver: OnceLock<Receiver>,
    commands: watch::Receiver<Option<CommandsStatus>>,
    config: Mutex<ConfigStatus>,
}

impl Board {
    #[expect(clippy::too_many_arguments, reason = "wiring")]
    pub(super) fn new(
        config: &Config,
        identity: &Identity,
        clock: Clock,
        spool: &Spool,
        uplinks: Roster,
        events: Events,
        boot: Boot,
        parts: &Parts,
    ) -> Self {
        let now = clock.now();
        Self {
            trust: match &config.clock {
                ClockTrust::Timesync => "timesync".into(),
                ClockTrust::File(path) => format!("file {}", path.display()),
                ClockTrust::Always => "always".into(),
            },
            started_boot_ns: now.boot_ns,
            clock,
            device: DeviceStatus {
                id: identity.device_id.clone(),
                id_source: identity.source.into(),
                attributes: identity.attributes.iter().cloned().collect(),
            },
            spool: spool.status(),
            held: spool.clone(),
            unsealed: parts.unsealed(),
            uplinks,
            boot,
            events,
            outbox: parts.outbox(),
            pipeline: parts.pipeline(),
            drops: parts.drops(),
            work: parts.work(),
            custom: parts.custom(),
            sensors: parts.sensors(),
            serial: parts.serial(),
            receiver: OnceLock::new(),
            commands: parts.commands(),
            config: Mutex::new(ConfigStatus {
                files: files(config),
                loaded_unix_ns: now.unix_ns,
                reload_error: None,
                reloads: 0,
                restart_needed: Vec::new(),
            }),
        }
    }

    /// Shows this receiver's figures.
    pub(super) fn receives(&self, receiver: Receiver) {
        // Once, at the start.
        let _ = self.receiver.set(receiver);
    }

    pub(super) fn reloaded(&self, config: &Config, restart_needed: Vec<String>) {
        let mut shown = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = ConfigStatus {
            files: files(config),
            loaded_unix_ns: self.clock.now().unix_ns,
            reload_error: None,
            reloads: shown.reloads + 1,
            restart_needed,
        };
    }

    pub(super) fn reload_refused(&self, why: String) {
        let mut shown = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        shown.reload_error = Some(why);
        shown.reloads += 1;
    }

    fn agent(&self, boot_ns: u64, gauges: &[GaugeStatus]) -> AgentStatus {
        let figures = self.pipeline.figures();
        let mut dropped = self.drops.snapshot();
        dropped.extend(journal::dropped());
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: boot_ns.saturating_sub(self.started_boot_ns) / 1_000_000_000,
            rss_bytes: total(gauges, "process.memory.usage").map(|bytes| bytes as u64),
            cpu_ms: total(gauges, "process.cpu.time").map(|s| (s * 1000.0) as u64),
            ticks: figures.ticks,
            points: figures.points,
            overruns: figures.overruns,
            late: figures.late,
            left_out: Family::ALL
                .iter()
                .zip(figures.left_out)
                .filter(|(_, series)| *series > 0)
                .map(|(family, series)| (family.as_str().to_owned(), series as u64))
                .collect(),
            dropped,
        }
    }
}

impl Snapshot for Board {
    fn traces(&self) -> Boxed<'_, String> {
        Box::pin(async move {
            // A span that is sealed in between shows twice rather than never.
            let unsealed = self.unsealed.batches().await;
            let mut memory = self.held.memory().await;
            memory.add_unsealed(unsealed);
            door::traces::lines(&memory)
        })
    }

    fn snapshot(&self) -> Boxed<'_, Status> {
        Box::pin(async move {
            let gauges = self.pipeline.gauges().await;
            let now = self.clock.now();
            let mut uplinks = Vec::new();
            self.uplinks
                .each(|uplink| uplinks.push(uplink.clone().aged_to(now.boot_ns)));
            Status {
                schema: SCHEMA,
                device: self.device.clone(),
                agent: self.agent(now.boot_ns, &gauges),
                clock: ClockStatus {
                    unix_ns: now.unix_ns,
                    boot_ns: now.boot_ns,
                    synchronised: self.clock.synchronised(),
                    trust: self.trust.clone(),
                },
                boot: self.boot.status(),
                gauges,
                pushes_refused: self.custom.refused(),
                push_refused_last: self.custom.last_refused(),
                spool: self.spool.borrow().clone().aged_to(now.boot_ns),
                uplinks,
                receiver: self
                    .receiver
                    .get()
                    .map(Receiver::status)
                    .unwrap_or_default(),
                sensors: self.sensors.status(),
                sensors_left_behind: self.sensors.left_behind(),
                serial: self.serial.status(now.boot_ns),
                serial_left_behind: self.serial.left_behind(),
                jobs: self.work.status(now),
                events: self.events.status(),
                outbox: self.outbox.status(),
                commands: self.commands.borrow().clone(),
                config: self
                    .config
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
                problems: Vec::new(),
            }
        })
    }
}

/// The sum over a gauge's series (CPU time comes by mode); `None` if it is not
/// sampled or one of them has no value.
fn total(gauges: &[GaugeStatus], name: &str) -> Option<f64> {
    // Other programs' have a name.
    let own = |g: &&GaugeStatus| !g.attributes.contains_key("sonde.process.name");
    let series = gauges.iter().filter(|g| g.name == name);
    let mut values = series.filter(own).map(GaugeStatus::number);
    let first = values.next()??;
    values.try_fold(first, |sum, value| Some(sum + value?))
}

fn files(config: &Config) -> Vec<String> {
    let files = config.files.iter();
    files.map(|file| file.display().to_string()).collect()
}
