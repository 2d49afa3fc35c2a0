//! ADS1115 analogue inputs, through `ads1x1x`.

use ads1x1x::ic::{Ads1115, Resolution16Bit};
use ads1x1x::mode::OneShot;
use ads1x1x::{Ads1x1x, ChannelId, Error, TargetAddr, channel};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;

use crate::{About, Gauges, Missing, Reading, Resolution, Unit};

type Driver<I2C> = Ads1x1x<I2C, Ads1115, Resolution16Bit, OneShot>;

/// At 128 samples a second, the chip's default, a conversion takes 7.8 ms and
/// up to a tenth more.
const POLLS: u8 = 10;
const POLL_US: u32 = 1_000;

const fn input(name: &'static str) -> About<'static> {
    About {
        name,
        unit: Unit::Volt,
        // 2.048 V in 32768 steps of 62.5 µV.
        resolution: Resolution::one_in(16_000),
        // Single-ended inputs read a little below zero from offset alone. The
        // last step of the range may be any voltage beyond it.
        least: -32_767,
        most: 32_766,
    }
}

const INPUTS: [About<'static>; 4] = [
    input("voltage.0"),
    input("voltage.1"),
    input("voltage.2"),
    input("voltage.3"),
];

/// The four inputs of an ADS1115 against ground, within 2.048 V. All four
/// together wait up to 40 ms.
pub struct Adc<I2C, D> {
    driver: Driver<I2C>,
    delay: D,
}

impl<I2C: I2c, D: DelayNs> Adc<I2C, D> {
    /// Touches nothing yet.
    pub fn new(bus: I2C, address: TargetAddr, delay: D) -> Self {
        Self {
            driver: Ads1x1x::new_ads1115(bus, address),
            delay,
        }
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.driver.destroy_ads1115()
    }

    /// Every conversion writes the whole configuration, range included, so a chip
    /// that lost power needs no special care.
    fn measure<C: ChannelId<Driver<I2C>>>(&mut self, at: usize, channel: fn() -> C) -> Reading {
        for _ in 0..POLLS {
            match self.driver.read(channel()) {
                Ok(steps) => return INPUTS[at & 3].check(i64::from(steps)),
                Err(nb::Error::WouldBlock) => self.delay.delay_us(POLL_US),
                Err(nb::Error::Other(error)) => return Err(missing(error)),
            }
        }
        Err(Missing::NotReady)
    }
}

impl<I2C: I2c, D: DelayNs> Gauges<4> for Adc<I2C, D> {
    fn about_all(&self) -> [About<'static>; 4] {
        INPUTS
    }

    fn read_all(&mut self) -> [Reading; 4] {
        [
            self.measure(0, || channel::SingleA0),
            self.measure(1, || channel::SingleA1),
            self.measure(2, || channel::SingleA2),
            self.measure(3, || channel::SingleA3),
        ]
    }
}

fn missing<E: embedded_hal::i2c::Error>(error: Error<E>) -> Missing {
    match error {
        Error::I2C(error) => error.kind().into(),
        Error::InvalidInputData => Missing::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use std::vec;
    use std::vec::Vec;

    const ADDRESS: u8 = 0x48;
    const IDLE: [u8; 2] = [0x85, 0x83];
    const BUSY: [u8; 2] = [0x05, 0x83];

    fn status(bits: [u8; 2]) -> Transaction {
        Transaction::write_read(ADDRESS, vec![1], bits.into())
    }

    /// One conversion that is done at the second look.
    fn conversion(input: u8, value: i16) -> Vec<Transaction> {
        [
            status(IDLE),
            Transaction::write(ADDRESS, vec![1, 0xC5 | input << 4, 0x83]),
            status(BUSY),
            status(IDLE),
            Transaction::write_read(ADDRESS, vec![0], value.to_be_bytes().into()),
        ]
        .into()
    }

    fn read_with(answers: &[Transaction]) -> [Reading; 4] {
        let mut gauge = Adc::new(Mock::new(answers), TargetAddr::Gnd, NoopDelay::new());
        let got = gauge.read_all();
        gauge.release().done();
        got
    }

    #[test]
    fn four_inputs_come_in_the_chips_own_steps() {
        let values = [16_000, -3, 0, 32_766];
        let answers: Vec<_> = (0..4)
            .flat_map(|n| conversion(n, values[usize::from(n)]))
            .collect();
        assert_eq!(read_with(&answers), values.map(|v| Ok(i32::from(v))));
        assert_eq!(INPUTS[0].resolution.value(16_000), 1.0);
    }

    #[test]
    fn an_input_beyond_the_range_is_garbage_and_a_bus_error_keeps_its_kind() {
        let mut answers = conversion(0, i16::MAX);
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        answers.push(status(IDLE).with_error(nack));
        answers.push(status(IDLE).with_error(ErrorKind::Bus));
        answers.extend(conversion(3, 5));
        assert_eq!(
            read_with(&answers),
            [
                Err(Missing::Garbage),
                Err(Missing::Gone),
                Err(Missing::Bus),
                Ok(5)
            ]
        );
    }

    #[test]
    fn a_chip_that_is_never_done_is_left_after_its_own_time() {
        let polls = usize::from(POLLS) * 4;
        let answers = vec![status(BUSY); polls];
        assert_eq!(read_with(&answers), [Err(Missing::NotReady); 4]);
    }
}
