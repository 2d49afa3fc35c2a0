//! What each uplink has behind it, and what was lost: the [`Ledger`], written
//! into commit frames and into the two-slot file `cursors`.
//!
//! Pure. An uplink's progress in a class is a small set of ranges of seqs that
//! are done. Live data is acknowledged before the backlog, so there is a range
//! from 0 and one for each time the link came up; they join as the backlog drains.
//!
//! There is such a set for each signal. One signal may be held back for weeks
//! while the others pass: in a common set, each of its frames would be a gap.
//! As it is, its own ranges stand still and the others' go on. Most of the time
//! the sets of a class are equal, and are written once.
//!
//! ```text
//! ledger   version u64 | next seq u64 | cursors u8 | losses u8 | cursor… | loss… | untold u8 | untold…
//! cursor   uplink u8 (1 otlp, 2 mqtt) | class and signals u8 | ranges u16 | (gap, length)…   as LEB128
//! loss     class u8 | reason u8 | frames u64 | items u64 | first unix_ns u64 | last unix_ns u64
//! untold   class u8 | reason u8 | frames u64 | items u64
//! slot     magic "SNDECUR\n" | format u16 = 1 | zero u16 | length u32 | CRC32C u32 | ledger
//! ```
//!
//! The low half of "class and signals" is the class; the high half has a bit
//! for each signal that the ranges are about (metrics lowest), or none for all.
//!
//! The slot file has a slot at 0 and one at 16 KiB, far enough apart that no
//! flash page holds both; ledger `version` goes to slot `version % 2`, in place.

use std::collections::BTreeMap;

use crc32c::crc32c;

use super::format::{Input, MAX_SEQ, SIGNALS, VERSION, class_of};
use crate::config::UplinkName;
use crate::frame::Class;

/// How far apart the two slots begin, in bytes.
pub(crate) const SLOT: u64 = 16 * 1024;
/// The slot file's name in the spool's folder.
pub(crate) const SLOT_FILE: &str = "cursors";
const SLOT_MAGIC: &[u8; 8] = b"SNDECUR\n";
const SLOT_HEAD: usize = 20;
/// Ranges kept per cursor; beyond that the smallest are forgotten, which costs
/// repeats. As many as fit a slot if every signal of every class has its own.
pub(crate) const MAX_RANGES: usize = 32;
/// All signals, one bit each.
pub(crate) const ALL_SIGNALS: u8 = (1 << SIGNALS) - 1;
/// Uplinks there can be.
pub(crate) const UPLINKS: usize = 2;
/// Their names, by slot.
pub(crate) const UPLINK_NAMES: [UplinkName; UPLINKS] = [UplinkName::Otlp, UplinkName::Mqtt];

/// The place of an uplink in arrays.
pub(crate) fn uplink_slot(name: UplinkName) -> usize {
    match name {
        UplinkName::Otlp => 0,
        UplinkName::Mqtt => 1,
    }
}

/// Disjoint ranges of seqs, `start..end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    spans: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds `start..end`, joined with whatever it touches.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.spans.range(..=start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&next, &until)) = self.spans.range(start..=end).next() {
            self.spans.remove(&next);
            end = end.max(until);
        }
        self.spans.insert(start, end);
    }

    /// Takes one seq out again.
    pub(crate) fn remove(&mut self, seq: u64) {
        let Some((&start, &end)) = self.spans.range(..=seq).next_back() else {
            return;
        };
        if end <= seq {
            return;
        }
        self.spans.remove(&start);
        if start < seq {
            self.spans.insert(start, seq);
        }
        if seq + 1 < end {
            self.spans.insert(seq + 1, end);
        }
    }

    /// Whether `seq` is inside.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.first_gap(seq) != seq
    }

    /// Whether all of `first..=last` is inside.
    pub(crate) fn covers(&self, first: u64, last: u64) -> bool {
        self.first_gap(first) > last
    }

    /// Whether any of `first..=last` is inside.
    pub(crate) fn touches(&self, first: u64, last: u64) -> bool {
        self.contains(first) || self.spans.range(first..=last).next().is_some()
    }

    /// The lowest seq at or after `from` that is not inside.
    pub(crate) fn first_gap(&self, from: u64) -> u64 {
        match self.spans.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }

    /// What of `start..end` is not inside.
    pub(crate) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut at = self.first_gap(start);
        while at < end {
            let next = self.spans.range(at..).next();
            let until = next.map_or(end, |(&next, _)| next.min(end));
            out.push((at, until));
            at = self.first_gap(until.max(at.saturating_add(1)));
        }
        out
    }

    /// The same, further up.
    pub(crate) fn shifted(&self, by: u64) -> Self {
        let spans = self.spans.iter();
        Self {
            spans: spans
                .map(|(start, end)| (start.saturating_add(by), end.saturating_add(by)))
                .collect(),
        }
    }

    /// Both together.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (&start, &end) in &other.spans {
            all.insert(start, end);
        }
        all
    }

    /// One past the highest seq inside.
    pub(crate) fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// Forgets the smallest ranges (never the first) down to [`MAX_RANGES`].
    pub(crate) fn trim(&mut self) {
        while self.spans.len() > MAX_RANGES {
            let smallest = self
                .spans
                .iter()
                .skip(1)
                .min_by_key(|(start, end)| *end - *start)
                .map(|(&start, _)| start);
            let Some(start) = smallest else { break };
            self.spans.remove(&start);
        }
    }
}

/// How far an uplink is in one class, by signal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    signals: [Ranges; SIGNALS],
}

impl Progress {
    /// One signal's.
    pub(crate) fn of(&self, signal: usize) -> &Ranges {
        let [metrics, traces, logs, messages] = &self.signals;
        match signal {
            0 => metrics,
            1 => traces,
            2 => logs,
            _ => messages,
        }
    }

    /// Those of a set of signals.
    pub(crate) fn some(&self, signals: u8) -> impl Iterator<Item = &Ranges> {
        let all = self.signals.iter().enumerate();
        all.filter_map(move |(slot, ranges)| (signals & (1 << slot) != 0).then_some(ranges))
    }

    /// Those of a set of signals, to be changed.
    pub(crate) fn some_mut(&mut self, signals: u8) -> impl Iterator<Item = &mut Ranges> {
        let all = self.signals.iter_mut().enumerate();
        all.filter_map(move |(slot, ranges)| (signals & (1 << slot) != 0).then_some(ranges))
    }

    /// Adds `start..end` for a set of signals.
    pub(crate) fn insert(&mut self, signals: u8, start: u64, end: u64) {
        self.some_mut(signals)
            .for_each(|ranges| ranges.insert(start, end));
    }

    /// Takes one seq out again: of its own signal, and so that they stay alike
    /// of the others, unless those had it `before`.
    pub(crate) fn remove(&mut self, signal: usize, seq: u64, before: &Self) {
        let all = self.signals.iter_mut().zip(&before.signals).enumerate();
        for (slot, (ranges, before)) in all {
            if slot == signal || !before.contains(seq) {
                ranges.remove(seq);
            }
        }
    }

    /// Both together.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (mine, theirs) in all.signals.iter_mut().zip(&other.signals) {
            *mine = mine.joined(theirs);
        }
        all
    }

    /// The same, further up.
    pub(crate) fn shifted(&self, by: u64) -> Self {
        Self {
            signals: self.signals.each_ref().map(|ranges| ranges.shifted(by)),
        }
    }

    /// See [`Ranges::trim`].
    pub(crate) fn trim(&mut self) {
        self.some_mut(ALL_SIGNALS).for_each(Ranges::trim);
    }

    /// Sets of signals that stand alike, as masks, with their ranges; those
    /// that have not begun are left out.
    fn groups(&self) -> Vec<(u8, &Ranges)> {
        let mut groups: Vec<(u8, &Ranges)> = Vec::with_capacity(1);
        for (slot, ranges) in self.signals.iter().enumerate() {
            if ranges.spans.is_empty() {
                continue;
            }
            match groups.iter_mut().find(|(_, known)| *known == ranges) {
                Some((mask, _)) => *mask |= 1 << slot,
                None => groups.push((1 << slot, ranges)),
            }
        }
        groups
    }
}

/// Why something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Reason {
    /// The quota was full.
    Quota = 1,
    /// An uplink's server will never take it.
    Condemned = 2,
    /// It was there but not whole.
    Damaged = 3,
    /// No room in memory, and flash could not take it.
    Memory = 4,
    /// No uplink subscribes to the signal.
    NoUplink = 5,
    /// The body is longer than a frame may be.
    TooLarge = 6,
    /// Only an optional uplink still wanted it.
    Optional = 7,
    /// Refused to the one who offered it.
    Refused = 8,
    /// Others filled the disk: no room although the quota had some.
    DiskFull = 9,
    /// Nobody wanted it any more when its turn came.
    Expired = 10,
    /// Somebody else removed the file that held it, or cut it short.
    Removed = 11,
    /// Points that a longer step left out of old gauges; nothing else of them is lost.
    Thinned = 12,
}

impl Reason {
    const ALL: [Reason; 12] = [
        Reason::Quota,
        Reason::Condemned,
        Reason::Damaged,
        Reason::Memory,
        Reason::NoUplink,
        Reason::TooLarge,
        Reason::Optional,
        Reason::Refused,
        Reason::DiskFull,
        Reason::Expired,
        Reason::Removed,
        Reason::Thinned,
    ];

    /// As in the status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Quota => "quota",
            Reason::Condemned => "condemned",
            Reason::Damaged => "damaged",
            Reason::Memory => "memory",
            Reason::NoUplink => "no_uplink",
            Reason::TooLarge => "too_large",
            Reason::Optional => "optional",
            Reason::Refused => "refused",
            Reason::DiskFull => "disk_full",
            Reason::Expired => "expired",
            Reason::Removed => "removed",
            Reason::Thinned => "thinned",
        }
    }
}

/// How much was lost, and from when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) frames: u64,
    pub(crate) items: u64,
    /// Wall time of the earliest and the latest reading.
    pub(crate) first_unix_ns: u64,
    pub(crate) last_unix_ns: u64,
}

/// Losses by class and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    pub(crate) table: BTreeMap<(Class, Reason), Loss>,
}

impl Losses {
    /// Only how much it is.
    pub(crate) fn counts(&self) -> Untold {
        let all = self.table.iter();
        all.map(|(key, loss)| (*key, (loss.frames, loss.items)))
            .collect()
    }

    /// What is left to tell; its time is that of all that is known.
    pub(crate) fn untold(&self, untold: &Untold) -> Losses {
        let mut out = Losses::default();
        for (key, &(frames, items)) in untold {
            if let Some(loss) = self.table.get(key) {
                let rest = Loss {
                    frames,
                    items,
                    ..*loss
                };
                out.add(key.0, key.1, rest);
            }
        }
        out
    }

    /// Adds to what is known.
    pub(crate) fn add(&mut self, class: Class, reason: Reason, loss: Loss) {
        if loss.frames == 0 && loss.items == 0 {
            return;
        }
        self.table
            .entry((class, reason))
            .and_modify(|sum| {
                sum.frames = sum.frames.saturating_add(loss.frames);
                sum.items = sum.items.saturating_add(loss.items);
                sum.first_unix_ns = sum.first_unix_ns.min(loss.first_unix_ns);
                sum.last_unix_ns = sum.last_unix_ns.max(loss.last_unix_ns);
            })
            .or_insert(loss);
    }
}

/// All that must be known besides the frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Grows with each change that is written; the highest one found is the truth.
    pub(crate) version: u64,
    /// No frame has this seq or a higher one.
    pub(crate) next_seq: u64,
    /// What is done, per uplink slot and class.
    pub(crate) done: [[Progress; 4]; UPLINKS],
    /// What was lost since the folder was made.
    pub(crate) losses: Losses,
    /// How much of that has not been told upstream.
    pub(crate) untold: Untold,
}

/// What of the losses has not been told upstream: frames and items.
pub(crate) type Untold = BTreeMap<(Class, Reason), (u64, u64)>;

impl Ledger {
    /// As in a commit frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.next_seq.to_le_bytes());
        let count_at = out.len();
        out.push(0);
        out.push(self.losses.table.len().min(255) as u8);
        let mut cursors = 0_u8;
        for (uplink, classes) in self.done.iter().enumerate() {
            let groups = classes.iter().map(Progress::groups).enumerate();
            for (class, (signals, ranges)) in
                groups.flat_map(|(class, groups)| groups.into_iter().map(move |g| (class, g)))
            {
                cursors += 1;
                out.push(uplink as u8 + 1);
                let about = if signals == ALL_SIGNALS { 0 } else { signals };
                out.push(class as u8 | about << 4);
                let spans = ranges.spans.len().min(MAX_RANGES);
                out.extend_from_slice(&(spans as u16).to_le_bytes());
                let mut at = 0;
                for (&start, &end) in ranges.spans.iter().take(spans) {
                    put_varint(&mut out, start - at);
                    put_varint(&mut out, end - start);
                    at = end;
                }
            }
        }
        if let Some(count) = out.get_mut(count_at) {
            *count = cursors;
        }
        for ((class, reason), loss) in self.losses.table.iter().take(255) {
            out.push(*class as u8);
            out.push(*reason as u8);
            for number in [
                loss.frames,
                loss.items,
                loss.first_unix_ns,
                loss.last_unix_ns,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        // An older program stops reading before this; mostly there is nothing.
        if !self.untold.is_empty() {
            out.push(self.untold.len().min(255) as u8);
        }
        for ((class, reason), (frames, items)) in self.untold.iter().take(255) {
            out.extend_from_slice(&[*class as u8, *reason as u8]);
            out.extend_from_slice(&frames.to_le_bytes());
            out.extend_from_slice(&items.to_le_bytes());
        }
        out
    }

    /// Entries of uplinks and reasons it does not know are left out.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        let mut ledger = Self {
            version: input.u64()?,
            next_seq: input.u64()?,
            ..Self::default()
        };
        let cursors = input.u8()?;
        let losses = input.u8()?;
        for _ in 0..cursors {
            let uplink = usize::from(input.u8()?);
            let about = input.u8()?;
            let (class, signals) = (usize::from(about & 0x0f), about >> 4);
            let mut ranges = Ranges::default();
            let mut at = 0u64;
            for _ in 0..input.u16()? {
                let start = at.checked_add(take_varint(&mut input)?)?;
                at = start.checked_add(take_varint(&mut input)?)?;
                ranges.insert(start, at);
            }
            let place = uplink
                .checked_sub(1)
                .and_then(|slot| ledger.done.get_mut(slot)?.get_mut(class));
            if let Some(place) = place {
                let signals = if signals == 0 { ALL_SIGNALS } else { signals };
                for place in place.some_mut(signals) {
                    place.clone_from(&ranges);
                }
            }
        }
        for _ in 0..losses {
            let class = class_of(input.u8()?);
            let reason = reason_of(input.u8()?);
            let loss = Loss {
                frames: input.u64()?,
                items: input.u64()?,
                first_unix_ns: input.u64()?,
                last_unix_ns: input.u64()?,
            };
            if let (Some(class), Some(reason)) = (class, reason) {
                ledger.losses.add(class, reason, loss);
            }
        }
        ledger.untold = take_untold(&mut input).unwrap_or_default();
        // Ranges may reach beyond what is kept for a newer program, but not to the end of all seqs.
        (ledger.seq_floor() <= 2 * MAX_SEQ).then_some(ledger)
    }

    /// As in the slot file, with the slot's offset; `None`: it would not fit.
    pub(crate) fn encode_slot(&self) -> Option<(u64, Vec<u8>)> {
        let ledger = self.encode();
        let mut out = Vec::with_capacity(SLOT_HEAD + ledger.len());
        out.extend_from_slice(SLOT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(ledger.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c(&ledger).to_le_bytes());
        out.extend_from_slice(&ledger);
        (out.len() as u64 <= SLOT).then_some(((self.version % 2) * SLOT, out))
    }

    /// Reads one slot.
    pub(crate) fn decode_slot(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        if input.take(8)? != SLOT_MAGIC || input.u16()? != VERSION {
            return None;
        }
        input.take(2)?;
        let length = usize::try_from(input.u32()?).ok()?;
        let crc = input.u32()?;
        let ledger = input.take(length)?;
        (crc32c(ledger) == crc).then(|| Self::decode(ledger))?
    }

    /// The lowest seq that no cursor has behind it.
    pub(crate) fn seq_floor(&self) -> u64 {
        let all = self.done.iter().flatten();
        let ends = all.flat_map(|progress| progress.signals.iter().map(Ranges::end));
        ends.fold(self.next_seq, u64::max)
    }
}

fn reason_of(code: u8) -> Option<Reason> {
    Reason::ALL.into_iter().find(|reason| *reason as u8 == code)
}

/// `None`: there is no such part, or not all of it.
fn take_untold(input: &mut Input<'_>) -> Option<Untold> {
    let mut untold = Untold::new();
    for _ in 0..input.u8()? {
        let key = (class_of(input.u8()?), reason_of(input.u8()?));
        let counts = (input.u64()?, input.u64()?);
        if let (Some(class), Some(reason)) = key {
            untold.insert((class, reason), counts);
        }
    }
    Some(untold)
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(input: &mut Input<'_>) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = input.u8()?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_split() {
        let mut ranges = Ranges::default();
        ranges.insert(0, 5);
        ranges.insert(8, 9);
        assert!(ranges.covers(0, 4) && !ranges.covers(0, 5) && !ranges.touches(5, 7));
        assert_eq!(ranges.first_gap(0), 5);
        ranges.insert(5, 8);
        assert_eq!(ranges.first_gap(0), 9);
        ranges.remove(3);
        assert!(!ranges.contains(3) && ranges.contains(2) && ranges.contains(4));
        ranges.insert(3, 4);
        assert!(ranges.covers(0, 8));
    }

    fn sample() -> Ledger {
        let mut ledger = Ledger {
            version: 3,
            next_seq: 900,
            ..Ledger::default()
        };
        ledger.done[0][2].insert(ALL_SIGNALS, 0, 100);
        ledger.done[0][2].insert(ALL_SIGNALS, 300, 301);
        ledger.done[0][2].insert(0b0101, 400, 450);
        ledger.done[1][0].insert(ALL_SIGNALS, 5, 1 << 40);
        ledger.losses.add(
            Class::Bulk,
            Reason::Quota,
            Loss {
                frames: 1,
                items: 2,
                first_unix_ns: 3,
                last_unix_ns: 4,
            },
        );
        ledger.untold.insert((Class::Bulk, Reason::Quota), (1, 1));
        ledger
    }

    #[test]
    fn a_ledger_comes_back_as_it_went_in() {
        assert_eq!(Ledger::decode(&sample().encode()), Some(sample()));
        let (offset, slot) = sample().encode_slot().unwrap();
        assert_eq!(offset, SLOT);
        assert_eq!(Ledger::decode_slot(&slot), Some(sample()));
    }

    #[test]
    fn a_ledger_from_before_signals_had_cursors_of_their_own_is_about_all_of_them() {
        let mut old = Vec::new();
        old.extend_from_slice(&7_u64.to_le_bytes());
        old.extend_from_slice(&900_u64.to_le_bytes());
        old.extend_from_slice(&[1, 0]);
        old.extend_from_slice(&[1, 2, 1, 0, 0, 50]);
        let mut expected = Ledger {
            version: 7,
            next_seq: 900,
            ..Ledger::default()
        };
        expected.done[0][2].insert(ALL_SIGNALS, 0, 50);
        assert_eq!(Ledger::decode(&old), Some(expected.clone()));
        assert_eq!(expected.encode(), old, "and is still written so");
    }

    #[test]
    fn the_largest_ledger_fits_a_slot() {
        let mut ledger = Ledger::default();
        for progress in ledger.done.iter_mut().flatten() {
            for (signal, ranges) in progress.signals.iter_mut().enumerate() {
                for step in 0..MAX_RANGES as u64 * 2 {
                    let start = (1 << 62) + signal as u64 + step * (1 << 40);
                    ranges.insert(start, start + (1 << 39));
                }
            }
            progress.trim();
        }
        for class in Class::ALL {
            for reason in Reason::ALL {
                let loss = Loss {
                    frames: 1,
                    items: 1,
                    first_unix_ns: 1,
                    last_unix_ns: 1,
                };
                ledger.losses.add(class, reason, loss);
                ledger.untold.insert((class, reason), (1, 1));
            }
        }
        let (_, slot) = ledger.encode_slot().expect("fits");
        assert_eq!(Ledger::decode_slot(&slot), Some(ledger));
    }

    #[test]
    fn no_cut_or_flipped_byte_of_a_slot_passes_or_panics() {
        let (_, slot) = sample().encode_slot().unwrap();
        for at in 0..slot.len() {
            let _ = Ledger::decode(&slot[at..]);
            assert_eq!(Ledger::decode_slot(&slot[..at]), None);
            let mut bad = slot.clone();
            bad[at] ^= 1;
            assert!(Ledger::decode_slot(&bad).is_none_or(|ledger| ledger == sample()));
        }
    }
}
