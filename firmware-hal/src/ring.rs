//! Fixed room between the one who samples and the one who sends.

use heapless::Deque;

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

    /// The oldest sample, left in place: take it only once it found room elsewhere.
    pub fn peek(&self) -> Option<&T> {
        self.samples.front()
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
        assert_eq!(ring.peek(), Some(&1));
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
}
