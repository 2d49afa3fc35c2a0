//! `sonde spool verify`: every checksum there is.

use std::fmt::Write as _;
use std::io;

use serde_json::{Value, json};

use super::Place;
use crate::cli::say;
use crate::spool::inspect::{self, Damage, Opened, Slot};
use crate::status::words::{bytes, count, of};

#[derive(Default)]
struct Report {
    segments: u64,
    frames: u64,
    items: u64,
    checked: u64,
    newer: u64,
    gone: u64,
    torn: u64,
    last_seq: u64,
    /// Frames that the ledger knows of, beyond the last one here.
    beyond: u64,
    damaged: u64,
    lines: String,
    list: Vec<Value>,
}

/// Lines of JSON kept; the text is printed whole.
const MOST: usize = 10_000;

pub(super) fn run(place: &Place, json: bool) -> io::Result<bool> {
    let mut report = Report::default();
    for (index, slot) in place.folder.slots()?.iter().enumerate() {
        let offset = index as u64 * 16_384;
        match slot {
            Slot::Empty => {}
            Slot::Ledger(_) => report.checked += 1,
            Slot::Damaged => report.add(
                "cursors",
                &Damage {
                    offset,
                    what: "a cursor slot (the other one, or a commit frame, holds)",
                    bytes: 16_384,
                    frames: 0,
                    items: Some(0),
                },
            ),
        }
    }
    let all = place.folder.segments()?;
    for (index, &named) in all.iter().enumerate() {
        let path = named.path();
        report.segments += 1;
        match place.folder.segment(named, all.get(index + 1).copied())? {
            Opened::Gone => report.gone += 1,
            Opened::Newer => report.newer += 1,
            // A start cut short: nothing in it was ever acknowledged.
            Opened::Damaged(len) if len <= 256 => report.torn += len,
            Opened::Damaged(len) => report.add(
                &path,
                &Damage {
                    offset: 0,
                    what: "both copies of the segment's header",
                    bytes: len,
                    frames: len / 72,
                    items: None,
                },
            ),
            Opened::Segment(segment) => {
                let checked = inspect::verify(&segment)?;
                report.frames += checked.frames;
                report.items += checked.items;
                report.checked += checked.checked;
                report.torn += checked.torn;
                report.last_seq = report.last_seq.max(checked.last_seq);
                report.damaged += checked.more;
                for damage in &checked.damage {
                    report.add(&path, damage);
                }
            }
        }
    }
    if report.segments > 0 {
        report.beyond = inspect::beyond(&place.folder.ledger()?, report.last_seq);
    }
    let whole = report.damaged == 0;
    let said = if json {
        say(&format!("{}\n", report.json(place)))
    } else {
        say(&report.text(place))
    };
    Ok(whole && said)
}

impl Report {
    fn add(&mut self, path: &str, damage: &Damage) {
        self.damaged += 1;
        let costs = match (damage.frames, damage.items) {
            (0, _) => "costs no frame".to_owned(),
            (frames, Some(items)) => {
                format!("costs {}, {}", of(frames, "frame"), of(items, "item"))
            }
            (frames, None) => format!("costs at most {}", of(frames, "frame")),
        };
        let _ = writeln!(
            self.lines,
            "{path}: at {}: damaged: {} ({}); {costs}",
            damage.offset,
            damage.what,
            bytes(damage.bytes),
        );
        if self.list.len() < MOST {
            self.list.push(json!({
                "file": path,
                "offset": damage.offset,
                "bytes": damage.bytes,
                "what": damage.what,
                "frames": damage.frames,
                "items": damage.items,
            }));
        }
    }

    fn text(&self, place: &Place) -> String {
        let mut out = self.lines.clone();
        let mut note = |n: u64, what: &str| {
            if n > 0 {
                let _ = writeln!(out, "note: {what}");
            }
        };
        let torn = format!(
            "{} at the end of segments: appends that were going on or cut short, which were \
             acknowledged to nobody; in a copy, perhaps a copy that ended early",
            bytes(self.torn)
        );
        note(self.torn, &torn);
        let beyond = format!(
            "up to {} than the last one here, not acknowledged: only in the agent's memory, or cut off a copy",
            of(self.beyond, "newer frame")
        );
        note(self.beyond, &beyond);
        let newer = of(self.newer, "segment");
        note(
            self.newer,
            &format!("{newer} of a newer format, which only a newer sonde can check"),
        );
        note(
            self.gone,
            &format!("{} went while this ran", of(self.gone, "segment")),
        );
        let verdict = match self.damaged {
            0 if self.torn + self.beyond > 0 => "whole as far as it goes".to_owned(),
            0 => "whole".to_owned(),
            n => format!("damaged in {}", of(n, "place")),
        };
        let _ = writeln!(
            out,
            "{verdict}: {}: {}, {} checked, {} with {} readable",
            place.dir.display(),
            of(self.segments, "segment"),
            count(self.checked),
            of(self.frames, "frame"),
            of(self.items, "item"),
        );
        out
    }

    fn json(&self, place: &Place) -> Value {
        json!({
            "folder": place.dir.display().to_string(),
            "whole": self.damaged == 0,
            "segments": self.segments,
            "checksums": self.checked,
            "frames": self.frames,
            "items": self.items,
            "torn_bytes": self.torn,
            "frames_beyond": self.beyond,
            "newer_segments": self.newer,
            "gone_segments": self.gone,
            "damaged_places": self.damaged,
            "damage": self.list,
        })
    }
}
