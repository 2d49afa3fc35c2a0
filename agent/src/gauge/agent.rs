//! The agent's own workings.
//!
//! Read by the pipeline itself at every tick of any family: nothing here can
//! block, so `sonde.sampler.tick` goes 1, 2, 3, … without a hole whatever a
//! disk or a mount does. That gauge and `sonde.sampler.points` are how a
//! receiver proves from the data alone that nothing is missing.

use tokio::sync::watch;

use super::readings::{found, text};
use super::table::{
    ERRORS, EVENT_COUNT, EVENT_MEASUREMENT, JOB_CPU, JOB_DURATION, JOB_REFUSED, JOB_RUNNING,
    JOB_RUNS, LATE, OVERRUNS, POINTS, SERIES_DROPPED, SPOOL_FRAMES, SPOOL_LOST, SPOOL_USAGE,
    SPOOL_WRITTEN, TICK, UPLINK_ACKED, UPLINK_CIRCUIT, UPLINK_PENDING, UPLINK_STATE,
    UPLINK_TRANSITIONS, UPLINK_UP, UPLINK_WIRE,
};
use super::{Descriptor, Family, Missing, Readings, SeriesId, Value};
use crate::event::Tally;
use crate::frame::Stamp;
use crate::status::SpoolStatus;
use crate::uplink::Roster;
use crate::work::Work;

/// Kinds of loss that get a series of their own: classes times reasons, with room.
const MAX_LOSSES: usize = 64;

/// What the pipeline counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Ticks, this one included.
    pub ticks: u64,
    /// Data points recorded.
    pub points: u64,
    /// Ticks skipped because an earlier one was still being read.
    pub overruns: u64,
    /// Values that were read after their tick had gone on without them.
    pub late: u64,
    /// Readings without a value and families that failed, in the order of [`Family::ALL`].
    pub errors: [u64; Family::ALL.len()],
    /// Series that are left out at present, in the same order.
    pub left_out: [usize; Family::ALL.len()],
    /// Batches handed to the spool.
    pub batches: u64,
    /// Data points that the spool refused.
    pub refused: u64,
}

/// Reads the watches.
#[derive(Debug)]
pub struct Agent {
    spool: watch::Receiver<SpoolStatus>,
    uplinks: Roster,
    uplink_ids: Vec<(String, UplinkIds)>,
    ids: Option<Ids>,
    late: Option<Option<SeriesId>>,
    /// A family's series begins with its first error: nine zeros a tick would be paid for.
    errors: [Option<Option<SeriesId>>; Family::ALL.len()],
    left_out: [Option<Option<SeriesId>>; Family::ALL.len()],
    losses: Vec<(String, String, Option<SeriesId>)>,
    work: Option<Work>,
    jobs: Vec<(JobKey, Option<SeriesId>)>,
    events: Tally,
    counted: Vec<(String, Option<SeriesId>)>,
    measured: Vec<(String, String, Option<SeriesId>)>,
    transitions: Vec<(String, String, Option<SeriesId>)>,
}

/// A job's series: its gauge, its name, and the outcome or reason if it has one.
type JobKey = (&'static str, String, String);

/// Series of jobs: all that the configuration can name, a few each.
const MAX_JOB_SERIES: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Ids {
    tick: Option<SeriesId>,
    points: Option<SeriesId>,
    overruns: Option<SeriesId>,
    spool: [Option<SeriesId>; 3],
}

#[derive(Clone, Copy, Debug)]
struct UplinkIds {
    pending: Option<SeriesId>,
    sent: Option<SeriesId>,
    received: Option<SeriesId>,
    acked: Option<SeriesId>,
    state: Option<SeriesId>,
    up: Option<SeriesId>,
    circuit: Option<SeriesId>,
}

impl Agent {
    /// Looks at these.
    pub fn new(spool: watch::Receiver<SpoolStatus>, uplinks: Roster) -> Self {
        Self {
            spool,
            uplinks,
            uplink_ids: Vec::new(),
            ids: None,
            late: None,
            errors: [None; Family::ALL.len()],
            left_out: [None; Family::ALL.len()],
            losses: Vec::new(),
            work: None,
            jobs: Vec::new(),
            events: Tally::default(),
            counted: Vec::new(),
            measured: Vec::new(),
            transitions: Vec::new(),
        }
    }

    /// Reads the jobs' counts too.
    #[must_use]
    pub fn with_work(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    /// And at what happens.
    #[must_use]
    pub fn with_events(mut self, events: Tally) -> Self {
        self.events = events;
        self
    }

    /// Reads everything; comes last in a tick, because `sonde.sampler.points`
    /// counts every point of it. Returns that count.
    pub fn read(&mut self, figures: &Figures, out: &mut Readings) -> u64 {
        let ids = *self.ids.get_or_insert_with(|| Ids {
            tick: out.series(&TICK, &[]),
            points: out.series(&POINTS, &[]),
            overruns: out.series(&OVERRUNS, &[]),
            spool: [&SPOOL_USAGE, &SPOOL_FRAMES, &SPOOL_WRITTEN]
                .map(|gauge| out.series(gauge, &[])),
        });
        out.put(ids.tick, Value::whole(figures.ticks));
        out.put(ids.overruns, Value::whole(figures.overruns));
        if figures.late > 0 {
            let late = *self.late.get_or_insert_with(|| out.series(&LATE, &[]));
            out.put(late, Value::whole(figures.late));
        }
        let counts = Family::ALL.iter().zip(&mut self.errors).zip(figures.errors);
        for ((family, id), errors) in counts.filter(|(_, errors)| *errors > 0) {
            let id = *id.get_or_insert_with(|| {
                out.series(&ERRORS, &[("sonde.family", text(family.as_str()))])
            });
            out.put(id, Value::whole(errors));
        }
        let left_out = Family::ALL
            .iter()
            .zip(&mut self.left_out)
            .zip(figures.left_out);
        for ((family, id), series) in left_out.filter(|((_, id), n)| *n > 0 || id.is_some()) {
            let id = *id.get_or_insert_with(|| {
                let family = [("sonde.family", text(family.as_str()))];
                out.series(&SERIES_DROPPED, &family)
            });
            out.put(
                id,
                i64::try_from(series)
                    .map(Value::Int)
                    .map_err(|_| Missing::Garbage),
            );
        }
        self.read_spool(ids.spool, out);
        self.read_uplinks(out);
        self.read_jobs(out);
        self.read_events(out);
        let mut points = figures.points;
        let taken = out
            .as_slice()
            .iter()
            .filter(|(_, value)| value.is_ok())
            .count();
        points = points.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        if ids.points.is_some() {
            points = points.saturating_add(1);
            out.put(ids.points, Value::whole(points));
        }
        points
    }

    fn read_spool(&mut self, ids: [Option<SeriesId>; 3], out: &mut Readings) {
        let spool = self.spool.borrow();
        let [usage, frames, written] = ids;
        out.put(usage, Value::whole(spool.bytes));
        out.put(frames, Value::whole(spool.frames));
        out.put(written, Value::whole(spool.written_bytes));
        for lost in &spool.lost {
            let known = self
                .losses
                .iter()
                .find(|(class, reason, _)| *class == lost.class && *reason == lost.reason);
            let id = match known {
                Some((_, _, id)) => *id,
                None if self.losses.len() < MAX_LOSSES => {
                    let id = out.series(
                        &SPOOL_LOST,
                        &[
                            ("sonde.class", found(&lost.class)),
                            ("sonde.reason", found(&lost.reason)),
                        ],
                    );
                    self.losses
                        .push((lost.class.clone(), lost.reason.clone(), id));
                    id
                }
                None => continue,
            };
            out.put(id, Value::whole(lost.items));
        }
    }

    /// Before a job's first run it has no series: most of it would be zeros.
    fn read_jobs(&mut self, out: &mut Readings) {
        let Some(work) = &self.work else { return };
        let known = &mut self.jobs;
        let mut put = |gauge, job: &str, by: Option<(&'static str, &str)>, value| {
            let (gauge, extra): (&'static Descriptor, _) = (gauge, by.map_or("", |(_, word)| word));
            let same = |key: &JobKey| key.0 == gauge.name && key.1 == job && key.2 == extra;
            let id = match known.iter().find(|(key, _)| same(key)) {
                Some((_, id)) => *id,
                None if known.len() < MAX_JOB_SERIES => {
                    let name = ("sonde.job.name", found(job));
                    let by = by.map(|(key, word)| (key, found(word)));
                    let attributes: Vec<_> = std::iter::once(name).chain(by).collect();
                    let id = out.series(gauge, &attributes);
                    let name = match &gauge.name {
                        std::borrow::Cow::Borrowed(name) => name,
                        std::borrow::Cow::Owned(_) => return,
                    };
                    known.push(((name, job.to_owned(), extra.to_owned()), id));
                    id
                }
                None => return,
            };
            out.put(id, value);
        };
        for job in work.status(Stamp::default()) {
            let name = job.name.as_str();
            for (outcome, count) in &job.runs {
                let by = Some(("sonde.job.outcome", outcome.as_str()));
                put(&JOB_RUNS, name, by, Value::whole(*count));
            }
            for (reason, count) in &job.refused {
                let by = Some(("sonde.reason", reason.as_str()));
                put(&JOB_REFUSED, name, by, Value::whole(*count));
            }
            if job.running > 0 || job.last.is_some() {
                put(&JOB_RUNNING, name, None, Value::whole(job.running));
            }
            if let Some(last) = &job.last {
                // A millisecond is what a job's length is known to.
                let seconds = (last.duration_s * 1000.0).round() / 1000.0;
                put(&JOB_DURATION, name, None, Ok(Value::Float(seconds)));
                let seconds = (job.cpu_s * 1000.0).round() / 1000.0;
                put(&JOB_CPU, name, None, Ok(Value::Float(seconds)));
            }
        }
    }

    fn read_uplinks(&mut self, out: &mut Readings) {
        let known = &mut self.uplink_ids;
        let transitions = &mut self.transitions;
        self.uplinks.each(|status| {
            // Before it has published anything an uplink has no name.
            if status.name.is_empty() {
                return;
            }
            let at = known.iter().position(|(name, _)| *name == status.name);
            let at = at.unwrap_or_else(|| {
                let name = || ("sonde.uplink", found(&status.name));
                let wire = |out: &mut Readings, direction| {
                    out.series(
                        &UPLINK_WIRE,
                        &[("network.io.direction", text(direction)), name()],
                    )
                };
                let ids = UplinkIds {
                    pending: out.series(&UPLINK_PENDING, &[name()]),
                    sent: wire(out, "transmit"),
                    received: wire(out, "receive"),
                    acked: out.series(&UPLINK_ACKED, &[name()]),
                    state: out.series(&UPLINK_STATE, &[name()]),
                    up: out.series(&UPLINK_UP, &[name()]),
                    circuit: out.series(&UPLINK_CIRCUIT, &[name()]),
                };
                known.push((status.name.clone(), ids));
                known.len() - 1
            });
            let Some((_, ids)) = known.get(at) else {
                return;
            };
            out.put(ids.pending, Value::whole(status.pending_items));
            out.put(ids.sent, Value::whole(status.wire_sent_bytes));
            out.put(ids.received, Value::whole(status.wire_received_bytes));
            out.put(ids.acked, Value::whole(status.acked_items));
            out.put(ids.state, state(&status.state));
            out.put(ids.up, Ok(Value::Int(status.up.into())));
            let open = matches!(status.circuit.as_str(), "open" | "half_open");
            out.put(ids.circuit, Ok(Value::Int(open.into())));
            for (transition, count) in &status.transitions {
                let id = pair(transitions, transition, &status.name, || {
                    let attributes = [
                        ("sonde.transition", found(transition)),
                        ("sonde.uplink", found(&status.name)),
                    ];
                    out.series(&UPLINK_TRANSITIONS, &attributes)
                });
                out.put(id, Value::whole(*count));
            }
        });
    }

    fn read_events(&mut self, out: &mut Readings) {
        let (counted, measured) = (&mut self.counted, &mut self.measured);
        self.events.each_count(|event, count| {
            let known = counted.iter().find(|(name, _)| name == event);
            let id = known.map(|(_, id)| *id).unwrap_or_else(|| {
                let id = out.series(&EVENT_COUNT, &[("sonde.event", found(event))]);
                counted.push((event.to_owned(), id));
                id
            });
            out.put(id, Value::whole(count));
        });
        self.events.each_fresh(|event, key, value| {
            let id = pair(measured, event, key, || {
                let attributes = [
                    ("sonde.event", found(event)),
                    ("sonde.measurement", found(key)),
                ];
                out.series(&EVENT_MEASUREMENT, &attributes)
            });
            out.put(id, Ok(Value::Float(value)));
        });
    }
}

/// The series of a pair of words, made at its first use. The words are few by
/// their owners' bounds.
pub(super) fn pair(
    known: &mut Vec<(String, String, Option<SeriesId>)>,
    one: &str,
    two: &str,
    make: impl FnOnce() -> Option<SeriesId>,
) -> Option<SeriesId> {
    if let Some((_, _, id)) = known.iter().find(|(a, b, _)| a == one && b == two) {
        return *id;
    }
    let id = make();
    known.push((one.to_owned(), two.to_owned(), id));
    id
}

fn state(word: &str) -> Result<Value, Missing> {
    match word {
        "idle" => Ok(Value::Int(0)),
        "connecting" => Ok(Value::Int(1)),
        "up" => Ok(Value::Int(2)),
        "waiting" => Ok(Value::Int(3)),
        "open" => Ok(Value::Int(4)),
        _ => Err(Missing::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::{Registry, table};
    use crate::status::{LostStatus, UplinkStatus};

    #[test]
    fn points_count_everything_up_to_and_with_this_tick() {
        let lost = LostStatus {
            class: "normal".into(),
            reason: "quota".into(),
            frames: 1,
            items: 9,
            first_unix_ns: 0,
            last_unix_ns: 0,
        };
        let (_spool, spool) = watch::channel(SpoolStatus {
            lost: vec![lost],
            ..SpoolStatus::default()
        });
        let (_up, up) = watch::channel(UplinkStatus {
            name: "otlp".into(),
            state: "odd".into(),
            ..UplinkStatus::default()
        });
        let (_unborn, unborn) = watch::channel(UplinkStatus::default());
        let roster = Roster::default();
        roster.set([up, unborn].into_iter());
        let mut agent = Agent::new(spool, roster);
        let mut out = Readings::new(Registry::default());
        let host = out.series(&table::LOAD_1M, &[]);
        out.put(host, Ok(Value::Int(1)));
        out.put(host, Err(Missing::Gone));
        let figures = Figures {
            ticks: 7,
            points: 100,
            errors: std::array::from_fn(|at| if at == 2 { 3 } else { 0 }),
            left_out: std::array::from_fn(|at| if at == 5 { 12 } else { 0 }),
            ..Figures::default()
        };
        let points = agent.read(&figures, &mut out);
        let good = out
            .as_slice()
            .iter()
            .filter(|(_, value)| value.is_ok())
            .count();
        assert_eq!(points, 100 + u64::try_from(good).unwrap());
        assert_eq!(
            out.value("sonde.gauge.errors sonde.family=memory"),
            Some(Ok(Value::Int(3)))
        );
        assert_eq!(out.value("sonde.gauge.errors sonde.family=cpu"), None);
        let dropped = "sonde.gauge.series.dropped sonde.family=network";
        assert_eq!(out.value(dropped), Some(Ok(Value::Int(12))));
        assert_eq!(
            out.value("sonde.sampler.points"),
            Some(Value::whole(points))
        );
        assert_eq!(out.value("sonde.sampler.tick"), Some(Ok(Value::Int(7))));
        assert_eq!(
            out.value("sonde.spool.lost sonde.class=normal sonde.reason=quota"),
            Some(Ok(Value::Int(9)))
        );
        assert_eq!(
            out.value("sonde.uplink.state sonde.uplink=otlp"),
            Some(Err(Missing::Garbage))
        );
    }
}
