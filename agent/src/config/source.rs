//! Configuration files as text: found, read with a bound, and cut into lines
//! when a problem has to name one.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Origin, Place, Problem, Problems, quoted};
use super::value::is_secret_name;

/// A file may have this many bytes. The largest sensible one has a tenth.
pub(super) const MAX_BYTES: u64 = 256 * 1024;

/// A `conf.d` may hold this many files.
const MAX_FILES: usize = 64;

/// One file's text.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it was read from, absolute.
    pub file: PathBuf,
    /// All of it, without a byte order mark.
    pub text: String,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, not a regular file, not readable, too large or not UTF-8.
    pub(super) fn read(file: &Path) -> Result<Self, Problem> {
        let refuse = |what: String, fix: &str| Err(Problem::error(whole_file(file), "", what, fix));
        // Metadata first: opening a FIFO would wait for a writer.
        let meta = match std::fs::metadata(file) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return refuse(
                    "there is no such file".into(),
                    "check the path, or leave --config out for the defaults",
                );
            }
            Err(error) => {
                return refuse(
                    format!("cannot be looked at: {error}"),
                    "check its folders' permissions",
                );
            }
        };
        if meta.is_dir() {
            return refuse(
                "is a folder".into(),
                "name the file in it, such as sonde.toml",
            );
        }
        if !meta.is_file() {
            return refuse("is not a regular file".into(), "name a TOML file");
        }
        let too_large = format!("is larger than {} KiB", MAX_BYTES / 1024);
        if meta.len() > MAX_BYTES {
            return refuse(too_large, "this is probably not the file you meant");
        }
        let mut bytes = Vec::new();
        let read =
            File::open(file).and_then(|open| open.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return refuse(
                format!("cannot be read: {error}"),
                "check its owner and mode",
            );
        }
        if bytes.len() as u64 > MAX_BYTES {
            return refuse(too_large, "this is probably not the file you meant");
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                file: file.to_path_buf(),
                text: match text.strip_prefix('\u{feff}') {
                    Some(rest) => rest.to_string(),
                    None => text,
                },
            }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let before = error.as_bytes().get(..at).unwrap_or_default();
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                let byte = error.as_bytes().get(at).copied().unwrap_or_default();
                let place = Place {
                    line,
                    column: before.len()
                        - before
                            .iter()
                            .rposition(|byte| *byte == b'\n')
                            .map_or(0, |at| at + 1)
                        + 1,
                    ..place_of(file)
                };
                Err(Problem::error(
                    Origin::File(Arc::new(place)),
                    "",
                    format!("is not UTF-8 (byte 0x{byte:02x})"),
                    "save it as UTF-8 text",
                ))
            }
        }
    }

    /// The place of a stretch of bytes. Shows no line that may hold a secret.
    pub(super) fn place(&self, span: &Range<usize>) -> Origin {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text.get(line_start..).unwrap_or_default();
        let line = line
            .split('\n')
            .next()
            .unwrap_or_default()
            .trim_end_matches('\r');
        let marked = self
            .text
            .get(start..span.end.min(line_start + line.len()))
            .unwrap_or_default();
        let show = line.len() <= 200
            && !is_secret_name(&line.to_ascii_lowercase())
            && !line.contains('@')
            && !line.chars().any(|c| c.is_control() && c != '\t');
        Origin::File(Arc::new(Place {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            width: marked.chars().count().max(1),
            text: show.then(|| line.to_string()),
        }))
    }
}

/// A file as a whole.
pub(super) fn whole_file(file: &Path) -> Origin {
    Origin::File(Arc::new(place_of(file)))
}

fn place_of(file: &Path) -> Place {
    Place {
        file: file.to_path_buf(),
        line: 0,
        column: 0,
        width: 1,
        text: None,
    }
}

/// The main file, if any, then its folder's `conf.d/*.toml` in the order of their names.
/// `must_exist`: the main file was asked for by name.
pub(super) fn read_all(main: &Path, must_exist: bool, problems: &mut Problems) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut seen = Vec::new();
    let present = must_exist || std::fs::symlink_metadata(main).is_ok();
    let files = present
        .then(|| main.to_path_buf())
        .into_iter()
        .chain(drop_ins(main, problems));
    for file in files {
        let real = std::fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
        if seen.contains(&real) {
            problems.push(Problem::error(
                whole_file(&file),
                "",
                "is the same file as one that was already read",
                "remove the link, or move the main file out of conf.d",
            ));
            continue;
        }
        seen.push(real);
        match Source::read(&file) {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(problem),
        }
    }
    sources
}

fn drop_ins(main: &Path, problems: &mut Problems) -> Vec<PathBuf> {
    let Some(folder) = main.parent().map(|parent| parent.join("conf.d")) else {
        return Vec::new();
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Vec::new();
        }
        Err(error) => {
            problems.push(Problem::error(
                whole_file(&folder),
                "",
                format!("cannot be listed: {error}"),
                "check its owner and mode",
            ));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .filter(|path| {
            !path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    files.sort();
    if files.len() > MAX_FILES {
        let first = files
            .get(MAX_FILES)
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        problems.push(Problem::error(
            whole_file(&folder),
            "",
            format!("holds {} files", files.len()),
            format!(
                "at most {MAX_FILES} are read; {} is the first too many",
                quoted(&first)
            ),
        ));
        files.truncate(MAX_FILES);
    }
    files
}
