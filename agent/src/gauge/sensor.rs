//! Sensors on the gateway's own buses (see [`crate::sensor`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::readings::found;
use super::{Family, Missing, Readings, SeriesId, Source, Value, measured};
use crate::clock::Clock;
use crate::frame::Stamp;
use crate::sensor::bus::{Bus, Open, Values};
use crate::sensor::{MAX_BUSES, Sensors, Settings, driver};
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
    /// Buses that were taken out of the configuration while they hung: no
    /// second thread goes where one hangs.
    hanging: Vec<(String, Bus)>,
    /// What is configured, by bus, and not started because of the above.
    waiting: BTreeMap<String, Vec<Settings>>,
    known: BTreeMap<String, Known>,
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
            hanging: Vec::new(),
            waiting: BTreeMap::new(),
            known: BTreeMap::new(),
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
                    self.hanging.push((name, bus));
                }
            }
        }
    }

    /// Starts what waits, where nothing hangs.
    fn start(&mut self) {
        self.hanging.retain_mut(|(_, bus)| bus.hangs());
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        for name in names {
            let taken = self.hanging.iter().any(|(other, _)| *other == name);
            if taken || self.buses.len() + self.hanging.len() >= MAX_BUSES {
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
}

impl Source for Sensor {
    fn family(&self) -> Family {
        Family::Sensor
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        if let Some(wanted) = self.sensors.take() {
            self.configure(wanted);
        }
        if self.buses.is_empty() && self.waiting.is_empty() {
            self.sensors.show(Vec::new());
            return Err(Missing::Unsupported);
        }
        self.start();
        // All are asked before the first is waited for.
        let asked: Vec<bool> = self.buses.values_mut().map(Bus::ask).collect();
        let (clock, known) = (&self.clock, &mut self.known);
        let until = clock.boot_ns() + u64::try_from(self.patience.as_nanos()).unwrap_or(0);
        let left = || Duration::from_nanos(until.saturating_sub(clock.boot_ns()));
        for (bus, asked) in self.buses.values_mut().zip(asked) {
            let mut answered = Vec::new();
            let whole = asked
                && bus.collect(left, |sensor, values| {
                    note(known, sensor, values, now, out);
                    answered.push(sensor.name.clone());
                });
            if !whole {
                let silent = bus.sensors().iter();
                for sensor in silent.filter(|sensor| !answered.contains(&sensor.name)) {
                    note(known, sensor, late(sensor), now, out);
                }
            }
        }
        for sensor in self.waiting.values().flatten() {
            note(known, sensor, late(sensor), now, out);
        }
        let shown = known.values().map(|known| known.status.clone());
        self.sensors.show(shown.collect());
        Ok(())
    }
}

fn late(sensor: &Settings) -> Values {
    vec![Err(Missing::Timeout); sensor.kind.measures().len()]
}

fn note(
    known: &mut BTreeMap<String, Known>,
    sensor: &Settings,
    values: Values,
    now: Stamp,
    out: &mut Readings,
) {
    let known = known
        .entry(sensor.name.clone())
        .or_insert_with(|| Known::new(sensor, out));
    let missing = values.iter().find_map(|value| value.err());
    let alive = values.iter().any(Result::is_ok);
    let status = &mut known.status;
    let state = match missing {
        _ if alive => "ok",
        Some(Missing::Timeout) => "hangs",
        Some(Missing::First) | None => "starting",
        Some(_) => "absent",
    };
    if status.state != state {
        if state == "hangs" || state == "absent" {
            let why = missing.map_or("", Missing::as_str);
            log::warn!("sensor {} at {}: {why}", status.name, status.place);
        } else if status.state == "hangs" || status.state == "absent" {
            log::info!("sensor {} at {} answers again", status.name, status.place);
        }
        status.state = state.to_owned();
        status.since_boot_ns = now.boot_ns;
    }
    status.missing = missing.map(|missing| missing.as_str().to_owned());
    status.reads = status.reads.saturating_add(u64::from(alive));
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
