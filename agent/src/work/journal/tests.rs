//! The journal on a disk that forgets all it may.

use bytes::Bytes;

use super::{Arrival, Entry, Journal, Key, Record, Recovered, State, batch, snapshot};
use crate::frame::{Stamp, TraceContext};
use crate::spool::simulated::Simulated;
use crate::spool::storage::Storage as _;
use crate::trace::propagation::Carried;

const QUOTA: u64 = 4096;

fn context(byte: u8) -> TraceContext {
    TraceContext {
        trace_id: [byte; 16],
        span_id: [byte; 8],
        flags: 1,
        state: "a=b".into(),
    }
}

pub(super) fn entry(id: u64, state: State) -> Entry {
    Entry {
        id,
        key: Key::Named(Bytes::from(format!("c{id}"))),
        job: "job".to_owned(),
        digest: id * 7,
        arrival: Arrival {
            boot: [9; 16],
            at: Stamp {
                unix_ns: 1,
                boot_ns: 2,
            },
            trusted: true,
            age_ns: 3,
            unsure: true,
        },
        expiry: id.is_multiple_of(2).then_some(60),
        response_topic: "a/b".to_owned(),
        arguments: Bytes::from_static(b"{\"n\":1}"),
        carried: Carried {
            context: id.is_multiple_of(3).then(|| context(5)),
            baggage: "k=v".into(),
        },
        state,
        starts: 2,
    }
}

pub(super) fn states() -> [State; 5] {
    [
        State::Received,
        State::Started {
            process: context(1),
            run: None,
            at: Stamp::default(),
        },
        State::Started {
            process: context(1),
            run: Some(context(2)),
            at: Stamp::default(),
        },
        State::Done {
            answer: Bytes::from_static(b"{}"),
            process: Some(context(1)),
            posted: false,
            run: Some(context(2)),
            times: (Stamp::default(), Stamp::default()),
        },
        State::Done {
            answer: Bytes::from_static(b"{}"),
            process: None,
            posted: true,
            run: None,
            times: Default::default(),
        },
    ]
}

fn put(entry: &Entry) -> Record {
    Record::Put(Box::new(entry.clone()))
}

fn open(disk: &Simulated) -> (Journal<Simulated>, Recovered) {
    Journal::open(disk.clone())
}

/// Writes as the shell does; `false`: it failed.
fn write(journal: &mut Journal<Simulated>, records: &[Record], all: &[Entry]) -> bool {
    let batch = batch(records);
    let anew = journal.wants_snapshot(batch.len(), QUOTA);
    let whole = snapshot(all.iter());
    journal.write(&batch, anew.then_some(&whole)).is_ok()
        || (!anew && journal.write(&batch, Some(&whole)).is_ok())
}

#[test]
fn every_state_comes_back_as_it_was_written() {
    let disk = Simulated::new(1);
    let states = states().into_iter().enumerate();
    let all: Vec<Entry> = states
        .map(|(at, state)| entry(at as u64 + 1, state))
        .collect();
    let (mut journal, found) = open(&disk);
    assert!(found.entries.is_empty() && !found.damaged);
    for at in 0..all.len() {
        assert!(write(&mut journal, &[put(&all[at])], &all[..=at]));
    }
    let (_, found) = open(&disk);
    assert_eq!(found.entries, all);
    assert!(!found.damaged && found.notes.is_empty(), "{found:?}");
}

#[test]
fn nothing_is_written_before_the_first_command() {
    let disk = Simulated::new(1);
    open(&disk);
    assert!(disk.files().is_empty());
}

/// One entry whose digest counts up: which write was the last is then known.
fn count_up(disk: &Simulated, to: u64) -> u64 {
    let (mut journal, _) = open(disk);
    let mut sure = 0;
    for step in 1..=to {
        let mut entry = entry(1, State::Received);
        entry.digest = step;
        let written = write(&mut journal, &[put(&entry)], std::slice::from_ref(&entry));
        if disk.state().dead {
            break;
        }
        if written {
            sure = step;
        }
    }
    sure
}

#[test]
fn what_was_said_to_be_written_survives_a_cut_at_any_call() {
    let mut cuts = 0;
    for cut in 1.. {
        for seed in 0..8 {
            let disk = Simulated::new(seed);
            disk.state().cut = Some(cut);
            let sure = count_up(&disk, 40);
            if !disk.state().dead {
                assert!(cuts > 500, "the test must reach beyond a new file: {cuts}");
                return;
            }
            cuts += 1;
            disk.crash();
            let (_, found) = open(&disk);
            let last = found.entries.first().map_or(0, |entry| entry.digest);
            assert!(
                last == sure || last == sure + 1,
                "cut {cut} seed {seed}: {last} found, {sure} was sure"
            );
            assert!(!found.damaged, "cut {cut} seed {seed}: {:?}", found.notes);
            // And it goes on from there.
            assert_eq!(count_up(&disk, 3), 3);
            assert_eq!(open(&disk).1.entries[0].digest, 3);
        }
    }
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing_that_it_took() {
    for seed in 0..200 {
        let disk = Simulated::new(seed);
        disk.state().faults = Some(4);
        let sure = count_up(&disk, 30);
        disk.state().faults = None;
        let before = open(&disk).1;
        disk.crash();
        let after = open(&disk).1;
        for found in [before, after] {
            let last = found.entries.first().map_or(0, |entry| entry.digest);
            assert!((sure..=30).contains(&last), "seed {seed}: {last}, {sure}");
        }
    }
}

#[test]
fn the_files_stay_within_their_quota() {
    let disk = Simulated::new(1);
    let (mut journal, _) = open(&disk);
    for step in 0..500 {
        let mut entry = entry(1, State::Received);
        entry.digest = step;
        assert!(write(
            &mut journal,
            &[put(&entry)],
            std::slice::from_ref(&entry)
        ));
        let bytes: usize = disk.files().iter().map(|(_, len)| len).sum();
        assert!(bytes as u64 <= QUOTA, "{bytes}");
        assert!(disk.files().len() <= 2);
    }
}

#[test]
fn damage_before_a_whole_frame_is_told_and_at_the_end_is_a_cut() {
    let disk = Simulated::new(1);
    let (mut journal, _) = open(&disk);
    let all: Vec<Entry> = (1..=4).map(|id| entry(id, State::Received)).collect();
    assert!(write(&mut journal, &[], &all[..1]));
    let mut ends = vec![disk.files()[0].1];
    for at in 1..4 {
        assert!(write(&mut journal, &[put(&all[at])], &all[..=at]));
        ends.push(disk.files()[0].1);
    }
    let name = disk.files()[0].0.clone();
    for at in 0..ends[3] {
        let disk = disk.fork();
        disk.flip(&name, at);
        let (_, found) = open(&disk);
        let known = found.entries.len();
        if at < 8 {
            // Another file altogether.
            assert_eq!(known, 0, "{at}");
        } else if at < ends[2] {
            assert!(found.damaged, "{at}");
            assert!(known >= 3, "{at}: {known}");
        } else {
            assert!(!found.damaged, "{at}");
            assert_eq!(known, 3, "{at}");
        }
    }
}

#[test]
fn what_another_version_wrote_is_left_alone() {
    let disk = Simulated::new(1);
    disk.plant("5.commands", b"SONDECM2 something else".to_vec());
    let (mut journal, found) = open(&disk);
    assert_eq!(found.notes.len(), 1);
    let one = entry(1, State::Received);
    assert!(write(
        &mut journal,
        &[put(&one)],
        std::slice::from_ref(&one)
    ));
    let names: Vec<String> = disk.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["5.commands", "6.commands"]);
    assert_eq!(open(&disk).1.entries, [one]);
}

#[test]
fn hostile_files_stop_nothing() {
    let mut dice = crate::spool::simulated::Dice::new(7);
    for _ in 0..2000 {
        let disk = Simulated::new(1);
        let mut bytes = b"SONDECM1".to_vec();
        for _ in 0..dice.below(6) {
            let body: Vec<u8> = (0..dice.below(80)).map(|_| dice.below(5) as u8).collect();
            bytes.extend_from_slice(super::FRAME);
            bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        disk.plant("1.commands", bytes);
        let (mut journal, _) = open(&disk);
        let one = entry(1, State::Received);
        assert!(write(&mut journal, &[put(&one)], &[one]));
    }
}

#[test]
fn a_file_of_nobody_we_know_is_not_touched() {
    let mut disk = Simulated::new(1);
    disk.plant("notes.txt", b"mine".to_vec());
    let (mut journal, _) = open(&disk);
    let one = entry(1, State::Received);
    assert!(write(
        &mut journal,
        &[put(&one)],
        std::slice::from_ref(&one)
    ));
    let mut bytes = [0; 4];
    assert_eq!(disk.read_at("notes.txt", 0, &mut bytes).unwrap(), 4);
}
