//! Every checksum of one segment, and what it costs where one is wrong.

use std::io;

use super::segment::{Piece, Segment};
use crate::spool::cursor::Ledger;
use crate::spool::format::{FOOTER, FRAME_HEADER, Kind, Stats};

/// One thing that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// In bytes from the start of the file.
    pub(crate) offset: u64,
    pub(crate) what: &'static str,
    /// Bytes that are of no use.
    pub(crate) bytes: u64,
    /// Data frames that it costs, at the most.
    pub(crate) frames: u64,
    /// Their items; `None`: nothing tells.
    pub(crate) items: Option<u64>,
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// Whole data frames.
    pub(crate) frames: u64,
    pub(crate) items: u64,
    /// Frames of every kind, whole.
    pub(crate) checked: u64,
    pub(crate) damage: Vec<Damage>,
    /// Damaged places that there was no room to list.
    pub(crate) more: u64,
    /// Bytes of an append that was cut short or is going on, at the end of a
    /// segment without a footer: nothing in them was ever acknowledged, unless
    /// the whole folder is a copy that was cut short.
    pub(crate) torn: u64,
    /// The highest seq of a data frame with a whole header; 0: there is none.
    pub(crate) last_seq: u64,
}

/// Damaged places listed for one file.
const MOST: usize = 1000;

impl Checked {
    fn add(&mut self, damage: Damage) {
        match self.damage.len() {
            0..MOST => self.damage.push(damage),
            _ => self.more = self.more.saturating_add(1),
        }
    }
}

/// Reads all of a segment.
pub(crate) fn verify(segment: &Segment) -> io::Result<Checked> {
    let mut out = Checked::default();
    for (offset, whole) in [0, 128].into_iter().zip(segment.copies) {
        if !whole {
            out.add(free(offset, "one copy of the segment's header", 128));
        }
    }
    let mut stats = Stats::default();
    let mut before = segment.header.floor.saturating_sub(1);
    // A hole whose frames are known only by the seqs around it.
    let mut hole: Option<(u64, u64)> = None;
    let mut walk = segment.walk(true);
    let mut first = true;
    while let Some(piece) = walk.next()? {
        match piece {
            Piece::Torn(bytes) => out.torn = bytes,
            Piece::Gap(at, bytes) => hole = Some((at, bytes)),
            Piece::Frame(at, header) => {
                if first && header.kind != Kind::Commit && hole.is_none() {
                    out.add(free(at, "the first frame is not the ledger", 0));
                }
                if header.kind == Kind::Data {
                    if let Some(hole) = hole.take() {
                        out.add(missing(hole, Some((before, header.seq))));
                    }
                    before = header.seq;
                    out.last_seq = out.last_seq.max(header.seq);
                }
                let payload = walk.payload(at, &header)?;
                let (offset, bytes) = (at + header.header_len as u64, header.payload_len as u64);
                match (header.kind, &payload) {
                    (Kind::Data, Some(_)) => {
                        stats.add(&header);
                        out.frames += 1;
                        out.items += u64::from(header.items);
                    }
                    (Kind::Data, None) => out.add(Damage {
                        offset,
                        what: "a payload",
                        bytes,
                        frames: 1,
                        items: Some(u64::from(header.items)),
                    }),
                    (Kind::Commit, Some(payload)) if Ledger::decode(payload).is_none() => {
                        out.add(free(offset, "a ledger", bytes));
                    }
                    (Kind::Anchor, Some(payload)) if payload.len() != 17 => {
                        out.add(free(offset, "a clock anchor", bytes));
                    }
                    (Kind::Commit, None) => out.add(free(offset, "a ledger", bytes)),
                    (Kind::Anchor, None) => out.add(free(offset, "a clock anchor", bytes)),
                    (Kind::Footer, None) => out.add(free(offset, "the footer", bytes)),
                    _ => {}
                }
                out.checked += u64::from(payload.is_some());
            }
        }
        first = false;
    }
    if let Some(hole) = hole {
        let after = segment
            .footer
            .map(|footer| (before, footer.seqs.1.saturating_add(1)));
        let mut damage = missing(hole, after);
        if after.is_none() && damage.bytes == FOOTER as u64 {
            damage.what = "the footer, or a frame of its length";
            damage.frames = 1;
        }
        out.add(damage);
    }
    if segment.short > 0 {
        // What hangs over the edge is no append that was going on.
        out.torn = 0;
        out.add(Damage {
            what: "the end of the segment is cut off",
            ..missing((segment.len, segment.short), None)
        });
    }
    if let Some(footer) = segment.footer {
        // Counted by whoever sealed it: what is less now has been lost since.
        let told = total(&footer);
        let found = total(&stats);
        let known: u64 = out.damage.iter().map(|damage| damage.frames).sum();
        out.checked += 1;
        if told.0 < found.0 || told.0 > found.0.saturating_add(known) {
            out.add(free(segment.len, "the footer counts other frames", 0));
        } else if let [only] = out.damage.as_mut_slice()
            && only.items.is_none()
        {
            only.frames = told.0 - found.0;
            only.items = told.1.checked_sub(found.1);
        }
    }
    Ok(out)
}

/// Damage that costs no data frame.
fn free(offset: u64, what: &'static str, bytes: u64) -> Damage {
    Damage {
        offset,
        what,
        bytes,
        frames: 0,
        items: Some(0),
    }
}

/// Frames in bytes without a whole header: not more than there are seqs, nor
/// than there is room for.
fn missing((offset, bytes): (u64, u64), seqs: Option<(u64, u64)>) -> Damage {
    let room = bytes.div_ceil(FRAME_HEADER as u64);
    let between = seqs.map(|(before, after)| after.saturating_sub(before).saturating_sub(1));
    let frames = between.unwrap_or(room).min(room);
    Damage {
        offset,
        what: "frames",
        bytes,
        frames,
        items: (frames == 0).then_some(0),
    }
}

fn total(stats: &Stats) -> (u64, u64) {
    let signals = stats.signals.iter();
    signals.fold((0, 0), |(frames, items), signal| {
        (
            frames.saturating_add(u64::from(signal.frames)),
            items.saturating_add(signal.items),
        )
    })
}
