//! A fake root for tests, and reading from it.

use super::*;
use crate::gauge::Registry;

/// A fake root.
pub(crate) struct Tree(pub(crate) tempfile::TempDir);

impl Tree {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    pub(crate) fn probe(&self, family: Family, look: Look) -> Probe {
        // Whatever else the machine does meanwhile.
        let helpers = helpers().patient(std::time::Duration::from_millis(600));
        let shared = Arc::new(Mutex::new(helpers));
        Probe::new(family, self.0.path(), look, 64, true, shared)
    }
}

/// One reading of a source.
pub(crate) fn read(source: &mut dyn Source, at_s: u64) -> Readings {
    let mut out = Readings::new(Registry::default());
    let _ = read_into(source, at_s, &mut out);
    out
}

/// The next reading of a source.
pub(crate) fn read_into(
    source: &mut dyn Source,
    at_s: u64,
    out: &mut Readings,
) -> Result<(), Missing> {
    out.clear();
    let now = Stamp {
        unix_ns: 0,
        boot_ns: at_s * 1_000_000_000,
    };
    source.read(now, out)
}
