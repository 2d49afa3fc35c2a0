//! What is in memory of traces, for a person who asks: a small ring of what has
//! been stored lately, kept whether it has been delivered or not, and what waits
//! in the queue besides.
//!
//! Bodies are shared with the queue while they wait there; beyond that the ring
//! holds at most [`BYTES`] of them. An answer has at most [`ANSWER`].

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::cursor::{UPLINK_NAMES, uplink_slot};
use super::queue::Core;
use super::reader::mask_of;
use super::storage::Storage;
use crate::config::UplinkName;
use crate::frame::{Batch, Class, FrameId, Signal};

/// Bytes of bodies that the ring keeps, at the most.
const BYTES: usize = 128 * 1024;
/// Frames that the ring keeps, at the most.
const FRAMES: usize = 256;
/// Bytes of bodies in an answer, at the most; the newest are in it.
const ANSWER: usize = 256 * 1024;
/// Frames in an answer, at the most.
const ANSWER_FRAMES: usize = 1024;

/// A frame in memory.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// `None`: it has not been given to the spool yet.
    pub(crate) id: Option<FrameId>,
    /// Its body is empty where only the context matters (metrics, messages).
    pub(crate) batch: Batch,
    /// A bit for each uplink that is to get it.
    wants: u8,
    /// A bit for each uplink that has acknowledged it.
    acked: u8,
}

/// What is in memory of traces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Oldest first.
    pub(crate) frames: Vec<Held>,
    /// Older ones that are not among them.
    pub(crate) more: u64,
    /// A bit for each uplink that takes traces.
    wants: u8,
}

/// The newest frames that were stored by this process.
#[derive(Debug, Default)]
pub(super) struct Ring {
    frames: VecDeque<(FrameId, Batch)>,
    bytes: usize,
}

impl Held {
    /// The uplinks that are to get it, and whether they have.
    pub(crate) fn uplinks(&self) -> impl Iterator<Item = (UplinkName, bool)> {
        let (wants, acked) = (self.wants, self.acked);
        let bit = |name| 1 << uplink_slot(name);
        let wanted = UPLINK_NAMES
            .into_iter()
            .filter(move |name| wants & bit(*name) != 0);
        wanted.map(move |name| (name, acked & bit(name) != 0))
    }
}

impl Memory {
    /// Adds spans that have not been given to the spool yet.
    pub(crate) fn add_unsealed(&mut self, batches: Vec<Batch>) {
        let wants = self.wants;
        self.frames.extend(batches.into_iter().map(|batch| Held {
            id: None,
            batch,
            wants,
            acked: 0,
        }));
    }
}

/// What of a batch is worth showing; `None`: nothing.
pub(super) fn of(batch: &Batch) -> Option<Batch> {
    let body = match (batch.signal, &batch.context) {
        (Signal::Traces, _) => batch.body.clone(),
        (_, Some(_)) => Bytes::new(),
        _ => return None,
    };
    Some(Batch {
        signal: batch.signal,
        class: batch.class,
        codec: batch.codec,
        items: batch.items,
        first: batch.first,
        last: batch.last,
        context: batch.context.clone(),
        body,
    })
}

impl Ring {
    pub(super) fn keep(&mut self, id: FrameId, batch: Batch) {
        self.bytes += batch.body.len();
        self.frames.push_back((id, batch));
        while self.bytes > BYTES || self.frames.len() > FRAMES {
            let Some((_, oldest)) = self.frames.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(oldest.body.len());
        }
    }
}

impl<S: Storage> Core<S> {
    /// The ring, and what waits in memory besides; who has what is what the
    /// cursors say now.
    pub(super) fn held(&self, ring: &Ring) -> Memory {
        let mut known = BTreeSet::new();
        let mut frames: Vec<Held> = Vec::new();
        for (id, batch) in &ring.frames {
            // A disk that turned up later gave it another name.
            let seq = self.moved.seq(*id, self.epoch);
            let id = FrameId { seq, ..*id };
            known.insert(id);
            frames.push(self.shown(id, batch.clone()));
        }
        let epoch = self.epoch;
        for waiting in &self.memory {
            for (seq, waiting) in waiting {
                let id = FrameId { epoch, seq: *seq };
                if !known.contains(&id)
                    && let Some(batch) = of(&waiting.batch)
                {
                    frames.push(self.shown(id, batch));
                }
            }
        }
        frames.sort_by_key(|held| held.id.map(|id| id.seq));
        let mut bytes = 0;
        let newest = frames.iter().rev().take(ANSWER_FRAMES).take_while(|held| {
            bytes += held.batch.body.len();
            bytes <= ANSWER
        });
        let more = frames.len().saturating_sub(newest.count());
        frames.drain(..more);
        Memory {
            frames,
            more: more as u64,
            wants: self.need_of(Signal::Traces),
        }
    }

    fn shown(&self, id: FrameId, batch: Batch) -> Held {
        let wants = self.need_of(batch.signal);
        let signal = mask_of(&[batch.signal]);
        let mut acked = 0;
        for (slot, reader) in self.readers.iter().enumerate() {
            if let Some(reader) = reader
                && reader.done(batch.class, signal, id.seq)
                && !self.waits(batch.class, slot, id.seq)
            {
                acked |= 1 << slot;
            }
        }
        Held {
            id: Some(id),
            batch,
            wants,
            acked,
        }
    }

    /// An uplink has yet to acknowledge a frame that is in memory.
    fn waits(&self, class: Class, slot: usize, seq: u64) -> bool {
        let waiting = self.in_memory(class).get(&seq);
        waiting.is_some_and(|waiting| waiting.need & (1 << slot) != 0)
    }
}
