//! What the agent remembers of commands, so that none is run twice and none is
//! forgotten: a small file of its own in `{state}/commands/`.
//!
//! Promises: what [`Journal::write`] has said yes to survives a power cut at
//! any instant after; a cut before leaves what was there before, whole; nothing
//! found on disk can stop the start. Refuses to grow: it is written anew, with
//! what is still wanted, before it has more than half of its quota.
//!
//! ```text
//! {state}/commands/7.commands      the highest number whose snapshot is whole counts
//!
//! "SONDECM1"                       8 bytes; another version's file is left alone
//! frame…                           a snapshot: one Put a frame, then Whole
//! frame…                           what happened since; one for each sync
//!
//! frame    "\xc5CMD"  length u32  crc32c u32 of the records  record…
//! record   1 Put entry (`record`) · 2 Posted id u64 · 3 Whole
//! ```
//!
//! Integers are little-endian. The last record about a command counts. A new
//! file is written, synced, its name synced, and only then is the old one
//! removed; there is no renaming. After a write or a sync that failed, nothing
//! is ever added to that file again: what a failed `fsync` left of it, nobody knows.
//!
//! **Damage.** A torn last frame is what a power cut leaves and means nothing.
//! Damage with a whole frame behind it does: what was lost could be the end of
//! a command or its next start. It is told, see [`Recovered::damaged`]; a
//! command is first written down as started, so it makes none run twice.
//!
//! Blocking: whoever runs it on a runtime wraps each call in `spawn_blocking`.

use std::collections::BTreeMap;
use std::io;

use crc32c::crc32c;

use crate::spool::storage::Storage;

#[cfg(test)]
mod fuzz;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use record::{Arrival, Entry, Key, Record, State};

const MAGIC: &[u8; 8] = b"SONDECM1";
const FRAME: &[u8; 4] = b"\xc5CMD";
/// Magic, length, checksum.
const HEAD: usize = 12;
const SUFFIX: &str = ".commands";

/// The longest payload that is believed: what is written at once has less.
const MAX_FRAME: usize = 8 << 20;

/// The largest file that is read, whatever the quota was when it was written.
const MAX_FILE: u64 = 64 << 20;

/// The file that is written to.
#[derive(Debug)]
pub(crate) struct Journal<S: Storage> {
    storage: S,
    /// `None`: none yet, or not to be trusted any more.
    file: Option<S::File>,
    number: u64,
    bytes: u64,
    /// Names of files that are no more wanted.
    old: Vec<String>,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Each command's last state, oldest first.
    pub(crate) entries: Vec<Entry>,
    /// Records may be missing from the middle.
    pub(crate) damaged: bool,
    /// What is worth a line in the log.
    pub(crate) notes: Vec<String>,
}

impl<S: Storage> Journal<S> {
    /// Reads what is there. Writes nothing.
    pub(crate) fn open(mut storage: S) -> (Self, Recovered) {
        let mut found = Recovered::default();
        let mut old = Vec::new();
        let mut number = 0;
        let mut files: Vec<(u64, String, u64)> = match storage.list("") {
            Ok(files) => files
                .into_iter()
                .filter_map(|file| Some((number_of(&file.name)?, file.name, file.len)))
                .collect(),
            Err(error) => {
                found
                    .notes
                    .push(format!("what was there is unknown: {error}"));
                found.damaged = true;
                Vec::new()
            }
        };
        files.sort();
        let mut partial = None;
        while let Some((at, name, len)) = files.pop() {
            number = number.max(at);
            match read_file(&mut storage, &name, len) {
                Read::Whole(entries, damaged) => {
                    found.entries = entries;
                    if damaged {
                        found.damaged = true;
                        found.notes.push(format!("{name} is damaged"));
                    }
                    partial = None;
                    old.push(name);
                    // Older ones are what it replaced.
                    old.extend(files.drain(..).map(|(_, name, _)| name));
                }
                Read::Partial(entries) => {
                    partial.get_or_insert((name.clone(), entries));
                    old.push(name);
                }
                Read::Foreign => found.notes.push(format!(
                    "{name} was written by another version and is left alone"
                )),
                Read::Failed(why) => {
                    found.notes.push(format!("{name} cannot be read: {why}"));
                    found.damaged = true;
                }
            }
        }
        // Cut off while it was made there would be an older one.
        if let Some((name, entries)) = partial
            && !entries.is_empty()
        {
            found.notes.push(format!("{name} is damaged"));
            found.damaged = true;
            found.entries = entries;
        }
        let journal = Self {
            storage,
            file: None,
            number,
            bytes: 0,
            old,
        };
        (journal, found)
    }

    /// Whether `bytes` more need a snapshot with them. The file may have half of
    /// the quota: while it is written anew there are two.
    pub(crate) fn wants_snapshot(&self, bytes: usize, quota: u64) -> bool {
        self.file.is_none() || self.bytes + bytes as u64 > quota / 2
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a [`batch`] and syncs it. With a [`snapshot`] (everything that is
    /// wanted, the batch applied) a new file is made of that instead.
    ///
    /// # Errors
    /// Nothing is promised about the batch; the next call needs a snapshot.
    pub(crate) fn write(&mut self, batch: &[u8], snapshot: Option<&[u8]>) -> io::Result<()> {
        match snapshot {
            Some(snapshot) => self.write_anew(snapshot),
            None => {
                // Taken away first: after an error it stays so.
                let mut file = self.file.take().ok_or_else(|| {
                    io::Error::other("there is no command journal that can be written to")
                })?;
                self.storage.append(&mut file, batch)?;
                self.storage.sync(&mut file)?;
                self.bytes += batch.len() as u64;
                self.file = Some(file);
                Ok(())
            }
        }
    }

    fn write_anew(&mut self, snapshot: &[u8]) -> io::Result<()> {
        self.file = None;
        self.storage.make_dir("")?;
        self.number += 1;
        let name = format!("{}{SUFFIX}", self.number);
        // Whatever becomes of it, the next one replaces it.
        let before = std::mem::replace(&mut self.old, vec![name.clone()]);
        let made = self.fill(&name, snapshot);
        match made {
            Ok(file) => {
                for name in &before {
                    // It stays for the next start, which knows it for the older one.
                    if let Err(error) = self.storage.unlink(name) {
                        log::debug!("commands: {error}");
                    }
                }
                self.bytes = snapshot.len() as u64;
                self.file = Some(file);
                Ok(())
            }
            Err(error) => {
                // Half a file could pass for a whole one only if it is one.
                let _ = self.storage.unlink(&name);
                self.old.splice(0..0, before);
                Err(error)
            }
        }
    }

    fn fill(&mut self, name: &str, snapshot: &[u8]) -> io::Result<S::File> {
        let mut file = self.storage.create(name)?;
        self.storage.append(&mut file, snapshot)?;
        self.storage.sync(&mut file)?;
        self.storage.sync_dir("")?;
        Ok(file)
    }
}

/// `7.commands`
fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

enum Read {
    /// Its entries, and whether records are missing after its snapshot.
    Whole(Vec<Entry>, bool),
    /// Its snapshot is not whole: it was cut off while it was made, or is damaged.
    Partial(Vec<Entry>),
    /// Not ours to touch.
    Foreign,
    Failed(io::Error),
}

/// What happened, as [`Journal::write`] takes it: all of it or nothing survives.
pub(crate) fn batch(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(records, &mut out);
    out
}

/// Everything that is wanted, as [`Journal::write`] takes it.
pub(crate) fn snapshot<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for entry in entries {
        frame(&[Record::Put(Box::new(entry.clone()))], &mut out);
    }
    frame(&[Record::Whole], &mut out);
    out
}

fn frame(records: &[Record], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(FRAME);
    out.extend_from_slice(&[0; HEAD - FRAME.len()]);
    for record in records {
        record.encode(out);
    }
    let payload = out.get(start + HEAD..).unwrap_or_default();
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let sum = crc32c(payload).to_le_bytes();
    let numbers = length.into_iter().chain(sum);
    let head = out.iter_mut().skip(start + FRAME.len());
    head.zip(numbers).for_each(|(byte, value)| *byte = value);
}

fn read_file<S: Storage>(storage: &mut S, name: &str, len: u64) -> Read {
    let mut bytes = vec![0; usize::try_from(len.min(MAX_FILE)).unwrap_or(0)];
    match storage.read_at(name, 0, &mut bytes) {
        Ok(count) => bytes.truncate(count),
        Err(error) => return Read::Failed(error),
    }
    match bytes.strip_prefix(MAGIC) {
        Some(frames) => read_frames(frames),
        None if bytes.starts_with(&MAGIC[..MAGIC.len() - 1]) && bytes.len() >= MAGIC.len() => {
            Read::Foreign
        }
        None => Read::Partial(Vec::new()),
    }
}

fn read_frames(mut bytes: &[u8]) -> Read {
    let mut entries = BTreeMap::new();
    let (mut whole, mut gap, mut damaged) = (false, false, false);
    while !bytes.is_empty() {
        let Some((payload, rest)) = cut_frame(bytes) else {
            gap = true;
            bytes = next_frame(bytes);
            continue;
        };
        bytes = rest;
        damaged |= gap;
        // Its checksum is right: if it cannot be read, a later version of this format wrote it.
        let read = Record::decode_all(payload, |record| match record {
            Record::Put(entry) => {
                entries.insert(entry.id, *entry);
            }
            Record::Posted(id) => {
                if let Some(Entry {
                    state: State::Done { posted, .. },
                    ..
                }) = entries.get_mut(&id)
                {
                    *posted = true;
                }
            }
            Record::Whole => whole |= !gap,
        });
        damaged |= read.is_none();
    }
    let entries = entries.into_values().collect();
    if whole {
        Read::Whole(entries, damaged)
    } else {
        Read::Partial(entries)
    }
}

/// The first frame's payload and what follows; `None`: it is not whole.
fn cut_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let length = usize::try_from(number(4)?).ok()?;
    if !head.starts_with(FRAME) || length > MAX_FRAME {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(length)?;
    (crc32c(payload) == number(8)?).then_some((payload, rest))
}

/// From the next place on where a frame may begin.
fn next_frame(bytes: &[u8]) -> &[u8] {
    let rest = bytes.get(1..).unwrap_or_default();
    let at = rest.windows(FRAME.len()).position(|found| found == FRAME);
    at.and_then(|at| rest.get(at..)).unwrap_or_default()
}
