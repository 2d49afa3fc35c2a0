//! Others fill the disk: what is stored stays, what comes waits, what is lost
//! is counted, told, and still known after a restart.

use super::cursor::{Reason, SLOT, SLOT_FILE};
use super::edges::{batch, flush, put};
use super::log::{Log, Settings};
use super::model::{CALM, Plan, SECOND, World, contents, limits, subscriptions};
use super::queue::Core;
use super::simulated::Simulated;
use crate::frame::Class;

/// Little memory, much quota.
const LEAN: Plan = Plan {
    quota: 200_000,
    memory: 20_000,
    ..CALM
};

/// Some stored data, and a disk on which others left `free` bytes.
fn squeezed(free: u64) -> World {
    let mut world = World::new(Plan { seed: 21, ..LEAN });
    for n in 0..60 {
        put(&mut world, Class::Normal, &format!("{n:0700}"));
        flush(&mut world);
    }
    leave(&world, free);
    world
}

/// Others take all but `free` bytes.
fn leave(world: &World, free: u64) {
    let used: u64 = world.disk.files().iter().map(|(_, len)| *len as u64).sum();
    world.disk.state().capacity = used + free;
}

fn lost(world: &World, class: Class, reason: Reason) -> u64 {
    let table = &world.core.losses.table;
    table.get(&(class, reason)).map_or(0, |loss| loss.frames)
}

fn fill_memory(world: &mut World, class: Class) {
    for n in 0..40 {
        let batch = batch(world, class, &format!("{n:0700}"));
        let now = world.now();
        let _ = world.core.store(batch, now);
    }
}

#[test]
fn a_disk_that_others_fill_costs_nothing_that_is_stored() {
    for free in [0, 5_000] {
        let mut world = squeezed(free);
        let before = contents(&world.plan, &world.disk);
        for n in 0..10 {
            put(&mut world, Class::Normal, &format!("{n:0700}"));
            world.at += 12 * SECOND;
            let now = world.now();
            world.core.tick(now);
        }
        assert!(world.core.losses.table.is_empty());
        assert_eq!(contents(&world.plan, &world.disk), before, "{free}");
        assert!(world.core.alarm.is_some());
        // It goes on by itself.
        world.disk.state().capacity = 1 << 30;
        world.at += 6 * SECOND;
        let now = world.now();
        world.core.tick(now);
        assert_eq!(contents(&world.plan, &world.disk).len(), 70);
        assert!(world.core.alarm.is_none());
    }
}

#[test]
fn with_memory_full_too_newer_data_takes_the_place_of_the_oldest_as_disk_full() {
    let mut world = squeezed(0);
    let usage = world.core.log.as_ref().unwrap().usage();
    fill_memory(&mut world, Class::Normal);
    let kept = contents(&world.plan, &world.disk);
    assert!(!kept.contains_key(&1), "the oldest went");
    assert!(kept.keys().any(|seq| *seq > 60), "for something newer");
    assert!(lost(&world, Class::Normal, Reason::DiskFull) > 0);
    assert_eq!(lost(&world, Class::Normal, Reason::Quota), 0);
    assert!(world.core.log.as_ref().unwrap().usage() <= usage);
}

#[test]
fn nothing_goes_for_data_that_would_find_no_room_all_the_same() {
    let mut world = squeezed(0);
    let before = contents(&world.plan, &world.disk);
    fill_memory(&mut world, Class::Bulk);
    assert_eq!(contents(&world.plan, &world.disk), before);
    assert!(lost(&world, Class::Bulk, Reason::DiskFull) > 0);
    assert_eq!(lost(&world, Class::Normal, Reason::DiskFull), 0);
}

#[test]
fn critical_takes_the_place_of_lesser_data_at_once() {
    let mut world = squeezed(0);
    let seq = put(&mut world, Class::Critical, "alarm");
    let now = world.now();
    assert!(world.core.flush(Class::Critical, now));
    assert!(contents(&world.plan, &world.disk).contains_key(&seq));
}

#[test]
fn the_cursor_file_has_its_full_size_from_the_start() {
    let world = World::new(LEAN);
    let file = (SLOT_FILE.to_owned(), 2 * SLOT as usize);
    assert_eq!(world.disk.files(), [file]);
}

#[test]
fn a_stop_on_a_full_disk_counts_what_it_could_not_write_and_the_next_start_knows() {
    let mut world = squeezed(0);
    put(&mut world, Class::Normal, &format!("{:0700}", 1));
    put(&mut world, Class::Normal, &format!("{:0700}", 2));
    let now = world.now();
    assert!(!world.core.stop(now));
    let unsaved = world.core.unsaved();
    assert_eq!((unsaved.frames, unsaved.items), (2, 2));
    world.restart();
    assert_eq!(lost(&world, Class::Normal, Reason::DiskFull), 2);
    assert_eq!(world.core.recovered, 60);
}

#[test]
fn losses_outlive_a_restart_even_if_no_frame_was_ever_written() {
    let mut world = World::new(LEAN);
    leave(&world, 0);
    fill_memory(&mut world, Class::Bulk);
    let now = world.now();
    assert!(!world.core.stop(now));
    world.restart();
    assert_eq!(lost(&world, Class::Bulk, Reason::DiskFull), 40);
}

#[test]
fn a_full_disk_is_told_at_once_and_once_when_it_makes_data_wait_and_when_it_costs_data() {
    let mut world = squeezed(0);
    put(&mut world, Class::Normal, &format!("{:0700}", 1));
    let now = world.now();
    assert!(!world.core.flush(Class::Normal, now));
    let told = world.core.warnings(world.at);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("waits in memory"), "{told:?}");
    assert!(world.core.warnings(world.at).is_empty());
    fill_memory(&mut world, Class::Bulk);
    let told = world.core.warnings(world.at);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("being lost"), "{told:?}");
    fill_memory(&mut world, Class::Bulk);
    assert!(world.core.warnings(world.at).is_empty());
    assert!(!world.core.warnings(world.at + 601 * SECOND).is_empty());
}

#[test]
fn a_reserve_larger_than_the_file_system_is_named_with_what_is_free() {
    let disk = Simulated::new(22);
    disk.state().capacity = 10 << 20;
    let settings = Settings {
        quota: 64 << 20,
        reserve: 32 << 20,
        segment: 1 << 20,
        epoch: 1,
        boot_id: [1; 16],
        seed: 22,
    };
    let mut world = World::new(LEAN);
    world.core = Core::new(limits(&LEAN), &subscriptions(), 1);
    world.core.attach(Log::new(disk, settings)).unwrap();
    put(&mut world, Class::Normal, "x");
    let now = world.now();
    assert!(!world.core.flush(Class::Normal, now));
    let alarm = world.core.alarm.clone().unwrap();
    for part in [
        "spool.reserve keeps 32 MiB free",
        "10 MiB in all",
        "Lower spool.reserve",
        "tried again every 5 s",
    ] {
        assert!(alarm.contains(part), "{part}: {alarm}");
    }
    assert!(!alarm.contains("restart"));
}
