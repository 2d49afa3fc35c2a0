//! `sonde spool`: what is stored, without the agent.
//!
//! Strictly read-only and without a lock, so it may be used while the agent
//! runs, and on a copy of the folder on another machine. One frame is in
//! memory at a time, whatever the backlog.

mod args;
mod cat;
mod export;
mod ls;
mod select;
#[cfg(test)]
mod tests;
mod verify;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) use args::parse;
pub use args::{Act, Options};
pub(super) use cat::{LONGEST, body_of};
pub(super) use ls::uplinks;
pub(super) use select::{Frame, Selection, Wants, each};

use super::{FAILED, FINE, WRONG, complain, status};
use crate::config::{self, Env, UplinkName};
use crate::daemon::subscriptions;
use crate::frame::{Class, Signals};
use crate::spool::inspect::Folder;

/// The folder to look at, and who wants what of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) folder: Folder,
    /// By the configuration, or what any uplink could want.
    pub(super) wants: Vec<Wants>,
}

/// Performs it.
pub fn run(options: &Options, env: &Env) -> ExitCode {
    let place = match find(options.dir.as_deref(), options.config.as_deref(), env) {
        Ok(place) => place,
        Err((code, words)) => {
            complain(&format!("sonde spool: {}", status::clean(&words)));
            return ExitCode::from(code);
        }
    };
    let done = match &options.act {
        Act::Ls { json, frames } => ls::run(&place, *json, *frames, &options.select),
        Act::Cat => cat::run(&place, &options.select),
        Act::Verify { json } => verify::run(&place, *json),
        Act::Export { to, uncompressed } => export::run(&place, &options.select, to, *uncompressed),
    };
    ExitCode::from(match done {
        Ok(true) => FINE,
        Ok(false) => FAILED,
        // A reader that went away (`| head`) is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => FINE,
        Err(error) => {
            let mut words = error.to_string();
            if error.kind() == ErrorKind::PermissionDenied && !words.contains("sudo") {
                words.push_str("; you need the agent's user, or sudo");
            }
            complain(&format!("sonde spool: {}", status::clean(&words)));
            FAILED
        }
    })
}

/// Finds the folder; otherwise an exit code and why not.
pub(super) fn find(
    dir: Option<&Path>,
    config: Option<&Path>,
    env: &Env,
) -> Result<Place, (u8, String)> {
    if let Some(file) = config.filter(|file| !file.exists()) {
        let words = format!(
            "{} does not exist, so where its spool is cannot be known",
            file.display()
        );
        return Err((WRONG, words));
    }
    let wants = match (dir, config) {
        // A copy of some gateway's: this machine's configuration says nothing about it.
        (Some(_), None) => None,
        _ => config::load(config, env).ok().map(|loaded| {
            let all = subscriptions(&loaded.config);
            all.into_iter().map(Wants::from).collect()
        }),
    };
    let dir = match dir {
        Some(dir) if !holds_spool(dir) && holds_spool(&dir.join("spool")) => dir.join("spool"),
        Some(dir) => dir.to_path_buf(),
        None => config::state_folder(config, env).join("spool"),
    };
    let folder = Folder::open(&dir).map_err(|error| (FAILED, advised(&error)))?;
    let known = wants.is_some();
    if !holds_spool(&dir) && !known {
        let words = format!(
            "{} holds no spool: it has none of the folders critical, outbox, normal, bulk",
            dir.display()
        );
        return Err((FAILED, words));
    }
    Ok(Place {
        dir,
        folder,
        wants: wants.unwrap_or_else(any),
    })
}

/// Without a configuration: every signal, and messages for the broker alone.
fn any() -> Vec<Wants> {
    let telemetry = Signals::ALL.without(crate::frame::Signal::Message);
    vec![
        Wants {
            uplink: UplinkName::Otlp,
            signals: telemetry,
            assumed: true,
        },
        Wants {
            uplink: UplinkName::Mqtt,
            signals: Signals::ALL,
            assumed: true,
        },
    ]
}

fn holds_spool(dir: &Path) -> bool {
    let folders = Class::ALL.iter().map(|class| class.as_str());
    folders
        .chain(["cursors"])
        .any(|name| dir.join(name).exists())
}

fn advised(error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::NotFound => {
            "; has an agent of this configuration run here? Give --config, or --dir for a copy"
        }
        ErrorKind::PermissionDenied => "; you need the agent's user, or sudo",
        _ => "",
    };
    format!("{error}{advice}")
}
