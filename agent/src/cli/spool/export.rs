//! `sonde spool export`: frames as files that a collector takes with `curl`.
//!
//! A file appears under its name only when it is whole, none is overwritten,
//! and the manifest comes last: a folder with a manifest is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::select::{Frame, Selection, each};
use super::{Place, cat, complain, ls};
use crate::cli::say;
use crate::frame::{Codec, Signal};
use crate::status::words::{bytes, of};

/// The most that a body may unpack to: what OTLP/HTTP lets a request have.
const LONGEST: u64 = 64 << 20;
/// What says what the other files are.
const MANIFEST: &str = "manifest.jsonl";
/// What an unfinished file is called.
const PART: &str = ".part";

struct Export<'a> {
    to: &'a Path,
    uncompressed: bool,
    manifest: BufWriter<File>,
    files: u64,
    bytes: u64,
    left_out: u64,
}

pub(super) fn run(
    place: &Place,
    select: &Selection,
    to: &Path,
    uncompressed: bool,
) -> io::Result<bool> {
    prepare(to)?;
    let ledger = place.folder.ledger()?;
    let unfinished = part(&to.join(MANIFEST));
    let mut export = Export {
        to,
        uncompressed,
        manifest: BufWriter::new(create(&unfinished)?),
        files: 0,
        bytes: 0,
        left_out: 0,
    };
    let done = each(place, select, &ledger, true, &mut |frame| {
        let uplinks = ls::uplinks(place, &ledger, frame);
        export.take(frame, &uplinks)
    });
    let done = done.and_then(|()| export.finish(&unfinished));
    if let Err(error) = done {
        // Without a manifest the folder says itself that it is not complete.
        let _ = fs::remove_file(&unfinished);
        let words = error.to_string();
        let known = words.contains(advice(&error));
        return Err(io::Error::new(
            error.kind(),
            format!(
                "{words}; the export ends after {}, without a manifest{}",
                of(export.files, "frame"),
                if known { "" } else { advice(&error) }
            ),
        ));
    }
    let said = say(&format!(
        "exported {}, {} to {}\n",
        of(export.files, "frame"),
        bytes(export.bytes),
        to.display()
    ));
    Ok(said && export.left_out == 0)
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". There is no room left there: give a larger place, or less with --pending, --class, --since"
        }
        ErrorKind::ReadOnlyFilesystem => ". That place is mounted read-only: name another",
        ErrorKind::PermissionDenied => {
            ". This user may not write there: name another place, or use sudo"
        }
        ErrorKind::NotADirectory => ". Name a new folder",
        _ => "",
    }
}

/// Makes the folder, or takes one that is empty.
fn prepare(to: &Path) -> io::Result<()> {
    match fs::read_dir(to) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(io::Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "{} is not empty, and nothing is overwritten: name a new folder",
                    to.display()
                ),
            )),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir(to).map_err(|error| told(&error, "make", to))
        }
        Err(error) => Err(told(&error, "use", to)),
    }
}

fn told(error: &io::Error, verb: &str, path: &Path) -> io::Error {
    let words = format!("cannot {verb} {}: {error}{}", path.display(), advice(error));
    io::Error::new(error.kind(), words)
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

/// What a gateway stored is not for everybody.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    options
        .open(path)
        .map_err(|error| told(&error, "make", path))
}

/// Gives a whole file its name, which must be free.
fn publish(from: &Path, name: &Path) -> io::Result<()> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let here = rustix::fs::CWD;
    match rustix::fs::renameat_with(here, from, here, name, flags) {
        Ok(()) => Ok(()),
        // Not every file system (vfat on a stick, nfs) knows how.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !name.exists() => {
            fs::rename(from, name).map_err(|error| told(&error, "name", name))
        }
        Err(error) => Err(told(&error.into(), "name", name)),
    }
}

impl Export<'_> {
    fn take(&mut self, frame: &Frame, uplinks: &[(&'static str, bool)]) -> io::Result<()> {
        let Some(body) = &frame.body else {
            return self.leave_out(frame, "it is damaged: its checksum does not match");
        };
        let unpack = self.uncompressed && frame.header.codec == Codec::Gzip;
        let packed = frame.header.codec == Codec::Gzip && !unpack;
        let ending = match (frame.signal, packed) {
            (Signal::Message, _) => "json",
            (_, true) => "pb.gz",
            (_, false) => "pb",
        };
        let name = format!(
            "{:020}-{}-{}.{ending}",
            frame.header.seq,
            frame.class.as_str(),
            frame.signal.as_str()
        );
        let path = self.to.join(&name);
        let unfinished = part(&path);
        let mut file = create(&unfinished)?;
        let written = match (frame.signal, unpack) {
            (Signal::Message, _) => {
                let mut text = Vec::new();
                match cat::message(&mut text, body, frame.header.context.as_ref()) {
                    Ok(done) => done
                        .and_then(|()| file.write_all(&text))
                        .map(|()| text.len() as u64),
                    Err(why) => {
                        let _ = fs::remove_file(&unfinished);
                        return self.leave_out(frame, &why);
                    }
                }
            }
            (_, true) => unpack_to(body, &mut file),
            (_, false) => file.write_all(body).map(|()| body.len() as u64),
        };
        drop(file);
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                let _ = fs::remove_file(&unfinished);
                let hostile = matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                );
                if hostile {
                    return self.leave_out(frame, &format!("its body cannot be unpacked: {error}"));
                }
                return Err(told(&error, "write", &path));
            }
        };
        publish(&unfinished, &path)?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(written);
        let mut line = ls::frame_json(frame, uplinks);
        if let Some(map) = line.as_object_mut() {
            map.insert("file".to_owned(), name.into());
            map.insert("bytes".to_owned(), written.into());
            map.insert(
                "encoding".to_owned(),
                if packed { "gzip" } else { "identity" }.into(),
            );
            if frame.signal != Signal::Message {
                let path = format!("/v1/{}", frame.signal.as_str());
                map.insert("path".to_owned(), path.into());
            }
        }
        writeln!(self.manifest, "{line}")
            .map_err(|error| told(&error, "write", Path::new(MANIFEST)))
    }

    fn leave_out(&mut self, frame: &Frame, why: &str) -> io::Result<()> {
        self.left_out += 1;
        complain(&format!(
            "sonde spool: frame {} ({}) was left out: {why}",
            frame.id,
            frame.signal.as_str()
        ));
        Ok(())
    }

    /// All of it on the medium, then the manifest: whoever pulls a stick out
    /// wants to know.
    fn finish(&mut self, unfinished: &Path) -> io::Result<()> {
        let failed = |error: io::Error| told(&error, "write", self.to);
        self.manifest.flush().map_err(failed)?;
        let folder = File::open(self.to).map_err(failed)?;
        rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))?;
        publish(unfinished, &self.to.join(MANIFEST))?;
        folder.sync_all().map_err(failed)
    }
}

/// Bounded in memory and in what is written.
fn unpack_to(body: &[u8], file: &mut File) -> io::Result<u64> {
    let mut unpacked = GzDecoder::new(body).take(LONGEST + 1);
    let written = io::copy(&mut unpacked, file)?;
    if written > LONGEST {
        let words = "it unpacks to more than 64 MiB";
        return Err(io::Error::new(ErrorKind::InvalidData, words));
    }
    Ok(written)
}
