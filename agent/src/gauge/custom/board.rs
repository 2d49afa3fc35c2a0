//! Where custom gauges wait for their tick: one board, shared by all who read,
//! run, push and ask. Pure but for its lock: the caller says what time it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::definition::{Absence, Definition, Origin};
use super::push::Admission;
use crate::gauge::{Attribute, Family, Missing, Readings, Series, SeriesId, Value};
use crate::status::GaugeStatus;
use crate::status::words::duration;
use crate::work::job::Job;

/// A command is started this much before its tick, or twice its last duration …
const LEAD: Duration = Duration::from_millis(500);

/// All custom gauges; cheap to clone, every clone is the same board.
#[derive(Clone, Debug)]
pub struct Custom(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    /// Counts configurations, for those who wait for what is due.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) gauges: BTreeMap<String, Entry>,
    pub(super) admission: Admission,
    /// A series was refused: there are as many as are kept for the life of the agent.
    pub(super) full: bool,
    /// Of the commands that ended since the last tick.
    longest: Option<Duration>,
}

/// One gauge and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) definition: Definition,
    /// When it is read next, or what was pushed is told next.
    next_ns: u64,
    /// Its command is under way since then.
    running: Option<u64>,
    /// When it was configured.
    since_ns: u64,
    /// How long its command took last.
    took: Duration,
    /// One, or one for each set of attributes that was pushed.
    pub(super) slots: Vec<Slot>,
}

/// One series.
#[derive(Debug)]
pub(super) struct Slot {
    /// Those of the config and those that were pushed.
    pub(super) attributes: BTreeMap<String, String>,
    /// `None`: not asked for yet.
    id: Option<Option<SeriesId>>,
    /// For the next tick.
    fresh: Option<Result<Value, Missing>>,
    /// Why there is no value; empty: there is one.
    why: String,
    /// When something came last; `None`: nothing yet, or it has expired.
    heard_ns: Option<u64>,
    /// It has had a value.
    had: bool,
    /// Since when it has none; `None`: it has one.
    absent_ns: Option<u64>,
}

/// A file that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl Default for Custom {
    fn default() -> Self {
        Self(Arc::new(Shared {
            board: Mutex::default(),
            changed: watch::Sender::new(0),
        }))
    }
}

impl Custom {
    /// Takes over what is configured. A gauge whose definition stays keeps its
    /// values and its rhythm; a new one is due at once.
    pub fn configure(&self, definitions: &BTreeMap<String, Definition>, now_ns: u64) {
        let mut board = self.lock();
        let mut before = std::mem::take(&mut board.gauges);
        for (name, definition) in definitions {
            let kept = before.remove(name);
            let kept = kept.filter(|entry| entry.definition == *definition);
            let entry = kept.unwrap_or_else(|| Entry::new(definition.clone(), now_ns));
            board.gauges.insert(name.clone(), entry);
        }
        drop(board);
        self.0.changed.send_modify(|changes| *changes += 1);
    }

    /// Changes with each configuration.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Whether a series is one of those that are configured.
    pub fn holds(&self, series: &Series) -> bool {
        let text = |value: &Attribute| match value {
            Attribute::Text(text) => text.to_string(),
            Attribute::Int(number) => number.to_string(),
        };
        let attributes: BTreeMap<String, String> = series
            .attributes
            .iter()
            .map(|(key, value)| (key.to_string(), text(value)))
            .collect();
        let board = self.lock();
        board.gauges.values().any(|entry| {
            entry.definition.gauge == series.gauge
                && entry.slots.iter().any(|slot| slot.attributes == attributes)
        })
    }

    /// Puts what came of commands and pushes since the last tick. Returns how
    /// long the longest command took that ended since.
    pub fn collect(&self, now_ns: u64, out: &mut Readings) -> Option<Duration> {
        let mut board = self.lock();
        for entry in board.gauges.values_mut() {
            if let Origin::Push { expires, .. } = entry.definition.origin {
                if entry.next_ns > now_ns {
                    continue;
                }
                entry.next_ns = after(now_ns, entry.definition.interval);
                entry.expire(expires, now_ns);
            }
            if !matches!(entry.definition.origin, Origin::File(..)) {
                entry.put(out);
            }
        }
        let slots = board.gauges.values().flat_map(|entry| &entry.slots);
        let refused = slots.filter(|slot| slot.is_refused()).count();
        board.full |= refused > 0;
        out.leave_out(Family::Custom, refused);
        board.longest.take()
    }

    /// What the status adds: why a gauge has no value, and gauges to which
    /// nothing was pushed yet.
    pub fn annotate(&self, now_ns: u64, gauges: &mut Vec<GaugeStatus>) {
        let board = self.lock();
        for (name, entry) in &board.gauges {
            let gauge = &entry.definition.gauge;
            let table = || Some(format!("gauge.{name}"));
            let interval_s = Some(entry.definition.interval.as_secs_f64());
            let seconds = |since: u64| now_ns.saturating_sub(since) as f64 / 1e9;
            for slot in &entry.slots {
                let same = |shown: &&mut GaugeStatus| {
                    shown.name == gauge.name && shown.attributes == slot.attributes
                };
                if let Some(shown) = gauges.iter_mut().find(same) {
                    shown.table = table();
                    let absent = shown.missing.is_some() && !slot.why.is_empty();
                    shown.why = absent.then(|| slot.why.clone());
                    if let (Some(began), None) = (entry.running, slot.heard_ns) {
                        let long = duration(seconds(began));
                        shown.why = Some(format!("it has been running for {long}"));
                    }
                    shown.interval_s = interval_s;
                    shown.absent_s = slot.absent_ns.map(seconds);
                }
            }
            if let (Origin::Push { expires, .. }, []) = (&entry.definition.origin, &*entry.slots) {
                let due = entry.since_ns.saturating_add(nanos(*expires));
                gauges.push(GaugeStatus {
                    name: gauge.name.to_string(),
                    unit: gauge.unit.to_string(),
                    kind: gauge.kind.as_str().into(),
                    attributes: entry.definition.attributes.clone(),
                    value: None,
                    missing: Some(Missing::First.as_str().into()),
                    why: Some("nothing was pushed yet".into()),
                    table: table(),
                    interval_s,
                    absent_s: Some(seconds(due)),
                    age_s: 0.0,
                });
            }
        }
    }

    /// Pushes that were refused since the start, by reason.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.lock().admission.refused()
    }

    /// The files that are due, which then are due again an interval later.
    pub(super) fn files_due(&self, now_ns: u64) -> Vec<Due> {
        let mut board = self.lock();
        let mut due = Vec::new();
        for (name, entry) in &mut board.gauges {
            let Origin::File(path, _) = &entry.definition.origin else {
                continue;
            };
            if entry.next_ns <= now_ns {
                let (name, path) = (name.clone(), path.clone());
                due.push(Due { name, path });
                entry.next_ns = after(now_ns, entry.definition.interval);
            }
        }
        due
    }

    /// What came of reading a gauge's file goes to the tick that asked.
    pub(super) fn file_read(&self, due: &Due, text: Result<&str, Absence>, out: &mut Readings) {
        let mut board = self.lock();
        // It may be another one since.
        let Some(entry) = board.gauges.get_mut(&due.name) else {
            return;
        };
        let Origin::File(path, extract) = &entry.definition.origin else {
            return;
        };
        if *path != due.path {
            return;
        }
        let value = text
            .and_then(|text| extract.number(text))
            .and_then(|number| entry.definition.shape.value(number));
        let now_ns = entry.next_ns;
        if let Some(slot) = entry.slots.first_mut() {
            slot.set(value, now_ns);
        }
        entry.put(out);
    }

    /// At most `room` commands that are due, those first that have waited longest.
    pub(super) fn commands_due(&self, now_ns: u64, room: usize) -> Vec<(String, Arc<Job>)> {
        let mut board = self.lock();
        let mut due: Vec<(&String, &mut Entry)> = board
            .gauges
            .iter_mut()
            .filter(|(_, entry)| entry.starts_ns().is_some_and(|at| at <= now_ns))
            .collect();
        due.sort_by_key(|(_, entry)| entry.next_ns);
        let start = |(name, entry): (&String, &mut Entry)| {
            let Origin::Command(job, _) = &entry.definition.origin else {
                return None;
            };
            entry.running = Some(now_ns);
            // The tick that this run is for is not another's.
            entry.next_ns = after(entry.next_ns.max(now_ns), entry.definition.interval);
            Some((name.clone(), job.clone()))
        };
        due.into_iter().take(room).filter_map(start).collect()
    }

    /// When the next command is due; `None`: none that is not running.
    pub(super) fn next_command(&self) -> Option<u64> {
        let board = self.lock();
        board.gauges.values().filter_map(Entry::starts_ns).min()
    }

    /// A command has ended and printed this, or there is a reason why not;
    /// `None`: it says nothing about the gauge.
    pub(super) fn ran(
        &self,
        name: &str,
        job: &Arc<Job>,
        took: Duration,
        printed: Option<Result<&str, Absence>>,
        now_ns: u64,
    ) {
        let mut board = self.lock();
        let Board {
            gauges, longest, ..
        } = &mut *board;
        let Some(entry) = gauges.get_mut(name) else {
            return;
        };
        let Origin::Command(of, extract) = &entry.definition.origin else {
            return;
        };
        // Changed meanwhile: this belongs to the old one.
        if !Arc::ptr_eq(of, job) {
            return;
        }
        entry.running = None;
        entry.took = took;
        *longest = (*longest).max(Some(took));
        let Some(printed) = printed else {
            return;
        };
        let value = printed
            .and_then(|text| extract.number(text))
            .and_then(|number| entry.definition.shape.value(number));
        if let Some(slot) = entry.slots.first_mut() {
            slot.set(value, now_ns);
        }
    }

    /// Nothing that holds the lock can leave it half changed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(definition: Definition, now_ns: u64) -> Self {
        let slots = match &definition.origin {
            Origin::Push { .. } => Vec::new(),
            Origin::File(..) => vec![Slot::new(definition.attributes.clone(), "", now_ns)],
            Origin::Command(..) => {
                vec![Slot::new(
                    definition.attributes.clone(),
                    "it has not run yet",
                    now_ns,
                )]
            }
        };
        Self {
            definition,
            next_ns: now_ns,
            running: None,
            since_ns: now_ns,
            took: Duration::ZERO,
            slots,
        }
    }

    /// Whether it has this series, or will have it.
    pub(super) fn has(&self, attributes: &BTreeMap<String, String>) -> bool {
        self.definition.attributes == *attributes
            || self.slots.iter().any(|slot| slot.attributes == *attributes)
    }

    /// When its command starts, so that it is done at its tick.
    fn starts_ns(&self) -> Option<u64> {
        let command = matches!(self.definition.origin, Origin::Command(..));
        if !command || self.running.is_some() {
            return None;
        }
        let lead = (self.took * 2).max(LEAD).min(self.definition.interval / 2);
        Some(self.next_ns.saturating_sub(nanos(lead)))
    }

    /// Pushed values that are too old.
    fn expire(&mut self, expires: Duration, now_ns: u64) {
        let too_old = |at: u64| at.saturating_add(nanos(expires)) <= now_ns;
        for slot in &mut self.slots {
            if slot.heard_ns.is_some_and(too_old) {
                slot.heard_ns = None;
                slot.absent_ns.get_or_insert(now_ns);
                slot.fresh = Some(Err(Missing::Gone));
                slot.why = format!("nothing was pushed for {expires:?}");
            }
        }
    }

    fn put(&mut self, out: &mut Readings) {
        for slot in &mut self.slots {
            let Some(value) = slot.fresh.take() else {
                continue;
            };
            let id = *slot.id.get_or_insert_with(|| {
                let owned = |(key, value): (&String, &String)| {
                    let value = Attribute::Text(Cow::Owned(value.clone()));
                    (Cow::Owned(key.clone()), value)
                };
                let attributes = slot.attributes.iter().map(owned).collect();
                out.owned(&self.definition.gauge, attributes)
            });
            out.put(id, value);
        }
    }
}

impl Slot {
    /// `why`: what is said until there is a value; empty: nothing.
    pub(super) fn new(attributes: BTreeMap<String, String>, why: &str, now_ns: u64) -> Self {
        Self {
            attributes,
            id: None,
            fresh: (!why.is_empty()).then_some(Err(Missing::First)),
            why: why.to_owned(),
            heard_ns: None,
            had: false,
            absent_ns: Some(now_ns),
        }
    }

    /// Whether there is no room for its series.
    pub(super) fn is_refused(&self) -> bool {
        self.id == Some(None)
    }

    /// The latest of what came since the last tick is what counts.
    pub(super) fn set(&mut self, value: Result<Value, Absence>, now_ns: u64) {
        self.heard_ns = Some(now_ns);
        match value {
            Ok(value) => {
                self.fresh = Some(Ok(value));
                self.why.clear();
                self.had = true;
                self.absent_ns = None;
            }
            Err((missing, why)) => {
                // What was there before and is not any more is gone.
                let gone = missing == Missing::Unsupported && self.had;
                self.fresh = Some(Err(if gone { Missing::Gone } else { missing }));
                self.why = why;
                self.absent_ns.get_or_insert(now_ns);
            }
        }
    }
}

/// The first multiple of `every` after `now_ns`: the ticks' own grid.
fn after(now_ns: u64, every: Duration) -> u64 {
    let every = nanos(every).max(1);
    (now_ns / every).saturating_add(1).saturating_mul(every)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
