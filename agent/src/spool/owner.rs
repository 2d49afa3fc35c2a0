//! The owner: one thread named `spool` that does all file work, and the
//! queue of commands it takes its orders from.
//!
//! The queue is bounded: a store holds one of [`STORES`] permits until it is
//! answered, an uplink has one `next` under way at a time, and it can settle
//! no more frames than it was given.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::cursor::{UPLINK_NAMES, UPLINKS, uplink_slot};
use super::log::{Log, Now, Settings};
use super::queue::Core;
use super::recent::{self, Memory, Ring};
use super::storage::{OpenError, RealFiles};
use super::{Lane, Options, Outcome, Pending, Refused, Rewrite, StartError, Stopped, Subscription};
use crate::clock::Clock;
use crate::config::{Durability, SpoolLimits, UplinkName};
use crate::frame::{Batch, Class, Frame, FrameId, Signals};
use crate::status::SpoolStatus;
use crate::vitals;

/// Stores under way at a time.
pub(super) const STORES: usize = 64;
/// Commands taken before the files and the figures get their turn.
const BURST: usize = 128;
/// The status is published at most this often.
const STATUS_EVERY: u64 = 200_000_000;
/// The longest sleep. Sleeps do not count a suspend, and what is due does.
const NAP: Duration = Duration::from_secs(10);
/// How often a folder that could not be used is tried again, in nanoseconds.
const REOPEN: u64 = 60_000_000_000;

/// An order.
pub(super) enum Command {
    Store(
        Batch,
        oneshot::Sender<Result<FrameId, Refused>>,
        OwnedSemaphorePermit,
    ),
    Next(UplinkName, Lane, Signals, oneshot::Sender<Option<Frame>>),
    Settle(UplinkName, FrameId, Outcome),
    Link(UplinkName, bool),
    Reconfigure(SpoolLimits, Vec<Subscription>, oneshot::Sender<()>),
    Held(oneshot::Sender<Memory>),
    Probe(oneshot::Sender<()>),
    Stop(oneshot::Sender<Stopped>),
}

/// What the handle keeps.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) commands: Sender<Command>,
    pub(super) stores: Arc<Semaphore>,
    pub(super) pending: [watch::Receiver<Pending>; UPLINKS],
    pub(super) horizon: watch::Receiver<Option<Duration>>,
    pub(super) status: watch::Receiver<SpoolStatus>,
}

struct Owner {
    options: Options,
    core: Core<RealFiles>,
    ring: Ring,
    clock: Clock,
    commands: Receiver<Command>,
    pending: [watch::Sender<Pending>; UPLINKS],
    horizon: watch::Sender<Option<Duration>>,
    status: watch::Sender<SpoolStatus>,
    /// Uplinks that asked and got nothing.
    hungry: [bool; UPLINKS],
    /// When one was last told to ask again, in boot nanoseconds.
    nudged: u64,
    published: u64,
    stale: bool,
    reopen_at: u64,
    /// Stores of the outbox that wait for their sync.
    unanswered: Vec<Unanswered>,
}

/// A store of the outbox: its name, who waits, and the place it holds in the queue.
type Unanswered = (
    FrameId,
    oneshot::Sender<Result<FrameId, Refused>>,
    OwnedSemaphorePermit,
);

/// Recovers the folder and starts the thread.
pub(super) fn start(
    options: Options,
    rewrite: Option<Box<dyn Rewrite>>,
) -> Result<Ends, StartError> {
    let (commands, orders) = channel();
    let (otlp, otlp_seen) = watch::channel(Pending::default());
    let (mqtt, mqtt_seen) = watch::channel(Pending::default());
    let (horizon, horizon_seen) = watch::channel(None);
    let (status, status_seen) = watch::channel(SpoolStatus::default());
    let mut core = Core::new(
        options.limits.clone(),
        &options.subscriptions,
        random() as u32,
    );
    core.rewrite = rewrite;
    let mut owner = Owner {
        clock: options.clock.clone(),
        options,
        core,
        ring: Ring::default(),
        commands: orders,
        pending: [otlp, mqtt],
        horizon,
        status,
        hungry: [false; UPLINKS],
        published: 0,
        nudged: 0,
        stale: true,
        reopen_at: 0,
        unanswered: Vec::new(),
    };
    owner.open()?;
    owner.publish();
    std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || owner.run())
        .map_err(StartError::Thread)?;
    Ok(Ends {
        commands,
        stores: Arc::new(Semaphore::new(STORES)),
        pending: [otlp_seen, mqtt_seen],
        horizon: horizon_seen,
        status: status_seen,
    })
}

impl Owner {
    /// Tries the folder. Only a lock that another agent holds is an error.
    fn open(&mut self) -> Result<(), StartError> {
        self.reopen_at = self.clock.boot_ns().saturating_add(REOPEN);
        let dir = &self.options.dir;
        let files = match RealFiles::open(dir) {
            Ok(files) => files,
            Err(OpenError::Locked) => return Err(StartError::Locked(dir.clone())),
            Err(OpenError::Io(error)) => {
                self.alarm(&error.to_string());
                return Ok(());
            }
        };
        let settings = Settings {
            quota: self.core.limits.quota,
            reserve: self.core.limits.reserve,
            segment: Settings::segment_for(self.core.limits.quota),
            epoch: self.core.epoch,
            boot_id: self.options.boot_id,
            seed: random(),
        };
        match self.core.attach(Log::new(files, settings)) {
            Ok(()) => {}
            Err(error) => self.alarm(&error.to_string()),
        }
        Ok(())
    }

    fn alarm(&mut self, what: &str) {
        let text = format!(
            "{what}; data waits in memory only, and a restart or a power cut loses it. \
             {} is tried again every minute",
            self.options.dir.display()
        );
        if self.core.alarm.as_ref() != Some(&text) {
            log::warn!("spool: {text}");
        }
        self.core.alarm = Some(text);
    }

    fn run(mut self) {
        loop {
            let wait = self.wait();
            match self.commands.recv_timeout(wait) {
                Ok(command) => {
                    if let Some(done) = self.burst(command) {
                        return self.stop(Some(done));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Every handle is gone: nobody will ask for a stop.
                Err(RecvTimeoutError::Disconnected) => return self.stop(None),
            }
            self.work();
        }
    }

    /// Takes what is in the queue, up to a bound. Some: it was told to stop.
    fn burst(&mut self, first: Command) -> Option<oneshot::Sender<Stopped>> {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(command) = next {
            if let Some(done) = self.obey(command) {
                return Some(done);
            }
            taken += 1;
            next = if taken < BURST {
                self.commands.try_recv().ok()
            } else {
                None
            };
        }
        None
    }

    fn obey(&mut self, command: Command) -> Option<oneshot::Sender<Stopped>> {
        vitals::SPOOL_ORDERS.taken();
        match command {
            Command::Store(batch, answer, permit) => {
                let now = self.now();
                let outbox = batch.class == Class::Outbox;
                let kept = recent::of(&batch);
                let result = self.core.store(batch, now);
                if let (Ok(id), Some(kept)) = (&result, kept) {
                    self.ring.keep(*id, kept);
                }
                match result {
                    Ok(id) if outbox => self.unanswered.push((id, answer, permit)),
                    // Who asked may have gone; the batch is stored all the same.
                    result => drop(answer.send(result)),
                }
                self.stale = true;
            }
            Command::Next(uplink, lane, signals, answer) => {
                // What must be on flash first goes there now: the asker waits for it.
                let always = self.core.limits.durability == Durability::Always;
                if always
                    && self
                        .core
                        .due()
                        .is_some_and(|due| due <= self.clock.boot_ns())
                {
                    let now = self.now();
                    self.core.tick(now);
                }
                let now = self.now();
                if now.synchronised {
                    self.core.trust(now.stamp);
                }
                let frame = self.core.next(uplink, lane, signals);
                if frame
                    .as_ref()
                    .is_some_and(|f| f.batch.class == Class::Outbox)
                {
                    // What its readers hang on must not be lost once they have it.
                    self.core.flush(Class::Critical, now);
                }
                self.stale |= frame.is_some();
                if let Some(hungry) = self.hungry.get_mut(uplink_slot(uplink)) {
                    *hungry |= frame.is_none();
                }
                let id = frame.as_ref().map(|frame| frame.id);
                // Who asked has gone: it was not sent.
                if answer.send(frame).is_err()
                    && let Some(id) = id
                {
                    self.core.settle(uplink, id, &Outcome::Returned);
                }
            }
            Command::Settle(uplink, id, outcome) => {
                self.core.settle(uplink, id, &outcome);
                self.stale = true;
            }
            Command::Link(uplink, up) => {
                self.core.link(uplink, up);
                self.stale = true;
            }
            Command::Reconfigure(limits, subscriptions, answer) => {
                self.core.reconfigure(limits, &subscriptions);
                let _ = answer.send(());
                self.stale = true;
            }
            // Who asked may have gone.
            Command::Held(answer) => drop(answer.send(self.core.held(&self.ring))),
            Command::Probe(answer) => drop(answer.send(())),
            Command::Stop(done) => return Some(done),
        }
        None
    }

    fn work(&mut self) {
        let before = self.clock.boot_ns();
        if self.core.log.is_none()
            && before >= self.reopen_at
            && let Err(error) = self.open()
        {
            self.alarm(&error.to_string());
        }
        let syncs = self.syncs();
        if self.core.due().is_some_and(|due| due <= before) {
            let now = self.now();
            self.core.tick(now);
        }
        self.answer_outbox();
        let done = self.syncs().saturating_sub(syncs);
        let took = self.clock.boot_ns().saturating_sub(before);
        if let Some(took) = took.checked_div(done) {
            self.core.observe(Duration::from_nanos(took));
            self.stale = true;
        }
        self.publish();
    }

    fn stop(mut self, done: Option<oneshot::Sender<Stopped>>) {
        let now = self.now();
        let whole = self.core.stop(now);
        let unsaved = self.core.unsaved();
        let stopped = if whole {
            Stopped::Whole
        } else {
            Stopped::Unwritten {
                frames: unsaved.frames,
                items: unsaved.items,
            }
        };
        self.answer_outbox();
        for (_, answer, _) in self.unanswered.drain(..) {
            drop(answer.send(Err(Refused::Stopped)));
        }
        self.stale = true;
        self.published = 0;
        self.publish();
        // The lock goes before the answer: the next start may follow at once.
        drop(self.core);
        if let Some(done) = done {
            let _ = done.send(stopped);
        }
    }

    /// Tells the programs whose messages are safe by now, or never will be.
    fn answer_outbox(&mut self) {
        if self.unanswered.is_empty() {
            self.core.answered();
            return;
        }
        let now = self.now();
        let (core, waiting) = (&mut self.core, std::mem::take(&mut self.unanswered));
        for (id, answer, permit) in waiting {
            match core.outbox(id, now) {
                Some(result) => drop(answer.send(result)),
                None => self.unanswered.push((id, answer, permit)),
            }
        }
    }

    fn wait(&self) -> Duration {
        let due = self.core.due();
        let nap = due.map_or(NAP, |due| {
            Duration::from_nanos(due.saturating_sub(self.clock.boot_ns())).min(NAP)
        });
        // A status waits for its turn; so does an uplink that a failing disk owes a frame.
        let mut uplinks = self.hungry.iter().zip(UPLINK_NAMES);
        let owed =
            uplinks.any(|(hungry, name)| *hungry && self.core.pending(name) != Pending::default());
        let asked = !self.unanswered.is_empty() && self.core.memory_only();
        if self.stale || owed || asked {
            nap.min(Duration::from_nanos(STATUS_EVERY))
        } else {
            nap
        }
    }

    fn publish(&mut self) {
        let at = self.clock.boot_ns();
        for line in self.core.warnings(at) {
            log::warn!("spool: {line}");
        }
        for line in self.core.tell_losses(at) {
            log::warn!("spool: {line}");
        }
        let nudge = at.saturating_sub(self.nudged) >= STATUS_EVERY;
        let uplinks = self.pending.iter().zip(&mut self.hungry);
        for ((sender, hungry), name) in uplinks.zip(UPLINK_NAMES) {
            let now = self.core.pending(name);
            // A frame that a failing disk would not give may be there by now: worth asking again.
            let again = *hungry && nudge && now != Pending::default();
            if again {
                *hungry = false;
                self.nudged = at;
            }
            sender.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed || again
            });
        }
        let horizon = self.core.horizon();
        self.horizon
            .send_if_modified(|before| std::mem::replace(before, horizon) != horizon);
        let age = at.saturating_sub(self.published);
        if self.published == 0 || (self.stale && age >= STATUS_EVERY) {
            self.published = at;
            self.stale = false;
            let dir = self.options.dir.display().to_string();
            let now = self.now();
            let status = self.core.status(now, dir);
            self.status.send_replace(status);
        }
    }

    fn syncs(&self) -> u64 {
        self.core.log.as_ref().map_or(0, |log| log.syncs)
    }

    fn now(&self) -> Now {
        Now {
            stamp: self.clock.now(),
            synchronised: self.clock.synchronised(),
        }
    }
}

/// Random bits; the clock's if the system has none to give.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| Clock::new(Default::default()).now().unix_ns)
}
