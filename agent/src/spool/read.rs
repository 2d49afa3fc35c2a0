//! Reading the chains back: piece by piece, around what is damaged.
//!
//! Frames of all uplinks go through one piece of at most 64 KiB (or one frame,
//! if it is longer). A failed read is not damage at once: the disk may come
//! back, so the place is left and tried again before it is given up.

use std::io;

use bytes::Bytes;

use super::format::{self, FrameHeader, Kind, MAX_FRAME_HEADER, SEGMENT_HEADER};
use super::log::{BLOCK, Log, Pos, Segment, path_of};
use super::storage::Storage;
use crate::frame::Class;

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;
/// Failed reads of one segment before the place counts as damaged.
const READ_PATIENCE: u32 = 8;
/// Damaged places remembered per segment, so that each is counted once.
const MAX_MARKS: usize = 1024;

impl<S: Storage> Log<S> {
    /// The first data frame at or after `pos` that `wanted` takes; segments
    /// that `skip` takes are passed whole. `pos` moves to it, or to the end.
    pub(crate) fn find(
        &mut self,
        class: Class,
        pos: &mut Pos,
        skip: &dyn Fn(&Segment) -> bool,
        wanted: &dyn Fn(&FrameHeader) -> bool,
    ) -> Option<FrameHeader> {
        self.stuck = false;
        loop {
            let (&id, segment) = self.chain(class).segments.range(pos.segment..).next()?;
            let passed = segment.opaque || skip(segment);
            let end = segment.end;
            if id != pos.segment {
                *pos = Pos {
                    segment: id,
                    offset: SEGMENT_HEADER as u32,
                };
            }
            let open = !segment.closed;
            if passed {
                pos.offset = end.max(pos.offset);
            }
            pos.offset = pos.offset.max(SEGMENT_HEADER as u32);
            while let Some((at, header)) = self.frame_at(class, id, pos.offset, end) {
                pos.offset = at;
                if header.kind == Kind::Data && wanted(&header) {
                    return Some(header);
                }
                pos.offset = at.saturating_add(header.len() as u32);
            }
            if self.stuck {
                return None;
            }
            pos.offset = pos.offset.max(end);
            if open {
                return None;
            }
            let next = self
                .chain(class)
                .segments
                .range(id.saturating_add(1)..)
                .next();
            let (&next, _) = next?;
            *pos = Pos {
                segment: next,
                offset: SEGMENT_HEADER as u32,
            };
        }
    }

    /// The frame at `offset`, or the next whole header after damage.
    pub(super) fn frame_at(
        &mut self,
        class: Class,
        id: u64,
        mut offset: u32,
        end: u32,
    ) -> Option<(u32, FrameHeader)> {
        let nonce = self.chain(class).segments.get(&id)?.nonce;
        let start = offset;
        while offset < end {
            let bytes = match self.bytes(class, id, offset, MAX_FRAME_HEADER, end) {
                Ok(bytes) => bytes,
                Err(error) => {
                    if self.excused(class, id, &error) {
                        return None;
                    }
                    // A block that cannot be read: try behind it.
                    self.mark(class, id, start);
                    offset = offset.saturating_add(BLOCK as u32);
                    continue;
                }
            };
            if let Some(header) = format::decode_header(bytes, nonce)
                && offset as u64 + header.len() as u64 <= u64::from(end)
            {
                if offset != start {
                    self.mark(class, id, start);
                }
                return Some((offset, header));
            }
            if bytes.is_empty() {
                break;
            }
            // A magic at the very end of the piece is found by the next piece's overlap.
            offset = match format::find_magic(bytes, 1) {
                Some(at) => offset.saturating_add(at as u32),
                None => offset.saturating_add(bytes.len().saturating_sub(3).max(1) as u32),
            };
        }
        if offset != start {
            self.mark(class, id, start);
        }
        None
    }

    /// A frame's payload; `None`: it is not what was written.
    pub(crate) fn payload(
        &mut self,
        class: Class,
        pos: Pos,
        header: &FrameHeader,
    ) -> Option<Bytes> {
        let segment = self.chain(class).segments.get(&pos.segment)?;
        let (nonce, end) = (segment.nonce, segment.end);
        self.stuck = false;
        let read = self.bytes(class, pos.segment, pos.offset, header.len(), end);
        let read = read.map(|bytes| {
            bytes
                .get(header.header_len..header.len())
                .filter(|payload| header.matches(payload, nonce))
                .map(Bytes::copy_from_slice)
        });
        let payload = match read {
            Ok(payload) => payload,
            Err(error) if self.excused(class, pos.segment, &error) => return None,
            Err(_) => None,
        };
        if payload.is_none() {
            self.mark(class, pos.segment, pos.offset);
        }
        payload
    }

    /// The header at an exact place.
    pub(crate) fn header_at(&mut self, class: Class, pos: Pos) -> Option<FrameHeader> {
        let segment = self.chain(class).segments.get(&pos.segment)?;
        let (nonce, end) = (segment.nonce, segment.end);
        self.stuck = false;
        match self.bytes(class, pos.segment, pos.offset, MAX_FRAME_HEADER, end) {
            Ok(bytes) => format::decode_header(bytes, nonce),
            Err(error) => {
                // Not excused: given up, as damaged.
                self.excused(class, pos.segment, &error);
                None
            }
        }
    }

    /// A read failed. `true`: leave the segment for now; `false`: it failed too
    /// often, or its file is gone.
    fn excused(&mut self, class: Class, id: u64, error: &io::Error) -> bool {
        self.read_errors = self.read_errors.saturating_add(1);
        if error.kind() == io::ErrorKind::NotFound
            && let Some(segment) = self.segment_mut(class, id)
        {
            segment.robbed = true;
        }
        // That is no damage, however long it takes.
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.denied = Some(error.to_string());
            self.stuck = true;
            return true;
        }
        let tries = match self.unread {
            _ if error.kind() == io::ErrorKind::NotFound => READ_PATIENCE,
            Some((of, from, tries)) if (of, from) == (class, id) => tries,
            _ => 0,
        };
        self.unread = Some((class, id, tries.saturating_add(1)));
        self.stuck = tries < READ_PATIENCE;
        self.stuck
    }

    /// Counts a damaged place, once.
    fn mark(&mut self, class: Class, id: u64, offset: u32) {
        let Some(segment) = self.segment_mut(class, id) else {
            return;
        };
        if segment.marks.len() < MAX_MARKS && segment.marks.insert(offset) {
            self.damaged = self.damaged.saturating_add(1);
        }
    }

    /// At least `want` bytes from `offset`, fewer only at `end`.
    fn bytes(
        &mut self,
        class: Class,
        id: u64,
        offset: u32,
        want: usize,
        end: u32,
    ) -> io::Result<&[u8]> {
        let want = want.min(end.saturating_sub(offset) as usize);
        let held = self.cache.and_then(|(of, from, start)| {
            let skip = offset.checked_sub(start)? as usize;
            let whole = self.piece.len() >= skip + want;
            (of == class && from == id && whole).then_some(skip)
        });
        let skip = match held {
            Some(skip) => skip,
            None => {
                self.cache = None;
                let length = want.max(PIECE).min(end.saturating_sub(offset) as usize);
                self.piece.resize(length, 0);
                let path = path_of(class, id);
                let mut done = 0;
                for part in self.piece.chunks_mut(PIECE) {
                    let at = u64::from(offset) + done as u64;
                    let count = self.storage.read_at(&path, at, part)?;
                    done += count;
                    if count < part.len() {
                        break;
                    }
                }
                self.denied = None;
                self.piece.truncate(done);
                self.cache = Some((class, id, offset));
                0
            }
        };
        let upto = end.saturating_sub(offset) as usize;
        let rest = self.piece.get(skip..).unwrap_or_default();
        Ok(rest.get(..upto).unwrap_or(rest))
    }
}
