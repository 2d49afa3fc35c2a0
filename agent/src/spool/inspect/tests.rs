//! What a folder says to whoever looks at it from outside, and the bytes that
//! the format is pinned to.
//!
//! `vectors/` holds files of format version 1 as they were written first. If
//! one of these tests fails, the format has changed: undo that, or make it a
//! new version beside this one. (Only for a file that was never released:
//! `SONDE_WRITE_VECTORS=1` writes them anew.)

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::frame::{Codec, Stamp, TraceContext};
use crate::spool::cursor::{Loss, Reason};
use crate::spool::format::{FrameParts, SegmentHeader, encode_anchor, encode_footer, encode_frame};

const NONCE: u64 = 0x0123_4567_89ab_cdef;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/inspect/vectors")
}

fn ledger() -> Ledger {
    let mut ledger = Ledger {
        version: 7,
        next_seq: 46,
        ..Ledger::default()
    };
    ledger.done[0][Class::Normal as usize].insert(0b1111, 0, 41);
    ledger.done[0][Class::Normal as usize].insert(0b0010, 42, 43);
    ledger.done[1][Class::Outbox as usize].insert(0b1000, 3, 300);
    let loss = Loss {
        frames: 2,
        items: 300,
        first_unix_ns: 1_700_000_000_000_000_000,
        last_unix_ns: 1_700_000_060_000_000_000,
    };
    ledger.losses.add(Class::Normal, Reason::Quota, loss);
    ledger
}

fn at(second: u64) -> Stamp {
    Stamp {
        unix_ns: (1_700_000_000 + second) * 1_000_000_000,
        boot_ns: second * 1_000_000_000,
    }
}

/// Header, ledger, three frames (one with everything), an anchor; and a footer.
fn segment(sealed: bool) -> Vec<u8> {
    let header = SegmentHeader {
        class: Class::Normal,
        id: 0x2a,
        nonce: NONCE,
        epoch: 0xfeed_beef,
        previous: 0x29,
        previous_end: 4096,
        boot_id: *b"0123456789abcdef",
        made: at(100),
        synchronised: true,
        floor: 40,
    };
    let mut out = header.encode();
    let mut stats = Stats {
        ledger: (out.len() as u32, 7),
        ..Stats::default()
    };
    let commit = FrameParts::plain(Kind::Commit);
    encode_frame(&mut out, NONCE, &commit, &ledger().encode());
    let context = TraceContext {
        trace_id: *b"trace-id-16bytes",
        span_id: *b"span-id8",
        flags: 1,
        state: "vendor=value".into(),
    };
    let bodies: [(Signal, Codec, &[u8], bool); 3] = [
        (Signal::Metrics, Codec::Identity, b"", false),
        (
            Signal::Traces,
            Codec::Identity,
            b"hello SNf\x01 there",
            true,
        ),
        (Signal::Message, Codec::Identity, &[0xff; 300], false),
    ];
    for (index, (signal, codec, body, given)) in bodies.into_iter().enumerate() {
        let number = index as u64;
        let parts = FrameParts {
            kind: Kind::Data,
            signal: Some(signal),
            codec,
            seq: 41 + number,
            items: 10 + index as u32,
            first: at(200 + number),
            last: at(230 + number),
            context: Some(&context).filter(|_| given),
            given,
        };
        let from = out.len();
        encode_frame(&mut out, NONCE, &parts, body);
        stats.add(&crate::spool::format::decode_header(&out[from..], NONCE).unwrap());
    }
    let anchor = FrameParts::plain(Kind::Anchor);
    encode_frame(&mut out, NONCE, &anchor, &encode_anchor(at(300), true));
    stats.end = out.len() as u32;
    if sealed {
        encode_footer(&mut out, NONCE, &stats);
    }
    out
}

fn cursors() -> Vec<u8> {
    let mut out = vec![0; 2 * SLOT as usize];
    let older = Ledger {
        version: 6,
        ..Ledger::default()
    };
    for ledger in [ledger(), older] {
        let (offset, slot) = ledger.encode_slot().unwrap();
        out[offset as usize..offset as usize + slot.len()].copy_from_slice(&slot);
    }
    out
}

fn open(bytes: impl Into<bytes::Bytes>) -> Box<Segment> {
    let bytes = bytes.into();
    let len = bytes.len() as u64;
    match Segment::read(Source::Memory(bytes), len).unwrap() {
        Opened::Segment(segment) => segment,
        other => panic!("{other:?}"),
    }
}

fn frames(segment: &Segment) -> Vec<(u64, Option<bytes::Bytes>)> {
    let mut walk = segment.walk(true);
    let mut out = Vec::new();
    while let Some(piece) = walk.next().unwrap() {
        if let Piece::Frame(at, header) = piece
            && header.kind == Kind::Data
        {
            out.push((header.seq, walk.payload(at, &header).unwrap()));
        }
    }
    out
}

#[test]
fn the_writer_still_makes_the_bytes_that_version_1_is_pinned_to() {
    let files = [
        ("sealed.seg", segment(true)),
        ("open.seg", segment(false)),
        ("cursors", cursors()),
    ];
    for (name, bytes) in files {
        let path = vectors().join(name);
        if std::env::var_os("SONDE_WRITE_VECTORS").is_some() {
            fs::create_dir_all(vectors()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let pinned = fs::read(&path).unwrap();
        let differs = pinned.iter().zip(&bytes).position(|(a, b)| a != b);
        assert_eq!(pinned.len(), bytes.len(), "{name}");
        assert_eq!(differs, None, "{name}");
    }
}

#[test]
fn the_reader_still_reads_the_bytes_that_version_1_is_pinned_to() {
    for (name, sealed) in [("sealed.seg", true), ("open.seg", false)] {
        let segment = open(fs::read(vectors().join(name)).unwrap());
        assert_eq!(segment.footer.is_some(), sealed);
        let found = frames(&segment);
        let expected: [(u64, &[u8]); 3] =
            [(41, b""), (42, b"hello SNf\x01 there"), (43, &[0xff; 300])];
        assert_eq!(found.len(), 3);
        for ((seq, body), (expected, bytes)) in found.iter().zip(expected) {
            assert_eq!((*seq, body.as_deref()), (expected, Some(bytes)));
        }
        let summary = segment.summary().unwrap();
        assert_eq!((summary.stats.seqs, summary.sealed), ((41, 43), sealed));
        let checked = verify(&segment).unwrap();
        assert_eq!((checked.frames, checked.items, checked.torn), (3, 33, 0));
        assert_eq!(checked.damage, []);
    }
    let bytes = fs::read(vectors().join("cursors")).unwrap();
    let read = Ledger::decode_slot(&bytes[SLOT as usize..]).unwrap();
    assert_eq!(read, ledger());
    assert!(done_seq(
        &read,
        UplinkName::Otlp,
        Class::Normal,
        Signal::Traces,
        42
    ));
    assert!(!done_seq(
        &read,
        UplinkName::Otlp,
        Class::Normal,
        Signal::Metrics,
        42
    ));
}

#[test]
fn any_flipped_byte_of_a_sealed_segment_is_found_and_costs_at_most_one_frame() {
    let good = segment(true);
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 0x20;
        let segment = open(bad);
        let checked = verify(&segment).unwrap();
        assert!(!checked.damage.is_empty(), "byte {place}");
        assert!(checked.frames >= 2, "byte {place}: {checked:?}");
        let told: u64 = checked.damage.iter().map(|damage| damage.frames).sum();
        assert!(told + checked.frames >= 3, "byte {place}: {checked:?}");
        assert_eq!(
            frames(&segment)
                .iter()
                .filter(|frame| frame.1.is_some())
                .count() as u64,
            checked.frames
        );
    }
}

#[test]
fn an_append_that_was_cut_anywhere_is_no_damage() {
    let whole = segment(false);
    for end in 256..whole.len() {
        let checked = verify(&open(whole[..end].to_vec())).unwrap();
        assert_eq!(checked.damage, [], "cut at {end}");
    }
    // Nor are the zeros that a file system may leave behind the last whole write.
    let mut zeros = whole.clone();
    zeros.resize(whole.len() + 4096, 0);
    let checked = verify(&open(zeros)).unwrap();
    assert_eq!((checked.damage.len(), checked.torn), (0, 4096));
}

#[test]
fn what_a_failed_sync_left_behind_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let normal = folder.path().join("normal");
    fs::create_dir(&normal).unwrap();
    let mut before = segment(false);
    let end = before.len();
    before[16] = 0x29;
    let crc = crc32c::crc32c(&before[..124]).to_le_bytes();
    before[124..128].copy_from_slice(&crc);
    before.extend_from_slice(b"of no use");
    fs::write(normal.join("0000000000000029.seg"), &before).unwrap();
    let mut after = segment(true);
    after[36..40].copy_from_slice(&(end as u32).to_le_bytes());
    let crc = crc32c::crc32c(&after[..124]).to_le_bytes();
    after[124..128].copy_from_slice(&crc);
    fs::write(normal.join("000000000000002a.seg"), &after).unwrap();
    fs::write(normal.join("note.txt"), b"x").unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    let all = folder.segments().unwrap();
    assert_eq!(all.len(), 2);
    let Opened::Segment(first) = folder.segment(all[0], Some(all[1])).unwrap() else {
        panic!("{all:?}");
    };
    assert_eq!(verify(&first).unwrap().torn, 0);
    assert_eq!(folder.ledger().unwrap(), ledger());
}

#[test]
fn what_the_next_segment_knows_to_be_there_and_is_not_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("normal");
    fs::create_dir(&folder).unwrap();
    let whole = segment(false);
    let next = SegmentHeader {
        class: Class::Normal,
        id: 0x2b,
        nonce: NONCE,
        epoch: 1,
        previous: 0x2a,
        previous_end: whole.len() as u32,
        boot_id: [0; 16],
        made: at(400),
        synchronised: true,
        floor: 45,
    };
    let name = |id| Named {
        class: Class::Normal,
        id,
    };
    fs::write(dir.path().join(name(0x2b).path()), next.encode()).unwrap();
    let spool = Folder::open(dir.path()).unwrap();
    for keep in [0, 100, SEGMENT_HEADER, 400, whole.len() - 1, whole.len()] {
        fs::write(dir.path().join(name(0x2a).path()), &whole[..keep]).unwrap();
        let opened = spool.segment(name(0x2a), Some(name(0x2b))).unwrap();
        match opened {
            Opened::Damaged(len) => assert!(keep < 256 && len == whole.len() as u64, "{keep}"),
            Opened::Segment(segment) => {
                let checked = verify(&segment).unwrap();
                let cut = checked
                    .damage
                    .iter()
                    .any(|one| one.what.contains("cut off"));
                assert_eq!(cut, keep < whole.len(), "{keep}: {checked:?}");
                assert_eq!(checked.torn, 0, "{keep}");
            }
            other => panic!("{keep}: {other:?}"),
        }
    }
}

#[test]
fn frames_that_only_the_ledger_knows_are_counted_unless_they_are_done() {
    // Seqs 0..41, 42 and 3..300 (messages) are done; 46 is the next.
    assert_eq!(
        beyond(
            &Ledger {
                next_seq: 310,
                ..ledger()
            },
            43
        ),
        10
    );
    assert_eq!(beyond(&ledger(), 45), 0);
    assert_eq!(beyond(&Ledger::default(), 0), 0);
}

#[test]
fn a_segment_that_vanishes_or_is_none_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("bulk/0000000000000001.seg")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("bulk/0000000000000002.seg"))
        .unwrap();
    let spool = Folder::open(folder.path()).unwrap();
    let all = spool.segments().unwrap();
    assert_eq!(all.len(), 2);
    for named in all {
        assert!(matches!(spool.segment(named, None).unwrap(), Opened::Gone));
    }
    let gone = Named {
        class: Class::Normal,
        id: 9,
    };
    assert!(matches!(spool.segment(gone, None).unwrap(), Opened::Gone));
    assert!(matches!(spool.slots().unwrap(), [Slot::Empty, Slot::Empty]));
}

#[test]
fn a_segment_stays_readable_when_its_name_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    fs::write(&path, segment(true)).unwrap();
    let Opened::Segment(segment) = Segment::open(&path).unwrap() else {
        panic!("not opened");
    };
    fs::remove_file(&path).unwrap();
    assert_eq!(frames(&segment).len(), 3);
}
