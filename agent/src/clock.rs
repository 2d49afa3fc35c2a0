//! The only reader of time. Pure cores get a [`Stamp`] or `boot_ns` passed in.

use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

use crate::frame::Stamp;

/// When to believe the wall clock (`clock.trust`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClockTrust {
    /// systemd-timesyncd's marker file says so.
    #[default]
    Timesync,
    /// A file that some other daemon (a GPS receiver's, chrony's hook) makes once the time is right.
    File(PathBuf),
    /// Always: the gateway has a battery clock.
    Always,
}

/// systemd-timesyncd touches this file at each synchronisation (systemd-timesyncd.service(8)).
const TIMESYNC_MARKER: &str = "/run/systemd/timesync/synchronized";

/// Reads the clocks of one boot.
#[derive(Clone, Debug)]
pub struct Clock {
    trust: ClockTrust,
}

impl Clock {
    /// A clock that is believed as `trust` says.
    pub fn new(trust: ClockTrust) -> Self {
        Self { trust }
    }

    /// Both clocks, read one after the other.
    pub fn now(&self) -> Stamp {
        Stamp {
            unix_ns: nanos(ClockId::Realtime),
            boot_ns: nanos(ClockId::Boottime),
        }
    }

    /// `CLOCK_BOOTTIME` alone, in nanoseconds.
    pub fn boot_ns(&self) -> u64 {
        nanos(ClockId::Boottime)
    }

    /// How long this boot has been suspended, in nanoseconds: what
    /// `CLOCK_BOOTTIME` counts and `CLOCK_MONOTONIC` does not. Microseconds too
    /// few where something came between the two looks.
    pub fn suspended_ns(&self) -> u64 {
        let boot = nanos(ClockId::Boottime);
        boot.saturating_sub(nanos(ClockId::Monotonic))
    }

    /// Whether the wall clock is believed right now.
    pub fn synchronised(&self) -> bool {
        match &self.trust {
            ClockTrust::Always => true,
            ClockTrust::File(path) => path.exists(),
            ClockTrust::Timesync => Path::new(TIMESYNC_MARKER).exists(),
        }
    }
}

/// `CLOCK_MONOTONIC` in microseconds: systemd orders a reload by it
/// (`MONOTONIC_USEC` in sd_notify(3)), and nothing else may use it.
pub fn monotonic_us() -> u64 {
    monotonic_ns() / 1000
}

/// `CLOCK_MONOTONIC` in nanoseconds, which stands still while the machine
/// sleeps: for how long own code took ([`crate::vitals`]), and nothing else.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

/// A clock before 1970 counts as 1970: the wire has no negative times.
fn nanos(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
