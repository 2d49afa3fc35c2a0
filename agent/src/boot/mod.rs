//! Boots and runs: how many there were, why the last boot ended and why the
//! agent's last run ended, each with its evidence; found at the start, without
//! anybody's cooperation at the end.
//!
//! ```text
//!  machine: pstore, watchdogs, reset reasons, login records ─┐
//!  own records: count, stop marker, panic, run under way ────┴─ judge ─► report, once
//! ```
//!
//! Promises: a reason has something that speaks for it, else it is `unknown`;
//! each boot and each run is reported once, and what is reported again after a
//! crash in the middle has the same `log.record.uid`; a boot costs one durable
//! write, an orderly stop another; nothing that is found can stop the start or
//! keep it waiting for long. docs/BOOT.md is for operators.
//!
//! `judge` is pure. The rest reads files below a root that tests can choose.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::Config;
use crate::event::Events;
use crate::frame::Stamp;
use crate::identity::Identity;
use crate::spool::Spool;
use crate::spool::storage::{OpenError, RealFiles, Storage};
use crate::status::{BootStatus, EndStatus};

mod crash;
mod evidence;
mod judge;
mod oom;
mod pstore;
mod record;
mod report;
mod reset;
mod shutdown;
#[cfg(test)]
mod tests;
mod wtmp;

use evidence::Evidence;
use judge::{Before, Verdict, judge};
use record::{BootId, Count, Crash, Faint, MAX_BYTES, MAX_PENDING, Marker, OomKills, Run, RunId};

/// The longest that the start waits for what the machine says: a file of a
/// broken bus may never answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// After this the spool has written what is critical, or an uplink has it.
const SETTLE: Duration = Duration::from_secs(1);

const FOLDER: &str = "boot";
const COUNT: &str = "count";
const STOPPED: &str = "stopped";
const PANIC: &str = "panic";
const FAINT: &str = "faint";

/// Why a boot or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A boot: somebody asked for a reboot or for power off.
    Clean,
    /// A boot: the power went away or was too low.
    PowerLoss,
    /// A boot: the kernel panicked.
    Panic,
    /// A boot: a watchdog ran out.
    Watchdog,
    /// A boot: it was too hot.
    Overheat,
    /// Killed for want of memory: a run, or a boot by a panic.
    Oom,
    /// A run: asked to stop.
    Stopped,
    /// A run: a bug of the agent's own.
    Crash,
    /// A run: ended from outside, in a boot that went on.
    Killed,
    /// A run: its boot ended.
    Boot,
    /// Nothing speaks for any of them.
    Unknown,
}

/// How a boot or a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: Reason,
    /// What speaks for it, then what was seen besides.
    pub(crate) evidence: Vec<String>,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Boot,
    Run,
}

/// One end, told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    what: What,
    /// `log.record.uid`
    uid: String,
    /// The number of the boot that it is told in.
    number: u64,
    end: End,
}

/// What is known of boots and runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Boot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    run_file: PathBuf,
    id: RunId,
    /// `None`: this boot has no id, so nothing can be known.
    verdict: Option<Verdict>,
    files: Mutex<Option<RealFiles>>,
    run: Mutex<Run>,
    alarm: Option<String>,
    /// That the voltage is too low was written down in this boot.
    faint: AtomicBool,
}

impl Boot {
    /// Looks, judges and counts. Never fails: what goes wrong is in the status.
    pub async fn start(config: &Config, identity: &Identity, clock: &Clock) -> Self {
        let paths = &config.paths;
        let (evidence, oom) = gather(paths.root.clone()).await;
        let start_ns = clock.boot_ns();
        let id = RunId {
            boot: identity.boot_id,
            start_ns,
        };
        let boot = Self::judged(
            &paths.root,
            &paths.state,
            &paths.runtime,
            id,
            &evidence,
            oom,
        );
        crash::arm(paths.state.join(FOLDER).join(PANIC), id);
        boot.log();
        boot
    }

    fn judged(
        root: &Path,
        state: &Path,
        runtime: &Path,
        id: RunId,
        evidence: &Evidence,
        oom: OomKills,
    ) -> Self {
        let run_file = runtime.join(FOLDER);
        let (mut files, mut alarm) = match open(&state.join(FOLDER)) {
            Ok(files) => (Some(files), None),
            Err(why) => (None, Some(why)),
        };
        let before = Before {
            count: read(&mut files, COUNT).as_deref().and_then(Count::of),
            run: bounded(&run_file).as_deref().and_then(Run::of),
            marker: read(&mut files, STOPPED).as_deref().and_then(Marker::of),
            crash: read(&mut files, PANIC).as_deref().and_then(Crash::of),
            faint: read(&mut files, FAINT).as_deref().and_then(Faint::of),
        };
        let faint = before
            .faint
            .as_ref()
            .is_some_and(|faint| faint.boot == id.boot);
        let mut run = Run {
            id,
            oom,
            ..Run::default()
        };
        let known = id.boot != BootId::default();
        let verdict = known.then(|| judge(id, oom, evidence, &before));
        match &verdict {
            Some(verdict) => {
                run.restarts = verdict.restarts.clone();
                run.count = Some(verdict.count.clone());
                run.pending = pending(before.run, &verdict.reports);
                let told = write_run(&run_file, &run);
                if let Some(files) = &mut files
                    && let Err(error) = keep(files, verdict, before.marker.as_ref(), told.is_ok())
                {
                    alarm = Some(error.to_string());
                }
                if let Err(error) = told {
                    let file = run_file.display();
                    alarm.get_or_insert(format!("cannot write {file}: {error}"));
                }
            }
            None => {
                let file = root.join("proc/sys/kernel/random/boot_id");
                alarm = Some(format!(
                    "{} cannot be read, so one boot cannot be told from another",
                    file.display()
                ));
            }
        }
        Self(Arc::new(Inner {
            root: root.to_path_buf(),
            run_file,
            id,
            verdict,
            files: Mutex::new(files),
            run: Mutex::new(run),
            alarm,
            faint: AtomicBool::new(faint),
        }))
    }

    /// One that knows nothing and has no folders.
    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        let nowhere = Path::new("/dev/null/nowhere");
        let nothing = (Evidence::default(), OomKills::default());
        let id = RunId::default();
        Self::judged(nowhere, nowhere, nowhere, id, &nothing.0, nothing.1)
    }

    fn log(&self) {
        if let Some(alarm) = &self.0.alarm {
            log::warn!("boots cannot be counted reliably: {alarm}");
        }
        let Some(verdict) = &self.0.verdict else {
            return;
        };
        let end = &verdict.count.end;
        if verdict.new_boot {
            log::info!(
                "boot {}; the one before ended: {} ({})",
                verdict.count.count,
                end.reason.as_str(),
                end.evidence.join("; ")
            );
        }
        if let Some(end) = &verdict.run {
            let evidence = end.evidence.join("; ");
            log::info!(
                "the agent's last run ended: {} ({evidence})",
                end.reason.as_str()
            );
        }
    }

    /// Emits what is to be told and hands it to the spool; the future that is
    /// returned remembers that it was, once the spool must have it on flash.
    pub async fn report(
        &self,
        identity: &Identity,
        now: Stamp,
        spool: &Spool,
        events: &Events,
        send: bool,
    ) -> impl Future<Output = ()> + use<> {
        let reports = lock(&self.0.run).pending.clone();
        for report in &reports {
            let metadata = [
                ("reason", report.end.reason.as_str()),
                ("evidence", &report.evidence()),
            ];
            let number = [("boot", report.number as f64)];
            events.emit(report.name(), &number, &metadata);
        }
        let stored = match report::batch(&reports, &identity.attributes, now) {
            Some(batch) if send => match spool.store(batch).await {
                Ok(_) => true,
                Err(refused) => {
                    log::warn!("why the last boot and run ended could not be stored: {refused}");
                    false
                }
            },
            _ => true,
        };
        let boot = self.clone();
        let status = spool.status();
        async move {
            tokio::time::sleep(SETTLE).await;
            let safe = {
                let status = status.borrow();
                status.path.is_some() && status.alarm.is_none()
            };
            // What only memory has is told again after a crash, as the same record.
            if stored && safe {
                boot.settle();
            }
        }
    }

    fn settle(&self) {
        let mut run = lock(&self.0.run);
        if run.pending.is_empty() {
            return;
        }
        run.pending.clear();
        if let Err(error) = write_run(&self.0.run_file, &run) {
            log::warn!("cannot write {}: {error}", self.0.run_file.display());
        }
        if let Some(files) = lock(&self.0.files).as_mut() {
            // Gone already, unless the runtime folder could not be written.
            let _ = files.unlink(PANIC);
        }
    }

    /// Writes down that this run ends in order. `lost`: because of this part.
    /// Last of all: how far the machine has got with going down is seen now.
    pub fn stopped(&self, lost: Option<&str>, unix_ns: u64) {
        let marker = Marker {
            id: self.0.id,
            lost: lost.map(record::clean),
            going_down: shutdown::going_down(&self.0.root, unix_ns).map(|by| record::clean(&by)),
        };
        if self.0.verdict.is_none() {
            return;
        }
        if let Some(files) = lock(&self.0.files).as_mut()
            && let Err(error) = replace(files, STOPPED, &marker.to_bytes())
        {
            log::warn!("the next start will not know that this run was stopped: {error}");
        }
    }

    /// Writes down, once a boot, that the voltage is too low: should the power
    /// go, the next start has something to go by.
    pub fn faint(&self, by: &str) {
        if self.0.verdict.is_none() || self.0.faint.swap(true, Ordering::Relaxed) {
            return;
        }
        let faint = Faint {
            boot: self.0.id.boot,
            by: record::clean(by),
        };
        if let Some(files) = lock(&self.0.files).as_mut()
            && let Err(error) = replace(files, FAINT, &faint.to_bytes())
        {
            log::warn!("the next start will not know that the voltage was too low: {error}");
        }
    }

    /// Whether that was done.
    pub fn is_faint(&self) -> bool {
        self.0.faint.load(Ordering::Relaxed)
    }

    /// For the status.
    pub fn status(&self) -> BootStatus {
        let end = |end: &End| EndStatus {
            reason: end.reason.as_str().to_owned(),
            evidence: end.evidence.clone(),
        };
        let verdict = self.0.verdict.as_ref();
        BootStatus {
            count: verdict.map(|verdict| verdict.count.count),
            last_boot: verdict.map(|verdict| end(&verdict.count.end)),
            last_run: verdict.and_then(|verdict| verdict.run.as_ref()).map(end),
            restarts: self
                .restarts()
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect(),
            alarm: self.0.alarm.clone(),
        }
    }

    /// Which boot this is, counted from the first that the agent saw.
    pub fn count(&self) -> Option<u64> {
        self.0.verdict.as_ref().map(|verdict| verdict.count.count)
    }

    /// Why the boot before this one ended.
    pub fn reason(&self) -> Option<Reason> {
        let verdict = self.0.verdict.as_ref();
        verdict.map(|verdict| verdict.count.end.reason)
    }

    /// Restarts of the agent in this boot, by how the run before each ended.
    pub fn restarts(&self) -> impl Iterator<Item = (Reason, u64)> {
        let verdict = self.0.verdict.iter();
        verdict.flat_map(|verdict| verdict.restarts.iter().map(|(r, n)| (*r, *n)))
    }
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 11] = [
        Reason::Clean,
        Reason::PowerLoss,
        Reason::Panic,
        Reason::Watchdog,
        Reason::Overheat,
        Reason::Oom,
        Reason::Stopped,
        Reason::Crash,
        Reason::Killed,
        Reason::Boot,
        Reason::Unknown,
    ];

    /// As in telemetry and in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Clean => "clean",
            Reason::PowerLoss => "power_loss",
            Reason::Panic => "panic",
            Reason::Watchdog => "watchdog",
            Reason::Overheat => "overheat",
            Reason::Oom => "oom",
            Reason::Stopped => "stopped",
            Reason::Crash => "crash",
            Reason::Killed => "killed",
            Reason::Boot => "boot",
            Reason::Unknown => "unknown",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            What::Boot => "boot",
            What::Run => "run",
        }
    }

    fn of(word: &str) -> Option<Self> {
        let mut all = [What::Boot, What::Run].into_iter();
        all.find(|what| what.as_str() == word)
    }
}

/// Called by the panic hook: leaves the record that the next start reports.
pub fn panicked(message: &str, place: &str) {
    crash::note(message, place);
}

/// What the machine says, read on a thread of its own that may be left behind.
async fn gather(root: PathBuf) -> (Evidence, OomKills) {
    let (answer, found) = oneshot::channel();
    let look = move || {
        // Nobody may wait any more.
        let _ = answer.send((Evidence::gather(&root), OomKills::read(&root)));
    };
    let thread = std::thread::Builder::new().name("boot".to_owned());
    let started = thread.stack_size(256 * 1024).spawn(look).is_ok();
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(found)) if started => found,
        _ => {
            let note = format!("what the machine says could not be read within {PATIENCE:?}");
            let evidence = Evidence {
                notes: vec![note],
                ..Evidence::default()
            };
            (evidence, OomKills::default())
        }
    }
}

/// What earlier starts of this boot could not be sure to have stored, and what is new.
fn pending(before: Option<Run>, new: &[Report]) -> Vec<Report> {
    let mut all = before.map_or_else(Vec::new, |run| run.pending);
    for report in new {
        if all.iter().all(|other| other.uid != report.uid) {
            all.push(report.clone());
        }
    }
    // The first tell how it began, the last how it goes on.
    while all.len() > MAX_PENDING {
        all.remove(MAX_PENDING / 2);
    }
    all
}

/// Puts the state folder in order. `told`: the reports are safe from a crash.
fn keep(
    files: &mut RealFiles,
    verdict: &Verdict,
    marker: Option<&Marker>,
    told: bool,
) -> io::Result<()> {
    if verdict.new_boot {
        replace(files, COUNT, &verdict.count.to_bytes())?;
    }
    if told {
        files.unlink(PANIC)?;
    }
    files.unlink(STOPPED)?;
    // One that came back after a power cut must not call that cut clean.
    let same_boot = marker.is_some_and(|marker| marker.id.boot == verdict.count.boot);
    if same_boot && marker.is_some_and(|marker| marker.going_down.is_some()) {
        files.sync_dir("")?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<RealFiles, String> {
    RealFiles::open(folder).map_err(|error| match error {
        OpenError::Locked => format!("another agent uses {}", folder.display()),
        OpenError::Io(error) => error.to_string(),
    })
}

/// A file in the state folder; `None`: not there, or not to be read.
fn read<S: Storage>(files: &mut Option<S>, name: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_BYTES];
    let length = files.as_mut()?.read_at(name, 0, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Replaces a file so that a power cut at any moment leaves the old or the new one.
fn replace<S: Storage>(files: &mut S, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    files.unlink(&new)?;
    let mut file = files.create(&new)?;
    files.append(&mut file, bytes)?;
    files.sync(&mut file)?;
    files.rename(&new, name)?;
    files.sync_dir("")
}

fn bounded(path: &Path) -> Option<Vec<u8>> {
    evidence::tail(path, MAX_BYTES as u64).ok()
}

/// Without a sync: it has a meaning in this boot only.
fn write_run(path: &Path, run: &Run) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, run.to_bytes())?;
    fs::rename(&new, path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
