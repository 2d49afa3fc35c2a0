//! Hostile files of the commands' journal; see [`crate::fuzz`].

use bytes::Bytes;
use crc32c::crc32c;

use super::tests::{entry, states};
use super::{FRAME, HEAD, Journal, MAGIC, Record, batch, snapshot};
use crate::fuzz::{corpus, run};
use crate::spool::simulated::Simulated;
use crate::work::command::fuzz::Caller;

/// Makes the checksums right again, as far as the lengths lead somewhere.
fn mended(bytes: &mut [u8]) {
    let mut at = MAGIC.len();
    while let Some(frame) = bytes.get_mut(at..)
        && frame.len() >= HEAD
    {
        let length = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]) as usize;
        if !frame.starts_with(FRAME) || length > frame.len() - HEAD {
            at += 1;
            continue;
        }
        let sum = crc32c(&frame[HEAD..HEAD + length]).to_le_bytes();
        frame[8..12].copy_from_slice(&sum);
        at += HEAD + length;
    }
}

#[test]
fn journal() {
    let entries: Vec<_> = (1..).zip(states()).map(|(id, s)| entry(id, s)).collect();
    let mut whole = MAGIC.to_vec();
    whole.extend(snapshot(entries.iter()));
    whole.extend(batch(&[Record::Posted(3)]));
    let mut last = MAGIC.to_vec();
    let mut newest = entry(1, states()[0].clone());
    newest.id = u64::MAX;
    last.extend(snapshot([newest].iter()));
    let mut inputs = vec![whole, last];
    inputs.extend(corpus("journal"));
    let target = |input: &[u8]| {
        let mut bytes = input.to_vec();
        mended(&mut bytes);
        for bytes in [input, &bytes] {
            let disk = Simulated::new(1);
            disk.plant("7.commands", bytes.to_vec());
            let (_, found) = Journal::open(disk);
            let mut desk = Caller::new();
            desk.recover(found.entries);
            desk.call_for("ping", Bytes::new());
        }
    };
    run("journal", &inputs, target);
}
