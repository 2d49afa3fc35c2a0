//! One stored copy of everything that still has to reach somebody.
//!
//! A [`Spool`] is the handle that async tasks hold; one owner thread behind it
//! does all file work. Batches wait in memory and go to flash only when a
//! required uplink is down, the loss window is about to pass, memory runs
//! short, or at shutdown. Each uplink has a durable cursor of its own.

mod account;
mod attach;
mod budget;
pub(crate) mod cursor;
#[cfg(test)]
mod edges;
mod flush;
pub(crate) mod format;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod held_tests;
pub(crate) mod inspect;
mod log;
#[cfg(test)]
mod model;
pub(crate) mod mutant;
mod owner;
#[cfg(test)]
mod proof;
mod queue;
mod read;
mod reader;
pub(crate) mod recent;
mod recover;
mod report;
mod room;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod squeeze_tests;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod thin;
#[cfg(test)]
mod thin_tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use self::log::path_of;
use self::owner::Command;
use self::recover::id_of;
pub use self::thin::{Rewrite, Thinned};

use crate::clock::Clock;
use crate::config::{SpoolLimits, UplinkName};
use crate::frame::{Batch, Frame, FrameId, Signal, Signals};
use crate::status::SpoolStatus;
use crate::vitals;

/// What the spool is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The spool's folder; made if it is not there.
    pub dir: PathBuf,
    /// Bounds.
    pub limits: SpoolLimits,
    /// Who reads from it.
    pub subscriptions: Vec<Subscription>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// Time.
    pub clock: Clock,
}

/// One uplink's interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The cursor's name.
    pub uplink: UplinkName,
    /// Frames are held back until it has acknowledged them.
    pub required: bool,
    /// The signals routed to it.
    pub signals: Vec<Signal>,
}

/// Which end of the queue the next frame is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Stored since the link came up (and the newest one from before), oldest
    /// first. Nothing of the outbox: that is all backlog, in its order.
    Live,
    /// Everything older: `critical` first, then oldest first.
    Backlog,
}

/// What waits for one uplink, frames in flight not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Frames in [`Lane::Live`].
    pub live: u64,
    /// Frames in [`Lane::Backlog`].
    pub backlog: u64,
    /// Items in both.
    pub items: u64,
    /// Bytes of bodies in both.
    pub bytes: u64,
    /// The same for each signal, in the order of [`Signal::ALL`].
    pub signals: [PendingSignal; Signal::ALL.len()],
}

/// The part of [`Pending`] that is one signal's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingSignal {
    /// Frames in [`Lane::Live`].
    pub live: u64,
    /// Frames in [`Lane::Backlog`].
    pub backlog: u64,
    /// Items in both.
    pub items: u64,
    /// Bytes of bodies in both.
    pub bytes: u64,
}

impl Pending {
    /// What waits of some signals only.
    #[must_use]
    pub fn of(&self, signals: Signals) -> Self {
        if signals == Signals::ALL {
            return *self;
        }
        let mut some = Self::default();
        let parts = Signal::ALL.iter().zip(&self.signals).zip(&mut some.signals);
        for ((_, part), place) in parts.filter(|((signal, _), _)| signals.contains(**signal)) {
            *place = *part;
            some.live += part.live;
            some.backlog += part.backlog;
            some.items += part.items;
            some.bytes += part.bytes;
        }
        some
    }
}

/// What became of a frame that [`Spool::next`] gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has it.
    Delivered,
    /// The other side will never take it: counted as lost, a sample kept.
    Condemned(String),
    /// Nobody wants it any more: counted as lost.
    Expired,
    /// Not sent after all, or not acknowledged: give it out again.
    Returned,
}

/// How [`Spool::stop`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stopped {
    /// All that a required uplink still needs is on flash.
    Whole,
    /// This much could not be written: it is counted as lost.
    Unwritten {
        /// Batches.
        frames: u64,
        /// Items in them.
        items: u64,
    },
    /// The owner was not done within the deadline; what became of the rest is unknown.
    Late,
}

/// Why the spool did not take a batch. The loss has been counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The body is longer than [`crate::frame::MAX_BODY`].
    TooLarge,
    /// No room, and nothing of lesser worth to evict.
    Full,
    /// The outbox promises flash, and there is none: the disk fails, or the
    /// folder cannot be used, and no uplink took the message meanwhile.
    NoDisk,
    /// The owner thread has stopped.
    Stopped,
}

/// Why the spool could not be opened. Nothing *in* the folder is a reason.
#[derive(Debug)]
pub enum StartError {
    /// Another agent holds the folder's lock.
    Locked(PathBuf),
    /// The owner thread could not be started.
    Thread(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Locked(dir) => write!(
                f,
                "cannot use the spool in {}: another agent holds its lock; stop that one, or set another paths.state",
                dir.display()
            ),
            StartError::Thread(error) => write!(
                f,
                "cannot start the spool's thread: {error}; raise the limit on tasks or memory"
            ),
        }
    }
}

impl std::error::Error for StartError {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::TooLarge => "the body is longer than a frame may be",
            Refused::Full => "the spool is full, and holds nothing of lesser worth",
            Refused::NoDisk => {
                "it could not be stored: the spool's disk fails or is absent (see `sonde status`)"
            }
            Refused::Stopped => "the spool has stopped",
        })
    }
}

impl std::error::Error for Refused {}

/// The handle. Cheap to clone; every method is bounded.
#[derive(Clone, Debug)]
pub struct Spool {
    ends: owner::Ends,
}

impl Spool {
    /// Recovers what is in the folder and starts the owner thread. If the
    /// folder cannot be made or written, runs in memory and says so in the status.
    pub fn start(options: Options) -> Result<Self, StartError> {
        Ok(Self {
            ends: owner::start(options, None)?,
        })
    }

    /// The same, with something that thins old gauges before they are dropped.
    pub fn start_with(options: Options, rewrite: Box<dyn Rewrite>) -> Result<Self, StartError> {
        Ok(Self {
            ends: owner::start(options, Some(rewrite))?,
        })
    }

    /// Hands over a batch; waits while the owner's queue is full. `Ok` means
    /// accepted under the loss-window rules, not that it is on flash; for the
    /// outbox it means synced (or delivered meanwhile); with
    /// [`SpoolLimits::outbox_in_memory`] a failing disk is no reason to refuse.
    pub async fn store(&self, batch: Batch) -> Result<FrameId, Refused> {
        let permit = self.ends.stores.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Refused::Stopped)?;
        let (answer, answered) = oneshot::channel();
        self.order(Command::Store(batch, answer, permit))
            .map_err(|_| Refused::Stopped)?;
        answered.await.unwrap_or(Err(Refused::Stopped))
    }

    /// What is in memory of traces; nothing once the owner has stopped.
    pub(crate) async fn memory(&self) -> recent::Memory {
        let (answer, answered) = oneshot::channel();
        match self.order(Command::Held(answer)) {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(Ended) => recent::Memory::default(),
        }
    }

    /// Asks the owner for a sign of life: it answers when it has done what it was
    /// told before. `None`: it has stopped. Ask again only after the answer.
    pub fn probe(&self) -> Option<oneshot::Receiver<()>> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::Probe(answer)).ok().map(|()| answered)
    }

    /// The next frame of a lane that is not in flight and of one of `signals`;
    /// `None`: nothing now. What is left out keeps its place, for as long as
    /// the quota has room for it.
    pub async fn next(&self, uplink: UplinkName, lane: Lane, signals: Signals) -> Option<Frame> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::Next(uplink, lane, signals, answer))
            .ok()?;
        answered.await.ok()?
    }

    /// Says what became of a frame.
    pub fn settle(&self, uplink: UplinkName, id: FrameId, outcome: Outcome) {
        // A stopped owner has written all that was open; it goes out again after the next start.
        let _ = self.order(Command::Settle(uplink, id, outcome));
    }

    /// Says that an uplink came up or went down. Going down returns what was in flight.
    pub fn link(&self, uplink: UplinkName, up: bool) {
        // A stopped owner serves no uplink.
        let _ = self.order(Command::Link(uplink, up));
    }

    /// What waits for an uplink; changes wake the receiver.
    pub fn pending(&self, uplink: UplinkName) -> watch::Receiver<Pending> {
        let [otlp, mqtt] = &self.ends.pending;
        match uplink {
            UplinkName::Otlp => otlp.clone(),
            UplinkName::Mqtt => mqtt.clone(),
        }
    }

    /// For how long after its first reading a batch of metrics may be held
    /// back: `Some` while nobody required takes any, and flash does. What comes
    /// by then is on flash within the loss window, and no earlier for coming earlier.
    pub fn horizon(&self) -> watch::Receiver<Option<Duration>> {
        self.ends.horizon.clone()
    }

    /// The latest figures.
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.ends.status.clone()
    }

    /// New bounds and subscriptions after a reload; the folder stays.
    pub async fn reconfigure(&self, limits: SpoolLimits, subscriptions: Vec<Subscription>) {
        let (answer, answered) = oneshot::channel();
        if self
            .order(Command::Reconfigure(limits, subscriptions, answer))
            .is_ok()
        {
            // An owner that stops meanwhile needs no new bounds.
            let _ = answered.await;
        }
    }

    /// Writes and syncs everything that is not acknowledged, ends the thread.
    /// One that was stopped before is whole.
    pub async fn stop(&self, deadline: Duration) -> Stopped {
        let (answer, answered) = oneshot::channel();
        if self.order(Command::Stop(answer)).is_err() {
            return Stopped::Whole;
        }
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(stopped)) => stopped,
            Ok(Err(_)) | Err(_) => Stopped::Late,
        }
    }

    fn order(&self, command: Command) -> Result<(), Ended> {
        vitals::SPOOL_ORDERS.put();
        self.ends.commands.send(command).map_err(|_| Ended)
    }
}

/// The owner thread has ended.
struct Ended;
