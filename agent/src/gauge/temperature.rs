//! Thermal zones and hwmon chips, through `sysinfo`, which knows both and
//! their naming rules.
//!
//! `sysinfo` cannot be pointed at another root, so the thermometers stand
//! behind [`Thermometers`] and tests bring their own. It keeps the paths it
//! found; the list is made again every `RESCAN` reads, because USB and I2C
//! sensors come and go. Two sensors that carry the same label are one to
//! `sysinfo`; `hw.id` tells apart what it tells apart.

use std::path::Path;

use sysinfo::{Component, Components};

use super::readings::found;
use super::table::TEMPERATURE;
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// More than any gateway has.
const MAX_SENSORS: usize = 64;
/// Reads between two looks for new sensors.
const RESCAN: u32 = 60;
/// The coldest and hottest that a sensor on a gateway can mean.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -100.0..=300.0;

/// Where temperatures come from.
pub trait Thermometers: Send {
    /// Looks for sensors again, then reads them all.
    fn rescan(&mut self);
    /// Reads those that are known.
    fn refresh(&mut self);
    /// Calls `each` with identifier, label and degrees Celsius.
    fn for_each(&self, each: &mut dyn FnMut(&str, &str, Option<f32>));
}

/// What `sysinfo` finds.
#[derive(Default)]
struct Host {
    components: Option<Components>,
}

impl Thermometers for Host {
    fn rescan(&mut self) {
        match &mut self.components {
            Some(components) => components.refresh(true),
            None => self.components = Components::new_with_refreshed_list().ok(),
        }
    }

    fn refresh(&mut self) {
        for component in self.components.iter_mut().flat_map(|list| list.iter_mut()) {
            component.refresh();
        }
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &str, Option<f32>)) {
        for component in self.components.iter().flat_map(|list| list.iter()) {
            each(
                identifier(component),
                component.label(),
                component.temperature(),
            );
        }
    }
}

/// `hwmon0_1`, `thermal_zone0`; the label where there is no id.
fn identifier(component: &Component) -> &str {
    component.id().unwrap_or(component.label())
}

/// Reads all thermometers.
pub struct Temperature {
    thermometers: Box<dyn Thermometers>,
    sensors: Vec<Known>,
    reads: u32,
}

struct Known {
    id: String,
    series: Option<SeriesId>,
    seen: bool,
}

impl Temperature {
    /// The host's; below another root than `/` there are none.
    pub fn new(root: &Path) -> Self {
        if root == Path::new("/") {
            Self::with(Box::<Host>::default())
        } else {
            Self::with(Box::new(NoThermometers))
        }
    }

    /// Given ones.
    pub fn with(thermometers: Box<dyn Thermometers>) -> Self {
        Self {
            thermometers,
            sensors: Vec::new(),
            reads: 0,
        }
    }
}

struct NoThermometers;

impl Thermometers for NoThermometers {
    fn rescan(&mut self) {}
    fn refresh(&mut self) {}
    fn for_each(&self, _: &mut dyn FnMut(&str, &str, Option<f32>)) {}
}

impl Source for Temperature {
    fn family(&self) -> Family {
        Family::Temperature
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        if self.reads.is_multiple_of(RESCAN) {
            self.thermometers.rescan();
        } else {
            self.thermometers.refresh();
        }
        self.reads = self.reads.wrapping_add(1);
        let sensors = &mut self.sensors;
        for sensor in sensors.iter_mut() {
            sensor.seen = false;
        }
        self.thermometers.for_each(&mut |id, label, celsius| {
            let at = sensors.iter().position(|sensor| sensor.id == id);
            let at = match at {
                Some(at) => at,
                None if sensors.len() < MAX_SENSORS => {
                    let attributes = [("hw.id", found(id)), ("hw.name", found(label))];
                    let series = out.series(&TEMPERATURE, &attributes);
                    sensors.push(Known {
                        id: id.to_owned(),
                        series,
                        seen: true,
                    });
                    sensors.len() - 1
                }
                None => return,
            };
            if let Some(sensor) = sensors.get_mut(at) {
                sensor.seen = true;
                out.put(sensor.series, degrees(celsius));
            }
        });
        sensors.retain(|sensor| {
            if !sensor.seen {
                out.put(sensor.series, Err(Missing::Gone));
            }
            sensor.seen
        });
        Ok(())
    }
}

/// The kernel gives millidegrees; an `f32` of them is put back on that grid.
fn degrees(celsius: Option<f32>) -> Result<Value, Missing> {
    let celsius = f64::from(celsius.ok_or(Missing::Gone)?);
    if PLAUSIBLE.contains(&celsius) {
        Value::grained(celsius, 1000.0)
    } else {
        Err(Missing::Garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;
    use std::sync::{Arc, Mutex};

    type List = Arc<Mutex<Vec<(&'static str, Option<f32>)>>>;
    struct Fake(List);

    impl Thermometers for Fake {
        fn rescan(&mut self) {}
        fn refresh(&mut self) {}
        fn for_each(&self, each: &mut dyn FnMut(&str, &str, Option<f32>)) {
            for (id, celsius) in self.0.lock().unwrap().iter() {
                each(id, "label", *celsius);
            }
        }
    }

    #[test]
    fn sensors_give_degrees_or_say_why_not() {
        let list: List = Arc::new(Mutex::new(vec![
            ("a", Some(45.277)),
            ("b", None),
            ("c", Some(f32::NAN)),
            ("d", Some(4e9)),
        ]));
        let mut source = Temperature::with(Box::new(Fake(list.clone())));
        let mut out = Readings::new(Registry::default());
        source.read(Stamp::default(), &mut out).unwrap();
        let values: Vec<_> = out.as_slice().iter().map(|(_, value)| *value).collect();
        assert_eq!(
            values,
            [
                Ok(Value::Float(45.277)),
                Err(Missing::Gone),
                Err(Missing::Garbage),
                Err(Missing::Garbage)
            ]
        );
        list.lock().unwrap().truncate(1);
        out.clear();
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.as_slice().len(), 4);
        out.clear();
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.as_slice().len(), 1);
    }

    #[test]
    fn the_host_can_be_asked() {
        let mut out = Readings::new(Registry::default());
        let mut source = Temperature::new(Path::new("/"));
        assert_eq!(source.read(Stamp::default(), &mut out), Ok(()));
        assert_eq!(source.read(Stamp::default(), &mut out), Ok(()));
    }
}
