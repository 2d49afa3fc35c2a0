//! Whether the wall clock can be believed, and whether the battery clock can.
//!
//! - By the rule in `clock.trust`, as the agent itself believes it.
//! - systemd-timesyncd touches a file whenever it has heard a time server, chrony
//!   and ntpd write their clock's drift down about once an hour while they are
//!   synchronised: the age of the newest grows when the server or the way to it
//!   is gone.
//! - `/sys/class/rtc/rtc0/since_epoch` is the battery clock in whole seconds.
//!   With an empty battery it is years off; a gateway that boots without a
//!   network then starts in the past.

use std::path::{Path, PathBuf};

use super::file::{KernelFile, small};
use super::readings::found;
use super::table::{CLOCK_SYNC_AGE, CLOCK_SYNCHRONISED, RTC_OFFSET};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::clock::Clock;
use crate::frame::Stamp;

/// Below a root: timesyncd's, chrony's and ntpd's on Debian and elsewhere.
const MARKERS: [&str; 6] = [
    "run/systemd/timesync/synchronized",
    "var/lib/chrony/chrony.drift",
    "var/lib/chrony/drift",
    "var/lib/ntp/ntp.drift",
    "var/lib/ntp/drift",
    "var/lib/ntpsec/ntp.drift",
];

/// Reads all three.
#[derive(Debug)]
pub struct TimeSync {
    clock: Clock,
    markers: [PathBuf; MARKERS.len()],
    rtc: KernelFile,
    is_utc: bool,
    ids: Option<[Option<SeriesId>; 3]>,
}

impl TimeSync {
    /// Below `root`.
    pub fn new(root: &Path, clock: Clock) -> Self {
        Self {
            clock,
            markers: MARKERS.map(|marker| root.join(marker)),
            rtc: KernelFile::new(root.join("sys/class/rtc/rtc0/since_epoch")),
            is_utc: is_utc(root),
            ids: None,
        }
    }
}

/// Windows' habit, written down by hwclock(8): the battery clock shows local time.
fn is_utc(root: &Path) -> bool {
    small(&root.join("etc/adjtime")).is_none_or(|text| text.lines().nth(2) != Some("LOCAL"))
}

impl Source for TimeSync {
    fn family(&self) -> Family {
        Family::Clock
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [synchronised, age, offset] = *self.ids.get_or_insert_with(|| {
            [
                out.series(&CLOCK_SYNCHRONISED, &[]),
                out.series(&CLOCK_SYNC_AGE, &[]),
                out.series(&RTC_OFFSET, &[("hw.id", found("rtc0"))]),
            ]
        });
        let believed = i64::from(self.clock.synchronised());
        out.put(synchronised, Ok(Value::Int(believed)));
        out.put(age, sync_age(&self.markers, now));
        let ahead = match self.is_utc {
            true => self.rtc.head(64).and_then(|text| ahead(text.trim(), now)),
            false => Err(Missing::Unsupported),
        };
        out.put(offset, ahead);
        Ok(())
    }
}

/// By the wall clock, which is what the file's time was written by.
fn sync_age(markers: &[PathBuf], now: Stamp) -> Result<Value, Missing> {
    let mut newest = Err(Missing::Unsupported);
    for marker in markers {
        match (rustix::fs::stat(marker), newest) {
            (Ok(stat), Ok(known)) => newest = Ok(stat.st_mtime.max(known)),
            (Ok(stat), Err(_)) => newest = Ok(stat.st_mtime),
            // One that may not be seen says more than none.
            (Err(error), Err(Missing::Unsupported)) => newest = Err(Missing::of(&error.into())),
            (Err(_), _) => {}
        }
    }
    let age = seconds(now)? - newest?;
    // The clock was set back since.
    if age < 0 {
        return Err(Missing::Garbage);
    }
    Ok(Value::Int(age))
}

fn ahead(since_epoch: &str, now: Stamp) -> Result<Value, Missing> {
    let rtc: i64 = since_epoch.parse().map_err(|_| Missing::Garbage)?;
    rtc.checked_sub(seconds(now)?)
        .map(Value::Int)
        .ok_or(Missing::Garbage)
}

fn seconds(now: Stamp) -> Result<i64, Missing> {
    i64::try_from(now.unix_ns / 1_000_000_000).map_err(|_| Missing::Garbage)
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::super::probe::testing::Tree;
    use super::*;
    use crate::clock::ClockTrust;

    fn read(tree: &Tree, unix_s: u64) -> Readings {
        let clock = Clock::new(ClockTrust::Always);
        let mut out = Readings::new(Registry::default());
        let now = Stamp {
            unix_ns: unix_s * 1_000_000_000,
            boot_ns: 0,
        };
        let read = TimeSync::new(tree.0.path(), clock).read(now, &mut out);
        assert_eq!(read, Ok(()));
        out
    }

    #[test]
    fn the_battery_clock_is_compared_and_the_last_answer_of_a_server_dated() {
        let tree = Tree::new(&[
            ("sys/class/rtc/rtc0/since_epoch", "1000\n"),
            (MARKERS[0], ""),
        ]);
        let out = read(&tree, 3_000_000_000);
        assert_eq!(
            out.value("sonde.clock.synchronised"),
            Some(Ok(Value::Int(1)))
        );
        assert!(matches!(
            out.value("sonde.clock.synchronised.age"),
            Some(Ok(Value::Int(age))) if age > 0
        ));
        let offset = "sonde.clock.rtc.offset hw.id=rtc0";
        assert_eq!(
            out.value(offset),
            Some(Ok(Value::Int(1000 - 3_000_000_000)))
        );
        // A file from the future, a clock in local time.
        tree.write("etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n");
        let out = read(&tree, 10);
        assert_eq!(
            out.value("sonde.clock.synchronised.age"),
            Some(Err(Missing::Garbage))
        );
        assert_eq!(out.value(offset), Some(Err(Missing::Unsupported)));
    }

    #[test]
    fn the_newest_word_of_any_time_daemon_counts() {
        let tree = Tree::new(&[(MARKERS[0], ""), (MARKERS[1], "-3.1 0.2\n")]);
        let at = |marker: &str, unix_s: u64| {
            let file = std::fs::File::options()
                .append(true)
                .open(tree.0.path().join(marker));
            let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_s);
            file.unwrap().set_modified(when).unwrap();
        };
        at(MARKERS[0], 1000);
        at(MARKERS[1], 5000);
        let age = |out: Readings| out.value("sonde.clock.synchronised.age");
        assert_eq!(age(read(&tree, 5600)), Some(Ok(Value::Int(600))));
        at(MARKERS[0], 5590);
        assert_eq!(age(read(&tree, 5600)), Some(Ok(Value::Int(10))));
    }

    #[test]
    fn a_gateway_with_neither_is_unsupported() {
        let out = read(&Tree::new(&[]), 10);
        for name in [
            "sonde.clock.synchronised.age",
            "sonde.clock.rtc.offset hw.id=rtc0",
        ] {
            assert_eq!(out.value(name), Some(Err(Missing::Unsupported)), "{name}");
        }
    }
}
