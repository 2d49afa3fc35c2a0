//! `sonde spool ls`: how much is stored, from when, and for whom it waits.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

use super::select::{Frame, Selection, each};
use super::{Place, Wants};
use crate::cli::say;
use crate::cli::status::clean;
use crate::frame::{Class, Codec, Signal, Stamp};
use crate::spool::cursor::Ledger;
use crate::spool::format::{Kind, SIGNALS, SignalStats, Stats, signal_slot};
use crate::spool::inspect::{self, Opened, Piece, Segment};
use crate::status::words::{bytes, of, utc};

/// Frames, their items and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    frames: u64,
    items: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Chain {
    segments: u64,
    sealed: u64,
    unreadable: u64,
    newer: u64,
    file_bytes: u64,
    signals: [Sum; SIGNALS],
    first: Stamp,
    last: Stamp,
    /// Per uplink of the place: waiting, acknowledged.
    uplinks: Vec<(Sum, Sum)>,
}

impl Sum {
    fn add(&mut self, stats: &SignalStats) {
        self.frames += u64::from(stats.frames);
        self.items = self.items.saturating_add(stats.items);
        self.bytes = self.bytes.saturating_add(stats.bytes);
    }

    fn json(self) -> Value {
        json!({"frames": self.frames, "items": self.items, "bytes": self.bytes})
    }

    fn words(self) -> String {
        format!("{}, {}", of(self.frames, "frame"), of(self.items, "item"))
    }
}

pub(super) fn run(place: &Place, json: bool, frames: bool, select: &Selection) -> io::Result<bool> {
    let ledger = place.folder.ledger()?;
    if frames {
        return list(place, &ledger, json, select);
    }
    let mut chains: Vec<Chain> = Vec::with_capacity(Class::ALL.len());
    let all = place.folder.segments()?;
    for class in Class::ALL {
        let mut chain = Chain {
            uplinks: vec![Default::default(); place.wants.len()],
            ..Chain::default()
        };
        for (index, &named) in all.iter().enumerate() {
            if named.class != class {
                continue;
            }
            chain.segments += 1;
            match place.folder.segment(named, all.get(index + 1).copied())? {
                Opened::Gone => chain.segments -= 1,
                Opened::Newer => chain.newer += 1,
                Opened::Damaged(len) => {
                    chain.unreadable += 1;
                    chain.file_bytes += len;
                }
                Opened::Segment(segment) => add(&mut chain, place, &ledger, class, &segment)?,
            }
        }
        chains.push(chain);
    }
    Ok(if json {
        let value = to_json(place, &ledger, &chains);
        say(&format!("{value}\n"))
    } else {
        say(&text(place, &ledger, &chains))
    })
}

fn add(
    chain: &mut Chain,
    place: &Place,
    ledger: &Ledger,
    class: Class,
    segment: &Segment,
) -> io::Result<()> {
    let summary = segment.summary()?;
    let stats = &summary.stats;
    chain.sealed += u64::from(summary.sealed);
    chain.file_bytes += summary.bytes;
    if stats.seqs == (0, 0) {
        return Ok(());
    }
    for (sum, signal) in chain.signals.iter_mut().zip(&stats.signals) {
        sum.add(signal);
    }
    if chain.first == Stamp::default() || stats.first.unix_ns < chain.first.unix_ns {
        chain.first = stats.first;
    }
    if stats.last.unix_ns > chain.last.unix_ns {
        chain.last = stats.last;
    }
    for (wants, (waiting, acked)) in place.wants.iter().zip(&mut chain.uplinks) {
        let own = |signal: Signal| wants.signals.contains(signal);
        match inspect::done_all(ledger, wants.uplink, class, stats) {
            Some(done) => {
                let sum = if done { acked } else { waiting };
                sum_up(sum, stats, own);
            }
            None => {
                let mut walk = segment.walk(false);
                while let Some(piece) = walk.next()? {
                    let Piece::Frame(_, header) = piece else {
                        continue;
                    };
                    if header.kind != Kind::Data || !header.signal.is_some_and(own) {
                        continue;
                    }
                    let done = inspect::is_done(ledger, wants.uplink, class, &header);
                    let sum = if done { &mut *acked } else { &mut *waiting };
                    sum.frames += 1;
                    sum.items += u64::from(header.items);
                    sum.bytes += header.payload_len as u64;
                }
            }
        }
    }
    Ok(())
}

fn sum_up(sum: &mut Sum, stats: &Stats, own: impl Fn(Signal) -> bool) {
    for signal in Signal::ALL.into_iter().filter(|signal| own(*signal)) {
        if let Some(stats) = stats.signals.get(signal_slot(signal)) {
            sum.add(stats);
        }
    }
}

impl Chain {
    fn total(&self) -> Sum {
        self.signals.iter().fold(Sum::default(), |all, sum| Sum {
            frames: all.frames + sum.frames,
            items: all.items.saturating_add(sum.items),
            bytes: all.bytes.saturating_add(sum.bytes),
        })
    }
}

fn text(place: &Place, ledger: &Ledger, chains: &[Chain]) -> String {
    let known = match ledger.version {
        // No uplink has acknowledged anything that was on flash.
        0 => String::new(),
        version => format!(" · ledger {version} · next frame {}", ledger.next_seq),
    };
    let dir = place.dir.display().to_string();
    let mut out = format!("spool    {}{known}\n", clean(&dir));
    for (class, chain) in Class::ALL.into_iter().zip(chains) {
        chain_text(&mut out, place, class, chain);
    }
    if place.wants.iter().any(|wants| wants.assumed) {
        out.push_str(
            "note     what each uplink is to get is not known without the agent's --config, so it is taken to be all\n",
        );
    }
    for ((class, reason), loss) in &ledger.losses.table {
        let _ = writeln!(
            out,
            "lost     {}, {}: {}, {} · {} to {}",
            class.as_str(),
            reason.as_str(),
            of(loss.frames, "frame"),
            of(loss.items, "item"),
            utc(loss.first_unix_ns),
            utc(loss.last_unix_ns)
        );
    }
    out
}

fn chain_text(out: &mut String, place: &Place, class: Class, chain: &Chain) {
    let name = class.as_str();
    if chain.segments == 0 {
        let _ = writeln!(out, "{name:<8} nothing");
        return;
    }
    let total = chain.total();
    let mut kinds = Vec::new();
    for (signal, sum) in Signal::ALL.into_iter().zip(&chain.signals) {
        if sum.frames > 0 {
            kinds.push(format!("{} {}", sum.frames, signal.as_str()));
        }
    }
    let kinds = match kinds.len() {
        0 => String::new(),
        _ => format!(" ({})", kinds.join(", ")),
    };
    let _ = writeln!(
        out,
        "{name:<8} {} ({} sealed) · {}{kinds}, {} · bodies {}, files {}",
        of(chain.segments, "segment"),
        chain.sealed,
        of(total.frames, "frame"),
        of(total.items, "item"),
        bytes(total.bytes),
        bytes(chain.file_bytes),
    );
    if total.frames > 0 {
        let (first, last) = (utc(chain.first.unix_ns), utc(chain.last.unix_ns));
        let _ = writeln!(out, "         {first} to {last}");
    }
    for (wants, (waiting, acked)) in place.wants.iter().zip(&chain.uplinks) {
        if waiting.frames + acked.frames == 0 || (wants.assumed && acked.frames == 0) {
            continue;
        }
        let _ = writeln!(
            out,
            "         {}: waiting {}, {} · acknowledged {}",
            wants.uplink.as_str(),
            waiting.words(),
            bytes(waiting.bytes),
            acked.words(),
        );
    }
    if chain.newer > 0 {
        let _ = writeln!(
            out,
            "         {} of a newer format, left alone",
            of(chain.newer, "segment")
        );
    }
    if chain.unreadable > 0 {
        let _ = writeln!(
            out,
            "         {} without a whole header: see sonde spool verify",
            of(chain.unreadable, "segment")
        );
    }
}

fn to_json(place: &Place, ledger: &Ledger, chains: &[Chain]) -> Value {
    let classes = Class::ALL.into_iter().zip(chains).map(|(class, chain)| {
        let signals = Signal::ALL.into_iter().zip(&chain.signals);
        let signals: serde_json::Map<String, Value> = signals
            .map(|(signal, sum)| (signal.as_str().to_owned(), sum.json()))
            .collect();
        let uplinks: Vec<Value> = place
            .wants
            .iter()
            .zip(&chain.uplinks)
            .map(|(wants, (waiting, acked))| {
                json!({
                    "name": wants.uplink.as_str(),
                    "assumed": wants.assumed,
                    "waiting": waiting.json(),
                    "acknowledged": acked.json(),
                })
            })
            .collect();
        json!({
            "class": class.as_str(),
            "segments": chain.segments,
            "sealed": chain.sealed,
            "newer": chain.newer,
            "unreadable": chain.unreadable,
            "file_bytes": chain.file_bytes,
            "total": chain.total().json(),
            "signals": signals,
            "first_unix_ns": chain.first.unix_ns,
            "last_unix_ns": chain.last.unix_ns,
            "uplinks": uplinks,
        })
    });
    let classes: Vec<Value> = classes.collect();
    let losses = ledger.losses.table.iter().map(|((class, reason), loss)| {
        json!({
            "class": class.as_str(),
            "reason": reason.as_str(),
            "frames": loss.frames,
            "items": loss.items,
            "first_unix_ns": loss.first_unix_ns,
            "last_unix_ns": loss.last_unix_ns,
        })
    });
    let losses: Vec<Value> = losses.collect();
    json!({
        "folder": place.dir.display().to_string(),
        "ledger": ledger.version,
        "next_seq": ledger.next_seq,
        "classes": classes,
        "lost": losses,
    })
}

/// A line a frame.
fn list(place: &Place, ledger: &Ledger, json: bool, select: &Selection) -> io::Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    each(place, select, ledger, false, &mut |frame| {
        let uplinks = uplinks(place, ledger, frame);
        if json {
            return writeln!(out, "{}", frame_json(frame, &uplinks));
        }
        let header = &frame.header;
        write!(
            out,
            "{:<20} {:<8} {:<8} {:>7} items {:>8} B  {} to {}",
            frame.id.to_string(),
            frame.class.as_str(),
            frame.signal.as_str(),
            header.items,
            header.payload_len,
            utc(header.first.unix_ns),
            utc(header.last.unix_ns),
        )?;
        for (name, done) in uplinks {
            let word = if done { "acknowledged" } else { "waiting" };
            write!(out, "  {name} {word}")?;
        }
        writeln!(out)
    })?;
    out.flush()?;
    Ok(true)
}

/// The uplinks that are to get a frame, and whether they have it.
pub(in crate::cli) fn uplinks(
    place: &Place,
    ledger: &Ledger,
    frame: &Frame,
) -> Vec<(&'static str, bool)> {
    let wanted = |wants: &&Wants| wants.signals.contains(frame.signal);
    let all = place.wants.iter().filter(wanted);
    all.map(|wants| {
        let done = inspect::is_done(ledger, wants.uplink, frame.class, &frame.header);
        (wants, done)
    })
    // Where nobody told, only what the ledger knows.
    .filter(|(wants, done)| *done || !wants.assumed)
    .map(|(wants, done)| (wants.uplink.as_str(), done))
    .collect()
}

/// What is known of a frame without its body; also a line of an export's manifest.
pub(super) fn frame_json(frame: &Frame, uplinks: &[(&'static str, bool)]) -> Value {
    let header = &frame.header;
    let done = |wanted: bool| -> Vec<&str> {
        let some = uplinks.iter().filter(|(_, done)| *done == wanted);
        some.map(|(name, _)| *name).collect()
    };
    let codec = match header.codec {
        Codec::Identity => "identity",
        Codec::Gzip => "gzip",
    };
    json!({
        "frame": frame.id.to_string(),
        "class": frame.class.as_str(),
        "signal": frame.signal.as_str(),
        "items": header.items,
        "bytes": header.payload_len,
        "encoding": codec,
        "first_unix_ns": header.first.unix_ns,
        "last_unix_ns": header.last.unix_ns,
        "traceparent": header.context.as_ref().map(crate::frame::TraceContext::traceparent),
        "acknowledged": done(true),
        "waiting": done(false),
    })
}
