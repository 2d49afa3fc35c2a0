//! Random work on a disk that forgets, against a plain model; `proof` holds the
//! spool to its invariants with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::cursor::{Losses, Reason};
use super::log::{Log, Now, Settings};
use super::queue::Core;
use super::simulated::{Dice, Simulated};
use super::{Lane, Outcome, Subscription};
use crate::config::{Durability, SpoolLimits, UplinkName};
use crate::frame::{Batch, Class, Codec, FrameId, Signal, Signals, Stamp};

pub(super) const OTLP: UplinkName = UplinkName::Otlp;
pub(super) const MQTT: UplinkName = UplinkName::Mqtt;
pub(super) const SECOND: u64 = 1_000_000_000;

/// What a workload may meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) cut: Option<u64>,
    pub(super) faults: Option<u64>,
    pub(super) quota: u64,
    pub(super) capacity: u64,
    pub(super) memory: u64,
}

pub(super) const CALM: Plan = Plan {
    seed: 0,
    steps: 120,
    cut: None,
    faults: None,
    quota: 8 << 20,
    capacity: 1 << 30,
    memory: 1 << 20,
};

/// What must hold.
#[derive(Default)]
pub(super) struct Model {
    /// All that was accepted: seq, epoch and body.
    pub(super) accepted: BTreeMap<u64, (u32, Bytes)>,
    /// What the uplink's server has acknowledged.
    pub(super) acked: BTreeSet<u64>,
    pub(super) open: Vec<FrameId>,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) disk: Simulated,
    pub(super) core: Core<Simulated>,
    pub(super) model: Model,
    pub(super) dice: Dice,
    pub(super) at: u64,
    pub(super) epoch: u32,
}

pub(super) fn limits(plan: &Plan) -> SpoolLimits {
    SpoolLimits {
        quota: plan.quota,
        reserve: 0,
        memory: plan.memory,
        loss_window: Duration::from_secs(10),
        write_budget: 0,
        durability: Durability::Window,
        outbox_in_memory: false,
    }
}

pub(super) fn subscriptions() -> Vec<Subscription> {
    vec![
        Subscription {
            uplink: OTLP,
            required: true,
            signals: vec![Signal::Metrics, Signal::Logs],
        },
        Subscription {
            uplink: MQTT,
            required: false,
            signals: vec![Signal::Traces],
        },
    ]
}

pub(super) fn open(plan: &Plan, disk: &Simulated, epoch: u32) -> Core<Simulated> {
    let mut core = Core::new(limits(plan), &subscriptions(), epoch);
    let _ = core.attach(Log::new(disk.clone(), settings(plan, epoch)));
    core
}

fn settings(plan: &Plan, epoch: u32) -> Settings {
    Settings {
        quota: plan.quota,
        reserve: 0,
        segment: 6000,
        epoch,
        boot_id: [1; 16],
        seed: u64::from(epoch) << 32 | plan.seed,
    }
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let disk = Simulated::new(plan.seed);
        {
            let mut state = disk.state();
            state.capacity = plan.capacity;
        }
        let core = open(&plan, &disk, 1);
        {
            let mut state = disk.state();
            state.cut = plan.cut.map(|cut| cut + state.calls);
            state.faults = plan.faults;
        }
        Self {
            plan,
            disk,
            core,
            model: Model::default(),
            dice: Dice::new(plan.seed),
            at: SECOND,
            epoch: 1,
        }
    }

    pub(super) fn now(&self) -> Now {
        let stamp = Stamp {
            unix_ns: self.at,
            boot_ns: self.at,
        };
        Now {
            stamp,
            synchronised: true,
        }
    }

    /// One random step.
    pub(super) fn step(&mut self) {
        match self.dice.below(10) {
            0..=4 => self.store(),
            5..=6 => self.send(),
            7 => {
                self.at += SECOND * self.dice.below(8);
                let now = self.now();
                self.core.tick(now);
            }
            8 => {
                let up = self.dice.below(2) == 0;
                self.core.link(OTLP, up);
                if !up {
                    self.model.open.clear();
                }
            }
            _ => self.settle(),
        }
        let now = self.now();
        if self.core.due().is_some_and(|due| due <= self.at) {
            self.core.tick(now);
        }
        self.check_bounds();
    }

    pub(super) fn store(&mut self) {
        let size = match self.dice.below(8) {
            0 => self.dice.below(5000),
            _ => self.dice.below(600),
        };
        let number = self.model.accepted.len();
        let body: Vec<u8> = (0..size).map(|n| (n as usize * 7 + number) as u8).collect();
        let class = Class::ALL[self.dice.below(4) as usize];
        let signal = if self.dice.below(5) == 0 {
            Signal::Logs
        } else {
            Signal::Metrics
        };
        let stamp = self.now().stamp;
        let batch = Batch {
            signal,
            class,
            codec: Codec::Identity,
            items: 1,
            first: stamp,
            last: stamp,
            context: None,
            body: Bytes::from(body),
        };
        let now = self.now();
        let body = batch.body.clone();
        if let Ok(id) = self.core.store(batch, now) {
            let newest = self.model.accepted.last_key_value();
            assert!(newest.is_none_or(|(&seq, &(epoch, _))| seq < id.seq || epoch != id.epoch));
            let before = self.model.accepted.insert(id.seq, (id.epoch, body));
            assert!(
                before.is_none_or(|(epoch, _)| epoch != id.epoch),
                "{id} twice"
            );
            self.model.acked.remove(&id.seq);
        }
    }

    pub(super) fn send(&mut self) {
        let lane = if self.dice.below(2) == 0 {
            Lane::Live
        } else {
            Lane::Backlog
        };
        // Now and then a signal is held back.
        let signals = match self.dice.below(8) {
            6 => Signals::NONE.with(Signal::Message),
            7 => Signals::ALL.without(Signal::Message),
            0 => Signals::ALL.without(Signal::Logs),
            1 => Signals::ALL.without(Signal::Metrics),
            _ => Signals::ALL,
        };
        if self.model.open.len() < 6
            && let Some(frame) = self.core.next(OTLP, lane, signals)
        {
            assert!(signals.contains(frame.batch.signal), "left out");
            self.model.check(&frame);
            assert!(
                !self.model.open.contains(&frame.id),
                "given out twice at once"
            );
            self.model.open.push(frame.id);
        }
    }

    pub(super) fn settle(&mut self) {
        if self.model.open.is_empty() {
            return;
        }
        let at = self.dice.below(self.model.open.len() as u64) as usize;
        let id = self.model.open.swap_remove(at);
        if self.dice.below(4) == 0 {
            self.core.settle(OTLP, id, &Outcome::Returned);
        } else {
            self.core.settle(OTLP, id, &Outcome::Delivered);
            self.model.acked.insert(id.seq);
        }
    }

    /// Invariant 7.
    pub(super) fn check_bounds(&self) {
        assert!(self.core.memory_bytes <= self.plan.memory, "memory");
        let usage = self.core.log.as_ref().map_or(0, Log::usage);
        assert!(
            usage <= self.plan.quota,
            "{usage} bytes of {}",
            self.plan.quota
        );
    }

    /// What was said to be durable and is neither delivered nor counted as lost.
    pub(super) fn owed(&self) -> BTreeSet<u64> {
        let waiting: BTreeSet<u64> = self
            .core
            .memory
            .iter()
            .flat_map(|m| m.keys().copied())
            .collect();
        let seqs = self.model.accepted.keys().copied();
        seqs.filter(|seq| !self.model.acked.contains(seq) && !waiting.contains(seq))
            .collect()
    }

    /// The power comes back.
    pub(super) fn restart(&mut self) {
        self.epoch += 1;
        self.model.open.clear();
        self.core = open(&self.plan, &self.disk, self.epoch);
    }
}

impl Model {
    /// Invariants 1 and 2.
    pub(super) fn check(&self, frame: &crate::frame::Frame) {
        let (_, body) = self.accepted.get(&frame.id.seq).expect("it was stored");
        assert_eq!(&frame.batch.body, body, "{} byte for byte", frame.id);
    }
}

/// All that the disk still gives, without touching the disk.
pub(super) fn contents(plan: &Plan, disk: &Simulated) -> BTreeMap<u64, crate::frame::Frame> {
    reopened(plan, disk).0
}

/// The same, how many frames the start itself evicted, and how many were ever
/// evicted as far as it knows.
pub(super) fn reopened(
    plan: &Plan,
    disk: &Simulated,
) -> (BTreeMap<u64, crate::frame::Frame>, u64, u64) {
    let mut found = Log::new(disk.fork(), settings(plan, 98));
    let found = found.recover().map(|found| found.ledger.losses);
    let before = found.map_or(0, |losses| lost_of(&losses, Reason::Quota));
    let mut core = open(plan, &disk.fork(), 99);
    let durable = lost_to(&core, Reason::Quota);
    (drain(&mut core), durable - before, durable)
}

/// Frames counted as lost for a reason, of all classes.
pub(super) fn lost_to(core: &Core<Simulated>, why: Reason) -> u64 {
    lost_of(&core.losses, why)
}

fn lost_of(losses: &Losses, why: Reason) -> u64 {
    let losses = losses.table.iter();
    let lost = losses.filter(|((_, reason), _)| *reason == why);
    lost.map(|(_, loss)| loss.frames).sum()
}

pub(super) fn drain(core: &mut Core<Simulated>) -> BTreeMap<u64, crate::frame::Frame> {
    let mut out = BTreeMap::new();
    for frame in given_out(core) {
        assert!(out.insert(frame.id.seq, frame).is_none(), "given out twice");
    }
    assert_eq!(
        core.pending(OTLP),
        super::Pending::default(),
        "figures agree"
    );
    out
}

/// All that the spool gives, whatever a forged disk says of seqs and figures.
pub(super) fn given_out(core: &mut Core<Simulated>) -> Vec<crate::frame::Frame> {
    let mut out = Vec::new();
    core.link(OTLP, true);
    for lane in [Lane::Live, Lane::Backlog] {
        while let Some(frame) = core.next(OTLP, lane, Signals::ALL) {
            core.settle(OTLP, frame.id, &Outcome::Delivered);
            out.push(frame);
        }
    }
    out
}
