//! One signal stays behind for long while the others pass.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::cursor::{Ledger, Reason};
use super::log::{Log, Now, Settings};
use super::queue::Core;
use super::simulated::Simulated;
use super::{Lane, Outcome, Pending, Subscription};
use crate::config::{Durability, SpoolLimits, UplinkName};
use crate::frame::{Batch, Class, Codec, FrameId, Signal, Signals, Stamp};

const OTLP: UplinkName = UplinkName::Otlp;
const SECOND: u64 = 1_000_000_000;
const NO_LOGS: Signals = Signals::ALL.without(Signal::Logs);

struct World {
    core: Core<Simulated>,
    disk: Simulated,
    at: u64,
    quota: u64,
    delivered: BTreeSet<FrameId>,
}

fn open(disk: &Simulated, quota: u64, epoch: u32) -> Core<Simulated> {
    let settings = Settings {
        quota,
        reserve: 0,
        segment: 8000,
        epoch,
        boot_id: [1; 16],
        seed: epoch.into(),
    };
    let limits = SpoolLimits {
        quota,
        reserve: 0,
        memory: 1 << 20,
        loss_window: Duration::from_secs(10),
        durability: Durability::Window,
        outbox_in_memory: false,
        write_budget: 0,
    };
    let subscription = Subscription {
        uplink: OTLP,
        required: true,
        signals: vec![Signal::Metrics, Signal::Logs, Signal::Traces],
    };
    let mut core = Core::new(limits, &[subscription], epoch);
    core.attach(Log::new(disk.clone(), settings)).unwrap();
    core.link(OTLP, true);
    core
}

impl World {
    fn new(quota: u64) -> Self {
        let disk = Simulated::new(1);
        disk.state().capacity = 1 << 30;
        Self {
            core: open(&disk, quota, 1),
            disk,
            at: SECOND,
            quota,
            delivered: BTreeSet::new(),
        }
    }

    fn store(&mut self, signal: Signal) {
        self.at += SECOND;
        let stamp = Stamp {
            unix_ns: self.at,
            boot_ns: self.at,
        };
        let now = Now {
            stamp,
            synchronised: true,
        };
        let batch = Batch {
            signal,
            class: Class::Normal,
            codec: Codec::Identity,
            items: 1,
            first: stamp,
            last: stamp,
            context: None,
            body: Bytes::from_static(&[7; 200]),
        };
        self.core.store(batch, now).unwrap();
        self.core.tick(now);
    }

    /// Delivers all that may pass; each frame once.
    fn deliver(&mut self, signals: Signals) -> usize {
        let mut count = 0;
        for lane in [Lane::Live, Lane::Backlog] {
            while let Some(frame) = self.core.next(OTLP, lane, signals) {
                assert!(signals.contains(frame.batch.signal), "left out");
                assert!(self.delivered.insert(frame.id), "{} twice", frame.id);
                self.core.settle(OTLP, frame.id, &Outcome::Delivered);
                count += 1;
            }
        }
        count
    }

    /// Takes the oldest held frame and brings it back, as a refused probe does.
    fn probe(&mut self) -> FrameId {
        let only = Signals::NONE.with(Signal::Logs);
        let lanes = [Lane::Backlog, Lane::Live];
        let mut found = lanes
            .into_iter()
            .filter_map(|lane| self.core.next(OTLP, lane, only));
        let id = found.next().expect("logs wait").id;
        self.core.settle(OTLP, id, &Outcome::Returned);
        id
    }

    fn logs_pending(&self) -> u64 {
        let pending = self.core.pending(OTLP);
        let logs = pending.of(Signals::NONE.with(Signal::Logs));
        assert_eq!(pending.of(NO_LOGS).items + logs.items, pending.items);
        logs.live + logs.backlog
    }

    fn restart(&mut self, epoch: u32) {
        let stamp = Stamp {
            unix_ns: self.at,
            boot_ns: self.at,
        };
        self.core.stop(Now {
            stamp,
            synchronised: true,
        });
        self.core = open(&self.disk, self.quota, epoch);
    }
}

#[test]
fn a_held_signal_lets_the_others_pass_and_all_figures_stay_right() {
    let mut world = World::new(64 << 20);
    let mut probed = BTreeSet::new();
    for round in 0..1500_u64 {
        world.store(Signal::Metrics);
        world.store(Signal::Logs);
        assert_eq!(world.deliver(NO_LOGS), 1, "round {round}");
        assert_eq!(world.logs_pending(), round + 1);
        let others = world.core.pending(OTLP).of(NO_LOGS);
        assert_eq!((others.live, others.backlog), (0, 0), "nothing to spin on");
        if round % 50 == 49 {
            probed.insert(world.probe());
            // The link comes and goes meanwhile.
            world.core.link(OTLP, false);
            world.core.link(OTLP, true);
            assert_eq!(world.logs_pending(), round + 1);
        }
    }
    assert_eq!(probed.len(), 1, "one frame probes for all");
    assert_eq!(world.deliver(Signals::ALL), 1500);
    assert_eq!(world.core.pending(OTLP), Pending::default());
    assert!(world.core.losses.table.is_empty());
}

#[test]
fn a_signal_held_for_weeks_needs_no_more_ranges_than_one_held_for_a_minute() {
    let mut world = World::new(64 << 20);
    let mut size = 0;
    for round in 0..3000 {
        world.store(Signal::Metrics);
        world.store(Signal::Logs);
        world.deliver(NO_LOGS);
        if round == 10 {
            size = world.core.ledger().encode().len();
        }
    }
    assert!(world.core.ledger().encode().len() <= size + 8);
}

#[test]
fn what_passed_a_held_signal_does_not_come_again_after_a_restart() {
    let mut world = World::new(64 << 20);
    for epoch in 2..8 {
        for _ in 0..100 {
            world.store(Signal::Traces);
            world.store(Signal::Logs);
            world.deliver(NO_LOGS);
        }
        world.restart(epoch);
    }
    assert_eq!(world.logs_pending(), 600);
    let before = world.core.ledger();
    assert_eq!(Ledger::decode(&before.encode()), Some(before));
    assert_eq!(world.deliver(NO_LOGS), 0);
    assert_eq!(world.deliver(Signals::ALL), 600);
    assert_eq!(world.core.pending(OTLP), Pending::default());
}

#[test]
fn the_quota_evicts_what_is_held_and_counts_it() {
    let mut world = World::new(200_000);
    for _ in 0..3000 {
        world.store(Signal::Metrics);
        world.store(Signal::Logs);
        assert_eq!(world.deliver(NO_LOGS), 1);
    }
    let lost = world.core.losses.table[&(Class::Normal, Reason::Quota)].frames;
    assert!(lost > 1000, "{lost}");
    assert_eq!(world.core.losses.table.len(), 1);
    assert_eq!(world.logs_pending() + lost, 3000);
    assert_eq!(world.deliver(Signals::ALL) as u64 + lost, 3000);
    assert_eq!(world.core.pending(OTLP), Pending::default());
}

/// What `sonde trace` asks the owner for: acknowledgements are those of the
/// cursors, and a frame that waits behind the ring is there all the same.
#[test]
fn what_is_in_memory_of_traces_says_who_has_it_however_old_it_is() {
    use super::recent::{Memory, Ring, of};

    let mut world = World::new(1 << 20);
    world.core.link(OTLP, false);
    let mut ring = Ring::default();
    let mut ids = Vec::new();
    for _ in 0..40 {
        let batch = Batch {
            signal: Signal::Traces,
            class: Class::Normal,
            codec: Codec::Identity,
            items: 1,
            first: Stamp::default(),
            last: Stamp::default(),
            context: None,
            body: Bytes::from(vec![7; 5 * 1024]),
        };
        let now = Now {
            stamp: Stamp::default(),
            synchronised: true,
        };
        let id = world.core.store(batch.clone(), now).unwrap();
        ring.keep(id, of(&batch).unwrap());
        ids.push(id);
    }
    let has = |memory: &Memory| -> Vec<(FrameId, bool)> {
        let frames = memory.frames.iter();
        let one = |held: &super::recent::Held| (held.id.unwrap(), held.uplinks().next().unwrap().1);
        frames.map(one).collect()
    };
    let all: Vec<_> = ids.iter().map(|id| (*id, false)).collect();
    let memory = world.core.held(&ring);
    assert_eq!((has(&memory), memory.more), (all, 0));
    // Delivered ones leave the queue; the newest stay in the ring, and say so.
    world.core.link(OTLP, true);
    let mut given = Vec::new();
    for lane in [Lane::Backlog, Lane::Live] {
        while let Some(frame) = world.core.next(OTLP, lane, Signals::ALL) {
            given.push(frame.id);
        }
    }
    assert_eq!(given, ids);
    for id in &ids[..30] {
        world.core.settle(OTLP, *id, &Outcome::Delivered);
    }
    let memory = world.core.held(&ring);
    let ring_from = 40 - 128 / 5;
    let now: Vec<_> = (ring_from..40).map(|at| (ids[at], at < 30)).collect();
    assert_eq!(has(&memory), now);
}
