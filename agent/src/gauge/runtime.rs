//! The agent's own workings in detail, for who wants to know why it is slow:
//! its event loop, tasks, queues, gauges, spool and uplinks. Seldom read by
//! default ([`Family::rhythm`]), since nobody looks while all is well.
//!
//! Two halves. [`Runtime`] looks at counters in memory and never blocks: the
//! pipeline reads it itself, so that a gauge that hangs does not hide how the
//! agent is. [`Own`] reads files below `/proc/self` and is a [`Source`] like
//! any other, on the reader's thread:
//!
//! ```text
//! status         VmHWM: 5324 kB      most resident memory ever (proc_pid_status(5))
//! smaps_rollup   Pss: 2811 kB        shared pages by their share (proc_pid_smaps(5))
//! ```
//!
//! Of tokio's metrics these are the stable ones that say something: there is
//! one worker, always. Its allocator is the C library's, and musl's has no
//! statistics; the peak, the share and the resident memory stand for it.
//!
//! What has never happened has no series: no task without a poll, no queue
//! without an item, no failure of a kind that never was.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::agent::pair;
use super::file::KernelFile;
use super::readings::{found, text};
use super::table::{
    FILES_LIMIT, MEMORY_PEAK, MEMORY_SHARE, QUEUE_DEPTH, QUEUE_HIGH, READ_LAST, READ_LONGEST,
    RUNTIME_BUSY, RUNTIME_LAG, RUNTIME_PARKS, RUNTIME_TASKS, SPOOL_AGE, SPOOL_BUDGET_LEFT,
    SPOOL_DEVICE, SPOOL_FLASH, SPOOL_SEGMENTS, SPOOL_SYNC_LAST, SPOOL_SYNC_LONGEST, SPOOL_SYNCS,
    TASK_BUSY, TASK_LONGEST, UPLINK_ATTEMPTS, UPLINK_FAILURES, UPLINK_ROUND_TRIP, UPLINK_WAITING,
};
use super::{Descriptor, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;
use crate::status::SpoolStatus;
use crate::uplink::Roster;
use crate::vitals;

/// A microsecond, about: finer means nothing on a machine that does other things too.
const GRAIN: f64 = (1_u32 << 20) as f64;

/// What never blocks.
#[derive(Debug)]
pub struct Runtime {
    spool: watch::Receiver<SpoolStatus>,
    uplinks: Roster,
    reads: [Reads; Family::ALL.len()],
    ids: Option<Ids>,
    tasks: [Option<Pair>; vitals::TASKS.len()],
    queues: [Option<Pair>; vitals::QUEUES.len()],
    known: Vec<(String, UplinkIds)>,
    failures: Vec<(String, String, Option<SeriesId>)>,
}

type Pair = (Option<SeriesId>, Option<SeriesId>);

/// How long reading one family took.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    last: Option<Duration>,
    /// Since they were told last.
    longest: Duration,
    ids: Option<Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Ids {
    loop_: [Option<SeriesId>; 4],
    spool: [Option<SeriesId>; 8],
}

#[derive(Clone, Copy, Debug)]
struct UplinkIds {
    waiting: Option<SeriesId>,
    round_trip: Option<SeriesId>,
    attempts: Option<SeriesId>,
}

impl Runtime {
    /// Looks at these.
    pub fn new(spool: watch::Receiver<SpoolStatus>, uplinks: Roster) -> Self {
        Self {
            spool,
            uplinks,
            reads: Default::default(),
            ids: None,
            tasks: Default::default(),
            queues: Default::default(),
            known: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Reading a family took so long.
    pub fn note(&mut self, family: Family, took: Duration) {
        let at = Family::ALL.iter().position(|other| *other == family);
        if let Some(reads) = at.and_then(|at| self.reads.get_mut(at)) {
            reads.last = Some(took);
            reads.longest = reads.longest.max(took);
        }
    }

    /// Reads everything. Called within the runtime that it is about.
    pub fn read(&mut self, now: Stamp, out: &mut Readings) {
        let ids = *self.ids.get_or_insert_with(|| Ids {
            loop_: [&RUNTIME_TASKS, &RUNTIME_PARKS, &RUNTIME_BUSY, &RUNTIME_LAG]
                .map(|gauge| out.series(gauge, &[])),
            spool: [
                &SPOOL_AGE,
                &SPOOL_SEGMENTS,
                &SPOOL_SYNCS,
                &SPOOL_SYNC_LAST,
                &SPOOL_SYNC_LONGEST,
                &SPOOL_BUDGET_LEFT,
                &SPOOL_FLASH,
                &SPOOL_DEVICE,
            ]
            .map(|gauge| out.series(gauge, &[])),
        });
        self.read_loop(ids.loop_, out);
        self.read_tasks(out);
        self.read_families(out);
        self.read_spool(ids.spool, now, out);
        self.read_uplinks(out);
    }

    fn read_loop(&mut self, ids: [Option<SeriesId>; 4], out: &mut Readings) {
        let [tasks, parks, busy, lag] = ids;
        if let Ok(handle) = Handle::try_current() {
            let metrics = handle.metrics();
            out.put(tasks, count(metrics.num_alive_tasks()));
            vitals::READY.is_at(metrics.global_queue_depth());
            // Where the machine has no 64-bit atomics, tokio does not count them.
            #[cfg(target_has_atomic = "64")]
            {
                out.put(parks, Value::whole(metrics.worker_park_count(0)));
                out.put(busy, seconds(metrics.worker_total_busy_duration(0)));
            }
            #[cfg(not(target_has_atomic = "64"))]
            for id in [parks, busy] {
                out.put(id, Err(Missing::Unsupported));
            }
        }
        if vitals::LAG.count().is_some() {
            out.put(lag, seconds(vitals::LAG.take_longest()));
        }
    }

    fn read_tasks(&mut self, out: &mut Readings) {
        for (task, ids) in vitals::TASKS.iter().zip(&mut self.tasks) {
            if task.count().is_none() {
                continue;
            }
            let name = [("sonde.task", text(task.name()))];
            let (busy, longest) = both(ids, out, [&TASK_BUSY, &TASK_LONGEST], &name);
            out.put(busy, seconds(task.total()));
            out.put(longest, seconds(task.take_longest()));
        }
        for (queue, ids) in vitals::QUEUES.iter().zip(&mut self.queues) {
            if queue.high() == 0 {
                continue;
            }
            let name = [("sonde.queue", text(queue.name()))];
            let (depth, high) = both(ids, out, [&QUEUE_DEPTH, &QUEUE_HIGH], &name);
            out.put(depth, Value::whole(queue.depth()));
            out.put(high, Value::whole(queue.high()));
        }
    }

    fn read_families(&mut self, out: &mut Readings) {
        for (family, reads) in Family::ALL.iter().zip(&mut self.reads) {
            let Some(took) = reads.last else { continue };
            let name = [("sonde.family", text(family.as_str()))];
            let (last, longest) = both(&mut reads.ids, out, [&READ_LAST, &READ_LONGEST], &name);
            out.put(last, seconds(took));
            out.put(longest, seconds(std::mem::take(&mut reads.longest)));
        }
    }

    fn read_spool(&mut self, ids: [Option<SeriesId>; 8], now: Stamp, out: &mut Readings) {
        let [age, segments, syncs, last, longest, left, flash, device] = ids;
        let spool = self.spool.borrow();
        // Not before it has said anything.
        if spool.as_of_boot_ns == 0 {
            return;
        }
        let later = now.boot_ns.saturating_sub(spool.as_of_boot_ns) as f64 / 1e9;
        let oldest = match spool.oldest_age_s {
            Some(age) => Value::grained(age + later, GRAIN),
            None if spool.oldest_unknown => Err(Missing::Garbage),
            None => Ok(Value::Float(0.0)),
        };
        out.put(age, oldest);
        out.put(segments, Value::whole(spool.segments));
        out.put(syncs, Value::whole(spool.syncs));
        if vitals::SYNC.count().is_some() {
            out.put(last, seconds(vitals::SYNC.last()));
            out.put(longest, seconds(vitals::SYNC.take_longest()));
        }
        if let Some(bytes) = spool.write_budget_left_bytes {
            out.put(left, Value::whole(bytes));
        }
        out.put(flash, Value::whole(spool.flash_bytes));
        if let Some(bytes) = spool.device_written_bytes {
            out.put(device, Value::whole(bytes));
        }
    }

    fn read_uplinks(&mut self, out: &mut Readings) {
        let (known, failures) = (&mut self.known, &mut self.failures);
        self.uplinks.each(|status| {
            // Before it has published anything an uplink has no name.
            if status.name.is_empty() {
                return;
            }
            let at = known.iter().position(|(name, _)| *name == status.name);
            let ids = match at.and_then(|at| known.get(at)) {
                Some((_, ids)) => *ids,
                None => {
                    let name = [("sonde.uplink", found(&status.name))];
                    let ids = UplinkIds {
                        waiting: out.series(&UPLINK_WAITING, &name),
                        round_trip: out.series(&UPLINK_ROUND_TRIP, &name),
                        attempts: out.series(&UPLINK_ATTEMPTS, &name),
                    };
                    known.push((status.name.clone(), ids));
                    ids
                }
            };
            out.put(ids.waiting, Value::whole(status.pending_bytes));
            out.put(ids.attempts, Value::whole(status.attempts));
            if let Some(took) = status.round_trip_s {
                out.put(ids.round_trip, Value::grained(took, GRAIN));
            }
            for (reason, count) in &status.failures {
                let id = pair(failures, reason, &status.name, || {
                    let attributes = [
                        ("sonde.reason", found(reason)),
                        ("sonde.uplink", found(&status.name)),
                    ];
                    out.series(&UPLINK_FAILURES, &attributes)
                });
                out.put(id, Value::whole(*count));
            }
        });
    }
}

/// The two series of a thing, made when it is first seen.
fn both(
    ids: &mut Option<Pair>,
    out: &Readings,
    gauges: [&'static Descriptor; 2],
    name: &[(&'static str, super::Attribute)],
) -> Pair {
    let [one, two] = gauges;
    *ids.get_or_insert_with(|| (out.series(one, name), out.series(two, name)))
}

fn seconds(took: Duration) -> Result<Value, Missing> {
    Value::grained(took.as_secs_f64(), GRAIN)
}

fn count(number: usize) -> Result<Value, Missing> {
    u64::try_from(number)
        .map_err(|_| Missing::Garbage)
        .and_then(Value::whole)
}

/// What stands in files.
#[derive(Debug)]
pub struct Own {
    status: KernelFile,
    rollup: KernelFile,
    series: Option<[Option<SeriesId>; 3]>,
}

impl Own {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            status: KernelFile::new(root.join("proc/self/status")),
            rollup: KernelFile::new(root.join("proc/self/smaps_rollup")),
            series: None,
        }
    }
}

impl Source for Own {
    fn family(&self) -> Family {
        Family::Runtime
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [peak, share, files] = *self.series.get_or_insert_with(|| {
            [&MEMORY_PEAK, &MEMORY_SHARE, &FILES_LIMIT].map(|gauge| out.series(gauge, &[]))
        });
        out.put(
            peak,
            self.status.read().and_then(|text| kib(text, "VmHWM:")),
        );
        out.put(share, self.rollup.read().and_then(|text| kib(text, "Pss:")));
        // No limit is no number.
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            out.put(files, Value::whole(limit));
        }
        Ok(())
    }
}

/// The bytes of a line `Name:   123 kB`.
fn kib(text: &str, name: &str) -> Result<Value, Missing> {
    let mut lines = text.lines();
    let line = lines
        .find_map(|line| line.strip_prefix(name))
        .ok_or(Missing::Unsupported)?;
    let number = line.trim().strip_suffix("kB").ok_or(Missing::Garbage)?;
    let number: u64 = number.trim().parse().map_err(|_| Missing::Garbage)?;
    number
        .checked_mul(1024)
        .ok_or(Missing::Garbage)
        .and_then(Value::whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;
    use crate::status::UplinkStatus;

    fn spool(status: SpoolStatus) -> watch::Receiver<SpoolStatus> {
        watch::channel(status).1
    }

    #[tokio::test]
    async fn tasks_queues_families_spool_and_uplinks_tell_what_they_did() {
        vitals::SAMPLER.took(Duration::from_millis(3));
        vitals::SAMPLER.took(Duration::from_millis(1));
        vitals::RECEIVED.is_at(3);
        vitals::RECEIVED.is_at(1);
        let up = watch::channel(UplinkStatus {
            name: "otlp".into(),
            pending_bytes: 77,
            attempts: 9,
            failures: [("retry".to_owned(), 2)].into(),
            round_trip_s: Some(0.25),
            ..UplinkStatus::default()
        })
        .1;
        let unborn = watch::channel(UplinkStatus::default()).1;
        let roster = Roster::default();
        roster.set([up, unborn].into_iter());
        let waits = SpoolStatus {
            oldest_age_s: Some(2.0),
            as_of_boot_ns: 1_000_000_000,
            segments: 3,
            syncs: 4,
            write_budget_left_bytes: Some(5),
            ..SpoolStatus::default()
        };
        let mut runtime = Runtime::new(spool(waits), roster);
        runtime.note(Family::Disk, Duration::from_millis(500));
        runtime.note(Family::Disk, Duration::from_millis(250));
        let mut out = Readings::new(Registry::default());
        let now = Stamp {
            unix_ns: 0,
            boot_ns: 2_000_000_000,
        };
        runtime.read(now, &mut out);
        let float = |value: f64| Some(Ok(Value::Float(value)));
        let int = |value| Some(Ok(Value::Int(value)));
        for (name, value) in [
            ("sonde.queue.depth sonde.queue=receiver", int(1)),
            ("sonde.queue.high_water sonde.queue=receiver", int(3)),
            ("sonde.gauge.read.duration sonde.family=disk", float(0.25)),
            ("sonde.gauge.read.longest sonde.family=disk", float(0.5)),
            ("sonde.gauge.read.duration sonde.family=cpu", None),
            ("sonde.spool.oldest.age", float(3.0)),
            ("sonde.spool.segments", int(3)),
            ("sonde.spool.syncs", int(4)),
            ("sonde.spool.write_budget.left", int(5)),
            ("sonde.spool.device.written", None),
            ("sonde.uplink.pending.size sonde.uplink=otlp", int(77)),
            ("sonde.uplink.attempts sonde.uplink=otlp", int(9)),
            ("sonde.uplink.round_trip sonde.uplink=otlp", float(0.25)),
            (
                "sonde.uplink.failures sonde.reason=retry sonde.uplink=otlp",
                int(2),
            ),
        ] {
            assert_eq!(out.value(name), value, "{name}");
        }
        let of = |out: &Readings, name: &str| {
            let value = out.value(name).and_then(Result::ok);
            value.map(Value::as_f64).unwrap_or_default()
        };
        assert!(of(&out, "sonde.task.busy sonde.task=sampler") >= 0.0039);
        assert!(of(&out, "sonde.task.poll.longest sonde.task=sampler") >= 0.0029);
        // The longest is of the time since the last reading.
        out.clear();
        runtime.read(now, &mut out);
        assert!(of(&out, "sonde.task.busy sonde.task=sampler") >= 0.0039);
        let longest = "sonde.gauge.read.longest sonde.family=disk";
        assert_eq!(out.value(longest), float(0.0));
    }

    #[tokio::test]
    async fn an_age_that_nobody_knows_is_no_age_and_an_empty_spool_is_not_old() {
        let age = |status| {
            let mut out = Readings::new(Registry::default());
            Runtime::new(spool(status), Roster::default()).read(Stamp::default(), &mut out);
            out.value("sonde.spool.oldest.age")
        };
        let empty = SpoolStatus {
            as_of_boot_ns: 1,
            ..SpoolStatus::default()
        };
        let unknown = SpoolStatus {
            oldest_unknown: true,
            ..empty.clone()
        };
        assert_eq!(age(SpoolStatus::default()), None);
        assert_eq!(age(empty), Some(Ok(Value::Float(0.0))));
        assert_eq!(age(unknown), Some(Err(Missing::Garbage)));
    }

    #[test]
    fn own_memory_is_found_on_the_real_kernel_and_garbage_has_a_type() {
        let mut out = Readings::new(Registry::default());
        let read = Own::new(Path::new("/")).read(Stamp::default(), &mut out);
        assert_eq!(read, Ok(()));
        let of = |name: &str| match out.value(name) {
            Some(Ok(value)) => value.as_f64(),
            other => panic!("{name}: {other:?}"),
        };
        assert!(of("sonde.process.memory.peak") > 100_000.0);
        assert!(of("sonde.process.file_descriptor.limit") > 3.0);

        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("proc/self");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("status"), "VmPeak:\t  9 kB\nVmHWM:\t   12 kB\n").unwrap();
        let mut source = Own::new(dir.path());
        let mut out = Readings::new(Registry::default());
        source.read(Stamp::default(), &mut out).unwrap();
        let peak = "sonde.process.memory.peak";
        let share = "sonde.process.memory.pss";
        assert_eq!(out.value(peak), Some(Ok(Value::Int(12 * 1024))));
        // A kernel without CONFIG_PROC_PAGE_MONITOR.
        assert_eq!(out.value(share), Some(Err(Missing::Unsupported)));
        for (bad, missing) in [
            ("", Missing::Unsupported),
            ("Pss: x kB", Missing::Garbage),
            ("Pss: 1", Missing::Garbage),
            ("Pss: 99999999999999999999 kB", Missing::Garbage),
            ("Pss: 18446744073709551615 kB", Missing::Garbage),
        ] {
            std::fs::write(own.join("smaps_rollup"), bad).unwrap();
            out.clear();
            source.read(Stamp::default(), &mut out).unwrap();
            assert_eq!(out.value(share), Some(Err(missing)), "{bad}");
        }
    }
}
