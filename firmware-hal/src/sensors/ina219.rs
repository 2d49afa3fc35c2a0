//! INA219 power monitors, through `ina219`.
//!
//! The one adapter that links a panic path: the driver checks again, when it
//! writes the calibration, what its constructor has already refused. It cannot
//! be reached, which the compiler does not see.

use embedded_hal::i2c::I2c;
use ina219::SyncIna219;
use ina219::address::Address;
use ina219::calibration::{IntCalibration, MicroAmpere};
use ina219::errors::BusVoltageReadError;

use crate::{About, Gauges, Missing, Reading, Resolution, Unit};

/// The chip's arithmetic: one step of power is twenty of current (data sheet, 8.5.1).
const POWER_STEP: u32 = 20;

/// Voltage, current and power of a supply, in that order.
///
/// The calibration is written at the first reading and again after every
/// failed one: a chip that lost power comes back without it and would report
/// a current of 0.
pub struct PowerMonitor<I2C> {
    driver: SyncIna219<I2C, IntCalibration>,
    calibration: IntCalibration,
    about: [About<'static>; 3],
    calibrated: bool,
}

impl<I2C: I2c> PowerMonitor<I2C> {
    /// Touches nothing yet. `step_ua` is the resolution of the current in µA, a
    /// 32768th of the largest current or more; `shunt_uohm` the shunt's
    /// resistance in µΩ. `None` when the chip cannot be calibrated so, or a
    /// step is above 0.2 A.
    pub fn new(bus: I2C, address: Address, step_ua: u32, shunt_uohm: u32) -> Option<Self> {
        if step_ua > 200_000 {
            return None;
        }
        let calibration = IntCalibration::new(MicroAmpere(i64::from(step_ua)), shunt_uohm)?;
        let signed = |name, unit, numerator| {
            Some(About {
                name,
                unit,
                resolution: Resolution::new(numerator, 1_000_000)?,
                least: -32_768,
                most: 32_767,
            })
        };
        let voltage = About {
            name: "voltage",
            unit: Unit::Volt,
            resolution: Resolution::one_in(250),
            least: 0,
            // 32 V in steps of 4 mV.
            most: 8_000,
        };
        Some(Self {
            driver: SyncIna219::new_unchecked(bus, address, calibration),
            calibration,
            about: [
                voltage,
                signed("current", Unit::Ampere, step_ua)?,
                signed("power", Unit::Watt, step_ua.saturating_mul(POWER_STEP))?,
            ],
            calibrated: false,
        })
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.driver.destroy()
    }

    fn measure(&mut self) -> Result<[Reading; 3], Missing> {
        if !self.calibrated {
            self.driver.calibrate(self.calibration).map_err(bus)?;
            self.calibrated = true;
        }
        let voltage = self.driver.bus_voltage().map_err(|error| match error {
            BusVoltageReadError::I2cError(error) => bus(error),
            BusVoltageReadError::BusVoltageOutOfRange { .. } => Missing::Garbage,
        })?;
        if !voltage.is_conversion_ready() {
            return Err(Missing::NotReady);
        }
        let current = self.driver.current_raw().map_err(bus)?;
        // Read last: it clears the flag that says the values are new.
        let power = self.driver.power_raw().map_err(bus)?;
        let [of_voltage, of_current, of_power] = &self.about;
        let derived = |about: &About<'_>, bits: u16| {
            if voltage.has_math_overflowed() {
                return Err(Missing::Garbage);
            }
            about.check(i64::from(bits.cast_signed()))
        };
        Ok([
            of_voltage.check(i64::from(voltage.voltage_4mv())),
            derived(of_current, current.0),
            derived(of_power, power.0),
        ])
    }
}

impl<I2C: I2c> Gauges<3> for PowerMonitor<I2C> {
    fn about_all(&self) -> [About<'static>; 3] {
        self.about
    }

    fn read_all(&mut self) -> [Reading; 3] {
        match self.measure() {
            Ok(readings) => readings,
            Err(missing) => {
                // A measurement that is not done yet says nothing against the calibration.
                self.calibrated &= missing == Missing::NotReady;
                [Err(missing); 3]
            }
        }
    }
}

fn bus<E: embedded_hal::i2c::Error>(error: E) -> Missing {
    error.kind().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use std::vec;
    use std::vec::Vec;

    const READY: u16 = 2;
    const OVERFLOW: u16 = 1;

    fn register(number: u8, bits: u16) -> Transaction {
        Transaction::write_read(0x40, vec![number], bits.to_be_bytes().into())
    }

    fn calibrate() -> Transaction {
        // 0.04096 / (0.1 mA * 0.1 ohm) = 4096
        Transaction::write(0x40, vec![5, 0x10, 0x00])
    }

    fn read_with(answers: &[Transaction], rounds: usize) -> Vec<[Reading; 3]> {
        let address = Address::from_byte(0x40).unwrap();
        let mut gauge = PowerMonitor::new(Mock::new(answers), address, 100, 100_000).unwrap();
        let got = (0..rounds).map(|_| gauge.read_all()).collect();
        gauge.release().done();
        got
    }

    #[test]
    fn voltage_current_and_power_come_in_the_chips_own_steps() {
        let answers = [
            calibrate(),
            register(2, 3_000 << 3 | READY),
            register(4, (-1_500i16).cast_unsigned()),
            register(3, 900),
        ];
        assert_eq!(read_with(&answers, 1), [[Ok(3_000), Ok(-1_500), Ok(900)]]);
        let mut idle = Mock::new(&[]);
        let address = Address::from_byte(0x40).unwrap();
        let about = PowerMonitor::new(idle.clone(), address, 100, 100_000)
            .unwrap()
            .about_all();
        idle.done();
        let values = [3_000, -1_500, 900].into_iter().zip(about);
        let values: Vec<f64> = values.map(|(v, about)| about.resolution.value(v)).collect();
        assert_eq!(values, [12.0, -0.15, 1.8]);
    }

    #[test]
    fn an_overflow_in_the_chip_spoils_what_it_computed_and_not_the_voltage() {
        let answers = [
            calibrate(),
            register(2, 3_000 << 3 | READY | OVERFLOW),
            register(4, 5),
            register(3, 6),
        ];
        let garbage = Err(Missing::Garbage);
        assert_eq!(read_with(&answers, 1), [[Ok(3_000), garbage, garbage]]);
    }

    #[test]
    fn a_chip_that_vanished_is_calibrated_again_when_it_answers() {
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        let answers = [
            calibrate(),
            register(2, 0).with_error(nack),
            calibrate(),
            register(2, 3_000 << 3),
            register(2, 0xFFFF),
        ];
        let all = |missing| [Err(missing); 3];
        assert_eq!(
            read_with(&answers, 3),
            [
                all(Missing::Gone),
                all(Missing::NotReady),
                all(Missing::Garbage)
            ]
        );
    }

    #[test]
    fn a_calibration_that_the_chip_cannot_hold_is_refused() {
        let make = |step, shunt| {
            let address = Address::from_byte(0x40).unwrap();
            let mut bus = Mock::new(&[]);
            let made = PowerMonitor::new(bus.clone(), address, step, shunt).is_some();
            bus.done();
            made
        };
        assert!(make(100, 100_000));
        assert!(!make(0, 100_000));
        assert!(!make(u32::MAX, u32::MAX));
    }
}
