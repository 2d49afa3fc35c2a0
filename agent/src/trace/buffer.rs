//! Where spans and log records wait for the next flush: bounded, never blocking,
//! without a thread. Whoever comes when it is full is lost, and counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::drops::{Drops, What, Why};
use crate::frame::Stamp;
use crate::vitals;

/// Items that one buffer holds: spans of a gateway's half minute at one tick a
/// second, several times over, in well under 500 KB.
pub(crate) const CAPACITY: usize = 512;

/// From here on the flush does not wait for its time.
const HALF: usize = CAPACITY / 2;

/// A wall clock that moved this much against the boot clock was set, not slewed.
const STEP_NS: i128 = 1_000_000_000;

/// One span or log record with its times by both clocks.
#[derive(Clone, Debug)]
pub(crate) struct Item<T> {
    pub(crate) first: Stamp,
    pub(crate) last: Stamp,
    pub(crate) data: T,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    what: What,
    drops: Drops,
    half_full: Arc<Notify>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<Item<T>>,
    /// How many are worth a flush of their own.
    worthy: usize,
    closed: bool,
}

impl<T> Buffer<T> {
    pub(crate) fn new(what: What, drops: Drops, half_full: Arc<Notify>) -> Self {
        Self {
            what,
            drops,
            half_full,
            state: Mutex::new(State {
                items: Vec::new(),
                worthy: 0,
                closed: false,
            }),
        }
    }

    /// Adds an item, or counts why not. One that is not `worthy` (a span about
    /// flushing) waits until others need a flush.
    pub(crate) fn push(&self, item: Item<T>, worthy: bool) {
        let mut state = self.lock();
        if state.closed {
            return self.drops.add(self.what, Why::Stopped, 1);
        }
        if state.items.len() >= CAPACITY {
            return self.drops.add(self.what, Why::BufferFull, 1);
        }
        state.items.push(item);
        vitals::OWN_RECORDS.is_at(state.items.len());
        state.worthy += usize::from(worthy);
        if state.worthy > 0 && state.items.len() == HALF {
            self.half_full.notify_one();
        }
    }

    /// Whether something waits that is worth a flush.
    pub(crate) fn is_due(&self) -> bool {
        self.lock().worthy > 0
    }

    /// Everything that waits, oldest first.
    pub(crate) fn take(&self) -> Vec<Item<T>> {
        let mut state = self.lock();
        state.worthy = 0;
        vitals::OWN_RECORDS.is_at(0);
        std::mem::take(&mut state.items)
    }

    /// A copy of what waits, oldest first.
    pub(crate) fn copy(&self) -> Vec<Item<T>>
    where
        T: Clone,
    {
        self.lock().items.clone()
    }

    /// What waits and `is` it, oldest first; all of it worth a flush.
    pub(crate) fn take_if(&self, is: impl Fn(&T) -> bool) -> Vec<Item<T>> {
        let mut state = self.lock();
        let taken: Vec<_> = state.items.extract_if(.., |item| is(&item.data)).collect();
        state.worthy = state.worthy.saturating_sub(taken.len());
        taken
    }

    /// Lets nothing in from now on, and gives what is left.
    pub(crate) fn close(&self) -> Vec<Item<T>> {
        self.lock().closed = true;
        self.take()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts `items` where the wall clock stepped, so that each part can be
/// corrected later by one shift of its times.
pub(crate) fn between_steps<T>(items: &[Item<T>]) -> impl Iterator<Item = &[Item<T>]> {
    items.chunk_by(|a, b| (offset(a.last) - offset(b.last)).abs() < STEP_NS)
}

/// The first and the last moment of a batch, by the clock that never steps.
pub(crate) fn span_of<T>(items: &[Item<T>]) -> (Stamp, Stamp) {
    let first = items
        .iter()
        .map(|item| item.first)
        .min_by_key(|at| at.boot_ns);
    let last = items
        .iter()
        .map(|item| item.last)
        .max_by_key(|at| at.boot_ns);
    (first.unwrap_or_default(), last.unwrap_or_default())
}

/// Whether the wall clock was set between two moments of the same boot.
pub(crate) fn stepped(before: Stamp, after: Stamp) -> bool {
    (offset(before) - offset(after)).abs() >= STEP_NS
}

fn offset(at: Stamp) -> i128 {
    i128::from(at.unix_ns) - i128::from(at.boot_ns)
}
