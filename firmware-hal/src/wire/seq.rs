//! Tells from sequence numbers what the line lost. One watch for each source.

use super::Frame;

/// How a frame follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first one seen of its source.
    New,
    /// The next one.
    Next,
    /// This many between were lost.
    After(u16),
    /// The same one again: drop it.
    Again,
    /// The sender started anew; its clock and its numbers begin again.
    Restarted,
}

/// Remembers the last frame of one source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeqWatch {
    last: Option<(u16, u64)>,
}

impl SeqWatch {
    /// Nothing seen.
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// Judges the next good frame of the source. An outage of 65,536 frames or
    /// more is counted short. A sender whose first frame got lost shows as
    /// restarted if its clock is behind where it was and its number is not the next.
    pub fn saw(&mut self, frame: &Frame<'_>) -> Arrival {
        let now = (frame.seq, frame.uptime_ms);
        let Some((seq, uptime_ms)) = self.last.replace(now) else {
            return Arrival::New;
        };
        if (seq, uptime_ms) == now {
            return Arrival::Again;
        }
        if frame.first {
            return Arrival::Restarted;
        }
        match frame.seq.wrapping_sub(seq) {
            // Readings gathered before a description was sent come after it, with
            // an earlier clock; the number says that all is well.
            1 => Arrival::Next,
            _ if frame.uptime_ms < uptime_ms => Arrival::Restarted,
            steps => Arrival::After(steps.wrapping_sub(1)),
        }
    }
}
