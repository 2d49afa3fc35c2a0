//! Other programs' processes, those that `[process.NAME]` names.
//!
//! A tick reads only the processes that are known already: each has its folder
//! of `/proc` open, and such a descriptor never comes to mean another process
//! that got the same number. `/proc` is looked through when a process is
//! wanted that is not there, at most once a tick, and not at all while the
//! kernel has started nothing since; see `Watchman::must_scan`.
//!
//! Several processes that match are one: their figures are summed, and
//! `sonde.process.count` says how many there are. Sums are cumulative: what an
//! ended worker used stays in the sum as long as one of those that ran beside
//! it lives. When none of them does, and there are others, it is a restart: the
//! sums begin again with the start of the oldest new one as their start time.
//! A process is its number and its start time, so one that ended and came back
//! between two ticks is a restart too, once however often it did.
//!
//! What nobody may see is typed so and is never 0: other users' I/O without
//! CAP_SYS_PTRACE, their executables' paths, everything under a `/proc` that
//! hides them. An absence is told once, so it counts as one error, not as one a tick.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::cpu::{seconds, ticks_per_second};
use super::readings::{found, text};
use super::table::{
    PROCESS_CPU, PROCESS_FILES, PROCESS_IO, PROCESS_MEMORY, PROCESS_RESTARTS, PROCESS_RUNNING,
    PROCESS_THREADS, PROCESS_UPTIME, PROCESS_VIRTUAL,
};
use super::{Attribute, Descriptor, Family, Missing, Readings, Series, SeriesId, Source, Value};
use crate::frame::Stamp;
use crate::status::GaugeStatus;

mod find;
mod one;

use find::{Births, Mark, Scan};
use one::{Process, Stat, Used};

/// Processes that may be watched by name in the configuration.
pub const MAX_WATCHED: usize = 32;
/// Processes that are summed, all together: each is a descriptor that stays open.
const MAX_KNOWN: usize = 128;
/// How often `/proc` is looked through for more of what is there already.
const MORE_EVERY_NS: u64 = 30_000_000_000;
/// How often it is looked through for what is not, though nothing seems to have started.
const AGAIN_EVERY_NS: u64 = 60_000_000_000;
/// An uptime is rounded like the machine's.
const GRAIN: f64 = 256.0;

/// How a process is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Its name as the kernel has it, at most 15 bytes: `/proc/PID/comm`.
    Name(String),
    /// The file that it runs: `/proc/PID/exe`, also when that was replaced since.
    Executable(PathBuf),
    /// A file that holds its number.
    PidFile(PathBuf),
    /// Every process of a systemd unit's control group.
    Unit(String),
}

/// What is watched, by name.
pub type Watches = BTreeMap<String, By>;

/// Reads the processes that are watched.
#[derive(Debug)]
pub struct Processes {
    config: watch::Receiver<Watches>,
    watched: Vec<Watched>,
    watchman: Watchman,
    page: u64,
    per_second: f64,
}

/// Where to look, and when it was done last.
#[derive(Debug)]
struct Watchman {
    root: PathBuf,
    proc: PathBuf,
    births: Births,
    /// At the last look through `/proc`.
    born: Option<u64>,
    /// Nothing was started between the last look and the one before.
    settled: bool,
    scanned_ns: Option<u64>,
    /// That there are too many was said.
    said: bool,
}

/// One that is watched.
#[derive(Debug)]
struct Watched {
    name: String,
    by: By,
    folder: Option<PathBuf>,
    /// Why the last look through `/proc` could not tell whether it runs.
    unknown: Option<Missing>,
    members: Vec<Process>,
    /// What ended members of this generation had used.
    retired: Used,
    /// Which file named which process, and when that had started.
    named: Option<(Mark, u32, u64)>,
    /// Whether the series' start has to be told.
    fresh: bool,
    /// The start of the generation's oldest, in clock ticks since boot.
    began: u64,
    seen: bool,
    restarts: u64,
    series: Option<[Option<SeriesId>; SERIES]>,
    told: [Option<Missing>; SERIES],
}

const SERIES: usize = 11;

impl Processes {
    /// Below `root`; `config` may change.
    pub fn new(root: &Path, config: watch::Receiver<Watches>) -> Self {
        let mut processes = Self {
            watched: Vec::new(),
            watchman: Watchman {
                root: root.to_owned(),
                proc: root.join("proc"),
                births: Births::new(root),
                born: None,
                settled: false,
                scanned_ns: None,
                said: false,
            },
            page: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
            per_second: ticks_per_second(),
            config,
        };
        processes.configure();
        processes
    }

    /// Those that stay as they are keep what is known of them.
    fn configure(&mut self) {
        let config = self.config.borrow_and_update();
        let mut old = std::mem::take(&mut self.watched);
        for (name, by) in config.iter().take(MAX_WATCHED) {
            let same = |one: &Watched| one.name == *name && one.by == *by;
            self.watched.push(match old.iter().position(same) {
                Some(at) => old.swap_remove(at),
                None => Watched::new(name, by),
            });
        }
        self.watchman.scanned_ns = None;
    }
}

impl Source for Processes {
    fn family(&self) -> Family {
        Family::Process
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        // Whoever configures may have ended; the last word counts.
        if self.config.has_changed().unwrap_or(false) {
            self.configure();
        }
        if self.watched.is_empty() {
            return Ok(());
        }
        let mut known: usize = self.watched.iter().map(|one| one.members.len()).sum();
        let mut lost = false;
        let mut looks = Vec::with_capacity(self.watched.len());
        for one in &mut self.watched {
            let before = one.members.len();
            one.keep_the_living();
            let ended = before - one.members.len();
            known -= ended;
            lost |= ended > 0 && one.by.is_scanned();
            looks.push(one.ask(&self.watchman, now, &mut known));
        }
        let mut scanned = self.watched.iter().filter(|one| one.by.is_scanned());
        let some = scanned.next().is_some();
        let mut scanned = self.watched.iter().filter(|one| one.by.is_scanned());
        let absent = scanned.any(|one| one.members.is_empty());
        if some && self.watchman.must_scan(now.boot_ns, absent || lost) {
            let rules: Vec<&By> = self.watched.iter().map(|one| &one.by).collect();
            let scan = find::scan(&self.watchman.proc, &rules);
            let parts = self.watched.iter_mut().zip(&mut looks).enumerate();
            for (at, (one, look)) in parts.filter(|(_, (one, _))| one.by.is_scanned()) {
                *look = one.take_in(at, &scan, &self.watchman, &mut known);
            }
        }
        if known >= MAX_KNOWN && !self.watchman.said {
            self.watchman.said = true;
            log::warn!(
                "more than {MAX_KNOWN} processes match what [process.NAME] watches; the rest is left out"
            );
        }
        let measure = Measure {
            page: self.page,
            per_second: self.per_second,
            sized: self.watchman.root == Path::new("/"),
            hidden: self.watched.iter().any(|one| one.members.is_empty()) && self.watchman.hides(),
            now,
        };
        for (one, look) in self.watched.iter_mut().zip(looks) {
            one.renew();
            one.put(look.err(), &measure, out);
        }
        Ok(())
    }
}

/// Says why of a watched process nothing can be told.
pub fn annotate(watches: &Watches, gauges: &mut [GaugeStatus]) {
    for gauge in gauges {
        if gauge.name != PROCESS_RUNNING.name {
            continue;
        }
        let name = gauge.attributes.get("sonde.process.name");
        let by = name.and_then(|name| watches.get(name));
        if let (Some(by), Some(missing)) = (by, gauge.missing.as_deref()) {
            gauge.why = by.why(missing);
        }
    }
}

/// Whether a series is of a process that is watched no more.
pub fn is_of_none(series: &Series, watches: &Watches) -> bool {
    let mut attributes = series.attributes.iter();
    attributes.any(|(key, value)| {
        let Attribute::Text(name) = value else {
            return false;
        };
        key == "sonde.process.name" && !watches.contains_key(name.as_ref())
    })
}

impl By {
    /// Whether it takes a look through `/proc` to find it.
    fn is_scanned(&self) -> bool {
        matches!(self, By::Name(_) | By::Executable(_))
    }

    /// What an absence means for one that is known so.
    fn why(&self, missing: &str) -> Option<String> {
        let hidden = "the kernel hides other users' processes from the agent";
        Some(match (self, missing) {
            (By::PidFile(path), "gone") => format!(
                "{} is stale: its number is another process' by now",
                path.display()
            ),
            (By::PidFile(path), "garbage") => {
                format!("{} holds no process' number", path.display())
            }
            (By::PidFile(path), "denied") => {
                format!("{} may not be read, or {hidden}", path.display())
            }
            (By::Unit(unit), "unsupported") => {
                format!("{unit} has no control group: systemd keeps none on this machine")
            }
            (By::Executable(_), "denied") => {
                "what other users' processes run is shown to CAP_SYS_PTRACE only; watch it by name"
                    .into()
            }
            (_, "denied") => hidden.into(),
            _ => return None,
        })
    }
}

impl Watchman {
    /// Whether to look through `/proc` now: something was started since the
    /// last look, or between that and the one before it (what is started first
    /// runs its parent's program, and its own a moment later), or that was long
    /// ago. For more of what is there already it need not be at once.
    fn must_scan(&mut self, now_ns: u64, wanted: bool) -> bool {
        let Some(before) = self.scanned_ns else {
            self.born = self.births.last();
            self.scanned_ns = Some(now_ns);
            return true;
        };
        let ago = now_ns.saturating_sub(before);
        if !wanted && ago < MORE_EVERY_NS {
            return false;
        }
        let born = self.births.last();
        let quiet = born.is_some() && born == self.born;
        if quiet && self.settled && ago < AGAIN_EVERY_NS {
            return false;
        }
        self.settled = quiet;
        self.born = born;
        self.scanned_ns = Some(now_ns);
        true
    }

    /// Whether other users' processes are hidden (`hidepid` in proc(5), `ProtectProc=`).
    fn hides(&self) -> bool {
        std::fs::symlink_metadata(self.proc.join("1")).is_err()
    }
}

impl Watched {
    fn new(name: &str, by: &By) -> Self {
        Self {
            name: name.to_owned(),
            by: by.clone(),
            folder: None,
            unknown: None,
            members: Vec::new(),
            retired: Used::default(),
            named: None,
            fresh: false,
            began: 0,
            seen: false,
            restarts: 0,
            series: None,
            told: [None; SERIES],
        }
    }

    /// Reads each known process; those that ended, are zombies, or run another
    /// program by now are no members any more.
    fn keep_the_living(&mut self) {
        let (by, retired) = (&self.by, &mut self.retired);
        self.members.retain_mut(|one| {
            let lives = one.refresh().is_ok() && is_called(by, &one.stat);
            if !lives {
                retired.add(&one.used);
            }
            lives
        });
    }

    /// Looks where its number stands, if it stands somewhere.
    fn ask(&mut self, at: &Watchman, now: Stamp, known: &mut usize) -> Result<(), Missing> {
        let mut stale = false;
        let pids = match &self.by {
            By::Name(_) | By::Executable(_) => return self.unknown.map_or(Ok(()), Err),
            By::PidFile(path) => match find::pid_file(&find::below(&at.root, path))? {
                Some((pid, mark)) => {
                    stale = self.is_stale(pid, mark, at, now);
                    if stale { vec![] } else { vec![pid] }
                }
                None => vec![],
            },
            By::Unit(unit) => find::unit(&at.root, unit, &mut self.folder)?,
        };
        let retired = &mut self.retired;
        let before = self.members.len();
        self.members.retain(|one| {
            let stays = pids.contains(&one.pid);
            if !stays {
                retired.add(&one.used);
            }
            stays
        });
        *known = known.saturating_sub(before - self.members.len());
        self.adopt(&pids, at, known);
        match stale {
            true => Err(Missing::Gone),
            false => Ok(()),
        }
    }

    /// Whether the process that has this number is another than the file means:
    /// the same file named one that started at another time, or it was written
    /// long before this one started.
    fn is_stale(&mut self, pid: u32, mark: Mark, at: &Watchman, now: Stamp) -> bool {
        if self.members.iter().any(|one| one.pid == pid) {
            return false;
        }
        let Ok(process) = Process::open(&at.proc, pid) else {
            return false;
        };
        let start = process.stat.start;
        let other =
            |(before, of, then): (Mark, u32, u64)| before == mark && of == pid && then != start;
        let started_ns = start as f64 / ticks_per_second() * 1e9;
        let stale =
            self.named.is_some_and(other) || mark.is_before(started_ns as u64, &at.root, now);
        if !stale {
            self.named = Some((mark, pid, start));
        }
        stale
    }

    /// Takes in what a look through `/proc` found for it.
    fn take_in(
        &mut self,
        at: usize,
        scan: &Result<Scan, Missing>,
        watchman: &Watchman,
        known: &mut usize,
    ) -> Result<(), Missing> {
        self.unknown = scan.as_ref().err().copied();
        let scan = scan.as_ref().map_err(|missing| *missing)?;
        let found = scan.found.iter().filter(|(rule, _)| *rule == at);
        let pids: Vec<u32> = found.map(|(_, pid)| *pid).collect();
        self.adopt(&pids, watchman, known);
        let by_file = matches!(self.by, By::Executable(_));
        let hidden = self.members.is_empty() && by_file && scan.denied;
        self.unknown = hidden.then_some(Missing::Denied);
        self.unknown.map_or(Ok(()), Err)
    }

    fn adopt(&mut self, pids: &[u32], at: &Watchman, known: &mut usize) {
        for pid in pids {
            if *known >= MAX_KNOWN || self.members.iter().any(|one| one.pid == *pid) {
                continue;
            }
            // It may be gone already, or a zombie.
            let Ok(process) = Process::open(&at.proc, *pid) else {
                continue;
            };
            if is_called(&self.by, &process.stat) {
                *known += 1;
                self.members.push(process);
            }
        }
    }

    /// Begins the sums anew if nobody of those that ran before does.
    fn renew(&mut self) {
        let all_new = self.members.iter().all(|one| one.new);
        for one in &mut self.members {
            one.new = false;
        }
        if !all_new || self.members.is_empty() {
            return;
        }
        self.restarts += u64::from(self.seen);
        self.seen = true;
        self.fresh = true;
        self.retired = Used::default();
        let starts = self.members.iter().map(|one| one.stat.start);
        self.began = starts.min().unwrap_or_default();
    }

    fn put(&mut self, unknown: Option<Missing>, measure: &Measure, out: &mut Readings) {
        let name = &self.name;
        let series = *self.series.get_or_insert_with(|| series(name, out));
        if std::mem::take(&mut self.fresh) {
            let since = measure.nanos(self.began);
            for at in COUNTERS {
                out.began(series.get(at).copied().flatten(), since);
            }
        }
        let count = match (self.members.is_empty(), unknown) {
            (true, Some(missing)) => Err(missing),
            (true, None) if measure.hidden => Err(Missing::Denied),
            _ => whole(self.members.len()),
        };
        let figures = match count {
            Ok(_) if !self.members.is_empty() => self.sums(measure),
            Ok(_) => [Err(Missing::Gone); FIGURES],
            Err(missing) => [Err(missing); FIGURES],
        };
        let values = [count, Value::whole(self.restarts)]
            .into_iter()
            .chain(figures);
        for ((id, told), value) in series.into_iter().zip(&mut self.told).zip(values) {
            if value.is_ok() || *told != value.err() {
                out.put(id, value);
            }
            *told = value.err();
        }
    }

    /// In the order of [`series`], from its third on.
    fn sums(&mut self, measure: &Measure) -> [Result<Value, Missing>; FIGURES] {
        let mut used = self.retired;
        let (mut resident, mut size, mut threads) = (0_u64, 0_u64, 0_u64);
        let mut files = Ok(0_u64);
        let mut io = Ok(());
        for one in &mut self.members {
            let stat = &one.stat;
            resident = resident.saturating_add(stat.resident);
            size = size.saturating_add(stat.size);
            threads = threads.saturating_add(stat.threads);
            files = match (files, one.files(measure.sized)) {
                (Ok(sum), Ok(open)) => Ok(sum + open),
                // It ended in this moment.
                (Ok(sum), Err(Missing::Gone)) => Ok(sum),
                (Err(missing), _) | (Ok(_), Err(missing)) => Err(missing),
            };
            match one.read_io() {
                Ok(()) | Err(Missing::Gone) => {}
                Err(missing) => io = Err(missing),
            }
            used.add(&one.used);
        }
        let oldest = self.members.iter().map(|one| one.stat.start).min();
        let oldest = measure.nanos(oldest.unwrap_or_default());
        let uptime = measure.now.boot_ns.saturating_sub(oldest);
        let bytes = resident.checked_mul(measure.page).ok_or(Missing::Garbage);
        [
            bytes.and_then(Value::whole),
            Value::whole(size),
            seconds(used.user, measure.per_second),
            seconds(used.system, measure.per_second),
            io.and_then(|()| Value::whole(used.read)),
            io.and_then(|()| Value::whole(used.written)),
            Value::whole(threads),
            files.and_then(Value::whole),
            Value::grained(uptime as f64 / 1e9, GRAIN),
        ]
    }
}

/// What a tick's figures are made with.
struct Measure {
    page: u64,
    per_second: f64,
    sized: bool,
    hidden: bool,
    now: Stamp,
}

impl Measure {
    /// Clock ticks since boot as nanoseconds, never later than now.
    fn nanos(&self, ticks: u64) -> u64 {
        let nanos = ticks as f64 / self.per_second * 1e9;
        (nanos as u64).min(self.now.boot_ns)
    }
}

/// A name says what a process is; all else was looked up elsewhere.
fn is_called(by: &By, stat: &Stat) -> bool {
    match by {
        By::Name(name) => stat.name == name.as_bytes(),
        _ => true,
    }
}

fn whole(count: usize) -> Result<Value, Missing> {
    Value::whole(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Figures of a process that runs: all but its count and restarts.
const FIGURES: usize = SERIES - 2;

/// Which of [`series`] begin anew with it.
const COUNTERS: [usize; 4] = [4, 5, 6, 7];

fn series(name: &str, out: &Readings) -> [Option<SeriesId>; SERIES] {
    let by = |gauge: &'static Descriptor, extra: Option<(&'static str, &'static str)>| {
        let extra = extra.map(|(key, value)| (key, text(value)));
        let name = ("sonde.process.name", found(name));
        let attributes: Vec<(&'static str, Attribute)> = extra.into_iter().chain([name]).collect();
        out.series(gauge, &attributes)
    };
    [
        by(&PROCESS_RUNNING, None),
        by(&PROCESS_RESTARTS, None),
        by(&PROCESS_MEMORY, None),
        by(&PROCESS_VIRTUAL, None),
        by(&PROCESS_CPU, Some(("cpu.mode", "user"))),
        by(&PROCESS_CPU, Some(("cpu.mode", "system"))),
        by(&PROCESS_IO, Some(("disk.io.direction", "read"))),
        by(&PROCESS_IO, Some(("disk.io.direction", "write"))),
        by(&PROCESS_THREADS, None),
        by(&PROCESS_FILES, None),
        by(&PROCESS_UPTIME, None),
    ]
}

#[cfg(test)]
mod tests;
