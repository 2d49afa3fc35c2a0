//! What still waits on flash and what may go: the counts per segment and
//! uplink, the removal of segments, and the losses that come with it.

use super::cursor::{ALL_SIGNALS, Loss, Reason, UPLINKS};
use super::format::{SEGMENT_HEADER, SIGNALS, signal_slot};
use super::log::{Counts, Log, Segment};
use super::mutant::{Mutant, made};
use super::queue::{Core, Place, counts_of};
use super::reader::Reader;
use super::storage::Storage;
use crate::frame::{Class, Signal};

impl<S: Storage> Core<S> {
    /// Counts anew what waits for an uplink: on flash from the footers, and by
    /// reading headers only where its cursor is inside a segment.
    pub(super) fn recount(&mut self, slot: usize) {
        let reader = self.readers.get(slot).and_then(Option::as_ref);
        let mut memory = [Counts::default(); SIGNALS];
        if let Some(reader) = reader {
            for (seq, waiting) in self.memory.iter().flatten() {
                let idle = reader.open.get(seq).is_none_or(|open| open.returned);
                if waiting.need & (1 << slot) != 0 && reader.wants(waiting.batch.signal) && idle {
                    let counts = counts_of(waiting.batch.items, waiting.batch.body.len());
                    if let Some(sum) = memory.get_mut(signal_slot(waiting.batch.signal)) {
                        sum.add(counts);
                    }
                }
            }
        }
        for class in Class::ALL {
            let log = self.log.iter();
            let ids: Vec<u64> = log
                .flat_map(|log| log.segments(class).keys().copied())
                .collect();
            for id in ids {
                self.recount_segment(slot, class, id);
            }
        }
        if let Some(Some(reader)) = self.readers.get_mut(slot) {
            reader.memory = memory;
        }
    }

    /// The same for one segment.
    pub(super) fn recount_segment(&mut self, slot: usize, class: Class, id: u64) {
        let reader = self.readers.get(slot).and_then(Option::as_ref);
        let Some(log) = &mut self.log else { return };
        let counts = reader.map_or_else(Default::default, |r| remaining(log, r, class, id));
        let segment = log.segment_mut(class, id);
        if let Some(place) = segment.and_then(|s| s.remaining.get_mut(slot)) {
            *place = counts;
        }
    }

    /// What an uplink has walked past and never found is damaged: no longer waiting.
    pub(super) fn write_off(&mut self, slot: usize, class: Class) {
        let Self { readers, log, .. } = self;
        let (Some(Some(reader)), Some(log)) = (readers.get(slot), log) else {
            return;
        };
        let mut losses = Vec::new();
        for segment in log.segments_mut(class) {
            let (first, last) = segment.stats.seqs;
            let mut open = reader.open.range(first..=last);
            let waits = open.any(|(_, open)| open.class == class && open.returned);
            let Some(left) = segment.remaining.get_mut(slot) else {
                continue;
            };
            let mut missing = Counts::default();
            for (signal, left) in left.iter_mut().enumerate() {
                if left.frames > 0 && !waits && reader.given(class).of(signal).covers(first, last) {
                    missing.add(std::mem::take(left));
                }
            }
            if missing.frames > 0
                && let Some(loss) = segment.miss(slot, missing)
            {
                losses.push((segment.reason(), loss));
            }
        }
        for (reason, loss) in losses {
            self.lose(class, reason, loss);
        }
    }

    /// Counts what is missing of the segments that turned out shorter than what
    /// was written to them, or gone.
    pub(super) fn book_robbed(&mut self) {
        let robbed = self.log.as_mut().map(|log| std::mem::take(&mut log.robbed));
        for (class, id) in robbed.into_iter().flatten() {
            let segment = self.log.as_mut().and_then(|log| log.segment_mut(class, id));
            if let Some(segment) = segment {
                segment.robbed = true;
            }
            for slot in 0..UPLINKS {
                let Self { readers, log, .. } = self;
                let (Some(Some(reader)), Some(log)) = (readers.get(slot), log.as_mut()) else {
                    continue;
                };
                let found = scanned(log, reader, class, id);
                let Some(segment) = log.segment_mut(class, id) else {
                    continue;
                };
                let mut missing = Counts::default();
                let left = segment.remaining.get_mut(slot).into_iter().flatten();
                for (left, found) in left.zip(found) {
                    let mut gone = *left;
                    gone.sub(found);
                    left.sub(gone);
                    missing.add(gone);
                }
                if let Some(loss) = segment.miss(slot, missing) {
                    self.lose(class, Reason::Removed, loss);
                }
            }
        }
    }

    /// Books what is gone for files that somebody else has changed, all of them.
    pub(super) fn audit(&mut self) {
        if let Some(log) = &mut self.log {
            log.audit();
        }
        self.book_robbed();
    }

    /// Removes the segments that everybody has passed.
    pub(super) fn sweep(&mut self) {
        let Some(log) = &self.log else { return };
        let roomy = log.usage() < self.limits.quota / 2;
        let mut over = Vec::new();
        let mut left = false;
        for class in Class::ALL {
            for (&id, segment) in log.segments(class) {
                let passed = |reader: &Reader| passed(reader, class, segment);
                let mut readers = self.readers.iter().flatten();
                let nobody = self.readers.iter().all(Option::is_none);
                let held = readers.any(|reader| (reader.keeps(class) || roomy) && !passed(reader));
                if held || nobody || segment.opaque || !segment.closed {
                    left |= !segment.opaque;
                } else {
                    over.push((class, id));
                }
            }
        }
        for (class, id) in over {
            // The newest cursors must not go while they keep something from being repeated.
            let holder = self.log.as_ref().and_then(|log| log.holder.1);
            if left && holder == Some((class, id)) {
                self.disk.slot_due = true;
                continue;
            }
            self.drop_segment(class, id, Reason::Optional);
        }
    }

    /// Removes a segment and counts what was still wanted of it.
    pub(super) fn drop_segment(&mut self, class: Class, id: u64, reason: Reason) -> bool {
        let lost = self.wanted_in(class, id);
        let sent = self.let_go(class, id);
        let costs = !lost.is_empty() || sent;
        for (why, loss) in lost {
            if !made(Mutant::UncountedEviction) {
                self.lose(class, why.unwrap_or(reason), loss);
            }
        }
        if costs {
            self.retire(class, id);
        }
        let holder = self.log.as_ref().and_then(|log| log.holder.1);
        let evicted = matches!(reason, Reason::Quota | Reason::DiskFull);
        // What it costs is written down before it goes, and the newest cursors
        // must not go with it. Should their own file fail, there are repeats and
        // a loss that a power cut forgets, which is better than no room.
        if (costs && !made(Mutant::CountedLater)) || (evicted && holder == Some((class, id))) {
            self.save_cursors();
        }
        let Some(log) = &mut self.log else {
            return false;
        };
        // If that fails it is empty to everybody, and tried again.
        if let Err(error) = log.remove(class, id) {
            self.alarm = Some(format!("{error}; check the disk"));
            return false;
        }
        true
    }

    /// What an uplink is sending of a segment is lost if it comes back. `true`: there is some.
    fn let_go(&mut self, class: Class, id: u64) -> bool {
        let mut sent = false;
        for reader in self.readers.iter_mut().flatten() {
            reader.open.retain(|_, open| {
                let here = matches!(open.place, Place::Disk(pos) if pos.segment == id);
                let evicted = open.class == class && here;
                if evicted {
                    open.place = Place::Gone;
                    sent |= !open.returned;
                }
                !(evicted && open.returned)
            });
        }
        sent
    }

    /// Nobody is to be given anything of a segment any more: the ledger that
    /// counts it as lost says so too, should a power cut bring the file back.
    fn retire(&mut self, class: Class, id: u64) {
        let Some(segment) = self.log.as_mut().and_then(|log| log.segment_mut(class, id)) else {
            return;
        };
        segment.remaining = Default::default();
        let (first, last) = segment.stats.seqs;
        if last == 0 {
            return;
        }
        let Self {
            readers, memory, ..
        } = self;
        let waiting = memory.get(class as usize);
        for reader in readers.iter_mut().flatten() {
            let before = reader.given(class).clone();
            let given = reader.given_mut(class);
            given.insert(ALL_SIGNALS, first, last.saturating_add(1));
            // What came before it and never went to flash still waits.
            for (&seq, waiting) in waiting.into_iter().flat_map(|w| w.range(first..=last)) {
                given.remove(signal_slot(waiting.batch.signal), seq, &before);
            }
        }
    }

    /// What some uplink has not acknowledged of a segment, and (with a reason of
    /// its own) what should be in it for one and is not.
    fn wanted_in(&mut self, class: Class, id: u64) -> Vec<(Option<Reason>, Loss)> {
        let Self { log, readers, .. } = self;
        let Some(log) = log.as_mut() else {
            return Vec::new();
        };
        let Some(segment) = log.segments(class).get(&id) else {
            return Vec::new();
        };
        let (end, (first, last)) = (segment.end, segment.stats.seqs);
        let left = segment.remaining.iter().flatten();
        let nothing = left.into_iter().all(|left| left.frames == 0);
        let passed = readers.iter().flatten().all(|r| passed(r, class, segment));
        if (first, last) == (0, 0) || (passed && nothing) {
            return Vec::new();
        }
        let mut found = [Counts::default(); UPLINKS];
        let mut sum: Option<Loss> = None;
        let mut offset = SEGMENT_HEADER as u32;
        while let Some((at, header)) = log.frame_at(class, id, offset, end) {
            offset = at.saturating_add(header.len() as u32);
            let Some(signal) = header.signal else {
                continue;
            };
            let nobody = readers.iter().all(Option::is_none);
            // What is being sent may yet arrive; it is counted if it comes back.
            let sending = |r: &Reader| r.open.get(&header.seq).is_some_and(|o| !o.returned);
            let mask = 1 << signal_slot(signal);
            let wanted =
                |r: &Reader| r.wants(signal) && !r.done(class, mask, header.seq) && !sending(r);
            for (reader, found) in readers.iter().zip(&mut found) {
                if reader.as_ref().is_some_and(wanted) {
                    found.add(counts_of(header.items, header.payload_len));
                }
            }
            if !nobody && !readers.iter().flatten().any(wanted) {
                continue;
            }
            let sum = sum.get_or_insert(Loss {
                frames: 0,
                items: 0,
                first_unix_ns: u64::MAX,
                last_unix_ns: 0,
            });
            sum.frames += 1;
            sum.items += u64::from(header.items);
            sum.first_unix_ns = sum.first_unix_ns.min(header.first.unix_ns);
            sum.last_unix_ns = sum.last_unix_ns.max(header.last.unix_ns);
        }
        let mut out: Vec<(Option<Reason>, Loss)> = sum.map(|sum| (None, sum)).into_iter().collect();
        if let Some(segment) = log.segment_mut(class, id) {
            for (slot, found) in found.into_iter().enumerate() {
                let left = segment.remaining.get(slot);
                let mut missing = left.map_or_else(Counts::default, |left| Counts::sum(left));
                missing.sub(found);
                if let Some(loss) = segment.miss(slot, missing) {
                    out.push((Some(segment.reason()), loss));
                }
            }
        }
        out
    }

    pub(super) fn newest_for(&self, slot: usize) -> Option<(u64, Signal)> {
        let reader = self.readers.get(slot)?.as_ref()?;
        // Of the outbox nothing is live.
        let others = Class::ALL.into_iter().filter(|c| *c != Class::Outbox);
        let memory = others.clone().filter_map(|class| {
            let mut newest = self.memory.get(class as usize)?.iter().rev();
            let found = newest.find(|(_, waiting)| waiting.need & (1 << slot) != 0);
            found.map(|(&seq, waiting)| (seq, waiting.batch.signal))
        });
        let disk = others.filter_map(|class| {
            let segments = self.log.as_ref()?.segments(class).values();
            let newest = segments.flat_map(|segment| {
                let signals = segment.stats.signals.iter().enumerate();
                signals.filter(|(signal, _)| reader.wants & (1 << signal) != 0)
            });
            let (signal, newest) = newest
                .map(|(signal, stats)| (signal, stats.newest))
                .max_by_key(|(_, newest)| *newest)?;
            let waits = newest > 0 && !reader.done(class, 1 << signal, newest);
            waits.then_some((newest, *Signal::ALL.get(signal)?))
        });
        memory.chain(disk).max_by_key(|(seq, _)| *seq)
    }

    /// Everybody has passed a segment.
    pub(super) fn all_passed(&self, class: Class, segment: &Segment) -> bool {
        let mut readers = self.readers.iter().flatten();
        readers.all(|reader| passed(reader, class, segment))
    }
}

fn passed(reader: &Reader, class: Class, segment: &Segment) -> bool {
    let (first, last) = segment.stats.seqs;
    let signals = segment.stats.mask();
    signals & reader.wants == 0 || reader.passed(class, signals, first, last)
}

/// What an uplink has not been given of a segment, by signal.
fn remaining<S: Storage>(
    log: &mut Log<S>,
    reader: &Reader,
    class: Class,
    id: u64,
) -> [Counts; SIGNALS] {
    let mut sum = [Counts::default(); SIGNALS];
    let Some(segment) = log.segments(class).get(&id) else {
        return sum;
    };
    let (first, last) = segment.stats.seqs;
    if segment.stats.mask() & reader.wants == 0 || passed(reader, class, segment) {
        return sum;
    }
    let mut given = reader.given(class).some(reader.wants);
    if !given.any(|ranges| ranges.touches(first, last)) {
        for ((signal, stats), sum) in segment.stats.signals.iter().enumerate().zip(&mut sum) {
            if reader.wants & (1 << signal) != 0 {
                sum.add(Counts {
                    frames: u64::from(stats.frames),
                    items: stats.items,
                    bytes: stats.bytes,
                });
            }
        }
        return sum;
    }
    scanned(log, reader, class, id)
}

/// The same, by reading it.
fn scanned<S: Storage>(
    log: &mut Log<S>,
    reader: &Reader,
    class: Class,
    id: u64,
) -> [Counts; SIGNALS] {
    let mut sum = [Counts::default(); SIGNALS];
    let end = log
        .segments(class)
        .get(&id)
        .map_or(0, |segment| segment.end);
    let mut offset = SEGMENT_HEADER as u32;
    while let Some((at, header)) = log.frame_at(class, id, offset, end) {
        offset = at.saturating_add(header.len() as u32);
        let Some(signal) = header.signal.filter(|signal| reader.wants(*signal)) else {
            continue;
        };
        let slot = signal_slot(signal);
        let waits = match reader.open.get(&header.seq) {
            Some(open) => open.returned,
            None => !reader.given(class).of(slot).contains(header.seq),
        };
        if waits && let Some(sum) = sum.get_mut(slot) {
            sum.add(counts_of(header.items, header.payload_len));
        }
    }
    sum
}
