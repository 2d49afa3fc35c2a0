//! What the machine itself says about how its last boot ended. Nothing here
//! was written for the agent, so anything may be in these files: each is read
//! without waiting and to a limit, and what cannot be read is a note.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::pstore::{self, Panic};
use super::{reset, wtmp};

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Kernel panics, of whatever boot.
    pub(super) panics: Vec<Panic>,
    /// The login records have a shutdown just before this boot.
    pub(super) shutdown: Option<String>,
    /// What watchdogs and reset controllers say of the last reset.
    pub(super) resets: Vec<Reset>,
    /// What could not be looked at, and what was seen but decides nothing.
    pub(super) notes: Vec<String>,
}

/// What one source says of the last reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    /// The file, and what it says.
    pub(super) text: String,
    /// What that means; `None`: nothing that would tell one reason from another.
    pub(super) cause: Option<Cause>,
}

/// What a reset came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A watchdog ran out.
    Watchdog,
    /// The voltage was too low.
    LowVoltage,
    /// The power was off before.
    PowerOn,
    /// It was too hot.
    Heat,
}

impl Evidence {
    /// Looks everywhere below `root`.
    pub(super) fn gather(root: &Path) -> Self {
        let mut found = Self::default();
        pstore::look(root, &mut found);
        found.shutdown = wtmp::shutdown(root);
        reset::look(root, &mut found);
        found
    }
}

/// A path as it is below the root, for people.
pub(super) fn shown(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    format!("/{}", below.display())
}

/// The last `limit` bytes of a plain file. Never waits, whatever bears the name.
pub(super) fn tail(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Files of the kernel have no length, or a page; theirs is what a read gives.
    if meta.len() > limit {
        file.seek(SeekFrom::Start(meta.len() - limit))?;
        let bytes = read(&file, limit)?;
        if !bytes.is_empty() {
            return Ok(bytes);
        }
        // A page that nobody wrote: what there is stands at its beginning.
        file.rewind()?;
    }
    read(&file, limit)
}

fn read(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a folder, sorted, at most `limit`.
pub(super) fn names(folder: &Path, limit: usize) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.take(limit);
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_kernels_that_says_a_page_is_read_from_its_beginning() {
        let path = Path::new("/sys/devices/system/cpu/online");
        assert!(fs::metadata(path).unwrap().len() > 512);
        assert_eq!(tail(path, 512).unwrap(), fs::read(path).unwrap());
    }
}
