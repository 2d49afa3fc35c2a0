//! When memory becomes flash, and what goes when there is no room.
//!
//! A batch that a required uplink has not acknowledged is written when its
//! loss window is about to pass, so one sync carries all that came meanwhile;
//! `critical` and the outbox a moment after they came; all of a chain's once
//! 64 KiB wait and the link is down; everything when memory is short and at
//! shutdown. Optional uplinks never cause a write.
//!
//! A disk that others filled takes nothing from what is stored: new data waits
//! in memory, and only when that is full does newer data take the place of
//! older; `critical` and the outbox take that of lesser classes at once.
//!
//! A failed sync is never asked again: the batches are still in memory and go
//! into a new segment. After three failures in a row nothing is written for a
//! minute, and the status says so.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Refused;
use super::cursor::{Ledger, Loss, Reason};
use super::format::signal_slot;
use super::log::{Counts, Now, Record, WriteError};
use super::mutant::{Mutant, made};
use super::queue::{Core, Place, Waiting};
use super::storage::Storage;
use crate::config::Durability;
use crate::frame::{Class, FrameId, Signal};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// `critical` is on flash 250 ms after it came; this leaves 100 for the sync.
const URGENT: u64 = 150 * MS;
/// A local program waits for its message to be on flash; this many come at once.
const ANSWERED: u64 = 40 * MS;
/// Waiting bytes that make a write worth while (1.07 to 1.3 bytes reach the
/// device for each then, against 4 at 9 KB), once the link is down.
const WORTH_WRITING: u64 = 64 * 1024;
/// Cursors alone are written at most this often.
const SLOT_EVERY: u64 = 60 * SECOND;
/// How long a disk that failed or is full is left alone.
const RETRY: u64 = 60 * SECOND;
const RETRY_FULL: u64 = 5 * SECOND;
/// Failures in a row that the disk is given.
const PATIENCE: u32 = 3;
/// The most that is taken off the loss window to be done in time.
const MARGIN: u64 = 2 * SECOND;
/// What a batch takes from its maker to here, at most.
const HAND_OVER: u64 = SECOND;
/// Frames in one commit.
const COMMIT_FRAMES: usize = 256;

/// A disk that fills up is told about at most this often, of each kind.
const WARN_EVERY: u64 = 600 * SECOND;
/// Evictions in a row that the file system may answer with "no room" all the same.
const BLIND: u32 = 2;

/// How long a message of the outbox that flash cannot take waits for an uplink that is up.
const OUTBOX_PATIENCE: u64 = 5 * SECOND;

/// Why memory must go to flash now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Press {
    /// It is only due.
    #[default]
    None,
    /// Memory is full.
    Memory,
    /// The agent stops.
    Stop,
}

/// How the disk has behaved and when it is due.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// When each class's oldest batch must be written, in boot nanoseconds; may be early, never late.
    due: [Option<u64>; 4],
    /// Bytes that wait to be written, per class; an upper bound.
    waiting: [u64; 4],
    /// Nothing is written before this.
    pub(super) retry_at: u64,
    failures: u32,
    /// The outbox has no room: what waits for it is refused.
    outbox_full: bool,
    /// The disk has failed so often that memory is all there is.
    failing: bool,
    /// Classes that wait in memory because others filled the disk.
    squeezed: [bool; 4],
    /// Something was lost by that since it was last told.
    squeezed_out: bool,
    press: Press,
    /// Classes that only wait for memory to run short before they evict.
    patient: [bool; 4],
    /// When the next warning of each kind may be: waiting, losing.
    warn_at: [u64; 2],
    /// No segment is thinned before this.
    pub(super) thin_at: u64,
    /// What a stop could not write.
    pub(super) unsaved: Counts,
    /// Messages of the outbox that left memory for nowhere, until who offered them knows.
    pub(super) dropped: BTreeSet<u64>,
    flash_seen: u64,
    /// A class that found no room is not written before this.
    full_until: [u64; 4],
    /// The longest recent sync, in nanoseconds.
    slowest: u64,
    /// A frame on flash was acknowledged since the cursors were last durable.
    pub(super) advanced: bool,
    /// The segment that holds the newest cursors could go.
    pub(super) slot_due: bool,
    last_slot: u64,
}

impl<S: Storage> Core<S> {
    /// Notes that a batch came, for [`Core::due`].
    pub(super) fn note(&mut self, class: Class, waiting: &Waiting) {
        if waiting.need & self.required_mask(class) == 0 {
            return;
        }
        let due = self.due_of(class, waiting);
        if let Some(place) = self.disk.due.get_mut(class as usize) {
            *place = Some(place.map_or(due, |before| before.min(due)));
        }
        if let Some(bytes) = self.disk.waiting.get_mut(class as usize) {
            *bytes += waiting.batch.body.len() as u64;
        }
    }

    /// When [`Core::tick`] has something to do, in boot nanoseconds.
    pub(crate) fn due(&self) -> Option<u64> {
        let log = self.log.as_ref()?;
        let write = Class::ALL.into_iter().filter_map(|class| {
            let due = (*self.disk.due.get(class as usize)?)?;
            let due = if self.is_heavy(class) { 0 } else { due };
            Some(due.max(self.disk.retry_at).max(self.full_until(class)))
        });
        let write = write.min();
        let slot = (self.disk.advanced || self.disk.slot_due) && !log.is_empty();
        let slot = slot.then_some(self.disk.last_slot.saturating_add(SLOT_EVERY));
        [write, slot].into_iter().flatten().min()
    }

    /// How long the last syncs took; the next one is begun that much earlier.
    pub(crate) fn observe(&mut self, sync: Duration) {
        let took = u64::try_from(sync.as_nanos()).unwrap_or(u64::MAX);
        self.disk.slowest = took.max(self.disk.slowest - self.disk.slowest / 8);
    }

    /// Writes what is due.
    pub(crate) fn tick(&mut self, now: Now) {
        let at = now.stamp.boot_ns;
        self.keep_budget(at);
        if self.log.is_none() {
            return;
        }
        let worth = self.worth_writing();
        let is_due = |due: Option<u64>| due.is_some_and(|due| due <= at);
        let outbox = self.disk.due.get(Class::Outbox as usize);
        // The spans that readers of a message hang on come before the message.
        if is_due(outbox.copied().flatten()) {
            self.flush(Class::Critical, now);
        }
        for class in Class::ALL {
            let due = self.disk.due.get(class as usize).copied().flatten();
            let urgent = is_due(due);
            if urgent || worth {
                // What was due may have been acknowledged since.
                let due = self.refresh(class);
                let heavy = worth && self.is_heavy(class);
                if heavy || is_due(due) {
                    self.flush(class, now);
                }
            }
        }
        let slot = self.disk.last_slot.saturating_add(SLOT_EVERY) <= at;
        if (self.disk.advanced || self.disk.slot_due) && slot && at >= self.disk.retry_at {
            self.settle_cursors(now);
        }
        self.thin(now);
    }

    /// Takes what was written off the budget. Another window means other due times at once.
    pub(super) fn keep_budget(&mut self, at: u64) {
        let flash = self.log.as_ref().map_or(0, |log| log.flash);
        let spent = flash.saturating_sub(self.disk.flash_seen);
        self.disk.flash_seen = flash;
        if self.budget.spend(spent, at) {
            for class in Class::ALL {
                self.refresh(class);
            }
        }
    }

    /// Writes everything that a required uplink still needs. `false`: some of it could not be.
    pub(crate) fn stop(&mut self, now: Now) -> bool {
        self.audit();
        self.drop_optional();
        self.disk.retry_at = 0;
        self.disk.full_until = [0; 4];
        self.disk.press = Press::Stop;
        let mut whole = true;
        for class in Class::ALL {
            whole &= self.flush(class, now);
        }
        if !whole {
            self.give_up_memory();
            // Whoever stops it says so with the number.
            self.disk.squeezed_out = false;
        }
        self.settle_cursors(now);
        // Losses outlive the process even if no frame does, and so does who knows of them.
        let ledger = self.ledger();
        if ledger.losses != self.durable.losses || ledger.untold != self.durable.untold {
            self.save_cursors();
        }
        if let Some(log) = &mut self.log {
            log.seal_all();
        }
        whole
    }

    /// Counts what the end of the process takes with it.
    fn give_up_memory(&mut self) {
        let reason = self.memory_reason();
        for class in Class::ALL {
            let required = self.required_mask(class);
            let waiting = self.waiting_mut(class).iter();
            let lost: Vec<(u64, Counts)> = waiting
                .filter(|(_, waiting)| waiting.need & required != 0)
                .map(|(&seq, w)| {
                    let batch = &w.batch;
                    (seq, super::queue::counts_of(batch.items, batch.body.len()))
                })
                .collect();
            for (seq, counts) in lost {
                self.disk.unsaved.add(counts);
                self.drop_waiting(class, seq, reason);
            }
        }
    }

    /// What the stop could not write.
    pub(crate) fn unsaved(&self) -> Counts {
        self.disk.unsaved
    }

    fn squeezed(&self) -> bool {
        self.disk.squeezed.contains(&true)
    }

    fn relieve(&mut self, class: Class) {
        if let Some(squeezed) = self.disk.squeezed.get_mut(class as usize) {
            *squeezed = false;
        }
    }

    /// Why a batch is lost that flash should have taken out of memory.
    fn memory_reason(&self) -> Reason {
        if self.squeezed() {
            Reason::DiskFull
        } else {
            Reason::Memory
        }
    }

    /// Why a frame is lost that was evicted.
    pub(super) fn eviction_reason(&self) -> Reason {
        if self.squeezed() {
            Reason::DiskFull
        } else {
            Reason::Quota
        }
    }

    /// Counts a loss.
    pub(super) fn lose(&mut self, class: Class, reason: Reason, loss: Loss) {
        self.losses.add(class, reason, loss);
        self.untold.add(class, reason, loss);
        if reason == Reason::DiskFull {
            self.disk.squeezed_out = true;
            self.disk.slot_due = true;
        }
    }

    /// What must be said here and now, for the link may be down for weeks:
    /// that a full disk makes data wait, and that it costs data.
    pub(crate) fn warnings(&mut self, at: u64) -> Vec<String> {
        let squeezed = self.squeezed();
        let [waits_at, loses_at] = &mut self.disk.warn_at;
        let mut out = Vec::new();
        if squeezed
            && at >= *waits_at
            && let Some(alarm) = &self.alarm
        {
            *waits_at = at.saturating_add(WARN_EVERY);
            out.push(alarm.clone());
        }
        if at >= *loses_at && std::mem::take(&mut self.disk.squeezed_out) {
            *loses_at = at.saturating_add(WARN_EVERY);
            let (what, todo) = match &mut self.log {
                Some(log) => log.shortage(),
                None => ("the disk is full".into(), "Free space"),
            };
            out.push(format!(
                "data is being lost, since memory is full too: {what}. {todo}"
            ));
        }
        out
    }

    /// Writes all of a class that a required uplink needs. `false`: some of it could not be.
    pub(super) fn flush(&mut self, class: Class, now: Now) -> bool {
        let whole = self.flush_all(class, now);
        self.refresh(class);
        whole
    }

    fn flush_all(&mut self, class: Class, now: Now) -> bool {
        let at = now.stamp.boot_ns;
        let mut blind = 0;
        // Each round writes, evicts, or fails; failures are bounded, and so are segments.
        loop {
            let seqs = self.unwritten(class);
            if seqs.is_empty() {
                return true;
            }
            let patient = self.disk.patient.get(class as usize) == Some(&true);
            let pressed = patient && self.disk.press != Press::None;
            let full = if pressed { 0 } else { self.full_until(class) };
            if at < self.disk.retry_at.max(full) {
                return false;
            }
            let ledger = self.ledger();
            self.version = ledger.version;
            let Self { log, memory, .. } = self;
            let (Some(log), Some(memory)) = (log.as_mut(), memory.get(class as usize)) else {
                return false;
            };
            let records: Vec<Record<'_>> = seqs
                .iter()
                .filter_map(|seq| memory.get(seq).map(|waiting| (*seq, waiting)))
                .map(|(seq, waiting)| Record {
                    seq,
                    batch: &waiting.batch,
                    given: waiting.given != 0,
                })
                .collect();
            let written = log.write(class, &records, &ledger, now);
            if !log.robbed.is_empty() {
                self.book_robbed();
            }
            match written {
                Ok(written) if written.is_empty() => return false,
                Ok(written) => {
                    for (pos, header) in written {
                        self.landed(class, pos, header.seq);
                    }
                    self.durable = ledger;
                    self.disk.outbox_full &= class != Class::Outbox;
                    self.disk.failures = 0;
                    self.disk.failing = false;
                    self.relieve(class);
                    blind = 0;
                    self.disk.advanced = false;
                    if !self.squeezed() {
                        self.alarm = None;
                    }
                }
                Err(full @ (WriteError::Full | WriteError::Share)) => {
                    if !self.evict(class, matches!(full, WriteError::Share)) {
                        let quota = self.limits.quota;
                        if self.log.as_mut().is_some_and(|log| log.limit() < quota) {
                            self.wait_for_room(class, at);
                            return false;
                        }
                        self.disk.outbox_full |= class == Class::Outbox;
                        if let Some(until) = self.disk.full_until.get_mut(class as usize) {
                            *until = at.saturating_add(RETRY_FULL);
                        }
                        self.alarm = Some(format!(
                            "no room for {} data: the quota is full; new data stays in memory. \
                             Raise spool.quota",
                            class.as_str()
                        ));
                        return false;
                    }
                }
                Err(WriteError::Disk) => {
                    if let Some(squeezed) = self.disk.squeezed.get_mut(class as usize) {
                        *squeezed = true;
                    }
                    let missing = self.log.as_ref().and_then(|log| log.missing);
                    blind += u32::from(missing.is_none());
                    if blind > BLIND || !self.evict_on_full_disk(class, missing) {
                        self.wait_for_room(class, at);
                        return false;
                    }
                }
                Err(WriteError::Failed(error)) => {
                    self.disk.failures = self.disk.failures.saturating_add(1);
                    if self.disk.failures >= PATIENCE {
                        self.disk.failures = 0;
                        self.disk.failing = true;
                        self.disk.retry_at = at.saturating_add(RETRY);
                        self.alarm = Some(format!(
                            "{error}; new data stays in memory and a power cut loses it. \
                             Check the disk; it is tried again every minute"
                        ));
                        return false;
                    }
                }
            }
        }
    }

    /// Makes room in memory for a batch; `false`: nothing of lesser worth to give up.
    pub(super) fn make_memory(&mut self, class: Class, size: u64, now: Now) -> bool {
        let limit = self.limits.memory;
        if self.memory_bytes + size <= limit {
            return true;
        }
        self.disk.press = Press::Memory;
        for class in Class::ALL.into_iter().rev() {
            self.flush(class, now);
        }
        self.disk.press = Press::None;
        if self.memory_bytes + size > limit {
            self.drop_optional();
        }
        let lesser = match class {
            Class::Critical => [
                Some(Class::Bulk),
                Some(Class::Normal),
                Some(Class::Critical),
            ],
            Class::Outbox | Class::Normal => [Some(Class::Bulk), Some(Class::Normal), None],
            Class::Bulk => [Some(Class::Bulk), None, None],
        };
        for class in lesser.into_iter().flatten() {
            while self.memory_bytes + size > limit {
                let Some(seq) = self.oldest_idle(class) else {
                    break;
                };
                let reason = self.memory_reason();
                self.drop_waiting(class, seq, reason);
            }
        }
        self.memory_bytes + size <= limit
    }

    /// Everything besides the frames, as it stands now.
    pub(super) fn ledger(&self) -> Ledger {
        let mut ledger = Ledger {
            version: self.version,
            next_seq: self.next_seq,
            done: self.durable.done.clone(),
            losses: self.losses.clone(),
            untold: self.untold.counts(),
        };
        let places = ledger.done.iter_mut().zip(&self.durable.done);
        for (reader, (done, before)) in self.readers.iter().zip(places) {
            let Some(reader) = reader else { continue };
            done.clone_from(&reader.given);
            for (&seq, open) in &reader.open {
                if made(Mutant::CursorAhead) {
                    break;
                }
                let class = open.class as usize;
                if let (Some(progress), Some(before)) = (done.get_mut(class), before.get(class)) {
                    progress.remove(signal_slot(open.signal), seq, before);
                }
            }
            done.iter_mut().for_each(super::cursor::Progress::trim);
        }
        // What is being sent and is nowhere else any more: lost, if the process ends now.
        let mut seen = BTreeSet::new();
        let open = self.readers.iter().flatten().flat_map(|r| &r.open);
        for (seq, open) in open.filter(|(_, open)| open.place == Place::Gone) {
            if seen.insert(seq) {
                ledger.losses.add(open.class, Reason::Quota, open.loss);
            }
        }
        let changed = ledger.done != self.durable.done
            || ledger.losses != self.durable.losses
            || ledger.untold != self.durable.untold;
        if changed {
            ledger.version = self.version.saturating_add(1);
        }
        ledger
    }

    /// The most that a power cut costs now; `None`: all that waits in memory.
    pub(super) fn promise(&self) -> Option<Duration> {
        let kept = self.log.is_some() && self.alarm.is_none();
        kept.then(|| self.budget.stretched(self.limits.loss_window))
    }

    /// How long a batch of metrics may be held back by who makes it; `None`: not
    /// at all, since somebody required takes it, or flash does not.
    pub(super) fn horizon(&self) -> Option<Duration> {
        let takers = self.readers.iter().flatten();
        let mut takers = takers.filter(|r| r.required && r.wants(Signal::Metrics));
        let down = takers.next().is_some_and(|first| !first.up) && takers.all(|r| !r.up);
        let lasting = self.limits.durability == Durability::Window && self.promise().is_some();
        let window = self.window();
        let hold = window - HAND_OVER.min(window / 16);
        (down && lasting).then_some(Duration::from_nanos(hold))
    }

    /// The loss window in effect, less what a sync takes.
    fn window(&self) -> u64 {
        let window = self.budget.stretched(self.limits.loss_window);
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let margin = MARGIN
            .min(window / 8)
            .saturating_add(self.disk.slowest.saturating_mul(2));
        window.saturating_sub(margin.min(window / 2))
    }

    fn due_of(&self, class: Class, waiting: &Waiting) -> u64 {
        match (self.limits.durability, class) {
            (Durability::Always, _) => 0,
            (_, Class::Critical) => waiting.arrived.saturating_add(URGENT),
            (_, Class::Outbox) => waiting.arrived.saturating_add(ANSWERED),
            (_, Class::Normal | Class::Bulk) => {
                // A reading from the future is one from before a restart of the clock.
                let read = waiting.batch.first.boot_ns.min(waiting.arrived);
                read.saturating_add(self.window())
            }
        }
    }

    /// Finds out anew when a class is due.
    pub(super) fn refresh(&mut self, class: Class) -> Option<u64> {
        let required = self.required_mask(class);
        let newest = self.newest_on_disk(class);
        let waiting = self.memory.get(class as usize).into_iter().flatten();
        let unwritten = waiting.filter(|(seq, w)| w.need & required != 0 && **seq > newest);
        let (mut due, mut bytes) = (None::<u64>, 0);
        for (_, waiting) in unwritten {
            let this = self.due_of(class, waiting);
            due = Some(due.map_or(this, |due| due.min(this)));
            bytes += waiting.batch.body.len() as u64;
        }
        if let Some(place) = self.disk.due.get_mut(class as usize) {
            *place = due;
        }
        if let Some(place) = self.disk.waiting.get_mut(class as usize) {
            *place = bytes;
        }
        if due.is_none() {
            self.relieve(class);
        }
        due
    }

    fn worth_writing(&self) -> bool {
        Class::ALL.into_iter().any(|class| self.is_heavy(class))
    }

    fn is_heavy(&self, class: Class) -> bool {
        let down = self
            .readers
            .iter()
            .flatten()
            .any(|reader| reader.required && !reader.up);
        down && self
            .disk
            .waiting
            .get(class as usize)
            .is_some_and(|bytes| *bytes >= WORTH_WRITING)
    }

    fn full_until(&self, class: Class) -> u64 {
        let until = self.disk.full_until.get(class as usize);
        until.copied().unwrap_or(0)
    }

    fn newest_on_disk(&self, class: Class) -> u64 {
        self.log.as_ref().map_or(0, |log| log.newest(class))
    }

    /// What the next commit holds. Chains are in the order of seqs: what came
    /// before the newest on flash (an uplink became required later) stays in memory.
    fn unwritten(&self, class: Class) -> Vec<u64> {
        let required = self.required_mask(class);
        let after = self.newest_on_disk(class).saturating_add(1);
        let waiting = self.memory.get(class as usize).into_iter();
        waiting
            .flat_map(|waiting| waiting.range(after..))
            .filter(|(_, waiting)| waiting.need & required != 0)
            .map(|(&seq, _)| seq)
            .take(COMMIT_FRAMES)
            .collect()
    }

    /// A batch is on flash: its body leaves memory, and whoever waits for it finds it there.
    fn landed(&mut self, class: Class, pos: super::log::Pos, seq: u64) {
        let Some(waiting) = self.forget(class, seq) else {
            return;
        };
        let counts = super::queue::counts_of(waiting.batch.items, waiting.batch.body.len());
        let Self { readers, log, .. } = self;
        for (slot, reader) in readers.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            if !reader.wants(waiting.batch.signal) {
                continue;
            }
            if waiting.need & (1 << slot) == 0 {
                continue;
            }
            let mut idle = true;
            if let Some(open) = reader.open.get_mut(&seq) {
                open.place = Place::Disk(pos);
                idle = open.returned;
            }
            if idle {
                reader.memory_mut(waiting.batch.signal).sub(counts);
                let segment = log
                    .as_mut()
                    .and_then(|log| log.segment_mut(class, pos.segment));
                if let Some(left) = segment.and_then(|s| s.left_mut(slot, waiting.batch.signal)) {
                    left.add(counts);
                }
            }
        }
    }

    /// What to tell the program that a message of the outbox came from; `None`: not yet.
    pub(super) fn outbox(&mut self, id: FrameId, now: Now) -> Option<Result<FrameId, Refused>> {
        let seq = self.moved.seq(id, self.epoch);
        let required = self.required_mask(Class::Outbox);
        if self.disk.dropped.remove(&seq) && !made(Mutant::OutboxInMemory) {
            return Some(Err(Refused::NoDisk));
        }
        // On flash, or delivered.
        let Some(waiting) = self.memory.get(Class::Outbox as usize)?.get(&seq) else {
            return Some(Ok(id));
        };
        // Never to be written: only an optional uplink wants it.
        if waiting.need & required == 0 {
            return Some(Ok(id));
        }
        let waited = now.stamp.boot_ns.saturating_sub(waiting.arrived);
        let need = waiting.need;
        if self.disk.outbox_full && now.stamp.boot_ns < self.full_until(Class::Outbox) {
            if self.in_flight(seq) {
                return None;
            }
            self.drop_waiting(Class::Outbox, seq, Reason::Refused);
            self.disk.dropped.remove(&seq);
            return Some(Err(Refused::Full));
        }
        if !self.memory_only() {
            return None;
        }
        if self.limits.outbox_in_memory || made(Mutant::OutboxInMemory) {
            return Some(Ok(id));
        }
        // Delivered is as good as stored: an uplink that is up gets its chance.
        let up = self.mask(|reader| reader.up) & need != 0;
        if self.in_flight(seq) || (up && waited < OUTBOX_PATIENCE) {
            return None;
        }
        self.drop_waiting(Class::Outbox, seq, Reason::Refused);
        self.disk.dropped.remove(&seq);
        Some(Err(Refused::NoDisk))
    }

    /// There is no flash to write to, or it has failed too often.
    pub(super) fn memory_only(&self) -> bool {
        self.log.is_none() || self.disk.failing
    }

    /// Nobody waits for an answer about the outbox.
    pub(super) fn answered(&mut self) {
        self.disk.dropped.clear();
    }

    /// Brings the files under a quota that has shrunk; the outbox stays.
    pub(super) fn fit_quota(&mut self) {
        let over = |core: &Self| {
            let usage = core.log.as_ref().map_or(0, super::log::Log::usage);
            usage > core.limits.quota
        };
        while over(self) && self.evict(Class::Critical, false) {}
    }

    /// Removes the oldest segment that is worth no more than `class`; of its
    /// own if others would not help.
    fn evict(&mut self, class: Class, own: bool) -> bool {
        let foreign: &[Class] = if own { &[class] } else { &Class::ALL };
        if !made(Mutant::RealBeforeJunk) && self.evict_junk(foreign) {
            return true;
        }
        let order: &[Class] = match class {
            Class::Critical if own => &[Class::Critical],
            Class::Outbox if made(Mutant::OutboxEvicted) => &[Class::Outbox],
            Class::Outbox if own => &[],
            Class::Bulk => &[Class::Bulk],
            Class::Normal | Class::Outbox => &[Class::Bulk, Class::Normal],
            Class::Critical => &[Class::Bulk, Class::Normal, Class::Critical],
        };
        self.evict_first(order, Reason::Quota)
    }

    /// Leaves a class in memory until the disk has room, and says so.
    fn wait_for_room(&mut self, class: Class, at: u64) {
        self.disk.outbox_full |= class == Class::Outbox;
        if let Some(until) = self.disk.full_until.get_mut(class as usize) {
            *until = at.saturating_add(RETRY_FULL);
        }
        if let Some(patient) = self.disk.patient.get_mut(class as usize) {
            *patient = self.disk.press == Press::None;
        }
        let (what, todo) = match &mut self.log {
            Some(log) => log.shortage(),
            None => return,
        };
        self.alarm = Some(format!(
            "no room on flash for {} data: {what}; what is stored stays, new data waits in memory, \
             and a power cut loses that. {todo}; it is tried again every {} s",
            class.as_str(),
            RETRY_FULL / SECOND
        ));
    }

    /// Makes room on a disk that others filled, if there is any to be won:
    /// nothing goes for data that would not find room all the same.
    fn evict_on_full_disk(&mut self, class: Class, missing: Option<u64>) -> bool {
        let own = self.disk.press == Press::Memory;
        let order: &[Class] = match (class, own) {
            (Class::Bulk, false) => &[],
            (Class::Bulk, true) => &[Class::Bulk],
            (Class::Normal, false) if self.disk.press == Press::None => &[],
            (Class::Normal, false) => &[Class::Bulk],
            (Class::Normal, true) | (Class::Outbox, _) | (Class::Critical, false) => {
                &[Class::Bulk, Class::Normal]
            }
            (Class::Critical, true) => &[Class::Bulk, Class::Normal, Class::Critical],
        };
        let Some(log) = &self.log else { return false };
        let usage = log.usage();
        if self.evict_junk(&Class::ALL) {
            if let Some(log) = &mut self.log {
                log.freed(usage.saturating_sub(log.usage()));
            }
            return true;
        }
        let Some(log) = &self.log else { return false };
        let to_win: u64 = order.iter().map(|class| log.class_usage(*class)).sum();
        if to_win < missing.unwrap_or(0) || !self.evict_first(order, Reason::DiskFull) {
            return false;
        }
        if let Some(log) = &mut self.log {
            log.freed(usage.saturating_sub(log.usage()));
        }
        true
    }

    /// Removes a file that nobody can read, wherever it lies: it is worth nothing to anybody.
    fn evict_junk(&mut self, among: &[Class]) -> bool {
        let found = among.iter().find_map(|&class| {
            let mut segments = self.log.as_ref()?.segments(class).iter();
            let (&id, _) = segments.find(|(_, segment)| segment.junk)?;
            Some((class, id))
        });
        found.is_some_and(|(class, id)| self.drop_segment(class, id, Reason::Damaged))
    }

    /// Removes the oldest segment of the first class that has one.
    fn evict_first(&mut self, order: &[Class], reason: Reason) -> bool {
        // What a newer program will want goes when nothing else is left.
        for newer in [false, true] {
            for &victim in order {
                let oldest = self.log.as_ref().and_then(|log| {
                    let mut segments = log.segments(victim).iter();
                    let oldest = segments.find(|(_, segment)| segment.newer.is_some() == newer);
                    oldest.map(|(&id, _)| id)
                });
                if let Some(id) = oldest {
                    return self.drop_segment(victim, id, reason);
                }
            }
        }
        false
    }

    /// Makes the cursors durable if anything on flash depends on them.
    fn settle_cursors(&mut self, now: Now) {
        self.disk.last_slot = now.stamp.boot_ns;
        // Segments that everybody has passed need no cursor.
        for class in Class::ALL {
            let all_passed = self.log.as_ref().is_some_and(|log| {
                let mut segments = log.segments(class).values();
                segments.all(|segment| self.all_passed(class, segment))
            });
            if all_passed && let Some(log) = &mut self.log {
                log.seal(class);
            }
        }
        self.sweep();
        let ledger = self.ledger();
        let Some(log) = &mut self.log else { return };
        if log.is_empty() || (ledger.version == log.holder.0 && !self.disk.slot_due) {
            self.disk.advanced = false;
            self.disk.slot_due = false;
            return;
        }
        if self.save_cursors() {
            self.sweep();
        }
    }

    /// Writes the cursors into their own file.
    pub(super) fn save_cursors(&mut self) -> bool {
        let ledger = self.ledger();
        let Some(log) = &mut self.log else {
            return false;
        };
        self.version = ledger.version;
        match log.write_slot(&ledger) {
            Ok(()) => {
                self.durable = ledger;
                self.disk.advanced = false;
                self.disk.slot_due = false;
                true
            }
            Err(WriteError::Full | WriteError::Disk | WriteError::Share) => false,
            Err(WriteError::Failed(error)) => {
                self.alarm = Some(format!("{error}; after a restart some data is sent again"));
                false
            }
        }
    }

    /// Gives up what only optional uplinks still want and none is sending.
    fn drop_optional(&mut self) {
        for class in Class::ALL {
            let required = self.required_mask(class);
            let waiting = self.waiting_mut(class).iter();
            let only: Vec<u64> = waiting
                .filter(|(_, waiting)| waiting.need & required == 0)
                .map(|(&seq, _)| seq)
                .collect();
            for seq in only {
                if !self.in_flight(seq) {
                    self.drop_waiting(class, seq, Reason::Optional);
                }
            }
        }
    }

    fn oldest_idle(&self, class: Class) -> Option<u64> {
        let waiting = self.memory.get(class as usize)?;
        waiting.keys().copied().find(|seq| !self.in_flight(*seq))
    }

    fn in_flight(&self, seq: u64) -> bool {
        let mut readers = self.readers.iter().flatten();
        readers.any(|reader| reader.open.get(&seq).is_some_and(|open| !open.returned))
    }
}
