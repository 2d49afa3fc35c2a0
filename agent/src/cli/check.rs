//! `sonde check`: the daemon's own loader, and every problem it finds.
//!
//! Problems go to standard output, because they are what was asked for; with
//! `--effective` that belongs to the TOML and they go to standard error.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, FINE, WRONG, complain, say};
use crate::config::{self, Env, Loaded, Problem, Problems, Severity};
use crate::uplink::credentials;

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
    let mut loaded = config::load(options.config.as_deref(), env);
    if let Ok(loaded) = &mut loaded {
        for fault in credentials::faults(&loaded.config) {
            loaded.warnings.0.push(Problem::warning(
                loaded.settings.origin(fault.key),
                fault.key,
                fault.what,
                "data waits until the files are right; no restart is needed",
            ));
        }
    }
    let excerpts = match options.effective {
        true => std::io::stderr().is_terminal(),
        false => std::io::stdout().is_terminal(),
    };
    let text = report(&loaded, excerpts);
    let written = match (&loaded, options.effective) {
        (Ok(loaded), true) => {
            complain(text.trim_end());
            say(&loaded.effective())
        }
        (Err(_), true) => {
            complain(text.trim_end());
            true
        }
        (_, false) => say(&text),
    };
    ExitCode::from(match loaded {
        Err(_) => WRONG,
        Ok(_) if written => FINE,
        Ok(_) => FAILED,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.toml");
        std::fs::write(&file, text).unwrap();
        let env = Env {
            vars: [("HOME".to_string(), "/home/op".into())].into(),
            root: false,
            folder: folder.path().into(),
            default_file: file,
        };
        let loaded = config::load(None, &env);
        let prefix = format!("{}/", folder.path().display());
        (
            report(&loaded, false).replace(&prefix, ""),
            report(&loaded, true).replace(&prefix, ""),
        )
    }

    #[test]
    fn ends_with_one_line_that_gives_the_verdict() {
        let (plain, _) = check("uplink.mqtt.url = \"mqtt://b\"");
        assert_eq!(plain, "ok: s.toml\n");
        let (plain, _) = check("");
        assert!(plain.starts_with("warning: uplink: none"), "{plain}");
        assert!(plain.ends_with("\nok, with 1 warning: s.toml\n"), "{plain}");
        let (plain, _) = check("a = 1\nb = 2\nuplink.mqtt.url = \"mqtt://b\"");
        assert!(plain.ends_with("\nrefused: 2 errors\n"), "{plain}");
    }

    #[test]
    fn shows_the_line_with_a_caret_only_where_asked() {
        let (plain, full) = check("uplink.mqtt.url = \"mqtt://b\"\n[batch]\nlength = 0\n");
        assert_eq!(plain.lines().count(), 2);
        assert!(
            full.contains("     3 | length = 0\n       |          ^\n"),
            "{full}"
        );
    }
}
