//! The kernel's counts of processes killed for want of memory.
//!
//! Source: `Documentation/admin-guide/cgroup-v2.rst` (`memory.events`, which
//! counts what happened below as well), `/proc/vmstat` (`oom_kill`).

use std::path::Path;

use super::evidence::tail;
use super::record::OomKills;

/// `/proc/vmstat` has a few KiB.
const BYTES: u64 = 64 * 1024;

impl OomKills {
    /// As they are now.
    pub(super) fn read(root: &Path) -> Self {
        let own = cgroup(root);
        let events = |cgroup: &str| {
            let folder = root.join("sys/fs/cgroup").join(cgroup);
            count(&folder.join("memory.events"))
        };
        let above = own
            .as_deref()
            .and_then(|own| own.rsplit_once('/'))
            .map(|(above, _)| above);
        Self {
            host: count(&root.join("proc/vmstat")),
            own: own.as_deref().and_then(events),
            above: above.and_then(events),
        }
    }
}

/// The agent's own cgroup (version 2), without the leading slash.
fn cgroup(root: &Path) -> Option<String> {
    let bytes = tail(&root.join("proc/self/cgroup"), BYTES).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let inside = !path.is_empty() && path.split('/').all(|part| part != "..");
    inside.then(|| path.to_owned())
}

fn count(path: &Path) -> Option<u64> {
    let bytes = tail(path, BYTES).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_of_the_machine_the_own_cgroup_and_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        assert_eq!(OomKills::read(root.path()), OomKills::default());
        put("proc/vmstat", "nr_free_pages 7\noom_kill 5\n");
        put("proc/self/cgroup", "0::/system.slice/sonde.service\n");
        put(
            "sys/fs/cgroup/system.slice/memory.events",
            "oom 9\noom_kill 3\n",
        );
        let all = OomKills::read(root.path());
        assert_eq!((all.host, all.own, all.above), (Some(5), None, Some(3)));
        put("proc/self/cgroup", "0::/../../elsewhere\n");
        put("proc/vmstat", "oom_kill many\n");
        assert_eq!(OomKills::read(root.path()), OomKills::default());
    }
}
