//! What is kept of a stream: its beginning and its end, within a limit.
//! What lies between is only counted.

use std::collections::VecDeque;

use super::Captured;

/// Takes a stream piece by piece; never holds more than its limit.
#[derive(Debug, Default)]
pub struct Capture {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted: u64,
}

impl Capture {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let room = (self.limit / 2).saturating_sub(self.head.len());
        let (first, rest) = piece.split_at_checked(room).unwrap_or((piece, &[]));
        self.head.extend_from_slice(first);
        // Of a piece that is larger than the room for the end, only its own end matters.
        let room = self.limit - self.limit / 2;
        let skipped = rest.len().saturating_sub(room);
        let last = rest.get(skipped..).unwrap_or_default();
        let over = (self.tail.len() + last.len()).saturating_sub(room);
        self.tail.drain(..over.min(self.tail.len()));
        self.tail.extend(last);
        let lost = skipped + over;
        self.omitted = self.omitted.saturating_add(lost as u64);
    }

    /// Whether bytes were left out.
    pub fn is_full(&self) -> bool {
        self.omitted > 0
    }

    /// What was kept.
    pub fn finish(self) -> Captured {
        let (mut head, tail) = (self.head, Vec::from(self.tail));
        if self.omitted > 0 {
            return Captured {
                head,
                tail,
                omitted: self.omitted,
            };
        }
        head.extend(tail);
        Captured {
            head,
            ..Captured::default()
        }
    }
}

impl Captured {
    /// Bytes that the stream had in all.
    pub fn total(&self) -> u64 {
        let kept = (self.head.len() + self.tail.len()) as u64;
        self.omitted.saturating_add(kept)
    }

    /// Whether it had none.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// Its beginning and end within `limit` bytes.
    #[must_use]
    pub fn within(&self, limit: usize) -> Self {
        let mut smaller = Capture::new(limit);
        if self.omitted == 0 {
            smaller.push(&self.head);
            return smaller.finish();
        }
        let head = self.head.get(..limit / 2).unwrap_or(&self.head);
        let room = limit - limit / 2;
        let from = self.tail.len().saturating_sub(room);
        let tail = self.tail.get(from..).unwrap_or_default();
        Self {
            head: head.to_vec(),
            tail: tail.to_vec(),
            omitted: self
                .total()
                .saturating_sub((head.len() + tail.len()) as u64),
        }
    }

    /// As text for people: what is not UTF-8 is replaced, and a line says
    /// where bytes were left out.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.omitted > 0 {
            text.push_str(&format!("\n[{} bytes left out]\n", self.omitted));
            text.push_str(&String::from_utf8_lossy(&self.tail));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(limit: usize, pieces: &[&[u8]]) -> Captured {
        let mut capture = Capture::new(limit);
        for piece in pieces {
            capture.push(piece);
            assert!(capture.head.len() + capture.tail.len() <= limit);
        }
        capture.finish()
    }

    #[test]
    fn what_fits_is_kept_whole_however_it_came() {
        for size in 1..=10 {
            let pieces: Vec<&[u8]> = b"0123456789".chunks(size).collect();
            let kept = captured(10, &pieces);
            assert_eq!((kept.head, kept.omitted), (b"0123456789".to_vec(), 0));
        }
    }

    #[test]
    fn of_more_the_beginning_and_the_end_are_kept_and_the_rest_is_counted() {
        let stream: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 3, 7, 64, 256] {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let kept = captured(9, &pieces);
            assert_eq!(kept.head, [0, 1, 2, 3]);
            assert_eq!(kept.tail, [251, 252, 253, 254, 255]);
            assert_eq!((kept.omitted, kept.total()), (247, 256));
        }
    }

    #[test]
    fn a_limit_of_nothing_counts_everything() {
        let kept = captured(0, &[b"abc", b"d"]);
        assert_eq!((kept.total(), kept.omitted), (4, 4));
        assert!(captured(0, &[]).is_empty());
    }

    #[test]
    fn a_smaller_limit_keeps_the_count() {
        let kept = captured(100, &[&[7; 1000]]);
        let smaller = kept.within(10);
        assert_eq!(smaller.total(), 1000);
        assert!(smaller.head.len() + smaller.tail.len() <= 10);
        assert_eq!(captured(100, &[b"short"]).within(10).text(), "short");
    }

    #[test]
    fn text_says_where_something_is_missing() {
        let kept = captured(4, &[b"abcdef\xff"]);
        assert_eq!(kept.text(), "ab\n[3 bytes left out]\nf\u{fffd}");
    }
}
