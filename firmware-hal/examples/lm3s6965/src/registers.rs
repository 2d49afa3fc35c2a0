//! The chip's registers: the only `unsafe` of the program. Addresses and bits
//! are those of the LM3S6965's data sheet; every access is one volatile word at
//! an address from the table below, which the chip maps for all privileged
//! code at all times.
#![allow(
    unsafe_code,
    reason = "registers are memory that the language does not know"
)]

const RCGC1: usize = 0x400F_E104;
const RCGC2: usize = 0x400F_E108;
const GPIO_A_AFSEL: usize = 0x4000_4420;
const GPIO_A_DEN: usize = 0x4000_451C;
const GPIO_B_AFSEL: usize = 0x4000_5420;
const GPIO_B_ODR: usize = 0x4000_550C;
const GPIO_B_DEN: usize = 0x4000_551C;
const UART0_DR: usize = 0x4000_C000;
const UART0_FR: usize = 0x4000_C018;
const UART0_IBRD: usize = 0x4000_C024;
const UART0_FBRD: usize = 0x4000_C028;
const UART0_LCRH: usize = 0x4000_C02C;
const UART0_CTL: usize = 0x4000_C030;
const I2C0_MSA: usize = 0x4002_0000;
const I2C0_MCS: usize = 0x4002_0004;
const I2C0_MDR: usize = 0x4002_0008;
const I2C0_MTPR: usize = 0x4002_000C;
const I2C0_MCR: usize = 0x4002_0020;
const SYSTICK_CSR: usize = 0xE000_E010;
const SYSTICK_RVR: usize = 0xE000_E014;
const SYSTICK_CVR: usize = 0xE000_E018;

/// The processor's clock after reset, as the emulator has it; the chip's
/// internal oscillator is 12 MHz within 30 %, so a board sets up its crystal.
const CLOCK_HZ: u32 = 12_500_000;

fn read(address: usize) -> u32 {
    // SAFETY: `address` is one of the constants above: mapped, aligned, a
    // register that nothing but this single-threaded program reads.
    unsafe { (address as *const u32).read_volatile() }
}

fn write(address: usize, value: u32) {
    // SAFETY: as for `read`; no register above makes the chip write memory.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Clocks, pins, UART0 at 115,200 baud, I2C0 at 100 kHz, a tick every millisecond.
pub fn start() {
    write(RCGC1, 1 << 12 | 1); // I2C0, UART0
    write(RCGC2, 0b11); // ports A, B
    let _ = read(RCGC2); // the clocks need three cycles
    write(GPIO_A_AFSEL, 0b0011);
    write(GPIO_A_DEN, 0b0011);
    write(GPIO_B_AFSEL, 0b1100);
    write(GPIO_B_ODR, 0b1000); // SDA
    write(GPIO_B_DEN, 0b1100);

    write(UART0_CTL, 0);
    write(UART0_IBRD, CLOCK_HZ / (16 * 115_200));
    write(
        UART0_FBRD,
        (CLOCK_HZ % (16 * 115_200) * 64 + 8 * 115_200) / (16 * 115_200),
    );
    write(UART0_LCRH, 0x70); // 8N1 with FIFOs
    write(UART0_CTL, 0x301); // on, sends and receives

    write(I2C0_MCR, 0x10); // master
    write(I2C0_MTPR, CLOCK_HZ / (20 * 100_000) - 1);

    write(SYSTICK_RVR, CLOCK_HZ / 1000 - 1);
    write(SYSTICK_CVR, 0);
    write(SYSTICK_CSR, 0b111); // processor clock, interrupt, on
}

/// Sleeps until the next interrupt.
pub fn wait() {
    // SAFETY: the instruction touches no register and no memory.
    unsafe { core::arch::asm!("wfi", options(nomem, nostack, preserves_flags)) }
}

/// The transmitter's FIFO has no room.
pub fn uart_full() -> bool {
    read(UART0_FR) & 1 << 5 != 0
}

/// Hands a byte to the transmitter.
pub fn uart_send(byte: u8) {
    write(UART0_DR, u32::from(byte));
}

/// The target of the next I2C bytes.
pub fn i2c_target(address: u8, reads: bool) {
    write(I2C0_MSA, u32::from(address) << 1 | u32::from(reads));
}

/// Starts what the bits of the control register say.
pub fn i2c_command(bits: u32) {
    write(I2C0_MCS, bits);
}

/// The bits of the status register.
pub fn i2c_status() -> u32 {
    read(I2C0_MCS)
}

/// The byte to send next.
pub fn i2c_put(byte: u8) {
    write(I2C0_MDR, u32::from(byte));
}

/// The byte received last.
pub fn i2c_get() -> u8 {
    read(I2C0_MDR) as u8
}
