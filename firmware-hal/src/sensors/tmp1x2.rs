//! TMP102, TMP112 and the many that share their registers, through `tmp1x2`.

use embedded_hal::i2c::I2c;
use tmp1x2::marker::mode::Continuous;
use tmp1x2::{ConversionRate, Error, SlaveAddr, Tmp1x2};

use crate::{About, Gauge, Missing, Reading, Resolution, Unit};

/// Steps in a degree. The sensor has 12 bits of a sixteenth each.
const STEPS: u16 = 16;

const ABOUT: About<'static> = About {
    name: "temperature",
    unit: Unit::Celsius,
    resolution: Resolution::one_in(STEPS as u32),
    // What the data sheet gives as the specified range: -55 to 125 degrees.
    least: -55 * STEPS as i32,
    most: 125 * STEPS as i32,
};

/// A thermometer that measures on its own, four times a second.
///
/// It is configured at the first reading and again after every failed one: a
/// sensor that lost power comes back with its own defaults.
pub struct Thermometer<I2C: I2c> {
    driver: Tmp1x2<I2C, Continuous>,
    configured: bool,
}

impl<I2C: I2c> Thermometer<I2C> {
    /// Touches nothing yet.
    pub fn new(bus: I2C, address: SlaveAddr) -> Self {
        Self {
            driver: Tmp1x2::new(bus, address),
            configured: false,
        }
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.driver.destroy()
    }

    fn measure(&mut self) -> Reading {
        if !self.configured {
            self.driver
                .set_conversion_rate(ConversionRate::_4Hz)
                .map_err(missing)?;
            self.configured = true;
        }
        let degrees = self.driver.read_temperature().map_err(missing)?;
        // The driver's float is a whole number of sixteenths below 2^16, so this is exact.
        ABOUT.check((degrees * f32::from(STEPS)) as i64)
    }
}

impl<I2C: I2c> Gauge for Thermometer<I2C> {
    fn about(&self) -> About<'static> {
        ABOUT
    }

    fn read(&mut self) -> Reading {
        let reading = self.measure();
        self.configured = reading.is_ok();
        reading
    }
}

fn missing<E: embedded_hal::i2c::Error>(error: Error<E>) -> Missing {
    let Error::I2C(error) = error;
    error.kind().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use std::vec;

    const CONFIGURE: [u8; 3] = [1, 0x60, 0xA0];

    fn read_with(answers: &[Transaction], readings: usize) -> std::vec::Vec<Reading> {
        let mut gauge = Thermometer::new(Mock::new(answers), SlaveAddr::Default);
        let got = (0..readings).map(|_| gauge.read()).collect();
        gauge.release().done();
        got
    }

    fn configure() -> Transaction {
        Transaction::write(0x48, CONFIGURE.into())
    }

    fn temperature(register: [u8; 2]) -> Transaction {
        Transaction::write_read(0x48, vec![0], register.into())
    }

    #[test]
    fn degrees_come_in_sixteenths_on_both_sides_of_zero() {
        let answers = [
            configure(),
            temperature([0x1F, 0x80]),
            temperature([0xFF, 0xF0]),
        ];
        assert_eq!(read_with(&answers, 2), [Ok(504), Ok(-1)]);
        assert_eq!(ABOUT.resolution.value(504), 31.5);
    }

    #[test]
    fn a_silent_sensor_is_gone_and_is_configured_anew_when_it_answers() {
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        let answers = [
            configure().with_error(nack),
            configure(),
            temperature([0x1F, 0x80]).with_error(ErrorKind::ArbitrationLoss),
            configure(),
            temperature([0x1F, 0x80]),
        ];
        assert_eq!(
            read_with(&answers, 3),
            [Err(Missing::Gone), Err(Missing::Arbitration), Ok(504)]
        );
    }

    #[test]
    fn a_temperature_that_no_sensor_of_this_kind_can_have_is_garbage() {
        let answers = [configure(), temperature([0x80, 0x00])];
        assert_eq!(read_with(&answers, 1), [Err(Missing::Garbage)]);
    }
}
