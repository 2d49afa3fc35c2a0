//! The bytes of version 1, and what a bad line can do. If a pinned byte
//! changes, undo the change: senders in the field write these bytes. A new
//! format gets a new version and pins of its own.

use super::*;
use crate::{About, Missing, Resolution, Unit};
use std::vec;
use std::vec::Vec;

fn gauge(number: u8) -> GaugeId {
    GaugeId::new(number).unwrap()
}

const ABOUT: About<'static> = About {
    name: "board.temperature",
    unit: Unit::Celsius,
    resolution: Resolution::one_in(16),
    least: -880,
    most: 2000,
};

fn samples_of(line: &[u8], decoder: &mut Decoder) -> Vec<Sample> {
    let mut samples = Vec::new();
    for byte in line {
        if let Some(frame) = decoder.feed(*byte)
            && let Body::Readings(readings) = frame.body
        {
            samples.extend(readings);
        }
    }
    samples
}

/// Puts any content into a frame with a good checksum.
fn sealed(content: &[u8]) -> Vec<u8> {
    let mut line = vec![0];
    line.extend(content);
    line.extend(bytes::crc32c(content).to_le_bytes());
    line.push(0);
    let mut distance = 0;
    for byte in line.iter_mut().rev() {
        if *byte == 0 {
            *byte = distance;
            distance = 0;
        }
        distance += 1;
    }
    line
}

/// Reproducible noise (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn the_bytes_of_readings_are_pinned() {
    let mut encoder = Encoder::new(7);
    encoder.push(1000, gauge(0), Ok(504)).unwrap();
    encoder.push(1000, gauge(1), Ok(-3)).unwrap();
    encoder.push(2000, gauge(0), Ok(505)).unwrap();
    encoder.push(3000, gauge(0), Err(Missing::Gone)).unwrap();
    let content = [
        0x18, 7, 0, 0, // version 1, first frame; source 7; seq 0
        0xE8, 0x07, // 1000 ms
        0x00, 0xF0, 0x07, // same time, gauge 0, +504
        0x01, 0x05, // same time, gauge 1, -3
        0x40, 0xE8, 0x07, 0x02, // 1000 ms later, gauge 0, +1
        0xA0, 0x01, // 1000 ms later again, gauge 0 absent: gone
    ];
    let line = encoder.finish();
    assert_eq!(line, sealed(&content));
    assert_eq!(
        line,
        [
            3, 0x18, 7, 1, 3, 0xE8, 0x07, 15, 0xF0, 0x07, 0x01, 0x05, 0x40, 0xE8, 0x07, 0x02, 0xA0,
            0x01, 82, 150, 244, 46, 0
        ]
    );
}

#[test]
fn the_bytes_of_a_trace_and_of_losses_are_pinned() {
    let mut encoder = Encoder::new(1);
    encoder.lost(300);
    encoder.trace(TraceContext::new([0xAA; 16], [0xBB; 8], 1).unwrap());
    encoder.push(5, gauge(31), Ok(0)).unwrap();
    let mut content = vec![0x1B, 1, 0, 0, 5];
    content.extend([0xAA; 16]);
    content.extend([0xBB; 8]);
    content.extend([1, 0xAC, 0x02, 0x1F, 0x00]);
    assert_eq!(encoder.finish(), sealed(&content));
    // The trace was for one frame; the losses stay, and it is no longer the first.
    encoder.push(6, gauge(0), Ok(0)).unwrap();
    assert_eq!(
        encoder.finish(),
        sealed(&[0x12, 1, 1, 0, 6, 0xAC, 0x02, 0, 0])
    );
}

#[test]
fn the_bytes_of_a_description_are_pinned_and_come_back() {
    let mut encoder = Encoder::new(7);
    encoder.describe(0, gauge(2), &ABOUT).unwrap();
    let mut content = vec![0x1C, 7, 0, 0, 0, 2, 1, 1, 16, 0xDF, 0x0D, 0xA0, 0x1F, 17];
    content.extend(b"board.temperature");
    let line = encoder.finish();
    assert_eq!(line, sealed(&content));
    let mut decoder = Decoder::new();
    let mut seen = 0;
    for byte in line {
        if let Some(frame) = decoder.feed(*byte) {
            let Body::Descriptions(mut all) = frame.body else {
                unreachable!()
            };
            let described = all.next().unwrap();
            assert_eq!((described.gauge, described.about), (gauge(2), ABOUT));
            assert!(described.unit_known && all.next().is_none());
            seen += 1;
        }
    }
    assert_eq!(seen, 1);
}

#[test]
fn everything_a_frame_carries_comes_back() {
    let trace = TraceContext::new([3; 16], [4; 8], 0).unwrap();
    let mut encoder = Encoder::new(255);
    encoder.lost(u32::MAX);
    encoder.trace(trace);
    let at = u64::MAX - 10;
    let given = [
        (at, 0, Ok(i32::MIN)),
        (at, 0, Ok(i32::MAX)),
        (at + 4, 31, Err(Missing::Garbage)),
        (at + 8, 0, Ok(0)),
        (at + 10, 31, Ok(-1)),
    ];
    for (at_ms, number, reading) in given {
        encoder.push(at_ms, gauge(number), reading).unwrap();
    }
    let line = encoder.finish().to_vec();
    let mut decoder = Decoder::new();
    for byte in &line[..line.len() - 1] {
        assert!(decoder.feed(*byte).is_none());
    }
    let frame = decoder.feed(0).unwrap();
    assert_eq!((frame.source, frame.seq, frame.first), (255, 0, true));
    assert_eq!((frame.uptime_ms, frame.lost), (at, u32::MAX));
    assert_eq!(frame.trace, Some(trace));
    let Body::Readings(readings) = frame.body else {
        unreachable!()
    };
    let got: Vec<_> = readings
        .map(|s| (s.at_ms, s.gauge.number(), s.reading))
        .collect();
    assert_eq!(got, given);
}

#[test]
fn a_full_frame_refuses_and_an_empty_one_takes_it() {
    let mut encoder = Encoder::new(0);
    let mut taken = 0;
    // The widest readings: five bytes each and a step.
    while encoder
        .push(
            taken * 70_000,
            gauge(0),
            Ok(if taken % 2 == 0 { i32::MIN } else { 0 }),
        )
        .is_ok()
    {
        taken += 1;
    }
    let line = encoder.finish().to_vec();
    assert!(
        line.len() <= LINE_MAX && line.len() > LINE_MAX - 10,
        "{}",
        line.len()
    );
    assert_eq!(samples_of(&line, &mut Decoder::new()).len() as u64, taken);
    encoder.push(taken * 70_000, gauge(0), Ok(9)).unwrap();
}

#[test]
fn earlier_times_and_other_kinds_want_a_new_frame() {
    let mut encoder = Encoder::new(0);
    encoder.push(10, gauge(0), Ok(1)).unwrap();
    assert_eq!(encoder.push(9, gauge(0), Ok(1)), Err(Refused::Full));
    assert_eq!(encoder.describe(10, gauge(0), &ABOUT), Err(Refused::Full));
    encoder.finish();
    encoder.push(9, gauge(0), Ok(1)).unwrap();
    encoder.finish();
    encoder.describe(10, gauge(0), &ABOUT).unwrap();
    assert_eq!(encoder.push(10, gauge(0), Ok(1)), Err(Refused::Full));
    let nameless = About {
        name: "Über",
        ..ABOUT
    };
    assert_eq!(
        encoder.describe(10, gauge(0), &nameless),
        Err(Refused::Name)
    );
}

#[test]
fn nothing_added_sends_nothing_and_uses_no_number() {
    let mut encoder = Encoder::new(0);
    assert!(encoder.is_empty() && encoder.finish().is_empty());
    encoder.push(0, gauge(0), Ok(1)).unwrap();
    assert_eq!(encoder.finish(), sealed(&[0x18, 0, 0, 0, 0, 0, 2]));
}

#[test]
fn a_sensor_read_once_a_second_costs_less_than_six_bytes_a_reading() {
    let mut encoder = Encoder::new(1);
    let start = 40 * 24 * 3600 * 1000;
    for n in 0..10u64 {
        encoder
            .push(start + n * 1000, gauge(0), Ok(504 + (n % 3) as i32))
            .unwrap();
    }
    assert!(encoder.finish().len() < 60);
    for n in 0..100u64 {
        encoder
            .push(start + n * 1000, gauge(0), Ok(504 + (n % 3) as i32))
            .unwrap();
    }
    assert!(encoder.finish().len() < 230);
}

#[test]
fn any_one_byte_changed_lost_or_added_is_noticed_and_costs_one_frame_at_most_two() {
    let mut encoder = Encoder::new(7);
    let mut frames = Vec::new();
    for n in 0..3u64 {
        encoder
            .push(n * 1000, gauge(0), Ok(504 + n as i32))
            .unwrap();
        encoder.push(n * 1000 + 10, gauge(1), Ok(-70_000)).unwrap();
        frames.push(encoder.finish().to_vec());
    }
    let whole = frames.concat();
    let truth = samples_of(&whole, &mut Decoder::new());
    assert_eq!(truth.len(), 6);
    let check = |line: &[u8], what: &str| {
        let got = samples_of(line, &mut Decoder::new());
        assert!(got.len() >= 2, "{what}");
        assert!(got.iter().all(|sample| truth.contains(sample)), "{what}");
    };
    for place in 0..whole.len() {
        for flip in 1..=255 {
            let mut line = whole.clone();
            line[place] ^= flip;
            check(&line, "changed");
        }
        let mut line = whole.clone();
        line.remove(place);
        check(&line, "lost");
        for byte in 0..=255 {
            let mut line = whole.clone();
            line.insert(place, byte);
            check(&line, "added");
        }
    }
}

#[test]
fn a_line_of_pure_noise_gives_no_reading_and_every_run_is_counted_once() {
    let mut noise = Noise(0x5eed_1234_5678_9abc);
    let mut decoder = Decoder::new();
    let (mut runs, mut within) = (0, false);
    for _ in 0..2_000_000 {
        // Zeroes more often than chance would have it, for runs of all lengths.
        let word = noise.next();
        let byte = if word >> 32 & 127 == 0 { 0 } else { word as u8 };
        runs += u64::from(byte == 0 && within);
        within = byte != 0;
        assert!(decoder.feed(byte).is_none());
    }
    let counts = decoder.counts();
    assert_eq!((counts.bytes, counts.frames), (2_000_000, 0));
    assert_eq!(counts.bad(), runs);
    assert!(counts.broken > 0 && counts.too_long > 0 && counts.too_short > 0);
    assert!(counts.checksum > 0);
}

#[test]
fn a_line_without_a_single_end_marker_holds_no_more_than_one_frame() {
    let mut decoder = Decoder::new();
    for _ in 0..1_000_000 {
        assert!(decoder.feed(0x55).is_none());
    }
    assert!(decoder.feed(0).is_none());
    assert_eq!((decoder.counts().too_long, decoder.counts().bad()), (1, 1));
    let mut encoder = Encoder::new(0);
    encoder.push(0, gauge(0), Ok(1)).unwrap();
    assert_eq!(samples_of(encoder.finish(), &mut decoder).len(), 1);
}

#[test]
fn records_that_make_no_sense_are_refused_whole_though_the_checksum_fits() {
    let head = [0x10, 1, 0, 0, 5];
    let with = |tail: &[u8]| sealed(&[&head[..], tail].concat());
    let bad: [&[u8]; 8] = [
        &[0x00],                               // no value
        &[0x00, 0x80, 0x00],                   // a long spelling
        &[0x00, 2, 0x40, 0, 2],                // a step of nothing
        &[0x80, 2],                            // the step again before any
        &[0xC0, 2],                            // a way of time that is not
        &[0x20],                               // absent for no reason
        &[0x00, 0xff, 0xff, 0xff, 0xff, 0x1f], // beyond 32 bits
        &[0x00, 2, 0x00],                      // a good one, then half of one
    ];
    let mut decoder = Decoder::new();
    for tail in bad {
        assert!(
            samples_of(&with(tail), &mut decoder).is_empty(),
            "{tail:x?}"
        );
    }
    // Descriptions: gauge 32, resolution 0, an upper-case name, an empty range, a cut name.
    let about: [&[u8]; 5] = [
        &[32, 1, 1, 1, 0, 2, 1, b'a'],
        &[0, 1, 0, 1, 0, 2, 1, b'a'],
        &[0, 1, 1, 1, 0, 2, 1, b'A'],
        &[0, 1, 1, 1, 2, 0, 1, b'a'],
        &[0, 1, 1, 1, 0, 2, 2, b'a'],
    ];
    for tail in about {
        let line = sealed(&[&[0x14, 1, 0, 0, 5][..], tail].concat());
        assert!(line.iter().all(|byte| decoder.feed(*byte).is_none()));
    }
    // A trace of zeroes.
    let line = sealed(&[&[0x11, 1, 0, 0, 5][..], &[0; 25]].concat());
    assert!(line.iter().all(|byte| decoder.feed(*byte).is_none()));
    assert_eq!(
        (decoder.counts().malformed, decoder.counts().frames),
        (14, 0)
    );
    // Another version.
    assert!(samples_of(&sealed(&[0x20, 1, 0, 0, 5, 0, 2]), &mut decoder).is_empty());
    assert_eq!(decoder.counts().version, 1);
    assert_eq!(samples_of(&with(&[0x00, 2]), &mut decoder).len(), 1);
}

#[test]
fn random_content_under_a_good_checksum_never_breaks_the_decoder() {
    let mut noise = Noise(0xfeed_1234_5678_9abc);
    let mut decoder = Decoder::new();
    for _ in 0..50_000 {
        let len = noise.next() as usize % 60;
        let mut content = vec![0x10 | noise.next() as u8 & 15, 1, 0, 0, 5];
        content.extend((0..len).map(|_| noise.next() as u8 & 0x7f));
        for byte in sealed(&content) {
            if let Some(frame) = decoder.feed(byte) {
                match frame.body {
                    Body::Readings(all) => assert!(all.count() <= FRAME_MAX),
                    Body::Descriptions(all) => assert!(all.count() <= FRAME_MAX),
                }
            }
        }
    }
    let counts = decoder.counts();
    assert_eq!(counts.frames + counts.malformed, 50_000);
    assert!(counts.frames > 100 && counts.malformed > 100, "{counts:?}");
}

#[test]
fn lost_repeated_and_restarted_frames_are_told_apart() {
    let mut watch = SeqWatch::new();
    let mut saw = |seq: u16, uptime_ms, first| {
        let mut decoder = Decoder::new();
        let seq = seq.to_le_bytes();
        let head = if first { 0x18 } else { 0x10 };
        let line = sealed(&[head, 1, seq[0], seq[1], uptime_ms, 0, 2]);
        let (end, start) = line.split_last().unwrap();
        assert!(start.iter().all(|byte| decoder.feed(*byte).is_none()));
        watch.saw(&decoder.feed(*end).unwrap())
    };
    assert_eq!(saw(65_534, 10, false), Arrival::New);
    assert_eq!(saw(65_535, 11, false), Arrival::Next);
    assert_eq!(saw(0, 12, false), Arrival::Next);
    assert_eq!(saw(0, 12, false), Arrival::Again);
    assert_eq!(
        saw(1, 9, false),
        Arrival::Next,
        "gathered before the last was sent"
    );
    assert_eq!(saw(3, 13, false), Arrival::After(1));
    assert_eq!(saw(0, 100, true), Arrival::Restarted);
    assert_eq!(saw(1, 101, false), Arrival::Next);
    assert_eq!(
        saw(1, 5, false),
        Arrival::Restarted,
        "its first frame got lost"
    );
}
