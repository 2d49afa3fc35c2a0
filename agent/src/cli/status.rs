//! `sonde status`. A place for the client of the door until the parts are put together.

use std::path::PathBuf;
use std::process::ExitCode;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The status socket.
    pub socket: PathBuf,
    /// Print JSON.
    pub json: bool,
    /// Show it again and again.
    pub watch: bool,
}

/// Asks the agent and prints what it says.
pub fn run(options: Options) -> ExitCode {
    let _ = options;
    super::complain("sonde status: this build has no status yet");
    ExitCode::from(super::FAILED)
}
