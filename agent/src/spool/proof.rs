//! The invariants of docs/SPOOL.md as properties, and the proof that the
//! properties can fail: each deliberate mistake must be caught by one.
//!
//! The fifteenth (thinning) is in `thin_tests`. A failing run prints how to
//! repeat it alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::cursor::Reason;
use super::edges::{self, batch, file, first_segment, flush, put};
use super::format::{FrameParts, Kind, encode_frame};
use super::log::{Log, Settings, path_of};
use super::model::{
    CALM, MQTT, OTLP, Plan, SECOND, World, contents, drain, limits, lost_to, open, reopened,
};
use super::mutant::{self, Mutant};
use super::queue::Core;
use super::simulated::{Dice, Simulated};
use super::storage::Storage;
use super::thin_tests;
use super::{Lane, Outcome, Subscription};
use crate::frame::{Class, Signal, Signals};

/// Prints how to repeat a run if it fails.
struct Replay(&'static str, Plan);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "repeat it: SONDE_SPOOL_REPLAY='{}' cargo test -p sonde-agent --lib spool::proof::replay",
                written(self.0, &self.1)
            );
        }
    }
}

fn written(kind: &str, plan: &Plan) -> String {
    let Plan {
        seed,
        steps,
        cut,
        faults,
        quota,
        capacity,
        memory,
    } = plan;
    let (cut, faults) = (cut.unwrap_or(0), faults.unwrap_or(0));
    format!("{kind} {seed} {steps} {cut} {faults} {quota} {capacity} {memory}")
}

fn read(text: &str) -> Option<(&str, Plan)> {
    let (kind, rest) = text.split_once(' ')?;
    let numbers: Vec<u64> = rest.split(' ').filter_map(|n| n.parse().ok()).collect();
    let &[seed, steps, cut, faults, quota, capacity, memory] = numbers.as_slice() else {
        return None;
    };
    let some = |number: u64| (number > 0).then_some(number);
    let plan = Plan {
        seed,
        steps,
        cut: some(cut),
        faults: some(faults),
        quota,
        capacity,
        memory,
    };
    Some((kind, plan))
}

#[test]
fn replay() {
    let Ok(text) = std::env::var("SONDE_SPOOL_REPLAY") else {
        let plan = Plan { seed: 5, ..TIGHT };
        let text = written("cut", &plan);
        let (kind, same) = read(&text).unwrap();
        assert_eq!((kind, written("cut", &same)), ("cut", text.clone()));
        return;
    };
    match read(&text) {
        Some(("cut", plan)) => assert!(cut(plan, true), "the work ended before the cut"),
        Some(("conserve", plan)) => conserve(plan),
        _ => panic!("SONDE_SPOOL_REPLAY: not a line that a failing test printed"),
    }
}

/// Little room: segments are evicted all the time.
const TIGHT: Plan = Plan {
    quota: 100_000,
    memory: 20_000,
    ..CALM
};

/// Runs to the cut and checks what came back; with cuts in the recovery too if
/// `deep`. `false`: the work ended before the cut.
fn cut(plan: Plan, deep: bool) -> bool {
    let _replay = Replay("cut", plan);
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        world.step();
        if world.disk.state().dead {
            break;
        }
    }
    if !world.disk.state().dead {
        return false;
    }
    let owed = world.owed();
    let counted = counted(&world.core);
    let quota = lost_to(&world.core, Reason::Quota);
    let known = segments(&world.core);
    let cursors = world.core.durable.done.clone();
    world.disk.crash();
    world.disk.state().faults = None;
    let survives = |found: &BTreeSet<u64>, durable: u64, when: &str| {
        let missing = owed.difference(found).count() as u64;
        assert!(
            plan.quota < CALM.quota || plan.faults.is_some() || durable.max(quota) == 0,
            "something went though there was room"
        );
        // Evictions are known to whoever starts next, unless the disk failed too.
        let counted = match plan.faults {
            None => counted - quota + durable,
            Some(_) => counted + durable,
        };
        assert!(
            missing <= counted,
            "{missing} frames lost {when}, {counted} counted"
        );
    };
    let check = |disk: &Simulated| {
        let (found, evicted, durable) = reopened(&plan, disk);
        for frame in found.values() {
            world.model.check(frame);
        }
        (found.into_keys().collect(), evicted, durable)
    };
    let (once, evicted, durable): (BTreeSet<u64>, u64, u64) = check(&world.disk);
    // A removed name that the cut brought back takes room until something goes
    // for it. Nothing else may bring a start to evict.
    let mut files = world.disk.files().into_iter();
    let back = files.any(|(name, _)| name.ends_with(".seg") && !known.contains_key(&name));
    assert!(evicted == 0 || back, "the start evicted {evicted} frames");
    survives(&once, durable, "by the cut");
    let newest = once.last().copied().unwrap_or(0);
    if deep {
        for again in 1..30 {
            let disk = world.disk.fork();
            disk.state().cut = Some(again);
            drop(open(&plan, &disk, 50));
            disk.crash();
            let (twice, _, durable) = check(&disk);
            survives(&twice, durable, "by a cut in the recovery");
            assert!(twice.is_subset(&once), "recovery is idempotent");
        }
    }
    world.restart();
    let after = &world.core.ledger().done[0];
    for (class, before) in cursors[0].iter().enumerate() {
        let kept = after[class] == after[class].joined(before);
        // A disk that fails may fail the cursor file too: that costs repeats.
        assert!(kept || plan.faults.is_some(), "a cursor went back");
    }
    assert!(world.core.next_seq > newest, "a seq is used again");
    for _ in 0..30 {
        world.step();
    }
    true
}

/// Frames that were accepted and are counted as lost.
fn counted(core: &Core<Simulated>) -> u64 {
    let losses = core.losses.table.iter();
    let lost = losses.filter(|((_, reason), _)| *reason != Reason::Refused);
    let lost: u64 = lost.map(|(_, loss)| loss.frames).sum();
    lost
}

/// The files that a core knows of, and how many frames each holds.
fn segments(core: &Core<Simulated>) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for class in Class::ALL {
        for (&id, segment) in core.log.iter().flat_map(|log| log.segments(class)) {
            let frames = segment.stats.signals.iter();
            let frames = frames.map(|signal| u64::from(signal.frames)).sum();
            out.insert(path_of(class, id), frames);
        }
    }
    out
}

/// Stored = delivered + waiting + counted as lost.
fn conserve(plan: Plan) {
    let _replay = Replay("conserve", plan);
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        world.step();
    }
    world.disk.state().faults = None;
    world.core.link(OTLP, false);
    let rest = drain(&mut world.core);
    for frame in rest.values() {
        world.model.check(frame);
    }
    let losses = world.core.losses.table.iter();
    let lost = losses.filter(|((_, reason), _)| *reason != Reason::Refused);
    let lost: u64 = lost.map(|(_, loss)| loss.frames).sum();
    let kept = world.model.acked.iter().chain(rest.keys());
    let kept: BTreeSet<u64> = kept.copied().collect();
    let missing = world.model.accepted.len() - kept.len();
    assert_eq!(missing as u64, lost, "{:?}", world.core.losses);
}

fn cuts(plan: Plan, seeds: u64, every: usize, deep: bool) {
    for seed in 1..=seeds {
        let at = (1..4000).step_by(every);
        let survived = at
            .map(|at| Plan {
                seed,
                cut: Some(at),
                ..plan
            })
            .take_while(|plan| cut(*plan, deep))
            .count();
        assert!(survived > 3, "the work reaches the disk");
    }
}

#[test]
fn p01_what_was_durable_survives_a_cut_at_any_call() {
    cuts(CALM, 12, 1, false);
}

#[test]
fn p01_cuts_during_evictions_lose_only_what_is_counted() {
    cuts(
        Plan {
            steps: 250,
            ..TIGHT
        },
        4,
        1,
        false,
    );
}

#[test]
fn p02_nothing_is_returned_that_was_not_written() {
    let mut world = World::new(Plan { seed: 1, ..CALM });
    let parts = FrameParts {
        signal: Some(Signal::Metrics),
        seq: 500,
        ..FrameParts::plain(Kind::Data)
    };
    let mut hostile = Vec::new();
    encode_frame(&mut hostile, 0, &parts, b"forged");
    let mut stored = batch(&world, Class::Normal, "");
    stored.body = Bytes::from([vec![b'x'; 50], hostile].concat());
    let now = world.now();
    world.core.store(stored, now).unwrap();
    let last = put(&mut world, Class::Normal, "behind it");
    flush(&mut world);
    world.disk.crash();
    let name = first_segment(&world.disk, "normal/");
    let bytes = file(&world.disk, &name);
    let body = bytes.windows(50).position(|w| w == [b'x'; 50]).unwrap();
    world.disk.flip(&name, body - 30);
    let found = contents(&world.plan, &world.disk);
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [last]);
}

#[test]
fn p03_seqs_rise_and_no_name_is_used_twice_over_many_cuts() {
    for seed in 1..=10 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(Plan { seed, ..CALM });
        for _ in 0..6 {
            let calls = world.disk.state().calls;
            world.disk.state().cut = Some(calls + 5 + dice.below(60));
            for _ in 0..60 {
                world.step();
            }
            let newest = world.owed().last().copied().unwrap_or(0);
            world.disk.crash();
            world.restart();
            assert!(world.core.next_seq > newest, "seed {seed}");
            // What only memory held went with the process.
            let kept = contents(&world.plan, &world.disk);
            world.model.accepted.retain(|seq, _| kept.contains_key(seq));
        }
    }
}

#[test]
fn p04_each_batch_ends_delivered_waiting_or_counted() {
    for seed in 1..=30 {
        let full = Plan {
            seed,
            steps: 400,
            ..TIGHT
        };
        conserve(full);
        conserve(Plan {
            capacity: 60_000,
            quota: 8 << 20,
            ..full
        });
        conserve(Plan {
            seed,
            steps: 300,
            faults: Some(6),
            ..CALM
        });
    }
}

#[test]
fn p05_a_cursor_is_never_ahead_of_the_server_and_never_goes_back() {
    for seed in 1..=20 {
        let mut world = World::new(Plan { seed, ..CALM });
        for n in 0..12 {
            put(&mut world, Class::Normal, &format!("{n}"));
        }
        flush(&mut world);
        world.core.link(OTLP, true);
        let mut given: Vec<_> = (0..6)
            .filter_map(|_| world.core.next(OTLP, Lane::Backlog, Signals::ALL))
            .collect();
        let open = given.split_off(3);
        for frame in given {
            world.core.settle(OTLP, frame.id, &Outcome::Delivered);
        }
        put(&mut world, Class::Normal, "carries the cursors");
        flush(&mut world);
        world.disk.crash();
        world.restart();
        let found = drain(&mut world.core);
        assert!(
            open.iter().all(|frame| found.contains_key(&frame.id.seq)),
            "ahead"
        );
        assert_eq!(found.len(), 10, "behind");
    }
}

#[test]
fn p05_what_was_given_out_stays_on_flash_until_it_is_acknowledged() {
    let mut world = World::new(Plan { seed: 1, ..CALM });
    for n in 0..6 {
        put(&mut world, Class::Normal, &format!("{n}"));
    }
    flush(&mut world);
    world.core.log.as_mut().unwrap().seal_all();
    world.core.link(OTLP, true);
    let mut given = Vec::new();
    for lane in [Lane::Live, Lane::Backlog] {
        while let Some(frame) = world.core.next(OTLP, lane, Signals::ALL) {
            given.push(frame.id);
        }
    }
    let open = given.split_off(3);
    for id in given {
        world.core.settle(OTLP, id, &Outcome::Delivered);
    }
    world.disk.crash();
    let found = contents(&world.plan, &world.disk);
    assert!(open.iter().all(|id| found.contains_key(&id.seq)));
    assert_eq!(open.len(), 3);
}

#[test]
fn p06_recovery_is_idempotent_and_may_be_cut_itself() {
    cuts(CALM, 2, 5, true);
    cuts(TIGHT, 2, 9, true);
}

#[test]
fn p07_files_stay_within_the_quota_and_batches_within_memory() {
    // `World::step` looks after every step.
    for seed in 1..=20 {
        let mut world = World::new(Plan { seed, ..TIGHT });
        for _ in 0..400 {
            world.step();
        }
    }
}

#[test]
fn p08_one_flipped_byte_costs_at_most_one_frame() {
    let mut world = World::new(Plan { seed: 3, ..CALM });
    for _ in 0..40 {
        world.store();
    }
    for sealed in [false, true] {
        let now = world.now();
        if sealed {
            assert!(world.core.stop(now));
        } else {
            flush(&mut world);
        }
        for (name, len) in world.disk.files() {
            for at in (0..len).step_by(if len > 2000 { 7 } else { 1 }) {
                let disk = world.disk.fork();
                disk.flip(&name, at);
                let found = contents(&world.plan, &disk);
                for frame in found.values() {
                    world.model.check(frame);
                }
                assert!(found.len() >= 39, "{name} byte {at}: {} of 40", found.len());
            }
        }
    }
}

#[test]
fn p09_no_content_of_the_folder_stops_the_start() {
    for seed in 1..=150 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(Plan { seed, ..CALM });
        for _ in 0..10 {
            world.store();
        }
        world.core.stop(world.now());
        let (name, good) = world.disk.files().into_iter().next().unwrap();
        let mut bytes = vec![0; good];
        let _ = world.disk.read_at(&name, 0, &mut bytes);
        for _ in 0..20 {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] = dice.below(256) as u8;
        }
        bytes.truncate(dice.below(good as u64 + 1) as usize);
        world.disk.plant(&name, bytes);
        let junk = (0..dice.below(3000)).map(|_| dice.below(256) as u8);
        let junk: Vec<u8> = junk.collect();
        for name in [
            "normal/00000000000000ff.seg",
            "bulk/ffffffffffffffff.seg",
            "cursors",
            "bulk/x.seg",
            "lock",
        ] {
            world.disk.plant(name, junk.clone());
        }
        world.restart();
        assert!(world.core.log.is_some());
        for frame in contents(&world.plan, &world.disk).values() {
            world.model.check(frame);
        }
        for _ in 0..30 {
            world.step();
        }
    }
}

#[test]
fn p10_a_failed_sync_is_never_reported_as_durable() {
    let faulty = Plan {
        faults: Some(5),
        ..CALM
    };
    cuts(faulty, 6, 4, false);
}

#[test]
fn p10_faults_evictions_and_cuts_together_lose_only_what_is_counted() {
    let all = Plan {
        faults: Some(9),
        steps: 250,
        ..TIGHT
    };
    cuts(all, 8, 5, false);
    cuts(all, 2, 31, true);
    // Here a footer that the start writes would not fit the quota.
    for (seed, at) in [(98, 260), (437, 186)] {
        assert!(cut(
            Plan {
                seed,
                cut: Some(at),
                ..all
            },
            false
        ));
    }
}

#[test]
fn p10_what_a_failed_sync_left_behind_does_not_count_beside_its_second_writing() {
    let mut world = World::new(Plan { seed: 7, ..CALM });
    put(&mut world, Class::Normal, "durable");
    flush(&mut world);
    put(&mut world, Class::Normal, "written twice");
    world.disk.state().failing = true;
    let now = world.now();
    assert!(!world.core.flush(Class::Normal, now));
    world.disk.state().failing = false;
    world.at += 61 * SECOND;
    flush(&mut world);
    // The process ends, the page cache stays.
    world.restart();
    assert_eq!(world.core.recovered, 2);
    assert_eq!(drain(&mut world.core).len(), 2);
}

#[test]
fn p11_critical_finds_room_on_a_full_disk_while_anything_can_go() {
    for capacity in [50_000, 60_000, 75_000] {
        let mut world = World::new(Plan {
            seed: 4,
            capacity,
            ..CALM
        });
        for n in 0..200 {
            let class = if n % 2 == 0 {
                Class::Normal
            } else {
                Class::Bulk
            };
            put(&mut world, class, &format!("{n:0700}"));
            let now = world.now();
            world.core.flush(class, now);
            world.at += 6 * SECOND;
        }
        for n in 0..10 {
            let seq = put(&mut world, Class::Critical, &format!("{n:0300}"));
            let now = world.now();
            assert!(world.core.flush(Class::Critical, now), "{capacity}: {n}");
            assert!(contents(&world.plan, &world.disk).contains_key(&seq));
        }
    }
}

#[test]
fn p12_a_cut_costs_no_more_than_the_window_that_was_stated() {
    edges::a_drained_budget_stretches_the_window_that_is_stated_and_kept();
    let mut world = World::new(Plan { seed: 5, ..CALM });
    for n in 0..60 {
        put(&mut world, Class::ALL[n % 4], &format!("{n}"));
        world.at += SECOND;
        let now = world.now();
        world.core.tick(now);
        let window = world.core.promise().unwrap().as_nanos() as u64;
        let kept = contents(&world.plan, &{
            let disk = world.disk.fork();
            disk.crash();
            disk
        });
        assert!(
            kept.len() as u64 + window / SECOND > n as u64,
            "after {n} s"
        );
    }
}

#[test]
fn p13_one_dead_uplink_does_not_hold_back_another() {
    let both = [OTLP, MQTT].map(|uplink| Subscription {
        uplink,
        required: true,
        signals: vec![Signal::Metrics],
    });
    let disk = Simulated::new(6);
    let settings = Settings {
        quota: CALM.quota,
        reserve: 0,
        segment: 6000,
        epoch: 1,
        boot_id: [1; 16],
        seed: 6,
    };
    let mut world = World::new(Plan { seed: 6, ..CALM });
    world.core = Core::new(limits(&CALM), &both, 1);
    world.core.attach(Log::new(disk, settings)).unwrap();
    for n in 0..40 {
        put(&mut world, Class::Normal, &format!("{n:0500}"));
        if n == 20 {
            flush(&mut world);
        }
    }
    assert_eq!(drain(&mut world.core).len(), 40);
    assert_eq!(world.core.pending(MQTT).backlog, 40, "kept for the other");
}

#[test]
fn p14_a_newer_format_is_set_aside_and_taken_up_again() {
    edges::a_newer_programs_segment_is_counted_kept_and_taken_up_again_by_the_newer_program();
}

/// The core of the suite, quickest first.
const PROPERTIES: &[(&str, fn())] = &[
    (
        "2 nothing that was not written",
        p02_nothing_is_returned_that_was_not_written,
    ),
    (
        "5 cursors",
        p05_a_cursor_is_never_ahead_of_the_server_and_never_goes_back,
    ),
    (
        "5 given is not acknowledged",
        p05_what_was_given_out_stays_on_flash_until_it_is_acknowledged,
    ),
    (
        "13 dead uplinks",
        p13_one_dead_uplink_does_not_hold_back_another,
    ),
    (
        "the outbox refuses",
        edges::the_outbox_answers_after_its_sync_and_refuses_when_full,
    ),
    (
        "unreadable first",
        edges::what_nobody_can_read_goes_before_anything_that_was_stored,
    ),
    (
        "10 no flash, no acknowledgement",
        edges::three_failed_syncs_mean_memory_only_and_a_healthy_disk_is_found_again,
    ),
    (
        "10 remains",
        p10_what_a_failed_sync_left_behind_does_not_count_beside_its_second_writing,
    ),
    (
        "3 names",
        p03_seqs_rise_and_no_name_is_used_twice_over_many_cuts,
    ),
    (
        "7 bounds",
        p07_files_stay_within_the_quota_and_batches_within_memory,
    ),
    (
        "wrong clocks",
        thin_tests::what_was_read_under_a_wrong_clock_goes_out_with_the_time_it_would_have_had,
    ),
    (
        "15 thinning",
        thin_tests::p15_thinning_keeps_what_it_promises_at_every_cut,
    ),
    (
        "a segment cut short",
        edges::an_open_segment_that_somebody_cuts_or_removes_costs_what_it_held_and_no_more,
    ),
    ("1 evictions", || {
        let tight = Plan {
            steps: 250,
            ..TIGHT
        };
        cuts(tight, 3, 3, false);
    }),
    ("1 cuts", || cuts(CALM, 3, 3, false)),
    (
        "10 failed syncs",
        p10_a_failed_sync_is_never_reported_as_durable,
    ),
    (
        "4 conservation",
        p04_each_batch_ends_delivered_waiting_or_counted,
    ),
    (
        "10 all together",
        p10_faults_evictions_and_cuts_together_lose_only_what_is_counted,
    ),
    (
        "8 flipped bytes",
        p08_one_flipped_byte_costs_at_most_one_frame,
    ),
];

const MUTANTS: &[Mutant] = &[
    Mutant::NoSync,
    Mutant::NoFolderSync,
    Mutant::SyncAskedAgain,
    Mutant::FailedSyncTaken,
    Mutant::CursorAhead,
    Mutant::DeletedBeforeAcknowledged,
    Mutant::ReusedIds,
    Mutant::UnseededChecksums,
    Mutant::PayloadUnchecked,
    Mutant::UncountedEviction,
    Mutant::PreviousEndIgnored,
    Mutant::CommitsIgnored,
    Mutant::QuotaIgnored,
    Mutant::OutboxEvicted,
    Mutant::HeldByTheDead,
    Mutant::OutboxInMemory,
    Mutant::RealBeforeJunk,
    Mutant::LengthUnchecked,
    Mutant::CountedLater,
    Mutant::RenamedUnsynced,
    Mutant::ExtremesLost,
    Mutant::WrongTimes,
];

#[test]
fn each_deliberate_mistake_is_caught() {
    let mut living = Vec::new();
    for &mistake in MUTANTS {
        let caught = mutant::with(mistake, || {
            let mut properties = PROPERTIES.iter();
            properties.find(|(_, holds)| std::panic::catch_unwind(holds).is_err())
        });
        match caught {
            Some((by, _)) => println!("{mistake:?}: caught by {by}"),
            None => living.push(mistake),
        }
    }
    assert!(living.is_empty(), "not caught: {living:?}");
}
