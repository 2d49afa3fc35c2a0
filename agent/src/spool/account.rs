//! What still waits on flash and what may go: the counts per segment and
//! uplink, the removal of segments, and the losses that come with it.

use super::cursor::{Loss, Reason};
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
        if let (Some(log), reader) = (&mut self.log, reader) {
            for class in Class::ALL {
                let ids: Vec<u64> = log.segments(class).keys().copied().collect();
                for id in ids {
                    let counts =
                        reader.map_or_else(Default::default, |r| remaining(log, r, class, id));
                    let segment = log.segment_mut(class, id);
                    if let Some(place) = segment.and_then(|s| s.remaining.get_mut(slot)) {
                        *place = counts;
                    }
                }
            }
        }
        if let Some(Some(reader)) = self.readers.get_mut(slot) {
            reader.memory = memory;
        }
    }

    /// What an uplink has walked past and never found is damaged: no longer waiting.
    pub(super) fn write_off(&mut self, slot: usize, class: Class) {
        let Self {
            readers,
            log,
            losses,
            untold,
            ..
        } = self;
        let (Some(Some(reader)), Some(log)) = (readers.get(slot), log) else {
            return;
        };
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
            if missing.frames == 0 {
                continue;
            }
            let loss = Loss {
                frames: missing.frames,
                items: missing.items,
                first_unix_ns: segment.stats.first.unix_ns,
                last_unix_ns: segment.stats.last.unix_ns,
            };
            // Both uplinks miss the same frames.
            if !segment.written_off {
                segment.written_off = true;
                losses.add(class, Reason::Damaged, loss);
                untold.add(class, Reason::Damaged, loss);
            }
        }
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
        let holder = self.log.as_ref().and_then(|log| log.holder.1);
        // The newest cursors must not go with it. Should their own file fail,
        // there are repeats, which is better than no room.
        if matches!(reason, Reason::Quota | Reason::DiskFull) && holder == Some((class, id)) {
            self.save_cursors();
        }
        let Some(log) = &mut self.log else {
            return false;
        };
        if let Err(error) = log.remove(class, id) {
            self.alarm = Some(format!("{error}; check the disk"));
            return false;
        }
        if let Some(loss) = lost
            && !made(Mutant::UncountedEviction)
        {
            self.lose(class, reason, loss);
        }
        for reader in self.readers.iter_mut().flatten() {
            reader.open.retain(|_, open| {
                let here = matches!(open.place, Place::Disk(pos) if pos.segment == id);
                let evicted = open.class == class && here;
                if evicted {
                    open.place = Place::Gone;
                }
                !(evicted && open.returned)
            });
        }
        true
    }

    /// What some uplink has not acknowledged of a segment.
    pub(super) fn wanted_in(&mut self, class: Class, id: u64) -> Option<Loss> {
        let Self { log, readers, .. } = self;
        let log = log.as_mut()?;
        let segment = log.segments(class).get(&id)?;
        let (end, (first, last)) = (segment.end, segment.stats.seqs);
        if (first, last) == (0, 0) || readers.iter().flatten().all(|r| passed(r, class, segment)) {
            return None;
        }
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
        sum
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
    let ((first, last), end) = (segment.stats.seqs, segment.end);
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
