//! The queue's figures, as the status shows them.

use std::time::Duration;

use super::log::Counts;
use super::queue::Core;
use super::storage::Storage;
use crate::frame::Class;
use crate::status::{ClassStatus, LostStatus, SpoolStatus};

impl<S: Storage> Core<S> {
    /// All figures at boot time `at`.
    pub(crate) fn status(&mut self, at: u64, dir: String) -> SpoolStatus {
        let mut out = SpoolStatus {
            as_of_boot_ns: at,
            path: self.log.is_some().then_some(dir),
            alarm: self.alarm.clone(),
            memory_bytes: self.memory_bytes,
            loss_window_s: self.limits.loss_window.as_secs_f64(),
            recovered_frames: self.recovered,
            limit_bytes: self.limits.quota,
            ..SpoolStatus::default()
        };
        let mut oldest: Option<u64> = None;
        for class in Class::ALL {
            let (counts, first) = self.waiting(class);
            out.frames += counts.frames;
            out.classes.insert(class.as_str().to_owned(), counts);
            oldest = [oldest, first].into_iter().flatten().min();
        }
        let age = oldest.map(|first| Duration::from_nanos(at.saturating_sub(first)));
        out.oldest_age_s = age.map(|age| age.as_secs_f64());
        if let Some(log) = &mut self.log {
            out.bytes = log.usage();
            out.limit_bytes = log.limit();
            out.written_bytes = log.written;
            out.syncs = log.syncs;
            out.damaged = log.damaged;
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

    /// What waits in a class, and the boot time of its oldest reading (of this
    /// boot: a segment of an earlier one tells no age). On flash it is the
    /// most that any uplink still has to get.
    fn waiting(&self, class: Class) -> (ClassStatus, Option<u64>) {
        let mut out = ClassStatus::default();
        let mut first: Option<u64> = None;
        for waiting in self
            .memory
            .get(class as usize)
            .into_iter()
            .flat_map(|m| m.values())
        {
            out.frames += 1;
            out.items += u64::from(waiting.batch.items);
            out.bytes += waiting.batch.body.len() as u64;
            first = Some(first.unwrap_or(u64::MAX).min(waiting.batch.first.boot_ns));
        }
        let segments = self.log.iter().flat_map(|log| log.segments(class).values());
        for segment in segments {
            let sums = segment.remaining.iter().map(|parts| Counts::sum(parts));
            let most = sums.max_by_key(|counts| counts.frames);
            let Some(most) = most.filter(|counts| counts.frames > 0) else {
                continue;
            };
            out.frames += most.frames;
            out.items += most.items;
            out.bytes += most.bytes;
            if segment.epoch == self.epoch {
                first = Some(first.unwrap_or(u64::MAX).min(segment.stats.first.boot_ns));
            }
        }
        (out, first)
    }
}
