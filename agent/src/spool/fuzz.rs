//! Hostile segments, cursor files and folders; see [`crate::fuzz`].

use std::collections::BTreeSet;

use crc32c::{crc32c, crc32c_append};

use super::cursor::{Ledger, SLOT};
use super::edges::file;
use super::format::{SEGMENT_HEADER, decode_footer};
use super::inspect::{Opened, Segment, Source, verify};
use super::model::{CALM, Plan, World, drain, given_out, open};
use super::simulated::{Dice, Simulated};
use crate::fuzz::{changed, corpus, run};

fn pinned(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spool/inspect/vectors/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

/// Makes every checksum of a segment right again, as far as the lengths in it
/// lead somewhere: what is behind a checksum is decoded too.
fn mended(bytes: &mut [u8]) {
    for copy in bytes.chunks_mut(128).take(2) {
        if let Some((body, crc)) = copy.split_at_mut_checked(124)
            && crc.len() == 4
        {
            crc.copy_from_slice(&crc32c(body).to_le_bytes());
        }
    }
    let Some(nonce) = bytes.get(24..32).map(crc32c) else {
        return;
    };
    let mut at = SEGMENT_HEADER;
    while let Some(frame) = bytes.get_mut(at..)
        && frame.len() >= 72
    {
        let head = usize::from(u16::from_le_bytes([frame[8], frame[9]]));
        let body = u32::from_le_bytes([frame[12], frame[13], frame[14], frame[15]]) as usize;
        if head < 72 || head + body > frame.len() {
            at += 1;
            continue;
        }
        let crc = crc32c_append(nonce, &frame[head..head + body]);
        frame[64..68].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c_append(nonce, &frame[..head - 4]);
        frame[head - 4..head].copy_from_slice(&crc.to_le_bytes());
        at += head + body;
    }
}

fn look(bytes: Vec<u8>) {
    let len = bytes.len() as u64;
    let _ = decode_footer(&bytes, 0);
    let opened = Segment::read(Source::Memory(bytes.into()), len).unwrap();
    if let Opened::Segment(segment) = opened {
        let summary = segment.summary().unwrap();
        let checked = verify(&segment).unwrap();
        assert!(checked.frames <= len / 72 && summary.bytes <= len);
    }
}

#[test]
fn segment() {
    let mut inputs = vec![pinned("sealed.seg"), pinned("open.seg")];
    inputs.extend(corpus("segment"));
    let target = |input: &[u8]| {
        look(input.to_vec());
        let mut bytes = input.to_vec();
        mended(&mut bytes);
        look(bytes);
    };
    run("segment", &inputs, target);
}

#[test]
fn cursors() {
    let file = pinned("cursors");
    let mut inputs: Vec<Vec<u8>> = file
        .chunks(SLOT as usize)
        .map(|slot| slot[..200].to_vec())
        .collect();
    inputs.extend(corpus("cursors"));
    let target = |input: &[u8]| {
        let mut bytes = input.to_vec();
        // The checksum, and a length that fits.
        if bytes.len() > 20 && bytes[0] & 1 == 1 {
            let length = bytes.len() as u32 - 20;
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c(&bytes[20..]).to_le_bytes();
            bytes[16..20].copy_from_slice(&crc);
        }
        for bytes in [input, &bytes] {
            let read = Ledger::decode_slot(bytes);
            let bare = bytes.get(20..).and_then(Ledger::decode);
            for ledger in [read, bare].into_iter().flatten() {
                let _ = ledger.encode_slot();
                // More ranges than a cursor may have are cut when it is written.
                let once = Ledger::decode(&ledger.encode()).unwrap();
                assert_eq!(Ledger::decode(&once.encode()), Some(once));
            }
        }
    };
    run("cursors", &inputs, target);
}

/// A folder as an agent leaves it, its files then changed, cut, exchanged and
/// joined by others'. The input is the seed. Whatever it holds, the agent
/// starts, gives out only what somebody wrote, and starts again.
#[test]
fn folder() {
    let plan = Plan { steps: 60, ..CALM };
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        world.step();
    }
    let now = world.now();
    world.core.stop(now);
    let names = world.disk.files().into_iter().map(|(name, _)| name);
    let files: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let bytes = file(&world.disk, &name);
            (name, bytes)
        })
        .collect();
    let bodies: BTreeSet<_> = world
        .model
        .accepted
        .values()
        .map(|(_, body)| body.clone())
        .collect();
    let contents: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    let target = |input: &[u8]| {
        let seed = input.iter().fold(7_u64, |seed, byte| {
            seed.wrapping_mul(257) ^ u64::from(*byte)
        });
        let mut dice = Dice::new(seed);
        let disk = Simulated::new(seed);
        let forged = dice.below(2) == 0;
        for (name, bytes) in &files {
            let mut bytes = match dice.below(3) {
                0 => bytes.clone(),
                1 => changed(&mut dice, std::slice::from_ref(bytes)),
                _ => changed(&mut dice, &contents),
            };
            if forged {
                mended(&mut bytes);
            }
            let name = match dice.below(6) {
                0 => format!("normal/{:016x}.seg", dice.below(1 << 50)),
                1 => format!("outbox/{:016x}.seg", dice.below(4)),
                _ => name.clone(),
            };
            if dice.below(8) != 0 {
                disk.plant(&name, bytes);
            }
        }
        for epoch in [11, 12] {
            let mut core = open(&plan, &disk, epoch);
            let given = match forged {
                true => given_out(&mut core),
                false => drain(&mut core).into_values().collect(),
            };
            for frame in given {
                assert!(
                    forged || bodies.contains(&frame.batch.body),
                    "never written: {frame:?}"
                );
            }
            core.stop(now);
        }
    };
    let mut seeds: Vec<Vec<u8>> = (0..16_u64)
        .map(|seed| seed.to_le_bytes().to_vec())
        .collect();
    seeds.extend(corpus("folder"));
    run("folder", &seeds, target);
}
