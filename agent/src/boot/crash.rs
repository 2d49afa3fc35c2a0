//! A panic of the agent's own, written down while it happens: the released
//! program aborts right after its panic hook.
//!
//! One file, written at once, the first panic of a run only: what comes after
//! is its consequence. Not synced: a hook that waits for a failing disk would
//! keep a broken agent from being started again, and the next start in the
//! same boot reads what the kernel has. No backtrace unless `RUST_BACKTRACE`
//! asks for one; a program of cross/build has nothing to walk its stack with.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::record::{Crash, RunId, cut};

/// The longest message, place included, in bytes.
const MESSAGE: usize = 512;
/// The longest backtrace.
const BACKTRACE: usize = 1000;

static ARMED: OnceLock<(PathBuf, RunId)> = OnceLock::new();

/// From now on a panic leaves its record at `path`. Once for a process.
pub(super) fn arm(path: PathBuf, id: RunId) {
    // A second agent in one process is a test's.
    let _ = ARMED.set((path, id));
}

/// Called by the panic hook. Does nothing before [`arm`].
pub(super) fn note(message: &str, place: &str) {
    let Some((path, id)) = ARMED.get() else {
        return;
    };
    let trace = Backtrace::capture();
    let trace = match trace.status() {
        BacktraceStatus::Captured => trace.to_string(),
        _ => String::new(),
    };
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Nobody is left to be told of an error.
    let _ = write(
        path,
        *id,
        &format!("panic at {place} in thread {thread}: {message}"),
        &trace,
    );
}

fn write(path: &Path, id: RunId, message: &str, backtrace: &str) -> std::io::Result<()> {
    let crash = Crash {
        id,
        message: cut(message, MESSAGE),
        backtrace: cut(backtrace, BACKTRACE),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&crash.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_of_a_run_is_kept_whole_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("panic");
        let id = RunId {
            boot: [7; 16],
            start_ns: 5,
        };
        let long = format!("index\tout\nof bounds {}", "ä".repeat(5000));
        write(&path, id, &long, &"frame\n".repeat(5000)).unwrap();
        assert!(write(&path, id, "a consequence", "").is_err());
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < 2048, "{}", bytes.len());
        let crash = Crash::of(&bytes).unwrap();
        assert_eq!(crash.id, id);
        assert!(crash.message.starts_with("index out of bounds ää"));
        assert!(crash.backtrace.starts_with("frame frame"));
    }
}
