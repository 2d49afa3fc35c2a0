//! A run of the agent that ends in a panic: the library's own boot record and
//! panic hook, in a program that has a bug. The shipped one has no such switch.

use std::path::PathBuf;

use sonde_agent::boot::Boot;
use sonde_agent::clock::Clock;
use sonde_agent::config::{self, Env};
use sonde_agent::identity::Identity;
use sonde_agent::journal;

fn main() {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    journal::install_panic_hook();
    let loaded = config::load(file.as_deref(), &Env::of_process());
    let config = loaded.expect("a configuration").config;
    let identity = Identity::find(&config);
    let clock = Clock::new(config.clock.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let boot = Boot::start(&config, &identity, &clock).await;
        assert!(boot.count().is_none(), "a bug, on purpose");
    });
}
