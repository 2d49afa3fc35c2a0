//! Old gauges take less room before anything is dropped.
//!
//! From 70 % of the quota on, the oldest sealed segments of `bulk`, then of
//! `normal`, are written anew: batches of metrics that lie within one step
//! become one that says less often what they say (see [`Rewrite`]); everything
//! else is copied. The step is five minutes, and an hour once all have that.
//!
//! The new file is complete, with its footer, and synced under a name of its
//! own before it takes the old one's place by `rename(2)`: at any cut there is
//! one of the two, whole. It carries the ledger that counts what was left out,
//! so neither is known without the other. A segment that any uplink has been
//! given something of stays as it is, so no cursor ever points into another file
//! than it was made for. What is damaged stays as it is too.

use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::cursor::{Ledger, Loss, Reason, UPLINKS};
use super::format::{self, FrameHeader, FrameParts, Kind, SEGMENT_HEADER, SegmentHeader, Stats};
use super::log::{Counts, JOURNAL, Log, Now, Pos, SLOTS, blocks, path_of};
use super::mutant::{Mutant, made};
use super::queue::Core;
use super::storage::Storage;
use crate::frame::{Class, Codec, MAX_BODY, Signal};

/// The steps that old gauges are thinned to, in seconds.
const STEPS: [u32; 2] = [300, 3600];
/// One segment at a time, this far apart, in nanoseconds.
const EVERY: u64 = 5_000_000_000;
/// After the disk had no room or failed.
const RETRY: u64 = 60_000_000_000;
/// Bytes appended at a time.
const CHUNK: usize = 128 * 1024;

/// What a rewrite made of some batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// How the body is packed.
    pub codec: Codec,
    /// The one batch in their stead.
    pub body: Bytes,
    /// Data points in it.
    pub items: u32,
}

/// What changes a stored batch. The spool itself knows no signal's meaning.
pub trait Rewrite: Send {
    /// Several batches of metrics as one that keeps, per step, the first, least,
    /// greatest and last real points of gauges; `None`: they must stay as they are.
    fn thin(&self, bodies: &[(Codec, Bytes)], step: Duration) -> Option<Thinned>;

    /// A batch with every time in it moved by `by_ns` nanoseconds; `None`: it
    /// must stay as it is.
    fn shift(
        &self,
        signal: Signal,
        codec: Codec,
        body: &Bytes,
        by_ns: i64,
    ) -> Option<(Codec, Bytes)>;
}

/// A frame of the old file.
struct Old {
    pos: Pos,
    header: FrameHeader,
    /// It is thinned together with the ones before it, and is the last of them.
    closes: bool,
    /// It is metrics, and takes part.
    thins: bool,
}

/// What became of a segment.
enum End {
    /// It is replaced.
    Replaced,
    /// It is as it was, and always will be.
    Kept,
    /// Not now.
    Later,
}

impl<S: Storage> Core<S> {
    /// Thins one segment if the files take much of the quota.
    pub(super) fn thin(&mut self, now: Now) {
        let at = now.stamp.boot_ns;
        let Some(log) = &self.log else { return };
        let much = log.usage() > log.settings.quota / 10 * 7;
        if !much || self.rewrite.is_none() || at < self.disk.thin_at.max(self.disk.retry_at) {
            return;
        }
        self.disk.thin_at = at.saturating_add(EVERY);
        let Some((class, id, step)) = self.thinnable() else {
            return;
        };
        match self.thin_segment(class, id, step) {
            Ok(End::Replaced) => {}
            Ok(End::Kept) => {
                let segment = self.log.as_mut().and_then(|log| log.segment_mut(class, id));
                if let Some(segment) = segment {
                    segment.stats.thinned = step;
                }
            }
            Ok(End::Later) => self.disk.thin_at = at.saturating_add(RETRY),
            Err(error) => {
                self.disk.thin_at = at.saturating_add(RETRY);
                log::debug!("spool: a segment was not thinned: {error}");
            }
        }
    }

    /// The oldest segment that may be thinned, and the step.
    fn thinnable(&self) -> Option<(Class, u64, u32)> {
        let log = self.log.as_ref()?;
        for step in STEPS {
            for class in [Class::Bulk, Class::Normal] {
                let mut segments = log.segments(class).iter();
                let found = segments.find(|(_, segment)| {
                    let metrics = segment.stats.signals.first();
                    let metrics = metrics.is_some_and(|metrics| metrics.frames > 0);
                    let plain = segment.closed && !segment.opaque && !segment.robbed;
                    let (first, last) = segment.stats.seqs;
                    let inside = self.readers.iter().flatten().any(|reader| {
                        let signals = segment.stats.mask() & reader.wants;
                        let mut given = reader.given(class).some(signals);
                        let mut open = reader.open.range(first..=last);
                        given.any(|ranges| ranges.touches(first, last))
                            || open.any(|(_, open)| open.class == class)
                    });
                    metrics && plain && segment.stats.thinned < step && !inside
                });
                if let Some((&id, _)) = found {
                    return Some((class, id, step));
                }
            }
        }
        None
    }

    fn thin_segment(&mut self, class: Class, id: u64, step: u32) -> io::Result<End> {
        let mut ledger = self.ledger();
        let Self { log, rewrite, .. } = self;
        let (Some(log), Some(rewrite)) = (log.as_mut(), rewrite.as_ref()) else {
            return Ok(End::Later);
        };
        if !log.has_room_beside(class, id) {
            return Ok(End::Later);
        }
        let Some(frames) = log.frames_of(class, id, step) else {
            return Ok(End::Kept);
        };
        let made_of = log.rewritten(class, id, step, &frames, rewrite.as_ref(), &mut ledger);
        let name = new_name(class, id);
        let written = match made_of {
            Ok(Some(written)) => written,
            other => {
                // What is left of it goes at the next start at the latest.
                let _ = log.storage.unlink(&name);
                return other.map(|_| End::Kept);
            }
        };
        if let Err(error) = log.storage.rename(&name, &path_of(class, id)) {
            let _ = log.storage.unlink(&name);
            return Err(error);
        }
        // From here on the name stands for the new file. Until the folder is
        // synced a cut may bring the old one back, with the older ledger.
        log.cache = None;
        let synced = log.storage.sync_dir(class.as_str());
        log.syncs = log.syncs.saturating_add(2);
        log.flash = log.flash.saturating_add(blocks(written.size) + 3 * JOURNAL);
        log.written = log.written.saturating_add(written.size);
        if let Some(segment) = log.segment_mut(class, id) {
            segment.nonce = written.nonce;
            segment.end = written.stats.end;
            segment.size = written.size;
            segment.occupied = 0;
            segment.stats = written.stats;
            segment.marks.clear();
        }
        if synced.is_ok() {
            log.holder = (ledger.version, Some((class, id)));
            self.durable = ledger.clone();
        }
        self.version = ledger.version;
        for reader in self.readers.iter_mut().flatten() {
            reader.hints = Default::default();
        }
        for slot in 0..UPLINKS {
            self.recount_segment(slot, class, id);
        }
        self.lose(class, Reason::Thinned, written.loss);
        Ok(End::Replaced)
    }
}

/// The new file.
struct Written {
    nonce: u64,
    size: u64,
    stats: Stats,
    /// What it left out.
    loss: Loss,
}

fn new_name(class: Class, id: u64) -> String {
    format!("{}/{id:016x}.new", class.as_str())
}

impl<S: Storage> Log<S> {
    /// Both files fit the quota for a while, with what must stay free.
    fn has_room_beside(&mut self, class: Class, id: u64) -> bool {
        let limit = self.limit();
        let size = self.segments(class).get(&id).map_or(0, |s| s.size);
        let share = SLOTS - self.slots_share();
        self.usage() + share + blocks(size) + self.headroom(limit) <= limit
    }

    /// The frames of a segment in order, and which metrics go together; `None`:
    /// some of it is damaged.
    fn frames_of(&mut self, class: Class, id: u64, step: u32) -> Option<Vec<Old>> {
        let (end, stats) = {
            let segment = self.segments(class).get(&id)?;
            (segment.end, segment.stats)
        };
        let step = u64::from(step) * 1_000_000_000;
        let mut out: Vec<Old> = Vec::new();
        // The last metrics so far, and the bytes of those that go with it.
        let mut last: Option<(usize, u64, usize)> = None;
        let mut offset = SEGMENT_HEADER as u32;
        let mut frames = 0;
        while let Some((at, header)) = self.frame_at(class, id, offset, end) {
            if at != offset {
                return None;
            }
            offset = at.saturating_add(header.len() as u32);
            frames += u32::from(header.kind == Kind::Data);
            let thins = header.kind == Kind::Data && header.signal == Some(Signal::Metrics);
            if thins {
                let window = header.first.boot_ns / step;
                let joins = last
                    .filter(|(_, w, bytes)| *w == window && bytes + header.payload_len <= MAX_BODY);
                let bytes = match joins {
                    Some((before, _, bytes)) => {
                        if let Some(before) = out.get_mut(before) {
                            before.closes = false;
                        }
                        bytes + header.payload_len
                    }
                    None => header.payload_len,
                };
                last = Some((out.len(), window, bytes));
            }
            out.push(Old {
                pos: Pos {
                    segment: id,
                    offset: at,
                },
                header,
                closes: thins,
                thins,
            });
        }
        let expected: u32 = stats.signals.iter().map(|signal| signal.frames).sum();
        (frames == expected && offset == end).then_some(out)
    }

    /// Writes the new file, footer and all, and syncs it; `None`: it is no use.
    /// `ledger` becomes the one that counts what was left out.
    fn rewritten(
        &mut self,
        class: Class,
        id: u64,
        step: u32,
        frames: &[Old],
        rewrite: &dyn Rewrite,
        ledger: &mut Ledger,
    ) -> io::Result<Option<Written>> {
        let mut bytes = [0; SEGMENT_HEADER];
        let count = self.storage.read_at(&path_of(class, id), 0, &mut bytes)?;
        let Ok(mut header) = SegmentHeader::decode(bytes.get(..count).unwrap_or_default()) else {
            return Ok(None);
        };
        let nonce = self.fresh_nonce();
        header.nonce = nonce;
        let name = new_name(class, id);
        self.storage.unlink(&name)?;
        let mut file = self.storage.create(&name)?;
        let mut out = header.encode();
        let mut size = 0u64;
        let mut stats = Stats {
            thinned: step,
            ..Stats::default()
        };
        super::log::put_ledger(&mut out, nonce, ledger);
        let mut group: Vec<(Codec, Bytes)> = Vec::new();
        let mut sum = Group::default();
        let mut loss = Loss {
            frames: 0,
            items: 0,
            first_unix_ns: u64::MAX,
            last_unix_ns: 0,
        };
        for old in frames {
            let header = &old.header;
            // The new file has the newest ledger, at both ends.
            if matches!(header.kind, Kind::Commit | Kind::Footer) {
                continue;
            }
            let Some(payload) = self.payload(class, old.pos, header) else {
                return Ok(None);
            };
            if !old.thins {
                put(
                    &mut out,
                    nonce,
                    header,
                    header.codec,
                    header.items,
                    &payload,
                    None,
                    &mut stats,
                );
            } else {
                sum.add(header);
                group.push((header.codec, payload));
                if !old.closes {
                    continue;
                }
                let bodies = std::mem::take(&mut group);
                let Some(thinned) = rewrite.thin(&bodies, Duration::from_secs(step.into())) else {
                    return Ok(None);
                };
                let sum = std::mem::take(&mut sum);
                if thinned.body.len() > MAX_BODY {
                    return Ok(None);
                }
                let left_out = sum.counts.items.saturating_sub(thinned.items.into());
                if let ([(codec, body)], 0) = (bodies.as_slice(), left_out) {
                    put(
                        &mut out,
                        nonce,
                        header,
                        *codec,
                        header.items,
                        body,
                        None,
                        &mut stats,
                    );
                } else {
                    loss.frames += sum.counts.frames.saturating_sub(1);
                    loss.items += left_out;
                    loss.first_unix_ns = loss.first_unix_ns.min(sum.first_unix_ns());
                    loss.last_unix_ns = loss.last_unix_ns.max(sum.last_unix_ns());
                    let (codec, items) = (thinned.codec, thinned.items);
                    put(
                        &mut out,
                        nonce,
                        header,
                        codec,
                        items,
                        &thinned.body,
                        Some(&sum),
                        &mut stats,
                    );
                }
            }
            if out.len() >= CHUNK {
                self.storage.append(&mut file, &out)?;
                size += out.len() as u64;
                out.clear();
            }
        }
        if loss.frames == 0 && loss.items == 0 {
            return Ok(None);
        }
        ledger.losses.add(class, Reason::Thinned, loss);
        ledger.version = ledger.version.saturating_add(1);
        let at = size + out.len() as u64;
        stats.ledger = (u32::try_from(at).unwrap_or(u32::MAX), ledger.version);
        super::log::put_ledger(&mut out, nonce, ledger);
        stats.end = u32::try_from(size + out.len() as u64).unwrap_or(u32::MAX);
        format::encode_footer(&mut out, nonce, &stats);
        self.storage.append(&mut file, &out)?;
        size += out.len() as u64;
        let before = self.segments(class).get(&id).map_or(0, |s| s.size);
        if blocks(size) >= blocks(before) {
            return Ok(None);
        }
        if !made(Mutant::RenamedUnsynced) {
            self.storage.sync(&mut file)?;
        }
        Ok(Some(Written {
            nonce,
            size,
            stats,
            loss,
        }))
    }
}

/// Batches that become one.
#[derive(Default)]
struct Group {
    counts: Counts,
    span: Option<(crate::frame::Stamp, crate::frame::Stamp)>,
    given: bool,
}

impl Group {
    fn add(&mut self, header: &FrameHeader) {
        self.counts.frames += 1;
        self.counts.items += u64::from(header.items);
        self.given |= header.given;
        let (first, last) = self.span.get_or_insert((header.first, header.last));
        first.boot_ns = first.boot_ns.min(header.first.boot_ns);
        first.unix_ns = first.unix_ns.min(header.first.unix_ns);
        last.boot_ns = last.boot_ns.max(header.last.boot_ns);
        last.unix_ns = last.unix_ns.max(header.last.unix_ns);
    }

    fn first_unix_ns(&self) -> u64 {
        self.span.map_or(u64::MAX, |(first, _)| first.unix_ns)
    }

    fn last_unix_ns(&self) -> u64 {
        self.span.map_or(0, |(_, last)| last.unix_ns)
    }
}

/// Appends a frame with the name and context that `header` had.
#[expect(
    clippy::too_many_arguments,
    reason = "one call site's worth of a frame"
)]
fn put(
    out: &mut Vec<u8>,
    nonce: u64,
    header: &FrameHeader,
    codec: Codec,
    items: u32,
    payload: &[u8],
    group: Option<&Group>,
    stats: &mut Stats,
) {
    let (first, last) = group
        .and_then(|group| group.span)
        .unwrap_or((header.first, header.last));
    let parts = FrameParts {
        kind: header.kind,
        signal: header.signal,
        codec,
        seq: header.seq,
        items,
        first,
        last,
        context: header.context.as_ref(),
        given: group.map_or(header.given, |group| group.given),
    };
    let at = out.len();
    format::encode_frame(out, nonce, &parts, payload);
    let added = out.get(at..).and_then(|b| format::decode_header(b, nonce));
    if let Some(added) = added.filter(|added| added.kind == Kind::Data) {
        stats.add(&added);
    }
}
