//! The command line of `sonde trace`.

use lexopt::{Arg, Parser};

use super::{Ask, Options};
use crate::cli::args::{Command, once, show, told, unknown};
use crate::cli::help::Topic;

const KNOWN: [&str; 6] = [
    "--recent", "--errors", "--json", "--config", "--socket", "--dir",
];

/// Reads what follows `trace`.
pub(in crate::cli) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut config, mut socket, mut dir) = (None, None, None);
    let (mut ask, mut json) = (None, false);
    while let Some(arg) = parser.next().map_err(told)? {
        let shown = show(&arg);
        let asked = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help(Topic::Of("trace"))),
            Arg::Short('c') | Arg::Long("config") => {
                once(&mut config, parser, "--config")?;
                continue;
            }
            Arg::Long("socket") => {
                once(&mut socket, parser, "--socket")?;
                continue;
            }
            Arg::Long("dir") => {
                once(&mut dir, parser, "--dir")?;
                continue;
            }
            Arg::Long("json") => {
                json = true;
                continue;
            }
            Arg::Long("recent") => Ask::Recent,
            Arg::Long("errors") => Ask::Errors,
            Arg::Value(value) => Ask::One(id(&value.to_string_lossy())?),
            _ => {
                return Err(format!(
                    "trace: {}",
                    unknown("option", &shown, KNOWN.into_iter())
                ));
            }
        };
        if ask.replace(asked).is_some() {
            return Err(format!(
                "trace: {shown} is one too many: an id, --recent or --errors; see `sonde help trace`"
            ));
        }
    }
    let Some(ask) = ask else {
        return Err("trace: which one? Give its id, --recent or --errors".into());
    };
    if json && !matches!(ask, Ask::One(_)) {
        return Err("trace: --json shows one trace: give its id".into());
    }
    Ok(Command::Trace(Options {
        ask,
        json,
        config,
        socket,
        dir,
    }))
}

/// A trace id, the beginning of one, or a whole `traceparent`.
fn id(text: &str) -> Result<String, String> {
    let lower = text.trim().to_ascii_lowercase();
    let id = match lower.split('-').collect::<Vec<_>>().as_slice() {
        [_, id, _, _] => (*id).to_owned(),
        _ => lower,
    };
    let digits = id.bytes().all(|digit| digit.is_ascii_hexdigit());
    if digits && (4..=32).contains(&id.len()) {
        return Ok(id);
    }
    Err(format!(
        "trace: {text:?} is no trace id: give its 32 hexadecimal digits, at least the first four, or a traceparent"
    ))
}
