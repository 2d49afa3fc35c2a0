//! Why a reading is absent, in one byte that also travels on the wire.

use embedded_hal::i2c::{self, NoAcknowledgeSource};
use embedded_hal::spi;

/// Why a sensor gave no value. Never reported as 0 or NaN instead.
///
/// The discriminants are the codes of the wire format and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Missing {
    /// Nothing answers at its address.
    Gone = 1,
    /// It is there and did not take or give the data.
    Refused = 2,
    /// Another master won the bus.
    Arbitration = 3,
    /// Bytes came faster than the bus controller was served.
    Overrun = 4,
    /// The bus itself is in trouble: a stuck line, a stop in the wrong place.
    Bus = 5,
    /// It answered, but not with a value that can be true.
    Garbage = 6,
    /// It has no new value yet.
    NotReady = 7,
    /// The driver gave a reason that has no code here, or a newer sender did.
    Other = 255,
}

impl Missing {
    /// The byte that stands for it on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a byte from the wire stands for. An unknown one is [`Missing::Other`]:
    /// absence with a newer reason is still absence.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Missing::Gone,
            2 => Missing::Refused,
            3 => Missing::Arbitration,
            4 => Missing::Overrun,
            5 => Missing::Bus,
            6 => Missing::Garbage,
            7 => Missing::NotReady,
            _ => Missing::Other,
        }
    }
}

/// What an I2C driver's error means for the reading, by the kinds of
/// `embedded_hal::i2c::ErrorKind`.
impl From<i2c::ErrorKind> for Missing {
    fn from(kind: i2c::ErrorKind) -> Self {
        match kind {
            i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data) => Missing::Refused,
            // Drivers that cannot tell which byte went unanswered mostly met a silent address.
            i2c::ErrorKind::NoAcknowledge(_) => Missing::Gone,
            i2c::ErrorKind::ArbitrationLoss => Missing::Arbitration,
            i2c::ErrorKind::Overrun => Missing::Overrun,
            i2c::ErrorKind::Bus => Missing::Bus,
            _ => Missing::Other,
        }
    }
}

/// The same for SPI, which cannot tell an absent sensor from a silent one.
impl From<spi::ErrorKind> for Missing {
    fn from(kind: spi::ErrorKind) -> Self {
        match kind {
            spi::ErrorKind::Overrun => Missing::Overrun,
            spi::ErrorKind::ModeFault => Missing::Arbitration,
            spi::ErrorKind::FrameFormat | spi::ErrorKind::ChipSelectFault => Missing::Bus,
            _ => Missing::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_i2c_error_keeps_its_own_name() {
        let of = Missing::from;
        let nack = |source| of(i2c::ErrorKind::NoAcknowledge(source));
        assert_eq!(nack(NoAcknowledgeSource::Address), Missing::Gone);
        assert_eq!(nack(NoAcknowledgeSource::Unknown), Missing::Gone);
        assert_eq!(nack(NoAcknowledgeSource::Data), Missing::Refused);
        assert_eq!(of(i2c::ErrorKind::ArbitrationLoss), Missing::Arbitration);
        assert_eq!(of(i2c::ErrorKind::Overrun), Missing::Overrun);
        assert_eq!(of(i2c::ErrorKind::Bus), Missing::Bus);
        assert_eq!(of(i2c::ErrorKind::Other), Missing::Other);
    }

    #[test]
    fn every_code_comes_back_and_unknown_ones_are_other() {
        for code in 0..=255 {
            let missing = Missing::from_code(code);
            if missing == Missing::Other {
                assert!(!(1..=7).contains(&code), "{code}");
            } else {
                assert_eq!(missing.code(), code);
            }
        }
    }
}
