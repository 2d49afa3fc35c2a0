//! The bytes of a segment. Pure: encodes and decodes, touches nothing, and no
//! input makes it panic. All integers are little-endian.
//!
//! ```text
//! segment   header (128) | the same header again (128) | frame | frame | … | footer frame
//!
//! header    0  magic "SNDESEG\n"     8  version u16 = 1    10 header length u16 = 128
//!           12 class u8              13 flags u8 (bit 0: the wall clock was believed)
//!           16 segment id u64        24 nonce u64          32 epoch u32
//!           36 previous end u32      40 previous id u64    48 boot id (16)
//!           64 boot_ns u64           72 unix_ns u64        80 floor u64
//!           124 CRC32C u32 of bytes 0..124
//!
//! frame     0  magic "SNf\x01"       4  version u8 = 1     5  kind u8
//!           6  signal u8             7  codec u8           8  header length u16 (72 + metadata)
//!           10 metadata length u16   12 payload length u32 16 seq u64
//!           24 items u32             28 zero u32
//!           32 first boot_ns u64     40 first unix_ns u64
//!           48 last boot_ns u64      56 last unix_ns u64
//!           64 payload CRC32C u32    68 metadata (tag u8, length u16, value)…
//!           header CRC32C u32 | payload
//! ```
//!
//! Both checksums of a frame run over the segment's nonce first, so that
//! neither stale bytes nor a hostile payload that contains a frame can pass.
//! A header checksum of its own lets a reader step over a bad payload.
//!
//! `previous` and `previous end` name the segment before this one in the chain
//! and how far its bytes count: what a failed sync left behind that point was
//! written again here.

use crc32c::{crc32c, crc32c_append};

use super::mutant::{Mutant, made};
use crate::frame::{Class, Codec, MAX_BODY, Signal, Stamp, TraceContext};

/// The version this program writes; it reads no newer one.
pub(crate) const VERSION: u16 = 1;
/// No seq is higher: a device would have to store a billion frames a second for
/// a century. What claims to be is damaged or forged, and would end the counting.
pub(crate) const MAX_SEQ: u64 = 1 << 62;
/// Both copies of the segment header.
pub(crate) const SEGMENT_HEADER: usize = 256;
const HEADER_COPY: usize = 128;
const FLOOR_AT: usize = 80;
const SEGMENT_MAGIC: &[u8; 8] = b"SNDESEG\n";
pub(crate) const FRAME_MAGIC: &[u8; 4] = b"SNf\x01";
/// A frame header without metadata, checksum included.
pub(crate) const FRAME_HEADER: usize = 72;
/// The most metadata a frame carries; a longer `tracestate` is left out.
const MAX_META: usize = 4096;
/// The longest header a reader needs at hand.
pub(crate) const MAX_FRAME_HEADER: usize = FRAME_HEADER + MAX_META;
const FOOTER_PAYLOAD: usize = 40 + SIGNALS * 28;
/// A footer's whole length: found by reading so much from the end of the file.
pub(crate) const FOOTER: usize = FRAME_HEADER + FOOTER_PAYLOAD;
/// Signals that a footer counts apart.
pub(crate) const SIGNALS: usize = 4;

const META_CONTEXT: u8 = 1;
const META_GIVEN: u8 = 2;

/// What opens a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) class: Class,
    pub(crate) id: u64,
    /// Random; seeds every checksum in the segment.
    pub(crate) nonce: u64,
    pub(crate) epoch: u32,
    /// The segment before it in the chain; 0: none.
    pub(crate) previous: u64,
    /// Bytes of `previous` that count.
    pub(crate) previous_end: u32,
    pub(crate) boot_id: [u8; 16],
    pub(crate) made: Stamp,
    pub(crate) synchronised: bool,
    /// No frame in this or a later segment of the chain has a lower seq.
    pub(crate) floor: u64,
}

/// Why a segment cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Written by a newer program: left alone. Its seqs begin here.
    Newer(u64),
    /// Both copies of the header are bad.
    Damaged,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A stored batch.
    Data = 1,
    /// The ledger: cursors and losses.
    Commit = 2,
    /// Both clocks at one moment.
    Anchor = 3,
    /// What the segment holds; the last frame.
    Footer = 4,
}

/// A decoded frame header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: Kind,
    pub(crate) signal: Option<Signal>,
    pub(crate) codec: Codec,
    pub(crate) seq: u64,
    pub(crate) items: u32,
    pub(crate) first: Stamp,
    pub(crate) last: Stamp,
    pub(crate) context: Option<TraceContext>,
    /// It was given to an uplink before it was written.
    pub(crate) given: bool,
    /// Bytes of the header, then of the payload.
    pub(crate) header_len: usize,
    pub(crate) payload_len: usize,
    payload_crc: u32,
}

/// Counts of one signal in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalStats {
    pub(crate) frames: u32,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    /// The highest seq; 0: none.
    pub(crate) newest: u64,
}

/// What a segment holds; what its footer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) signals: [SignalStats; SIGNALS],
    /// Lowest and highest seq; `(0, 0)`: no data frame.
    pub(crate) seqs: (u64, u64),
    /// Earliest and latest reading.
    pub(crate) first: Stamp,
    pub(crate) last: Stamp,
    /// Where the frames end.
    pub(crate) end: u32,
    /// The last commit frame: where, and the ledger's version.
    pub(crate) ledger: (u32, u64),
    /// The step that its gauges were thinned to, in seconds; 0: as they were read.
    pub(crate) thinned: u32,
}

/// The place of a signal in arrays and masks.
pub(crate) fn signal_slot(signal: Signal) -> usize {
    usize::from(signal as u8).saturating_sub(1).min(SIGNALS - 1)
}

impl Stats {
    /// Adds one data frame.
    pub(crate) fn add(&mut self, header: &FrameHeader) {
        let Some(signal) = header.signal else { return };
        if self.seqs == (0, 0) {
            self.seqs = (header.seq, header.seq);
            self.first = header.first;
            self.last = header.last;
        } else {
            self.seqs = (self.seqs.0.min(header.seq), self.seqs.1.max(header.seq));
            self.first = Stamp {
                unix_ns: self.first.unix_ns.min(header.first.unix_ns),
                boot_ns: self.first.boot_ns.min(header.first.boot_ns),
            };
            self.last = Stamp {
                unix_ns: self.last.unix_ns.max(header.last.unix_ns),
                boot_ns: self.last.boot_ns.max(header.last.boot_ns),
            };
        }
        if let Some(stats) = self.signals.get_mut(signal_slot(signal)) {
            stats.frames = stats.frames.saturating_add(1);
            stats.items = stats.items.saturating_add(u64::from(header.items));
            stats.bytes = stats.bytes.saturating_add(header.payload_len as u64);
            stats.newest = stats.newest.max(header.seq);
        }
    }

    /// One bit a signal that occurs.
    pub(crate) fn mask(&self) -> u8 {
        let mut mask = 0;
        for (slot, stats) in self.signals.iter().enumerate() {
            if stats.frames > 0 {
                mask |= 1 << slot;
            }
        }
        mask
    }
}

impl SegmentHeader {
    /// Both copies.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(HEADER_COPY as u16).to_le_bytes());
        out.extend_from_slice(&[self.class as u8, u8::from(self.synchronised), 0, 0]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.previous.to_le_bytes());
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&self.made.boot_ns.to_le_bytes());
        out.extend_from_slice(&self.made.unix_ns.to_le_bytes());
        out.extend_from_slice(&self.floor.to_le_bytes());
        out.resize(HEADER_COPY - 4, 0);
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_within(..);
        out
    }

    /// Takes whichever copy is whole.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut why = Unreadable::Damaged;
        for copy in bytes.chunks(HEADER_COPY).take(2) {
            match Self::decode_copy(copy) {
                Ok(header) => return Ok(header),
                Err(newer @ Unreadable::Newer(_)) => why = newer,
                Err(Unreadable::Damaged) => {}
            }
        }
        Err(why)
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, Unreadable> {
        Self::parse(copy).ok_or(Unreadable::Damaged)?
    }

    fn parse(copy: &[u8]) -> Option<Result<Self, Unreadable>> {
        let mut input = Input::new(copy);
        if input.take(8)? != SEGMENT_MAGIC {
            return None;
        }
        let version = input.u16()?;
        let length = usize::from(input.u16()?);
        // Any later version keeps the magic, these lengths, the floor's place and a checksum at
        // the end of each copy.
        let body = copy.get(..HEADER_COPY - 4)?;
        let crc = Input::new(copy.get(HEADER_COPY - 4..)?).u32()?;
        if length != HEADER_COPY || crc32c(body) != crc {
            return None;
        }
        if version > VERSION {
            let floor = copy
                .get(FLOOR_AT..)
                .and_then(|rest| Input::new(rest).u64())
                .filter(|floor| *floor <= MAX_SEQ)?;
            return Some(Err(Unreadable::Newer(floor)));
        }
        let class = class_of(input.u8()?)?;
        let synchronised = input.u8()? & 1 == 1;
        input.take(2)?;
        Some(Ok(Self {
            class,
            synchronised,
            id: input.u64()?,
            nonce: input.u64()?,
            epoch: input.u32()?,
            previous_end: input.u32()?,
            previous: input.u64()?,
            boot_id: input.take(16)?.try_into().ok()?,
            made: Stamp {
                boot_ns: input.u64()?,
                unix_ns: input.u64()?,
            },
            floor: input.u64()?,
        }))
    }
}

/// What a frame to be written says about itself.
#[derive(Clone, Debug)]
pub(crate) struct FrameParts<'a> {
    pub(crate) kind: Kind,
    pub(crate) signal: Option<Signal>,
    pub(crate) codec: Codec,
    pub(crate) seq: u64,
    pub(crate) items: u32,
    pub(crate) first: Stamp,
    pub(crate) last: Stamp,
    pub(crate) context: Option<&'a TraceContext>,
    pub(crate) given: bool,
}

impl FrameParts<'_> {
    /// A frame that is no batch.
    pub(crate) fn plain(kind: Kind) -> Self {
        Self {
            kind,
            signal: None,
            codec: Codec::Identity,
            seq: 0,
            items: 0,
            first: Stamp::default(),
            last: Stamp::default(),
            context: None,
            given: false,
        }
    }
}

/// Appends a frame.
pub(crate) fn encode_frame(out: &mut Vec<u8>, nonce: u64, parts: &FrameParts<'_>, payload: &[u8]) {
    let start = out.len();
    let seed = seed(nonce);
    let meta = encode_meta(parts);
    out.reserve(FRAME_HEADER + meta.len() + payload.len());
    out.extend_from_slice(FRAME_MAGIC);
    out.push(VERSION as u8);
    out.push(parts.kind as u8);
    out.push(parts.signal.map_or(0, |signal| signal as u8));
    out.push(parts.codec as u8);
    out.extend_from_slice(&((FRAME_HEADER + meta.len()) as u16).to_le_bytes());
    out.extend_from_slice(&(meta.len() as u16).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&parts.seq.to_le_bytes());
    out.extend_from_slice(&parts.items.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for stamp in [parts.first, parts.last] {
        out.extend_from_slice(&stamp.boot_ns.to_le_bytes());
        out.extend_from_slice(&stamp.unix_ns.to_le_bytes());
    }
    out.extend_from_slice(&crc32c_append(seed, payload).to_le_bytes());
    out.extend_from_slice(&meta);
    let crc = crc32c_append(seed, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Reads the frame header at the start of `bytes`; `None`: there is none, or a bad one.
pub(crate) fn decode_header(bytes: &[u8], nonce: u64) -> Option<FrameHeader> {
    let mut input = Input::new(bytes);
    if input.take(4)? != FRAME_MAGIC || u16::from(input.u8()?) > VERSION {
        return None;
    }
    let kind = match input.u8()? {
        1 => Kind::Data,
        2 => Kind::Commit,
        3 => Kind::Anchor,
        4 => Kind::Footer,
        _ => return None,
    };
    let signal = signal_of(input.u8()?);
    let codec = match input.u8()? {
        0 => Codec::Identity,
        1 => Codec::Gzip,
        _ => return None,
    };
    let header_len = usize::from(input.u16()?);
    let meta_len = usize::from(input.u16()?);
    let payload_len = usize::try_from(input.u32()?).ok()?;
    if meta_len > MAX_META || header_len != FRAME_HEADER + meta_len || payload_len > MAX_BODY {
        return None;
    }
    let crc = Input::new(bytes.get(header_len - 4..)?).u32()?;
    let seed = seed(nonce);
    if crc32c_append(seed, bytes.get(..header_len - 4)?) != crc {
        return None;
    }
    if kind == Kind::Data && signal.is_none() {
        return None;
    }
    let seq = input.u64().filter(|seq| *seq <= MAX_SEQ)?;
    let items = input.u32()?;
    input.take(4)?;
    let first = input.stamp()?;
    let last = input.stamp()?;
    let payload_crc = input.u32()?;
    let (context, given) = decode_meta(input.take(meta_len)?);
    Some(FrameHeader {
        kind,
        signal,
        codec,
        seq,
        items,
        first,
        last,
        context,
        given,
        header_len,
        payload_len,
        payload_crc,
    })
}

impl FrameHeader {
    /// Header and payload.
    pub(crate) fn len(&self) -> usize {
        self.header_len + self.payload_len
    }

    /// Whether `payload` is what was written.
    pub(crate) fn matches(&self, payload: &[u8], nonce: u64) -> bool {
        payload.len() == self.payload_len
            && (crc32c_append(seed(nonce), payload) == self.payload_crc
                || made(Mutant::PayloadUnchecked))
    }
}

/// What a segment's checksums begin with.
fn seed(nonce: u64) -> u32 {
    if made(Mutant::UnseededChecksums) {
        return 0;
    }
    crc32c(&nonce.to_le_bytes())
}

/// Where the next frame may begin, at or after `from`.
pub(crate) fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = rest
        .windows(FRAME_MAGIC.len())
        .position(|window| window == FRAME_MAGIC)?;
    Some(from + at)
}

/// Appends the footer frame.
pub(crate) fn encode_footer(out: &mut Vec<u8>, nonce: u64, stats: &Stats) {
    let mut payload = Vec::with_capacity(FOOTER_PAYLOAD);
    payload.extend_from_slice(&stats.seqs.0.to_le_bytes());
    payload.extend_from_slice(&stats.seqs.1.to_le_bytes());
    payload.extend_from_slice(&stats.end.to_le_bytes());
    payload.extend_from_slice(&stats.ledger.0.to_le_bytes());
    payload.extend_from_slice(&stats.ledger.1.to_le_bytes());
    payload.extend_from_slice(&stats.thinned.to_le_bytes());
    payload.extend_from_slice(&[0; 4]);
    for signal in &stats.signals {
        payload.extend_from_slice(&signal.frames.to_le_bytes());
        payload.extend_from_slice(&signal.items.to_le_bytes());
        payload.extend_from_slice(&signal.bytes.to_le_bytes());
        payload.extend_from_slice(&signal.newest.to_le_bytes());
    }
    let parts = FrameParts {
        first: stats.first,
        last: stats.last,
        ..FrameParts::plain(Kind::Footer)
    };
    encode_frame(out, nonce, &parts, &payload);
}

/// Reads the footer from a segment's last [`FOOTER`] bytes.
pub(crate) fn decode_footer(bytes: &[u8], nonce: u64) -> Option<Stats> {
    let header = decode_header(bytes, nonce)?;
    let payload = bytes.get(header.header_len..)?;
    if header.kind != Kind::Footer || !header.matches(payload, nonce) {
        return None;
    }
    let mut input = Input::new(payload);
    let mut stats = Stats {
        seqs: (input.u64()?, input.u64().filter(|seq| *seq <= MAX_SEQ)?),
        end: input.u32()?,
        ledger: (input.u32()?, input.u64()?),
        first: header.first,
        last: header.last,
        ..Stats::default()
    };
    if stats.seqs.0 > stats.seqs.1 {
        return None;
    }
    stats.thinned = input.u32()?;
    input.take(4)?;
    for signal in &mut stats.signals {
        *signal = SignalStats {
            frames: input.u32()?,
            items: input.u64()?,
            bytes: input.u64()?,
            newest: input.u64()?,
        };
    }
    Some(stats)
}

/// The payload of an anchor frame.
pub(crate) fn encode_anchor(at: Stamp, synchronised: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(17);
    out.extend_from_slice(&at.boot_ns.to_le_bytes());
    out.extend_from_slice(&at.unix_ns.to_le_bytes());
    out.push(u8::from(synchronised));
    out
}

fn encode_meta(parts: &FrameParts<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(context) = parts.context {
        let state = match context.state.len() {
            0..=2048 => context.state.as_bytes(),
            _ => &[],
        };
        out.push(META_CONTEXT);
        out.extend_from_slice(&((25 + state.len()) as u16).to_le_bytes());
        out.extend_from_slice(&context.trace_id);
        out.extend_from_slice(&context.span_id);
        out.push(context.flags);
        out.extend_from_slice(state);
    }
    if parts.given {
        out.extend_from_slice(&[META_GIVEN, 0, 0]);
    }
    out
}

/// Unknown tags are stepped over: a newer program may have written them.
fn decode_meta(bytes: &[u8]) -> (Option<TraceContext>, bool) {
    let mut input = Input::new(bytes);
    let (mut context, mut given) = (None, false);
    while let Some(tag) = input.u8() {
        let Some(value) = input.u16().and_then(|len| input.take(usize::from(len))) else {
            break;
        };
        match tag {
            META_CONTEXT => context = decode_context(value),
            META_GIVEN => given = true,
            _ => {}
        }
    }
    (context, given)
}

fn decode_context(value: &[u8]) -> Option<TraceContext> {
    let mut input = Input::new(value);
    Some(TraceContext {
        trace_id: input.take(16)?.try_into().ok()?,
        span_id: input.take(8)?.try_into().ok()?,
        flags: input.u8()?,
        state: std::str::from_utf8(input.rest()).ok()?.into(),
    })
}

/// The class a byte stands for.
pub(crate) fn class_of(byte: u8) -> Option<Class> {
    Class::ALL.into_iter().find(|class| *class as u8 == byte)
}

fn signal_of(byte: u8) -> Option<Signal> {
    match byte {
        1 => Some(Signal::Metrics),
        2 => Some(Signal::Traces),
        3 => Some(Signal::Logs),
        4 => Some(Signal::Message),
        _ => None,
    }
}

/// Reads from a slice; `None` once it runs out.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            boot_ns: self.u64()?,
            unix_ns: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0123_4567_89ab_cdef;

    fn header() -> SegmentHeader {
        SegmentHeader {
            class: Class::Normal,
            id: 7,
            nonce: NONCE,
            epoch: 9,
            previous: 6,
            previous_end: 4096,
            boot_id: [3; 16],
            made: Stamp {
                unix_ns: 5,
                boot_ns: 4,
            },
            synchronised: true,
            floor: 40,
        }
    }

    fn frame() -> Vec<u8> {
        let context = TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
            state: "a=b".into(),
        };
        let parts = FrameParts {
            signal: Some(Signal::Traces),
            codec: Codec::Gzip,
            seq: 42,
            items: 3,
            first: Stamp {
                unix_ns: 1,
                boot_ns: 2,
            },
            last: Stamp {
                unix_ns: 3,
                boot_ns: 4,
            },
            context: Some(&context),
            given: true,
            ..FrameParts::plain(Kind::Data)
        };
        let mut out = Vec::new();
        encode_frame(&mut out, NONCE, &parts, b"hello");
        out
    }

    #[test]
    fn a_header_survives_any_one_flipped_byte() {
        let good = header().encode();
        assert_eq!(good.len(), SEGMENT_HEADER);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            assert_eq!(SegmentHeader::decode(&bad), Ok(header()), "byte {at}");
        }
    }

    #[test]
    fn a_newer_segment_is_told_from_a_damaged_one() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c(&bytes[..124]);
        bytes[124..128].copy_from_slice(&crc.to_le_bytes());
        bytes.truncate(128);
        assert_eq!(SegmentHeader::decode(&bytes), Err(Unreadable::Newer(40)));
        assert_eq!(SegmentHeader::decode(b"x"), Err(Unreadable::Damaged));
        assert_eq!(SegmentHeader::decode(&[]), Err(Unreadable::Damaged));
    }

    #[test]
    fn a_frame_comes_back_as_it_went_in() {
        let bytes = frame();
        let decoded = decode_header(&bytes, NONCE).unwrap();
        assert_eq!((decoded.seq, decoded.items, decoded.given), (42, 3, true));
        assert_eq!(decoded.context.as_ref().unwrap().state.as_ref(), "a=b");
        assert_eq!(decoded.len(), bytes.len());
        assert!(decoded.matches(&bytes[decoded.header_len..], NONCE));
    }

    #[test]
    fn no_flipped_byte_passes_and_no_foreign_nonce() {
        let good = frame();
        assert_eq!(decode_header(&good, NONCE + 1), None);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let passes = decode_header(&bad, NONCE)
                .is_some_and(|header| header.matches(&bad[header.header_len..], NONCE));
            assert!(!passes, "byte {at}");
        }
        for end in 0..good.len() {
            let whole = decode_header(&good[..end], NONCE)
                .is_some_and(|header| header.matches(&good[header.header_len..end], NONCE));
            assert!(!whole, "cut at {end}");
        }
    }

    #[test]
    fn a_footer_comes_back_as_it_went_in() {
        let mut stats = Stats {
            end: 999,
            ledger: (256, 12),
            thinned: 300,
            ..Stats::default()
        };
        stats.add(&decode_header(&frame(), NONCE).unwrap());
        let mut out = Vec::new();
        encode_footer(&mut out, NONCE, &stats);
        assert_eq!(out.len(), FOOTER);
        assert_eq!(decode_footer(&out, NONCE), Some(stats));
        assert_eq!(stats.mask(), 0b10);
    }

    #[test]
    fn a_footer_whose_seqs_go_backwards_is_none() {
        let stats = Stats {
            seqs: (9, 3),
            ..Stats::default()
        };
        let mut out = Vec::new();
        encode_footer(&mut out, NONCE, &stats);
        assert_eq!(decode_footer(&out, NONCE), None);
    }
}
