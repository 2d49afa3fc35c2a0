//! What the door shows: the owners' latest figures, put together when somebody asks.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::parts::Parts;
use crate::clock::{Clock, ClockTrust};
use crate::config::Config;
use crate::door::{Boxed, Snapshot};
use crate::identity::Identity;
use crate::journal;
use crate::pipeline::PipelineHandle;
use crate::status::{
    AgentStatus, ClockStatus, ConfigStatus, DeviceStatus, SCHEMA, SpoolStatus, Status,
};
use crate::trace::Drops;
use crate::uplink::Roster;

/// The owners' channels.
pub(super) struct Board {
    clock: Clock,
    trust: String,
    started_boot_ns: u64,
    device: DeviceStatus,
    spool: watch::Receiver<SpoolStatus>,
    uplinks: Roster,
    pipeline: PipelineHandle,
    drops: Drops,
    config: Mutex<ConfigStatus>,
}

impl Board {
    pub(super) fn new(
        config: &Config,
        identity: &Identity,
        clock: Clock,
        spool: watch::Receiver<SpoolStatus>,
        uplinks: Roster,
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
            spool,
            uplinks,
            pipeline: parts.pipeline(),
            drops: parts.drops(),
            config: Mutex::new(ConfigStatus {
                files: files(config),
                loaded_unix_ns: now.unix_ns,
                reload_error: None,
            }),
        }
    }

    pub(super) fn reloaded(&self, config: &Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = ConfigStatus {
            files: files(config),
            loaded_unix_ns: self.clock.now().unix_ns,
            reload_error: None,
        };
    }

    pub(super) fn reload_refused(&self, why: String) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.reload_error = Some(why);
    }

    fn agent(&self, boot_ns: u64) -> AgentStatus {
        let figures = self.pipeline.figures();
        let mut dropped = self.drops.snapshot();
        dropped.extend(journal::dropped());
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: boot_ns.saturating_sub(self.started_boot_ns) / 1_000_000_000,
            rss_bytes: None,
            cpu_ms: None,
            ticks: figures.ticks,
            points: figures.points,
            overruns: figures.overruns,
            dropped,
        }
    }
}

impl Snapshot for Board {
    fn snapshot(&self) -> Boxed<'_, Status> {
        Box::pin(async move {
            let gauges = self.pipeline.gauges().await;
            let now = self.clock.now();
            let mut uplinks = Vec::new();
            self.uplinks.each(|uplink| uplinks.push(uplink.clone()));
            Status {
                schema: SCHEMA,
                device: self.device.clone(),
                agent: self.agent(now.boot_ns),
                clock: ClockStatus {
                    unix_ns: now.unix_ns,
                    boot_ns: now.boot_ns,
                    synchronised: self.clock.synchronised(),
                    trust: self.trust.clone(),
                },
                gauges,
                spool: self.spool.borrow().clone(),
                uplinks,
                jobs: Vec::new(),
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

fn files(config: &Config) -> Vec<String> {
    let files = config.files.iter();
    files.map(|file| file.display().to_string()).collect()
}
