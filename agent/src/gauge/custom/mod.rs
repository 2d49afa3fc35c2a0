//! Gauges that the config describes: `[gauge.NAME]`.
//!
//! A number comes from a file, from what a program prints, or from a local
//! program that pushes it through the door. [`definition`] says what is
//! configured, [`pattern`] and [`number`] how a number is found in a text;
//! [`board`] is where all of them meet: what was read or pushed waits there for
//! the next tick. [`files`] reads on the gauge-reader thread, behind helpers
//! that may hang; [`commands`] runs programs, a few at a time.
//!
//! Every gauge has its value or the reason why it has none, in a word for
//! machines ([`super::Missing`]) and in words for people.

pub mod board;
pub mod commands;
pub mod definition;
pub mod files;
pub mod number;
pub mod pattern;
pub mod push;
#[cfg(test)]
mod tests;

pub use board::Custom;
pub use definition::{Definition, Extract, Origin, Shape};
pub use pattern::Pattern;

/// More than a gateway has, and few enough for a status that people read.
pub const MAX_GAUGES: usize = 128;
