//! Files of custom gauges: read on the gauge-reader thread, each behind a
//! helper that may hang without holding up the rest.
//!
//! Only regular files are opened, and what sort of file it is is asked before:
//! opening a FIFO waits, and opening a device may do something (a watchdog's
//! starts it). A file is opened anew each time, because programs replace their
//! files by renaming new ones over them. Gauges that name the same file share
//! one reading of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::board::{Custom, Due};
use super::definition::Absence;
use crate::frame::Stamp;
use crate::gauge::helper::{Helpers, MAX_LIST, Question};
use crate::gauge::{Family, Missing, Readings, Source};

/// The longest file; what is longer is not what the config thinks it is.
pub const MAX_BYTES: u64 = 64 * 1024;

/// A file's text, or why there is none.
pub(super) type Text = Result<String, Absence>;

/// Reads the files of custom gauges.
pub struct Files {
    custom: Custom,
    root: PathBuf,
    helpers: Helpers<PathBuf, Text>,
}

impl Files {
    /// Below `root`, `/` but in tests. No file is opened and no thread is
    /// started before a gauge needs one.
    pub fn new(custom: Custom, root: &Path) -> Self {
        Self::asking(custom, root, Arc::new(|path: &PathBuf| Ok(text(path))))
    }

    /// The same with another way to a file's text.
    pub(super) fn asking(custom: Custom, root: &Path, question: Question<PathBuf, Text>) -> Self {
        Self {
            custom,
            root: root.to_owned(),
            helpers: Helpers::new(question),
        }
    }

    fn ask(&mut self, due: &[Due], out: &mut Readings) {
        let mut distinct: Vec<&PathBuf> = due.iter().map(|due| &due.path).collect();
        distinct.sort();
        distinct.dedup();
        for some in distinct.chunks(MAX_LIST) {
            let below = |path: &&PathBuf| self.root.join(path.strip_prefix("/").unwrap_or(path));
            let paths: Arc<[PathBuf]> = some.iter().map(below).collect();
            let custom = &self.custom;
            self.helpers.ask(&paths, |at, answer| {
                let answer = answer.unwrap_or_else(|missing| Err((missing, hung(missing))));
                let text = answer.as_deref().map_err(Clone::clone);
                let same = |due: &&Due| some.get(at).is_some_and(|path| **path == due.path);
                for due in due.iter().filter(same) {
                    let text = text.clone().map_err(|(missing, why)| {
                        (missing, format!("{}: {why}", due.path.display()))
                    });
                    custom.file_read(due, text, out);
                }
            });
        }
    }
}

impl Source for Files {
    fn family(&self) -> Family {
        Family::Custom
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let due = self.custom.files_due(now.boot_ns);
        if !due.is_empty() {
            self.ask(&due, out);
        }
        Ok(())
    }
}

fn hung(missing: Missing) -> String {
    match missing {
        Missing::Timeout => {
            "the file did not answer in time; it is not asked again before it does".into()
        }
        other => other.as_str().into(),
    }
}

/// A regular file's contents, within [`MAX_BYTES`].
fn text(path: &Path) -> Result<String, Absence> {
    let failed = |error: io::Error| (Missing::of(&error), error.to_string());
    let special = || {
        (
            Missing::Unsupported,
            "it is not a regular file, and is not opened".to_owned(),
        )
    };
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(special());
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .map_err(failed)?;
    // Another one may have taken its place.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(special());
    }
    contents(file).map_err(failed)?.ok_or_else(|| {
        let why = format!("it is longer than {MAX_BYTES} bytes");
        (Missing::Garbage, why)
    })
}

/// `None`: too long.
fn contents(file: File) -> io::Result<Option<String>> {
    // Most files in one piece: the kernel makes them whole, not by parts.
    let mut bytes = Vec::with_capacity(4096);
    let count = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(count).unwrap_or(u64::MAX) > MAX_BYTES {
        return Ok(None);
    }
    Ok(Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        // What is no text around the number is no reason to refuse the number.
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}
