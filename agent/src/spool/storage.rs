//! The few file operations the log needs, and the real ones.
//!
//! Paths are relative to the spool's folder; the empty path is the folder.
//! Every error names what was tried and on what, and keeps its kind.

use crate::vitals;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::cursor::SLOT_FILE;

/// A file in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) len: u64,
    /// Bytes that it occupies.
    pub(crate) occupied: u64,
}

/// Inodes that are left for others.
const SPARE_INODES: u64 = 16;
/// What a block of `st_blocks` and a sector in the block layer's figures are, in bytes.
const UNIT: u64 = 512;

/// What `statfs(2)` calls ext2 to ext4.
const EXT: rustix::fs::FsWord = 0xef53;

/// What the log asks of a file system.
pub(crate) trait Storage: Send {
    /// A file open for appending.
    type File: Send;

    /// Makes a folder and syncs the one it is in; fine if it is there.
    fn make_dir(&mut self, path: &str) -> io::Result<()>;
    /// The files in a folder; a missing folder is empty.
    fn list(&mut self, path: &str) -> io::Result<Vec<Listed>>;
    /// Makes a file; fails if it is there.
    fn create(&mut self, path: &str) -> io::Result<Self::File>;
    /// Opens a file for appending.
    fn open_append(&mut self, path: &str) -> io::Result<Self::File>;
    /// Appends all of `bytes`; after an error any part of them may be there.
    fn append(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file occupy `len` bytes though it is shorter, where appending gets
    /// cheaper by that. Without it, appending works all the same: errors are not told.
    fn reserve(&mut self, file: &mut Self::File, len: u64);
    /// Whether [`Storage::reserve`] does anything here.
    fn reserves(&mut self) -> bool;
    /// `fdatasync`.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    /// How long an open file is and how much it occupies; an error of kind
    /// `NotFound` if its name is gone.
    fn measure(&mut self, file: &mut Self::File) -> io::Result<(u64, u64)>;
    /// Makes the names in a folder durable.
    fn sync_dir(&mut self, path: &str) -> io::Result<()>;
    /// Reads as much as there is, up to the length of `out`.
    fn read_at(&mut self, path: &str, offset: u64, out: &mut [u8]) -> io::Result<usize>;
    /// Removes a name; fine if it is gone.
    fn unlink(&mut self, path: &str) -> io::Result<()>;
    /// Gives a file another name, in the place of what has it (`rename(2)`).
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Overwrites in place and syncs; makes the file (and its name durable) if need be.
    fn write_slot(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file of `len` bytes that occupies all of them, so that writing in
    /// place needs no room later; what it holds already stays. Returns how many
    /// bytes it wrote for that; 0: nothing was missing.
    fn allocate(&mut self, path: &str, len: u64) -> io::Result<u64>;
    /// Bytes of the whole file system.
    fn size(&mut self) -> io::Result<u64>;
    /// Bytes free for this program, and whether there are inodes left.
    fn free(&mut self) -> io::Result<(u64, bool)>;
    /// Bytes that all programs have written to the device since it was there;
    /// `None`: the system does not count them.
    fn device_written(&mut self) -> Option<u64>;
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Files below a folder that this process has locked.
#[derive(Debug)]
pub(crate) struct RealFiles {
    root: PathBuf,
    /// Holds the lock: dropping it lets the next agent in.
    lock: File,
    /// See [`Storage::reserves`]; `None`: not looked up.
    reserves: Option<bool>,
}

/// Why a folder cannot be used.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another agent has it.
    Locked,
    /// It cannot be made or opened.
    Io(io::Error),
}

impl RealFiles {
    /// Makes the folder with its ancestors and locks it. The lock is on the
    /// folder itself (`flock(2)`), so it leaves nothing behind.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        make_synced(root).map_err(|error| OpenError::Io(told(error, "make", root)))?;
        let lock = File::open(root).map_err(|error| OpenError::Io(told(error, "open", root)))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(fs::TryLockError::Error(error)) => {
                return Err(OpenError::Io(told(error, "lock", root)));
            }
        }
        let files = Self {
            root: root.to_path_buf(),
            lock,
            reserves: None,
        };
        files.put_aside(SLOT_FILE);
        Ok(files)
    }

    /// What bears the name of a file of ours and is none (a fifo, a link, a
    /// folder) holds nothing of ours; opening it could wait for ever.
    fn put_aside(&self, name: &str) {
        let path = self.at(name);
        let foreign = fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file());
        let aside = self.at(&format!("{name}.aside"));
        if foreign && let Err(error) = fs::rename(&path, &aside) {
            log::warn!("spool: {}", told(error, "put aside", &path));
        } else if foreign {
            log::warn!(
                "spool: {} is no plain file; it was put aside as {}",
                path.display(),
                aside.display()
            );
        }
    }

    /// Moves the lock to the folder that has the name now: somebody may have
    /// taken the old one away.
    fn hold(&mut self) -> io::Result<()> {
        let same = match (self.lock.metadata(), fs::metadata(&self.root)) {
            (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
            _ => false,
        };
        if same {
            return Ok(());
        }
        let lock = File::open(&self.root).map_err(|error| told(error, "open", &self.root))?;
        lock.try_lock()
            .map_err(|error| told(error.into(), "lock", &self.root))?;
        self.lock = lock;
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

/// Makes a folder and what is missing above it, each name synced.
fn make_synced(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make_synced(above)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// Opens what must be a plain file: a fifo that somebody has put in its place
/// would wait for its other end, and stop everything.
fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let opened = options.custom_flags(flags).open(path);
    let plain = match &opened {
        Ok(file) => file.metadata()?.is_file(),
        Err(_) => fs::symlink_metadata(path).map_or(true, |meta| meta.is_file()),
    };
    if plain {
        opened
    } else {
        let kind = ErrorKind::NotFound;
        Err(io::Error::new(kind, "it is no plain file any more"))
    }
}

fn told(error: io::Error, verb: &str, path: &Path) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {verb} {}: {error}", path.display()),
    )
}

impl Storage for RealFiles {
    type File = (PathBuf, File);

    fn make_dir(&mut self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        make_synced(&path).map_err(|error| told(error, "make", &path))?;
        self.hold()
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<Listed>> {
        let path = self.at(path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(told(error, "list", &path)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| told(error, "list", &path))?;
            // A name that goes away or is no plain file is none of the spool's.
            if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata())
                && meta.is_file()
            {
                found.push(Listed {
                    name,
                    len: meta.len(),
                    occupied: meta.blocks().saturating_mul(UNIT),
                });
            }
        }
        Ok(found)
    }

    fn create(&mut self, path: &str) -> io::Result<Self::File> {
        let path = self.at(path);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| told(error, "make", &path))?;
        Ok((path, file))
    }

    fn open_append(&mut self, path: &str) -> io::Result<Self::File> {
        let path = self.at(path);
        let file = open_plain(OpenOptions::new().append(true), &path)
            .map_err(|error| told(error, "open", &path))?;
        Ok((path, file))
    }

    fn append(&mut self, (path, file): &mut Self::File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
            .map_err(|error| told(error, "write", path))
    }

    fn reserve(&mut self, (_, file): &mut Self::File, len: u64) {
        let ahead = rustix::fs::FallocateFlags::KEEP_SIZE;
        let _ = rustix::fs::fallocate(file, ahead, 0, len);
    }

    fn reserves(&mut self) -> bool {
        // Each block that an append needs costs ext4 the block bitmap and the group's
        // descriptor in its journal. f2fs and btrfs write elsewhere each time, XFS
        // looks ahead by itself, UBIFS cannot.
        *self.reserves.get_or_insert_with(|| {
            rustix::fs::fstatfs(&self.lock).is_ok_and(|stat| stat.f_type == EXT)
        })
    }

    fn sync(&mut self, (path, file): &mut Self::File) -> io::Result<()> {
        vitals::SYNC
            .time(|| file.sync_data())
            .map_err(|error| told(error, "sync", path))
    }

    fn measure(&mut self, (path, file): &mut Self::File) -> io::Result<(u64, u64)> {
        let meta = file
            .metadata()
            .map_err(|error| told(error, "look at", path))?;
        // Removed, or taken elsewhere with its folder: another file is read by that name.
        let named = match fs::symlink_metadata(&*path) {
            Ok(named) => (named.dev(), named.ino()) == (meta.dev(), meta.ino()),
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        };
        if meta.nlink() == 0 || !named {
            // What is written to it goes with it.
            let gone = io::Error::new(ErrorKind::NotFound, "somebody has removed it");
            return Err(told(gone, "go on with", path));
        }
        Ok((meta.len(), meta.blocks().saturating_mul(UNIT)))
    }

    fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return self
                .lock
                .sync_all()
                .map_err(|error| told(error, "sync", &self.root));
        }
        let path = self.at(path);
        File::open(&path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| told(error, "sync", &path))
    }

    fn read_at(&mut self, path: &str, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let path = self.at(path);
        let file = open_plain(OpenOptions::new().read(true), &path)
            .map_err(|error| told(error, "open", &path))?;
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..)
            && !rest.is_empty()
        {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(told(error, "read", &path)),
            }
        }
        Ok(done)
    }

    fn unlink(&mut self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(told(error, "remove", &path)),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        fs::rename(&from, &to).map_err(|error| told(error, "rename", &from))
    }

    fn write_slot(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put_aside(path);
        let path = self.at(path);
        let made = !path.exists();
        let write = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false);
            let file = open_plain(options, &path)?;
            file.write_all_at(bytes, offset)?;
            file.sync_data()
        };
        write().map_err(|error| told(error, "write", &path))?;
        if made { self.sync_dir("") } else { Ok(()) }
    }

    fn allocate(&mut self, path: &str, len: u64) -> io::Result<u64> {
        self.put_aside(path);
        let path = self.at(path);
        let made = !path.exists();
        let fill = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false);
            let file = open_plain(options, &path)?;
            let meta = file.metadata()?;
            if meta.len() >= len && meta.blocks().saturating_mul(UNIT) >= len {
                return Ok(0);
            }
            // Fills the holes. A file system that cannot do that has no place to overwrite either.
            let holes = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len);
            if let Err(error) = holes
                && error != rustix::io::Errno::OPNOTSUPP
            {
                return Err(error.into());
            }
            let missing = usize::try_from(len.saturating_sub(meta.len())).unwrap_or(0);
            file.write_all_at(&vec![0; missing], meta.len())?;
            file.sync_all()?;
            // Where only holes were filled the blocks are as new as appended ones.
            Ok(if missing == 0 { len } else { missing as u64 })
        };
        let written = fill().map_err(|error| told(error, "allocate", &path))?;
        if made {
            self.sync_dir("")?;
        }
        Ok(written)
    }

    fn size(&mut self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.lock)
            .map_err(|error| told(error.into(), "measure", &self.root))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    fn free(&mut self) -> io::Result<(u64, bool)> {
        let stat = rustix::fs::fstatvfs(&self.lock)
            .map_err(|error| told(error.into(), "measure", &self.root))?;
        // File systems without a fixed number of inodes (btrfs) report none at all.
        let inodes = stat.f_files == 0 || stat.f_favail > SPARE_INODES;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), inodes))
    }

    fn device_written(&mut self) -> Option<u64> {
        let device = self.lock.metadata().ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        // The seventh figure is sectors written (Documentation/block/stat.rst).
        let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors.saturating_mul(UNIT))
    }
}
