//! Finds out at the start what the folder holds. Nothing in it is an error.
//!
//! 1. Names that are not a segment's are ignored.
//! 2. A segment with a valid footer is believed; its frames are checked when read.
//! 3. Other segments are scanned: a bad header means a search for the next good
//!    one, a bad payload is stepped over and counted.
//! 4. No segment of an earlier start is appended to, but for its footer, and
//!    for that only within its last block.
//! 5. A segment without a whole header stays as it is and goes first when room
//!    is needed. One of a newer format stays as it is and goes last; its seqs
//!    are kept out of every cursor, so that a newer program goes on with it.

use std::collections::BTreeSet;
use std::io;

use super::cursor::{Ledger, Loss, Ranges};
use super::format::{self, FOOTER, Kind, SEGMENT_HEADER, SegmentHeader, Stats, Unreadable};
use super::log::{Counts, Log, Pos, Segment, SegmentClock, blocks, path_of};
use super::mutant::{Mutant, made};
use super::storage::Storage;
use crate::frame::Class;

/// What a start found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The newest ledger, `next_seq` past all that was found.
    pub(crate) ledger: Ledger,
    /// Data frames.
    pub(crate) frames: u64,
    /// Frames whose header was whole but whose payload was not: class, seq, how much.
    pub(crate) lost: Vec<(Class, u64, Loss)>,
    /// Stretches without a whole header inside segments that had to be scanned.
    pub(crate) gaps: Vec<Gap>,
    /// The seqs of segments of a newer format, per class.
    pub(crate) newer: [Ranges; 4],
}

/// Bytes that hold no whole header, between two frames that do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    pub(crate) class: Class,
    /// The seqs of the data frames around it, both not included.
    pub(crate) seqs: (u64, u64),
    pub(crate) bytes: u32,
    /// Wall time of the readings around it.
    pub(crate) unix_ns: (u64, u64),
}

/// How far the seqs of a newer program are given a wide berth where nothing tells their end.
const BERTH: u64 = 1 << 32;

/// Not even a segment a nanosecond gets to this id in a device's life.
const LAST_ID: u64 = 1 << 48;
/// A segment that claims to be among the last of all is read, but none is put behind it.
const SPARE_IDS: u64 = 1 << 20;

/// No segment is longer, in bytes: what somebody else made longer is not looked
/// through to the end, and counts as what it occupies.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Files without a whole header that are kept, all classes together.
const JUNK: usize = 64;

/// A segment as listed: id, length, header.
struct Found {
    id: u64,
    len: u64,
    occupied: u64,
    header: Result<SegmentHeader, Unreadable>,
    /// The disk gave its header, whatever that is.
    readable: bool,
}

impl Found {
    fn floor(&self) -> Option<u64> {
        match &self.header {
            Ok(header) => Some(header.floor),
            Err(Unreadable::Newer(floor)) => Some(*floor),
            Err(Unreadable::Damaged) => None,
        }
    }
}

impl<S: Storage> Log<S> {
    /// Reads the folder. Fails only if it cannot even be listed.
    pub(crate) fn recover(&mut self) -> io::Result<Recovered> {
        let mut out = Recovered::default();
        let mut ledgers = Vec::new();
        let mut highest = 0;
        for class in Class::ALL {
            let found = self.list_segments(class)?;
            for (index, this) in found.iter().enumerate() {
                if let Err(Unreadable::Newer(floor)) = this.header {
                    let later = found.iter().skip(index + 1);
                    let open = floor.saturating_add(BERTH);
                    let end = later.filter_map(Found::floor).next().unwrap_or(open);
                    if let Some(ranges) = out.newer.get_mut(class as usize) {
                        ranges.insert(floor, end);
                        highest = highest.max(end);
                    }
                }
                let next = found
                    .get(index + 1)
                    .and_then(|next| next.header.as_ref().ok());
                let limit = next
                    .filter(|next| next.previous == this.id && !made(Mutant::PreviousEndIgnored))
                    .map_or(u32::MAX, |next| next.previous_end);
                self.take(class, this, limit, &mut out);
            }
            self.number(class, &found);
            for (&id, segment) in self.segments(class) {
                highest = highest.max(segment.stats.seqs.1);
                let frames = segment.stats.signals.iter();
                out.frames += frames.map(|signal| u64::from(signal.frames)).sum::<u64>();
                let (offset, version) = segment.stats.ledger;
                if version > 0 {
                    ledgers.push((
                        version,
                        class,
                        Pos {
                            segment: id,
                            offset,
                        },
                    ));
                }
                // Every segment begins with a ledger, should the last one be unreadable.
                let first = Pos {
                    segment: id,
                    offset: SEGMENT_HEADER as u32,
                };
                ledgers.push((version.saturating_sub(1), class, first));
            }
        }
        out.ledger = self.newest_ledger(ledgers);
        out.ledger.next_seq = out.ledger.seq_floor().max(highest.saturating_add(1));
        if made(Mutant::ReusedIds) {
            out.ledger.next_seq = 1;
        }
        Ok(out)
    }

    /// The next segment's id: past all that hold frames, and nobody's name. What
    /// has no header tells nothing about ids, and must not use them up.
    fn number(&mut self, class: Class, found: &[Found]) {
        let readable = found.iter().filter(|found| found.floor().is_some());
        let mut below = readable.filter(|found| found.id < LAST_ID - SPARE_IDS);
        let mut next = below
            .next_back()
            .map_or(1, |found| found.id.saturating_add(1));
        let taken = |id| found.binary_search_by_key(&id, |found| found.id).is_ok();
        while taken(next) {
            next = next.saturating_add(1);
        }
        self.chain_mut(class).next_id = next;
    }

    fn list_segments(&mut self, class: Class) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for listed in self.storage.list(class.as_str())? {
            let Some(id) = id_of(&listed.name) else {
                // What a cut left of a segment that was to replace another.
                if is_unfinished(&listed.name) {
                    let name = format!("{}/{}", class.as_str(), listed.name);
                    let _ = self.storage.unlink(&name);
                }
                continue;
            };
            let mut bytes = [0; SEGMENT_HEADER];
            let count = self.storage.read_at(&path_of(class, id), 0, &mut bytes);
            let decoded = SegmentHeader::decode(
                bytes
                    .get(..*count.as_ref().unwrap_or(&0))
                    .unwrap_or_default(),
            );
            // A file in the wrong folder or under another name is not this chain's.
            let own = |h: &SegmentHeader| h.id == id && h.class == class;
            let header = match decoded {
                Ok(header) if !own(&header) => Err(Unreadable::Damaged),
                other => other,
            };
            found.push(Found {
                id,
                len: listed.len,
                occupied: listed.occupied,
                header,
                readable: count.is_ok(),
            });
        }
        found.sort_by_key(|found| found.id);
        Ok(found)
    }

    fn take(&mut self, class: Class, found: &Found, limit: u32, out: &mut Recovered) {
        let len = found.len.min(LONGEST) as u32;
        let mut segment = Segment {
            nonce: 0,
            epoch: 0,
            end: SEGMENT_HEADER as u32,
            size: if found.len > LONGEST {
                found.occupied.min(found.len)
            } else {
                found.len
            },
            occupied: found.occupied,
            stats: Stats::default(),
            closed: true,
            opaque: true,
            junk: false,
            newer: None,
            clock: SegmentClock::Unknown,
            remaining: Default::default(),
            missed: Default::default(),
            booked: Counts::default(),
            robbed: false,
            marks: BTreeSet::new(),
        };
        if let Err(Unreadable::Newer(floor)) = found.header {
            segment.newer = Some(floor);
            self.chain_mut(class).segments.insert(found.id, segment);
            return;
        }
        let Ok(header) = &found.header else {
            // Nothing was acknowledged from a file that never got its header, and
            // a heap of those that lost it must not take up memory and time.
            let kept = self.chains.iter().flat_map(|chain| chain.segments.values());
            let heap = || kept.filter(|segment| segment.junk).count() >= JUNK;
            if found.readable
                && (found.len <= SEGMENT_HEADER as u64 || heap())
                && self.storage.unlink(&path_of(class, found.id)).is_ok()
            {
                return;
            }
            segment.junk = found.readable;
            self.damaged = self.damaged.saturating_add(1);
            self.chain_mut(class).segments.insert(found.id, segment);
            return;
        };
        segment.nonce = header.nonce;
        segment.epoch = header.epoch;
        segment.opaque = false;
        segment.clock = if header.boot_id == self.settings.boot_id {
            SegmentClock::Boot
        } else if header.synchronised {
            SegmentClock::Wall
        } else {
            SegmentClock::Unknown
        };
        if let Some(stats) = self.footer(class, found) {
            segment.end = stats.end.min(len);
            segment.stats = stats;
            self.chain_mut(class).segments.insert(found.id, segment);
            return;
        }
        segment.end = len.min(limit).max(SEGMENT_HEADER as u32);
        let upto = segment.end;
        self.chain_mut(class).segments.insert(found.id, segment);
        let errors = self.read_errors;
        let stats = self.scan(class, found.id, (header.floor, upto), out);
        // A footer that takes another block could put the folder over the quota,
        // and cost data. Without one the next start scans it again; what is
        // damaged in it is done by then, in the ledger that counts it.
        let fits = blocks(found.len + FOOTER as u64) <= blocks(found.len);
        let read = self.read_errors == errors;
        if read && fits {
            self.close(class, found.id, stats);
        } else if let Some(segment) = self.segment_mut(class, found.id) {
            // What could not be read now may be readable at the next start: no footer either.
            if read {
                segment.end = stats.end;
            }
            segment.stats = stats;
        }
    }

    fn footer(&mut self, class: Class, found: &Found) -> Option<Stats> {
        let nonce = found.header.as_ref().ok()?.nonce;
        let at = found.len.checked_sub(FOOTER as u64)?;
        let mut bytes = [0; FOOTER];
        let count = self
            .storage
            .read_at(&path_of(class, found.id), at, &mut bytes)
            .ok()?;
        let stats = format::decode_footer(bytes.get(..count)?, nonce)?;
        (u64::from(stats.end) <= at).then_some(stats)
    }

    fn scan(
        &mut self,
        class: Class,
        id: u64,
        (floor, upto): (u64, u32),
        out: &mut Recovered,
    ) -> Stats {
        let mut stats = Stats {
            end: SEGMENT_HEADER as u32,
            ..Stats::default()
        };
        let mut offset = SEGMENT_HEADER as u32;
        let mut before = (floor.saturating_sub(1), 0);
        let mut skipped = 0;
        while let Some((at, header)) = self.frame_at(class, id, offset, upto) {
            skipped += at - offset;
            if header.kind == Kind::Data {
                if skipped > 0 {
                    out.gaps.push(Gap {
                        class,
                        seqs: (before.0, header.seq),
                        bytes: skipped,
                        unix_ns: (before.1, header.first.unix_ns),
                    });
                }
                before = (header.seq, header.last.unix_ns);
                skipped = 0;
            }
            offset = at.saturating_add(header.len() as u32);
            let whole = self.payload(
                class,
                Pos {
                    segment: id,
                    offset: at,
                },
                &header,
            );
            match (header.kind, whole) {
                (Kind::Data, Some(_)) => stats.add(&header),
                (Kind::Data, None) => {
                    let loss = Loss {
                        frames: 1,
                        items: u64::from(header.items),
                        first_unix_ns: header.first.unix_ns,
                        last_unix_ns: header.last.unix_ns,
                    };
                    out.lost.push((class, header.seq, loss));
                }
                (Kind::Commit, Some(payload)) => {
                    if let Some(ledger) = Ledger::decode(&payload) {
                        stats.ledger = (at, ledger.version);
                    }
                }
                _ => {}
            }
            stats.end = offset;
        }
        stats
    }

    /// Gives an earlier start's segment its footer, so that no later start
    /// scans it again. Synced, since what it holds may be in the page cache
    /// only; if that fails, the next start does it again.
    fn close(&mut self, class: Class, id: u64, stats: Stats) {
        let mut footer = Vec::with_capacity(FOOTER);
        let Some(segment) = self.segment_mut(class, id) else {
            return;
        };
        segment.end = stats.end;
        segment.stats = stats;
        format::encode_footer(&mut footer, segment.nonce, &stats);
        let Ok(mut file) = self.storage.open_append(&path_of(class, id)) else {
            return;
        };
        if self.storage.append(&mut file, &footer).is_ok() {
            self.written = self.written.saturating_add(footer.len() as u64);
            if let Some(segment) = self.segment_mut(class, id) {
                segment.size = segment.size.saturating_add(footer.len() as u64);
            }
            self.syncs = self.syncs.saturating_add(1);
            let _ = self.storage.sync(&mut file);
        }
    }

    fn newest_ledger(&mut self, mut places: Vec<(u64, Class, Pos)>) -> Ledger {
        let mut best = self.read_slots().unwrap_or_default();
        self.holder = (best.version, None);
        places.sort_by_key(|(version, _, _)| std::cmp::Reverse(*version));
        for (version, class, pos) in places {
            if version < best.version || made(Mutant::CommitsIgnored) {
                break;
            }
            let read = self.header_at(class, pos);
            let read = read
                .filter(|header| header.kind == Kind::Commit)
                .and_then(|header| self.payload(class, pos, &header))
                .and_then(|payload| Ledger::decode(&payload));
            if let Some(read) = read
                && read.version > best.version
            {
                self.holder = (read.version, Some((class, pos.segment)));
                best = read;
            }
        }
        best
    }
}

fn is_unfinished(name: &str) -> bool {
    let digits = name.strip_suffix(".new");
    digits.is_some_and(|digits| id_of(&format!("{digits}.seg")).is_some())
}

/// The id in a segment's name; `None`: somebody else's file.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let lower = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits.len() == 16 && lower)
        .then(|| u64::from_str_radix(digits, 16).ok())?
        .filter(|id| (1..LAST_ID).contains(id))
}
