//! The part of Sonde that also runs on a microcontroller: `no_std`, no
//! allocation, no panic path.
//!
//! For now it holds what both sides need first: [`Missing`], the typed absence
//! of a reading, and [`SampleRing`], fixed room for readings that somebody
//! fetches later, with a count of those that came too fast. Sensor adapters,
//! statistics and serial wire frames come with the gauges that need them.

#![no_std]

use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use heapless::Deque;

/// Why a sensor gave no value. Never reported as 0 or NaN instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing answers at its address.
    Gone,
    /// It is there and did not give the data.
    Refused,
    /// The bus itself is in trouble (arbitration lost, stuck line, overrun).
    Bus,
    /// It answered, but not with a value that can be true.
    Garbage,
}

/// What an I2C driver's error means for the reading.
///
/// The kinds are those of embedded-hal 1.0, `embedded_hal::i2c::ErrorKind`.
impl From<ErrorKind> for Missing {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data) => Missing::Refused,
            ErrorKind::NoAcknowledge(_) => Missing::Gone,
            _ => Missing::Bus,
        }
    }
}

/// Fixed room for `N` samples. When it is full the oldest one makes way, since
/// a late reader wants to know how things are, and the loss is counted.
#[derive(Debug, Default)]
pub struct SampleRing<T, const N: usize> {
    samples: Deque<T, N>,
    overruns: u32,
}

impl<T, const N: usize> SampleRing<T, N> {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            samples: Deque::new(),
            overruns: 0,
        }
    }

    /// Adds a sample. `N` is at least 1: heapless refuses less when it is compiled.
    pub fn push(&mut self, sample: T) {
        if self.samples.is_full() {
            self.samples.pop_front();
            self.overruns = self.overruns.saturating_add(1);
        }
        // There is room now, so nothing comes back.
        let _ = self.samples.push_back(sample);
    }

    /// Takes the oldest sample.
    pub fn pop(&mut self) -> Option<T> {
        self.samples.pop_front()
    }

    /// Samples waiting.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// None waiting.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Samples lost to newer ones since the start; stays at its largest value.
    pub fn overruns(&self) -> u32 {
        self.overruns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_out_in_the_order_they_went_in() {
        let mut ring = SampleRing::<u16, 4>::new();
        for sample in 1..=3 {
            ring.push(sample);
        }
        assert_eq!(
            (ring.pop(), ring.pop(), ring.pop(), ring.pop()),
            (Some(1), Some(2), Some(3), None)
        );
        assert_eq!(ring.overruns(), 0);
    }

    #[test]
    fn a_full_ring_loses_its_oldest_sample_and_counts_it() {
        let mut ring = SampleRing::<u16, 2>::new();
        for sample in 1..=5 {
            ring.push(sample);
        }
        assert_eq!(ring.overruns(), 3);
        assert_eq!(
            (ring.pop(), ring.pop(), ring.pop()),
            (Some(4), Some(5), None)
        );
    }

    #[test]
    fn a_silent_address_is_gone_and_a_refused_byte_is_not() {
        let of = |source| Missing::from(ErrorKind::NoAcknowledge(source));
        assert_eq!(of(NoAcknowledgeSource::Address), Missing::Gone);
        assert_eq!(of(NoAcknowledgeSource::Unknown), Missing::Gone);
        assert_eq!(of(NoAcknowledgeSource::Data), Missing::Refused);
        assert_eq!(Missing::from(ErrorKind::ArbitrationLoss), Missing::Bus);
    }
}
