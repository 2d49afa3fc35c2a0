//! Keep-alives for systemd's `WatchdogSec=`, earned by progress: one goes out
//! only if no tick of the sampler is overdue and the spool's thread has answered
//! since the one before. A timer alone would go on while nothing is sampled or
//! stored any more.
//!
//! What hangs is seen so:
//!
//! | hangs | seen by |
//! |---|---|
//! | the runtime, the process | nobody is left to send |
//! | the pipeline (a batch that the spool never takes) | its next tick is overdue |
//! | the spool's thread (a file system that never returns) | the probe is not answered |
//!
//! A gauge that hangs is none of these: it is a typed absence, and the ticks go
//! on. A folder that cannot be written is none either: data waits in memory, and
//! a restart would only lose it.
//!
//! The same round keeps the line that `systemctl status` shows.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Notifier;
use crate::clock::Clock;
use crate::pipeline::PipelineHandle;
use crate::spool::Spool;
use crate::status::SpoolStatus;
use crate::status::words::{bytes, duration, of};
use crate::uplink::Roster;

/// Looks for each `WatchdogSec=`: one that comes late, or finds a slow disk at
/// work, is no reason to die yet.
const LOOKS: u32 = 4;
/// The longest time between two looks; the line in `systemctl status` is no older.
const LONGEST: Duration = Duration::from_secs(30);
/// The shortest: a `WatchdogSec=` below 400 ms is not followed.
const SHORTEST: Duration = Duration::from_millis(100);

/// What one look came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Send the keep-alive.
    pub ping: bool,
    /// Ask the spool's thread, and say so with [`KeepAlive::answered`].
    pub probe: bool,
    /// What has stopped, the first time that it is seen.
    pub stalled: Option<&'static str>,
}

/// Decides. Pure: times are `CLOCK_BOOTTIME` in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    grace_ns: u64,
    /// A probe is under way.
    asked: bool,
    /// The spool has answered since the last look.
    answered: bool,
    told: bool,
}

impl KeepAlive {
    /// A tick may be late by `grace` before it counts as overdue.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace_ns: u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX),
            asked: false,
            answered: false,
            told: false,
        }
    }

    /// The spool's thread has answered.
    pub fn answered(&mut self) {
        self.asked = false;
        self.answered = true;
    }

    /// `due_ns`: when the sampler wants to tick next, or wanted to and has not
    /// yet; `u64::MAX`: nothing is due.
    pub fn look(&mut self, now_ns: u64, due_ns: u64) -> Look {
        let overdue = due_ns.saturating_add(self.grace_ns) < now_ns;
        let silent = self.asked;
        let stalled = match (overdue, silent) {
            (_, true) => Some("the spool's thread does not answer (does its disk?)"),
            (true, false) => Some("the sampler has missed its ticks"),
            (false, false) => None,
        };
        let look = Look {
            ping: stalled.is_none() && self.answered,
            probe: !self.asked,
            stalled: stalled.filter(|_| !self.told),
        };
        self.told = stalled.is_some();
        self.answered = false;
        self.asked = true;
        look
    }
}

/// How long systemd waits for a keep-alive of this process: `WATCHDOG_USEC`, if
/// `WATCHDOG_PID` does not name another one (sd_watchdog_enabled(3)).
pub fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>, own: u32) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    let usec = number(usec?).filter(|usec| *usec > 0)?;
    let ours = pid.is_none_or(|pid| number(pid) == Some(u64::from(own)));
    ours.then(|| Duration::from_micros(usec))
}

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) clock: Clock,
    pub(crate) pipeline: PipelineHandle,
    pub(crate) spool: Spool,
    pub(crate) uplinks: Roster,
}

/// Runs until `stop`; `None` where nobody listens.
pub(crate) fn spawn(
    notifier: &Notifier,
    watched: Watched,
    stop: CancellationToken,
) -> Option<JoinHandle<()>> {
    notifier.address.as_ref()?;
    let variable = std::env::var_os;
    let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    let limit = watchdog(usec.as_deref(), pid.as_deref(), std::process::id());
    Some(tokio::spawn(run(notifier.clone(), limit, watched, stop)))
}

async fn run(
    notifier: Notifier,
    limit: Option<Duration>,
    watched: Watched,
    stop: CancellationToken,
) {
    let every = limit.map_or(LONGEST, |limit| (limit / LOOKS).clamp(SHORTEST, LONGEST));
    let mut keep = KeepAlive::new(every);
    let mut line = String::new();
    let mut probe: Option<oneshot::Receiver<()>> = None;
    loop {
        if limit.is_some() {
            let look = keep.look(watched.clock.boot_ns(), watched.pipeline.due_ns());
            if look.ping {
                notifier.watchdog();
            }
            if look.probe {
                probe = watched.spool.probe();
            }
            if let Some(what) = look.stalled {
                log::error!("{what}: no keep-alive goes to systemd until that is over");
            }
        }
        let now = summary(&watched.uplinks, &watched.spool.status());
        if now != line {
            notifier.status(&now);
            line = now;
        }
        let next = tokio::time::sleep(every);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut next => break,
                answer = heard(&mut probe) => {
                    probe = None;
                    if answer {
                        keep.answered();
                    }
                }
            }
        }
    }
}

/// Waits for the answer; for ever if none was asked for.
async fn heard(probe: &mut Option<oneshot::Receiver<()>>) -> bool {
    match probe {
        Some(probe) => probe.await.is_ok(),
        None => std::future::pending().await,
    }
}

/// `otlp up, mqtt waiting for 3m 2s; 12 frames (34 KiB) wait`.
fn summary(uplinks: &Roster, spool: &watch::Receiver<SpoolStatus>) -> String {
    let mut line = String::new();
    let mut configured = false;
    uplinks.each(|uplink| {
        configured = true;
        // One that has just been started has not said anything yet.
        if uplink.name.is_empty() {
            return;
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        // A String takes every write.
        let _ = write!(line, "{} {}", uplink.name, uplink.state);
        if let Some(down) = uplink.down_s {
            let _ = write!(line, ", down for {}", duration(down));
        }
    });
    if line.is_empty() {
        line.push_str(if configured {
            "starting"
        } else {
            "no uplink is configured"
        });
    }
    let spool = spool.borrow();
    if spool.frames > 0 {
        let held = bytes(spool.memory_bytes.saturating_add(spool.bytes));
        let _ = write!(line, "; {} ({held}) wait", of(spool.frames, "frame"));
    }
    if spool.alarm.is_some() {
        line.push_str("; in memory only, see sonde status");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::UplinkStatus;

    const S: u64 = 1_000_000_000;

    fn keep() -> KeepAlive {
        KeepAlive::new(Duration::from_secs(5))
    }

    #[test]
    fn progress_of_both_earns_a_ping_each_time() {
        let mut keep = keep();
        // Nobody was asked yet.
        let first = keep.look(0, S);
        assert!(!first.ping && first.probe && first.stalled.is_none());
        for second in [5, 10, 15] {
            keep.answered();
            let look = keep.look(second * S, second * S + S / 2);
            assert!(look.ping && look.probe, "{look:?}");
            assert_eq!(look.stalled, None);
        }
    }

    #[test]
    fn a_spool_that_does_not_answer_stops_the_pings_and_is_asked_only_once() {
        let mut keep = keep();
        keep.look(0, u64::MAX);
        let late = keep.look(5 * S, u64::MAX);
        assert!(!late.ping && !late.probe);
        assert!(late.stalled.unwrap().contains("spool"));
        // Told once.
        assert_eq!(keep.look(10 * S, u64::MAX), Look::default());
        // It goes on where it left off.
        keep.answered();
        let again = keep.look(15 * S, u64::MAX);
        assert!(again.ping && again.probe && again.stalled.is_none());
    }

    #[test]
    fn a_tick_that_is_overdue_stops_the_pings() {
        let mut keep = keep();
        keep.look(0, S);
        keep.answered();
        // Late within the grace.
        assert!(keep.look(6 * S, S).ping);
        keep.answered();
        let look = keep.look(6 * S + 1, S);
        assert!(!look.ping && look.stalled.unwrap().contains("sampler"));
        keep.answered();
        let look = keep.look(12 * S, S);
        assert!(!look.ping && look.stalled.is_none() && look.probe);
        keep.answered();
        assert!(keep.look(13 * S, 14 * S).ping);
    }

    #[test]
    fn with_no_gauge_due_the_spool_alone_earns_it() {
        let mut keep = keep();
        keep.look(0, u64::MAX);
        keep.answered();
        assert!(keep.look(u64::MAX, u64::MAX).ping);
        assert!(!keep.look(u64::MAX, u64::MAX).ping);
    }

    #[test]
    fn the_line_names_who_is_up_who_is_not_and_what_waits() {
        let roster = Roster::default();
        let (_spool, spool) = watch::channel(SpoolStatus::default());
        assert_eq!(summary(&roster, &spool), "no uplink is configured");
        let fresh = watch::channel(UplinkStatus::default()).1;
        roster.set(std::iter::once(fresh.clone()));
        assert_eq!(summary(&roster, &spool), "starting");
        let down = UplinkStatus {
            name: "otlp".into(),
            state: "waiting".into(),
            down_s: Some(192.0),
            ..UplinkStatus::default()
        };
        let spool = watch::channel(SpoolStatus {
            frames: 12,
            memory_bytes: 1024,
            bytes: 2048,
            alarm: Some("disk".into()),
            ..SpoolStatus::default()
        });
        roster.set([fresh, watch::channel(down).1].into_iter());
        assert_eq!(
            summary(&roster, &spool.1),
            "otlp waiting, down for 3m 12s; 12 frames (3.0 KiB) wait; in memory only, see sonde status"
        );
    }

    #[test]
    fn systemds_variables_are_read_as_it_defines_them() {
        let read = |usec: Option<&str>, pid: Option<&str>| {
            watchdog(usec.map(OsStr::new), pid.map(OsStr::new), 42)
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(read(Some("1000000"), Some("42")), second);
        assert_eq!(read(Some("1000000"), None), second);
        for (usec, pid) in [
            (None, Some("42")),
            (Some("1000000"), Some("41")),
            (Some("1000000"), Some("")),
            (Some("0"), None),
            (Some("-5"), None),
            (Some("soon"), None),
        ] {
            assert_eq!(read(usec, pid), None, "{usec:?} {pid:?}");
        }
    }
}
