//! Frames between a microcontroller and the gateway over a serial line.
//!
//! Every frame stands alone: deltas start from zero in each one, so a lost
//! frame costs its own readings and no others. The bytes, before COBS
//! (`docs/SERIAL.md` is the whole specification):
//!
//! ```text
//! +-----------+--------+---------+-----------+---------+--------+---------+--------+
//! | version 1 | source | seq     | uptime ms | trace   | lost   | records | CRC32C |
//! | and flags | 1 byte | 2, LE   | varint    | 25, opt | varint | ...     | 4, LE  |
//! +-----------+--------+---------+-----------+---------+--------+---------+--------+
//! ```
//!
//! On the line a frame is COBS-coded, so that it holds no zero byte, and ends
//! with a zero byte. Whoever joins late or loses bytes is in step again after
//! the next zero.

mod bytes;
mod decode;
mod encode;
mod seq;
mod trace;

#[cfg(test)]
mod tests;

pub use decode::{Body, Counts, Decoder, Described, Descriptions, Frame, Readings, Sample};
pub use encode::{Encoder, Refused};
pub use seq::{Arrival, SeqWatch};
pub use trace::TraceContext;

/// The format that this crate writes and reads.
pub const VERSION: u8 = 1;

/// Most bytes of a frame before COBS, checksum included. One less than what a
/// single COBS block holds, so the overhead is always 1 byte and the byte 0xFF
/// is never a block's length.
pub const FRAME_MAX: usize = 253;

/// Most bytes of a frame on the line: COBS adds one before, the end one after.
pub const LINE_MAX: usize = FRAME_MAX + 2;

/// Gauges that one source can have.
pub const GAUGES: usize = 32;

/// Most bytes of a gauge's name.
pub const NAME_MAX: usize = 32;

/// Fewest bytes of a frame before COBS: header, one-byte uptime, checksum.
const FRAME_MIN: usize = 4 + 1 + CRC_LEN;
const CRC_LEN: usize = 4;

const FLAG_TRACE: u8 = 1;
const FLAG_LOST: u8 = 2;
const FLAG_ABOUT: u8 = 4;
const FLAG_FIRST: u8 = 8;

const TAG_ABSENT: u8 = 0b0010_0000;
const TAG_TIME: u8 = 0b1100_0000;
const TIME_SAME: u8 = 0b0000_0000;
const TIME_STEP: u8 = 0b0100_0000;
const TIME_AGAIN: u8 = 0b1000_0000;

/// Which gauge of its source: 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GaugeId(u8);

impl GaugeId {
    /// `None` above 31.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < GAUGES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// 0 to 31.
    pub const fn number(self) -> u8 {
        self.0
    }

    const fn of_tag(tag: u8) -> Self {
        Self(tag & 0b0001_1111)
    }

    /// Its place in a table of [`GAUGES`]. The mask changes nothing and lets
    /// the compiler see that the place exists.
    const fn place(self) -> usize {
        (self.0 & 0b0001_1111) as usize
    }
}

fn name_is_fine(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_'))
}
