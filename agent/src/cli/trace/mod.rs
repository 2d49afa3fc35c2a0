//! `sonde trace`: what the gateway still holds of a trace.
//!
//! Looks into the spool's files and asks the running agent for what it has in
//! memory. Either will do: without an agent there is the spool, without leave
//! to read the spool there is the agent.

mod answer;
mod args;
mod spans;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) use args::parse;

use self::spans::{Span, SpanId, TraceId};
use self::table::Table;
use super::spool::{Frame, Place, Selection, body_of, each, find, uplinks};
use super::{FAILED, FINE, UNREACHABLE, WRONG, complain, say, status};
use crate::config::{self, Env};
use crate::frame::{Class, Signal};
use crate::otlp::json;
use crate::spool::cursor::Ledger;
use crate::status::words::{of, utc};

/// What the command line said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is asked for.
    pub ask: Ask,
    /// `--json`: all that the spans carry, as OTLP/JSON.
    pub json: bool,
    /// `--config`: take the places from there.
    pub config: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--dir`: a copy of a spool; then no agent is asked.
    pub dir: Option<PathBuf>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One trace, by the first digits of its id.
    One(String),
    /// `--recent`
    Recent,
    /// `--errors`
    Errors,
}

/// Spans kept of one trace; more are counted.
const SPANS: usize = 5000;
/// Frames listed of one trace.
const FRAMES: usize = 200;

/// A frame that has something to do with the trace.
#[derive(Debug)]
struct Part {
    /// Empty: it has no name yet.
    name: String,
    class: Class,
    signal: Signal,
    /// Spans of the trace in it.
    spans: usize,
    place: &'static str,
    /// Who is to get it, and has.
    uplinks: Vec<(String, bool)>,
    /// The span that its context names.
    context: Option<SpanId>,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    spans: Vec<Span>,
    more: usize,
    /// Span ids by trace, so that a repeat is shown once.
    known: BTreeSet<(TraceId, [u8; 8])>,
    parts: Vec<Part>,
    more_parts: usize,
    unread: u64,
    table: Table,
    /// Frames that the agent has given, which are not taken from its files again.
    names: BTreeSet<String>,
    /// Frames in memory that the agent did not show.
    not_shown: u64,
    /// Lines of OTLP/JSON are wanted, and here they are.
    json: Option<Vec<u8>>,
}

/// Performs it.
pub fn run(options: &Options, env: &Env) -> ExitCode {
    if let Some(file) = options.config.as_deref().filter(|file| !file.exists()) {
        let file = file.display();
        complain(&format!(
            "sonde trace: {file} does not exist, so where its agent and spool are cannot be known"
        ));
        return ExitCode::from(WRONG);
    }
    let mut found = Found {
        json: options.json.then(Vec::new),
        ..Found::default()
    };
    let config = options.config.as_deref();
    let place = find(options.dir.as_deref(), config, env);
    let asked = match options.dir {
        Some(_) => Ok(()),
        None => {
            let socket = options.socket.clone();
            let socket = socket.unwrap_or_else(|| config::status_socket(config, env));
            answer::ask(&socket, &options.ask, &mut found)
        }
    };
    let read = match place {
        Ok(place) => {
            in_spool(&place, &options.ask, &mut found).map_err(|error| (FAILED, error.to_string()))
        }
        Err(why) => Err(why),
    };
    match (&asked, &read) {
        (Err(agent), Err((code, spool))) => {
            let words = format!("{}; and {spool}", agent.words());
            complain(&format!("sonde trace: {}", status::clean(&words)));
            let no_agent = agent.code() == UNREACHABLE;
            return ExitCode::from(if no_agent { UNREACHABLE } else { *code });
        }
        (Err(agent), Ok(())) => complain(&format!(
            "sonde trace: only what is on flash: {}",
            status::clean(agent.words())
        )),
        (Ok(()), Err((code, spool))) if options.dir.is_some() => {
            complain(&format!("sonde trace: {}", status::clean(spool)));
            return ExitCode::from(*code);
        }
        (Ok(()), Err((_, spool))) => complain(&format!(
            "sonde trace: only what is in the agent's memory: {}",
            status::clean(spool)
        )),
        (Ok(()), Ok(())) => {}
    }
    if found.unread > 0 {
        complain(&format!(
            "sonde trace: {} could not be read: see sonde spool verify",
            of(found.unread, "frame")
        ));
    }
    if found.not_shown > 0 {
        complain(&format!(
            "sonde trace: {} in the agent's memory, older than those that were looked through, \
             could not be shown",
            of(found.not_shown, "frame")
        ));
    }
    if let Some(lines) = &found.json {
        let any = !lines.is_empty();
        let said = say(&String::from_utf8_lossy(lines));
        return ExitCode::from(if said && any { FINE } else { FAILED });
    }
    let (text, any) = match &options.ask {
        Ask::One(id) => found.text(id, asked.is_ok() && options.dir.is_none()),
        Ask::Recent => found.table.text(false),
        Ask::Errors => found.table.text(true),
    };
    let said = say(&text);
    ExitCode::from(if said && any { FINE } else { FAILED })
}

fn in_spool(place: &Place, ask: &Ask, found: &mut Found) -> io::Result<()> {
    let ledger = place.folder.ledger()?;
    let traces = Selection {
        signal: Some(Signal::Traces),
        ..Selection::default()
    };
    each(place, &traces, &ledger, true, &mut |frame| {
        let name = frame.id.to_string();
        if found.names.contains(&name) {
            found.also_on_flash(&name);
        } else {
            let part = part(place, &ledger, frame, name);
            match body_of(frame) {
                Ok(body) => found.request(ask, &body, part),
                Err(_) => found.unread += 1,
            }
        }
        Ok(())
    })?;
    let Ask::One(id) = ask else { return Ok(()) };
    // Frames of other signals say by their context to which trace they belong.
    each(place, &Selection::default(), &ledger, false, &mut |frame| {
        let context = frame.header.context.as_ref();
        let name = frame.id.to_string();
        let own = context.is_some_and(|context| tree::hex(&context.trace_id).starts_with(id));
        if own && frame.signal != Signal::Traces {
            match found.names.contains(&name) {
                true => found.also_on_flash(&name),
                false => found.part(part(place, &ledger, frame, name)),
            }
        }
        Ok(())
    })
}

fn part(place: &Place, ledger: &Ledger, frame: &Frame, name: String) -> Part {
    let uplinks = uplinks(place, ledger, frame).into_iter();
    let context = frame.header.context.as_ref();
    Part {
        context: context.map(|context| context.span_id),
        name,
        class: frame.class,
        signal: frame.signal,
        spans: 0,
        place: "on flash",
        uplinks: uplinks
            .map(|(name, done)| (name.to_owned(), done))
            .collect(),
    }
}

impl Found {
    /// Takes what is asked for out of an `ExportTraceServiceRequest`.
    fn request(&mut self, ask: &Ask, body: &[u8], mut part: Part) {
        let walked = spans::each(body, &mut |span| match ask {
            Ask::One(id) => {
                if tree::hex(&span.trace).starts_with(id) {
                    part.spans += 1;
                    self.span(span);
                }
            }
            Ask::Recent | Ask::Errors => self.table.add(&span),
        });
        self.unread += u64::from(walked.is_err());
        if part.spans > 0
            && let (Some(out), Ask::One(id)) = (&mut self.json, ask)
        {
            let wanted = |trace: &[u8]| tree::hex(trace).starts_with(id);
            let kept = spans::only(body, &wanted).ok().flatten();
            let before = out.len();
            let written = kept.and_then(|kept| json::write(out, Signal::Traces, &kept).ok());
            match written {
                Some(()) => out.push(b'\n'),
                None => {
                    out.truncate(before);
                    self.unread += 1;
                }
            }
        }
        if part.spans > 0 {
            self.part(part);
        }
    }

    fn span(&mut self, span: Span) {
        if self.spans.len() >= SPANS {
            self.more += 1;
        } else if self.known.insert((span.trace, span.id)) {
            self.spans.push(span);
        }
    }

    fn also_on_flash(&mut self, name: &str) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.name == name) {
            part.place = "in memory and on flash";
        }
    }

    fn part(&mut self, part: Part) {
        match self.parts.len() {
            0..FRAMES => self.parts.push(part),
            _ => self.more_parts += 1,
        }
    }

    /// The trees of all traces whose id begins so, and their frames.
    fn text(mut self, id: &str, asked: bool) -> (String, bool) {
        let mut out = String::new();
        let mut traces: Vec<TraceId> = self.spans.iter().map(|span| span.trace).collect();
        traces.sort_unstable();
        traces.dedup();
        self.spans.sort_by_key(|span| (span.trace, span.start));
        for trace in &traces {
            let from = self.spans.partition_point(|span| span.trace < *trace);
            let upto = self.spans.partition_point(|span| span.trace <= *trace);
            let spans = self.spans.get(from..upto).unwrap_or_default();
            let errors = spans.iter().filter(|span| span.is_error()).count() as u64;
            let first = spans.iter().map(|span| span.start).min().unwrap_or(0);
            let last = spans.iter().map(|span| span.end).max().unwrap_or(0);
            let _ = writeln!(
                out,
                "trace {} · {}, {} · {} · {}\n\n{}",
                tree::hex(trace),
                of(spans.len() as u64, "span"),
                of(errors, "error"),
                utc(first),
                tree::length(last.saturating_sub(first)),
                tree::draw(spans)
            );
        }
        if self.more > 0 {
            let _ = writeln!(out, "{} more are not shown\n", of(self.more as u64, "span"));
        }
        if traces.is_empty() && self.parts.is_empty() {
            let memory = match asked {
                true => ", and not among what the agent has in memory",
                false => "",
            };
            let _ = writeln!(
                out,
                "nothing is held of trace {id}: it is not on flash{memory}"
            );
            return (out, false);
        }
        out.push_str("frames\n");
        for part in &self.parts {
            out.push_str(&part.line(&self.spans));
        }
        if self.more_parts > 0 {
            let _ = writeln!(out, "  {} more", of(self.more_parts as u64, "frame"));
        }
        (out, true)
    }
}

impl Part {
    fn line(&self, spans: &[Span]) -> String {
        let name = match self.name.as_str() {
            "" => "not sealed yet",
            name => name,
        };
        let what = match self.spans {
            0 => match spans.iter().find(|span| Some(span.id) == self.context) {
                Some(span) => format!("carries the context of {}", span.name),
                None => "carries the trace's context".to_owned(),
            },
            n => of(n as u64, "span"),
        };
        let mut out = format!(
            "  {name:<20} {:<8} {:<8} {what} · {}",
            self.class.as_str(),
            self.signal.as_str(),
            self.place
        );
        for (uplink, done) in &self.uplinks {
            let word = if *done { "acknowledged" } else { "waiting" };
            let _ = write!(out, " · {uplink}: {word}");
        }
        out.push('\n');
        out
    }
}

/// Walks over the spans of whatever it is given.
#[cfg(test)]
pub(crate) fn fuzz(body: &[u8]) {
    let mut found = Found::default();
    let whole = spans::each(body, &mut |span| {
        found.table.add(&span);
        found.span(span);
    });
    if whole.is_ok() {
        found.table.text(true);
        found.text("", true);
        spans::only(body, &|_| true).unwrap();
    }
}
