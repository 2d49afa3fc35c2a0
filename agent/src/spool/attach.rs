//! Taking over a disk, at the start or when it turns up later.
//!
//! Without a disk seqs begin at 1. A disk that turns up later has seqs of its
//! own, and frames must go behind those; so what waits in memory moves up by a
//! whole number that is past both, and keeps its order. A frame that an uplink
//! is sending at that moment is known to it by its old name, which is
//! understood on. No name ever stands for two frames: new ones begin beyond
//! all old ones of this epoch.

use std::collections::BTreeSet;

use super::cursor::{ALL_SIGNALS, Loss, Reason, UPLINKS};
use super::format::{FRAME_HEADER, Kind, SEGMENT_HEADER};
use super::log::Log;
use super::queue::Core;
use super::reader::Reader;
use super::recover::Gap;
use super::storage::Storage;
use crate::frame::{Class, FrameId};

/// How frames that were named without a disk are called now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Names of this epoch below this one are old.
    below: u64,
    by: u64,
}

impl Moved {
    /// The seq of the frame that goes by that name.
    pub(super) fn seq(&self, id: FrameId, epoch: u32) -> u64 {
        if id.epoch == epoch && id.seq < self.below {
            id.seq.saturating_add(self.by)
        } else {
            id.seq
        }
    }
}

impl<S: Storage> Core<S> {
    /// Takes over a disk: recovers it and goes on behind what it holds.
    pub(crate) fn attach(&mut self, mut log: Log<S>) -> std::io::Result<()> {
        let found = log.recover()?;
        self.move_up(found.ledger.next_seq);
        self.recovered = found.frames;
        for (key, loss) in &found.ledger.losses.table {
            self.losses.add(key.0, key.1, *loss);
        }
        for (key, loss) in found.ledger.losses.untold(&found.ledger.untold).table {
            self.untold.add(key.0, key.1, loss);
        }
        for (uplink, ranges) in found.ledger.done.iter().enumerate() {
            if let Some(Some(reader)) = self.readers.get_mut(uplink) {
                for (class, ranges) in Class::ALL.into_iter().zip(ranges) {
                    let newer = std::mem::take(reader.given_mut(class));
                    *reader.given_mut(class) = ranges.joined(&newer);
                }
            }
        }
        let damaged = !found.lost.is_empty() || !found.gaps.is_empty();
        for (class, seq, loss) in found.lost {
            let wanted =
                |reader: &Reader| reader.keeps(class) && !reader.done(class, reader.wants, seq);
            if self.readers.iter().flatten().any(wanted) {
                self.lose(class, Reason::Damaged, loss);
                self.pass(class, seq, seq.saturating_add(1));
            }
        }
        for gap in &found.gaps {
            self.lose_gap(&mut log, gap);
            self.pass(gap.class, gap.seqs.0.saturating_add(1), gap.seqs.1);
        }
        self.newer = found.newer;
        // On a disk that is full already, the file gets its room when there is some.
        let _ = log.allocate_slots();
        self.version = found.ledger.version;
        self.durable = found.ledger;
        self.log = Some(log);
        self.alarm = None;
        for uplink in 0..UPLINKS {
            self.recount(uplink);
        }
        for class in Class::ALL {
            self.refresh(class);
        }
        self.sweep();
        self.fit_quota();
        // The next start must not count it again.
        if damaged && self.ledger().version > self.durable.version {
            self.save_cursors();
        }
        Ok(())
    }

    /// What is damaged is behind everybody once it is counted.
    fn pass(&mut self, class: Class, start: u64, end: u64) {
        for reader in self.readers.iter_mut().flatten() {
            reader.given_mut(class).insert(ALL_SIGNALS, start, end);
        }
    }

    /// Gives what waits in memory seqs behind `next_seq`, and behind all that were used.
    fn move_up(&mut self, next_seq: u64) {
        if self.next_seq == 1 {
            self.next_seq = next_seq;
            return;
        }
        let by = self.next_seq.max(next_seq);
        for class in Class::ALL {
            let waiting = std::mem::take(self.waiting_mut(class));
            let moved = waiting.into_iter().map(|(seq, w)| (seq + by, w));
            *self.waiting_mut(class) = moved.collect();
        }
        let dropped = std::mem::take(&mut self.disk.dropped).into_iter();
        self.disk.dropped = dropped.map(|seq| seq + by).collect();
        for reader in self.readers.iter_mut().flatten() {
            let open = std::mem::take(&mut reader.open);
            reader.open = open.into_iter().map(|(seq, o)| (seq + by, o)).collect();
            for class in Class::ALL {
                let moved = reader.given(class).shifted(by);
                *reader.given_mut(class) = moved;
            }
            reader.live_since = reader.live_since.saturating_add(by);
        }
        self.moved = Moved {
            below: self.next_seq,
            by,
        };
        self.next_seq = self.next_seq.saturating_add(by);
    }

    /// Counts the frames that a damaged stretch must have held: the seqs
    /// around it, without those that are elsewhere or done. What the bytes
    /// could not hold was never there.
    fn lose_gap(&mut self, log: &mut Log<S>, gap: &Gap) {
        let (after, before) = gap.seqs;
        let most = u64::from(gap.bytes) / FRAME_HEADER as u64;
        let elsewhere = seqs_between(log, gap.class, after, before);
        let lost = |seq: &u64| {
            let wanted = |reader: &Reader| {
                reader.keeps(gap.class) && !reader.done(gap.class, reader.wants, *seq)
            };
            !elsewhere.contains(seq) && self.readers.iter().flatten().any(wanted)
        };
        // Seqs between two frames of one segment are few; a forged header must not make a long loop.
        let seqs = after.saturating_add(1)..before;
        let frames = seqs.take(1 << 16).filter(lost).count() as u64;
        let loss = Loss {
            frames: frames.min(most),
            items: 0,
            first_unix_ns: if gap.unix_ns.0 == 0 {
                gap.unix_ns.1
            } else {
                gap.unix_ns.0
            },
            last_unix_ns: gap.unix_ns.1,
        };
        self.lose(gap.class, Reason::Damaged, loss);
    }
}

/// The seqs of whole frames of other classes.
fn seqs_between<S: Storage>(
    log: &mut Log<S>,
    not: Class,
    after: u64,
    before: u64,
) -> BTreeSet<u64> {
    let mut out = BTreeSet::new();
    for class in Class::ALL.into_iter().filter(|class| *class != not) {
        let overlapping: Vec<(u64, u32)> = log
            .segments(class)
            .iter()
            .filter(|(_, segment)| {
                let (first, last) = segment.stats.seqs;
                !segment.opaque && first < before && last > after
            })
            .map(|(&id, segment)| (id, segment.end))
            .collect();
        for (id, end) in overlapping {
            let mut offset = SEGMENT_HEADER as u32;
            while let Some((at, header)) = log.frame_at(class, id, offset, end) {
                offset = at.saturating_add(header.len() as u32);
                if header.kind == Kind::Data && header.seq > after && header.seq < before {
                    out.insert(header.seq);
                }
            }
        }
    }
    out
}
