//! A thermometer that reports to a gateway: reads the board's TMP105 ten times
//! a second, sends a frame every second over UART0, and says what it measures
//! at the start and every minute.
//!
//! Runs in `qemu-system-arm -M lm3s6965evb -device tmp105,address=0x48`. There
//! is no panic path: the handler below is never linked.

#![no_std]
#![no_main]

mod i2c;
mod registers;

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m_rt::{entry, exception};
use sonde_firmware_hal::sensors::Thermometer;
use sonde_firmware_hal::wire::{Encoder, GaugeId, Refused};
use sonde_firmware_hal::{Gauge, Reading, SampleRing};
use tmp1x2::SlaveAddr;

const SAMPLE_EVERY_MS: u32 = 100;
const SEND_EVERY_MS: u32 = 1_000;
const DESCRIBE_EVERY: u32 = 60;

const SOURCE: u8 = 1;
const TEMPERATURE: Option<GaugeId> = GaugeId::new(0);

/// Milliseconds since the start, in 32 bits: this core has no 64-bit atomics.
static TICKS: AtomicU32 = AtomicU32::new(0);

#[entry]
fn main() -> ! {
    registers::start();
    let mut thermometer = Thermometer::new(i2c::Bus, SlaveAddr::Default);
    let mut samples = SampleRing::<(u64, Reading), 16>::new();
    let mut encoder = Encoder::new(SOURCE);
    let mut clock = Uptime::default();
    let (mut sampled, mut sent, mut frames) = (clock.ticks(), clock.ticks(), 0u32);

    // Ends whatever noise the line had before.
    send(&[0]);
    loop {
        let now = clock.ticks();
        if now.wrapping_sub(sampled) >= SAMPLE_EVERY_MS {
            sampled = sampled.wrapping_add(SAMPLE_EVERY_MS);
            samples.push((clock.ms(), thermometer.read()));
        }
        if now.wrapping_sub(sent) >= SEND_EVERY_MS {
            sent = sent.wrapping_add(SEND_EVERY_MS);
            if frames == 0 {
                frames = DESCRIBE_EVERY;
                describe(&mut encoder, clock.ms(), &thermometer);
            }
            report(&mut encoder, &mut samples);
            frames = frames.wrapping_sub(1);
        }
        registers::wait();
    }
}

/// Sends all samples, in as many frames as they need.
fn report<const N: usize>(encoder: &mut Encoder, samples: &mut SampleRing<(u64, Reading), N>) {
    let Some(gauge) = TEMPERATURE else { return };
    encoder.lost(samples.overruns());
    while let Some((at_ms, reading)) = samples.peek().copied() {
        match encoder.push(at_ms, gauge, reading) {
            Err(Refused::Full) => send(encoder.finish()),
            Ok(()) | Err(Refused::Name) => {
                samples.pop();
            }
        }
    }
    send(encoder.finish());
}

fn describe(encoder: &mut Encoder, at_ms: u64, gauge: &impl Gauge) {
    if let Some(id) = TEMPERATURE {
        // Refused only for a name that is not one; the adapter's is.
        let _ = encoder.describe(at_ms, id, &gauge.about());
        send(encoder.finish());
    }
}

fn send(bytes: &[u8]) {
    for byte in bytes {
        while registers::uart_full() {}
        registers::uart_send(*byte);
    }
}

/// Makes 64 bits of the tick counter's 32, which wraps after 49 days.
#[derive(Default)]
struct Uptime {
    low: u32,
    high: u32,
}

impl Uptime {
    fn ticks(&self) -> u32 {
        TICKS.load(Ordering::Relaxed)
    }

    /// Right when asked at least once in 49 days.
    fn ms(&mut self) -> u64 {
        let now = self.ticks();
        if now < self.low {
            self.high = self.high.wrapping_add(1);
        }
        self.low = now;
        u64::from(self.high) << 32 | u64::from(now)
    }
}

#[exception]
fn SysTick() {
    // The only writer, so a load and a store cannot lose a tick.
    TICKS.store(
        TICKS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

#[panic_handler]
fn never(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
