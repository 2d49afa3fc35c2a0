//! The part of Sonde that also runs on a microcontroller: `no_std`, no
//! allocation, no panic path.
//!
//! A program for a microcontroller reads its sensors through [`Gauge`] or
//! [`Gauges`], keeps readings in a [`SampleRing`] or condenses them in a
//! [`Window`], and sends them with [`wire::Encoder`]. The gateway takes the
//! bytes apart with [`wire::Decoder`]. Values are whole steps of the sensor's
//! own [`Resolution`], never floats: what arrives is what was measured. A
//! sensor that gives no value gives a [`Missing`], never 0.
//!
//! Features, all off by default, add adapters for sensor drivers from
//! crates.io: `tmp1x2`, `shtcx`, `ina219`, `ads1x1x`, `bme280` (see `sensors`).

#![no_std]

#[cfg(test)]
extern crate std;

mod gauge;
mod line;
mod missing;
mod ring;
#[cfg(any(
    feature = "ads1x1x",
    feature = "bme280",
    feature = "ina219",
    feature = "shtcx",
    feature = "tmp1x2"
))]
pub mod sensors;
mod window;
pub mod wire;

pub use gauge::{About, Gauge, Gauges, Reading, Resolution, Unit};
pub use line::Line;
pub use missing::Missing;
pub use ring::SampleRing;
pub use window::{Summary, Window};
