//! Spans and log records that did not reach the spool, counted by reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Spans,
    Logs,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// More came than the buffer holds between two flushes.
    BufferFull,
    /// The spool said no.
    Refused,
    /// One item alone is larger than a frame may be.
    TooLarge,
    /// It could not be encoded.
    Encode,
    /// The spool did not answer in time.
    Timeout,
    /// A local trace was kept at its end, but had been too large to wait for it.
    TailFull,
    /// Standard output did not take it.
    Console,
    /// It ended after the flush task had.
    Stopped,
}

const WHATS: [(What, &str); 2] = [(What::Spans, "spans"), (What::Logs, "logs")];
const WHYS: [(Why, &str); 8] = [
    (Why::BufferFull, "buffer_full"),
    (Why::Refused, "refused"),
    (Why::TooLarge, "too_large"),
    (Why::Encode, "encode"),
    (Why::Timeout, "timeout"),
    (Why::TailFull, "tail_full"),
    (Why::Console, "console"),
    (Why::Stopped, "stopped"),
];

/// The counters; a clone counts into the same ones.
#[derive(Clone, Debug, Default)]
pub struct Drops(Arc<[[AtomicU64; WHYS.len()]; WHATS.len()]>);

impl Drops {
    /// What was lost since the start, as `spans.buffer_full`; only what happened.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let mut lost = BTreeMap::new();
        for (what, noun) in WHATS {
            for (why, reason) in WHYS {
                let count = self.count(what, why);
                if count > 0 {
                    lost.insert(format!("{noun}.{reason}"), count);
                }
            }
        }
        lost
    }

    pub(crate) fn add(&self, what: What, why: Why, items: usize) {
        if let Some(counter) = self.counter(what, why) {
            counter.fetch_add(items as u64, Ordering::Relaxed);
        }
    }

    fn count(&self, what: What, why: Why) -> u64 {
        self.counter(what, why)
            .map_or(0, |c| c.load(Ordering::Relaxed))
    }

    fn counter(&self, what: What, why: Why) -> Option<&AtomicU64> {
        self.0.get(what as usize)?.get(why as usize)
    }
}
