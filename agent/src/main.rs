//! `sonde`: arguments to one function per subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    sonde_agent::cli::main(std::env::args_os().skip(1))
}
