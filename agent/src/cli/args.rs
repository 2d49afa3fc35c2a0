//! The command line, into a type that cannot be wrong.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::help::{self, Topic};
use crate::config::suggest;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `run`
    Run {
        /// `--config`
        config: Option<PathBuf>,
    },
    /// `check`
    Check(super::check::Options),
    /// `status`
    Status {
        /// `--config`: take the socket's place from there.
        config: Option<PathBuf>,
        /// `--socket`
        socket: Option<PathBuf>,
        /// `--json`
        json: bool,
        /// `--watch`
        watch: bool,
    },
    /// `reload`
    Reload {
        /// `--config`: take the socket's place from there.
        config: Option<PathBuf>,
        /// `--socket`
        socket: Option<PathBuf>,
    },
    /// `spool`
    Spool(super::spool::Options),
    /// `event`
    Event {
        /// `--config`: take the socket's place from there.
        config: Option<PathBuf>,
        /// `--socket`
        socket: Option<PathBuf>,
        /// What to say.
        event: super::event::Options,
    },
    /// `exec`
    Exec(super::exec::Options),
    /// `publish`
    Publish {
        /// `--config`: take the socket's place from there.
        config: Option<PathBuf>,
        /// `--socket`
        socket: Option<PathBuf>,
        /// What to publish.
        message: super::publish::Options,
    },
    /// `gauge`
    Gauge {
        /// `--config`
        config: Option<PathBuf>,
        /// `--socket`
        socket: Option<PathBuf>,
        /// The number.
        gauge: super::gauge::Options,
    },
    /// `trace`
    Trace(super::trace::Options),
    /// `help`, `--help` and no arguments at all.
    Help(Topic),
    /// `--version`
    Version,
}

/// Reads a command line without the program's name.
///
/// # Errors
/// One sentence for people, with what to do.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    read(Parser::from_args(arguments))
}

fn read(mut parser: Parser) -> Result<Command, String> {
    let name = match parser.next().map_err(told)? {
        None => return Ok(Command::Help(Topic::All)),
        Some(Arg::Long("version") | Arg::Short('V')) => return Ok(Command::Version),
        Some(Arg::Long("help") | Arg::Short('h')) => return Ok(Command::Help(Topic::All)),
        Some(Arg::Value(name)) => name.to_string_lossy().into_owned(),
        Some(other) => {
            let shown = show(&other);
            return Err(format!(
                "{shown} has no command before it; write `sonde COMMAND {shown}`, see `sonde help`"
            ));
        }
    };
    if name == "help" {
        return match parser.next().map_err(told)? {
            None => Ok(Command::Help(Topic::All)),
            Some(arg) => topic(&show(&arg)),
        };
    }
    let Some(topic) = help::TOPICS
        .iter()
        .find(|topic| topic.name == name && topic.is_command())
    else {
        return Err(unknown(
            "command",
            &name,
            help::TOPICS
                .iter()
                .filter(|t| t.is_command())
                .map(|t| t.name),
        ));
    };
    if topic.name == "spool" {
        return super::spool::parse(&mut parser);
    }
    if topic.name == "exec" {
        return exec(parser);
    }
    if topic.name == "trace" {
        return super::trace::parse(&mut parser);
    }
    if topic.name == "gauge" {
        return gauge(parser);
    }
    let mut flags = Flags::default();
    let mut operands = Vec::new();
    while let Some(arg) = parser.next().map_err(told)? {
        let shown = show(&arg);
        let option = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help(Topic::Of(topic.name))),
            Arg::Short('c') => "config",
            Arg::Long(name) => match topic.options.iter().find(|option| option.name == name) {
                Some(option) => option.name,
                None => {
                    let known: Vec<String> = topic
                        .options
                        .iter()
                        .map(|o| format!("--{}", o.name))
                        .collect();
                    let wrong = unknown("option", &shown, known.iter().map(String::as_str));
                    return Err(format!("{}: {wrong}", topic.name));
                }
            },
            Arg::Value(value)
                if topic.name == "event" || (topic.name == "publish" && operands.is_empty()) =>
            {
                operands.push(utf8(value)?);
                continue;
            }
            _ => {
                return Err(format!(
                    "{}: {shown} is one argument too many; see `sonde help {0}`",
                    topic.name
                ));
            }
        };
        match option {
            "config" => once(&mut flags.config, &mut parser, "--config")?,
            "socket" => once(&mut flags.socket, &mut parser, "--socket")?,
            "text" => flags.texts.push(utf8(parser.value().map_err(told)?)?),
            "json" => flags.json = true,
            _ if topic.name == "publish" => {
                message_option(&mut flags.message, &mut parser, option)?
            }
            "watch" => flags.watch = true,
            _ => flags.effective = true,
        }
    }
    let Flags {
        config,
        socket,
        json,
        watch,
        effective,
        texts,
        message,
    } = flags;
    Ok(match topic.name {
        "run" => Command::Run { config },
        "check" => Command::Check(super::check::Options { config, effective }),
        "status" => Command::Status {
            config,
            socket,
            json,
            watch,
        },
        "publish" => {
            let topic = operands.into_iter().next().ok_or(
                "publish: it needs a topic; write for example: sonde publish plant/1 --message 21.5",
            )?;
            if message.message.is_some() && message.file.is_some() {
                return Err("publish: --message and --file exclude each other".to_owned());
            }
            Command::Publish {
                config,
                socket,
                message: super::publish::Options { topic, ..message },
            }
        }
        "event" => {
            let mut operands = operands.into_iter();
            let name = operands.next().ok_or(
                "event: it needs a name; write for example: sonde event pump.start pressure=4.5",
            )?;
            let event = super::event::Options {
                name,
                fields: operands.collect(),
                texts,
            };
            Command::Event {
                config,
                socket,
                event,
            }
        }
        _ => Command::Reload { config, socket },
    })
}

/// What follows the gauge's name is no option, so that -67 needs no -- before it.
fn gauge(mut parser: Parser) -> Result<Command, String> {
    let (mut config, mut socket) = (None, None);
    let mut words: Vec<String> = Vec::new();
    while words.is_empty() {
        match parser.next().map_err(told)? {
            Some(Arg::Long("help") | Arg::Short('h')) => {
                return Ok(Command::Help(Topic::Of("gauge")));
            }
            Some(Arg::Long("socket")) => once(&mut socket, &mut parser, "--socket")?,
            Some(Arg::Long("config") | Arg::Short('c')) => {
                once(&mut config, &mut parser, "--config")?;
            }
            Some(Arg::Value(name)) => words.push(utf8(name)?),
            Some(other) => {
                let known = ["--config", "--socket"].into_iter();
                return Err(format!(
                    "gauge: {}",
                    unknown("option", &show(&other), known)
                ));
            }
            None => break,
        }
    }
    // Options may stand at the end as well.
    let mut rest = parser.raw_args().map_err(told)?;
    while let Some(word) = rest.next() {
        let text = word.to_str().unwrap_or_default();
        let (option, glued) = match text.split_once('=') {
            Some((option, path)) if option.starts_with("--") => (option, Some(path)),
            _ => (text, None),
        };
        let slot = match option {
            "--socket" => &mut socket,
            "--config" | "-c" => &mut config,
            "--help" | "-h" => return Ok(Command::Help(Topic::Of("gauge"))),
            _ => {
                words.push(utf8(word)?);
                continue;
            }
        };
        let path = match glued {
            Some(path) => Some(OsString::from(path)),
            None => rest.next(),
        };
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| format!("{option} needs a path after it"))?;
        if slot.replace(path.into()).is_some() {
            return Err(format!("{option} is given twice"));
        }
    }
    let mut words = words.into_iter();
    let (Some(name), Some(value)) = (words.next(), words.next()) else {
        return Err(
            "gauge: it needs a name and a number; write for example: sonde gauge line.speed 1.25"
                .into(),
        );
    };
    Ok(Command::Gauge {
        config,
        socket,
        gauge: super::gauge::Options {
            name,
            value,
            attributes: words.collect(),
        },
    })
}

/// What follows the command is the command's own, dashes and all.
fn exec(mut parser: Parser) -> Result<Command, String> {
    let mut options = super::exec::Options::default();
    let known = || {
        let topic = help::TOPICS.iter().find(|topic| topic.name == "exec");
        let options = topic.map_or(&[][..], |topic| topic.options);
        options.iter().map(|option| option.name)
    };
    while let Some(arg) = parser.next().map_err(told)? {
        let shown = show(&arg);
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help(Topic::Of("exec"))),
            Arg::Long("name") => options.name = Some(text(&mut parser, "--name")?),
            Arg::Long("service") => options.service = Some(text(&mut parser, "--service")?),
            Arg::Long("socket") => once(&mut options.socket, &mut parser, "--socket")?,
            Arg::Long("config") | Arg::Short('c') => {
                once(&mut options.config, &mut parser, "--config")?;
            }
            Arg::Long("verbose") => options.verbose = true,
            Arg::Value(program) => {
                options.command.push(program);
                options.command.extend(parser.raw_args().map_err(told)?);
                return Ok(Command::Exec(options));
            }
            _ => {
                let known: Vec<String> = known().map(|name| format!("--{name}")).collect();
                let wrong = unknown("option", &shown, known.iter().map(String::as_str));
                return Err(format!(
                    "exec: {wrong}; put -- before the command if that is its name"
                ));
            }
        }
    }
    Err("exec: no command is given; write `sonde exec -- COMMAND ARGUMENTS`".into())
}

/// An option's value that goes on the wire.
fn text(parser: &mut Parser, name: &str) -> Result<String, String> {
    let value = parser.value().map_err(told)?.into_string();
    let value = value.map_err(|_| format!("{name} takes UTF-8 text"))?;
    match value.is_empty() || value.len() > 256 {
        true => Err(format!("{name} needs a text of 1 to 256 bytes after it")),
        false => Ok(value),
    }
}

#[derive(Default)]
struct Flags {
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    json: bool,
    watch: bool,
    effective: bool,
    texts: Vec<String>,
    message: super::publish::Options,
}

/// An option of `publish`.
fn message_option(
    message: &mut super::publish::Options,
    parser: &mut Parser,
    option: &str,
) -> Result<(), String> {
    if option == "file" {
        return once(&mut message.file, parser, "--file");
    }
    if option == "retain" {
        message.retain = true;
        return Ok(());
    }
    let value = utf8(parser.value().map_err(told)?)?;
    let slot = match option {
        "property" => {
            message.properties.push(value);
            return Ok(());
        }
        "message" => &mut message.message,
        "qos" => &mut message.qos,
        "expiry" => &mut message.expiry,
        "content-type" => &mut message.content_type,
        "response-topic" => &mut message.response_topic,
        _ => &mut message.correlation,
    };
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("--{option} is given twice")),
    }
}

/// A path that may be given once.
pub(super) fn once(
    slot: &mut Option<PathBuf>,
    parser: &mut Parser,
    name: &str,
) -> Result<(), String> {
    let value: OsString = parser.value().map_err(told)?;
    if value.is_empty() {
        return Err(format!("{name} needs a path after it"));
    }
    match slot.replace(value.into()) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is given twice")),
    }
}

/// One of some words.
pub(super) fn choice<T: Copy>(
    parser: &mut Parser,
    option: &str,
    known: &[(&str, T)],
) -> Result<T, String> {
    let value = parser.value().map_err(told)?;
    let value = value.to_string_lossy();
    match known.iter().find(|(name, _)| *name == value) {
        Some((_, meant)) => Ok(*meant),
        None => {
            let names = known.iter().map(|(name, _)| *name);
            Err(unknown(&format!("value of {option}"), &value, names))
        }
    }
}

fn utf8(value: OsString) -> Result<String, String> {
    value
        .into_string()
        .map_err(|value| format!("{:?} is not UTF-8", value.to_string_lossy()))
}

fn topic(name: &str) -> Result<Command, String> {
    match help::TOPICS.iter().find(|topic| topic.name == name) {
        Some(topic) => Ok(Command::Help(Topic::Of(topic.name))),
        None => Err(unknown("topic", name, help::TOPICS.iter().map(|t| t.name))),
    }
}

/// There is no such thing, but perhaps one with a name like it.
pub(super) fn unknown<'a>(
    what: &str,
    typed: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    match suggest(typed, known.clone()) {
        Some(meant) => format!("there is no {what} {typed:?}; did you mean {meant}?"),
        None => format!(
            "there is no {what} {typed:?}; there are: {}",
            known.collect::<Vec<_>>().join(", ")
        ),
    }
}

/// An argument as it was typed.
pub(super) fn show(arg: &Arg<'_>) -> String {
    match arg {
        Arg::Long(name) => format!("--{name}"),
        Arg::Short(name) => format!("-{name}"),
        Arg::Value(value) => value.to_string_lossy().into_owned(),
    }
}

/// An error of the reader, with where to look.
pub(super) fn told(error: lexopt::Error) -> String {
    format!("{error}; see `sonde help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<Command, &str>) {
        let got = parse(line.split_whitespace().map(OsString::from));
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{line}"),
            (Err(got), Err(part)) => assert!(got.contains(part), "{line}: {got}"),
            (got, expected) => panic!("{line}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn commands_take_their_options_and_no_others() {
        check("", Ok(Command::Help(Topic::All)));
        check("--version", Ok(Command::Version));
        check("run", Ok(Command::Run { config: None }));
        check(
            "run --config=a.toml",
            Ok(Command::Run {
                config: Some("a.toml".into()),
            }),
        );
        check(
            "run -c a.toml",
            Ok(Command::Run {
                config: Some("a.toml".into()),
            }),
        );
        check("run --help", Ok(Command::Help(Topic::Of("run"))));
        check("help check", Ok(Command::Help(Topic::Of("check"))));
        check("help config", Ok(Command::Help(Topic::Of("config"))));
        check(
            "status --socket /s --json --watch",
            Ok(Command::Status {
                config: None,
                socket: Some("/s".into()),
                json: true,
                watch: true,
            }),
        );
        check(
            "event pump.start --text serial=0012 pressure=4.5 --socket /s",
            Ok(Command::Event {
                config: None,
                socket: Some("/s".into()),
                event: super::super::event::Options {
                    name: "pump.start".into(),
                    fields: vec!["pressure=4.5".into()],
                    texts: vec!["serial=0012".into()],
                },
            }),
        );
        check("event", Err("it needs a name"));
        let gauge = |attributes: &[&str]| Command::Gauge {
            config: None,
            socket: Some("/s".into()),
            gauge: super::super::gauge::Options {
                name: "modem.signal".into(),
                value: "-67".into(),
                attributes: attributes.iter().map(|it| (*it).to_owned()).collect(),
            },
        };
        check("gauge --socket /s modem.signal -67", Ok(gauge(&[])));
        check(
            "gauge modem.signal -67 sim=1 --socket /s",
            Ok(gauge(&["sim=1"])),
        );
        for at_the_end in ["-c s.toml", "--config s.toml", "--config=s.toml"] {
            let expected = Command::Gauge {
                config: Some("s.toml".into()),
                socket: None,
                gauge: super::super::gauge::Options {
                    name: "speed".into(),
                    value: "1".into(),
                    attributes: vec!["line=3".into()],
                },
            };
            check(&format!("gauge speed 1 line=3 {at_the_end}"), Ok(expected));
        }
        check("gauge speed 1 -c a -c b", Err("-c is given twice"));
        check("gauge modem.signal", Err("a name and a number"));
        check("gauge --sockte /s", Err("did you mean"));
        check("gauge a 1 --socket", Err("needs a path"));
        check("run --json", Err("there are: --config"));
        check("run --confg x", Err("did you mean --config?"));
        check("run x", Err("one argument too many"));
        check("run --config", Err("--config"));
        check("run --config a --config b", Err("twice"));
        check(
            "exec --name n -- ls --name -l --",
            Ok(Command::Exec(super::super::exec::Options {
                name: Some("n".into()),
                command: ["ls", "--name", "-l", "--"].map(OsString::from).to_vec(),
                ..Default::default()
            })),
        );
        check(
            "exec ls -l",
            Ok(Command::Exec(super::super::exec::Options {
                command: ["ls", "-l"].map(OsString::from).to_vec(),
                ..Default::default()
            })),
        );
        check("exec", Err("no command is given"));
        check("exec --", Err("no command is given"));
        check("exec --nam x ls", Err("did you mean --name?"));
        check("statsu", Err("did you mean status?"));
        check("config", Err("there is no command"));
        check("--config x", Err("sonde COMMAND"));
        check("status --json=1", Err("json"));
    }
}
