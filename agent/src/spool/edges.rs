//! Cases that random work seldom meets, on the simulated disk.

use bytes::Bytes;
use crc32c::crc32c;

use super::cursor::Reason;
use super::format::SegmentHeader;
use super::model::{CALM, OTLP, Plan, SECOND, World, contents, drain, limits, open, subscriptions};
use super::queue::Core;
use super::simulated::Simulated;
use super::storage::Storage;
use super::{Lane, Outcome, Refused};
use crate::frame::{Batch, Class, Codec, Signal, Signals};

/// A batch read at the world's time.
pub(super) fn batch(world: &World, class: Class, body: &str) -> Batch {
    let stamp = world.now().stamp;
    Batch {
        signal: Signal::Metrics,
        class,
        codec: Codec::Identity,
        items: 1,
        first: stamp,
        last: stamp,
        context: None,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

pub(super) fn put(world: &mut World, class: Class, body: &str) -> u64 {
    let now = world.now();
    let batch = batch(world, class, body);
    world.core.store(batch, now).unwrap().seq
}

pub(super) fn flush(world: &mut World) {
    let now = world.now();
    for class in Class::ALL {
        assert!(world.core.flush(class, now));
    }
}

pub(super) fn file(disk: &Simulated, name: &str) -> Vec<u8> {
    let (_, len) = disk.files().into_iter().find(|(n, _)| n == name).unwrap();
    let mut bytes = vec![0; len];
    disk.clone().read_at(name, 0, &mut bytes).unwrap();
    bytes
}

/// Makes a segment look as if a newer program had written it; or undoes that.
fn set_version(disk: &Simulated, name: &str, version: u8) {
    let mut bytes = file(disk, name);
    for copy in bytes[..256].chunks_mut(128) {
        copy[8] = version;
        let crc = crc32c(&copy[..124]);
        copy[124..].copy_from_slice(&crc.to_le_bytes());
    }
    disk.plant(name, bytes);
}

pub(super) fn first_segment(disk: &Simulated, folder: &str) -> String {
    let mut names = disk.files().into_iter().map(|(name, _)| name);
    names.find(|name| name.starts_with(folder)).unwrap()
}

#[test]
pub(super) fn a_newer_programs_segment_is_counted_kept_and_taken_up_again_by_the_newer_program() {
    let mut world = World::new(Plan { seed: 1, ..CALM });
    let old = put(&mut world, Class::Normal, "from the newer program");
    let now = world.now();
    assert!(world.core.stop(now));
    let name = first_segment(&world.disk, "normal/");
    set_version(&world.disk, &name, 2);
    let before = file(&world.disk, &name);

    world.restart();
    let now = world.now();
    let status = world.core.status(now, "/s".into());
    assert_eq!((status.newer_segments, status.frames), (1, 0));
    // The older program works on, sends all it has, and stops.
    let mine = put(&mut world, Class::Normal, "from the older one");
    assert!(
        mine > old + 1000,
        "seqs of the newer program are not used again"
    );
    flush(&mut world);
    assert_eq!(drain(&mut world.core).len(), 1);
    let now = world.now();
    assert!(world.core.stop(now));
    assert_eq!(file(&world.disk, &name), before, "untouched");

    world.restart();
    let next = put(&mut world, Class::Normal, "x");
    assert!(next < mine + 1000, "no second leap");
    set_version(&world.disk, &name, 1);
    let found = contents(&world.plan, &world.disk);
    assert_eq!(found[&old].batch.body, "from the newer program");
}

#[test]
fn a_newer_programs_segment_is_evicted_after_everything_else() {
    let plan = Plan {
        seed: 2,
        quota: 120_000,
        ..CALM
    };
    let mut world = World::new(plan);
    put(&mut world, Class::Bulk, "newer");
    let now = world.now();
    assert!(world.core.stop(now));
    let name = first_segment(&world.disk, "bulk/");
    set_version(&world.disk, &name, 9);
    world.restart();
    for n in 0..200 {
        put(&mut world, Class::Normal, &format!("{n:04000}"));
        flush(&mut world);
    }
    let kept = |world: &World| world.disk.files().iter().any(|(n, _)| *n == name);
    assert!(kept(&world));
    assert!(!world.core.losses.table.is_empty(), "others went");
}

#[test]
pub(super) fn what_nobody_can_read_goes_before_anything_that_was_stored() {
    // Wherever it lies, however old the rest is; its own class need not be the one that is full.
    for (folder, writer) in [
        ("normal", Class::Normal),
        ("bulk", Class::Bulk),
        ("outbox", Class::Outbox),
        ("critical", Class::Normal),
    ] {
        let plan = Plan {
            seed: 41,
            quota: 120_000,
            ..CALM
        };
        let mut world = World::new(plan);
        let mut seqs = Vec::new();
        for _ in 0..4 {
            seqs.push(put(&mut world, writer, &format!("{:03000}", 1)));
            flush(&mut world);
        }
        let now = world.now();
        assert!(world.core.stop(now));
        let junk = format!("{folder}/0000000000000fff.seg");
        world.disk.plant(&junk, vec![7; 50_000]);
        world.restart();
        for _ in 0..6 {
            seqs.push(put(&mut world, writer, &format!("{:03000}", 1)));
            flush(&mut world);
        }
        assert_eq!(world.core.losses.table.len(), 0, "{folder}");
        assert!(!world.disk.files().iter().any(|(name, _)| *name == junk));
        let found = contents(&world.plan, &world.disk);
        assert!(seqs.iter().all(|seq| found.contains_key(seq)), "{folder}");
    }
}

#[test]
fn blocks_are_reserved_ahead_where_that_pays_as_part_of_what_is_occupied() {
    for reserves in [true, false] {
        let mut world = World::new(Plan { seed: 43, ..CALM });
        world.disk.state().reserves = reserves;
        world.core.log.as_mut().unwrap().settings.segment = 64 << 10;
        let occupied = |world: &World| world.core.log.as_ref().unwrap().usage();
        let mut seqs = vec![put(&mut world, Class::Normal, "first")];
        flush(&mut world);
        let first = occupied(&world);
        for _ in 0..4 {
            seqs.push(put(&mut world, Class::Normal, &format!("{:02000}", 1)));
            flush(&mut world);
        }
        // What was reserved is taken, not added to; the file is as long as what it holds.
        assert_eq!(occupied(&world) == first, reserves);
        let name = first_segment(&world.disk, "normal/");
        let len = file(&world.disk, &name).len() as u64;
        let end = world.core.log.as_ref().unwrap().segments(Class::Normal);
        assert_eq!(len, u64::from(end.values().next().unwrap().end));
        let before = occupied(&world);
        let now = world.now();
        assert!(world.core.stop(now));
        world.restart();
        // The cursor file is part of it by now.
        assert!(occupied(&world) >= before);
        let found = contents(&world.plan, &world.disk);
        assert!(seqs.iter().all(|seq| found.contains_key(seq)));
    }
}

#[test]
fn no_blocks_are_reserved_that_the_quota_or_the_disk_has_no_room_for() {
    let mut world = World::new(Plan {
        seed: 47,
        quota: 120_000,
        ..CALM
    });
    for _ in 0..60 {
        put(&mut world, Class::Normal, &format!("{:03000}", 1));
        flush(&mut world);
        let log = world.core.log.as_mut().unwrap();
        assert!(log.usage() <= 120_000);
        let (_, free) = (log.limit(), log.storage.free().unwrap().0);
        assert!((1 << 30) - free <= 120_000);
    }
}

#[test]
fn a_name_near_the_end_of_all_ids_or_seqs_does_not_end_the_counting() {
    let mut world = World::new(Plan { seed: 42, ..CALM });
    let mut seqs = vec![put(&mut world, Class::Normal, "first")];
    let now = world.now();
    assert!(world.core.stop(now));
    let mut newer = file(&world.disk, &first_segment(&world.disk, "normal/"));
    for copy in newer[..256].chunks_mut(128) {
        copy[8] = 2;
        copy[80..88].copy_from_slice(&(u64::MAX - 7).to_le_bytes());
        let crc = crc32c(&copy[..124]);
        copy[124..].copy_from_slice(&crc.to_le_bytes());
    }
    for name in ["normal/0000ffffffffffff.seg", "normal/0000000000000002.seg"] {
        world.disk.plant(name, vec![1; 700]);
    }
    world.disk.plant("normal/0000000000000003.seg", newer);
    for _ in 0..3 {
        world.restart();
        seqs.push(put(&mut world, Class::Normal, "more"));
        flush(&mut world);
        world.disk.crash();
    }
    assert!(world.core.next_seq < 1 << 40, "{}", world.core.next_seq);
    let found = contents(&world.plan, &world.disk);
    assert!(seqs.iter().all(|seq| found.contains_key(seq)), "{seqs:?}");
}

#[test]
pub(super) fn an_open_segment_that_somebody_cuts_or_removes_costs_what_it_held_and_no_more() {
    // To nothing, into the header, into a frame, and the name itself.
    for len in [Some(0), Some(100), Some(700), None] {
        let mut world = World::new(Plan { seed: 43, ..CALM });
        let mut seqs: Vec<u64> = (0..6)
            .map(|n| put(&mut world, Class::Normal, &format!("body {n:0200}")))
            .collect();
        flush(&mut world);
        let name = first_segment(&world.disk, "normal/");
        match len {
            Some(len) => world.disk.cut_short(&name, len),
            None => world.disk.take_away(&name),
        }
        seqs.extend((6..12).map(|n| put(&mut world, Class::Normal, &format!("body {n:0200}"))));
        flush(&mut world);
        world.disk.crash();
        let kept = contents(&world.plan, &world.disk);
        assert!(
            seqs[6..].iter().all(|seq| kept.contains_key(seq)),
            "{len:?}"
        );
        let lost = world.core.losses.table[&(Class::Normal, Reason::Removed)];
        let missing = seqs.iter().filter(|seq| !kept.contains_key(seq)).count();
        assert_eq!(
            (lost.frames, lost.items),
            (missing as u64, missing as u64),
            "{len:?}"
        );
        assert!(missing > 0);
        // And what waits agrees with what comes.
        assert_eq!(drain(&mut world.core).len(), 12 - missing);
        assert_eq!(world.core.losses.table.len(), 1);
    }
}

#[test]
fn every_frame_of_a_file_that_vanished_is_counted_whatever_happens_to_it_next() {
    for case in ["read", "evicted", "stopped", "passed by one signal"] {
        let plan = Plan {
            seed: 44,
            quota: 120_000,
            ..CALM
        };
        let mut world = World::new(plan);
        for n in 0..20 {
            put(&mut world, Class::Normal, &format!("{n:01500}"));
            flush(&mut world);
        }
        let names: Vec<String> = world
            .disk
            .files()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let first = names
            .iter()
            .find(|name| name.starts_with("normal/"))
            .unwrap();
        let log = world.core.log.as_ref().unwrap();
        let held = log.segments(Class::Normal)[&1].stats.signals[0].frames;
        world.disk.take_away(first);
        match case {
            "read" => assert_eq!(drain(&mut world.core).len(), 20 - held as usize),
            "evicted" => {
                for n in 0..80 {
                    put(&mut world, Class::Normal, &format!("{n:01500}"));
                    flush(&mut world);
                }
            }
            "stopped" => {
                let now = world.now();
                assert!(world.core.stop(now));
                world.restart();
            }
            _ => {
                world.core.link(OTLP, true);
                let only = Signals::ALL.without(Signal::Logs);
                while let Some(frame) = world.core.next(OTLP, Lane::Backlog, only) {
                    world.core.settle(OTLP, frame.id, &Outcome::Delivered);
                }
            }
        }
        let lost = world
            .core
            .losses
            .table
            .get(&(Class::Normal, Reason::Removed));
        assert_eq!(
            lost.map(|loss| loss.frames),
            Some(u64::from(held)),
            "{case}"
        );
        assert_eq!(
            world
                .core
                .losses
                .table
                .keys()
                .filter(|(_, r)| *r == Reason::Damaged)
                .count(),
            0
        );
    }
}

#[test]
fn damage_that_a_start_counted_is_not_counted_by_the_next_though_no_footer_fits() {
    let mut world = World::new(Plan { seed: 45, ..CALM });
    for n in 0..6 {
        put(&mut world, Class::Normal, &format!("body {n}"));
    }
    flush(&mut world);
    let name = first_segment(&world.disk, "normal/");
    let mut bytes = file(&world.disk, &name);
    let at = bytes.windows(6).position(|w| w == b"body 3").unwrap();
    bytes[at - 40] ^= 1;
    // What a cut left behind fills the block: a footer would take another.
    bytes.resize(4096 - 10, 0);
    world.disk.plant(&name, bytes.clone());
    for _ in 0..3 {
        world.restart();
        let loss = world.core.losses.table[&(Class::Normal, Reason::Damaged)];
        assert_eq!(loss.frames, 1);
        assert_eq!(file(&world.disk, &name).len(), bytes.len(), "no footer");
        world.disk.crash();
    }
}

#[test]
fn a_damaged_header_in_an_unsealed_segment_is_counted_as_one_frame() {
    for others in [false, true] {
        let mut world = World::new(Plan { seed: 3, ..CALM });
        let mut seqs = Vec::new();
        for n in 0..6 {
            seqs.push(put(&mut world, Class::Normal, &format!("body {n}")));
            if others {
                put(&mut world, Class::Bulk, "another chain");
            }
        }
        flush(&mut world);
        let name = first_segment(&world.disk, "normal/");
        let bytes = file(&world.disk, &name);
        let at = bytes.windows(6).position(|w| w == b"body 3").unwrap();
        world.disk.crash();
        world.disk.flip(&name, at - 40);
        world.restart();
        let loss = world.core.losses.table[&(Class::Normal, Reason::Damaged)];
        assert_eq!(loss.frames, 1);
        let found = drain(&mut world.core);
        assert!(!found.contains_key(&seqs[3]) && found.contains_key(&seqs[4]));
        let loss = world.core.losses.table[&(Class::Normal, Reason::Damaged)];
        assert_eq!(loss.frames, 1, "counted once");
    }
}

#[test]
fn the_oldest_age_is_that_of_earlier_starts_too_or_unknown() {
    let mut world = World::new(Plan { seed: 4, ..CALM });
    put(&mut world, Class::Normal, "old");
    let now = world.now();
    assert!(world.core.stop(now));
    world.at += 100 * SECOND;
    world.restart();
    let mut now = world.now();
    let status = world.core.status(now, "/s".into());
    assert_eq!(status.oldest_age_s, Some(100.0));
    // Another boot: the segment's wall clock was believed, so is today's.
    let mut bytes = file(&world.disk, &first_segment(&world.disk, "normal/"));
    let header = SegmentHeader::decode(&bytes[..256]).unwrap();
    for believed in [true, false] {
        let other = SegmentHeader {
            boot_id: [9; 16],
            synchronised: believed,
            ..header.clone()
        };
        bytes[..256].copy_from_slice(&other.encode());
        world
            .disk
            .plant(&first_segment(&world.disk, "normal/"), bytes.clone());
        world.restart();
        now.stamp.boot_ns = SECOND;
        let status = world.core.status(now, "/s".into());
        assert_eq!(status.oldest_unknown, !believed);
        assert_eq!(status.oldest_age_s, believed.then_some(100.0));
    }
}

#[test]
fn a_disk_that_turns_up_late_gets_what_waited_and_no_name_is_used_twice() {
    let plan = Plan { seed: 5, ..CALM };
    let mut world = World::new(plan);
    let on_disk: Vec<u64> = (0..5)
        .map(|n| put(&mut world, Class::Normal, &format!("disk {n}")))
        .collect();
    let now = world.now();
    assert!(world.core.stop(now));

    let mut late = Core::new(limits(&plan), &subscriptions(), 70);
    assert_eq!(late.status(now, "/s".into()).loss_window_s, None);
    late.link(OTLP, true);
    let mut names = std::collections::BTreeSet::new();
    for n in 0..9 {
        let id = late.store(batch(&world, Class::Normal, &format!("memory {n}")), now);
        names.insert(id.unwrap());
    }
    let sent = late.next(OTLP, Lane::Live, Signals::ALL).unwrap();
    let held = late.next(OTLP, Lane::Live, Signals::ALL).unwrap();
    let settings = open(&plan, &world.disk.fork(), 70).log.unwrap().settings;
    late.attach(super::log::Log::new(world.disk.clone(), settings))
        .unwrap();
    late.settle(OTLP, sent.id, &Outcome::Delivered);
    late.settle(OTLP, held.id, &Outcome::Returned);
    for class in Class::ALL {
        assert!(late.flush(class, now));
    }
    assert!(late.next_seq < 100, "no leap: {}", late.next_seq);
    let id = late
        .store(batch(&world, Class::Normal, "new"), now)
        .unwrap();
    assert!(names.insert(id), "{id} twice");
    let found = drain(&mut late);
    for seq in on_disk {
        assert!(found.contains_key(&seq));
    }
    let mut bodies: Vec<&[u8]> = found.values().map(|f| &f.batch.body[..]).collect();
    bodies.retain(|body| body.starts_with(b"memory"));
    assert_eq!(bodies.len(), 8, "all but the delivered one, once each");
    assert!(bodies.is_sorted());
    assert!(!bodies.contains(&&b"memory 0"[..]));
}

#[test]
pub(super) fn the_outbox_answers_after_its_sync_and_refuses_when_full() {
    let plan = Plan {
        seed: 6,
        quota: 80_000,
        ..CALM
    };
    let mut world = World::new(plan);
    let mut refused = 0;
    for n in 0..60 {
        let now = world.now();
        let stored = batch(&world, Class::Outbox, &format!("{n:03000}"));
        let id = world.core.store(stored, now).unwrap();
        let mut answer = world.core.outbox(id, now);
        assert_ne!(answer, Some(Ok(id)), "not before the sync");
        if answer.is_none() {
            world.core.flush(Class::Outbox, now);
            answer = world.core.outbox(id, now);
        }
        match answer {
            Some(Ok(_)) => assert_eq!(refused, 0),
            Some(Err(_)) => refused += 1,
            None => panic!("neither durable nor refused"),
        }
    }
    assert!(refused > 10);
    assert_eq!(
        drain(&mut world.core).len(),
        60 - refused,
        "nothing evicted"
    );
    // Room again: taken again, once it is tried.
    world.at += 6 * SECOND;
    world.core.sweep();
    let now = world.now();
    let again = batch(&world, Class::Outbox, "again");
    let id = world.core.store(again, now).unwrap();
    assert_eq!(world.core.outbox(id, now), None, "tried first");
    world.core.flush(Class::Outbox, now);
    assert_eq!(world.core.outbox(id, now), Some(Ok(id)));
}

#[test]
pub(super) fn a_message_is_on_flash_before_it_is_acknowledged_though_its_uplink_is_optional() {
    let mut world = World::new(Plan { seed: 31, ..CALM });
    let mut subscriptions = subscriptions();
    subscriptions[0].required = false;
    world.core.reconfigure(limits(&CALM), &subscriptions);
    let now = world.now();
    let stored = batch(&world, Class::Outbox, "message");
    let id = world.core.store(stored, now).unwrap();
    assert_eq!(world.core.outbox(id, now), None, "not before the sync");
    world.core.flush(Class::Outbox, now);
    assert_eq!(world.core.outbox(id, now), Some(Ok(id)));
    world.core.sweep();
    world.disk.crash();
    assert!(contents(&world.plan, &world.disk).contains_key(&id.seq));
}

#[test]
fn condemned_frames_are_shown_with_the_servers_reason_and_bounded() {
    let mut world = World::new(Plan { seed: 7, ..CALM });
    world.core.link(OTLP, true);
    for n in 0..20 {
        put(&mut world, Class::Critical, "x");
        let frame = world.core.next(OTLP, Lane::Live, Signals::ALL).unwrap();
        let reason = format!("400: bad {n} {}", "é".repeat(400));
        world
            .core
            .settle(OTLP, frame.id, &Outcome::Condemned(reason));
    }
    let now = world.now();
    let status = world.core.status(now, "/s".into());
    assert_eq!(status.condemned.len(), 8);
    assert!(status.condemned[7].reason.starts_with("400: bad 19"));
    assert!(status.condemned[7].reason.len() <= 256);
    assert_eq!(status.condemned[0].class, "critical");
}

#[test]
fn critical_and_the_outbox_keep_their_shares_whatever_comes() {
    let quota = 160_000;
    for first in [Class::Critical, Class::Outbox, Class::Normal] {
        let plan = Plan {
            seed: 8,
            quota,
            ..CALM
        };
        let mut world = World::new(plan);
        let fill = |world: &mut World, class: Class| {
            let mut durable = Vec::new();
            for n in 0..80 {
                world.at += 6 * SECOND;
                let now = world.now();
                let stored = batch(world, class, &format!("{n:01500}"));
                let id = world.core.store(stored, now).unwrap();
                world.core.flush(class, now);
                match world.core.outbox(id, now) {
                    Some(Err(_)) => {}
                    _ => durable.push(id.seq),
                }
                world.check_bounds();
            }
            durable
        };
        let filled = fill(&mut world, first);
        for class in [Class::Critical, Class::Outbox] {
            let stored = fill(&mut world, class);
            let least = if class == Class::Critical { 8 } else { 4 };
            let log = world.core.log.as_ref().unwrap();
            assert!(
                log.class_usage(class) >= 121_232 / least - 12_000,
                "{first:?} first, {class:?} has {}",
                log.class_usage(class)
            );
            drop(stored);
        }
        if first == Class::Outbox {
            let found = contents(&world.plan, &world.disk);
            assert!(filled.iter().all(|seq| found.contains_key(seq)));
        }
    }
}

#[test]
fn without_inodes_open_segments_are_written_on_and_new_ones_take_an_old_ones_place() {
    let mut world = World::new(Plan { seed: 9, ..CALM });
    put(&mut world, Class::Normal, "one");
    flush(&mut world);
    world.disk.state().no_inodes = true;
    put(&mut world, Class::Normal, "two");
    flush(&mut world);
    assert!(world.core.losses.table.is_empty());
    put(&mut world, Class::Outbox, "needs a file");
    let now = world.now();
    world.core.flush(Class::Outbox, now);
    world.disk.state().no_inodes = false;
    world.at += 6 * SECOND;
    flush(&mut world);
    assert_eq!(world.core.memory_bytes, 0);
}

#[test]
pub(super) fn three_failed_syncs_mean_memory_only_and_a_healthy_disk_is_found_again() {
    for read_only in [false, true] {
        let mut world = World::new(Plan { seed: 10, ..CALM });
        let kept = put(&mut world, Class::Normal, "before");
        flush(&mut world);
        {
            let mut state = world.disk.state();
            state.failing = !read_only;
            state.read_only = read_only;
        }
        if read_only {
            // An open file does not notice; the next segment does.
            world.core.log.as_mut().unwrap().seal_all();
        }
        let held = put(&mut world, Class::Normal, "meanwhile");
        let now = world.now();
        assert!(!world.core.flush(Class::Normal, now));
        let status = world.core.status(now, "/s".into());
        assert!(status.alarm.is_some() && status.loss_window_s.is_none());
        assert_eq!(status.frames, 2, "nothing was taken for durable");
        // A local program is told that its message is not safe, and it is not kept.
        let stored = batch(&world, Class::Outbox, "message");
        let id = world.core.store(stored, now).unwrap();
        assert_eq!(world.core.outbox(id, now), Some(Err(Refused::NoDisk)));
        let refused = world.core.losses.table[&(Class::Outbox, Reason::Refused)];
        assert_eq!(refused.frames, 1);
        let calls = world.disk.state().calls;
        world.at += SECOND;
        let now = world.now();
        world.core.tick(now);
        assert_eq!(world.disk.state().calls, calls, "left alone for a minute");

        world.disk.state().failing = false;
        world.disk.state().read_only = false;
        world.at += 61 * SECOND;
        let now = world.now();
        assert!(world.core.due().is_some_and(|due| due <= world.at));
        world.core.tick(now);
        let status = world.core.status(now, "/s".into());
        assert!(status.alarm.is_none() && status.loss_window_s.is_some());
        world.disk.crash();
        let found = contents(&world.plan, &world.disk);
        for seq in [kept, held] {
            assert!(found.contains_key(&seq), "{seq}");
        }
    }
}

#[test]
fn losses_are_told_once_the_link_is_up_by_class_reason_and_time_and_not_too_often() {
    let mut world = World::new(Plan { seed: 11, ..CALM });
    let lose = |world: &mut World| {
        let mut long = batch(world, Class::Bulk, "");
        long.body = Bytes::from(vec![0; crate::frame::MAX_BODY + 1]);
        let now = world.now();
        assert!(world.core.store(long, now).is_err());
    };
    lose(&mut world);
    world.at += 5 * SECOND;
    lose(&mut world);
    assert_eq!(world.core.tell_losses(world.at).len(), 0, "no link");
    world.core.link(OTLP, true);
    assert_eq!(
        world.core.tell_losses(world.at),
        [
            "lost 2 frames (2 items) of class bulk, reason too_large, readings from 1970-01-01T00:00:01Z to 1970-01-01T00:00:06Z"
        ]
    );
    lose(&mut world);
    assert_eq!(world.core.tell_losses(world.at).len(), 0, "just told");
    world.at += 60 * SECOND;
    assert_eq!(world.core.tell_losses(world.at).len(), 1);
    assert_eq!(world.core.tell_losses(world.at + 99 * SECOND).len(), 0);
}

#[test]
fn losses_that_nobody_heard_of_before_a_stop_are_told_by_the_next_start_and_once() {
    let mut world = World::new(Plan { seed: 46, ..CALM });
    let mut long = batch(&world, Class::Bulk, "");
    long.body = Bytes::from(vec![0; crate::frame::MAX_BODY + 1]);
    let now = world.now();
    assert!(world.core.store(long, now).is_err());
    for told in [1, 0] {
        assert!(world.core.stop(now));
        world.restart();
        world.core.link(OTLP, true);
        assert_eq!(world.core.tell_losses(world.at).len(), told);
    }
    let loss = world.core.losses.table[&(Class::Bulk, Reason::TooLarge)];
    assert_eq!(loss.frames, 1);
}

#[test]
fn a_full_spool_never_makes_the_outbox_refuse_within_its_share() {
    let plan = Plan {
        seed: 47,
        quota: 160_000,
        memory: 40_000,
        ..CALM
    };
    let mut world = World::new(plan);
    for class in [Class::Critical, Class::Bulk, Class::Normal] {
        for n in 0..100 {
            let stored = batch(&world, class, &format!("{n:01500}"));
            let now = world.now();
            let _ = world.core.store(stored, now);
            world.core.flush(class, now);
            world.at += 6 * SECOND;
        }
    }
    // A quarter of what the cursor file and one segment leave, less the block that is begun.
    let share = (160_000 - 32_768 - 6_000) / 4 - 8_192;
    let mut messages = 0;
    while world.core.log.as_ref().unwrap().class_usage(Class::Outbox) < share {
        let stored = batch(&world, Class::Outbox, &format!("{messages:0700}"));
        let now = world.now();
        let id = world.core.store(stored, now).expect("room in memory");
        assert!(world.core.flush(Class::Outbox, now), "message {messages}");
        assert_eq!(world.core.outbox(id, now), Some(Ok(id)));
        messages += 1;
        world.check_bounds();
    }
    assert!(messages > 10);
    let found = contents(&world.plan, &world.disk);
    let kept = found
        .values()
        .filter(|f| f.batch.class == Class::Outbox)
        .count();
    assert_eq!(kept, messages);
    let mut lost = world.core.losses.table.keys();
    assert!(!lost.any(|(class, _)| *class == Class::Outbox));
}

#[test]
pub(super) fn a_drained_budget_stretches_the_window_that_is_stated_and_kept() {
    let mut plan = limits(&CALM);
    plan.write_budget = 600_000;
    let mut world = World::new(Plan { seed: 12, ..CALM });
    world.core.reconfigure(plan, &subscriptions());
    let mut windows = Vec::new();
    for n in 0..400 {
        put(&mut world, Class::Normal, &format!("{n}"));
        let now = world.now();
        let status = world.core.status(now, "/s".into());
        let window = status.loss_window_s.unwrap();
        windows.push(window);
        world.at += SECOND;
        let now = world.now();
        world.core.tick(now);
        let oldest = world.core.memory[Class::Normal as usize].values().next();
        let age = oldest.map_or(0, |w| world.at - w.batch.first.boot_ns);
        assert!(
            age <= window as u64 * SECOND,
            "{age} ns in memory, {window} s"
        );
    }
    assert_eq!(windows[0], 10.0);
    assert!(windows.contains(&20.0) && *windows.last().unwrap() > 20.0);
}

#[test]
fn what_may_not_be_read_for_a_while_is_no_damage_and_is_said() {
    let mut world = World::new(Plan { seed: 1, ..CALM });
    put(&mut world, Class::Normal, "kept");
    flush(&mut world);
    world.core.log.as_mut().unwrap().seal_all();
    world.disk.state().denied = true;
    world.core.link(OTLP, true);
    for _ in 0..100 {
        assert!(world.core.next(OTLP, Lane::Backlog, Signals::ALL).is_none());
        assert!(world.core.next(OTLP, Lane::Live, Signals::ALL).is_none());
    }
    let now = world.now();
    let status = world.core.status(now, String::new());
    assert_eq!((status.lost.len(), status.frames), (0, 1));
    assert!(status.alarm.is_some());
    world.disk.state().denied = false;
    let lanes = [Lane::Live, Lane::Backlog];
    let frame = lanes
        .into_iter()
        .find_map(|lane| world.core.next(OTLP, lane, Signals::ALL));
    assert_eq!(&frame.unwrap().batch.body[..], b"kept");
    assert_eq!(world.core.status(now, String::new()).alarm, None);
}
