//! The socket file: made, taken over from a dead agent, removed at the end.
//! Never takes a file that is not a socket, nor a socket somebody answers on.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;

/// `sun_path` holds 108 bytes with its final zero (unix(7)).
const PATH_MAX: usize = 107;

/// A live agent accepts at once; one that is stopped in a debugger is alive too.
const PROBE: Duration = Duration::from_secs(1);

/// Owner and group may ask, nobody else: a status names the network's hosts.
const MODE: u32 = 0o660;

/// What a connection can do.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A client's connection, whatever it came through: one type, so that HTTP is
/// compiled once.
pub type Stream = Box<dyn Io>;

/// A socket that listens. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Door(Listener);

#[derive(Debug)]
enum Listener {
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Device and inode: a file that a later agent put there is not ours.
        file: (u64, u64),
    },
    Port(TcpListener, SocketAddr),
}

/// Listens on a port.
///
/// # Errors
/// The system's: in use, not allowed, no such address.
pub async fn bind_port(at: SocketAddr) -> io::Result<Door> {
    let listener = TcpListener::bind(at).await?;
    Ok(Door(Listener::Port(listener, at)))
}

/// Why a door could not be opened.
#[derive(Debug)]
pub enum DoorError {
    /// Another agent answers on this path.
    Alive(Place),
    /// Something that is no socket is there; it is left alone.
    NotASocket(Place),
    /// Longer than a socket's path may be.
    TooLong(Place),
    /// What was tried on the path, and how it failed.
    Io(&'static str, Place, io::Error),
}

/// Where a door was to be, and the key that can move it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The socket, or its folder.
    pub path: PathBuf,
    /// `paths.status_socket` or `paths.socket`.
    pub key: &'static str,
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Alive(place)
        | Self::NotASocket(place)
        | Self::TooLong(place)
        | Self::Io(_, place, _)) = self;
        let (path, key) = (place.path.display(), place.key);
        match self {
            Self::Alive(_) => write!(
                f,
                "another agent answers on {path}: stop it, or give this one its own {key}"
            ),
            Self::NotASocket(_) => write!(
                f,
                "{path} exists and is not a socket: move it away, or set {key}"
            ),
            Self::TooLong(place) => write!(
                f,
                "{path} is too long for a socket ({} bytes, at most {PATH_MAX}): set a shorter {key}",
                place.path.as_os_str().len()
            ),
            Self::Io(tried, _, error) => {
                write!(f, "could not {tried} {path}: {error}")?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, "; let this user write there, or set {key}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for DoorError {}

/// Listens on `path`, mode 0660. Makes its folder (0755); takes over the socket
/// of a dead agent. `key` is the one that says so in the configuration.
pub async fn bind(path: &Path, key: &'static str) -> Result<Door, DoorError> {
    let at = |path: &Path| Place {
        path: path.to_owned(),
        key,
    };
    let failed = |tried| move |error| DoorError::Io(tried, at(path), error);
    if path.as_os_str().as_bytes().len() > PATH_MAX {
        return Err(DoorError::TooLong(at(path)));
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|error| DoorError::Io("make the folder", at(parent), error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(DoorError::NotASocket(at(path)));
        }
        Ok(_) => remove_if_dead(at(path)).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))
        .map_err(failed("set the mode of"))?;
    let file = fs::symlink_metadata(path).map_err(failed("look at"))?;
    Ok(Door(Listener::Unix {
        listener,
        path: path.to_owned(),
        file: (file.dev(), file.ino()),
    }))
}

async fn remove_if_dead(place: Place) -> Result<(), DoorError> {
    match timeout(PROBE, UnixStream::connect(&place.path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&place.path)
                .map_err(|error| DoorError::Io("replace the dead socket", place, error))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(DoorError::Io("ask who answers on", place, error))
        }
        // Answered, or its queue is full: somebody lives there.
        _ => Err(DoorError::Alive(place)),
    }
}

impl fmt::Display for Door {
    /// Where it listens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Listener::Unix { path, .. } => path.display().fmt(f),
            Listener::Port(_, at) => at.fmt(f),
        }
    }
}

impl Door {
    /// The next client. Dropping the future loses none.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        Ok(match &self.0 {
            Listener::Unix { listener, .. } => Box::new(listener.accept().await?.0),
            Listener::Port(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let Listener::Unix { path, file, .. } = &self.0 else {
            return;
        };
        let ours =
            fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == *file);
        if ours && let Err(error) = fs::remove_file(path) {
            log::debug!("{} stays behind: {error}", path.display());
        }
    }
}
