//! Sonde: a fleet device agent for embedded Linux gateways.
//!
//! Everything goes one way:
//!
//! ```text
//! gauge ─► sampler ─► recorder ─┐
//! trace, journal ───────────────┼─► otlp ─► spool ─► uplink ─► collector, broker
//! work (jobs), as spans ────────┘
//! every owner ─► status ─► door ─► cli
//! ```
//!
//! To read it from the start: [`frame`] has the nouns that flow, [`config`] what
//! an operator can say, [`daemon`] how the parts are put together and in which
//! order they end. The promises are kept in [`spool`] (what is stored, what a
//! power cut may cost) and [`uplink::delivery`] (what is sent when, and what a
//! server's answer means). `docs/ARCHITECTURE.md` says why.
//!
//! [`sampler`], [`recorder`], [`otlp`] and [`uplink::delivery`] are pure: they
//! name no clock, socket or file. Only [`clock`] reads time.

pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod door;
pub mod event;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod gauge;
pub mod identity;
pub mod journal;
pub mod message;
pub mod notify;
pub mod otlp;
pub mod outbox;
pub mod pipeline;
pub mod rate;
pub mod recorder;
pub mod sampler;
pub mod sensor;
pub mod serial;
pub mod spool;
pub mod status;
pub mod trace;
pub mod uplink;
pub mod vitals;
pub mod work;
