//! `sonde check`: the daemon's own loader, and every problem it finds.
//!
//! Problems go to standard output, because they are what was asked for; with
//! `--effective` that belongs to the TOML and they go to standard error.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FINE, WRONG, complain, say};
use crate::config::{self, Env, Loaded, Problems, Severity};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--effective`
    pub effective: bool,
}

/// Loads, prints, gives the verdict as exit code.
pub fn run(options: &Options, env: &Env) -> ExitCode {
    let loaded = config::load(options.config.as_deref(), env);
    let excerpts = match options.effective {
        true => std::io::stderr().is_terminal(),
        false => std::io::stdout().is_terminal(),
    };
    let text = report(&loaded, excerpts);
    match (&loaded, options.effective) {
        (Ok(loaded), true) => {
            say(&loaded.effective());
            complain(text.trim_end());
        }
        (Err(_), true) => complain(text.trim_end()),
        (_, false) => say(&text),
    }
    match loaded {
        Ok(_) => ExitCode::from(FINE),
        Err(_) => ExitCode::from(WRONG),
    }
}

/// Every problem, a line each (and its line of the file with a caret), then the verdict.
fn report(loaded: &Result<Loaded, Problems>, excerpts: bool) -> String {
    let problems = match loaded {
        Ok(loaded) => &loaded.warnings,
        Err(problems) => problems,
    };
    let mut out = String::new();
    for problem in &problems.0 {
        let mark = match problem.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        let _ = writeln!(out, "{mark}{problem}");
        if let (true, Some(excerpt)) = (excerpts, problem.excerpt()) {
            let _ = writeln!(out, "{excerpt}");
        }
    }
    let (errors, warnings) = problems.count();
    let _ = match loaded {
        Ok(loaded) => {
            let what = match loaded.config.files.as_slice() {
                [] => "built-in defaults".to_string(),
                [one] => one.display().to_string(),
                [first, rest @ ..] => {
                    format!("{} and {}", first.display(), some(rest.len(), "drop-in"))
                }
            };
            match warnings {
                0 => writeln!(out, "ok: {what}"),
                _ => writeln!(out, "ok, with {}: {what}", some(warnings, "warning")),
            }
        }
        Err(_) if warnings > 0 => {
            writeln!(
                out,
                "refused: {}, {}",
                some(errors, "error"),
                some(warnings, "warning")
            )
        }
        Err(_) => writeln!(out, "refused: {}", some(errors, "error")),
    };
    out
}

fn some(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
