//! Kernel panics that outlived their boot: pstore (ramoops, EFI), and where
//! systemd-pstore moves its records to.
//!
//! A record stays until somebody removes it, so each is known by a fingerprint
//! of the panic's own line, whose kernel time no other boot repeats. A record
//! that was moved keeps its fingerprint.
//!
//! Source: `Documentation/ABI/testing/pstore`, `admin-guide/ramoops.rst`,
//! `fs/pstore/platform.c` (the head line), systemd-pstore.service(8).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::evidence::{Evidence, names, shown, tail};
use super::record::clean;

const LIVE: &str = "sys/fs/pstore";
const MOVED: &str = "var/lib/systemd/pstore";
/// Names that are looked at in one folder.
const NAMES: usize = 256;
/// Records that are read.
const RECORDS: usize = 64;
/// More than one record has; of a longer file the end, where the panic is.
const BYTES: u64 = 256 * 1024;

/// One panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Panic {
    /// Tells it from others.
    pub(super) fingerprint: u32,
    /// The file, and the panic's line.
    pub(super) text: String,
    /// It was made for want of memory.
    pub(super) oom: bool,
}

/// Finds all panics below `root`.
pub(super) fn look(root: &Path, found: &mut Evidence) {
    let mut records = Vec::new();
    collect(&root.join(LIVE), root, 0, &mut records, found);
    collect(&root.join(MOVED), root, 1, &mut records, found);
    // The newest have the greatest names, where names tell at all.
    let skipped = records.len().saturating_sub(RECORDS);
    if skipped > 0 {
        found.notes.push(format!("{skipped} pstore records unread"));
    }
    for path in records.into_iter().rev().take(RECORDS) {
        let Ok(bytes) = tail(&path, BYTES) else {
            found
                .notes
                .push(format!("{} cannot be read", shown(root, &path)));
            continue;
        };
        match of(&bytes) {
            Some(Found::Panic(line)) => {
                let fingerprint = crc32c::crc32c(line.as_bytes());
                if found.panics.iter().all(|p| p.fingerprint != fingerprint) {
                    found.panics.push(Panic {
                        fingerprint,
                        oom: line.to_ascii_lowercase().contains("out of memory"),
                        text: clean(&format!("{}: {line}", shown(root, &path))),
                    });
                }
            }
            Some(Found::Oops) => found.notes.push(format!(
                "{} holds an oops, which the kernel may have survived",
                shown(root, &path)
            )),
            None => {}
        }
    }
}

fn collect(
    folder: &Path,
    root: &Path,
    deeper: usize,
    records: &mut Vec<PathBuf>,
    found: &mut Evidence,
) {
    let paths = match names(folder, NAMES) {
        Ok(paths) => paths,
        Err(error) => {
            if error.kind() == ErrorKind::PermissionDenied {
                let note = format!("{} may not be read by this user", shown(root, folder));
                found.notes.push(note);
            }
            return;
        }
    };
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        if deeper > 0 && path.is_dir() {
            collect(&path, root, deeper - 1, records, found);
        } else if name.starts_with("dmesg") && !name.ends_with(".enc.z") {
            records.push(path);
        }
    }
}

enum Found {
    Panic(String),
    Oops,
}

/// What a record tells. Its head is such as `Panic#1 Part1`.
fn of(bytes: &[u8]) -> Option<Found> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(message);
    if let Some(line) = lines.find(|line| line.contains("Kernel panic - not syncing")) {
        return Some(Found::Panic(line.to_owned()));
    }
    let head = text.lines().next().unwrap_or_default();
    let (kind, part) = head.split_once('#').unwrap_or_default();
    // Part 1 has the last lines of the log; the others only what came before.
    let first = part.ends_with("Part1");
    match kind {
        "Panic" if first => {
            let last = text.lines().map(message).rfind(|line| !line.is_empty());
            Some(Found::Panic(last.unwrap_or(head).to_owned()))
        }
        "Oops" if first => Some(Found::Oops),
        _ => None,
    }
}

/// A line of the kernel's log without its level: `<0>[  12.345678] text`.
fn message(line: &str) -> &str {
    let rest = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    rest.map_or(line, |(_, rest)| rest).trim()
}
