//! Where one uplink stands in each chain. Pure.

use std::collections::BTreeMap;

use super::cursor::Ranges;
use super::format::signal_slot;
use super::log::{Counts, Pos};
use super::mutant::{Mutant, made};
use super::queue::Open;
use super::{Lane, Subscription};
use crate::frame::{Class, Signal};

/// Where an uplink stands.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) required: bool,
    /// A bit for each signal it takes.
    pub(super) wants: u8,
    pub(super) up: bool,
    /// Frames from this seq on are live.
    pub(super) live_since: u64,
    pub(super) live: u64,
    pub(super) given: [Ranges; 4],
    pub(super) open: BTreeMap<u64, Open>,
    /// How far each chain has been looked through, live and backlog.
    pub(super) hints: [[Pos; 4]; 2],
    /// What waits for it in memory.
    pub(super) memory: Counts,
}

impl Reader {
    pub(super) fn new(subscription: &Subscription) -> Self {
        Self {
            required: subscription.required,
            wants: mask_of(&subscription.signals),
            up: false,
            live_since: u64::MAX,
            live: 0,
            given: Default::default(),
            open: BTreeMap::new(),
            hints: Default::default(),
            memory: Counts::default(),
        }
    }

    pub(super) fn wants(&self, signal: Signal) -> bool {
        self.wants & (1 << signal_slot(signal)) != 0
    }

    /// It has acknowledged (or does not want) all of `first..=last` in a class.
    pub(super) fn passed(&self, class: Class, first: u64, last: u64) -> bool {
        let open = self.open.range(first..=last);
        let settled = open.into_iter().all(|(_, o)| o.class != class);
        self.given(class).covers(first, last)
            && (settled || made(Mutant::DeletedBeforeAcknowledged))
    }

    /// It has acknowledged `seq`.
    pub(super) fn done(&self, class: Class, seq: u64) -> bool {
        self.given(class).contains(seq) && !self.open.contains_key(&seq)
    }

    pub(super) fn given(&self, class: Class) -> &Ranges {
        let [critical, outbox, normal, bulk] = &self.given;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    pub(super) fn given_mut(&mut self, class: Class) -> &mut Ranges {
        let [critical, outbox, normal, bulk] = &mut self.given;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    /// The seqs of a lane.
    pub(super) fn span(&self, lane: Lane) -> (u64, u64) {
        match lane {
            Lane::Live => (self.live_since, u64::MAX),
            Lane::Backlog => (0, self.live_since),
        }
    }

    pub(super) fn hint(&mut self, lane: Lane, class: Class) -> &mut Pos {
        let [live, backlog] = &mut self.hints;
        let [critical, outbox, normal, bulk] = match lane {
            Lane::Live => live,
            Lane::Backlog => backlog,
        };
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }
}

pub(super) fn mask_of(signals: &[Signal]) -> u8 {
    let slots = signals.iter().map(|signal| signal_slot(*signal));
    slots.fold(0, |mask, slot| mask | (1 << slot))
}
