//! A spool's folder seen from outside: for `sonde spool`, `sonde trace` and
//! whoever has pulled a copy out of a gateway.
//!
//! Strictly read-only, and takes no lock: the agent may append to, seal and
//! remove segments meanwhile. A file that is gone is not an error; what is only
//! half written yet is told from what is damaged. Nothing in the folder makes
//! it panic, wait or take memory beyond one frame.

mod segment;
mod verify;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub(crate) use self::segment::{Opened, Piece, Segment, Source};
pub(crate) use self::verify::{Damage, verify};
use super::cursor::{ALL_SIGNALS, Ledger, Ranges, SLOT, SLOT_FILE, uplink_slot};
use super::format::{FrameHeader, Kind, SEGMENT_HEADER, Stats, signal_slot};
use super::path_of;
use crate::config::UplinkName;
use crate::frame::{Class, FrameId, Signal};

/// A spool's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
}

/// A segment's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) class: Class,
    pub(crate) id: u64,
}

/// One of the two slots of the cursor file.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// Never written, or there is no file.
    Empty,
    Ledger(Box<Ledger>),
    Damaged,
}

/// What a segment holds in all.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) stats: Stats,
    /// It has its footer.
    pub(crate) sealed: bool,
    pub(crate) bytes: u64,
}

/// How often a slot is read before it counts as damaged: the agent may be
/// writing it.
const SLOT_TRIES: u32 = 3;

impl Named {
    /// Relative to the folder.
    pub(crate) fn path(self) -> String {
        path_of(self.class, self.id)
    }
}

impl Folder {
    /// # Errors
    /// There is no such folder, or it may not be listed.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::read_dir(dir).map_err(|error| segment::told(error, "list", dir))?;
        Ok(Self {
            dir: dir.to_path_buf(),
        })
    }

    /// All segments, most valuable class first, oldest first.
    pub(crate) fn segments(&self) -> io::Result<Vec<Named>> {
        let mut all = Vec::new();
        for class in Class::ALL {
            let from = all.len();
            let path = self.dir.join(class.as_str());
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(segment::told(error, "list", &path)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| segment::told(error, "list", &path))?;
                let name = entry.file_name();
                if let Some(id) = name.to_str().and_then(super::id_of) {
                    all.push(Named { class, id });
                }
            }
            if let Some(chain) = all.get_mut(from..) {
                chain.sort_unstable_by_key(|named| named.id);
            }
        }
        Ok(all)
    }

    /// Opens one segment; `after` is the next of its chain.
    pub(crate) fn segment(&self, named: Named, after: Option<Named>) -> io::Result<Opened> {
        let mut opened = Segment::open(&self.dir.join(named.path()))?;
        match &mut opened {
            // Under another name it is not this chain's.
            Opened::Segment(segment)
                if (segment.header.class, segment.header.id) != (named.class, named.id) =>
            {
                return Ok(Opened::Damaged(segment.len));
            }
            Opened::Segment(segment) if segment.footer.is_none() => {
                if let Some(end) = self.end_by(named, after)? {
                    segment.limit(end);
                }
            }
            // Too short for what the next one says: not a start that was cut short.
            Opened::Damaged(len) => {
                *len = self.end_by(named, after)?.unwrap_or(0).max(*len);
            }
            _ => {}
        }
        Ok(opened)
    }

    /// Where a segment ends by the header of the next one in its chain.
    fn end_by(&self, named: Named, after: Option<Named>) -> io::Result<Option<u64>> {
        let Some(after) = after.filter(|after| after.class == named.class) else {
            return Ok(None);
        };
        Ok(match Segment::open(&self.dir.join(after.path()))? {
            Opened::Segment(next) if next.header.previous == named.id => {
                Some(u64::from(next.header.previous_end))
            }
            _ => None,
        })
    }

    /// Both slots of the cursor file.
    pub(crate) fn slots(&self) -> io::Result<[Slot; 2]> {
        let path = self.dir.join(SLOT_FILE);
        let Some((source, _)) = Source::open(&path)? else {
            return Ok([Slot::Empty, Slot::Empty]);
        };
        let read = |offset| slot(&source, offset).map_err(|e| segment::told(e, "read", &path));
        Ok([read(0)?, read(SLOT)?])
    }

    /// The newest ledger in any slot or commit frame: what each uplink has
    /// acknowledged, as far as it is on disk, and what was lost.
    pub(crate) fn ledger(&self) -> io::Result<Ledger> {
        let mut best = Ledger::default();
        let mut take = |ledger: Ledger| {
            if ledger.version > best.version {
                best = ledger;
            }
        };
        for slot in self.slots()? {
            if let Slot::Ledger(ledger) = slot {
                take(*ledger);
            }
        }
        let all = self.segments()?;
        for (index, &named) in all.iter().enumerate() {
            let after = all.get(index + 1).copied();
            if let Opened::Segment(segment) = self.segment(named, after)? {
                for ledger in segment.ledgers()? {
                    take(ledger);
                }
            }
        }
        Ok(best)
    }
}

fn slot(source: &Source, offset: u64) -> io::Result<Slot> {
    let mut bytes = vec![0; SLOT as usize];
    for _ in 0..SLOT_TRIES {
        let count = source.read_at(offset, &mut bytes)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Slot::Empty);
        }
        if let Some(ledger) = Ledger::decode_slot(bytes) {
            return Ok(Slot::Ledger(Box::new(ledger)));
        }
    }
    Ok(Slot::Damaged)
}

impl Segment {
    /// From the footer, or by reading every header.
    pub(crate) fn summary(&self) -> io::Result<Summary> {
        let stats = match self.footer {
            Some(stats) => stats,
            None => {
                let mut stats = Stats::default();
                let mut walk = self.walk(false);
                while let Some(piece) = walk.next()? {
                    if let Piece::Frame(_, header) = piece
                        && header.kind == Kind::Data
                    {
                        stats.add(&header);
                    }
                }
                stats
            }
        };
        Ok(Summary {
            stats,
            sealed: self.footer.is_some(),
            bytes: self.len,
        })
    }

    /// The ledgers that may be the newest: the last one that the footer names
    /// and the first frame's, or without a footer all.
    fn ledgers(&self) -> io::Result<Vec<Ledger>> {
        let mut found: Vec<Ledger> = Vec::new();
        let mut walk = self.walk(false);
        if let Some(stats) = self.footer {
            let last = match stats.ledger {
                (_, 0) => None,
                (at, _) => walk.ledger_at(u64::from(at))?,
            };
            let first = walk.ledger_at(SEGMENT_HEADER as u64)?;
            found.extend([last, first].into_iter().flatten());
            return Ok(found);
        }
        while let Some(piece) = walk.next()? {
            if let Piece::Frame(at, header) = piece
                && header.kind == Kind::Commit
                && let Some(payload) = walk.payload(at, &header)?
                && let Some(ledger) = Ledger::decode(&payload)
                && found.iter().all(|known| known.version < ledger.version)
            {
                found.clear();
                found.push(ledger);
            }
        }
        Ok(found)
    }
}

/// Whether an uplink has acknowledged a frame (or it was counted as lost for it).
pub(crate) fn is_done(
    ledger: &Ledger,
    uplink: UplinkName,
    class: Class,
    header: &FrameHeader,
) -> bool {
    let Some(signal) = header.signal else {
        return true;
    };
    done_seq(ledger, uplink, class, signal, header.seq)
}

/// The same for a frame of which only the name is known.
pub(crate) fn done_seq(
    ledger: &Ledger,
    uplink: UplinkName,
    class: Class,
    signal: Signal,
    seq: u64,
) -> bool {
    let classes = ledger.done.get(uplink_slot(uplink));
    let progress = classes.and_then(|classes| classes.get(class as usize));
    progress.is_some_and(|progress| progress.of(signal_slot(signal)).contains(seq))
}

/// Frames after `last` that were given a seq and that no uplink has behind it.
pub(crate) fn beyond(ledger: &Ledger, last: u64) -> u64 {
    let every = ledger.done.iter().flatten();
    let done = every
        .flat_map(|progress| progress.some(ALL_SIGNALS))
        .fold(Ranges::default(), |all, ranges| all.joined(ranges));
    let gaps = done.gaps(last.saturating_add(1), ledger.next_seq);
    gaps.iter().map(|(from, to)| to - from).sum()
}

/// Whether an uplink has acknowledged all of a segment, none of it, or must be
/// asked frame by frame (`None`).
pub(crate) fn done_all(
    ledger: &Ledger,
    uplink: UplinkName,
    class: Class,
    stats: &Stats,
) -> Option<bool> {
    let classes = ledger.done.get(uplink_slot(uplink));
    let progress = classes.and_then(|classes| classes.get(class as usize))?;
    let (first, last) = stats.seqs;
    let mask = stats.mask();
    if progress.some(mask).all(|ranges| ranges.covers(first, last)) {
        return Some(true);
    }
    let touched = progress
        .some(mask)
        .any(|ranges| ranges.touches(first, last));
    (!touched).then_some(false)
}

/// A frame's name.
pub(crate) fn id_of(segment: &Segment, header: &FrameHeader) -> FrameId {
    FrameId {
        epoch: segment.header.epoch,
        seq: header.seq,
    }
}
