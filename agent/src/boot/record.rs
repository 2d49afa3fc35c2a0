//! What the agent writes down about its own boots and runs, as small files of
//! text: a first line that names the format, lines of tab-separated fields, a
//! checksum. What is damaged or of another version reads as absent.
//!
//! ```text
//! {state}/boot/count     durable; once a boot: boot, count, reason, known panics
//! {state}/boot/stopped   durable; at an orderly stop: which run, was the machine going down
//! {state}/boot/panic     by the panic hook: which run, message, place, backtrace
//! {runtime}/boot         not durable: the run under way, and reports not yet stored
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{End, Reason, Report, What};
use crate::frame::push_hex;

const FIRST_LINE: &str = "sonde boot 1";
/// The longest file that is believed.
pub(super) const MAX_BYTES: usize = 32 * 1024;
/// Panics that are remembered.
pub(super) const MAX_SEEN: usize = 64;
/// Reports that wait for the spool.
pub(super) const MAX_PENDING: usize = 8;
/// The longest text of one piece of evidence, in bytes.
const MAX_TEXT: usize = 256;
/// Pieces of evidence.
pub(super) const MAX_EVIDENCE: usize = 8;

/// A boot, by `/proc/sys/kernel/random/boot_id`.
pub(super) type BootId = [u8; 16];

/// One run of the agent: the boot, and when in it the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RunId {
    pub(super) boot: BootId,
    pub(super) start_ns: u64,
}

/// What is known of boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// The last boot that was counted.
    pub(super) boot: BootId,
    /// Which one it was.
    pub(super) count: u64,
    /// How the boot before it ended.
    pub(super) end: End,
    /// Panics that belong to earlier boots, the newest last.
    pub(super) seen: Vec<u32>,
}

/// How often the kernel has killed for want of memory; `None`: not to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OomKills {
    /// On the whole machine.
    pub(super) host: Option<u64>,
    /// In the agent's own cgroup.
    pub(super) own: Option<u64>,
    /// In the one above it, which a service manager does not remove with the agent.
    pub(super) above: Option<u64>,
}

/// The run under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: RunId,
    /// What it found at its start.
    pub(super) oom: OomKills,
    /// Restarts in this boot, by how the run before each ended.
    pub(super) restarts: BTreeMap<Reason, u64>,
    /// What is known of boots, for when the state folder cannot be written.
    pub(super) count: Option<Count>,
    /// What the spool may not have yet.
    pub(super) pending: Vec<Report>,
}

/// An orderly stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) id: RunId,
    /// The part whose loss made the agent stop.
    pub(super) lost: Option<String>,
    /// What showed that the machine was going down.
    pub(super) going_down: Option<String>,
}

/// A panic of the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Crash {
    pub(super) id: RunId,
    /// Message, place and thread.
    pub(super) message: String,
    /// Empty unless the environment asked for one.
    pub(super) backtrace: String,
}

/// That the voltage was too low in a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Faint {
    pub(super) boot: BootId,
    /// What said so.
    pub(super) by: String,
}

/// One line of plain text, not too long.
pub(super) fn clean(text: &str) -> String {
    cut(text, MAX_TEXT)
}

/// The same with another bound.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        if out.len() + c.len_utf8() > limit {
            out.push('…');
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// Writes a file's text line by line.
#[derive(Debug)]
struct Page(String);

impl Page {
    fn new() -> Self {
        Self(format!("{FIRST_LINE}\n"))
    }

    /// Fields hold neither tabs nor line ends: see [`clean`].
    fn line(&mut self, fields: &[&str]) {
        self.0.push_str(&fields.join("\t"));
        self.0.push('\n');
    }

    fn id(&mut self, id: RunId) {
        self.line(&["run", &hex(&id.boot), &id.start_ns.to_string()]);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.line(&[key, &value.to_string()]);
        }
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(&[key, value]);
        }
    }

    fn count(&mut self, count: &Count) {
        self.line(&["boot", &hex(&count.boot), &count.count.to_string()]);
        let mut fields = vec!["end", count.end.reason.as_str()];
        fields.extend(count.end.evidence.iter().map(String::as_str));
        self.line(&fields);
        for seen in &count.seen {
            self.line(&["seen", &seen.to_string()]);
        }
    }

    fn sealed(mut self) -> Vec<u8> {
        let sum = crc32c::crc32c(self.0.as_bytes());
        let _ = writeln!(self.0, "crc\t{sum:08x}");
        self.0.into_bytes()
    }
}

/// The lines of a whole file, each as its fields.
struct Lines<'a>(Vec<Vec<&'a str>>);

impl<'a> Lines<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (body, crc) = text.rsplit_once('\n')?;
        let sum = u32::from_str_radix(crc.strip_prefix("crc\t")?, 16).ok()?;
        let body = text.get(..=body.len())?;
        if crc32c::crc32c(body.as_bytes()) != sum {
            return None;
        }
        let lines = body.strip_prefix(FIRST_LINE)?.trim_matches('\n').lines();
        Some(Self(lines.map(|line| line.split('\t').collect()).collect()))
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &[&'a str]> {
        self.0
            .iter()
            .filter_map(move |line| match line.split_first() {
                Some((first, rest)) if *first == key => Some(rest),
                _ => None,
            })
    }

    fn first(&self, key: &str) -> Option<&[&'a str]> {
        self.all(key).next()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.first(key)?.first().map(|text| (*text).to_owned())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.first(key)?.first()?.parse().ok()
    }

    fn id(&self) -> Option<RunId> {
        let fields = self.first("run")?;
        Some(RunId {
            boot: unhex(fields.first()?)?,
            start_ns: fields.get(1)?.parse().ok()?,
        })
    }

    fn count(&self) -> Option<Count> {
        let fields = self.first("boot")?;
        let seen = self.all("seen").filter_map(|f| f.first()?.parse().ok());
        Some(Count {
            boot: unhex(fields.first()?)?,
            count: fields.get(1)?.parse().ok()?,
            end: end(self.first("end")?)?,
            seen: seen.take(MAX_SEEN).collect(),
        })
    }
}

impl Count {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.count(self);
        page.sealed()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Lines::open(bytes)?.count()
    }
}

impl Run {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.id(self.id);
        page.number("oom host", self.oom.host);
        page.number("oom own", self.oom.own);
        page.number("oom above", self.oom.above);
        for (reason, count) in &self.restarts {
            page.line(&["restarts", reason.as_str(), &count.to_string()]);
        }
        if let Some(count) = &self.count {
            page.count(count);
        }
        for report in &self.pending {
            let number = report.number.to_string();
            let end = &report.end;
            let mut fields = vec!["pending", report.what.as_str(), &report.uid, &number];
            fields.push(end.reason.as_str());
            fields.extend(end.evidence.iter().map(String::as_str));
            page.line(&fields);
        }
        page.sealed()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let lines = Lines::open(bytes)?;
        let restarts = lines.all("restarts").filter_map(|fields| {
            let [reason, count] = fields else { return None };
            Some((Reason::of(reason)?, count.parse().ok()?))
        });
        let pending = lines.all("pending").filter_map(|fields| {
            let [what, uid, number, rest @ ..] = fields else {
                return None;
            };
            Some(Report {
                what: What::of(what)?,
                uid: (*uid).to_owned(),
                number: number.parse().ok()?,
                end: end(rest)?,
            })
        });
        Some(Self {
            id: lines.id()?,
            oom: OomKills {
                host: lines.number("oom host"),
                own: lines.number("oom own"),
                above: lines.number("oom above"),
            },
            restarts: restarts.collect(),
            count: lines.count(),
            pending: pending.take(MAX_PENDING).collect(),
        })
    }
}

impl Marker {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.id(self.id);
        page.text("lost", self.lost.as_deref());
        page.text("going down", self.going_down.as_deref());
        page.sealed()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let lines = Lines::open(bytes)?;
        Some(Self {
            id: lines.id()?,
            lost: lines.text("lost"),
            going_down: lines.text("going down"),
        })
    }
}

impl Faint {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.id(RunId {
            boot: self.boot,
            start_ns: 0,
        });
        page.text("low voltage", Some(&self.by));
        page.sealed()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let lines = Lines::open(bytes)?;
        Some(Self {
            boot: lines.id()?.boot,
            by: lines.text("low voltage").unwrap_or_default(),
        })
    }
}

impl Crash {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.id(self.id);
        page.text("message", Some(&self.message));
        page.text("backtrace", Some(&self.backtrace));
        page.sealed()
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let lines = Lines::open(bytes)?;
        Some(Self {
            id: lines.id()?,
            message: lines.text("message")?,
            backtrace: lines.text("backtrace").unwrap_or_default(),
        })
    }
}

fn end(fields: &[&str]) -> Option<End> {
    let (reason, evidence) = fields.split_first()?;
    let evidence = evidence.iter().take(MAX_EVIDENCE);
    Some(End {
        reason: Reason::of(reason)?,
        evidence: evidence.map(|text| (*text).to_owned()).collect(),
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    push_hex(&mut out, bytes);
    out
}

fn unhex(text: &str) -> Option<BootId> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}
