//! The queue's figures, as the status shows them.

use std::time::Duration;

use super::cursor::Reason;
use super::log::{Counts, Now, SegmentClock};
use super::queue::Core;
use super::storage::Storage;
use crate::frame::{Class, Stamp};
use crate::status::words::{of, utc};
use crate::status::{ClassStatus, CondemnedStatus, LostStatus, SpoolStatus};

/// Losses are told upstream at most this often, in nanoseconds.
const TELL_EVERY: u64 = 60_000_000_000;

impl<S: Storage> Core<S> {
    /// All figures.
    pub(crate) fn status(&mut self, now: Now, dir: String) -> SpoolStatus {
        self.keep_budget(now.stamp.boot_ns);
        let mut out = SpoolStatus {
            as_of_boot_ns: now.stamp.boot_ns,
            path: self.log.is_some().then_some(dir),
            alarm: self.alarm.clone(),
            memory_bytes: self.memory_bytes,
            loss_window_s: self.promise().map(|window| window.as_secs_f64()),
            recovered_frames: self.recovered,
            limit_bytes: self.limits.quota,
            ..SpoolStatus::default()
        };
        if let Some((a_day, left)) = self.budget.left() {
            out.write_budget_bytes = Some(a_day);
            out.write_budget_left_bytes = Some(left);
        }
        out.write_overrun_bytes = self.budget.overrun;
        let mut oldest = Oldest::default();
        for class in Class::ALL {
            let mut of_class = Oldest::default();
            let (mut counts, newer) = self.waiting(class, now, &mut of_class);
            counts.oldest_age_s = of_class.known();
            oldest.unknown |= of_class.unknown;
            oldest.age = oldest.age.max(of_class.age);
            out.newer_segments += newer;
            out.frames += counts.frames;
            out.classes.insert(class.as_str().to_owned(), counts);
        }
        out.oldest_age_s = oldest.known();
        out.oldest_unknown = oldest.unknown;
        let condemned = self.condemned.iter();
        out.condemned = condemned
            .map(|(id, class, reason)| CondemnedStatus {
                frame: id.to_string(),
                class: class.as_str().to_owned(),
                reason: reason.clone(),
            })
            .collect();
        if let Some(log) = &mut self.log {
            out.bytes = log.usage();
            out.limit_bytes = log.limit();
            let segments = Class::ALL.iter().map(|class| log.segments(*class).len());
            out.segments = segments.sum::<usize>() as u64;
            out.written_bytes = log.written;
            out.syncs = log.syncs;
            out.damaged = log.damaged;
            out.flash_bytes = log.flash;
            out.device_written_bytes = log.device_written(now.stamp.boot_ns);
            if let (None, Some(denied)) = (&out.alarm, &log.denied) {
                out.alarm = Some(format!("{denied}; what is stored there waits"));
            }
        }
        out.lost = self
            .losses
            .table
            .iter()
            .map(|((class, reason), loss)| LostStatus {
                class: class.as_str().to_owned(),
                reason: reason.as_str().to_owned(),
                frames: loss.frames,
                items: loss.items,
                first_unix_ns: loss.first_unix_ns,
                last_unix_ns: loss.last_unix_ns,
            })
            .collect();
        out
    }

    /// What to say upstream about losses, one line for each class and reason:
    /// once some link is up, and at most once a minute.
    pub(crate) fn tell_losses(&mut self, at: u64) -> Vec<String> {
        let up = self.readers.iter().flatten().any(|reader| reader.up);
        if !up || at < self.tell_at || self.untold.table.is_empty() {
            return Vec::new();
        }
        self.tell_at = at.saturating_add(TELL_EVERY);
        let untold = std::mem::take(&mut self.untold.table).into_iter();
        // A signal without an uplink is how somebody wants it; telling would be lost the same way.
        let untold = untold.filter(|((_, reason), _)| *reason != Reason::NoUplink);
        untold
            .map(|((class, reason), loss)| {
                format!(
                    "lost {} ({}) of class {}, reason {}, readings from {} to {}",
                    of(loss.frames, "frame"),
                    of(loss.items, "item"),
                    class.as_str(),
                    reason.as_str(),
                    rfc3339(loss.first_unix_ns),
                    rfc3339(loss.last_unix_ns),
                )
            })
            .collect()
    }

    /// What waits in a class (on flash it is the most that any uplink still has
    /// to get), and how many segments are a newer program's.
    fn waiting(&self, class: Class, now: Now, oldest: &mut Oldest) -> (ClassStatus, u64) {
        let mut out = ClassStatus::default();
        let mut newer = 0;
        for waiting in self
            .memory
            .get(class as usize)
            .into_iter()
            .flat_map(|m| m.values())
        {
            out.frames += 1;
            out.items += u64::from(waiting.batch.items);
            out.bytes += waiting.batch.body.len() as u64;
            oldest.saw(SegmentClock::Boot, waiting.batch.first, now);
        }
        let segments = self.log.iter().flat_map(|log| log.segments(class).values());
        for segment in segments {
            newer += u64::from(segment.newer.is_some());
            let sums = segment.remaining.iter().map(|parts| Counts::sum(parts));
            let most = sums.max_by_key(|counts| counts.frames);
            let Some(most) = most.filter(|counts| counts.frames > 0) else {
                continue;
            };
            out.frames += most.frames;
            out.items += most.items;
            out.bytes += most.bytes;
            oldest.saw(segment.clock, segment.stats.first, now);
        }
        (out, newer)
    }
}

/// As `2026-11-21T05:04:06Z`.
fn rfc3339(unix_ns: u64) -> String {
    utc(unix_ns).replace(" UTC", "Z").replace(' ', "T")
}

/// The age of the oldest reading that waits, as far as the clocks can tell.
#[derive(Default)]
struct Oldest {
    age: Option<u64>,
    /// Some are of an earlier boot whose wall clock was not believed.
    unknown: bool,
}

impl Oldest {
    fn saw(&mut self, clock: SegmentClock, first: Stamp, now: Now) {
        let age = match clock {
            SegmentClock::Boot => Some(now.stamp.boot_ns.saturating_sub(first.boot_ns)),
            SegmentClock::Wall if now.synchronised => now.stamp.unix_ns.checked_sub(first.unix_ns),
            SegmentClock::Wall | SegmentClock::Unknown => None,
        };
        self.unknown |= age.is_none();
        self.age = self.age.max(age);
    }

    /// In seconds.
    fn known(&self) -> Option<f64> {
        let age = self.age.filter(|_| !self.unknown)?;
        Some(Duration::from_nanos(age).as_secs_f64())
    }
}
