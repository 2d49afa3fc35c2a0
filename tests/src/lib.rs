//! The world that Sonde is tested in: real processes, real sockets, and a link
//! whose cable can be pulled.
//!
//! ```text
//!              ┌── link ──► collector (OTLP/HTTP sink, scripted) ──► ledger ──┐
//!  sonde run ──┤                                                              ├─► proof
//!  (the binary)└── link ──► broker (mosquitto) ──► subscriber ─────► ledger ──┘
//! ```
//!
//! Receivers write down what came; [`proof`] judges it from the data alone.
//! Nothing here trusts a counter of the agent's.

pub mod agent;
pub mod backlog;
pub mod broker;
pub mod certs;
pub mod cloud;
pub mod collector;
pub mod consumer;
pub mod demo_broker;
pub mod exec_cost;
pub mod ledger;
pub mod link;
pub mod microcontroller;
pub mod process;
pub mod program;
pub mod proof;
pub mod publish_cost;
pub mod report;
pub mod rotel;
#[cfg(test)]
mod sample;
pub mod trace_tree;
pub mod world;

use std::path::{Path, PathBuf};

/// The folder of the workspace that this was built from.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
