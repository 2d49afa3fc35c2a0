//! Statistics of many readings in the room of a few.

/// What a [`Window`] saw, in the gauge's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The smallest value.
    pub min: i32,
    /// The largest value.
    pub max: i32,
    /// The mean, rounded to the nearest step, halves away from zero.
    pub mean: i32,
    /// The newest value.
    pub last: i32,
    /// How many values: at least 1.
    pub count: u32,
}

/// Gathers readings until somebody takes their summary. 32 bytes, whole
/// numbers only: the sum of 2^32 values of 32 bits fits 64 bits, so nothing
/// wraps and nothing is rounded before the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    sum: i64,
    min: i32,
    max: i32,
    last: i32,
    count: u32,
    absent: u32,
}

impl Window {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            sum: 0,
            min: 0,
            max: 0,
            last: 0,
            count: 0,
            absent: 0,
        }
    }

    /// Adds a reading. Absent ones change no figure and are counted.
    pub fn add(&mut self, reading: crate::Reading) {
        let Ok(value) = reading else {
            self.absent = self.absent.saturating_add(1);
            return;
        };
        // After 2^32-1 values the window stands still rather than lie.
        let Some(count) = self.count.checked_add(1) else {
            return;
        };
        let first = self.count == 0;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
        self.sum = self.sum.wrapping_add(i64::from(value));
        self.last = value;
        self.count = count;
    }

    /// Absent readings since the last [`Window::take`].
    pub fn absent(&self) -> u32 {
        self.absent
    }

    /// The figures so far; `None` when no value came.
    pub fn summary(&self) -> Option<Summary> {
        if self.count == 0 {
            return None;
        }
        let count = i64::from(self.count);
        let half = if self.sum < 0 { -count / 2 } else { count / 2 };
        let mean = self.sum.wrapping_add(half).checked_div(count)?;
        Some(Summary {
            min: self.min,
            max: self.max,
            // A mean lies between min and max, so it fits.
            mean: mean.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
            last: self.last,
            count: self.count,
        })
    }

    /// Takes the figures and starts over.
    pub fn take(&mut self) -> Option<Summary> {
        let summary = self.summary();
        *self = Self::new();
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Missing;

    fn of(values: &[i32]) -> Option<Summary> {
        let mut window = Window::new();
        for value in values {
            window.add(Ok(*value));
        }
        window.take()
    }

    #[test]
    fn a_window_without_values_has_no_figures() {
        let mut window = Window::new();
        window.add(Err(Missing::Gone));
        assert_eq!((window.absent(), window.take()), (1, None));
        assert_eq!(window.absent(), 0, "taking starts over");
    }

    #[test]
    fn all_figures_of_a_few_values() {
        assert_eq!(
            of(&[5, -3, 9, 4]),
            Some(Summary {
                min: -3,
                max: 9,
                mean: 4,
                last: 4,
                count: 4
            })
        );
    }

    #[test]
    fn the_mean_is_rounded_to_the_nearest_step_on_both_sides_of_zero() {
        let mean = |values: &[i32]| of(values).map(|summary| summary.mean);
        assert_eq!(mean(&[1, 2]), Some(2));
        assert_eq!(mean(&[-1, -2]), Some(-2));
        assert_eq!(mean(&[1, 1, 2]), Some(1));
        assert_eq!(mean(&[-1, -1, -2]), Some(-1));
    }

    #[test]
    fn the_widest_values_do_not_wrap() {
        let mean = |value| of(&[value; 1000]).map(|summary| summary.mean);
        assert_eq!(mean(i32::MIN), Some(i32::MIN));
        assert_eq!(mean(i32::MAX), Some(i32::MAX));
    }

    #[test]
    fn a_window_that_counted_to_its_end_stands_still() {
        let mut window = Window::new();
        window.add(Ok(7));
        window.count = u32::MAX;
        window.sum = i64::from(u32::MAX) * 7;
        window.add(Ok(1_000_000));
        let summary = window.take().map(|s| (s.mean, s.max, s.count));
        assert_eq!(summary, Some((7, 7, u32::MAX)));
    }
}
