//! The files: four chains of append-only segments. Synchronous, owns no
//! thread and no clock, knows no uplink.
//!
//! What it promises: a frame whose [`Log::write`] returned `Ok` survives a
//! power cut. A segment that a write or a sync failed on is never written
//! again; what it held for certain stays readable, the rest the caller still
//! has and writes into a new segment.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::cursor::{Ledger, Loss, Reason, SLOT, UPLINKS};
use super::format::{
    self, FOOTER, FrameHeader, FrameParts, Kind, SEGMENT_HEADER, SIGNALS, SegmentHeader, Stats,
    signal_slot,
};
use super::mutant::{Mutant, made};
use super::storage::{Storage, is_full};
use crate::frame::{Batch, Class, Signal, Stamp};

/// Bytes appended per sync at most, so that the buffer stays small.
const COMMIT: usize = 256 * 1024;
/// What a file occupies is rounded up to this, in bytes.
pub(super) const BLOCK: u64 = 4096;
/// What a journal takes per sync or removal, besides the data, in bytes: ext4
/// writes a descriptor, the inode's block and a commit, and that block in its
/// place later.
pub(super) const JOURNAL: u64 = 4 * BLOCK;
/// Blocks are reserved ahead of an open segment where appending gets cheaper by
/// that: as many bytes as it has, between these two,
const AHEAD: (u64, u64) = (4 * BLOCK, 16 * BLOCK);
/// and no more than this part of the quota: a segment that ends early keeps them.
const AHEAD_PART: u64 = 32;
/// The device's own figures are read at most this often, in nanoseconds.
const DEVICE_EVERY: u64 = 10_000_000_000;
/// The cursor file's share of the quota, in bytes.
pub(super) const SLOTS: u64 = 2 * SLOT;
/// A wall clock that moved by more than this against boot time gets a new anchor.
const ANCHOR_STEP_NS: u64 = 100_000_000;

/// What is fixed for one start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Bytes that the files may occupy.
    pub(crate) quota: u64,
    /// Bytes that stay free on the file system.
    pub(crate) reserve: u64,
    /// A segment is sealed when it is this long.
    pub(crate) segment: u64,
    pub(crate) epoch: u32,
    pub(crate) boot_id: [u8; 16],
    /// Mixed into each segment's nonce.
    pub(crate) seed: u64,
}

impl Settings {
    /// The segment size that fits a quota.
    pub(crate) fn segment_for(quota: u64) -> u64 {
        (quota / 64).clamp(256 * 1024, 4 * 1024 * 1024)
    }
}

/// The time of a write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) stamp: Stamp,
    /// Whether the wall clock is believed.
    pub(crate) synchronised: bool,
}

/// Frames, items, bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) frames: u64,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.frames = self.frames.saturating_add(other.frames);
        self.items = self.items.saturating_add(other.items);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// All of them together.
    pub(crate) fn sum(parts: &[Counts]) -> Counts {
        let mut sum = Counts::default();
        parts.iter().for_each(|part| sum.add(*part));
        sum
    }

    pub(crate) fn sub(&mut self, other: Counts) {
        self.frames = self.frames.saturating_sub(other.frames);
        self.items = self.items.saturating_sub(other.items);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// A place in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) nonce: u64,
    pub(crate) epoch: u32,
    /// Where the frames that count end.
    pub(crate) end: u32,
    /// Bytes in the file.
    pub(crate) size: u64,
    /// What the file system said last that it occupies.
    pub(crate) occupied: u64,
    pub(crate) stats: Stats,
    /// It is not appended to any more.
    pub(crate) closed: bool,
    /// Not ours to read: newer or without a header.
    pub(crate) opaque: bool,
    /// It has no whole header and can hold nothing that anybody will read: first to go.
    pub(crate) junk: bool,
    /// Of a newer format: it has frames that a newer program will want, seqs from here on.
    pub(crate) newer: Option<u64>,
    /// What its clocks say about the age of its readings.
    pub(crate) clock: SegmentClock,
    /// What each uplink has not been given of it, by signal; kept by the queue.
    pub(crate) remaining: [[Counts; SIGNALS]; UPLINKS],
    /// What each uplink should have found in it and did not.
    pub(crate) missed: [Counts; UPLINKS],
    /// What of that has been counted as lost: they all miss the same frames.
    pub(crate) booked: Counts,
    /// Somebody removed it or cut it short.
    pub(crate) robbed: bool,
    pub(super) marks: BTreeSet<u32>,
}

impl Segment {
    /// What an uplink has not been given of one signal.
    pub(crate) fn left_mut(&mut self, slot: usize, signal: Signal) -> Option<&mut Counts> {
        self.remaining.get_mut(slot)?.get_mut(signal_slot(signal))
    }

    /// Why something is missing of it.
    pub(crate) fn reason(&self) -> Reason {
        if self.robbed {
            Reason::Removed
        } else {
            Reason::Damaged
        }
    }

    /// An uplink misses this much of it. Returns what nobody has counted yet.
    pub(crate) fn miss(&mut self, slot: usize, missing: Counts) -> Option<Loss> {
        let missed = self.missed.get_mut(slot)?;
        missed.add(missing);
        let mut fresh = *missed;
        fresh.sub(self.booked);
        if fresh.frames == 0 {
            return None;
        }
        self.booked.add(fresh);
        Some(Loss {
            frames: fresh.frames,
            items: fresh.items,
            first_unix_ns: self.stats.first.unix_ns,
            last_unix_ns: self.stats.last.unix_ns,
        })
    }
}

/// By which clock a segment's readings have an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentClock {
    /// Written in this boot: by the time since boot.
    Boot,
    /// Written in an earlier one, when the wall clock was believed: by that.
    Wall,
    /// Nobody knows.
    Unknown,
}

/// A frame to be written.
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    pub(crate) batch: &'a Batch,
    /// An uplink has had it.
    pub(crate) given: bool,
}

/// Why a write did not become durable.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The quota is full: evict and try again.
    Full,
    /// The disk is full though the quota is not: others took the room.
    Disk,
    /// The class has all that it may have, lest others lose their guaranteed share.
    Share,
    /// The disk failed.
    Failed(io::Error),
}

pub(super) struct Active<F> {
    pub(super) id: u64,
    pub(super) file: F,
    anchor: Now,
}

pub(super) struct Chain<F> {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) active: Option<Active<F>>,
    pub(super) next_id: u64,
    made: bool,
}

/// All chains.
pub(crate) struct Log<S: Storage> {
    pub(super) storage: S,
    pub(super) settings: Settings,
    pub(super) chains: [Chain<S::File>; 4],
    /// The newest durable ledger's version and the segment that holds it (`None`: the slot file).
    pub(crate) holder: (u64, Option<(Class, u64)>),
    nonces: u64,
    pub(super) cache: Option<(Class, u64, u32)>,
    pub(super) piece: Vec<u8>,
    /// The last look at a chain ended at a place that cannot be read now.
    pub(crate) stuck: bool,
    /// That segment, and how often it was tried.
    pub(super) unread: Option<(Class, u64, u32)>,
    /// Reads that failed.
    pub(crate) read_errors: u64,
    /// Why nothing can be read now that can be written: somebody took away the right to.
    pub(crate) denied: Option<String>,
    pub(super) slots_made: bool,
    /// The cursor file occupies all that it ever will.
    pub(super) slots_allocated: bool,
    /// Bytes that evictions freed on a disk that others filled, for new data to take.
    pub(super) credit: u64,
    /// Segments that turned out shorter than what was written to them, or gone.
    pub(super) robbed: Vec<(Class, u64)>,
    /// The largest quota that was in effect; the guaranteed shares are of this.
    pub(super) widest: u64,
    /// Bytes by which the last write that found the disk full missed its room;
    /// `None`: the file system itself refused.
    pub(crate) missing: Option<u64>,
    /// There are inodes left for a new file.
    pub(super) inodes: bool,
    /// Bytes written since the start.
    pub(crate) written: u64,
    /// What of it reaches the device, as an estimate: see `budget`.
    pub(crate) flash: u64,
    device_at: Option<u64>,
    device_first: Option<u64>,
    device: Option<u64>,
    /// Syncs since the start.
    pub(crate) syncs: u64,
    /// Damaged stretches stepped over.
    pub(crate) damaged: u64,
}

/// A segment's path.
pub(super) fn path_of(class: Class, id: u64) -> String {
    format!("{}/{id:016x}.seg", class.as_str())
}

impl<S: Storage> Log<S> {
    /// An empty log; [`Log::recover`] fills it.
    pub(crate) fn new(storage: S, settings: Settings) -> Self {
        Self {
            storage,
            nonces: settings.seed,
            settings,
            chains: std::array::from_fn(|_| Chain {
                segments: BTreeMap::new(),
                active: None,
                next_id: 1,
                made: false,
            }),
            holder: (0, None),
            cache: None,
            piece: Vec::new(),
            stuck: false,
            unread: None,
            read_errors: 0,
            denied: None,
            slots_made: false,
            slots_allocated: false,
            credit: 0,
            robbed: Vec::new(),
            widest: 0,
            missing: None,
            inodes: true,
            written: 0,
            flash: 0,
            device_at: None,
            device_first: None,
            device: None,
            syncs: 0,
            damaged: 0,
        }
    }

    /// Another quota.
    pub(crate) fn resize(&mut self, quota: u64, reserve: u64) {
        self.settings.quota = quota;
        self.settings.reserve = reserve;
        self.settings.segment = Settings::segment_for(quota);
        self.widest = 0;
    }

    /// Bytes that the files occupy.
    pub(crate) fn usage(&self) -> u64 {
        let files = self.chains.iter().flat_map(|chain| chain.segments.values());
        files.map(occupied).sum::<u64>() + self.slots_share()
    }

    /// What a class's files occupy.
    pub(crate) fn class_usage(&self, class: Class) -> u64 {
        self.segments(class).values().map(occupied).sum()
    }

    /// The most that a class may occupy. `critical` has a guaranteed eighth,
    /// the outbox a guaranteed quarter; other classes give way to both anyway.
    fn cap(&self, class: Class, limit: u64) -> u64 {
        let room = limit.saturating_sub(SLOTS + self.headroom(limit));
        match class {
            Class::Critical => room - room / 4,
            Class::Outbox => room - room / 8,
            Class::Normal | Class::Bulk => limit,
        }
    }

    /// What is kept for `critical` to begin a segment, whatever else there is.
    pub(super) fn headroom(&self, limit: u64) -> u64 {
        self.settings.segment.min(limit / 8)
    }

    pub(super) fn slots_share(&self) -> u64 {
        if self.slots_made { SLOTS } else { 0 }
    }

    /// Bytes that all programs have written to the device since this start;
    /// looked up every ten seconds at most.
    pub(crate) fn device_written(&mut self, at: u64) -> Option<u64> {
        if self
            .device_at
            .is_none_or(|then| at >= then.saturating_add(DEVICE_EVERY))
        {
            self.device_at = Some(at);
            let now = self.storage.device_written();
            let first = *self.device_first.get_or_insert(now.unwrap_or(0));
            self.device = now.map(|now| now.saturating_sub(first));
        }
        self.device
    }

    /// A class's segments, oldest first.
    pub(crate) fn segments(&self, class: Class) -> &BTreeMap<u64, Segment> {
        &self.chain(class).segments
    }

    /// A class's segments, to keep their counts.
    pub(crate) fn segments_mut(&mut self, class: Class) -> impl Iterator<Item = &mut Segment> {
        self.chain_mut(class).segments.values_mut()
    }

    /// One segment, to keep its counts.
    pub(crate) fn segment_mut(&mut self, class: Class, id: u64) -> Option<&mut Segment> {
        self.chain_mut(class).segments.get_mut(&id)
    }

    /// The highest seq in a class; 0: none.
    pub(crate) fn newest(&self, class: Class) -> u64 {
        let segments = self.chain(class).segments.values();
        segments
            .map(|segment| segment.stats.seqs.1)
            .max()
            .unwrap_or(0)
    }

    /// Whether any file holds frames.
    pub(crate) fn is_empty(&self) -> bool {
        let mut segments = self.chains.iter().flat_map(|chain| chain.segments.values());
        segments.all(|segment| segment.stats.seqs == (0, 0))
    }

    /// Writes the first of `frames` that fit one segment and one commit, with
    /// the ledger if it is newer than the durable one, and syncs. Returns where they are.
    pub(crate) fn write(
        &mut self,
        class: Class,
        frames: &[Record<'_>],
        ledger: &Ledger,
        now: Now,
    ) -> Result<Vec<(Pos, FrameHeader)>, WriteError> {
        let first = frames.first().map_or(0, |record| estimate(record.batch));
        let limit = self.limit();
        if !self.is_intact(class) {
            self.abandon(class);
        }
        if let Some(room) = self.active_end(class)
            && u64::from(room) + first as u64 + FOOTER as u64 > self.settings.segment
        {
            self.seal(class);
        }
        let fresh = self.chain(class).active.is_none();
        let floor = frames.first().map_or(0, |record| record.seq);
        let (id, nonce, mut out) = self.opening(class, fresh, floor, now);
        let base = if fresh {
            0
        } else {
            self.active_end(class).unwrap_or(0)
        };
        let mut stats = self.stats_of(class, id);
        if fresh {
            stats.ledger = (out.len() as u32, ledger.version);
            put_ledger(&mut out, nonce, ledger);
        }
        let mut written = Vec::new();
        for record in frames {
            let room = base as usize + out.len() + estimate(record.batch) + FOOTER;
            let full = room as u64 > self.settings.segment || out.len() > COMMIT;
            if full && !written.is_empty() {
                break;
            }
            let at = out.len();
            put_record(&mut out, nonce, record);
            let header = out.get(at..).and_then(|b| format::decode_header(b, nonce));
            let Some(header) = header else {
                // Not reachable: a frame just encoded decodes. Better unwritten than unreadable.
                out.truncate(at);
                break;
            };
            stats.add(&header);
            let offset = base.saturating_add(at as u32);
            written.push((
                Pos {
                    segment: id,
                    offset,
                },
                header,
            ));
        }
        if !fresh && ledger.version > self.holder.0 {
            stats.ledger = (base.saturating_add(out.len() as u32), ledger.version);
            put_ledger(&mut out, nonce, ledger);
        }
        self.put_anchor(class, &mut out, nonce, now);
        let size = u64::from(base) + out.len() as u64;
        let before = match self.chain(class).segments.get(&id) {
            Some(segment) if !fresh => occupied(segment),
            _ => 0,
        };
        let least = blocks(size + FOOTER as u64);
        let mut grown = least.saturating_sub(before);
        // The cursor file has its share before it exists.
        let share = SLOTS - self.slots_share();
        let free = made(Mutant::QuotaIgnored);
        if fresh && !self.inodes {
            self.missing = None;
            return Err(WriteError::Disk);
        }
        // The others have no share of their own, only what there is.
        let bounded = matches!(class, Class::Critical | Class::Outbox) && !free;
        if bounded && self.class_usage(class) + grown > self.cap(class, self.widest) {
            return Err(WriteError::Share);
        }
        // `critical` finds room for a segment even before anything has gone.
        let headroom = match class {
            Class::Critical => 0,
            _ => self.headroom(limit),
        };
        let ahead = if grown > 0 && self.storage.reserves() {
            let most = blocks(self.settings.segment).saturating_sub(least);
            size.clamp(AHEAD.0, AHEAD.1)
                .min(limit / AHEAD_PART)
                .min(most)
        } else {
            0
        };
        let ahead = blocks(ahead);
        let fits = self.usage() + share + headroom + grown + ahead <= limit
            && self.class_usage(class) + grown + ahead <= self.cap(class, self.widest);
        let reserve = (ahead > 0 && fits).then_some(least + ahead);
        if reserve.is_some() {
            grown += ahead;
        }
        let needed = self.usage() + share + headroom + grown;
        if needed > limit && !free {
            if needed > self.settings.quota {
                return Err(WriteError::Full);
            }
            self.missing = Some(needed - limit);
            return Err(WriteError::Disk);
        }
        self.missing = None;
        self.credit = self.credit.saturating_sub(grown);
        self.append(class, id, nonce, fresh, (&out, reserve), now)?;
        if let Some(segment) = self.segment_mut(class, id) {
            segment.end = u32::try_from(size).unwrap_or(u32::MAX);
            segment.size = size;
            stats.end = segment.end;
            segment.stats = stats;
        }
        if fresh || ledger.version > self.holder.0 {
            self.holder = (ledger.version, Some((class, id)));
        }
        Ok(written)
    }

    /// A nonce that no other segment has.
    pub(super) fn fresh_nonce(&mut self) -> u64 {
        self.nonces = next_random(self.nonces);
        self.nonces
    }

    /// The bytes that open a commit: a header if the segment is new.
    fn opening(&mut self, class: Class, fresh: bool, floor: u64, now: Now) -> (u64, u64, Vec<u8>) {
        if !fresh && let Some(active) = &self.chain(class).active {
            let id = active.id;
            let nonce = self.chain(class).segments.get(&id).map_or(0, |s| s.nonce);
            return (id, nonce, Vec::new());
        }
        let nonce = self.fresh_nonce();
        let chain = self.chain(class);
        let previous = chain.segments.last_key_value();
        let id = chain.next_id;
        let header = SegmentHeader {
            class,
            id,
            nonce,
            epoch: self.settings.epoch,
            previous: previous.map_or(0, |(&id, _)| id),
            previous_end: previous.map_or(0, |(_, segment)| segment.end),
            boot_id: self.settings.boot_id,
            made: now.stamp,
            synchronised: now.synchronised,
            floor,
        };
        (id, nonce, header.encode())
    }

    /// An anchor if the wall clock has moved against boot time since the last one.
    fn put_anchor(&mut self, class: Class, out: &mut Vec<u8>, nonce: u64, now: Now) {
        let Some(active) = &mut self.chain_mut(class).active else {
            return;
        };
        let offset = |at: Stamp| at.unix_ns.wrapping_sub(at.boot_ns);
        let step = offset(now.stamp).wrapping_sub(offset(active.anchor.stamp)) as i64;
        if step.unsigned_abs() < ANCHOR_STEP_NS && active.anchor.synchronised == now.synchronised {
            return;
        }
        active.anchor = now;
        let payload = format::encode_anchor(now.stamp, now.synchronised);
        format::encode_frame(out, nonce, &FrameParts::plain(Kind::Anchor), &payload);
    }

    fn append(
        &mut self,
        class: Class,
        id: u64,
        nonce: u64,
        fresh: bool,
        (bytes, reserve): (&[u8], Option<u64>),
        now: Now,
    ) -> Result<(), WriteError> {
        if fresh && let Err(error) = self.create(class, id, nonce, now) {
            return Err(error.into());
        }
        match self.append_synced(class, fresh, bytes, reserve) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.abandon(class);
                Err(error.into())
            }
        }
    }

    fn create(&mut self, class: Class, id: u64, nonce: u64, now: Now) -> io::Result<()> {
        if !self.chain(class).made {
            self.storage.make_dir(class.as_str())?;
            self.chain_mut(class).made = true;
        }
        // A name is used once, even if making the file failed half-way; somebody
        // else's file may have the next one.
        let chain = self.chain_mut(class);
        let mut next = id.saturating_add(1);
        while chain.segments.contains_key(&next) {
            next = next.saturating_add(1);
        }
        chain.next_id = next;
        let file = match self.storage.create(&path_of(class, id)) {
            Ok(file) => file,
            Err(error) => {
                // The folder may have been taken away: look again next time.
                self.chain_mut(class).made = false;
                return Err(error);
            }
        };
        let segment = Segment {
            nonce,
            epoch: self.settings.epoch,
            end: SEGMENT_HEADER as u32,
            size: 0,
            occupied: 0,
            stats: Stats::default(),
            closed: false,
            opaque: false,
            junk: false,
            newer: None,
            clock: SegmentClock::Boot,
            remaining: Default::default(),
            missed: Default::default(),
            booked: Counts::default(),
            robbed: false,
            marks: BTreeSet::new(),
        };
        let chain = self.chain_mut(class);
        chain.segments.insert(id, segment);
        chain.active = Some(Active {
            id,
            file,
            anchor: now,
        });
        Ok(())
    }

    fn append_synced(
        &mut self,
        class: Class,
        fresh: bool,
        bytes: &[u8],
        reserve: Option<u64>,
    ) -> io::Result<()> {
        let Self {
            storage, chains, ..
        } = self;
        let chain = chains.get_mut(class as usize);
        let Some((chain, active)) = chain.and_then(|chain| {
            let Chain {
                segments, active, ..
            } = chain;
            Some((segments, active.as_mut()?))
        }) else {
            return Err(io::Error::other("no segment is open"));
        };
        // The block that the last write ended in is written again.
        let base = chain.get(&active.id).map_or(0, |segment| segment.size);
        let touched = blocks(base % BLOCK + bytes.len() as u64);
        self.flash = self.flash.saturating_add(touched + JOURNAL);
        if let Some(len) = reserve {
            storage.reserve(&mut active.file, len);
        }
        storage.append(&mut active.file, bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.syncs = self.syncs.saturating_add(1);
        let synced = if made(Mutant::NoSync) {
            Ok(())
        } else {
            storage.sync(&mut active.file)
        };
        match synced {
            Err(_) if made(Mutant::FailedSyncTaken) => {}
            Err(_) if made(Mutant::SyncAskedAgain) => storage.sync(&mut active.file)?,
            result => result?,
        }
        if fresh && !made(Mutant::NoFolderSync) {
            storage.sync_dir(class.as_str())?;
        }
        // A file without a name takes everything, and keeps nothing; one that
        // somebody else changes does not have it where the cursors will look.
        let (len, occupied) = storage.measure(&mut active.file)?;
        if let Some(segment) = chain.get_mut(&active.id) {
            segment.occupied = occupied;
            let expected = segment.size.saturating_add(bytes.len() as u64);
            if len != expected && !made(Mutant::LengthUnchecked) {
                return Err(io::Error::other(format!(
                    "{} has {len} bytes instead of {expected}: somebody else writes to it",
                    path_of(class, active.id)
                )));
            }
        }
        Ok(())
    }

    /// The segment that is being written is as long as what was written to it.
    fn is_intact(&mut self, class: Class) -> bool {
        let Self {
            storage, chains, ..
        } = self;
        let Some(chain) = chains.get_mut(class as usize) else {
            return true;
        };
        let Some(active) = &mut chain.active else {
            return true;
        };
        let size = chain.segments.get(&active.id).map(|segment| segment.size);
        let len = storage.measure(&mut active.file).ok().map(|(len, _)| len);
        len == size || made(Mutant::LengthUnchecked)
    }

    /// Gives up a segment that failed. What was durable in it stays.
    fn abandon(&mut self, class: Class) {
        let Some(active) = self.chain_mut(class).active.take() else {
            return;
        };
        let path = path_of(class, active.id);
        let folder = self.storage.list(class.as_str());
        let known = folder.is_ok();
        let name = format!("{:016x}.seg", active.id);
        let mut folder = folder.unwrap_or_default().into_iter();
        let listed = folder.find(|listed| listed.name == name);
        // The folder may have been taken away with it.
        let gone = listed.is_none();
        let end = self.chain(class).segments.get(&active.id).map(|s| s.end);
        let len = listed.as_ref().map_or(0, |listed| listed.len);
        let held = end.is_some_and(|end| end as usize > SEGMENT_HEADER);
        if known && held && end.is_some_and(|end| len < u64::from(end)) {
            self.robbed.push((class, active.id));
            self.cache = None;
        }
        let chain = self.chain_mut(class);
        chain.made &= !gone;
        let Some(segment) = chain.segments.get_mut(&active.id) else {
            return;
        };
        segment.closed = true;
        if let Some(listed) = listed {
            segment.size = listed.len;
            segment.occupied = listed.occupied;
            let len = u32::try_from(listed.len).unwrap_or(u32::MAX);
            segment.end = segment.end.min(len.max(SEGMENT_HEADER as u32));
        }
        // Nothing in it counts: a name less to look at. If that fails the file is only in the way.
        if !held && self.storage.unlink(&path).is_ok() {
            self.chain_mut(class).segments.remove(&active.id);
        }
    }

    /// Ends the segment that is being written. The footer needs no sync of its
    /// own: without it the next start scans the segment.
    pub(crate) fn seal(&mut self, class: Class) {
        // A footer at the end of what is not there would vouch for it.
        if !self.is_intact(class) {
            self.abandon(class);
            return;
        }
        let Some(mut active) = self.chain_mut(class).active.take() else {
            return;
        };
        let Some(segment) = self.segment_mut(class, active.id) else {
            return;
        };
        segment.closed = true;
        let mut footer = Vec::with_capacity(FOOTER);
        format::encode_footer(&mut footer, segment.nonce, &segment.stats);
        segment.size += footer.len() as u64;
        if self.storage.append(&mut active.file, &footer).is_ok() {
            self.written = self.written.saturating_add(footer.len() as u64);
        }
    }

    /// Seals all that is open and syncs the footers.
    pub(crate) fn seal_all(&mut self) {
        for class in Class::ALL {
            self.seal(class);
        }
    }

    /// Removes a segment. It leaves the list only if the file went.
    pub(crate) fn remove(&mut self, class: Class, id: u64) -> io::Result<Option<Segment>> {
        if self
            .chain(class)
            .active
            .as_ref()
            .is_some_and(|active| active.id == id)
        {
            self.chain_mut(class).active = None;
        }
        if let Some(segment) = self.segment_mut(class, id) {
            segment.closed = true;
        }
        self.flash = self.flash.saturating_add(JOURNAL);
        self.storage.unlink(&path_of(class, id))?;
        Ok(self.chain_mut(class).segments.remove(&id))
    }

    /// Looks for segments that are gone or shorter than what they hold.
    pub(super) fn audit(&mut self) {
        for class in Class::ALL {
            let Self {
                storage, chains, ..
            } = self;
            let chain = chains.get(class as usize);
            let segments = chain.into_iter().flat_map(|chain| &chain.segments);
            // Not by listing the folder: there may be any number of other names.
            let robbed = segments.filter(|(id, segment)| {
                let path = path_of(class, **id);
                let last = u64::from(segment.end.saturating_sub(1));
                !segment.opaque
                    && !segment.robbed
                    && match storage.read_at(&path, last, &mut [0]) {
                        Ok(count) => count == 0,
                        Err(error) => error.kind() == io::ErrorKind::NotFound,
                    }
            });
            let robbed: Vec<(Class, u64)> = robbed.map(|(&id, _)| (class, id)).collect();
            self.robbed.extend(robbed);
        }
        if !self.robbed.is_empty() {
            self.cache = None;
        }
    }

    fn active_end(&self, class: Class) -> Option<u32> {
        let chain = self.chain(class);
        let id = chain.active.as_ref()?.id;
        chain.segments.get(&id).map(|segment| segment.end)
    }

    fn stats_of(&self, class: Class, id: u64) -> Stats {
        let segment = self.chain(class).segments.get(&id);
        segment.map_or_else(Stats::default, |segment| segment.stats)
    }

    pub(super) fn chain(&self, class: Class) -> &Chain<S::File> {
        let [critical, outbox, normal, bulk] = &self.chains;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    pub(super) fn chain_mut(&mut self, class: Class) -> &mut Chain<S::File> {
        let [critical, outbox, normal, bulk] = &mut self.chains;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if is_full(&error) {
            WriteError::Disk
        } else {
            WriteError::Failed(error)
        }
    }
}

/// What a segment occupies; an open one has its footer to come.
fn occupied(segment: &Segment) -> u64 {
    let footer = if segment.closed { 0 } else { FOOTER as u64 };
    blocks(segment.size + footer).max(segment.occupied)
}

pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// SplitMix64: spreads the start's random seed over its segments.
fn next_random(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The most bytes a frame can take.
fn estimate(batch: &Batch) -> usize {
    let state = batch
        .context
        .as_ref()
        .map_or(0, |context| context.state.len());
    batch.body.len() + format::FRAME_HEADER + 64 + state
}

pub(super) fn put_ledger(out: &mut Vec<u8>, nonce: u64, ledger: &Ledger) {
    let parts = FrameParts::plain(Kind::Commit);
    format::encode_frame(out, nonce, &parts, &ledger.encode());
}

fn put_record(out: &mut Vec<u8>, nonce: u64, record: &Record<'_>) {
    let batch = record.batch;
    let parts = FrameParts {
        kind: Kind::Data,
        signal: Some(batch.signal),
        codec: batch.codec,
        seq: record.seq,
        items: batch.items,
        first: batch.first,
        last: batch.last,
        context: batch.context.as_ref(),
        given: record.given,
    };
    format::encode_frame(out, nonce, &parts, &batch.body);
}
