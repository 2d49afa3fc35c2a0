//! One segment, from its first byte to its last, whoever wrote it and whatever
//! happened to it since.
//!
//! Reads with `pread` from a file that stays open, so that a segment which the
//! agent removes meanwhile can be read to its end. At most one frame is in
//! memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use bytes::Bytes;

use crate::spool::cursor::Ledger;
use crate::spool::format::{
    self, FOOTER, FRAME_HEADER, FrameHeader, Kind, MAX_FRAME_HEADER, SEGMENT_HEADER, SegmentHeader,
    Stats, Unreadable,
};

/// Bytes read at a time where payloads are wanted.
const PIECE: usize = 64 * 1024;
/// Bytes read at a time where headers are enough: most have no metadata.
const GLANCE: usize = 256;
/// Offsets have four bytes; what lies beyond belongs to no segment.
const LONGEST: u64 = u32::MAX as u64;

/// Where bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file that was opened to be read.
    File(File),
    /// What a test gave.
    #[cfg(test)]
    Memory(Bytes),
}

/// A segment that has been opened.
#[derive(Debug)]
pub(crate) struct Segment {
    source: Source,
    pub(crate) header: SegmentHeader,
    /// Which of the two copies of the header are whole.
    pub(crate) copies: [bool; 2],
    /// Length when it was opened; it may grow meanwhile.
    pub(crate) len: u64,
    /// The footer, if the last bytes are one.
    pub(crate) footer: Option<Stats>,
    /// Bytes that were here by the segment after this one, and are not.
    pub(crate) short: u64,
    /// Where the frames end, at the latest.
    end: u64,
}

/// What became of opening one.
#[derive(Debug)]
pub(crate) enum Opened {
    Segment(Box<Segment>),
    /// A newer program's.
    Newer,
    /// Neither copy of the header is whole. With the file's length, or the one
    /// that the segment after it knows, if that is more.
    Damaged(u64),
    /// It is not there (any more), or no plain file.
    Gone,
}

/// What comes next in a segment.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// A frame whose header is whole.
    Frame(u64, FrameHeader),
    /// Bytes that hold no whole header: from where, and how many.
    Gap(u64, u64),
    /// An append that was cut short, or is going on: so many bytes at the end.
    Torn(u64),
}

/// A walk through a segment.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    segment: &'a Segment,
    at: u64,
    piece: Vec<u8>,
    piece_at: u64,
    glance: usize,
}

impl Source {
    /// Opens what must be a plain file: a fifo or a device could block for ever.
    /// `Ok(None)`: there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(Self, u64)>> {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_file() => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(error, "look at", path)),
        }
        match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => {
                let len = file
                    .metadata()
                    .map_err(|error| told(error, "look at", path))?
                    .len();
                Ok(Some((Source::File(file), len)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error, "open", path)),
        }
    }

    /// Reads as much as there is, up to the length of `out`.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(file) => {
                let mut done = 0;
                while let Some(rest) = out.get_mut(done..)
                    && !rest.is_empty()
                {
                    match file.read_at(rest, offset.saturating_add(done as u64)) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
            #[cfg(test)]
            Source::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(from..).unwrap_or_default();
                let count = rest.len().min(out.len());
                if let (Some(out), Some(rest)) = (out.get_mut(..count), rest.get(..count)) {
                    out.copy_from_slice(rest);
                }
                Ok(count)
            }
        }
    }
}

/// An error that says what was tried on what.
pub(crate) fn told(error: io::Error, verb: &str, path: &Path) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {verb} {}: {error}", path.display()),
    )
}

impl Segment {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> io::Result<Opened> {
        match Source::open(path)? {
            Some((source, len)) => {
                Self::read(source, len).map_err(|error| told(error, "read", path))
            }
            None => Ok(Opened::Gone),
        }
    }

    /// Reads header and footer.
    pub(crate) fn read(source: Source, len: u64) -> io::Result<Opened> {
        let mut bytes = [0; SEGMENT_HEADER];
        let count = source.read_at(0, &mut bytes)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(Unreadable::Newer(_)) => return Ok(Opened::Newer),
            Err(Unreadable::Damaged) => return Ok(Opened::Damaged(len)),
        };
        let half = SEGMENT_HEADER / 2;
        let whole = |copy: Option<&[u8]>| {
            copy.is_some_and(|copy| SegmentHeader::decode(copy).as_ref() == Ok(&header))
        };
        let copies = [whole(bytes.get(..half)), whole(bytes.get(half..))];
        let len = len.min(LONGEST);
        let footer = match len.checked_sub(FOOTER as u64) {
            Some(at) => {
                let mut bytes = [0; FOOTER];
                let count = source.read_at(at, &mut bytes)?;
                let bytes = bytes.get(..count).unwrap_or_default();
                let stats = format::decode_footer(bytes, header.nonce);
                stats.filter(|stats| u64::from(stats.end) <= at)
            }
            None => None,
        };
        let end = footer.map_or(len, |stats| u64::from(stats.end));
        Ok(Opened::Segment(Box::new(Self {
            source,
            header,
            copies,
            len,
            footer,
            short: 0,
            end,
        })))
    }

    /// Where the frames end by the segment after this one. What lies beyond
    /// does not count: a failed write or sync left it behind. What is not there
    /// was cut off, as by a copy that ended early. A footer knows better.
    pub(crate) fn limit(&mut self, end: u64) {
        if self.footer.is_none() {
            self.short = end.saturating_sub(self.len);
            self.end = self.end.min(end.max(SEGMENT_HEADER as u64));
        }
    }

    /// From the first frame on; `payloads`: they will be asked for too.
    pub(crate) fn walk(&self, payloads: bool) -> Walk<'_> {
        Walk {
            segment: self,
            at: SEGMENT_HEADER as u64,
            piece: Vec::new(),
            piece_at: 0,
            glance: if payloads { PIECE } else { GLANCE },
        }
    }
}

impl Walk<'_> {
    /// The next frame or hole; `None`: the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        let end = self.segment.end;
        let start = self.at;
        let mut at = start;
        let mut cut = None;
        while at < end {
            if let Some((header, whole)) = self.header(at)? {
                if whole {
                    if at > start {
                        self.at = at;
                        return Ok(Some(Piece::Gap(start, at - start)));
                    }
                    self.at = at.saturating_add(header.len() as u64);
                    return Ok(Some(Piece::Frame(at, header)));
                }
                // Longer than the file: the last append, unless something whole follows.
                cut = cut.or(Some(at));
            }
            at = self.magic_after(at)?;
        }
        self.at = end;
        if start >= end {
            return Ok(None);
        }
        let rest = end - start;
        let sealed = self.segment.footer.is_some();
        let torn = !sealed && (cut == Some(start) || self.is_begun(start)?);
        Ok(Some(if torn {
            Piece::Torn(rest)
        } else {
            Piece::Gap(start, rest)
        }))
    }

    /// The ledger of a commit frame at an exact place.
    pub(crate) fn ledger_at(&mut self, at: u64) -> io::Result<Option<Ledger>> {
        match self.header(at)? {
            Some((header, true)) if header.kind == Kind::Commit => {
                let payload = self.payload(at, &header)?;
                Ok(payload.and_then(|payload| Ledger::decode(&payload)))
            }
            _ => Ok(None),
        }
    }

    /// The payload of a frame that was just given; `None`: it is not what was written.
    pub(crate) fn payload(&mut self, at: u64, header: &FrameHeader) -> io::Result<Option<Bytes>> {
        let nonce = self.segment.header.nonce;
        let bytes = self.bytes(at, header.len())?;
        let payload = bytes.get(header.header_len..header.len());
        Ok(payload
            .filter(|payload| header.matches(payload, nonce))
            .map(Bytes::copy_from_slice))
    }

    /// A good header at `at`, and whether the whole frame is in the file.
    fn header(&mut self, at: u64) -> io::Result<Option<(FrameHeader, bool)>> {
        let (nonce, end) = (self.segment.header.nonce, self.segment.end);
        let short = self.bytes(at, FRAME_HEADER.max(GLANCE))?;
        // The header's own length says whether more is needed.
        let wanted = match short.get(8..10) {
            Some(&[low, high]) => usize::from(u16::from_le_bytes([low, high])),
            _ => return Ok(None),
        };
        if wanted > MAX_FRAME_HEADER || !short.starts_with(&format::FRAME_MAGIC[..]) {
            return Ok(None);
        }
        let bytes = if wanted > short.len() {
            self.bytes(at, wanted)?
        } else {
            short
        };
        let header = format::decode_header(bytes, nonce);
        Ok(header.map(|header| {
            let whole = at.saturating_add(header.len() as u64) <= end;
            (header, whole)
        }))
    }

    /// Where the next frame may begin, after `at`; the end if nowhere.
    fn magic_after(&mut self, at: u64) -> io::Result<u64> {
        let end = self.segment.end;
        let mut from = at.saturating_add(1);
        // Whatever comes next has to be looked at whole.
        self.glance = PIECE;
        while from < end {
            let bytes = self.bytes(from, format::FRAME_MAGIC.len())?;
            if let Some(found) = format::find_magic(bytes, 0) {
                return Ok(from.saturating_add(found as u64));
            }
            // A magic across the edge is found by the overlap.
            let step = bytes.len().saturating_sub(3).max(1);
            from = from.saturating_add(step as u64);
        }
        Ok(end)
    }

    /// Whether what begins here, and goes on to the end, is the start of a
    /// frame whose header did not get there whole: too short for one, or zeros.
    fn is_begun(&mut self, start: u64) -> io::Result<bool> {
        let end = self.segment.end;
        let head = self.bytes(start, MAX_FRAME_HEADER)?;
        let magic = &format::FRAME_MAGIC[..];
        let begins = head.starts_with(magic) || magic.starts_with(head);
        let two = |at| {
            Some(u64::from(u16::from_le_bytes(
                head.get(at..at + 2)?.try_into().ok()?,
            )))
        };
        let length = match (two(8), two(10)) {
            // Said twice, so that a damaged header does not pass for a short one.
            (Some(length), Some(meta)) if length == FRAME_HEADER as u64 + meta => length,
            (Some(_), Some(_)) => 0,
            _ => FRAME_HEADER as u64,
        };
        if begins && end - start < length {
            return Ok(true);
        }
        let mut at = start;
        while at < end {
            let bytes = self.bytes(at, PIECE)?;
            if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at = at.saturating_add(bytes.len() as u64);
        }
        Ok(true)
    }

    /// At least `want` bytes from `at`, fewer only at the end.
    fn bytes(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        let room = self.segment.end.saturating_sub(at);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let want = want.min(room);
        let skip = at.checked_sub(self.piece_at).map(|skip| skip as usize);
        let skip = match skip.filter(|skip| self.piece.len() >= skip.saturating_add(want)) {
            Some(skip) => skip,
            None => {
                let length = want.max(self.glance).min(room);
                self.piece.resize(length, 0);
                self.piece_at = at;
                let read = self.segment.source.read_at(at, &mut self.piece);
                self.piece.truncate(*read.as_ref().unwrap_or(&0));
                read?;
                0
            }
        };
        Ok(self.piece.get(skip..).unwrap_or_default())
    }
}
