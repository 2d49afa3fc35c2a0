//! What has been stored lately that a person may ask for by its trace: a small
//! ring beside the queue, kept whether it has been delivered or not.
//!
//! Bodies are shared with the queue while they wait there; beyond that the ring
//! holds at most [`BYTES`] of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::cursor::uplink_slot;
use super::{Batch, FrameId};
use crate::config::UplinkName;
use crate::frame::Signal;

/// Bytes of bodies, at the most.
const BYTES: usize = 128 * 1024;
/// Frames, at the most.
const FRAMES: usize = 256;

/// Acknowledgements that came before their frame, at the most.
const EARLY: usize = 64;

/// A frame that was stored by this process.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// `None`: it has not been given to the spool yet.
    pub(crate) id: Option<FrameId>,
    /// Its body is empty where only the context matters (metrics).
    pub(crate) batch: Batch,
    /// A bit for each uplink that has acknowledged it.
    acked: u8,
}

/// The ring. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    frames: VecDeque<Stored>,
    bytes: usize,
    /// Acknowledged before the one who stored it was answered: an outbox's
    /// frame may be delivered while its sync is under way.
    early: VecDeque<(FrameId, u8)>,
}

impl Stored {
    /// A batch that is not in the spool yet.
    pub(crate) fn unsealed(batch: Batch) -> Self {
        Self {
            id: None,
            batch,
            acked: 0,
        }
    }

    /// Whether an uplink has acknowledged it.
    pub(crate) fn is_acked(&self, uplink: UplinkName) -> bool {
        self.acked & (1 << uplink_slot(uplink)) != 0
    }
}

impl Recent {
    /// What of a batch is worth keeping; `None`: nothing.
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

    pub(super) fn stored(&self, id: FrameId, batch: Batch) {
        let mut ring = self.lock();
        ring.bytes += batch.body.len();
        let early = ring.early.iter().filter(|(early, _)| *early == id);
        let acked = early.fold(0, |acked, (_, bit)| acked | bit);
        ring.frames.push_back(Stored {
            id: Some(id),
            batch,
            acked,
        });
        while ring.bytes > BYTES || ring.frames.len() > FRAMES {
            let Some(oldest) = ring.frames.pop_front() else {
                break;
            };
            ring.bytes = ring.bytes.saturating_sub(oldest.batch.body.len());
        }
    }

    pub(super) fn delivered(&self, uplink: UplinkName, id: FrameId) {
        let mut ring = self.lock();
        let bit = 1 << uplink_slot(uplink);
        let mut newest_first = ring.frames.iter_mut().rev();
        match newest_first.find(|frame| frame.id == Some(id)) {
            Some(frame) => frame.acked |= bit,
            None => {
                ring.early.push_back((id, bit));
                if ring.early.len() > EARLY {
                    ring.early.pop_front();
                }
            }
        }
    }

    /// All that is in it, oldest first.
    pub(crate) fn frames(&self) -> Vec<Stored> {
        self.lock().frames.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Class, Codec, Stamp};

    fn batch(signal: Signal, size: usize) -> Batch {
        Batch {
            signal,
            class: Class::Normal,
            codec: Codec::Identity,
            items: 1,
            first: Stamp::default(),
            last: Stamp::default(),
            context: None,
            body: vec![0; size].into(),
        }
    }

    #[test]
    fn the_newest_traces_stay_within_the_bytes_and_remember_who_has_them() {
        let recent = Recent::default();
        assert!(Recent::of(&batch(Signal::Metrics, 9)).is_none());
        for seq in 1..=40 {
            let traces = Recent::of(&batch(Signal::Traces, 8 * 1024)).unwrap();
            recent.stored(FrameId { epoch: 1, seq }, traces);
        }
        recent.delivered(UplinkName::Mqtt, FrameId { epoch: 1, seq: 40 });
        recent.delivered(UplinkName::Mqtt, FrameId { epoch: 1, seq: 2 });
        recent.delivered(UplinkName::Otlp, FrameId { epoch: 1, seq: 41 });
        let late = Recent::of(&batch(Signal::Traces, 8 * 1024)).unwrap();
        recent.stored(FrameId { epoch: 1, seq: 41 }, late);
        let frames = recent.frames();
        assert_eq!(frames.len(), BYTES / (8 * 1024));
        assert!(frames.last().unwrap().is_acked(UplinkName::Otlp));
        let newest = &frames[frames.len() - 2];
        assert!(newest.is_acked(UplinkName::Mqtt) && !newest.is_acked(UplinkName::Otlp));
        assert_eq!(newest.id.unwrap().seq, 40);
        assert!(!frames[0].is_acked(UplinkName::Mqtt));
    }
}
