//! What the commands are and take: one table for the argument reader, `sonde
//! help` and the man page.

use std::fmt::Write;

/// What help is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Everything, in short.
    All,
    /// One of [`TOPICS`].
    Of(&'static str),
}

/// A command, or something else that has a help text.
#[derive(Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// A paragraph or two.
    pub text: &'static str,
    /// Options.
    pub options: &'static [Flag],
}

/// An option.
#[derive(Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// What follows it; empty: nothing.
    pub value: &'static str,
    /// One sentence.
    pub help: &'static str,
}

impl About {
    /// Whether it can be run.
    pub fn is_command(&self) -> bool {
        self.name != "config"
    }
}

const CONFIG: Flag = Flag {
    name: "config",
    value: "FILE",
    help: "Use this configuration file (short: -c). Default: /etc/sonde/sonde.toml if it exists, else built-in defaults.",
};
const SOCKET: Flag = Flag {
    name: "socket",
    value: "PATH",
    help: "The agent's status socket. Default: as in the configuration.",
};

/// In the order in which they are listed.
pub static TOPICS: &[About] = &[
    About {
        name: "run",
        summary: "run the agent in the foreground",
        text: "Samples this machine, keeps what it reads in a spool and delivers it to the configured uplinks. \
               Ends with SIGTERM or SIGINT after everything is on disk; SIGHUP reads the configuration again.",
        options: &[CONFIG],
    },
    About {
        name: "check",
        summary: "check the configuration",
        text: "Loads the configuration as the agent would and lists every problem with its line. \
               Ends with 0 if an agent would start with it, else with 2.",
        options: &[
            CONFIG,
            Flag {
                name: "effective",
                value: "",
                help: "Print what would run as TOML, each value with where it came from, secrets masked.",
            },
        ],
    },
    About {
        name: "status",
        summary: "show how the running agent is",
        text: "Asks the running agent. Ends with 3 if none answers.",
        options: &[
            CONFIG,
            SOCKET,
            Flag {
                name: "json",
                value: "",
                help: "Print JSON (schema 1) instead of text.",
            },
            Flag {
                name: "watch",
                value: "",
                help: "Show it again and again until interrupted.",
            },
        ],
    },
    About {
        name: "reload",
        summary: "make the running agent read its configuration again",
        text: "Sends SIGHUP to the agent that serves the status socket. \
               A configuration with an error is refused and the old one stays; `sonde status` says so. \
               Ends with 3 if no agent answers.",
        options: &[CONFIG, SOCKET],
    },
    About {
        name: "spool",
        summary: "show, check and carry off what is stored",
        text: "`sonde spool ls`: what is stored, from when, and for which uplink it waits; --frames lists every frame. \
               `sonde spool cat [FRAME]`: what the frames say, a line each: telemetry as OTLP/JSON, messages of local programs as JSON. \
               `sonde spool verify`: checks every checksum, says what each damage costs; ends with 0 if all is whole, 1 if not. \
               `sonde spool export --to DIR`: a file for each frame, named so that their order is that of delivery, and manifest.jsonl, which comes last; \
               each file goes to a collector with: curl --data-binary @FILE -H 'content-type: application/x-protobuf' -H 'content-encoding: gzip' http://COLLECTOR:4318/v1/metrics \
               (/v1/traces, /v1/logs by the file's name; no content-encoding for a .pb). \
               Only reads, takes no lock: safe while the agent runs, and on a copy. What waits in memory alone is not here: see `sonde status`. \
               What an uplink has acknowledged is as of the last time the agent wrote it down.",
        options: &[
            CONFIG,
            Flag {
                name: "dir",
                value: "DIR",
                help: "Look at this folder instead: a spool, or a state folder with one in it, from wherever it was copied.",
            },
            Flag {
                name: "json",
                value: "",
                help: "ls, verify: print JSON.",
            },
            Flag {
                name: "frames",
                value: "",
                help: "ls: a line for each frame.",
            },
            Flag {
                name: "class",
                value: "CLASS",
                help: "Only frames of critical, outbox, normal or bulk.",
            },
            Flag {
                name: "signal",
                value: "SIGNAL",
                help: "Only metrics, traces, logs or messages.",
            },
            Flag {
                name: "since",
                value: "TIME",
                help: "Only frames with readings since then: a duration ago (90m, 2d), or @SECONDS since 1970.",
            },
            Flag {
                name: "uplink-pending",
                value: "UPLINK",
                help: "ls --frames, cat: only what this uplink (otlp or mqtt) has not acknowledged.",
            },
            Flag {
                name: "to",
                value: "DIR",
                help: "export: a new or empty folder. Nothing is overwritten.",
            },
            Flag {
                name: "pending",
                value: "UPLINK",
                help: "export: only what this uplink (otlp or mqtt) has not acknowledged.",
            },
            Flag {
                name: "uncompressed",
                value: "",
                help: "export: unpack gzip.",
            },
        ],
    },
    About {
        name: "event",
        summary: "say that something happened",
        text: "sonde event NAME [KEY=VALUE…]: tells the running agent of an event, which becomes a log record and is counted. \
               KEY=NUMBER is a measurement, any other KEY=VALUE metadata. Within a span (TRACEPARENT in the environment) it belongs to that span. \
               Names and keys are lower-case words with dots between them; sonde. is the agent's own. Ends with 3 if no agent answers.",
        options: &[
            Flag {
                name: "text",
                value: "KEY=VALUE",
                help: "Metadata whatever it looks like, such as a serial number.",
            },
            CONFIG,
            Flag {
                name: "socket",
                value: "PATH",
                help: "The agent's socket for local programs. Default: as in the configuration.",
            },
        ],
    },
    About {
        name: "gauge",
        summary: "push a number for a gauge",
        text: "sonde gauge NAME VALUE [KEY=VALUE…]: hands the running agent a number for a gauge that its configuration declares with push = true. \
               NAME is that of its table [gauge.NAME] or of the metric; KEY=VALUE are attributes. The last number before a tick goes out with it. \
               Ends with 2 if the agent takes no such number, 1 if there are too many, 3 if no agent answers.",
        options: &[
            CONFIG,
            Flag {
                name: "socket",
                value: "PATH",
                help: "The agent's socket for local programs. Default: as in the configuration.",
            },
        ],
    },
    About {
        name: "exec",
        summary: "run a command in a span",
        text: "Runs COMMAND with its arguments, its terminal and its standard streams untouched, and hands a span \
               of it to the agent when it has ended. TRACEPARENT, TRACESTATE and BAGGAGE in the environment name \
               the parent; the command gets its own. OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, \
               OTEL_RESOURCE_ATTRIBUTES and OTEL_SDK_DISABLED mean what they mean to any SDK. Signals are passed on. \
               Ends with the command's own exit code, with 128 + n after signal n, with 127 if there is no such \
               command and 126 if it cannot be run. Without an agent the command runs all the same.",
        options: &[
            Flag {
                name: "name",
                value: "NAME",
                help: "The span's name. Default: the program's.",
            },
            Flag {
                name: "service",
                value: "NAME",
                help: "service.name. Default: OTEL_SERVICE_NAME, else the program's name.",
            },
            CONFIG,
            Flag {
                name: "socket",
                value: "PATH",
                help: "The agent's socket for local programs. Default: as in the configuration.",
            },
            Flag {
                name: "verbose",
                value: "",
                help: "Say on standard error what became of the span.",
            },
        ],
    },
    About {
        name: "publish",
        summary: "send an MQTT message through the agent",
        text: "sonde publish TOPIC: hands the running agent a message for the MQTT broker and ends when it is on flash; the agent delivers it, \
               in the order of its topic, also after an outage. The payload is --message, --file or standard input. Within a span (TRACEPARENT in the \
               environment) the message goes on with that trace. outbox.allow says which topics. Prints the message's sonde-frame. \
               Ends with 1 if it was refused, 3 if no agent answers.",
        options: &[
            Flag {
                name: "message",
                value: "TEXT",
                help: "The payload, as UTF-8 text.",
            },
            Flag {
                name: "file",
                value: "FILE",
                help: "Take the payload from there.",
            },
            Flag {
                name: "qos",
                value: "0|1",
                help: "At most once or (default) at least once between agent and broker.",
            },
            Flag {
                name: "retain",
                value: "",
                help: "The broker keeps it for later subscribers.",
            },
            Flag {
                name: "expiry",
                value: "SECONDS",
                help: "Nobody wants it later than that.",
            },
            Flag {
                name: "content-type",
                value: "TYPE",
                help: "What the payload is.",
            },
            Flag {
                name: "property",
                value: "NAME=VALUE",
                help: "A user property; as often as there are any.",
            },
            Flag {
                name: "response-topic",
                value: "TOPIC",
                help: "Where an answer is wanted.",
            },
            Flag {
                name: "correlation",
                value: "TEXT",
                help: "What the answer has to repeat.",
            },
            CONFIG,
            Flag {
                name: "socket",
                value: "PATH",
                help: "The agent's socket for local programs. Default: as in the configuration.",
            },
        ],
    },
    About {
        name: "trace",
        summary: "show what is still held of a trace",
        text: "`sonde trace ID` draws the spans of a trace as a tree, with who made them, how long they took, status, events and links; \
               spans whose parent is elsewhere stand under `parent not here`. Below are the frames that hold them, \
               those of metrics and messages that carry the trace's context, and whether each uplink has acknowledged them. \
               ID: 32 hexadecimal digits, at least the first four, or a traceparent. \
               `sonde trace --recent` and `--errors` list traces, the newest last. \
               Held are: what is on flash, what waits in memory, spans that wait for the next flush, and the last 128 KiB of span \
               frames that this agent has stored, acknowledged or not. If more waits in memory than the agent hands out at once \
               (the newest 256 KiB), it says how many frames are not shown. \
               Works without a running agent on what is on flash. Ends with 1 if nothing is held of the trace.",
        options: &[
            Flag {
                name: "recent",
                value: "",
                help: "A line for each of the last 50 traces.",
            },
            Flag {
                name: "errors",
                value: "",
                help: "The same for those with a failed span.",
            },
            Flag {
                name: "json",
                value: "",
                help: "With an ID: its spans with all they carry as OTLP/JSON, a line for each frame.",
            },
            CONFIG,
            SOCKET,
            Flag {
                name: "dir",
                value: "DIR",
                help: "Look at this copy of a spool or state folder, and ask no agent.",
            },
        ],
    },
    About {
        name: "config",
        summary: "every key of the configuration file",
        text: "",
        options: &[],
    },
];

const CODES: &str = "0 fine, 1 failed, 2 wrong usage or config, 3 agent not reachable";

/// The text of a topic.
pub fn text(topic: Topic) -> String {
    match topic {
        Topic::Of("config") => crate::config::docs::default_file(),
        Topic::Of(name) => TOPICS
            .iter()
            .find(|about| about.name == name)
            .map_or_else(String::new, one),
        Topic::All => all(),
    }
}

fn all() -> String {
    let mut out = String::from(
        "Sonde samples this machine, keeps what it reads through outages, and delivers it\n\
         over OTLP/HTTP and MQTT 5.\n\nUsage: sonde COMMAND [OPTIONS]\n\n",
    );
    for about in TOPICS.iter().filter(|about| about.is_command()) {
        let _ = writeln!(out, "  {:<8} {}", about.name, about.summary);
    }
    let _ = write!(
        out,
        "\n  sonde help COMMAND   what a command does and takes\n\
         \x20 sonde help config    every key of the configuration file (itself a valid one)\n\
         \x20 sonde --version\n\n\
         Exit codes: {CODES}.\n"
    );
    out
}

fn one(about: &About) -> String {
    let usage: Vec<String> = about
        .options
        .iter()
        .map(|flag| format!("[{}]", spelled(flag)))
        .collect();
    let operands = match about.name {
        "exec" => " -- COMMAND [ARGUMENT...]",
        "event" => " NAME [KEY=VALUE...]",
        "gauge" => " NAME VALUE [KEY=VALUE...]",
        "publish" => " TOPIC",
        "spool" => " ls|cat [FRAME]|verify|export",
        "trace" => " [ID]",
        _ => "",
    };
    let mut out = format!(
        "Usage: sonde {}{}\n\n",
        about.name,
        match about.name {
            // What follows the command is its own.
            "exec" => format!(" {}{operands}", usage.join(" ")),
            _ => format!("{operands} {}", usage.join(" ")),
        }
    );
    fill(&mut out, "", about.text);
    if !about.options.is_empty() {
        out.push('\n');
    }
    for flag in about.options {
        let _ = writeln!(out, "  {}", spelled(flag));
        fill(&mut out, "      ", flag.help);
    }
    out
}

fn spelled(flag: &Flag) -> String {
    match flag.value {
        "" => format!("--{}", flag.name),
        value => format!("--{} {value}", flag.name),
    }
}

/// Lines of at most 80 characters.
fn fill(out: &mut String, indent: &str, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width > 0 && width + 1 + word.chars().count() > 80 {
            out.push('\n');
            width = 0;
        }
        match width {
            0 => {
                out.push_str(indent);
                width = indent.len();
            }
            _ => {
                out.push(' ');
                width += 1;
            }
        }
        out.push_str(word);
        width += word.chars().count();
    }
    out.push('\n');
}

/// The man page sonde(1).
#[cfg(test)]
fn man_page() -> String {
    use crate::config::docs::roff;
    let mut out = String::from(
        ".\\\" Written from the table of commands in agent/src/cli/help.rs.\n\
         .TH SONDE 1 \"\" \"Sonde\" \"User commands\"\n\
         .SH NAME\nsonde \\- fleet device agent for embedded Linux gateways\n\
         .SH SYNOPSIS\n.B sonde\nCOMMAND [OPTIONS]\n\
         .SH DESCRIPTION\nSamples this machine, keeps what it reads through outages, and delivers it over OTLP/HTTP and MQTT 5.\n\
         .SH COMMANDS\n",
    );
    for about in TOPICS.iter().filter(|about| about.is_command()) {
        let _ = write!(out, ".SS {}\n{}\n", about.name, roff(about.text));
        for flag in about.options {
            let _ = write!(
                out,
                ".TP\n.B {}\n{}\n",
                roff(&spelled(flag)),
                roff(flag.help)
            );
        }
    }
    let _ = write!(
        out,
        ".SS help [COMMAND|config]\nShows help; for\n.I config\nevery key of the configuration file, as a file that can be used.\n\
         .SH EXIT STATUS\n{}.\n\
         .SH FILES\n.I /etc/sonde/sonde.toml\n.br\n.I /etc/sonde/conf.d/*.toml\n.br\n.I /var/lib/sonde\n.br\n.I /run/sonde/status.sock\n\
         .SH SEE ALSO\n.BR sonde.toml (5)\n",
        roff(CODES)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_man_page_is_what_the_table_of_commands_says() {
        crate::config::docs::compare("docs/man/sonde.1", &man_page());
    }

    #[test]
    fn help_fits_a_terminal_and_names_every_option() {
        for about in TOPICS.iter().filter(|about| about.is_command()) {
            let text = text(Topic::Of(about.name));
            assert!(
                text.lines().skip(1).all(|line| line.chars().count() <= 80),
                "{text}"
            );
            assert!(about.options.iter().all(|flag| text.contains(flag.name)));
            // The text names what it takes; so does the first line.
            let usage = text.lines().next().unwrap_or_default();
            for operand in [
                "NAME",
                "VALUE",
                "[KEY=VALUE",
                "TOPIC",
                "COMMAND",
                "FRAME",
                "ID",
            ] {
                let taken = about
                    .text
                    .contains(&format!("sonde {} {operand}", about.name))
                    || about.text.contains(&format!("{operand}…]"));
                assert!(!taken || usage.contains(operand), "{operand}: {usage}");
            }
        }
        assert!(
            text(Topic::All)
                .lines()
                .all(|line| line.chars().count() <= 82)
        );
    }
}
