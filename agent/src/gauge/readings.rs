//! Where sources put what they read.
//!
//! A series is named once: a source asks for its number when it first sees an
//! interface or a mount, keeps the number, and from then on a reading is that
//! number and a value: no hashing and no allocation on the hot path. The
//! [`Registry`] remembers all series for the life of the process and refuses
//! more than [`MAX_SERIES`], so that nothing outside can make it grow.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Attribute, Descriptor, Family, Missing, Series, SeriesId, Value};
use crate::event::name::Name;

/// Bound on all series of one process.
pub const MAX_SERIES: usize = 4096;
/// Bound on those of one family, so that interfaces which come by the hundred
/// under ever new names take no room from the others.
pub const MAX_FAMILY_SERIES: usize = 1024;

/// One value of a series, or why there is none.
pub type Reading = (SeriesId, Result<Value, Missing>);

/// All series that were ever seen; shared by the reader thread, which adds to
/// it when it meets something new, and the recorder, which looks names up.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    gauges: Vec<Arc<Descriptor>>,
    series: Vec<Arc<Series>>,
    refused: u64,
    /// Of each family, in the order of [`Family::ALL`].
    of_family: [usize; Family::ALL.len()],
    left_out: [usize; Family::ALL.len()],
    /// The same of a family's second source.
    beside: [usize; Family::ALL.len()],
}

/// The readings of one tick.
#[derive(Debug, Default)]
pub struct Readings {
    registry: Registry,
    readings: Vec<Reading>,
    began: Vec<(SeriesId, u64)>,
    notices: Vec<Notice>,
}

/// Something that a source saw happen; the pipeline makes an event of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which event.
    pub name: Name,
    /// Its metadata.
    pub metadata: Vec<(&'static str, String)>,
}

/// The most of one tick: as many mounts as are reported can change at once.
const MAX_NOTICES: usize = 64;

impl Registry {
    /// The number of a series; the first sight of it makes one. `attributes`
    /// are sorted by key. `None`: there are [`MAX_SERIES`] already.
    pub fn series(
        &self,
        gauge: &'static Descriptor,
        attributes: &[(&'static str, Attribute)],
    ) -> Option<SeriesId> {
        debug_assert!(
            attributes.is_sorted_by_key(|(key, _)| *key),
            "{}",
            gauge.name
        );
        let mut known = self.lock();
        let same = |series: &&Arc<Series>| {
            series.gauge.name == gauge.name
                && series.attributes.len() == attributes.len()
                && series
                    .attributes
                    .iter()
                    .zip(attributes)
                    .all(|(a, b)| a.0 == b.0 && a.1 == b.1)
        };
        if let Some(series) = known.series.iter().find(same) {
            return Some(series.id);
        }
        if known.is_full(gauge.family) {
            return None;
        }
        let gauge = match known.gauges.iter().find(|other| other.name == gauge.name) {
            Some(gauge) => gauge.clone(),
            None => {
                let gauge = Arc::new(Descriptor {
                    name: gauge.name.clone(),
                    unit: gauge.unit.clone(),
                    description: gauge.description.clone(),
                    kind: gauge.kind,
                    family: gauge.family,
                });
                known.gauges.push(gauge.clone());
                gauge
            }
        };
        let attributes = attributes
            .iter()
            .map(|(key, value)| (Cow::Borrowed(*key), value.clone()))
            .collect();
        known.add(gauge, attributes)
    }

    /// [`Registry::series`] of a gauge that the config describes: attributes in
    /// any order, one value for each key. Another unit, kind or description
    /// under the same name, as after a reload, is another series.
    pub fn owned(
        &self,
        gauge: &Arc<Descriptor>,
        mut attributes: Vec<(Cow<'static, str>, Attribute)>,
    ) -> Option<SeriesId> {
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        attributes.dedup_by(|later, kept| later.0 == kept.0);
        let mut known = self.lock();
        let same = |series: &&Arc<Series>| {
            (Arc::ptr_eq(&series.gauge, gauge) || series.gauge == *gauge)
                && series.attributes == attributes
        };
        if let Some(series) = known.series.iter().find(same) {
            return Some(series.id);
        }
        let gauge = match known.series.iter().find(|series| series.gauge == *gauge) {
            Some(series) => series.gauge.clone(),
            None => gauge.clone(),
        };
        known.add(gauge, attributes)
    }

    /// A series by its number.
    pub fn get(&self, id: SeriesId) -> Option<Arc<Series>> {
        self.lock().series.get(usize::try_from(id.0).ok()?).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().series.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Series that were refused because there were too many.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Notes how many series of a family are left out at present, because
    /// there are more than its limit.
    pub fn leave_out(&self, family: Family, series: usize) {
        if let Some(count) = self.lock().left_out.get_mut(family as usize) {
            *count = series;
        }
    }

    /// The same by a second source of the family.
    pub fn leave_out_beside(&self, family: Family, series: usize) {
        if let Some(count) = self.lock().beside.get_mut(family as usize) {
            *count = series;
        }
    }

    /// What was noted so last, in the order of [`Family::ALL`].
    pub fn left_out(&self) -> [usize; Family::ALL.len()] {
        let known = self.lock();
        let mut all = known.left_out;
        for (count, beside) in all.iter_mut().zip(known.beside) {
            *count += beside;
        }
        all
    }

    /// Nothing that holds the lock can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether there is no room for one more, which is counted.
    fn is_full(&mut self, family: Family) -> bool {
        let of_family = self.of_family.get(family as usize).copied().unwrap_or(0);
        let full = self.series.len() >= MAX_SERIES || of_family >= MAX_FAMILY_SERIES;
        self.refused += u64::from(full);
        full
    }

    /// Adds a series that is new, unless there is no room.
    fn add(
        &mut self,
        gauge: Arc<Descriptor>,
        attributes: Vec<(Cow<'static, str>, Attribute)>,
    ) -> Option<SeriesId> {
        if self.is_full(gauge.family) {
            return None;
        }
        let id = SeriesId(u32::try_from(self.series.len()).ok()?);
        if let Some(count) = self.of_family.get_mut(gauge.family as usize) {
            *count += 1;
        }
        self.series.push(Arc::new(Series {
            id,
            gauge,
            attributes,
        }));
        Some(id)
    }
}

impl Readings {
    /// An empty set whose series are kept in `registry`.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            readings: Vec::new(),
            began: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// The number of a series; see [`Registry::series`].
    pub fn series(
        &self,
        gauge: &'static Descriptor,
        attributes: &[(&'static str, Attribute)],
    ) -> Option<SeriesId> {
        self.registry.series(gauge, attributes)
    }

    /// The number of a series that the config describes; see [`Registry::owned`].
    pub fn owned(
        &self,
        gauge: &Arc<Descriptor>,
        attributes: Vec<(Cow<'static, str>, Attribute)>,
    ) -> Option<SeriesId> {
        self.registry.owned(gauge, attributes)
    }

    /// Where the series are kept.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// See [`Registry::leave_out`].
    pub fn leave_out(&self, family: Family, series: usize) {
        self.registry.leave_out(family, series);
    }

    /// Notes a reading; a series that was refused is left out.
    pub fn put(&mut self, series: Option<SeriesId>, value: Result<Value, Missing>) {
        if let Some(series) = series {
            self.readings.push((series, value));
        }
    }

    /// Says that a sum counts from this moment (`boot_ns`) on, whether or not it fell.
    pub fn began(&mut self, series: Option<SeriesId>, since_ns: u64) {
        if let Some(series) = series {
            self.began.push((series, since_ns));
        }
    }

    /// Sums that began anew, and when.
    pub fn beginnings(&self) -> &[(SeriesId, u64)] {
        &self.began
    }

    /// Tells of something that happened; what is too much for one tick is left out.
    pub fn notice(&mut self, name: Name, metadata: Vec<(&'static str, String)>) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(Notice { name, metadata });
        }
    }

    /// What happened since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// What was read.
    pub fn as_slice(&self) -> &[Reading] {
        &self.readings
    }

    /// Readings that should have had a value and have none. A first reading
    /// and a thing that this machine does not have are no errors.
    pub fn errors_from(&self, start: usize) -> u64 {
        let bad = |(_, value): &&Reading| {
            !matches!(value, Ok(_) | Err(Missing::First | Missing::Unsupported))
        };
        let count = self.readings.iter().skip(start).filter(bad).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Forgets the readings, keeps the room.
    pub fn clear(&mut self) {
        self.readings.clear();
        self.began.clear();
    }
}

/// Text that is known at build time.
pub fn text(value: &'static str) -> Attribute {
    Attribute::Text(Cow::Borrowed(value))
}

/// Text that was found.
pub fn found(value: &str) -> Attribute {
    Attribute::Text(Cow::Owned(value.to_owned()))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::fmt::Write as _;

    impl Readings {
        /// `name{key=value,…}` of each reading and its value, for asserting.
        pub(crate) fn listed(&self) -> Vec<(String, Result<Value, Missing>)> {
            let name = |id| {
                let series = self.registry.get(id).expect("a known series");
                let mut out = series.gauge.name.to_string();
                for (key, value) in &series.attributes {
                    let value = match value {
                        Attribute::Text(text) => text.to_string(),
                        Attribute::Int(number) => number.to_string(),
                    };
                    let _ = write!(out, " {key}={value}");
                }
                out
            };
            self.readings
                .iter()
                .map(|(id, value)| (name(*id), *value))
                .collect()
        }

        /// How many series of a family are left out.
        pub(crate) fn left_out(&self, family: Family) -> usize {
            self.registry.left_out()[family as usize]
        }

        /// The value of the one series that `listed` names so.
        pub(crate) fn value(&self, name: &str) -> Option<Result<Value, Missing>> {
            self.listed()
                .into_iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    #[test]
    fn the_same_name_and_attributes_are_the_same_series() {
        let registry = Registry::default();
        let a = registry.series(&table::DISK_IO_TIME, &[("system.device", text("sda"))]);
        let b = registry.series(&table::DISK_IO_TIME, &[("system.device", found("sda"))]);
        let c = registry.series(&table::DISK_IO_TIME, &[("system.device", text("sdb"))]);
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(registry.len(), 2);
    }

    #[test]
    fn a_gauge_of_the_config_is_the_same_series_until_it_is_described_otherwise() {
        use super::super::{Family, Kind};
        let registry = Registry::default();
        let described = |unit: &str| {
            let [name, unit, text] = ["line.speed", unit, "Speed."].map(String::from);
            Descriptor::owned(name, unit, text, Kind::Gauge, Family::Agent)
        };
        let key = |key: &'static str| (Cow::Borrowed(key), text("x"));
        let a = registry.owned(&described("m/s"), vec![key("b"), key("a"), key("b")]);
        let b = registry.owned(&described("m/s"), vec![key("a"), key("b")]);
        assert!(a.is_some());
        assert_eq!(a, b);
        assert_ne!(registry.owned(&described("m/s"), vec![key("a")]), a);
        let other = registry.owned(&described("km/h"), vec![key("a"), key("b")]);
        assert_ne!(other, a);
        let series = registry.get(other.unwrap()).unwrap();
        assert_eq!(series.gauge.unit, "km/h");
        assert_eq!(series.attributes, [key("a"), key("b")]);
        // One description is shared by all its series.
        let [first, second] = [0, 1].map(|id| registry.get(SeriesId(id)).unwrap());
        assert!(Arc::ptr_eq(&first.gauge, &second.gauge));
    }

    #[test]
    fn too_many_series_are_refused_and_counted() {
        let registry = Registry::default();
        let some = |gauge, from: usize, to: usize| {
            (from..to).all(|n| {
                let n = Attribute::Int(i64::try_from(n).unwrap());
                registry.series(gauge, &[("n", n)]).is_some()
            })
        };
        assert!(some(&table::TICK, 0, MAX_FAMILY_SERIES));
        assert!(!some(&table::POINTS, 0, 1), "of the same family");
        // The others still have room, until there are too many of all.
        for gauge in [&table::DISK_IO, &table::NETWORK_IO, &table::LOAD_1M] {
            assert!(some(gauge, 0, MAX_FAMILY_SERIES), "{}", gauge.name);
        }
        assert_eq!(registry.len(), MAX_SERIES);
        assert!(!some(&table::CPU_TIME, 0, 1));
        let [name, unit, text] = ["line.speed", "m/s", "Speed."].map(String::from);
        let owned = Descriptor::owned(
            name,
            unit,
            text,
            super::super::Kind::Gauge,
            super::super::Family::Agent,
        );
        assert_eq!(registry.owned(&owned, Vec::new()), None);
        assert!(some(&table::TICK, 7, 8), "what is known stays");
        assert_eq!(registry.refused(), 3);
    }
}
