//! SHTC1, SHTC3 and SHTW2 temperature and humidity sensors, through `shtcx`.

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use shtcx::sensor_class::Sht2Gen;
use shtcx::{Error, LowPower, PowerMode, ShtCx};

use crate::{About, Gauges, Missing, Reading, Resolution, Unit};

// The raw step is 175/65536 of a degree; its noise is ten times as wide (0.03
// degrees of repeatability in the SHTC3's data sheet), so a hundredth keeps
// all that is true.
const TEMPERATURE: About<'static> = About {
    name: "temperature",
    unit: Unit::Celsius,
    resolution: Resolution::one_in(100),
    least: -4_000,
    most: 12_500,
};
const HUMIDITY: About<'static> = About {
    name: "humidity",
    unit: Unit::Percent,
    resolution: Resolution::one_in(100),
    least: 0,
    most: 10_000,
};

/// Temperature and relative humidity, in that order, from an SHTC3, which
/// sleeps between readings. One reading waits up to 13 ms.
pub struct Climate<I2C, D> {
    driver: ShtCx<Sht2Gen, I2C>,
    delay: D,
}

impl<I2C: I2c, D: DelayNs> Climate<I2C, D> {
    /// Touches nothing yet.
    pub fn new(bus: I2C, delay: D) -> Self {
        Self {
            driver: shtcx::shtc3(bus),
            delay,
        }
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.driver.destroy()
    }

    fn measure(&mut self) -> Result<shtcx::Measurement, Missing> {
        self.driver.wakeup(&mut self.delay).map_err(missing)?;
        let measured = self.driver.measure(PowerMode::NormalMode, &mut self.delay);
        // A sensor that will not sleep costs power, not truth.
        let _ = self.driver.sleep();
        measured.map_err(missing)
    }
}

impl<I2C: I2c, D: DelayNs> Gauges<2> for Climate<I2C, D> {
    fn about_all(&self) -> [About<'static>; 2] {
        [TEMPERATURE, HUMIDITY]
    }

    fn read_all(&mut self) -> [Reading; 2] {
        match self.measure() {
            Ok(measured) => [
                TEMPERATURE.check(hundredths(measured.temperature.as_millidegrees_celsius())),
                HUMIDITY.check(hundredths(measured.humidity.as_millipercent())),
            ],
            Err(missing) => [Err(missing); 2],
        }
    }
}

/// Rounds thousandths to the nearest hundredth.
fn hundredths(thousandths: i32) -> i64 {
    let half = if thousandths < 0 { -5 } else { 5 };
    (i64::from(thousandths) + half) / 10
}

fn missing<E: embedded_hal::i2c::Error>(error: Error<E>) -> Missing {
    match error {
        Error::I2c(error) => error.kind().into(),
        Error::Crc => Missing::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use std::vec::Vec;

    const ADDRESS: u8 = 0x70;

    fn write(bytes: [u8; 2]) -> Transaction {
        Transaction::write(ADDRESS, bytes.into())
    }

    /// Wake, measure with the temperature first, answer, sleep.
    fn round(answer: [u8; 6]) -> Vec<Transaction> {
        [
            write([0x35, 0x17]),
            write([0x78, 0x66]),
            Transaction::read(ADDRESS, answer.into()),
            write([0xB0, 0x98]),
        ]
        .into()
    }

    fn read_with(answers: &[Transaction]) -> [Reading; 2] {
        let mut gauge = Climate::new(Mock::new(answers), NoopDelay::new());
        let got = gauge.read_all();
        gauge.release().done();
        got
    }

    #[test]
    fn temperature_and_humidity_come_in_hundredths() {
        // The example of the data sheet, section 5.11, with its checksums.
        let answer = [0x64, 0x8B, 0xC7, 0xA1, 0x33, 0x1C];
        assert_eq!(read_with(&round(answer)), [Ok(2_373), Ok(6_297)]);
    }

    #[test]
    fn a_wrong_checksum_is_garbage_for_both() {
        let answer = [0x64, 0x8B, 0xC8, 0xA1, 0x33, 0x1C];
        assert_eq!(read_with(&round(answer)), [Err(Missing::Garbage); 2]);
    }

    #[test]
    fn a_sensor_that_does_not_wake_is_gone_and_one_that_stops_halfway_refuses() {
        let nack = |source| ErrorKind::NoAcknowledge(source);
        let silent = [write([0x35, 0x17]).with_error(nack(NoAcknowledgeSource::Address))];
        assert_eq!(read_with(&silent), [Err(Missing::Gone); 2]);
        let mut halfway = round([0; 6]);
        halfway[1] = write([0x78, 0x66]).with_error(nack(NoAcknowledgeSource::Data));
        halfway.remove(2);
        assert_eq!(read_with(&halfway), [Err(Missing::Refused); 2]);
    }
}
