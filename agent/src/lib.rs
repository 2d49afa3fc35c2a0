//! Sonde: a fleet device agent for embedded Linux gateways.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod door;
pub mod frame;
pub mod gauge;
pub mod identity;
pub mod journal;
pub mod notify;
pub mod otlp;
pub mod pipeline;
pub mod recorder;
pub mod sampler;
pub mod spool;
pub mod status;
pub mod trace;
pub mod uplink;
