//! Takes frames out of a serial line, whatever else is on it.
//!
//! Byte by byte, in fixed memory. A frame comes out whole and checked or not at
//! all: its checksum fits, and every record in it was walked before the caller
//! sees the first. Everything else is counted by reason.

use super::bytes::{Reader, crc32c, unzigzag};
use super::{
    CRC_LEN, FLAG_ABOUT, FLAG_FIRST, FLAG_LOST, FLAG_TRACE, FRAME_MAX, FRAME_MIN, GAUGES, GaugeId,
    TAG_ABSENT, TAG_TIME, TIME_AGAIN, TIME_SAME, TIME_STEP, TraceContext, VERSION, name_is_fine,
};
use crate::{About, Missing, Reading, Resolution, Unit};

/// What came over the line since the start. Each run of bytes that ends with a
/// zero is counted exactly once, as a frame or under one reason; runs of no
/// bytes are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of all kinds.
    pub bytes: u64,
    /// Good frames.
    pub frames: u64,
    /// Ended in the middle of a COBS block, or held the length 0xFF: bytes were lost.
    pub broken: u64,
    /// Longer than any frame: noise, or a lost end marker.
    pub too_long: u64,
    /// Shorter than any frame.
    pub too_short: u64,
    /// The checksum does not fit.
    pub checksum: u64,
    /// The checksum fits, the version is not ours.
    pub version: u64,
    /// The checksum fits, the records make no sense: a faulty sender.
    pub malformed: u64,
}

impl Counts {
    /// Runs of bytes that were no good frame.
    pub fn bad(&self) -> u64 {
        let reasons = [
            self.broken,
            self.too_long,
            self.too_short,
            self.checksum,
            self.version,
            self.malformed,
        ];
        reasons.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// A good frame, still in the decoder's memory.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Who sent it.
    pub source: u8,
    /// One more than in the source's frame before; wraps.
    pub seq: u16,
    /// The sender's first frame since it started.
    pub first: bool,
    /// Milliseconds since the sender started, at the first reading.
    pub uptime_ms: u64,
    /// The operation that the readings belong to.
    pub trace: Option<TraceContext>,
    /// Samples that the sender lost since it started.
    pub lost: u32,
    /// What it carries.
    pub body: Body<'a>,
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Values of gauges.
    Readings(Readings<'a>),
    /// What gauges say about themselves.
    Descriptions(Descriptions<'a>),
}

/// One reading of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since the sender started.
    pub at_ms: u64,
    /// Which of the source's gauges.
    pub gauge: GaugeId,
    /// Steps of the gauge's resolution, or why there is no value.
    pub reading: Reading,
}

/// What a gauge says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described<'a> {
    /// Which of the source's gauges.
    pub gauge: GaugeId,
    /// What it measures; the unit is `One` when the sender's is unknown here.
    pub about: About<'a>,
    /// False: the sender's unit is newer than this decoder.
    pub unit_known: bool,
}

/// Takes bytes, gives frames. 290 bytes of memory, however bad the line.
#[derive(Debug)]
pub struct Decoder {
    frame: [u8; FRAME_MAX],
    len: usize,
    /// Bytes until the next COBS length; 0 also at the start.
    left: u8,
    state: State,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Right after an end marker.
    Empty,
    Within,
    /// Waiting for the end marker: this run can be no frame.
    Broken,
    TooLong,
}

enum Bad {
    TooShort,
    Checksum,
    Version,
    Malformed,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the start of a line. Joining in the middle of a frame costs that frame.
    pub const fn new() -> Self {
        Self {
            frame: [0; FRAME_MAX],
            len: 0,
            left: 0,
            state: State::Empty,
            counts: Counts {
                bytes: 0,
                frames: 0,
                broken: 0,
                too_long: 0,
                too_short: 0,
                checksum: 0,
                version: 0,
                malformed: 0,
            },
        }
    }

    /// What came so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next byte of the line; gives the frame that it completes.
    pub fn feed(&mut self, byte: u8) -> Option<Frame<'_>> {
        bump(&mut self.counts.bytes);
        if byte == 0 {
            return self.end();
        }
        match self.state {
            State::Broken | State::TooLong => {}
            _ if self.left > 0 => {
                self.left = self.left.wrapping_sub(1);
                self.keep(byte);
            }
            _ if byte == 0xFF => self.state = State::Broken,
            state => {
                // A new block: the one before, if any, stood for its bytes and a zero.
                self.left = byte.wrapping_sub(1);
                if state == State::Within {
                    self.keep(0);
                } else {
                    self.state = State::Within;
                }
            }
        }
        None
    }

    fn keep(&mut self, byte: u8) {
        match self.frame.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len = self.len.wrapping_add(1);
            }
            None => self.state = State::TooLong,
        }
    }

    fn end(&mut self) -> Option<Frame<'_>> {
        let state = core::mem::replace(&mut self.state, State::Empty);
        let left = core::mem::take(&mut self.left);
        let len = core::mem::take(&mut self.len);
        match state {
            State::Empty => return None,
            State::TooLong => {
                bump(&mut self.counts.too_long);
                return None;
            }
            State::Within if left == 0 => {}
            State::Broken | State::Within => {
                bump(&mut self.counts.broken);
                return None;
            }
        }
        let counts = &mut self.counts;
        match check(self.frame.get(..len).unwrap_or(&[])) {
            Ok(frame) => {
                bump(&mut counts.frames);
                Some(frame)
            }
            Err(bad) => {
                bump(match bad {
                    Bad::TooShort => &mut counts.too_short,
                    Bad::Checksum => &mut counts.checksum,
                    Bad::Version => &mut counts.version,
                    Bad::Malformed => &mut counts.malformed,
                });
                None
            }
        }
    }
}

fn bump(count: &mut u64) {
    *count = count.saturating_add(1);
}

fn check(bytes: &[u8]) -> Result<Frame<'_>, Bad> {
    if bytes.len() < FRAME_MIN {
        return Err(Bad::TooShort);
    }
    let (content, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(Bad::TooShort)?;
    if crc32c(content) != u32::from_le_bytes(*crc) {
        return Err(Bad::Checksum);
    }
    let mut reader = Reader::new(content);
    let head = reader.byte().ok_or(Bad::Malformed)?;
    if head >> 4 != VERSION {
        return Err(Bad::Version);
    }
    frame(head, reader).ok_or(Bad::Malformed)
}

fn frame(head: u8, mut reader: Reader<'_>) -> Option<Frame<'_>> {
    let source = reader.byte()?;
    let seq = u16::from_le_bytes(reader.array()?);
    let uptime_ms = reader.varint()?;
    let trace = if head & FLAG_TRACE != 0 {
        Some(TraceContext::new(
            reader.array()?,
            reader.array()?,
            reader.byte()?,
        )?)
    } else {
        None
    };
    let lost = if head & FLAG_LOST != 0 {
        reader.varint32()?
    } else {
        0
    };
    let body = if head & FLAG_ABOUT != 0 {
        let descriptions = Descriptions { reader };
        descriptions.clone().walk()?;
        Body::Descriptions(descriptions)
    } else {
        let readings = Readings {
            reader,
            last: [0; GAUGES],
            at_ms: uptime_ms,
            step_ms: 0,
        };
        readings.clone().walk()?;
        Body::Readings(readings)
    };
    Some(Frame {
        source,
        seq,
        first: head & FLAG_FIRST != 0,
        uptime_ms,
        trace,
        lost,
        body,
    })
}

/// The readings of a frame, in the order they were taken.
#[derive(Clone, Debug)]
pub struct Readings<'a> {
    reader: Reader<'a>,
    last: [i32; GAUGES],
    at_ms: u64,
    step_ms: u64,
}

impl Readings<'_> {
    fn record(&mut self) -> Option<Sample> {
        let tag = self.reader.byte()?;
        match tag & TAG_TIME {
            TIME_SAME | TIME_AGAIN => {}
            TIME_STEP => self.step_ms = self.reader.varint()?,
            _ => return None,
        }
        if tag & TAG_TIME != TIME_SAME {
            // A step of nothing has its own spelling.
            if self.step_ms == 0 {
                return None;
            }
            self.at_ms = self.at_ms.checked_add(self.step_ms)?;
        }
        let gauge = GaugeId::of_tag(tag);
        let reading = if tag & TAG_ABSENT != 0 {
            Err(Missing::from_code(self.reader.byte()?))
        } else {
            let delta = unzigzag(self.reader.varint32()?);
            let last = self.last.get_mut(gauge.place())?;
            *last = last.wrapping_add(delta);
            Ok(*last)
        };
        Some(Sample {
            at_ms: self.at_ms,
            gauge,
            reading,
        })
    }

    fn walk(mut self) -> Option<()> {
        while !self.reader.is_empty() {
            self.record()?;
        }
        Some(())
    }
}

impl Iterator for Readings<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.record()
    }
}

/// The descriptions of a frame.
#[derive(Clone, Debug)]
pub struct Descriptions<'a> {
    reader: Reader<'a>,
}

impl<'a> Descriptions<'a> {
    fn record(&mut self) -> Option<Described<'a>> {
        let reader = &mut self.reader;
        let gauge = GaugeId::new(reader.byte()?)?;
        let unit = Unit::from_code(reader.byte()?);
        let resolution = Resolution::new(reader.varint32()?, reader.varint32()?)?;
        let least = unzigzag(reader.varint32()?);
        let most = unzigzag(reader.varint32()?);
        let len = usize::from(reader.byte()?);
        let name = reader.slice(len)?;
        if !name_is_fine(name) || least > most {
            return None;
        }
        Some(Described {
            gauge,
            about: About {
                name: core::str::from_utf8(name).ok()?,
                unit: unit.unwrap_or(Unit::One),
                resolution,
                least,
                most,
            },
            unit_known: unit.is_some(),
        })
    }

    fn walk(mut self) -> Option<()> {
        while !self.reader.is_empty() {
            self.record()?;
        }
        Some(())
    }
}

impl<'a> Iterator for Descriptions<'a> {
    type Item = Described<'a>;

    fn next(&mut self) -> Option<Described<'a>> {
        self.record()
    }
}
