//! Where one uplink stands in each chain. Pure.

use std::collections::BTreeMap;

use super::cursor::{ALL_SIGNALS, Progress};
use super::format::{SIGNALS, signal_slot};
use super::log::{Counts, Pos};
use super::mutant::{Mutant, made};
use super::queue::Open;
use super::{Lane, Subscription};
use crate::frame::{Class, Signal, Signals};

/// Where an uplink stands.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) required: bool,
    /// A bit for each signal it takes.
    pub(super) wants: u8,
    pub(super) up: bool,
    /// Frames from this seq on are live.
    pub(super) live_since: u64,
    /// Live frames that it has not been given, by signal.
    pub(super) live: [u64; SIGNALS],
    /// The signals it was last asked for: all at once, and messages alone.
    may: [u8; 2],
    /// Which of the two that was.
    alone: bool,
    pub(super) given: [Progress; 4],
    pub(super) open: BTreeMap<u64, Open>,
    /// How far each chain has been looked through: live, backlog, and for messages alone.
    pub(super) hints: [[Pos; 4]; 3],
    /// What waits for it in memory, by signal.
    pub(super) memory: [Counts; SIGNALS],
}

impl Reader {
    pub(super) fn new(subscription: &Subscription) -> Self {
        Self {
            required: subscription.required,
            wants: mask_of(&subscription.signals),
            up: false,
            live_since: u64::MAX,
            live: [0; SIGNALS],
            may: [ALL_SIGNALS, MESSAGES],
            alone: false,
            given: Default::default(),
            open: BTreeMap::new(),
            hints: Default::default(),
            memory: Default::default(),
        }
    }

    /// Frames of a class are held back until it has acknowledged them.
    pub(super) fn keeps(&self, class: Class) -> bool {
        self.required || class == Class::Outbox
    }

    pub(super) fn wants(&self, signal: Signal) -> bool {
        self.wants & (1 << signal_slot(signal)) != 0
    }

    /// It has acknowledged (or does not want) all of `first..=last` in a class,
    /// where `signals` occur.
    pub(super) fn passed(&self, class: Class, signals: u8, first: u64, last: u64) -> bool {
        let mut wanted = self.given(class).some(signals & self.wants);
        let open = self.open.range(first..=last);
        let settled = open.into_iter().all(|(_, o)| o.class != class);
        wanted.all(|ranges| ranges.covers(first, last))
            && (settled || made(Mutant::DeletedBeforeAcknowledged))
    }

    /// It has acknowledged `seq`, which is of one of `signals`.
    pub(super) fn done(&self, class: Class, signals: u8, seq: u64) -> bool {
        let mut ranges = self.given(class).some(signals);
        ranges.all(|ranges| ranges.contains(seq)) && !self.open.contains_key(&seq)
    }

    pub(super) fn given(&self, class: Class) -> &Progress {
        let [critical, outbox, normal, bulk] = &self.given;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    pub(super) fn given_mut(&mut self, class: Class) -> &mut Progress {
        let [critical, outbox, normal, bulk] = &mut self.given;
        match class {
            Class::Critical => critical,
            Class::Outbox => outbox,
            Class::Normal => normal,
            Class::Bulk => bulk,
        }
    }

    /// It may be given these signals from now on; says which of them it wants.
    /// Messages alone are looked for with a place of their own: they take turns
    /// with the rest, and neither shall lose its place to the other.
    pub(super) fn may(&mut self, signals: Signals) -> u8 {
        let may = signals.bits();
        self.alone = may == MESSAGES;
        let [all, alone] = &mut self.may;
        if self.alone {
            *alone = may;
        } else {
            if may & !*all != 0 {
                // What was left out lies behind the place that was reached without it.
                let [live, backlog, _] = &mut self.hints;
                (*live, *backlog) = Default::default();
            }
            *all = may;
        }
        self.wants & may
    }

    /// The signals whose ranges go on: what it may be given, and what it does
    /// not want, so that the ranges of all of them stay alike.
    pub(super) fn walks(&self) -> u8 {
        let [all, alone] = self.may;
        let may = if self.alone { alone } else { all };
        ALL_SIGNALS & !(self.wants & !may)
    }

    /// The seqs of a lane. Of the outbox all are backlog: what came first goes first.
    pub(super) fn span(&self, lane: Lane, class: Class) -> (u64, u64) {
        match (lane, class) {
            (Lane::Live, Class::Outbox) => (u64::MAX, u64::MAX),
            (Lane::Backlog, Class::Outbox) => (0, u64::MAX),
            (Lane::Live, _) => (self.live_since, u64::MAX),
            (Lane::Backlog, _) => (0, self.live_since),
        }
    }

    /// Whether a frame is of [`Lane::Live`].
    pub(super) fn is_live(&self, class: Class, seq: u64) -> bool {
        class != Class::Outbox && seq >= self.live_since
    }

    pub(super) fn memory_mut(&mut self, signal: Signal) -> &mut Counts {
        let [metrics, traces, logs, messages] = &mut self.memory;
        match signal {
            Signal::Metrics => metrics,
            Signal::Traces => traces,
            Signal::Logs => logs,
            Signal::Message => messages,
        }
    }

    pub(super) fn live_mut(&mut self, signal: Signal) -> &mut u64 {
        let [metrics, traces, logs, messages] = &mut self.live;
        match signal {
            Signal::Metrics => metrics,
            Signal::Traces => traces,
            Signal::Logs => logs,
            Signal::Message => messages,
        }
    }

    pub(super) fn hint(&mut self, lane: Lane, class: Class) -> &mut Pos {
        let [live, backlog, messages] = &mut self.hints;
        let [critical, outbox, normal, bulk] = match lane {
            _ if self.alone => messages,
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

/// The one bit of [`Signal::Message`].
const MESSAGES: u8 = Signals::NONE.with(Signal::Message).bits();

pub(super) fn mask_of(signals: &[Signal]) -> u8 {
    let slots = signals.iter().map(|signal| signal_slot(*signal));
    slots.fold(0, |mask, slot| mask | (1 << slot))
}
