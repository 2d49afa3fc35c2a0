//! `sonde run`. A place for the daemon's call until the parts are put together.

use std::path::PathBuf;
use std::process::ExitCode;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--config`
    pub config: Option<PathBuf>,
}

/// Runs the agent until it is told to end.
pub fn run(options: Options) -> ExitCode {
    let _ = options;
    super::complain("sonde run: this build has no daemon yet");
    ExitCode::from(super::FAILED)
}
