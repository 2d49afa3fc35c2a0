//! In which order messages of the outbox go out: pure.
//!
//! Promise: of one topic no message leaves before an earlier one, whatever the
//! broker answers and wherever a connection is cut. Repeats are possible, and a
//! repeat never leaves an older message as the last word on its topic:
//!
//! - messages are taken oldest first and sent one behind the other; TCP keeps that;
//! - one counts as delivered only when all earlier ones of its topic are, so a
//!   cut brings back everything from the first unacknowledged on;
//! - when the broker refuses one for a time, the later ones of its topic wait
//!   behind it, and those already on their way go again. From then on that topic
//!   sends one at a time, since only then can the next not arrive before it.
//!
//! The one case left: a broker that refuses a message for a time and takes the
//! next one of the same topic, which was on its way already; it then shows
//! before the first, and again after it.
//!
//! Waiting messages are names only; their bodies stay in the spool. At most
//! [`MAX_WAITING`] wait, for topics that the broker does not take at the moment;
//! then no more are taken, whatever their topic, until one of those is settled.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::FrameId;

/// Names that wait for their topic. A row has about 50 bytes here and 120 in the spool.
pub(super) const MAX_WAITING: usize = 1024;

/// Topics with a past that is remembered.
const MAX_TROUBLES: usize = 64;

/// What the order says of a message that was taken from the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes out now.
    Send,
    /// Its topic is held up; [`Order::due`] names it when it is its turn.
    Wait,
}

/// What to tell the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settle {
    /// Delivered, and all before it.
    Delivered(FrameId),
    /// Give it out again later: it is the order's turn to ask for it.
    Wait(FrameId),
}

/// A topic that the broker refused a message of.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// The topic.
    pub(super) topic: String,
    /// What the broker said last.
    pub(super) reason: String,
    /// When it said so first, in boot nanoseconds.
    pub(super) since: u64,
    /// The broker has not taken one of it since.
    pub(super) refused: bool,
    not_before: u64,
    wait: Duration,
}

/// The messages that were taken and are not settled.
#[derive(Debug)]
pub(super) struct Order {
    /// By seq, which is the order in which they were stored.
    taken: BTreeMap<u64, Taken>,
    troubles: Vec<Trouble>,
    backoff: (Duration, Duration),
}

#[derive(Debug)]
struct Taken {
    id: FrameId,
    topic: String,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// On its way.
    Sent,
    /// On its way, but an earlier one was refused: it must go again behind it.
    SentTooEarly,
    /// Acknowledged before an earlier one was.
    Acknowledged,
    /// In the spool, to be asked for.
    Waiting,
}

impl Order {
    /// `backoff`: first and longest wait of a topic that is refused.
    pub(super) fn new(backoff: (Duration, Duration)) -> Self {
        Self {
            taken: BTreeMap::new(),
            troubles: Vec::new(),
            backoff,
        }
    }

    /// A message was taken from the spool.
    pub(super) fn take(&mut self, id: FrameId, topic: &str, now: u64) -> Turn {
        let earlier = || self.of(topic).filter(|taken| taken.id.seq < id.seq);
        let trouble = self.trouble(topic);
        let state = match trouble {
            Some(trouble) if trouble.not_before > now => State::Waiting,
            // One at a time.
            Some(_) if earlier().next().is_some() => State::Waiting,
            None if earlier().any(|taken| taken.state == State::Waiting) => State::Waiting,
            _ => State::Sent,
        };
        let topic = topic.to_owned();
        self.taken.insert(id.seq, Taken { id, topic, state });
        match state {
            State::Waiting => Turn::Wait,
            _ => Turn::Send,
        }
    }

    /// The broker has it.
    pub(super) fn acknowledged(&mut self, id: FrameId, now: u64) -> Vec<Settle> {
        let Some(taken) = self.taken.get_mut(&id.seq) else {
            return Vec::new();
        };
        let topic = taken.topic.clone();
        if taken.state == State::SentTooEarly {
            taken.state = State::Waiting;
            return vec![Settle::Wait(id)];
        }
        taken.state = State::Acknowledged;
        if let Some(trouble) = self.troubles.iter_mut().find(|t| t.topic == topic) {
            trouble.refused = false;
            trouble.wait = Duration::ZERO;
            trouble.not_before = now;
        }
        self.release(&topic)
    }

    /// It is settled in another way than by an acknowledgement: expired or
    /// condemned. Those behind it are free.
    pub(super) fn gave_up(&mut self, id: FrameId) -> Vec<Settle> {
        match self.taken.remove(&id.seq) {
            Some(taken) => self.release(&taken.topic),
            None => Vec::new(),
        }
    }

    /// The broker refused it for a time.
    pub(super) fn refused(&mut self, id: FrameId, reason: &str, now: u64) -> Vec<Settle> {
        let Some(topic) = self.taken.get(&id.seq).map(|taken| taken.topic.clone()) else {
            return Vec::new();
        };
        self.note(&topic, reason, now);
        let mut settled = Vec::new();
        for (seq, taken) in self.taken.range_mut(id.seq..) {
            if taken.topic != topic {
                continue;
            }
            taken.state = match taken.state {
                State::Sent | State::SentTooEarly if *seq != id.seq => State::SentTooEarly,
                State::Waiting => State::Waiting,
                _ => {
                    settled.push(Settle::Wait(taken.id));
                    State::Waiting
                }
            };
        }
        settled
    }

    /// Messages whose turn it is, one of each topic at most: give them back to
    /// the spool, which gives them out again before all younger ones.
    pub(super) fn due(&mut self, now: u64) -> Vec<FrameId> {
        let mut due: Vec<FrameId> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for taken in self.taken.values() {
            if seen.contains(&taken.topic.as_str()) {
                continue;
            }
            seen.push(&taken.topic);
            let held = self.trouble(&taken.topic);
            if taken.state == State::Waiting && held.is_none_or(|held| held.not_before <= now) {
                due.push(taken.id);
            }
        }
        for id in &due {
            self.taken.remove(&id.seq);
        }
        due
    }

    /// When [`due`](Self::due) has something next, in boot nanoseconds; may be past.
    pub(super) fn due_at(&self) -> Option<u64> {
        let mut seen: Vec<&str> = Vec::new();
        let mut at: Option<u64> = None;
        for taken in self.taken.values() {
            if seen.contains(&taken.topic.as_str()) {
                continue;
            }
            seen.push(&taken.topic);
            if taken.state == State::Waiting {
                let this = self.trouble(&taken.topic).map_or(0, |held| held.not_before);
                at = Some(at.map_or(this, |at| at.min(this)));
            }
        }
        at
    }

    /// Whether no more may be taken before one of those that wait is settled. The
    /// rest stays in the spool: a broker's no is not a licence to delete.
    pub(super) fn is_full(&self) -> bool {
        self.taken.len() >= MAX_WAITING && self.waiting().count() >= MAX_WAITING / 2
    }

    /// A connection ended: everything is back in the spool.
    pub(super) fn clear(&mut self) {
        self.taken.clear();
    }

    /// Somebody changed something: refused topics may be tried at once.
    pub(super) fn mended(&mut self, now: u64) {
        for trouble in &mut self.troubles {
            trouble.not_before = trouble.not_before.min(now);
        }
    }

    /// The topics that the broker refuses, and how many messages wait for each.
    pub(super) fn refused_topics(&self) -> impl Iterator<Item = (&Trouble, usize)> {
        let refused = self.troubles.iter().filter(|trouble| trouble.refused);
        refused.map(|trouble| {
            let waiting = self.waiting().filter(|taken| taken.topic == trouble.topic);
            (trouble, waiting.count())
        })
    }

    fn waiting(&self) -> impl Iterator<Item = &Taken> {
        let taken = self.taken.values();
        taken.filter(|taken| taken.state == State::Waiting)
    }

    fn of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Taken> {
        self.taken
            .values()
            .filter(move |taken| taken.topic == topic)
    }

    fn trouble(&self, topic: &str) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.topic == topic)
    }

    /// Settles what is acknowledged from the front of a topic on.
    fn release(&mut self, topic: &str) -> Vec<Settle> {
        let front = self.of(topic);
        let done: Vec<FrameId> = front
            .take_while(|taken| taken.state == State::Acknowledged)
            .map(|taken| taken.id)
            .collect();
        for id in &done {
            self.taken.remove(&id.seq);
        }
        done.into_iter().map(Settle::Delivered).collect()
    }

    fn note(&mut self, topic: &str, reason: &str, now: u64) {
        let (first, longest) = self.backoff;
        let at = self.troubles.iter().position(|t| t.topic == topic);
        let mut trouble = match at {
            Some(at) => self.troubles.remove(at),
            None => {
                if self.troubles.len() >= MAX_TROUBLES {
                    self.troubles.remove(0);
                }
                Trouble {
                    topic: topic.to_owned(),
                    reason: String::new(),
                    since: now,
                    refused: false,
                    not_before: now,
                    wait: Duration::ZERO,
                }
            }
        };
        if !trouble.refused {
            trouble.since = now;
        }
        trouble.refused = true;
        reason.clone_into(&mut trouble.reason);
        trouble.wait = (trouble.wait * 2).max(first).min(longest);
        let wait = u64::try_from(trouble.wait.as_nanos()).unwrap_or(u64::MAX);
        trouble.not_before = now.saturating_add(wait);
        self.troubles.push(trouble);
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
