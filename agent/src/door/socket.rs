//! The socket file: made, taken over from a dead agent, removed at the end.
//! Never takes a file that is not a socket, nor a socket somebody answers on.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// `sun_path` holds 108 bytes with its final zero (unix(7)).
const PATH_MAX: usize = 107;

/// A live agent accepts at once; one that is stopped in a debugger is alive too.
const PROBE: Duration = Duration::from_secs(1);

/// Owner and group may ask, nobody else: a status names the network's hosts.
const MODE: u32 = 0o660;

/// A socket that listens. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a file that a later agent put there is not ours.
    file: (u64, u64),
}

/// Why a door could not be opened.
#[derive(Debug)]
pub enum DoorError {
    /// Another agent answers on this path.
    Alive(PathBuf),
    /// Something that is no socket is there; it is left alone.
    NotASocket(PathBuf),
    /// Longer than a socket's path may be.
    TooLong(PathBuf),
    /// What was tried on the path, and how it failed.
    Io(&'static str, PathBuf, io::Error),
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive(path) => write!(
                f,
                "another agent answers on {}: stop it, or give this one its own paths.status_socket",
                path.display()
            ),
            Self::NotASocket(path) => write!(
                f,
                "{} exists and is not a socket: move it away, or set paths.status_socket",
                path.display()
            ),
            Self::TooLong(path) => write!(
                f,
                "{} is too long for a socket ({} bytes, at most {PATH_MAX}): set a shorter paths.status_socket",
                path.display(),
                path.as_os_str().len()
            ),
            Self::Io(tried, path, error) => {
                write!(f, "could not {tried} {}: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, "; let this user write there, or set paths.status_socket")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for DoorError {}

/// Listens on `path`, mode 0660. Makes its folder (0755); takes over the socket of a dead agent.
pub async fn bind(path: &Path) -> Result<Door, DoorError> {
    let failed = |tried| move |error| DoorError::Io(tried, path.to_owned(), error);
    if path.as_os_str().as_bytes().len() > PATH_MAX {
        return Err(DoorError::TooLong(path.to_owned()));
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|error| DoorError::Io("make the folder", parent.to_owned(), error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(DoorError::NotASocket(path.to_owned()));
        }
        Ok(_) => remove_if_dead(path).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .map_err(failed("set the mode of"))?;
    let file = fs::symlink_metadata(path).map_err(failed("look at"))?;
    Ok(Door {
        listener,
        path: path.to_owned(),
        file: (file.dev(), file.ino()),
    })
}

async fn remove_if_dead(path: &Path) -> Result<(), DoorError> {
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| DoorError::Io("replace the dead socket", path.to_owned(), error)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(DoorError::Io("ask who answers on", path.to_owned(), error))
        }
        // Answered, or its queue is full: somebody lives there.
        _ => Err(DoorError::Alive(path.to_owned())),
    }
}

impl Door {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client. Dropping the future loses none.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{} stays behind: {error}", self.path.display());
        }
    }
}
