//! A digital input as a gauge: a door contact, a float switch, a power-good line.

use embedded_hal::digital::InputPin;

use crate::{About, Gauge, Missing, Reading, Resolution, Unit};

const ABOUT: About<'static> = About {
    name: "level",
    unit: Unit::One,
    resolution: Resolution::WHOLE,
    least: 0,
    most: 1,
};

/// 1 while the pin is high, else 0.
pub struct Line<P> {
    pin: P,
}

impl<P: InputPin> Line<P> {
    /// Of this pin.
    pub fn new(pin: P) -> Self {
        Self { pin }
    }

    /// Gives the pin back.
    pub fn release(self) -> P {
        self.pin
    }
}

impl<P: InputPin> Gauge for Line<P> {
    fn about(&self) -> About<'static> {
        ABOUT
    }

    fn read(&mut self) -> Reading {
        match self.pin.is_high() {
            Ok(high) => Ok(i32::from(high)),
            Err(_) => Err(Missing::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedded_hal_mock::eh1::MockError;
    use embedded_hal_mock::eh1::digital::{Mock, State, Transaction};
    use std::io::ErrorKind;

    #[test]
    fn a_pin_is_0_or_1_and_one_that_cannot_be_read_is_neither() {
        let pin = Mock::new(&[
            Transaction::get(State::High),
            Transaction::get(State::Low),
            Transaction::get(State::High).with_error(MockError::Io(ErrorKind::NotConnected)),
        ]);
        let mut line = Line::new(pin);
        assert_eq!(line.read(), Ok(1));
        assert_eq!(line.read(), Ok(0));
        assert_eq!(line.read(), Err(Missing::Other));
        line.release().done();
    }
}
