//! What the door shows: the owners' latest figures, put together when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::generation::Generation;
use crate::clock::{Clock, ClockTrust};
use crate::config::Config;
use crate::door::{Boxed, Snapshot};
use crate::identity::Identity;
use crate::status::{
    AgentStatus, ClockStatus, ConfigStatus, DeviceStatus, SCHEMA, SpoolStatus, Status, UplinkStatus,
};

/// The owners' channels. Lives as long as the door.
pub(super) struct Board {
    clock: Clock,
    started_boot_ns: u64,
    spool: watch::Receiver<SpoolStatus>,
    shown: Mutex<Shown>,
}

/// What a reload changes.
#[derive(Clone)]
struct Shown {
    device: DeviceStatus,
    config: ConfigStatus,
    trust: ClockTrust,
    uplinks: Vec<watch::Receiver<UplinkStatus>>,
}
