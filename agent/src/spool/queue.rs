//! What waits, where it is, and who has had it.
//!
//! Memory first: a batch lives here and dies here once every uplink that
//! subscribes to its signal has acknowledged it. `flush` decides when one must
//! go to flash. From then on its body is only on flash, and each uplink reads
//! it back through a place of its own in each chain.
//!
//! Synchronous; `now` is passed in. An uplink holds in memory only the frames
//! it is sending, whatever the backlog.
//!
//! An uplink's progress in a class is `given`, ranges of seqs that it has
//! walked past, and `open`, the few of those that it has not acknowledged.
//! What is in the first and not in the second is done.

use std::collections::{BTreeMap, VecDeque};

use super::attach::Moved;
use super::budget::Budget;
use super::cursor::{Ledger, Loss, Losses, Ranges, Reason, UPLINK_NAMES, UPLINKS, uplink_slot};
use super::format::{FrameHeader, signal_slot};
use super::log::{Counts, Log, Now, Pos, Segment, SegmentClock};
use super::mutant::{Mutant, made};
use super::reader::{Reader, mask_of};
use super::storage::Storage;
use super::{Lane, Outcome, Pending, PendingSignal, Refused, Rewrite, Subscription};
use crate::config::{Durability, SpoolLimits, UplinkName};
use crate::frame::{Batch, Class, Frame, FrameId, MAX_BODY, Signal, Signals, Stamp};

/// What a waiting batch takes in memory besides its body, in bytes.
const OVERHEAD: u64 = 256;
/// Condemned frames that are remembered with the server's reason.
const SAMPLES: usize = 8;
/// A wall clock that was this far off made times that are worth correcting, in nanoseconds.
const SKEW: u64 = 10_000_000_000;
/// A server's reason is cut to this, in bytes.
const SAMPLE_TEXT: usize = 256;

/// A batch in memory.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) batch: Batch,
    /// A bit for each uplink that has not acknowledged it.
    pub(super) need: u8,
    /// When it came, in boot nanoseconds.
    pub(super) arrived: u64,
    /// A bit for each uplink that has been given it.
    pub(super) given: u8,
}

/// Where a frame is that an uplink has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Disk(Pos),
    /// Its segment was evicted while it was being sent: lost if it comes back.
    Gone,
}

/// A frame that an uplink has been given and has not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) class: Class,
    pub(super) signal: Signal,
    pub(super) place: Place,
    pub(super) counts: Counts,
    pub(super) loss: Loss,
    /// It came back and waits to be given out again.
    pub(super) returned: bool,
}

/// The next frame of a lane, before it is taken.
struct Candidate {
    seq: u64,
    class: Class,
    signal: Signal,
    place: Place,
    /// It waits in `open` already.
    again: bool,
}

/// What taking a candidate came to.
#[derive(Default)]
struct Taken {
    frame: Option<Frame>,
    counts: Counts,
    /// It is damaged, which nobody has counted yet.
    lost: Option<Loss>,
}

/// The whole queue.
pub(crate) struct Core<S: Storage> {
    pub(super) limits: SpoolLimits,
    pub(super) epoch: u32,
    pub(super) log: Option<Log<S>>,
    pub(super) readers: [Option<Reader>; UPLINKS],
    pub(super) memory: [BTreeMap<u64, Waiting>; 4],
    pub(super) memory_bytes: u64,
    pub(super) next_seq: u64,
    pub(super) losses: Losses,
    /// What the last durable ledger said, and the version given out last.
    pub(super) durable: Ledger,
    pub(super) version: u64,
    pub(super) alarm: Option<String>,
    pub(super) disk: super::flush::Disk,
    pub(super) recovered: u64,
    /// Condemned frames with the server's reason, newest last.
    pub(super) condemned: VecDeque<(FrameId, Class, String)>,
    /// Seqs of segments of a newer format: no cursor walks over them.
    pub(super) newer: [Ranges; 4],
    /// Frames that were named before the disk came have moved on by this (see `attach`).
    pub(super) moved: Moved,
    pub(super) budget: Budget,
    /// Losses that have not been told upstream.
    pub(super) untold: Losses,
    pub(super) tell_at: u64,
    /// Both clocks at a moment when the wall clock was believed, the latest one.
    pub(super) anchor: Option<Stamp>,
    /// Thins old gauges, and corrects times.
    pub(super) rewrite: Option<Box<dyn Rewrite>>,
}

impl<S: Storage> Core<S> {
    /// An empty queue without a disk.
    pub(crate) fn new(limits: SpoolLimits, subscriptions: &[Subscription], epoch: u32) -> Self {
        let mut core = Self {
            epoch,
            log: None,
            readers: Default::default(),
            memory: Default::default(),
            memory_bytes: 0,
            next_seq: 1,
            losses: Losses::default(),
            durable: Ledger::default(),
            version: 0,
            alarm: None,
            disk: super::flush::Disk::default(),
            recovered: 0,
            condemned: VecDeque::new(),
            newer: Default::default(),
            moved: Moved::default(),
            budget: Budget::new(limits.write_budget),
            limits,
            untold: Losses::default(),
            tell_at: 0,
            anchor: None,
            rewrite: None,
        };
        core.subscribe(subscriptions);
        core
    }

    /// Accepts a batch, or counts its loss.
    pub(crate) fn store(&mut self, batch: Batch, now: Now) -> Result<FrameId, Refused> {
        if batch.body.len() > MAX_BODY {
            self.lose(batch.class, Reason::TooLarge, loss_of(&batch));
            return Err(Refused::TooLarge);
        }
        let need = self.need_of(batch.signal);
        if need == 0 {
            let id = self.take_id();
            self.lose(batch.class, Reason::NoUplink, loss_of(&batch));
            return Ok(id);
        }
        let size = batch.body.len() as u64 + OVERHEAD;
        if !self.make_memory(batch.class, size, now) {
            self.lose(batch.class, Reason::Refused, loss_of(&batch));
            return Err(Refused::Full);
        }
        let id = self.take_id();
        let counts = counts_of(batch.items, batch.body.len());
        for (slot, reader) in self.readers.iter_mut().enumerate() {
            if let Some(reader) = reader
                && need & (1 << slot) != 0
            {
                reader.memory_mut(batch.signal).add(counts);
                let live = reader.is_live(batch.class, id.seq);
                *reader.live_mut(batch.signal) += u64::from(live);
            }
        }
        self.memory_bytes += size;
        let waiting = Waiting {
            need,
            arrived: now.stamp.boot_ns,
            given: 0,
            batch,
        };
        self.note(waiting.batch.class, &waiting);
        self.waiting_mut(waiting.batch.class)
            .insert(id.seq, waiting);
        Ok(id)
    }

    /// The next frame of a lane that is of one of `signals`.
    pub(crate) fn next(
        &mut self,
        uplink: UplinkName,
        lane: Lane,
        signals: Signals,
    ) -> Option<Frame> {
        let slot = uplink_slot(uplink);
        loop {
            let Some(candidate) = self.candidate(slot, lane, signals) else {
                if let (Lane::Live, Some(Some(reader))) = (lane, self.readers.get_mut(slot)) {
                    for signal in Signal::ALL {
                        if signals.contains(signal) {
                            *reader.live_mut(signal) = 0;
                        }
                    }
                }
                return None;
            };
            if let Some(frame) = self.take(slot, lane, &candidate) {
                return Some(frame);
            }
            // The disk cannot be read just now: the frame keeps its place.
            if self.log.as_ref().is_some_and(|log| log.stuck) {
                return None;
            }
        }
    }

    /// What became of a frame. A name that is not in flight is ignored.
    pub(crate) fn settle(&mut self, uplink: UplinkName, id: FrameId, outcome: &Outcome) {
        let slot = uplink_slot(uplink);
        let Some(Some(reader)) = self.readers.get_mut(slot) else {
            return;
        };
        let seq = self.moved.seq(id, self.epoch);
        let Some(open) = reader.open.get(&seq).copied() else {
            return;
        };
        if open.returned {
            return;
        }
        match outcome {
            Outcome::Returned => self.give_back(slot, seq),
            Outcome::Delivered => self.acknowledge(slot, seq, &open),
            Outcome::Expired => {
                self.lose(open.class, Reason::Expired, open.loss);
                self.acknowledge(slot, seq, &open);
            }
            Outcome::Condemned(reason) => {
                let mut text = reason.clone();
                while text.len() > SAMPLE_TEXT {
                    text.pop();
                }
                if self.condemned.len() >= SAMPLES {
                    self.condemned.pop_front();
                }
                self.condemned.push_back((id, open.class, text));
                self.lose(open.class, Reason::Condemned, open.loss);
                self.acknowledge(slot, seq, &open);
            }
        }
    }

    /// An uplink came up or went down.
    pub(crate) fn link(&mut self, uplink: UplinkName, up: bool) {
        let slot = uplink_slot(uplink);
        let newest = self.newest_for(slot);
        let next_seq = self.next_seq;
        let Some(Some(reader)) = self.readers.get_mut(slot) else {
            return;
        };
        if !up {
            let open: Vec<u64> = reader.open.keys().copied().collect();
            for seq in open {
                self.give_back(slot, seq);
            }
        }
        let Some(Some(reader)) = self.readers.get_mut(slot) else {
            return;
        };
        if up && !reader.up {
            reader.live_since = newest.map_or(next_seq, |(seq, _)| seq);
            reader.live = Default::default();
            if let Some((_, signal)) = newest {
                *reader.live_mut(signal) = 1;
            }
            reader.hints = Default::default();
        } else if !up {
            reader.live_since = u64::MAX;
            reader.live = Default::default();
            reader.hints = Default::default();
        }
        reader.up = up;
    }

    /// New bounds and subscriptions.
    pub(crate) fn reconfigure(&mut self, limits: SpoolLimits, subscriptions: &[Subscription]) {
        if let Some(log) = &mut self.log {
            log.resize(limits.quota, limits.reserve);
        }
        self.budget.resize(limits.write_budget);
        self.limits = limits;
        self.subscribe(subscriptions);
        self.sweep();
        self.fit_quota();
    }

    /// What waits for an uplink.
    pub(crate) fn pending(&self, uplink: UplinkName) -> Pending {
        let slot = uplink_slot(uplink);
        let Some(Some(reader)) = self.readers.get(slot) else {
            return Pending::default();
        };
        let mut all = reader.memory;
        for segment in self.segments() {
            let left = segment.remaining.get(slot).into_iter().flatten();
            for (sum, counts) in all.iter_mut().zip(left) {
                sum.add(*counts);
            }
        }
        let mut pending = Pending::default();
        for ((part, counts), live) in pending.signals.iter_mut().zip(all).zip(reader.live) {
            let live = live.min(counts.frames);
            *part = PendingSignal {
                live,
                backlog: counts.frames - live,
                items: counts.items,
                bytes: counts.bytes,
            };
            pending.live += part.live;
            pending.backlog += part.backlog;
            pending.items += part.items;
            pending.bytes += part.bytes;
        }
        pending
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let log = self.log.iter();
        log.flat_map(|log| {
            Class::ALL
                .into_iter()
                .flat_map(|class| log.segments(class).values())
        })
    }

    fn subscribe(&mut self, subscriptions: &[Subscription]) {
        for (slot, name) in UPLINK_NAMES.into_iter().enumerate() {
            let wanted = subscriptions.iter().find(|sub| sub.uplink == name);
            let Some(place) = self.readers.get_mut(slot) else {
                continue;
            };
            match (place.as_mut(), wanted) {
                (Some(reader), Some(wanted)) => {
                    reader.required = wanted.required;
                    reader.wants = mask_of(&wanted.signals);
                    reader.hints = Default::default();
                }
                (None, Some(wanted)) => *place = Some(Reader::new(wanted)),
                (_, None) => *place = None,
            }
            self.recount(slot);
        }
        for class in Class::ALL {
            let mut kept = std::mem::take(self.waiting_mut(class));
            for waiting in kept.values_mut() {
                waiting.need &= self.need_of(waiting.batch.signal);
            }
            *self.waiting_mut(class) = kept;
            self.bury(class, Reason::NoUplink);
        }
    }

    fn candidate(&mut self, slot: usize, lane: Lane, signals: Signals) -> Option<Candidate> {
        let may = self.readers.get_mut(slot)?.as_mut()?.may(signals);
        if may == 0 {
            return None;
        }
        let mut best: Option<Candidate> = None;
        for class in Class::ALL {
            let Some(found) = self.candidate_of(slot, lane, class, may) else {
                continue;
            };
            let better = match (&best, lane) {
                (None, _) => true,
                (Some(best), Lane::Live) => found.seq < best.seq,
                (Some(best), Lane::Backlog) => {
                    let rank = |c: &Candidate| (c.class != Class::Critical, c.seq);
                    rank(&found) < rank(best)
                }
            };
            if better {
                best = Some(found);
            }
        }
        best
    }

    /// `may`: the signals it may be of.
    fn candidate_of(
        &mut self,
        slot: usize,
        lane: Lane,
        class: Class,
        may: u8,
    ) -> Option<Candidate> {
        let among = |signal: Signal| may & (1 << signal_slot(signal)) != 0;
        // A disk that takes nothing must not stop what can still be sent.
        let always = self.limits.durability == Durability::Always
            && self.log.is_some()
            && self.alarm.is_none();
        let next_seq = self.next_seq;
        let required = self.required_mask(class);
        let Self {
            readers,
            log,
            memory,
            ..
        } = self;
        if made(Mutant::HeldByTheDead) && readers.iter().flatten().any(|r| r.required && !r.up) {
            return None;
        }
        let reader = readers.get_mut(slot)?.as_mut()?;
        let (from, until) = reader.span(lane, class);
        if from == until {
            return None;
        }
        let again = reader.open.range(from..until);
        let again = again
            .filter(|(_, open)| open.class == class && open.returned && among(open.signal))
            .map(|(&seq, open)| Candidate {
                seq,
                class,
                signal: open.signal,
                place: open.place,
                again: true,
            })
            .next();
        let gaps = reader.given(class).some(may).map(|r| r.first_gap(from));
        let from = gaps.min().unwrap_or(from);
        let first_in_memory = memory
            .get(class as usize)?
            .range(from.min(until)..until)
            .find(|(seq, waiting)| {
                let signal = waiting.batch.signal;
                waiting.need & (1 << slot) != 0
                    && among(signal)
                    && !reader.given(class).of(signal_slot(signal)).contains(**seq)
            });
        let in_memory = first_in_memory
            // `durability = "always"`: not before it is on flash, and nothing past it.
            .filter(|(_, waiting)| !always || waiting.need & required == 0)
            .map(|(&seq, waiting)| Candidate {
                seq,
                class,
                signal: waiting.batch.signal,
                place: Place::Memory,
                again: false,
            });
        let damaged = log.as_ref().map_or(0, |log| log.damaged);
        let on_disk = log.as_mut().and_then(|log| {
            let mut pos = *reader.hint(lane, class);
            let given = reader.given(class);
            let header = log.find(
                class,
                &mut pos,
                &|segment| {
                    let (first, last) = segment.stats.seqs;
                    let mut here = given.some(segment.stats.mask() & may);
                    last < from || here.all(|ranges| ranges.covers(first, last))
                },
                &|header| {
                    let signal = header.signal.filter(|signal| among(*signal));
                    header.seq >= from
                        && signal.is_some_and(|s| !given.of(signal_slot(s)).contains(header.seq))
                },
            );
            *reader.hint(lane, class) = pos;
            let header = header.filter(|header| header.seq < until)?;
            Some(Candidate {
                seq: header.seq,
                class,
                signal: header.signal?,
                place: Place::Disk(pos),
                again: false,
            })
        });
        if log.as_ref().is_some_and(|log| log.stuck) {
            // What cannot be read just now may be older: nothing overtakes it.
            if class == Class::Outbox {
                return None;
            }
            return [again, in_memory]
                .into_iter()
                .flatten()
                .min_by_key(|found| found.seq);
        }
        // Nothing it may have lies before that: the numbers in between are other
        // classes', other signals', or done.
        let next = [
            first_in_memory.map(|(&seq, _)| seq),
            on_disk.as_ref().map(|d| d.seq),
        ];
        let next = next.into_iter().flatten().min();
        let walked = next.unwrap_or(until.min(next_seq));
        let walks = reader.walks();
        let newer = self.newer.get(class as usize);
        let free = newer.map(|newer| newer.gaps(from, walked));
        for (from, walked) in free.into_iter().flatten() {
            reader.given_mut(class).insert(walks, from, walked);
        }
        let exhausted = on_disk.is_none() || log.as_ref().is_some_and(|log| log.damaged != damaged);
        let found = [again, in_memory, on_disk]
            .into_iter()
            .flatten()
            .min_by_key(|found| found.seq);
        if exhausted {
            self.write_off(slot, class);
        }
        found
    }

    /// Gives a candidate out; `None`: it is damaged or gone, and has been counted.
    fn take(&mut self, slot: usize, lane: Lane, candidate: &Candidate) -> Option<Frame> {
        let &Candidate {
            seq,
            class,
            signal,
            place,
            again,
        } = candidate;
        let Taken {
            frame,
            counts,
            lost,
        } = match place {
            Place::Memory => self.take_memory(slot, class, seq),
            Place::Disk(pos) => self.take_disk(class, pos, again),
            Place::Gone => Taken::default(),
        };
        let stuck = self.log.as_ref().is_some_and(|log| log.stuck);
        if frame.is_none() && stuck {
            return None;
        }
        let Self { readers, log, .. } = self;
        let reader = readers.get_mut(slot)?.as_mut()?;
        let walks = reader.walks();
        let given = reader.given_mut(class);
        given.insert(walks, seq, seq.saturating_add(1));
        if lane == Lane::Live {
            let live = reader.live_mut(signal);
            *live = live.saturating_sub(1);
        }
        match place {
            Place::Gone => {}
            Place::Memory => reader.memory_mut(signal).sub(counts),
            Place::Disk(pos) => {
                let segment = log
                    .as_mut()
                    .and_then(|log| log.segment_mut(class, pos.segment));
                if let Some(left) = segment.and_then(|s| s.left_mut(slot, signal)) {
                    left.sub(counts);
                }
            }
        }
        let Some(frame) = frame else {
            reader.open.remove(&seq);
            if let Some(lost) = lost {
                self.lose(class, Reason::Damaged, lost);
            }
            self.disk.advanced = true;
            self.sweep();
            return None;
        };
        let open = Open {
            class,
            signal,
            place,
            counts,
            loss: loss_of(&frame.batch),
            returned: false,
        };
        reader.open.insert(seq, open);
        let same_boot = match place {
            Place::Disk(pos) => log.as_ref().is_some_and(|log| {
                let segment = log.segments(class).get(&pos.segment);
                segment.is_some_and(|segment| segment.clock == SegmentClock::Boot)
            }),
            Place::Memory | Place::Gone => true,
        };
        Some(if same_boot {
            self.in_time(frame)
        } else {
            frame
        })
    }

    /// The wall clock is believed. Small steps change nothing: what is handed out
    /// again must have the times it had before, or a server takes it for news.
    pub(super) fn trust(&mut self, at: Stamp) {
        let moved = self
            .anchor
            .is_none_or(|known| ahead(at).wrapping_sub(ahead(known)).unsigned_abs() >= SKEW);
        if moved {
            self.anchor = Some(at);
        }
    }

    /// A frame of this boot with the times that it would have had if the wall
    /// clock had been right. What is stored stays as it is.
    fn in_time(&self, mut frame: Frame) -> Frame {
        let (Some(anchor), Some(rewrite)) = (self.anchor, &self.rewrite) else {
            return frame;
        };
        let by = ahead(anchor).wrapping_sub(ahead(frame.batch.first));
        if by.unsigned_abs() < SKEW || made(Mutant::WrongTimes) {
            return frame;
        }
        let batch = &mut frame.batch;
        let shifted = rewrite.shift(batch.signal, batch.codec, &batch.body, by);
        if let Some((codec, body)) = shifted.filter(|(_, body)| body.len() <= MAX_BODY) {
            batch.codec = codec;
            batch.body = body;
            for stamp in [&mut batch.first, &mut batch.last] {
                stamp.unix_ns = stamp.unix_ns.saturating_add_signed(by);
            }
        }
        frame
    }

    fn take_memory(&mut self, slot: usize, class: Class, seq: u64) -> Taken {
        let epoch = self.epoch;
        let Some(waiting) = self.waiting_mut(class).get_mut(&seq) else {
            return Taken::default();
        };
        let resent = waiting.given & (1 << slot) != 0;
        waiting.given |= 1 << slot;
        let batch = waiting.batch.clone();
        Taken {
            counts: counts_of(batch.items, batch.body.len()),
            frame: Some(Frame {
                id: FrameId { epoch, seq },
                batch,
                resent,
            }),
            lost: None,
        }
    }

    fn take_disk(&mut self, class: Class, pos: Pos, again: bool) -> Taken {
        let own = self.epoch;
        let Some(log) = &mut self.log else {
            return Taken::default();
        };
        let Some(epoch) = log
            .segments(class)
            .get(&pos.segment)
            .map(|segment| segment.epoch)
        else {
            return Taken::default();
        };
        let Some(header) = log.header_at(class, pos) else {
            return Taken::default();
        };
        let counts = counts_of(header.items, header.payload_len);
        let damaged = log.damaged;
        let body = log.payload(class, pos, &header);
        // Each damaged place is marked once, whoever comes by.
        let lost = (log.damaged > damaged).then_some(Loss {
            frames: 1,
            items: u64::from(header.items),
            first_unix_ns: header.first.unix_ns,
            last_unix_ns: header.last.unix_ns,
        });
        let id = FrameId {
            epoch,
            seq: header.seq,
        };
        let batch = body.and_then(|body| batch_of(class, header, body));
        let resent = again || epoch != own;
        Taken {
            frame: batch.map(|batch| Frame { id, batch, resent }),
            counts,
            lost,
        }
    }

    fn give_back(&mut self, slot: usize, seq: u64) {
        let Self { readers, log, .. } = self;
        let Some(Some(reader)) = readers.get_mut(slot) else {
            return;
        };
        let class = reader.open.get(&seq).map(|open| open.class);
        let live = class.is_some_and(|class| reader.is_live(class, seq));
        let Some(open) = reader.open.get_mut(&seq) else {
            return;
        };
        if open.returned {
            return;
        }
        if open.place == Place::Gone {
            let (class, loss) = (open.class, open.loss);
            reader.open.remove(&seq);
            let reason = self.eviction_reason();
            self.lose(class, reason, loss);
            return;
        }
        open.returned = true;
        let (class, signal, place, counts) = (open.class, open.signal, open.place, open.counts);
        *reader.live_mut(signal) += u64::from(live);
        match place {
            Place::Gone => {}
            Place::Memory => reader.memory_mut(signal).add(counts),
            Place::Disk(pos) => {
                let segment = log
                    .as_mut()
                    .and_then(|log| log.segment_mut(class, pos.segment));
                if let Some(left) = segment.and_then(|s| s.left_mut(slot, signal)) {
                    left.add(counts);
                }
            }
        }
    }

    fn acknowledge(&mut self, slot: usize, seq: u64, open: &Open) {
        if let Some(Some(reader)) = self.readers.get_mut(slot) {
            reader.open.remove(&seq);
            reader.given_mut(open.class).trim();
        }
        match open.place {
            Place::Memory => {
                let left = self.waiting_mut(open.class).get_mut(&seq).map(|waiting| {
                    waiting.need &= !(1 << slot);
                    waiting.need
                });
                if left == Some(0) {
                    self.forget(open.class, seq);
                }
            }
            Place::Disk(_) | Place::Gone => {
                self.disk.advanced = true;
                self.sweep();
            }
        }
    }

    /// Takes a batch out of memory.
    pub(super) fn forget(&mut self, class: Class, seq: u64) -> Option<Waiting> {
        let waiting = self.waiting_mut(class).remove(&seq)?;
        let size = waiting.batch.body.len() as u64 + OVERHEAD;
        self.memory_bytes = self.memory_bytes.saturating_sub(size);
        Some(waiting)
    }

    /// Takes a batch out of memory that some uplink still wanted.
    pub(super) fn drop_waiting(&mut self, class: Class, seq: u64, reason: Reason) {
        let Some(waiting) = self.forget(class, seq) else {
            return;
        };
        let counts = counts_of(waiting.batch.items, waiting.batch.body.len());
        for (slot, reader) in self.readers.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            let open = reader.open.remove(&seq);
            if waiting.need & (1 << slot) != 0 && open.is_none_or(|open| open.returned) {
                let signal = waiting.batch.signal;
                reader.memory_mut(signal).sub(counts);
                let live = u64::from(reader.is_live(class, seq));
                let left = reader.live_mut(signal);
                *left = left.saturating_sub(live);
            }
        }
        if class == Class::Outbox {
            self.disk.dropped.insert(seq);
        }
        self.lose(class, reason, loss_of(&waiting.batch));
    }

    /// Drops what nobody needs any more.
    fn bury(&mut self, class: Class, reason: Reason) {
        let unwanted = self.waiting_mut(class).iter();
        let unwanted: Vec<u64> = unwanted
            .filter(|(_, w)| w.need == 0)
            .map(|(&seq, _)| seq)
            .collect();
        for seq in unwanted {
            self.drop_waiting(class, seq, reason);
        }
    }

    fn take_id(&mut self) -> FrameId {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        FrameId {
            epoch: self.epoch,
            seq,
        }
    }

    pub(super) fn need_of(&self, signal: Signal) -> u8 {
        self.mask(|reader| reader.wants(signal))
    }

    /// Whose acknowledgement keeps a frame of a class. What a local program was
    /// told is stored is kept for whoever takes it.
    pub(super) fn required_mask(&self, class: Class) -> u8 {
        self.mask(|reader| reader.keeps(class))
    }

    pub(super) fn mask(&self, of: impl Fn(&Reader) -> bool) -> u8 {
        let mut mask = 0;
        for (slot, reader) in self.readers.iter().enumerate() {
            if reader.as_ref().is_some_and(&of) {
                mask |= 1 << slot;
            }
        }
        mask
    }

    pub(super) fn in_memory(&self, class: Class) -> &BTreeMap<u64, Waiting> {
        let [critical, outbox, normal, bulk] = &self.memory;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    pub(super) fn waiting_mut(&mut self, class: Class) -> &mut BTreeMap<u64, Waiting> {
        let [critical, outbox, normal, bulk] = &mut self.memory;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }
}

/// By how much the wall clock is ahead of boot time.
fn ahead(at: Stamp) -> i64 {
    at.unix_ns.wrapping_sub(at.boot_ns).cast_signed()
}

fn batch_of(class: Class, header: FrameHeader, body: bytes::Bytes) -> Option<Batch> {
    Some(Batch {
        signal: header.signal?,
        class,
        codec: header.codec,
        items: header.items,
        first: header.first,
        last: header.last,
        context: header.context,
        body,
    })
}

pub(super) fn counts_of(items: u32, bytes: usize) -> Counts {
    Counts {
        frames: 1,
        items: u64::from(items),
        bytes: bytes as u64,
    }
}

pub(super) fn loss_of(batch: &Batch) -> Loss {
    Loss {
        frames: 1,
        items: u64::from(batch.items),
        first_unix_ns: batch.first.unix_ns,
        last_unix_ns: batch.last.unix_ns,
    }
}
