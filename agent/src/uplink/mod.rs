//! Ways out: each takes frames from the spool, sends them, and says what became
//! of them. What to do when is decided in `delivery` (pure); `otlp_http` and
//! `mqtt` only perform it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::event::Events;
use crate::spool::Spool;
use crate::status::UplinkStatus;
use crate::trace::Tracer;

mod attempts;
pub mod credentials;
pub mod delivery;
pub mod dial;
mod http_status;
pub mod mqtt;
mod otlp_answer;
mod otlp_client;
mod otlp_headers;
pub mod otlp_http;
mod pace;
pub mod split;
pub mod tls;

/// What every uplink is given.
#[derive(Clone)]
pub struct World {
    /// Where frames come from.
    pub spool: Spool,
    /// Time.
    pub clock: Clock,
    /// For spans of connection attempts (never of uploads).
    pub tracer: Tracer,
    /// Told of what becomes of link and circuit.
    pub events: Events,
    /// `device.id`
    pub device_id: String,
    /// The boot that the boot clock counts.
    pub boot_id: [u8; 16],
    /// How to end.
    pub stop: Stop,
}

/// How a task is asked to end, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Send what is waiting if the link is up, then end; if it is down, end.
    pub finish: CancellationToken,
    /// End now; return what is in flight.
    pub now: CancellationToken,
}

/// A running uplink.
#[derive(Debug)]
pub struct Uplink {
    /// Its figures.
    pub status: watch::Receiver<UplinkStatus>,
    /// Ends after [`Stop`]; any other end is a bug and is reported.
    pub task: JoinHandle<()>,
}

/// Who is running right now, for those that show or sample figures. A reload
/// may replace the uplinks; the roster stays.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Vec<watch::Receiver<UplinkStatus>>>>);

impl Roster {
    /// Replaces whoever was in it.
    pub fn set(&self, uplinks: impl Iterator<Item = watch::Receiver<UplinkStatus>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = uplinks.collect();
    }

    /// Looks at everybody's latest figures, without a copy.
    pub fn each(&self, mut look: impl FnMut(&UplinkStatus)) {
        let uplinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uplinks.iter().for_each(|uplink| look(&uplink.borrow()));
    }
}
