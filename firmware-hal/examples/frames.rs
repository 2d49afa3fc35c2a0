//! Decodes a serial line from standard input and prints what it carries.
//!
//! `socat -u UNIX-CONNECT:uart.sock - | cargo run -p sonde-firmware-hal --example frames`

use std::io::{BufReader, Read, stdin};

use sonde_firmware_hal::wire::{Body, Decoder, GAUGES, SeqWatch};
use sonde_firmware_hal::{Resolution, Unit};

fn main() {
    let mut decoder = Decoder::new();
    let mut watch = SeqWatch::new();
    let mut about = [(Resolution::WHOLE, Unit::One); GAUGES];
    for byte in BufReader::new(stdin()).bytes() {
        let Ok(byte) = byte else { break };
        let Some(frame) = decoder.feed(byte) else {
            continue;
        };
        println!(
            "frame {} of source {}: {:?}, lost {}",
            frame.seq,
            frame.source,
            watch.saw(&frame),
            frame.lost
        );
        match frame.body {
            Body::Descriptions(all) => {
                for described in all {
                    let place = usize::from(described.gauge.number());
                    about[place] = (described.about.resolution, described.about.unit);
                    println!("  {described:?}");
                }
            }
            Body::Readings(all) => {
                for sample in all {
                    let (resolution, unit) = about[usize::from(sample.gauge.number())];
                    match sample.reading {
                        Ok(steps) => println!(
                            "  {} ms: {} {}",
                            sample.at_ms,
                            resolution.value(steps),
                            unit.ucum()
                        ),
                        Err(missing) => println!("  {} ms: {missing:?}", sample.at_ms),
                    }
                }
            }
        }
    }
    println!("{:?}", decoder.counts());
}
