//! The command line of `sonde spool`.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::select::Selection;
use crate::cli::args::{Command, choice, once, show, told, unknown};
use crate::cli::help::Topic;
use crate::clock::Clock;
use crate::config::{UplinkName, parse_duration};
use crate::frame::{Class, Signal};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// `ls`
    Ls {
        /// `--json`
        json: bool,
        /// `--frames`
        frames: bool,
    },
    /// `cat`
    Cat,
    /// `verify`
    Verify {
        /// `--json`
        json: bool,
    },
    /// `export`
    Export {
        /// `--to`
        to: PathBuf,
        /// `--uncompressed`
        uncompressed: bool,
    },
}

/// What the command line said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is to be done.
    pub act: Act,
    /// `--config`: take the folder's place from there.
    pub config: Option<PathBuf>,
    /// `--dir`
    pub dir: Option<PathBuf>,
    /// Which frames.
    pub select: Selection,
}

const ACTS: [&str; 4] = ["ls", "cat", "verify", "export"];

/// Reads what follows `spool`.
pub(in crate::cli) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let act = match parser.next().map_err(told)? {
        None | Some(Arg::Long("help") | Arg::Short('h')) => {
            return Ok(Command::Help(Topic::Of("spool")));
        }
        Some(Arg::Value(name)) => name.to_string_lossy().into_owned(),
        Some(other) => {
            let shown = show(&other);
            return Err(format!(
                "spool: {shown} has no command before it; write `sonde spool ls {shown}`, see `sonde help spool`"
            ));
        }
    };
    if !ACTS.contains(&act.as_str()) {
        let wrong = unknown("command", &act, ACTS.into_iter());
        return Err(format!("spool: {wrong}"));
    }
    let known: &[&str] = match act.as_str() {
        "ls" => &[
            "config",
            "dir",
            "json",
            "frames",
            "class",
            "signal",
            "uplink-pending",
            "since",
        ],
        "verify" => &["config", "dir", "json"],
        "cat" => &[
            "config",
            "dir",
            "class",
            "signal",
            "uplink-pending",
            "since",
        ],
        _ => &[
            "config",
            "dir",
            "to",
            "pending",
            "uncompressed",
            "class",
            "signal",
            "since",
        ],
    };
    let (mut config, mut dir, mut to) = (None, None, None);
    let (mut json, mut frames, mut uncompressed) = (false, false, false);
    let mut select = Selection::default();
    while let Some(arg) = parser.next().map_err(told)? {
        let shown = show(&arg);
        let option = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help(Topic::Of("spool"))),
            Arg::Short('c') => "config".to_owned(),
            Arg::Long(name) => name.to_owned(),
            Arg::Value(value) if act == "cat" && select.frame.is_none() => {
                select.frame = Some(frame(&value)?);
                continue;
            }
            _ => {
                return Err(format!(
                    "spool {act}: {shown} is one argument too many; see `sonde help spool`"
                ));
            }
        };
        if !known.contains(&option.as_str()) {
            let dashed: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
            let wrong = unknown("option", &shown, dashed.iter().map(String::as_str));
            return Err(format!("spool {act}: {wrong}"));
        }
        match option.as_str() {
            "config" => once(&mut config, parser, "--config")?,
            "dir" => once(&mut dir, parser, "--dir")?,
            "to" => once(&mut to, parser, "--to")?,
            "json" => json = true,
            "frames" => frames = true,
            "uncompressed" => uncompressed = true,
            "class" => {
                let names = Class::ALL.map(|class| (class.as_str(), class));
                select.class = Some(choice(parser, "--class", &names)?);
            }
            "signal" => {
                let names = Signal::ALL.map(|signal| (signal.as_str(), signal));
                select.signal = Some(choice(parser, "--signal", &names)?);
            }
            "since" => select.since = Some(since(&parser.value().map_err(told)?)?),
            _ => {
                let names = [UplinkName::Otlp, UplinkName::Mqtt].map(|name| (name.as_str(), name));
                select.pending = Some(choice(parser, &shown, &names)?);
            }
        }
    }
    let act = match act.as_str() {
        "ls" => Act::Ls { json, frames },
        "cat" => Act::Cat,
        "verify" => Act::Verify { json },
        _ => Act::Export {
            to: to.ok_or("spool export: --to DIR is missing: where to?")?,
            uncompressed,
        },
    };
    let narrowed = select != Selection::default();
    if narrowed && matches!(act, Act::Ls { frames: false, .. }) {
        return Err(
            "spool ls: --class, --signal, --since and --uplink-pending choose frames: add --frames"
                .into(),
        );
    }
    Ok(Command::Spool(Options {
        act,
        config,
        dir,
        select,
    }))
}

/// `SEQ` or `EPOCH-SEQ`, as `ls --frames` and the `sonde-frame` property show it.
fn frame(value: &OsString) -> Result<(Option<u32>, u64), String> {
    let text = value.to_string_lossy();
    let (epoch, seq) = match text.split_once('-') {
        Some((epoch, seq)) => (u32::from_str_radix(epoch, 16).map(Some), seq),
        None => (Ok(None), &*text),
    };
    match (epoch, seq.parse()) {
        (Ok(epoch), Ok(seq)) => Ok((epoch, seq)),
        _ => Err(format!(
            "spool cat: {text:?} is no frame: give its number, or EPOCH-NUMBER as `sonde spool ls --frames` shows it"
        )),
    }
}

/// A time ago (`2h`), or seconds since 1970 (`@1795233600`).
fn since(value: &OsString) -> Result<u64, String> {
    let text = value.to_string_lossy();
    let wrong = || {
        format!(
            "spool: --since {text:?} is no time: give a duration such as 90m or 2d, or @SECONDS since 1970"
        )
    };
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: u64 = seconds.parse().map_err(|_| wrong())?;
        return seconds.checked_mul(1_000_000_000).ok_or_else(wrong);
    }
    let ago = parse_duration(&text).ok().flatten().ok_or_else(wrong)?;
    let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
    let now = Clock::new(crate::clock::ClockTrust::Always).now();
    Ok(now.unix_ns.saturating_sub(ago))
}
