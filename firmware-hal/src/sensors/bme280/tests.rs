//! Promises of a barometer, kept against a chip of registers and against bytes.

use super::*;
use core::cell::RefCell;
use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::delay::NoopDelay;
use embedded_hal_mock::eh1::spi::{Mock, Transaction};
use std::rc::Rc;
use std::vec::Vec;

/// The example of the BMP280's data sheet, section 3.12, and a BME280's humidity.
const CALIBRATION: [i32; 12] = [
    27_504, 26_435, -1_000, 36_477, -10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000,
];
const HUMID: [u8; 7] = [
    0x63, 0x01, // H2 = 355
    0x00, // H3
    0x14, 0x2E, // H4 = 334 and the low bits of
    0x03, // H5 = 50
    0x1E, // H6 = 30
];
const RAW: [u8; 8] = [0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x75, 0x30];
const SKIPPED: [u8; 8] = [0x80, 0, 0, 0x80, 0, 0, 0x80, 0];

/// A chip of registers on both buses; clones are the same chip.
#[derive(Clone)]
struct Chip(Rc<RefCell<Inside>>);

struct Inside {
    registers: [u8; 256],
    raw: [u8; 8],
    /// Before this access, this happens.
    then: Option<(usize, Then)>,
    accesses: usize,
    line: Option<u8>,
    silent: bool,
}

#[derive(Clone, Copy)]
enum Then {
    /// Whatever is read is this: the line stands still.
    Line(u8),
    /// The same, for this access only.
    Glitch(u8),
    /// It does not acknowledge.
    Silent,
    /// The power is gone for a moment.
    PowerLoss,
}

impl Chip {
    fn new(id: u8) -> Self {
        let mut registers = [0; 256];
        for (at, value) in CALIBRATION.iter().enumerate() {
            let [low, high, ..] = value.to_le_bytes();
            registers[0x88 + 2 * at] = low;
            registers[0x89 + 2 * at] = high;
        }
        registers[0xA1] = 75;
        registers[0xE1..0xE8].copy_from_slice(&HUMID);
        registers[usize::from(ID)] = id;
        let mut inside = Inside {
            registers,
            raw: RAW,
            then: None,
            accesses: 0,
            line: None,
            silent: false,
        };
        inside.reset();
        Self(Rc::new(RefCell::new(inside)))
    }

    fn access(&self) -> Result<(), ErrorKind> {
        let mut chip = self.0.borrow_mut();
        let now = chip.accesses;
        chip.accesses += 1;
        if let Some((when, Then::Glitch(level))) = chip.then {
            chip.line = (when == now).then_some(level);
        }
        match chip.then {
            Some((when, Then::Line(level))) if when <= now => chip.line = Some(level),
            Some((when, Then::Silent)) if when <= now => chip.silent = true,
            Some((when, Then::PowerLoss)) if when == now => chip.reset(),
            _ => {}
        }
        match chip.silent {
            true => Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)),
            false => Ok(()),
        }
    }
}

impl Inside {
    fn reset(&mut self) {
        self.registers[0xF2..0xF6].fill(0);
        self.registers[0xF7..0xFF].copy_from_slice(&SKIPPED);
    }

    fn read(&self, from: u8, into: &mut [u8]) {
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = self.line.unwrap_or(self.registers[usize::from(from) + at]);
        }
    }

    fn write(&mut self, register: u8, value: u8) {
        match (register, value) {
            _ if self.line.is_some() => {}
            (0xE0, 0xB6) => self.reset(),
            (0xE0, _) => {}
            // Forced: one measurement, then it sleeps.
            (0xF4, value) if value & 3 == 1 => {
                self.registers[0xF4] = value & !3;
                let data = if value & !3 == 0 { SKIPPED } else { self.raw };
                self.registers[0xF7..0xFF].copy_from_slice(&data);
            }
            (register, value) => self.registers[usize::from(register)] = value,
        }
    }
}

impl i2c::ErrorType for Chip {
    type Error = ErrorKind;
}

impl I2c for Chip {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [Operation<'_>],
    ) -> Result<(), ErrorKind> {
        assert_eq!(address, 0x77);
        self.access()?;
        let mut chip = self.0.borrow_mut();
        match operations {
            [Operation::Write([from]), Operation::Read(into)] => chip.read(*from, into),
            [Operation::Write([register, value])] => chip.write(*register, *value),
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

/// The same chip on the other bus.
#[derive(Clone)]
struct Spi(Chip);

impl spi::ErrorType for Spi {
    type Error = spi::ErrorKind;
}

impl SpiDevice for Spi {
    fn transaction(
        &mut self,
        operations: &mut [spi::Operation<'_, u8>],
    ) -> Result<(), spi::ErrorKind> {
        self.0.access().map_err(|_| spi::ErrorKind::Other)?;
        let mut chip = self.0.0.borrow_mut();
        match operations {
            [spi::Operation::Write([from]), spi::Operation::Read(into)] => {
                assert!(from & 0x80 != 0, "a write of {from:02x}");
                chip.read(*from, into);
            }
            // All registers are above 0x80, so the bit comes back.
            [spi::Operation::Write([register, value])] => {
                assert!(register & 0x80 == 0, "a read of {register:02x}");
                chip.write(register | 0x80, *value);
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

fn on_i2c(chip: &Chip) -> [Reading; 3] {
    Barometer::on_i2c(chip.clone(), true, NoopDelay::new()).read_all()
}

fn on_spi(chip: &Chip) -> [Reading; 3] {
    Barometer::on_spi(Spi(chip.clone()), NoopDelay::new()).read_all()
}

const GONE: [Reading; 3] = [Err(Missing::Gone); 3];
/// What the data sheet makes of its example: 25.08 °C, 1006.53 hPa.
const FINE: [Reading; 3] = [Ok(2_508), Ok(100_653), Ok(4_661)];

#[test]
fn the_data_sheets_example_comes_out_on_both_buses() {
    let chip = Chip::new(BME280_ID);
    assert_eq!(on_i2c(&chip), FINE);
    assert_eq!(on_spi(&chip), FINE);
}

#[test]
fn a_bmp280_has_no_humidity() {
    let [temperature, pressure, _] = FINE;
    let wanted = [temperature, pressure, Err(Missing::Gone)];
    assert_eq!(on_spi(&Chip::new(BMP280_ID)), wanted);
    assert_eq!(on_i2c(&Chip::new(BMP280_ID)), wanted);
}

#[test]
fn frost_is_below_zero() {
    let chip = Chip::new(BME280_ID);
    chip.0.borrow_mut().raw = [0x65, 0x5A, 0xC0, 0x5C, 0xC6, 0x00, 0x69, 0x78];
    assert_eq!(on_i2c(&chip), [Ok(-1_897), Ok(93_971), Ok(3_061)]);
}

#[test]
fn an_unplugged_line_is_gone_whatever_level_it_keeps_and_whenever_it_goes() {
    for level in [0x00, 0xFF] {
        for when in 0.. {
            let chip = Chip::new(BME280_ID);
            chip.0.borrow_mut().then = Some((when, Then::Line(level)));
            let got = on_spi(&chip);
            if chip.0.borrow().accesses <= when {
                assert_eq!(got, FINE);
                break;
            }
            for reading in got {
                let absent = matches!(reading, Err(Missing::Gone | Missing::Garbage));
                assert!(absent, "{level:02x} from access {when} on: {got:?}");
            }
            assert!(when > 0 || got == GONE);
        }
    }
}

#[test]
fn a_line_that_stands_still_for_a_moment_gives_no_wrong_reading() {
    for (id, level) in [
        (BME280_ID, 0x00),
        (BME280_ID, 0xFF),
        (BMP280_ID, 0x00),
        (BMP280_ID, 0xFF),
    ] {
        let fine = on_spi(&Chip::new(id));
        for when in 0.. {
            let chip = Chip::new(id);
            chip.0.borrow_mut().then = Some((when, Then::Glitch(level)));
            let got = on_spi(&chip);
            if chip.0.borrow().accesses <= when {
                break;
            }
            let absent = got.iter().all(|reading| reading.is_err());
            assert!(
                absent || got == fine,
                "{level:02x} at access {when}: {got:?}"
            );
            assert_eq!(on_spi(&chip), fine, "it does not last");
        }
    }
}

#[test]
fn a_chip_that_lost_its_power_gives_no_reading_of_its_defaults() {
    for when in 0.. {
        let chip = Chip::new(BME280_ID);
        chip.0.borrow_mut().then = Some((when, Then::PowerLoss));
        let got = on_spi(&chip);
        if chip.0.borrow().accesses <= when {
            break;
        }
        let fine = got == FINE || got.iter().all(|reading| reading.is_err());
        assert!(fine, "power lost before access {when}: {got:?}");
        // The next one is good.
        assert_eq!(on_spi(&chip), FINE);
    }
}

#[test]
fn a_silent_chip_is_gone_and_comes_back() {
    let chip = Chip::new(BME280_ID);
    for when in 0..6 {
        {
            let mut inside = chip.0.borrow_mut();
            (inside.accesses, inside.silent) = (0, false);
            inside.then = Some((when, Then::Silent));
        }
        assert_eq!(on_i2c(&chip), GONE, "at access {when}");
    }
    let mut inside = chip.0.borrow_mut();
    (inside.then, inside.silent) = (None, false);
    drop(inside);
    assert_eq!(on_i2c(&chip), FINE);
}

#[test]
fn another_chip_is_garbage_and_a_blank_calibration_is_nobody() {
    assert_eq!(on_i2c(&Chip::new(0x61)), [Err(Missing::Garbage); 3]);
    for fill in [0x00, 0xFF] {
        let chip = Chip::new(BME280_ID);
        {
            let mut inside = chip.0.borrow_mut();
            inside.registers[0x88..0xA2].fill(fill);
            inside.registers[0xE1..0xE8].fill(fill);
        }
        assert_eq!(on_spi(&chip), GONE, "{fill:02x}");
    }
}

#[test]
fn no_calibration_and_no_raw_value_is_beyond_the_driver() {
    // Bytes from a little generator: whatever comes, nothing panics, and what
    // comes out is within the range that the gauges promise.
    let mut seed = 0x2545_F491_u32;
    let mut byte = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed.to_le_bytes()[1]
    };
    for _ in 0..20_000 {
        let chip = Chip::new(BME280_ID);
        {
            let mut inside = chip.0.borrow_mut();
            inside.registers[0x88..0xA2].fill_with(&mut byte);
            inside.registers[0xE1..0xE8].fill_with(&mut byte);
            inside.raw.fill_with(&mut byte);
        }
        for (reading, about) in on_i2c(&chip)
            .into_iter()
            .zip([TEMPERATURE, PRESSURE, HUMIDITY])
        {
            if let Ok(value) = reading {
                assert!((about.least..=about.most).contains(&value));
            }
        }
    }
}

#[test]
fn the_first_bytes_on_spi_ask_who_is_there() {
    let ask = |answer: u8| {
        [
            Transaction::transaction_start(),
            Transaction::write(0xD0),
            Transaction::read_vec([answer].into()),
            Transaction::transaction_end(),
        ]
    };
    let answers: Vec<_> = [0xFF, 0x00].into_iter().flat_map(ask).collect();
    let mut gauge = Barometer::on_spi(Mock::new(&answers), NoopDelay::new());
    assert_eq!(gauge.read_all(), GONE);
    assert_eq!(gauge.read_all(), GONE);
    gauge.release().done();
}
