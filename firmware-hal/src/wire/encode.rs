//! Fills frames on the microcontroller, in 440 bytes of its memory.

use super::bytes::{Writer, crc32c, zigzag};
use super::{
    CRC_LEN, FLAG_ABOUT, FLAG_FIRST, FLAG_LOST, FLAG_TRACE, FRAME_MAX, GAUGES, GaugeId, LINE_MAX,
    TAG_ABSENT, TIME_AGAIN, TIME_SAME, TIME_STEP, TraceContext, VERSION, name_is_fine,
};
use crate::{About, Reading};

/// Why a record did not go into the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not fit this frame: no room, a time before the last one, or
    /// another kind of record. Send [`Encoder::finish`] and offer it again;
    /// an empty frame takes it.
    Full,
    /// A description that no frame can carry: the name is not 1 to 32 of
    /// `a-z 0-9 . _`, or the range is empty. A mistake in the program.
    Name,
}

/// Gathers readings into frames for one source.
#[derive(Debug)]
pub struct Encoder {
    /// Place 0 is kept for the COBS byte; the frame starts at 1.
    line: [u8; LINE_MAX],
    /// Bytes of the frame so far; 0: none begun.
    len: usize,
    last: [i32; GAUGES],
    at_ms: u64,
    step_ms: u64,
    lost: u32,
    trace: Option<TraceContext>,
    source: u8,
    seq: u16,
    /// Flags of the frame begun.
    flags: u8,
    first: bool,
}

impl Encoder {
    /// For the source with this number; several on one line have different ones.
    pub const fn new(source: u8) -> Self {
        Self {
            line: [0; LINE_MAX],
            len: 0,
            last: [0; GAUGES],
            at_ms: 0,
            step_ms: 0,
            lost: 0,
            trace: None,
            source,
            seq: 0,
            flags: 0,
            first: true,
        }
    }

    /// How many samples were lost since the start, such as
    /// [`SampleRing::overruns`](crate::SampleRing::overruns). Goes into the
    /// frames begun from now on.
    pub fn lost(&mut self, since_start: u32) {
        self.lost = since_start;
    }

    /// The operation that the next frame begun belongs to. Call it when no frame
    /// is begun, that is right after [`Encoder::finish`].
    pub fn trace(&mut self, context: TraceContext) {
        self.trace = Some(context);
    }

    /// Adds a reading taken `at_ms` milliseconds after the start of the sender.
    pub fn push(&mut self, at_ms: u64, gauge: GaugeId, reading: Reading) -> Result<(), Refused> {
        self.begin(at_ms, 0)?;
        let step_ms = at_ms.checked_sub(self.at_ms).ok_or(Refused::Full)?;
        let time = match step_ms {
            0 => TIME_SAME,
            step if step == self.step_ms => TIME_AGAIN,
            _ => TIME_STEP,
        };
        let last = self.last.get(gauge.place()).copied().unwrap_or(0);
        let absent = if reading.is_err() { TAG_ABSENT } else { 0 };

        self.append(|writer| {
            writer.byte(time | absent | gauge.number());
            if time == TIME_STEP {
                writer.varint(step_ms);
            }
            match reading {
                Ok(value) => writer.varint(u64::from(zigzag(value.wrapping_sub(last)))),
                Err(missing) => writer.byte(missing.code()),
            }
        })?;

        if step_ms != 0 {
            self.step_ms = step_ms;
            self.at_ms = at_ms;
        }
        if let (Ok(value), Some(last)) = (reading, self.last.get_mut(gauge.place())) {
            *last = value;
        }
        Ok(())
    }

    /// Adds what a gauge says about itself. Send all of them at the start and
    /// every few minutes, for a gateway that joins later.
    pub fn describe(
        &mut self,
        at_ms: u64,
        gauge: GaugeId,
        about: &About<'_>,
    ) -> Result<(), Refused> {
        let name = about.name.as_bytes();
        if !name_is_fine(name) || about.least > about.most {
            return Err(Refused::Name);
        }
        self.begin(at_ms, FLAG_ABOUT)?;
        self.append(|writer| {
            writer.byte(gauge.number());
            writer.byte(about.unit.code());
            writer.varint(u64::from(about.resolution.numerator()));
            writer.varint(u64::from(about.resolution.denominator()));
            writer.varint(u64::from(zigzag(about.least)));
            writer.varint(u64::from(zigzag(about.most)));
            // At most 32, see above.
            writer.byte(name.len() as u8);
            writer.bytes(name);
        })
    }

    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Closes the frame and gives its bytes for the line, end marker included;
    /// empty when nothing was added. The next call of anything starts the next frame.
    pub fn finish(&mut self) -> &[u8] {
        let len = core::mem::take(&mut self.len);
        if len == 0 {
            return &[];
        }
        let crc = crc32c(self.line.get(1..=len).unwrap_or(&[]));
        let whole = len.wrapping_add(CRC_LEN);
        if let Some(place) = self
            .line
            .get_mut(len.wrapping_add(1)..=whole)
            .and_then(|place| place.first_chunk_mut::<CRC_LEN>())
        {
            *place = crc.to_le_bytes();
        }
        let end = whole.wrapping_add(1);
        if let Some(frame) = self.line.get_mut(..=end) {
            cobs(frame);
        }
        self.first = false;
        self.seq = self.seq.wrapping_add(1);
        self.last = [0; GAUGES];
        self.line.get(..=end).unwrap_or(&[])
    }

    /// Writes the header if no frame is begun.
    fn begin(&mut self, at_ms: u64, kind: u8) -> Result<(), Refused> {
        if self.len != 0 {
            return if self.flags & FLAG_ABOUT == kind {
                Ok(())
            } else {
                Err(Refused::Full)
            };
        }
        let trace = self.trace.take();
        let flags = kind
            | if trace.is_some() { FLAG_TRACE } else { 0 }
            | if self.lost != 0 { FLAG_LOST } else { 0 }
            | if self.first { FLAG_FIRST } else { 0 };
        let (source, seq, lost) = (self.source, self.seq, self.lost);
        self.append(|writer| {
            writer.byte(VERSION << 4 | flags);
            writer.byte(source);
            writer.bytes(&seq.to_le_bytes());
            writer.varint(at_ms);
            if let Some(trace) = trace {
                writer.bytes(&trace.trace_id());
                writer.bytes(&trace.span_id());
                writer.byte(trace.flags());
            }
            if lost != 0 {
                writer.varint(u64::from(lost));
            }
        })?;
        self.flags = flags;
        self.at_ms = at_ms;
        self.step_ms = 0;
        Ok(())
    }

    /// All of what `write` writes, or none of it.
    fn append(&mut self, write: impl FnOnce(&mut Writer<'_>)) -> Result<(), Refused> {
        let from = self.len.wrapping_add(1);
        let room = self
            .line
            .get_mut(from..=FRAME_MAX - CRC_LEN)
            .ok_or(Refused::Full)?;
        let mut writer = Writer::new(room);
        write(&mut writer);
        let written = writer.done().ok_or(Refused::Full)?;
        self.len = self.len.wrapping_add(written);
        Ok(())
    }
}

/// Codes a frame in place: the first and the last byte are free, and each zero
/// between becomes the distance to the next one. The frame is short enough for
/// one block, so no distance exceeds 254.
fn cobs(line: &mut [u8]) {
    if let Some(end) = line.last_mut() {
        *end = 0;
    }
    if let Some(start) = line.first_mut() {
        *start = 0;
    }
    let mut distance = 0u8;
    for byte in line.iter_mut().rev() {
        if *byte == 0 {
            *byte = distance;
            distance = 0;
        }
        distance = distance.wrapping_add(1);
    }
}
