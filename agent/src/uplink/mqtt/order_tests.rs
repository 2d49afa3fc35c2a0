//! The promise of `order`, against a broker that loses, refuses and shuffles.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn id(seq: u64) -> FrameId {
    FrameId { epoch: 1, seq }
}

fn order() -> Order {
    Order::new((Duration::from_secs(1), Duration::from_secs(8)))
}

fn delivered(seqs: &[u64]) -> Vec<Settle> {
    seqs.iter().map(|seq| Settle::Delivered(id(*seq))).collect()
}

#[test]
fn acknowledgements_out_of_order_settle_in_order_per_topic() {
    let mut order = order();
    for (seq, topic) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
        assert_eq!(order.take(id(seq), topic, 0), Turn::Send);
    }
    assert_eq!(order.acknowledged(id(2), 0), []);
    assert_eq!(order.acknowledged(id(3), 0), delivered(&[3]), "b is not a");
    assert_eq!(order.acknowledged(id(1), 0), delivered(&[1, 2]));
    assert_eq!(order.acknowledged(id(4), 0), delivered(&[4]));
    assert!(order.taken.is_empty());
}

#[test]
fn a_refused_message_holds_back_its_topic_and_no_other() {
    let mut order = order();
    for seq in 1..=3 {
        assert_eq!(order.take(id(seq), "a", 0), Turn::Send);
    }
    assert_eq!(order.refused(id(1), "no", 0), [Settle::Wait(id(1))]);
    // On their way already: they go again.
    assert_eq!(order.acknowledged(id(2), 0), [Settle::Wait(id(2))]);
    assert_eq!(order.acknowledged(id(3), 0), [Settle::Wait(id(3))]);
    assert_eq!(order.take(id(4), "a", 0), Turn::Wait);
    assert_eq!(order.take(id(5), "b", 0), Turn::Send);
    assert_eq!(order.due(SECOND - 1), []);
    assert_eq!(order.due_at(), Some(SECOND));
    // One at a time, in order.
    for seq in [1, 2, 3, 4] {
        assert_eq!(order.due(SECOND), [id(seq)]);
        assert_eq!(order.take(id(seq), "a", SECOND), Turn::Send);
        assert_eq!(order.due(SECOND), []);
        assert_eq!(order.acknowledged(id(seq), SECOND), delivered(&[seq]));
    }
}

#[test]
fn waits_of_a_refused_topic_grow_to_their_longest() {
    let mut order = order();
    let mut now = 0;
    for wait in [1, 2, 4, 8, 8] {
        assert_eq!(order.take(id(1), "a", now), Turn::Send);
        order.refused(id(1), "no", now);
        assert_eq!(order.due_at(), Some(now + wait * SECOND));
        now += wait * SECOND;
        assert_eq!(order.due(now), [id(1)]);
    }
    let refused: Vec<_> = order
        .refused_topics()
        .map(|(t, _)| t.topic.clone())
        .collect();
    assert_eq!(refused, ["a"]);
    order.take(id(1), "a", now);
    order.acknowledged(id(1), now);
    assert_eq!(order.refused_topics().count(), 0);
}

#[test]
fn a_condemned_message_does_not_stop_those_behind_it() {
    let mut order = order();
    for seq in 1..=3 {
        order.take(id(seq), "a", 0);
    }
    assert_eq!(order.acknowledged(id(2), 0), []);
    assert_eq!(order.gave_up(id(1)), delivered(&[2]));
    assert_eq!(order.acknowledged(id(3), 0), delivered(&[3]));
}

#[test]
fn what_waits_is_bounded_and_room_comes_when_the_first_is_due() {
    let mut order = order();
    order.take(id(1), "bad", 0);
    order.refused(id(1), "not authorized", 0);
    let mut seq = 2;
    while !order.is_full() {
        assert_eq!(order.take(id(seq), "bad", 0), Turn::Wait);
        seq += 1;
    }
    assert_eq!(order.taken.len(), MAX_WAITING);
    assert_eq!(order.due(60 * SECOND), [id(1)], "only the first");
    assert!(!order.is_full());
}

/// A spool and a broker, as simple as they can be.
struct World {
    dice: u64,
    now: u64,
    order: Order,
    /// Not settled, by seq: in the spool's hands or not.
    stored: BTreeMap<u64, (usize, bool)>,
    /// On the wire, in order.
    wire: Vec<u64>,
    /// Processed by the broker, not yet answered: seq and whether it was taken.
    answers: Vec<(u64, bool)>,
    /// What a subscriber saw, by topic.
    seen: Vec<Vec<u64>>,
    settled: BTreeSet<u64>,
}

const TOPICS: [&str; 3] = ["a", "b", "c"];

impl World {
    fn below(&mut self, n: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % n
    }

    fn perform(&mut self, settled: Vec<Settle>) {
        for settle in settled {
            if let Settle::Delivered(id) = settle {
                assert!(self.stored.remove(&id.seq).is_some(), "settled twice");
                assert!(self.settled.insert(id.seq));
            }
        }
    }

    fn step(&mut self, cuts: bool, refusals: bool) {
        for id in self.order.due(self.now) {
            self.stored.get_mut(&id.seq).expect("stored").1 = true;
        }
        match self.below(10) {
            0..4 if self.wire.len() + self.answers.len() < 5 => {
                let next = self.stored.iter().find(|(_, (_, here))| *here);
                let Some((&seq, &(topic, _))) = next else {
                    return;
                };
                self.stored.get_mut(&seq).expect("stored").1 = false;
                if self.order.take(id(seq), TOPICS[topic], self.now) == Turn::Send {
                    self.wire.push(seq);
                }
            }
            4..6 if !self.wire.is_empty() => {
                let seq = self.wire.remove(0);
                let taken = !refusals || self.below(6) > 0;
                if taken {
                    // Settled before only if this is a repeat.
                    let topic = (seq % 3) as usize;
                    self.seen[topic].push(seq);
                }
                self.answers.push((seq, taken));
            }
            6..9 if !self.answers.is_empty() => {
                // In any order.
                let at = self.below(self.answers.len() as u64) as usize;
                let (seq, taken) = self.answers.remove(at);
                let settled = if taken {
                    self.order.acknowledged(id(seq), self.now)
                } else {
                    self.order.refused(id(seq), "busy", self.now)
                };
                self.perform(settled);
            }
            9 if cuts && self.below(4) == 0 => {
                self.wire.clear();
                self.answers.clear();
                self.order.clear();
                for (_, here) in self.stored.values_mut() {
                    *here = true;
                }
            }
            _ => self.now += SECOND / 4,
        }
    }
}

fn world(seed: u64) -> World {
    World {
        dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        now: 0,
        order: order(),
        stored: (0..60)
            .map(|seq| (seq, ((seq % 3) as usize, true)))
            .collect(),
        wire: Vec::new(),
        answers: Vec::new(),
        seen: vec![Vec::new(); 3],
        settled: BTreeSet::new(),
    }
}

#[test]
fn no_interleaving_of_cuts_lets_a_message_overtake_or_leaves_a_gap() {
    for seed in 1..400 {
        let mut world = world(seed);
        for _ in 0..20_000 {
            world.step(true, false);
            if world.stored.is_empty() {
                break;
            }
        }
        assert!(
            world.stored.is_empty(),
            "seed {seed}: not all were delivered"
        );
        for seen in &world.seen {
            let mut newest = None;
            for seq in seen {
                // Each is at most the next one after all that came before it.
                let next = newest.map_or(seq % 3, |newest: u64| newest + 3);
                assert!(*seq <= next, "seed {seed}: {seq} overtook {next}: {seen:?}");
                newest = newest.max(Some(*seq));
            }
            assert_eq!(
                seen.last(),
                newest.as_ref(),
                "seed {seed}: an old one has the last word"
            );
        }
    }
}

#[test]
fn refusals_and_cuts_lose_nothing_and_the_newest_has_the_last_word() {
    for seed in 1..400 {
        let mut world = world(seed);
        for _ in 0..100_000 {
            world.step(true, true);
            if world.stored.is_empty() {
                break;
            }
        }
        assert!(
            world.stored.is_empty(),
            "seed {seed}: not all were delivered"
        );
        for (topic, seen) in world.seen.iter().enumerate() {
            let all: BTreeSet<u64> = seen.iter().copied().collect();
            assert_eq!(all.len(), 20, "seed {seed}: topic {topic}");
            assert_eq!(seen.last(), all.last(), "seed {seed}: {seen:?}");
        }
    }
}
