//! Whether the machine is going down, asked when the agent is told to stop.
//! Init systems do not say it to a service; they leave signs in `/run`.
//!
//! Source: systemd-logind.service(8) (`/run/systemd/shutdown/scheduled`),
//! systemd-user-sessions.service(8) (`/run/nologin`), utmp(5) (sysvinit's run
//! level), OpenRC's `softlevel`.

use std::path::Path;

use super::evidence::tail;
use super::wtmp;

const BYTES: u64 = 1024;
/// A shutdown that is planned for later than this is none yet.
const SOON_US: u64 = 60_000_000;

/// The sign that there is; `None`: none was found, which proves nothing.
pub(super) fn going_down(root: &Path, unix_ns: u64) -> Option<String> {
    let text = |path: &str| {
        let bytes = tail(&root.join(path), BYTES).ok()?;
        String::from_utf8(bytes).ok()
    };
    let planned = || {
        let text = text("run/systemd/shutdown/scheduled")?;
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let at: u64 = field("USEC=")?.trim().parse().ok()?;
        let mode = field("MODE=").filter(|mode| !mode.starts_with("dry-"))?;
        let soon = at <= (unix_ns / 1000).saturating_add(SOON_US);
        soon.then(|| format!("/run/systemd/shutdown/scheduled says {mode}"))
    };
    let nologin = || {
        let text = text("run/nologin")?;
        // While it boots the file is there too, with other words.
        text.contains("going down")
            .then(|| "/run/nologin says so".to_owned())
    };
    let run_level =
        || wtmp::run_level_ends(root).then(|| "/run/utmp has the run level of a halt".to_owned());
    let openrc = || {
        let text = text("run/openrc/softlevel")?;
        matches!(text.trim(), "shutdown" | "reboot")
            .then(|| format!("/run/openrc/softlevel is {}", text.trim()))
    };
    planned()
        .or_else(nologin)
        .or_else(run_level)
        .or_else(openrc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_that_it_goes_down_now_is_a_sign() {
        const NOW: u64 = 1_000_000_000_000;
        for (path, content, sign) in [
            (
                "run/nologin",
                "System is booting up. See pam_nologin(8)",
                false,
            ),
            (
                "run/nologin",
                "System is going down. Unprivileged users",
                true,
            ),
            ("run/nologin", "\u{0}\u{1}", false),
            (
                "run/systemd/shutdown/scheduled",
                "USEC=1000000000\nMODE=reboot\n",
                true,
            ),
            (
                "run/systemd/shutdown/scheduled",
                "USEC=1000000000\nMODE=dry-reboot\n",
                false,
            ),
            (
                "run/systemd/shutdown/scheduled",
                "USEC=9000000000\nMODE=reboot\n",
                false,
            ),
            ("run/systemd/shutdown/scheduled", "MODE=reboot\n", false),
            ("run/openrc/softlevel", "shutdown\n", true),
            ("run/openrc/softlevel", "default\n", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let at = root.path().join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, content).unwrap();
            let found = going_down(root.path(), NOW);
            assert_eq!(found.is_some(), sign, "{path} {content:?}: {found:?}");
        }
    }
}
