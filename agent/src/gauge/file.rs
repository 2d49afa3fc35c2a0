//! A file of `/proc` or `/sys` that is opened once and read again and again.
//!
//! The kernel makes such a file's contents anew for each `pread` at offset 0,
//! so a tick costs one system call instead of three. A read that fails drops
//! the descriptor; the next one opens the file again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Missing;

/// More than any file read here has on a big machine; what is longer is not what we think it is.
const MAX_BYTES: usize = 256 * 1024;

/// One such file.
#[derive(Debug)]
pub struct KernelFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KernelFile {
    /// Not opened yet; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole contents as text.
    pub fn read(&mut self) -> Result<&str, Missing> {
        self.read_upto(MAX_BYTES, false)
    }

    /// The first `bytes` at most, for a file whose beginning says all.
    pub fn head(&mut self, bytes: usize) -> Result<&str, Missing> {
        self.read_upto(bytes, true)
    }

    fn read_upto(&mut self, limit: usize, cut: bool) -> Result<&str, Missing> {
        let was_open = self.file.is_some();
        let mut filled = self.fill(limit, cut);
        // A descriptor can outlive what it named, as when a driver was loaded again.
        if was_open && filled.is_err() {
            filled = self.fill(limit, cut);
        }
        let length = filled.map_err(|error| Missing::of(&error))?;
        let bytes = self.buffer.get(..length).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) if cut => {
                let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
                std::str::from_utf8(good).map_err(|_| Missing::Garbage)
            }
            Err(_) => Err(Missing::Garbage),
        }
    }

    fn fill(&mut self, limit: usize, cut: bool) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => regular(&self.path)?,
        };
        let mut length = 0;
        loop {
            if self.buffer.len() < limit && self.buffer.len() - length < 256 {
                let room = (self.buffer.len() * 2).max(1024).min(limit);
                self.buffer.resize(room, 0);
            }
            let end = self.buffer.len().min(limit);
            let Some(room) = self
                .buffer
                .get_mut(length..end)
                .filter(|room| !room.is_empty())
            else {
                if cut {
                    break;
                }
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            };
            match file.read_at(room, u64::try_from(length).unwrap_or(u64::MAX)) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if cut && length >= 256 {
                break;
            }
        }
        self.file = Some(file);
        Ok(length)
    }
}

/// Opens a regular file. Another sort is refused, and is not opened: opening a
/// FIFO waits, and opening a device may do something.
fn regular(path: &Path) -> io::Result<File> {
    let special = || io::Error::from(io::ErrorKind::InvalidData);
    if !path.metadata()?.is_file() {
        return Err(special());
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)?;
    // Another one may have taken its place.
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(special()),
    }
}

/// The text of a small file that is read once, trimmed of blanks and NULs;
/// `None` if it is not there, empty, longer than 4 KiB or not UTF-8.
pub fn small(path: &Path) -> Option<String> {
    use std::io::Read as _;
    const LIMIT: u64 = 4096;
    let mut bytes = Vec::new();
    let file = regular(path).ok()?;
    let count = file.take(LIMIT + 1).read_to_end(&mut bytes).ok()?;
    if u64::try_from(count).ok()? > LIMIT {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// Undoes the kernel's octal escapes (`\040` for a blank) in mount tables.
pub fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let mut file = KernelFile::new(path.clone());
        assert_eq!(file.read(), Ok("one"));
        std::fs::write(&path, "two, longer").unwrap();
        assert_eq!(file.read(), Ok("two, longer"));
        assert_eq!(
            KernelFile::new(dir.path().join("none")).read(),
            Err(Missing::Unsupported)
        );
    }

    #[test]
    fn a_huge_or_binary_file_is_garbage_and_a_long_one_can_be_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![b'x'; MAX_BYTES + 1]).unwrap();
        assert_eq!(KernelFile::new(path.clone()).read(), Err(Missing::Garbage));
        assert!(
            KernelFile::new(path.clone())
                .head(512)
                .is_ok_and(|text| text.len() <= 512)
        );
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(
            KernelFile::new(path.clone())
                .read()
                .is_ok_and(|text| text.len() == 5000)
        );
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(KernelFile::new(path).read(), Err(Missing::Garbage));
    }

    #[test]
    fn mount_points_may_hold_blanks_and_backslashes() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), r"/mnt/a b\c");
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\999"), r"\999");
    }
}
