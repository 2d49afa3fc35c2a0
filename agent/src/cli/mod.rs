//! One file a subcommand. Arguments are read in [`args`]; [`main`] is the one
//! match from a command to its function.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{self, Env};
use crate::daemon;
use crate::work::launch;

pub mod args;
pub mod check;
pub mod client;
pub mod event;
pub mod exec;
pub mod gauge;
pub mod help;
pub mod publish;
pub mod reload;
pub mod spool;
pub mod status;
pub mod trace;

/// All is well.
pub const FINE: u8 = 0;
/// It was tried and failed.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const WRONG: u8 = 2;
/// No agent answers.
pub const UNREACHABLE: u8 = 3;

/// Performs a command line (without the program's name).
pub fn main(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if arguments
        .next_if(|first| first == launch::ARGUMENT)
        .is_some()
    {
        return launch::main(arguments);
    }
    let env = Env::of_process();
    let command = match args::parse(arguments) {
        Ok(command) => command,
        Err(wrong) => {
            complain(&format!("sonde: {wrong}"));
            return ExitCode::from(WRONG);
        }
    };
    if let args::Command::Status {
        config: Some(file),
        socket: None,
        ..
    }
    | args::Command::Reload {
        config: Some(file),
        socket: None,
    }
    | args::Command::Event {
        config: Some(file),
        socket: None,
        ..
    }
    | args::Command::Gauge {
        config: Some(file),
        socket: None,
        ..
    }
    | args::Command::Publish {
        config: Some(file),
        socket: None,
        ..
    } = &command
        && !file.exists()
    {
        let file = file.display();
        complain(&format!(
            "sonde: {file} does not exist, so where its agent answers cannot be known"
        ));
        return ExitCode::from(WRONG);
    }
    match command {
        args::Command::Run { config } => daemon::run(daemon::Options { config }),
        args::Command::Check(options) => check::run(&options, &env),
        args::Command::Status {
            config,
            socket,
            json,
            watch,
        } => status::run(status::Options {
            socket: socket.unwrap_or_else(|| config::status_socket(config.as_deref(), &env)),
            json,
            watch,
        }),
        args::Command::Reload { config, socket } => {
            reload::run(&socket.unwrap_or_else(|| config::status_socket(config.as_deref(), &env)))
        }
        args::Command::Spool(options) => spool::run(&options, &env),
        args::Command::Event {
            config,
            socket,
            event,
        } => event::run(
            &socket.unwrap_or_else(|| config::local_socket(config.as_deref(), &env)),
            &event,
        ),
        args::Command::Exec(options) => exec::run(&options, &env),
        args::Command::Gauge {
            config,
            socket,
            gauge,
        } => gauge::run(
            &socket.unwrap_or_else(|| config::local_socket(config.as_deref(), &env)),
            &gauge,
        ),
        args::Command::Publish {
            config,
            socket,
            message,
        } => publish::run(
            &socket.unwrap_or_else(|| config::local_socket(config.as_deref(), &env)),
            &message,
        ),
        args::Command::Trace(options) => trace::run(&options, &env),
        args::Command::Help(topic) => said(&help::text(topic)),
        args::Command::Version => said(concat!("sonde ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// To standard output. `false`: it did not all get there, and standard error
/// says why. A reader that went away (`sonde check | head`) is no failure.
pub(crate) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("sonde: cannot write to standard output: {error}"));
            false
        }
        _ => true,
    }
}

fn said(text: &str) -> ExitCode {
    ExitCode::from(if say(text) { FINE } else { FAILED })
}

/// A line to standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
