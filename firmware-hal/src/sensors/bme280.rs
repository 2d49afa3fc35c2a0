//! BME280 and BMP280 on I2C or SPI, through `bme280`.
//!
//! Only the driver's I2C side is used, on SPI too: the registers are the same
//! there, and its SPI side (0.5.1) takes the byte that comes in while the
//! register's number goes out for the register's first.
//!
//! The chip is identified and configured anew for every reading. One that lost
//! its power meanwhile would go on with its own defaults, which measure nothing
//! and leave numbers that look like a warm day; and on SPI nothing else tells
//! whether a chip is there at all. It costs 3 ms beside a measurement of 40.

use bme280::i2c::BME280;
use bme280::{Configuration, Error, Oversampling};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{self, I2c, Operation};
use embedded_hal::spi::{self, SpiDevice};

use crate::{About, Gauges, Missing, Reading, Resolution, Unit};

const ID: u8 = 0xD0;
const BME280_ID: u8 = 0x60;
const BMP280_ID: u8 = 0x58;

/// What the chip should measure, and that it has done so and sleeps again.
const CONTROL: u8 = 0xF4;
const MEASURED: u8 = 0b0010_0100;

/// Pressure, temperature and humidity as measured; and what stands there for the
/// first two since the reset if the order to measure was lost.
const DATA: u8 = 0xF7;
const UNMEASURED: [u8; 6] = [0x80, 0, 0, 0x80, 0, 0];

/// Filter, pauses, and a bit that gives SPI another number of wires.
const CONFIG: u8 = 0xF5;

/// On SPI, the bit of a register's number that says what is to be done with it.
const SPI_READ: u8 = 0x80;

// The driver stops at the chip's limits, so a value there may be any beyond it:
// what stands still at 0 or 1 on an unplugged line ends up there.
const TEMPERATURE: About<'static> = About {
    name: "temperature",
    unit: Unit::Celsius,
    resolution: Resolution::one_in(100),
    least: -3_999,
    most: 8_499,
};
// A pascal is below the noise of a single measurement (3.3 Pa).
const PRESSURE: About<'static> = About {
    name: "pressure",
    unit: Unit::Pascal,
    resolution: Resolution::WHOLE,
    least: 30_001,
    most: 109_999,
};
// Both ends are true: air can be saturated, and dry beyond what is measured.
const HUMIDITY: About<'static> = About {
    name: "humidity",
    unit: Unit::Percent,
    resolution: Resolution::one_in(100),
    least: 0,
    most: 10_000,
};

/// Temperature, pressure and relative humidity, in that order, from a BME280;
/// a BMP280 has no humidity, which is [`Missing::Gone`] then. It sleeps between
/// readings; one waits 42 ms.
pub struct Barometer<B, D> {
    bus: B,
    delay: D,
}

/// A chip's registers, wherever they are.
pub trait Registers {
    /// Reads from `register` on.
    fn read(&mut self, register: u8, into: &mut [u8]) -> Result<(), Missing>;

    /// Writes one.
    fn write(&mut self, register: u8, value: u8) -> Result<(), Missing>;
}

/// A [`Barometer`] on I2C.
pub struct OnI2c<I2C> {
    bus: I2C,
    address: u8,
}

/// A [`Barometer`] on SPI: mode 0 or 3, up to 10 MHz.
pub struct OnSpi<SPI>(SPI);

impl<I2C: I2c, D: DelayNs> Barometer<OnI2c<I2C>, D> {
    /// At 0x76, or 0x77 where `second`. Touches nothing yet.
    pub fn on_i2c(bus: I2C, second: bool, delay: D) -> Self {
        let address = if second { 0x77 } else { 0x76 };
        let bus = OnI2c { bus, address };
        Self { bus, delay }
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.bus.bus
    }
}

impl<SPI: SpiDevice, D: DelayNs> Barometer<OnSpi<SPI>, D> {
    /// Touches nothing yet.
    pub fn on_spi(device: SPI, delay: D) -> Self {
        let bus = OnSpi(device);
        Self { bus, delay }
    }

    /// Gives the device back.
    pub fn release(self) -> SPI {
        self.bus.0
    }
}

impl<B: Registers, D: DelayNs> Gauges<3> for Barometer<B, D> {
    fn about_all(&self) -> [About<'static>; 3] {
        [TEMPERATURE, PRESSURE, HUMIDITY]
    }

    fn read_all(&mut self) -> [Reading; 3] {
        measure(&mut self.bus, &mut self.delay).unwrap_or_else(|missing| [Err(missing); 3])
    }
}

fn measure(bus: &mut dyn Registers, delay: &mut dyn DelayNs) -> Result<[Reading; 3], Missing> {
    let humid = match register(bus, ID)? {
        BME280_ID => true,
        BMP280_ID => false,
        // Nobody drives the line.
        0x00 | 0xFF => return Err(Missing::Gone),
        // Another chip.
        _ => return Err(Missing::Garbage),
    };
    let once = Configuration::default()
        .with_temperature_oversampling(Oversampling::Oversampling1X)
        .with_pressure_oversampling(Oversampling::Oversampling1X)
        .with_humidity_oversampling(Oversampling::Oversampling1X);
    let mut delay = delay;
    // The address says nothing to `Wire`.
    let mut driver = BME280::new_primary(Wire { bus, humid });
    driver.init_with_config(&mut delay, once).map_err(missing)?;
    let measured = driver.measure(&mut delay).map_err(missing)?;
    // Had it gone, or fallen back to its defaults, on the way, this would be another number.
    match register(bus, CONTROL)? {
        MEASURED => {}
        0x00 | 0xFF => return Err(Missing::Gone),
        _ => return Err(Missing::Garbage),
    }
    let temperature = steps(&TEMPERATURE, measured.temperature, 100.0);
    Ok([
        temperature,
        // Both are compensated with the temperature.
        temperature.and_then(|_| steps(&PRESSURE, measured.pressure, 1.0)),
        match humid {
            true => temperature.and_then(|_| steps(&HUMIDITY, measured.humidity, 100.0)),
            false => Err(Missing::Gone),
        },
    ])
}

/// Rounds to the nearest step.
fn steps(about: &About<'_>, value: f32, in_one: f32) -> Reading {
    if !value.is_finite() {
        return Err(Missing::Garbage);
    }
    let half = if value < 0.0 { -0.5 } else { 0.5 };
    about.check((value * in_one + half) as i64)
}

fn register(bus: &mut dyn Registers, register: u8) -> Result<u8, Missing> {
    let mut value = [0];
    bus.read(register, &mut value)?;
    let [value] = value;
    Ok(value)
}

fn missing(error: Error<Failed>) -> Missing {
    match error {
        Error::Bus(Failed(missing)) => missing,
        Error::CompensationFailed | Error::InvalidData | Error::UnsupportedChip => Missing::Garbage,
        Error::NoCalibrationData | Error::Delay => Missing::Other,
    }
}

impl<I2C: I2c> Registers for OnI2c<I2C> {
    fn read(&mut self, register: u8, into: &mut [u8]) -> Result<(), Missing> {
        let done = self.bus.write_read(self.address, &[register], into);
        done.map_err(|error| i2c::Error::kind(&error).into())
    }

    fn write(&mut self, register: u8, value: u8) -> Result<(), Missing> {
        let done = self.bus.write(self.address, &[register, value]);
        done.map_err(|error| i2c::Error::kind(&error).into())
    }
}

impl<SPI: SpiDevice> Registers for OnSpi<SPI> {
    fn read(&mut self, register: u8, into: &mut [u8]) -> Result<(), Missing> {
        let register = [register | SPI_READ];
        let mut both = [spi::Operation::Write(&register), spi::Operation::Read(into)];
        let done = self.0.transaction(&mut both);
        done.map_err(|error| spi::Error::kind(&error).into())
    }

    fn write(&mut self, register: u8, value: u8) -> Result<(), Missing> {
        let done = self.0.write(&[register & !SPI_READ, value]);
        done.map_err(|error| spi::Error::kind(&error).into())
    }
}

/// The registers as the driver wants them: behind an I2C bus.
struct Wire<'a> {
    bus: &'a mut dyn Registers,
    /// A BMP280 has nothing where a BME280 has its humidity's calibration.
    humid: bool,
}

impl Wire<'_> {
    fn read(&mut self, register: u8, into: &mut [u8]) -> Result<(), Missing> {
        if register == CONFIG {
            // The driver writes back what it reads here. It is 0 after the reset, and
            // a disturbance must not come to stay.
            into.fill(0);
            return Ok(());
        }
        self.bus.read(register, into)?;
        // Neither a calibration nor a measurement is all the same: the line stood still.
        let telling = if self.humid { 2 } else { 8 };
        let still = |level: u8| into.iter().all(|byte| *byte == level);
        if into.len() >= telling && (still(0x00) || still(0xFF)) {
            return Err(Missing::Gone);
        }
        match into.starts_with(&UNMEASURED) && register == DATA {
            true => Err(Missing::NotReady),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Failed(Missing);

impl i2c::Error for Failed {
    fn kind(&self) -> i2c::ErrorKind {
        i2c::ErrorKind::Other
    }
}

impl i2c::ErrorType for Wire<'_> {
    type Error = Failed;
}

impl I2c for Wire<'_> {
    fn transaction(
        &mut self,
        _address: u8,
        operations: &mut [Operation<'_>],
    ) -> Result<(), Failed> {
        match operations {
            [Operation::Write([register]), Operation::Read(into)] => self.read(*register, into),
            [Operation::Write([register, value])] => self.bus.write(*register, *value),
            // The driver does nothing else.
            _ => Err(Missing::Other),
        }
        .map_err(Failed)
    }
}

#[cfg(test)]
#[path = "bme280/tests.rs"]
mod tests;
