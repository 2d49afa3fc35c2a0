//! Readings of many ticks become one metrics batch. Pure: the caller says what
//! time it is, and encodes and stores what was sealed.
//!
//! A batch keeps one column per series: which ticks it was read at, and the
//! values, 10 bytes a point. A column lives on from batch to batch and keeps
//! its room. A batch is sealed when its first reading is `length` old, when
//! its body would grow too large, when the wall clock steps, and at the end.
//! While nobody can send it, it may grow for as long as the spool would leave
//! it in memory anyway: names and attributes are then written once a sync.
//!
//! Times on the wire are rounded down to a power of two: 2^24 ns (16.8 ms) in
//! a batch whose ticks are all 0.9 s or more apart, else 2^20 ns
//! (1.05 ms). Reading one tick takes milliseconds anyway, and the digits below
//! are noise that a metered link would pay for with every point. Two ticks
//! never get one time unless they came within a millisecond. Starts of sums are
//! always rounded to the coarser: they must not move between batches, nor lie
//! after the first point. Boot times, and
//! the times that a frame is stored under, stay exact.
//!
//! Cumulative sums carry the time since which they count: this boot for the
//! kernel's, this process' start for the agent's own, and the tick before for
//! a counter that fell (it wrapped, or its driver was loaded again). Who knows
//! better since when a sum counts says so: [`Recorder::begin`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::frame::{MAX_BODY, Stamp, TraceContext};
use crate::gauge::{Attribute, Family, Kind, Missing, Reading, Registry, Series, SeriesId, Value};
use crate::status::GaugeStatus;

/// Ticks this far apart are stamped to 16.8 ms; a second, and room for a late tick.
const SPARSE_NS: u64 = 900_000_000;
const FINE: u32 = 20;
const COARSE: u32 = 24;

/// Tick contexts that a batch is linked to, as many as the SDK keeps.
pub const MAX_LINKS: usize = 128;
/// Ticks of one batch: 15 bits, see [`Column::ticks`].
const MAX_TICKS: usize = 1 << 12;
/// Bound on memory: 640 KiB of points.
const MAX_POINTS: usize = 64 * 1024;
/// A wall clock that moved by more than this against the boot clock was set.
const STEP_NS: i128 = 1_000_000_000;
/// Gzipped bytes of a point before the first batch was measured: what incompressible ones take.
const FIRST_ESTIMATE: f64 = 12.0;
/// In [`Column::ticks`]: the value's bits are an `f64`.
const FLOAT: u16 = 1 << 15;

/// Collects.
#[derive(Debug)]
pub struct Recorder {
    registry: Registry,
    length_ns: u64,
    /// See [`Recorder::hold`]; 0: not held.
    hold_ns: u64,
    process_start: Stamp,
    /// Wall time minus boot time as it was when the batch began.
    offset: Option<i128>,
    ticks: Vec<Stamp>,
    columns: Vec<Option<Column>>,
    points: usize,
    contexts: VecDeque<TraceContext>,
    body_per_point: f64,
}

/// One series.
#[derive(Debug)]
struct Column {
    series: Arc<Series>,
    /// Index into the batch's ticks; the top bit is [`FLOAT`].
    ticks: Vec<u16>,
    bits: Vec<u64>,
    /// Where the counter fell: position in `ticks`, and the boot time since which it counts.
    falls: Vec<(usize, u64)>,
    /// The boot time since which it counts at the batch's start; `None`: since its family's.
    since: Option<u64>,
    /// Since when the next value counts, if somebody said so.
    begun: Option<u64>,
    latest: Option<(Result<Value, Missing>, u64)>,
    last_value: Option<Value>,
    last_boot_ns: u64,
}

/// One sealed batch, borrowed from the recorder for encoding.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    recorder: &'a Recorder,
    from: usize,
    to: usize,
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position of its tick in the batch.
    pub tick: usize,
    /// Wall time of its tick, rounded down to the batch's resolution.
    pub unix_ns: u64,
    /// Wall time since which a sum counts; 0 for gauges.
    pub start_ns: u64,
    /// The value.
    pub value: Value,
}

impl Recorder {
    /// Nothing recorded. `length`: the longest that a batch grows, from its first reading.
    pub fn new(registry: Registry, length: Duration, process_start: Stamp) -> Self {
        Self {
            registry,
            length_ns: nanos(length),
            hold_ns: 0,
            process_start,
            offset: None,
            ticks: Vec::new(),
            columns: Vec::new(),
            points: 0,
            contexts: VecDeque::new(),
            body_per_point: FIRST_ESTIMATE,
        }
    }

    /// A new length after a reload.
    pub fn set_length(&mut self, length: Duration) {
        self.length_ns = nanos(length);
    }

    /// For how long from its first reading a batch may grow though it is longer
    /// than its length, since nobody can send it; `None`: no longer than that.
    pub fn hold(&mut self, hold: Option<Duration>) {
        self.hold_ns = hold.map_or(0, nanos);
    }

    /// Whether the batch must be sealed before a tick at `now` is recorded:
    /// the wall clock was set, and one batch has one idea of the time.
    pub fn steps_at(&self, now: Stamp) -> bool {
        let stepped = self
            .offset
            .is_some_and(|offset| (offset_of(now) - offset).abs() > STEP_NS);
        stepped && !self.ticks.is_empty()
    }

    /// A sum's next value counts from `since_ns` (`boot_ns`) on.
    pub fn begin(&mut self, id: SeriesId, since_ns: u64) {
        if let Some(column) = column(&mut self.columns, &self.registry, id) {
            column.begun = Some(since_ns);
        }
    }

    /// Takes in one tick.
    pub fn record(&mut self, now: Stamp, readings: &[Reading], context: Option<TraceContext>) {
        match self.offset {
            Some(offset) if (offset_of(now) - offset).abs() <= STEP_NS => {}
            _ => self.offset = Some(offset_of(now)),
        }
        let tick = u16::try_from(self.ticks.len()).unwrap_or(0);
        self.ticks.push(now);
        for (id, reading) in readings {
            let Some(column) = column(&mut self.columns, &self.registry, *id) else {
                continue;
            };
            let reading = match *reading {
                Ok(Value::Float(value)) => Value::float(value),
                other => other,
            };
            column.latest = Some((reading, now.boot_ns));
            if let Ok(value) = reading {
                column.push(tick, now, value);
                self.points += 1;
            }
        }
        if let Some(context) = context {
            if self.contexts.len() >= MAX_LINKS {
                self.contexts.pop_front();
            }
            self.contexts.push_back(context);
        }
    }

    /// Says of every known series of a family why it has no value now.
    pub fn absent(&mut self, family: Family, missing: Missing, now: Stamp) {
        let of_family = |column: &&mut Column| column.series.gauge.family == family;
        for column in self.columns.iter_mut().flatten().filter(of_family) {
            column.latest = Some((Err(missing), now.boot_ns));
        }
    }

    /// Forgets the latest values of series that are read no more, so that the
    /// status does not show them for ever. Their points in the batch stay.
    pub fn forget(&mut self, gone: impl Fn(&Series) -> bool) {
        for column in self.columns.iter_mut().flatten() {
            if gone(&column.series) {
                column.latest = None;
            }
        }
    }

    /// Whether the batch is due at `boot_ns`.
    pub fn is_due(&self, boot_ns: u64) -> bool {
        let full = self.ticks.len() >= MAX_TICKS
            || self.points >= MAX_POINTS
            || self.points as f64 * self.body_per_point > MAX_BODY as f64 * 0.8;
        full || self.due_at().is_some_and(|due| boot_ns >= due)
    }

    /// When the batch must be sealed (`boot_ns`); `None`: it is empty.
    pub fn due_at(&self) -> Option<u64> {
        let length = self.length_ns.max(self.hold_ns);
        let first = self.ticks.first();
        first.map(|first| first.boot_ns.saturating_add(length))
    }

    /// What has been recorded so far; `None`: nothing. Call [`Recorder::clear`] once it is stored.
    pub fn sealed(&self) -> Option<Sealed<'_>> {
        (self.points > 0).then_some(Sealed {
            recorder: self,
            from: 0,
            to: self.ticks.len(),
        })
    }

    /// The spans of the batch's ticks, the latest [`MAX_LINKS`].
    pub fn contexts(&self) -> impl Iterator<Item = &TraceContext> {
        self.contexts.iter()
    }

    /// Learns from an encoded batch how large the next one will be.
    pub fn measured(&mut self, points: usize, body: usize) {
        if points > 0 {
            self.body_per_point = (body as f64 / points as f64).max(0.5);
        }
    }

    /// Begins the next batch. Series, their room and latest values stay.
    pub fn clear(&mut self) {
        self.ticks.clear();
        self.contexts.clear();
        self.points = 0;
        for column in self.columns.iter_mut().flatten() {
            if let Some((_, since)) = column.falls.last() {
                column.since = Some(*since);
            }
            column.ticks.clear();
            column.bits.clear();
            column.falls.clear();
        }
    }

    /// The latest value of every series, in the order they were first seen.
    pub fn latest(&self, boot_ns: u64) -> Vec<GaugeStatus> {
        let described = |column: &Column| {
            let (value, at) = column.latest?;
            let attributes: BTreeMap<_, _> = column
                .series
                .attributes
                .iter()
                .map(|(key, value)| match value {
                    Attribute::Text(text) => (key.to_string(), text.to_string()),
                    Attribute::Int(number) => (key.to_string(), number.to_string()),
                })
                .collect();
            Some(GaugeStatus {
                name: column.series.gauge.name.to_string(),
                unit: column.series.gauge.unit.to_string(),
                kind: column.series.gauge.kind.as_str().into(),
                attributes,
                value: value.ok(),
                missing: value.err().map(|missing| missing.as_str().to_owned()),
                why: None,
                table: None,
                interval_s: None,
                absent_s: None,
                age_s: boot_ns.saturating_sub(at) as f64 / 1e9,
            })
        };
        self.columns
            .iter()
            .flatten()
            .filter_map(described)
            .collect()
    }

    fn unix_of(&self, boot_ns: u64) -> u64 {
        let unix = i128::from(boot_ns) + self.offset.unwrap_or(0);
        u64::try_from(unix.max(0)).unwrap_or(u64::MAX)
    }
}

impl Column {
    fn push(&mut self, tick: u16, now: Stamp, value: Value) {
        let fell = self.series.gauge.kind == Kind::Counter
            && self
                .last_value
                .is_some_and(|last| last.as_f64() > value.as_f64());
        let begun = self.begun.take().map(|begun| begun.min(now.boot_ns));
        if let Some(since) = begun.or(fell.then_some(self.last_boot_ns)) {
            self.falls.push((self.ticks.len(), since));
        }
        // Nobody says since when such a counter counts: since it is looked at.
        let unknown = self.series.gauge.family == Family::Custom;
        if unknown && self.last_value.is_none() {
            self.since = Some(now.boot_ns);
        }
        let (flag, bits) = match value {
            Value::Int(value) => (0, value.cast_unsigned()),
            Value::Float(value) => (FLOAT, value.to_bits()),
        };
        self.ticks.push(tick | flag);
        self.bits.push(bits);
        self.last_value = Some(value);
        self.last_boot_ns = now.boot_ns;
    }
}

/// The column of a series, made at its first reading.
fn column<'a>(
    columns: &'a mut Vec<Option<Column>>,
    registry: &Registry,
    id: SeriesId,
) -> Option<&'a mut Column> {
    let at = usize::try_from(id.0).ok()?;
    if columns.len() <= at {
        columns.resize_with(at + 1, || None);
    }
    let slot = columns.get_mut(at)?;
    if slot.is_none() {
        *slot = Some(Column {
            series: registry.get(id)?,
            ticks: Vec::new(),
            bits: Vec::new(),
            falls: Vec::new(),
            since: None,
            begun: None,
            latest: None,
            last_value: None,
            last_boot_ns: 0,
        });
    }
    slot.as_mut()
}

impl<'a> Sealed<'a> {
    /// The series that have points, each with them, in time order.
    pub fn columns(
        self,
    ) -> impl Iterator<Item = (&'a Series, impl Iterator<Item = Point> + Clone + 'a)> {
        let recorder = self.recorder;
        let mask = u64::MAX << recorder.resolution();
        recorder.columns.iter().flatten().filter_map(move |column| {
            let begin = column
                .ticks
                .partition_point(|tick| usize::from(tick & !FLOAT) < self.from);
            let end = column
                .ticks
                .partition_point(|tick| usize::from(tick & !FLOAT) < self.to);
            if begin >= end {
                return None;
            }
            let points = (begin..end).filter_map(move |at| {
                let tick = *column.ticks.get(at)?;
                let bits = *column.bits.get(at)?;
                let index = usize::from(tick & !FLOAT);
                let value = if tick & FLOAT == 0 {
                    Value::Int(bits.cast_signed())
                } else {
                    Value::Float(f64::from_bits(bits))
                };
                Some(Point {
                    tick: index,
                    unix_ns: recorder.ticks.get(index)?.unix_ns & mask,
                    start_ns: recorder.start_of(column, at) & (u64::MAX << COARSE),
                    value,
                })
            });
            Some((&*column.series, points))
        })
    }

    /// Points inside.
    pub fn points(self) -> usize {
        if self.from == 0 && self.to == self.recorder.ticks.len() {
            return self.recorder.points;
        }
        self.columns().map(|(_, points)| points.count()).sum()
    }

    /// Ticks inside.
    pub fn ticks(self) -> usize {
        self.to - self.from
    }

    /// First and last tick.
    pub fn span(self) -> (Stamp, Stamp) {
        let at = |index| self.recorder.ticks.get(index).copied().unwrap_or_default();
        (at(self.from), at(self.to.saturating_sub(1)))
    }

    /// Two batches of half the ticks; `None`: one tick cannot be halved.
    pub fn halved(self) -> Option<(Self, Self)> {
        if self.ticks() < 2 {
            return None;
        }
        let middle = self.from + self.ticks() / 2;
        Some((
            Self { to: middle, ..self },
            Self {
                from: middle,
                ..self
            },
        ))
    }
}

impl Recorder {
    /// Bits of a time that are zero. The whole batch decides, so that its halves agree.
    fn resolution(&self) -> u32 {
        let sparse = self.ticks.windows(2).all(|pair| match pair {
            [a, b] => b.boot_ns.saturating_sub(a.boot_ns) >= SPARSE_NS,
            _ => true,
        });
        if sparse { COARSE } else { FINE }
    }

    fn start_of(&self, column: &Column, at: usize) -> u64 {
        let gauge = &column.series.gauge;
        if gauge.kind == Kind::Gauge {
            return 0;
        }
        let fall = column
            .falls
            .iter()
            .rev()
            .find(|(from, _)| *from <= at)
            .map(|(_, since)| *since);
        let own = matches!(
            gauge.family,
            Family::Process | Family::Agent | Family::Runtime | Family::Serial
        );
        let first = if own { self.process_start.boot_ns } else { 0 };
        // A sum that began before the clock was ever set cannot say when: 1970 is no earlier than that.
        self.unix_of(fall.or(column.since).unwrap_or(first))
    }
}

fn offset_of(now: Stamp) -> i128 {
    i128::from(now.unix_ns) - i128::from(now.boot_ns)
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::table;

    const S: u64 = 1_000_000_000;

    fn at(second: u64) -> Stamp {
        Stamp {
            unix_ns: 1_700_000_000 * S + second * S,
            boot_ns: 100 * S + second * S,
        }
    }

    fn setup() -> (Recorder, SeriesId, SeriesId) {
        let registry = Registry::default();
        let gauge = registry.series(&table::LOAD_1M, &[]).unwrap();
        let sum = registry.series(&table::DISK_IO_TIME, &[]).unwrap();
        (
            Recorder::new(registry, Duration::from_secs(30), at(0)),
            gauge,
            sum,
        )
    }

    fn points(recorder: &Recorder, name: &str) -> Vec<Point> {
        let sealed = recorder.sealed().unwrap();
        sealed
            .columns()
            .find(|(series, _)| series.gauge.name == name)
            .map(|(_, points)| points.collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_batch_is_due_when_its_first_reading_is_old_enough() {
        let (mut recorder, gauge, _) = setup();
        assert_eq!(recorder.due_at(), None);
        assert!(recorder.sealed().is_none());
        recorder.record(at(0), &[(gauge, Ok(Value::Int(1)))], None);
        recorder.record(at(29), &[(gauge, Ok(Value::Int(2)))], None);
        assert!(!recorder.is_due(at(29).boot_ns));
        assert!(recorder.is_due(at(30).boot_ns));
        recorder.clear();
        assert!(!recorder.is_due(at(31).boot_ns));
    }

    #[test]
    fn a_batch_that_nobody_can_send_grows_until_it_must_be_on_flash() {
        let (mut recorder, gauge, _) = setup();
        recorder.record(at(0), &[(gauge, Ok(Value::Int(1)))], None);
        recorder.hold(Some(Duration::from_secs(57)));
        assert_eq!(recorder.due_at(), Some(at(57).boot_ns));
        assert!(!recorder.is_due(at(56).boot_ns));
        recorder.hold(None);
        assert!(recorder.is_due(at(30).boot_ns));
        // A window that two batches do not fit makes no batch shorter than it is.
        recorder.hold(Some(Duration::from_secs(5)));
        assert_eq!(recorder.due_at(), Some(at(30).boot_ns));
    }

    #[test]
    fn a_batch_is_due_when_it_grows_too_large() {
        let (mut recorder, gauge, _) = setup();
        let many = vec![(gauge, Ok(Value::Int(1))); 5000];
        recorder.record(at(0), &many, None);
        assert!(!recorder.is_due(at(0).boot_ns));
        recorder.measured(100, 5000);
        assert!(recorder.is_due(at(0).boot_ns));
    }

    #[test]
    fn only_finite_values_become_points_and_absence_is_kept_for_the_status() {
        let (mut recorder, gauge, sum) = setup();
        recorder.record(
            at(0),
            &[
                (gauge, Ok(Value::Float(f64::NAN))),
                (sum, Err(Missing::Denied)),
            ],
            None,
        );
        assert!(recorder.sealed().is_none());
        let words: Vec<_> = recorder
            .latest(at(2).boot_ns)
            .into_iter()
            .map(|g| (g.value, g.missing, g.age_s))
            .collect();
        assert_eq!(
            words,
            [
                (None, Some("garbage".to_owned()), 2.0),
                (None, Some("denied".to_owned()), 2.0)
            ]
        );
        recorder.absent(Family::Load, Missing::Timeout, at(3));
        assert_eq!(
            recorder.latest(at(3).boot_ns)[0].missing.as_deref(),
            Some("timeout")
        );
    }

    #[test]
    fn a_sum_that_began_anew_counts_from_there_though_it_did_not_fall() {
        let (mut recorder, _, sum) = setup();
        let coarse = |unix_ns: u64| unix_ns >> COARSE << COARSE;
        recorder.record(at(0), &[(sum, Ok(Value::Int(5)))], None);
        recorder.begin(sum, at(1).boot_ns);
        // It is said before there is a value, and holds for the next there is.
        recorder.record(at(2), &[(sum, Err(Missing::Denied))], None);
        recorder.record(at(3), &[(sum, Ok(Value::Int(9)))], None);
        // A start in the future is none.
        recorder.begin(sum, at(99).boot_ns);
        recorder.record(at(4), &[(sum, Ok(Value::Int(1)))], None);
        let starts = |recorder: &Recorder| -> Vec<u64> {
            let points = points(recorder, "system.disk.io_time");
            points.iter().map(|point| point.start_ns).collect()
        };
        let boot = coarse(at(0).unix_ns - at(0).boot_ns);
        let (second, third) = (coarse(at(1).unix_ns), coarse(at(4).unix_ns));
        assert_eq!(starts(&recorder), [boot, second, third]);
        recorder.clear();
        recorder.record(at(30), &[(sum, Ok(Value::Int(2)))], None);
        assert_eq!(starts(&recorder), [third]);
    }

    #[test]
    fn sums_say_since_when_they_count_also_after_a_fall() {
        let (mut recorder, gauge, sum) = setup();
        for (second, value) in [(0, 5), (1, 9), (2, 3), (3, 4)] {
            recorder.record(
                at(second),
                &[(gauge, Ok(Value::Int(1))), (sum, Ok(Value::Int(value)))],
                None,
            );
        }
        let boot = at(0).unix_ns - at(0).boot_ns;
        let starts: Vec<_> = points(&recorder, "system.disk.io_time")
            .iter()
            .map(|p| p.start_ns)
            .collect();
        let coarse = |unix_ns: u64| unix_ns >> COARSE << COARSE;
        let fell = coarse(at(1).unix_ns);
        assert_eq!(starts, [coarse(boot), coarse(boot), fell, fell]);
        assert!(
            points(&recorder, "sonde.load.1m")
                .iter()
                .all(|p| p.start_ns == 0)
        );
        recorder.clear();
        recorder.record(at(4), &[(sum, Ok(Value::Int(6)))], None);
        assert_eq!(points(&recorder, "system.disk.io_time")[0].start_ns, fell);
    }

    #[test]
    fn a_clock_step_asks_for_a_seal_and_slewing_does_not() {
        let (mut recorder, gauge, _) = setup();
        recorder.record(at(0), &[(gauge, Ok(Value::Int(1)))], None);
        let mut slewed = at(1);
        slewed.unix_ns += S / 2;
        assert!(!recorder.steps_at(slewed));
        let mut stepped = at(1);
        stepped.unix_ns -= 3600 * S;
        assert!(recorder.steps_at(stepped));
        recorder.clear();
        assert!(!recorder.steps_at(stepped));
        recorder.record(stepped, &[(gauge, Ok(Value::Int(1)))], None);
        stepped.unix_ns += S;
        stepped.boot_ns += S;
        assert!(!recorder.steps_at(stepped));
    }

    #[test]
    fn times_are_rounded_down_to_what_the_spacing_of_the_ticks_allows() {
        let (mut recorder, gauge, _) = setup();
        for second in 0..3 {
            recorder.record(at(second), &[(gauge, Ok(Value::Int(1)))], None);
        }
        let late = |recorder: &Recorder, bits: u32| {
            points(recorder, "sonde.load.1m").iter().all(|point| {
                let tick = recorder.ticks[point.tick].unix_ns;
                point.unix_ns == tick >> bits << bits
            })
        };
        assert!(late(&recorder, COARSE));
        let mut soon = at(2);
        soon.unix_ns += S / 10;
        soon.boot_ns += S / 10;
        recorder.record(soon, &[(gauge, Ok(Value::Int(1)))], None);
        assert!(late(&recorder, FINE) && !late(&recorder, COARSE));
        let (first, last) = recorder.sealed().unwrap().span();
        assert_eq!((first, last), (at(0), soon));
    }

    #[test]
    fn halves_hold_every_point_once() {
        let (mut recorder, gauge, sum) = setup();
        for second in 0..7 {
            recorder.record(
                at(second),
                &[(gauge, Ok(Value::Float(0.5))), (sum, Ok(Value::Int(1)))],
                None,
            );
        }
        let whole = recorder.sealed().unwrap();
        let (a, b) = whole.halved().unwrap();
        assert_eq!((a.ticks(), b.ticks()), (3, 4));
        assert_eq!(a.points() + b.points(), whole.points());
        assert_eq!((a.span().0, a.span().1, b.span().0), (at(0), at(2), at(3)));
        assert!(a.halved().unwrap().0.halved().is_none());
    }

    #[test]
    fn links_are_bounded_and_the_latest_are_kept() {
        let (mut recorder, _, _) = setup();
        for n in 0..200_u8 {
            let context = TraceContext {
                trace_id: [n; 16],
                span_id: [n; 8],
                flags: 1,
                state: "".into(),
            };
            recorder.record(at(u64::from(n)), &[], Some(context));
        }
        assert_eq!(recorder.contexts().count(), MAX_LINKS);
        assert_eq!(recorder.contexts().last().unwrap().span_id, [199; 8]);
    }
}
