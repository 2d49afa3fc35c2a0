//! The board's I2C master under embedded-hal 1.0.
//!
//! The emulated controller knows no repeated start, so a change of direction
//! is a stop and a start. That suits sensors that keep their register pointer,
//! such as this board's; with other masters on the bus it would not do.

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

use crate::registers;

const RUN: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 4;
const ACK: u32 = 8;

const BUSY: u32 = 1;
const ERROR: u32 = 2;
const ADDRESS_NACK: u32 = 4;
const DATA_NACK: u32 = 8;
const LOST: u32 = 16;

/// A byte takes 90 µs at 100 kHz, some hundred turns of the waiting loop; a
/// stretched clock gets a hundred times that, and then the bus is stuck.
const TURNS: u32 = 20_000;

/// I2C0. There is one; `main` makes it.
pub struct Bus;

impl ErrorType for Bus {
    type Error = ErrorKind;
}

impl I2c for Bus {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [Operation<'_>],
    ) -> Result<(), ErrorKind> {
        let mut before = None;
        let mut operations = operations.iter_mut().peekable();
        while let Some(operation) = operations.next() {
            let reads = matches!(operation, Operation::Read(_));
            let goes_on = operations
                .peek()
                .is_some_and(|next| matches!(next, Operation::Read(_)) == reads);
            let mut start = before != Some(reads);
            before = Some(reads);
            if start {
                registers::i2c_target(address, reads);
            }
            let bytes = match operation {
                Operation::Read(bytes) => bytes.len(),
                Operation::Write(bytes) => bytes.len(),
            };
            let mut step = |left: usize| {
                let last = left == 1 && !goes_on;
                let bits = RUN
                    | if start { START } else { 0 }
                    | if last { STOP } else { 0 }
                    | if reads && !last { ACK } else { 0 };
                start = false;
                run(bits)
            };
            // The controller cannot address a target without a byte.
            if bytes == 0 {
                return Err(ErrorKind::Other);
            }
            match operation {
                Operation::Write(bytes) => {
                    for (place, byte) in bytes.iter().enumerate() {
                        registers::i2c_put(*byte);
                        step(bytes.len().wrapping_sub(place))?;
                    }
                }
                Operation::Read(bytes) => {
                    let len = bytes.len();
                    for (place, byte) in bytes.iter_mut().enumerate() {
                        step(len.wrapping_sub(place))?;
                        *byte = registers::i2c_get();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Moves one byte. After an error the bus is free again.
fn run(bits: u32) -> Result<(), ErrorKind> {
    registers::i2c_command(bits);
    let mut turns = TURNS;
    while registers::i2c_status() & BUSY != 0 {
        turns = turns.saturating_sub(1);
        if turns == 0 {
            registers::i2c_command(STOP);
            return Err(ErrorKind::Bus);
        }
    }
    let status = registers::i2c_status();
    if status & ERROR == 0 {
        return Ok(());
    }
    // A lost arbitration leaves the bus to the winner. The emulator also says
    // so of a silent address, at the start of a transfer, and has no other
    // master that could win.
    if status & LOST != 0 {
        return Err(if bits & START != 0 {
            ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)
        } else {
            ErrorKind::ArbitrationLoss
        });
    }
    registers::i2c_command(STOP);
    Err(if status & ADDRESS_NACK != 0 {
        ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)
    } else if status & DATA_NACK != 0 {
        ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data)
    } else {
        ErrorKind::Bus
    })
}
