//! Hostile bytes against whatever decodes: seeded changes of a corpus, in this
//! process, on stable Rust. No instrumentation: speed and changes that mend
//! checksums stand in for it.
//!
//! Each target runs for some seconds with the tests; `SONDE_FUZZ_SECONDS=3600`
//! makes it an hour each, with a seed of its own unless `SONDE_FUZZ_SEED` gives
//! one. `tests/run --long` gives each a minute. What fails is written to
//! `target/fuzz/`, and `SONDE_FUZZ_REPLAY=FILE` with the target's test runs
//! that alone.
//!
//! The corpus is `agent/fuzz-corpus/TARGET/`; what once failed belongs there.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::clock::{Clock, ClockTrust};
use crate::otlp::json;
use crate::outbox::envelope;
use crate::spool::simulated::Dice;

const SECOND: u64 = 1_000_000_000;
/// Bytes that an input may grow to.
const LONGEST: usize = 256 * 1024;

/// Files of a target's corpus.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz-corpus")
        .join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs `target` on changed inputs until its time is up.
pub(crate) fn run(name: &str, corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    if let Some(file) = std::env::var_os("SONDE_FUZZ_REPLAY") {
        return target(&fs::read(file).unwrap());
    }
    let clock = Clock::new(ClockTrust::Always);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds: Option<u64> = number("SONDE_FUZZ_SECONDS");
    let seed = number("SONDE_FUZZ_SEED").unwrap_or(match seconds {
        Some(_) => clock.boot_ns(),
        None => 1,
    });
    let end = clock.boot_ns() + seconds.unwrap_or(2) * SECOND;
    let mut dice = Dice::new(seed);
    let mut executions = 0_u64;
    for input in corpus {
        attempt(name, input, &target);
    }
    while clock.boot_ns() < end {
        for _ in 0..64 {
            let input = changed(&mut dice, corpus);
            attempt(name, &input, &target);
            executions += 1;
        }
    }
    println!("{name}: {executions} executions, seed {seed}");
    assert!(executions > 0);
}

fn attempt(name: &str, input: &[u8], target: &impl Fn(&[u8])) {
    let Err(cause) = catch_unwind(AssertUnwindSafe(|| target(input))) else {
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}-{:08x}", crc32c::crc32c(input)));
    fs::write(&file, input).unwrap();
    // A test's thread is named like the test.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or(name);
    println!(
        "{name} failed; to repeat it alone: SONDE_FUZZ_REPLAY={} cargo test -p sonde-agent --lib -- --exact {test}",
        fs::canonicalize(&file).unwrap().display()
    );
    resume_unwind(cause);
}

/// One of the corpus, changed in one to eight places.
pub(crate) fn changed(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |dice: &mut Dice| corpus[dice.below(corpus.len() as u64) as usize].clone();
    let mut input = match corpus.is_empty() || dice.below(50) == 0 {
        true => (0..dice.below(400))
            .map(|_| dice.below(256) as u8)
            .collect(),
        false => pick(dice),
    };
    for _ in 0..=dice.below(8) {
        let len = input.len() as u64;
        let at = dice.below(len.max(1)) as usize;
        match dice.below(9) {
            0 if len > 0 => input[at] ^= 1 << dice.below(8),
            1 if len > 0 => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5) as usize],
            2 => input.truncate(at),
            3 => {
                let upto = (at + dice.below(64) as usize).min(input.len());
                input.drain(at.min(upto)..upto);
            }
            4 => {
                let bytes = (0..dice.below(32)).map(|_| dice.below(256) as u8);
                input.splice(
                    at.min(input.len())..at.min(input.len()),
                    bytes.collect::<Vec<u8>>(),
                );
            }
            5 => {
                // A length, a count, an offset.
                let number = [0, 1, 0xff, 0xffff, 98_304, 98_305, 0x7fff_ffff, 0xffff_ffff];
                let number: u32 = number[dice.below(8) as usize];
                for (place, byte) in input.iter_mut().skip(at).zip(number.to_le_bytes()) {
                    *place = byte;
                }
            }
            6 => {
                let upto = (at + dice.below(256) as usize).min(input.len());
                let part = input[at.min(upto)..upto].to_vec();
                let to = dice.below(len.max(1)) as usize;
                input.splice(to.min(input.len())..to.min(input.len()), part);
            }
            7 if !corpus.is_empty() => {
                let other = pick(dice);
                let from = dice.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ if len > 0 => input[at] = dice.below(256) as u8,
            _ => input.push(dice.below(256) as u8),
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn envelope() {
    let target = |input: &[u8]| {
        if let Ok(message) = envelope::decode(input) {
            let again = envelope::encode(&message);
            assert_eq!(envelope::decode(&again), Ok(message));
        }
    };
    run("envelope", &corpus("envelope"), target);
}

#[test]
fn otlp() {
    use crate::frame::Signal;
    use opentelemetry_proto::tonic::collector::{logs, metrics, trace};
    use prost::Message as _;

    let target = |input: &[u8]| {
        for signal in [Signal::Metrics, Signal::Traces, Signal::Logs] {
            let mut text = Vec::new();
            let mine = json::write(&mut text, signal, input).is_ok();
            if mine {
                let _: serde_json::Value = serde_json::from_slice(&text).unwrap();
            }
            let theirs = match signal {
                Signal::Metrics => metrics::v1::ExportMetricsServiceRequest::decode(input).is_ok(),
                Signal::Traces => trace::v1::ExportTraceServiceRequest::decode(input).is_ok(),
                _ => logs::v1::ExportLogsServiceRequest::decode(input).is_ok(),
            };
            // What a collector takes can be shown; groups alone are refused.
            assert!(mine || !theirs || text.is_empty(), "{signal:?}");
        }
        crate::cli::trace::fuzz(input);
    };
    run("otlp", &corpus("otlp"), target);
}
