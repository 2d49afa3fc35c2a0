//! Sensors on the gateway's own buses (see [`crate::sensor`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::readings::found;
use super::table::SENSOR_LEFT;
use super::{Family, Missing, Readings, SeriesId, Source, Value, measured};
use crate::clock::Clock;
use crate::frame::Stamp;
use crate::sensor::bus::{Bus, Open, Values};
use crate::sensor::{MAX_BUSES, MAX_LEFT, Sensors, Settings, driver};
use crate::status::SensorStatus;

/// All buses together have this long; four converters on one take 160 ms.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks all buses at once, and waits for what comes in time.
pub struct Sensor {
    sensors: Sensors,
    root: PathBuf,
    open: Open,
    patience: Duration,
    clock: Clock,
    buses: BTreeMap<String, Bus>,
    /// Buses of earlier configurations that hang: no second thread goes where
    /// one hangs.
    left: Vec<(String, Bus)>,
    /// What is configured, by bus, and has no thread, mostly because of the above.
    waiting: BTreeMap<String, Vec<Settings>>,
    known: BTreeMap<String, Known>,
    /// Outer: there was one.
    left_behind: Option<Option<SeriesId>>,
}

/// Why a sensor gave nothing in time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Late<'a> {
    /// It hangs.
    Itself,
    /// This one hangs on its bus.
    Behind(&'a str),
    /// So does this one, which is no longer configured.
    BehindGone(&'a str),
    /// As many threads hang as there may be.
    NoThread,
}

struct Known {
    series: Vec<Option<SeriesId>>,
    status: SensorStatus,
}

impl Sensor {
    /// Those that `sensors` is given.
    pub fn new(sensors: Sensors, root: &Path, clock: Clock) -> Self {
        Self::with(sensors, root, clock, Arc::new(driver::open), PATIENCE)
    }

    /// With another way to open devices.
    pub fn with(
        sensors: Sensors,
        root: &Path,
        clock: Clock,
        open: Open,
        patience: Duration,
    ) -> Self {
        Self {
            sensors,
            root: root.to_owned(),
            open,
            patience,
            clock,
            buses: BTreeMap::new(),
            left: Vec::new(),
            waiting: BTreeMap::new(),
            known: BTreeMap::new(),
            left_behind: None,
        }
    }

    fn configure(&mut self, wanted: Vec<Settings>) {
        let names: Vec<&String> = wanted.iter().map(|sensor| &sensor.name).collect();
        self.known.retain(|name, _| names.contains(&name));
        self.waiting.clear();
        for sensor in wanted {
            let on_bus = self.waiting.entry(sensor.kind.bus()).or_default();
            on_bus.push(sensor);
        }
        for (name, mut bus) in std::mem::take(&mut self.buses) {
            if self.waiting.get(&name).map(Vec::as_slice) == Some(bus.sensors()) {
                self.waiting.remove(&name);
                self.buses.insert(name, bus);
            } else {
                for changed in bus.sensors() {
                    self.known.remove(&changed.name);
                }
                if bus.hangs() {
                    self.left.push((name, bus));
                }
            }
        }
    }

    /// Starts what waits, where nothing hangs.
    fn start(&mut self) {
        self.left.retain_mut(|(_, bus)| bus.hangs());
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        for name in names {
            let taken = self.left.iter().any(|(other, _)| *other == name);
            if taken || self.buses.len() + self.left.len() >= MAX_BUSES + MAX_LEFT {
                continue;
            }
            let sensors = self.waiting.get(&name).cloned().unwrap_or_default();
            match Bus::start(sensors, self.root.clone(), self.open.clone()) {
                Ok(bus) => {
                    self.waiting.remove(&name);
                    self.buses.insert(name, bus);
                }
                Err(error) => {
                    log::error!("sensors at {name}: could not start a thread: {error}");
                }
            }
        }
    }

    /// Sensors of an earlier configuration whose threads hang.
    fn left_behind(&self) -> Vec<String> {
        let with = self.left.iter().filter_map(|(_, bus)| bus.hangs_with());
        with.filter(|sensor| !self.is_configured(sensor))
            .map(|sensor| format!("{} at {}", sensor.name, sensor.kind.place()))
            .collect()
    }

    fn is_configured(&self, sensor: &Settings) -> bool {
        let running = self.buses.values().flat_map(Bus::sensors);
        let mut all = running.chain(self.waiting.values().flatten());
        all.any(|other| other == sensor)
    }

    /// Why nobody reads a sensor that has no thread.
    fn why_waiting<'a>(&'a self, bus: &str, sensor: &Settings) -> Late<'a> {
        let left = self.left.iter().find(|(other, _)| other == bus);
        match left.and_then(|(_, bus)| bus.hangs_with()) {
            Some(with) if with == sensor => Late::Itself,
            Some(with) if self.is_configured(with) => Late::Behind(&with.name),
            Some(with) => Late::BehindGone(&with.name),
            None => Late::NoThread,
        }
    }
}

impl Source for Sensor {
    fn family(&self) -> Family {
        Family::Sensor
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        if let Some(wanted) = self.sensors.take() {
            self.configure(wanted);
        }
        self.start();
        if self.buses.is_empty() && self.waiting.is_empty() {
            self.sensors.show(Vec::new(), self.left_behind());
            return Err(Missing::Unsupported);
        }
        // All are asked before the first is waited for.
        let asked: Vec<bool> = self.buses.values_mut().map(Bus::ask).collect();
        let mut known = std::mem::take(&mut self.known);
        let clock = &self.clock;
        let until = clock.boot_ns() + u64::try_from(self.patience.as_nanos()).unwrap_or(0);
        let left = || Duration::from_nanos(until.saturating_sub(clock.boot_ns()));
        for (bus, asked) in self.buses.values_mut().zip(asked) {
            let mut answered = Vec::new();
            let whole = asked
                && bus.collect(left, |sensor, values| {
                    note(&mut known, sensor, Ok(values), now, out);
                    answered.push(sensor.name.clone());
                });
            if !whole {
                let with = bus.hangs_with().map(|sensor| sensor.name.as_str());
                let silent = bus.sensors().iter();
                for sensor in silent.filter(|sensor| !answered.contains(&sensor.name)) {
                    let why = match with {
                        Some(name) if name == sensor.name => Late::Itself,
                        Some(name) => Late::Behind(name),
                        None => Late::NoThread,
                    };
                    note(&mut known, sensor, Err(why), now, out);
                }
            }
        }
        for (bus, sensors) in &self.waiting {
            for sensor in sensors {
                let why = self.why_waiting(bus, sensor);
                note(&mut known, sensor, Err(why), now, out);
            }
        }
        self.known = known;
        let shown = self.known.values().map(|known| known.status.clone());
        let left = self.left_behind();
        if !left.is_empty() || self.left_behind.is_some() {
            let series = || out.series(&SENSOR_LEFT, &[]);
            let series = *self.left_behind.get_or_insert_with(series);
            out.put(series, Value::whole(left.len() as u64));
        }
        self.sensors.show(shown.collect(), left);
        Ok(())
    }
}

impl Late<'_> {
    /// What the sensor waits for, if it does not hang itself.
    fn waits_for(self) -> Option<String> {
        Some(match self {
            Late::Itself => return None,
            Late::Behind(name) => format!("sensor {name} hangs on its bus"),
            Late::BehindGone(name) => {
                format!("sensor {name}, no longer configured, hangs on its bus")
            }
            Late::NoThread => {
                "no thread is left for its bus; a restart of the agent ends those that hang".into()
            }
        })
    }
}

/// How a sensor is, in a word.
fn state(read: &Result<Values, Late<'_>>) -> &'static str {
    let values = match read {
        Ok(values) => values,
        Err(Late::Itself) => return "hangs",
        Err(_) => return "waits",
    };
    let there = values.iter().filter(|value| value.is_ok()).count();
    let first = values.iter().all(|value| *value == Err(Missing::First));
    match there {
        0 if first => "starting",
        0 => "absent",
        there if there < values.len() => "partial",
        _ => "ok",
    }
}

fn note(
    known: &mut BTreeMap<String, Known>,
    sensor: &Settings,
    read: Result<Values, Late<'_>>,
    now: Stamp,
    out: &mut Readings,
) {
    let known = known
        .entry(sensor.name.clone())
        .or_insert_with(|| Known::new(sensor, out));
    let state = state(&read);
    let waits_for = read.as_ref().err().and_then(|late| late.waits_for());
    let values = read.unwrap_or_else(|_| vec![Err(Missing::Timeout); known.series.len()]);
    let missing = values.iter().find_map(|value| value.err());
    let status = &mut known.status;
    status.values = values.iter().filter(|value| value.is_ok()).count();
    status.of = values.len();
    status.missing = missing.map(|missing| missing.as_str().to_owned());
    if status.state != state {
        let (name, place) = (&status.name, &status.place);
        let missing = status.missing.as_deref().unwrap_or_default();
        match state {
            "ok" if !status.state.is_empty() => {
                log::info!("sensor {name} at {place} answers again");
            }
            "ok" | "starting" => {}
            "partial" => log::warn!(
                "sensor {name} at {place}: {} of {} values: {missing}",
                status.values,
                status.of
            ),
            "waits" => log::warn!(
                "sensor {name} at {place} is not read: {}",
                waits_for.as_deref().unwrap_or_default()
            ),
            _ => log::warn!("sensor {name} at {place}: {missing}"),
        }
        status.state = state.to_owned();
        status.since_boot_ns = now.boot_ns;
    }
    status.waits_for = waits_for;
    status.reads = status.reads.saturating_add(u64::from(status.values > 0));
    status.failures = status.failures.saturating_add(u64::from(missing.is_some()));
    for (series, value) in known.series.iter().zip(values) {
        out.put(*series, value.and_then(Value::float));
    }
}

impl Known {
    fn new(sensor: &Settings, out: &Readings) -> Self {
        let series = |(name, unit): (String, &str)| {
            let id = format!("{}/{name}", sensor.name);
            let attributes = vec![
                ("hw.id".into(), found(&id)),
                ("hw.name".into(), found(&name)),
            ];
            out.owned(&measured(&name, unit, Family::Sensor), attributes)
        };
        let measures = sensor.kind.measures();
        Self {
            status: SensorStatus {
                name: sensor.name.clone(),
                kind: sensor.kind.as_str().to_owned(),
                place: sensor.kind.place(),
                ..SensorStatus::default()
            },
            series: measures.into_iter().map(series).collect(),
        }
    }
}
