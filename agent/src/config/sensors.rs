//! `[sensor.NAME]` to checked [`Settings`]: what no single key can know about a sensor.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::problem::{Origin, Problem, Problems, quoted};
use super::reader::Settings as Read;
use super::value::Value;
use crate::sensor::{I2cPlace, Kind, MAX_BUSES, MAX_CHANNELS, MAX_SENSORS, Settings, iio};

/// Which keys a kind has besides `kind` and `enabled`.
const KEYS: [(&str, &[&str]); 6] = [
    ("tmp102", &["bus", "address"]),
    ("shtc3", &["bus"]),
    ("ina219", &["bus", "address", "shunt", "max_current"]),
    ("ads1115", &["bus", "address"]),
    ("iio", &["device", "channels"]),
    ("gpio", &["chip", "line", "active_low"]),
];

/// Every enabled sensor. What is wrong with one goes to `problems`.
pub(super) fn build(read: &Read, problems: &mut Problems) -> Vec<Settings> {
    let mut sensors: Vec<Settings> = Vec::new();
    let mut buses = BTreeSet::new();
    for name in read.names("sensor") {
        let mut table = Table {
            read,
            problems: &mut *problems,
            path: format!("sensor.{name}"),
        };
        if matches!(table.get("enabled"), Some(Value::Flag(false))) {
            continue;
        }
        if sensors.len() == MAX_SENSORS {
            let what = format!("is one sensor more than {MAX_SENSORS}");
            table.error("", what, "remove some");
            break;
        }
        let Some(kind) = table.kind() else { continue };
        if let Some(other) = sensors
            .iter()
            .find(|other| other.kind.place() == kind.place())
        {
            let what = format!("is at {}, as sensor.{} is", kind.place(), other.name);
            table.error("", what, "give it another place, or remove one");
        }
        buses.insert(kind.bus());
        if buses.len() > MAX_BUSES {
            let what = format!("is on one bus more than {MAX_BUSES}");
            table.error("", what, "each bus costs a thread; remove some");
        }
        sensors.push(Settings { name, kind });
    }
    sensors
}

struct Table<'a> {
    read: &'a Read,
    problems: &'a mut Problems,
    path: String,
}

impl Table<'_> {
    fn key(&self, name: &str) -> String {
        match name {
            "" => self.path.clone(),
            name => format!("{}.{name}", self.path),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.read.get(&self.key(name))
    }

    fn error(&mut self, name: &str, what: impl Into<String>, fix: impl Into<String>) {
        let key = self.key(name);
        let origin = self.read.origin(&key);
        self.problems.push(Problem::error(origin, &key, what, fix));
    }

    fn kind(&mut self) -> Option<Kind> {
        let word = match self.get("kind") {
            Some(Value::Text(word)) => word.clone(),
            _ => {
                let all: Vec<&str> = KEYS.iter().map(|(kind, _)| *kind).collect();
                let fix = format!("set kind to one of {}", all.join(", "));
                self.error("", "has no kind", fix);
                return None;
            }
        };
        let (_, mine) = KEYS.iter().find(|(kind, _)| *kind == word)?;
        for (_, keys) in KEYS {
            for key in keys.iter().filter(|key| !mine.contains(key)) {
                self.pointless(key, &word, mine);
            }
        }
        Some(match word.as_str() {
            "tmp102" => Kind::Tmp102(self.i2c(0x48, 0x48..=0x4B)?),
            "shtc3" => Kind::Shtc3(self.path("bus", "/dev/i2c-1")?),
            "ina219" => {
                let at = self.i2c(0x40, 0x40..=0x4F);
                let shunt = self.positive("shunt", 0.1, 10.0);
                let most = self.positive("max_current", 3.2, 3_000.0);
                // A step is a 32768th of the largest current, rounded up.
                let step = (most? * 1e6 / 32_768.0).ceil();
                Kind::Ina219(at?, (shunt? * 1e6).round() as u32, step as u32)
            }
            "ads1115" => Kind::Ads1115(self.i2c(0x48, 0x48..=0x4B)?),
            "iio" => {
                let device = self.path("device", "/sys/bus/iio/devices/iio:device0");
                let channels = self.channels();
                Kind::Iio(device?, channels?)
            }
            _ => {
                let chip = self.path("chip", "/dev/gpiochip0");
                let line = match self.get("line") {
                    Some(Value::Whole(line)) => u32::try_from(*line).ok(),
                    _ => {
                        self.error("", "names no line", "set line, as `gpioinfo` counts them");
                        None
                    }
                };
                let low = matches!(self.get("active_low"), Some(Value::Flag(true)));
                Kind::Gpio(chip?, line?, low)
            }
        })
    }

    fn pointless(&mut self, name: &str, kind: &str, mine: &[&str]) {
        let key = self.key(name);
        let origin = self.read.origin(&key);
        let known = self.problems.0.iter().any(|problem| problem.key == key);
        if matches!(origin, Origin::File(_)) && !known {
            let what = format!("has no effect on kind \"{kind}\"");
            let fix = format!("remove it; such a sensor has {}", mine.join(", "));
            self.problems
                .push(Problem::warning(origin, &key, what, fix));
        }
    }

    fn path(&mut self, name: &str, example: &str) -> Option<PathBuf> {
        match self.get(name) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => {
                let fix = format!("set {name}, such as \"{example}\"");
                self.error("", format!("has no {name}"), fix);
                None
            }
        }
    }

    fn i2c(&mut self, usual: u8, allowed: std::ops::RangeInclusive<u8>) -> Option<I2cPlace> {
        let bus = self.path("bus", "/dev/i2c-1");
        let address = match self.get("address") {
            Some(Value::Whole(address)) => u8::try_from(*address).ok()?,
            _ => usual,
        };
        if !allowed.contains(&address) {
            let what = format!("0x{address:02x} is no address that this chip can have");
            let fix = format!(
                "it has 0x{:02x} to 0x{:02x}",
                allowed.start(),
                allowed.end()
            );
            self.error("address", what, fix);
        }
        Some(I2cPlace { bus: bus?, address })
    }

    fn positive(&mut self, name: &str, usual: f64, most: f64) -> Option<f64> {
        let value = match self.get(name) {
            Some(Value::Json(number)) => number.as_f64()?,
            _ => usual,
        };
        if value > 0.0 && value <= most {
            return Some(value);
        }
        let fix = format!("write a number above 0, at most {most}");
        self.error(name, format!("{value} cannot be"), fix);
        None
    }

    fn channels(&mut self) -> Option<Vec<String>> {
        let channels = match self.get("channels") {
            Some(Value::Words(channels)) if !channels.is_empty() => channels.clone(),
            _ => {
                let fix = "set channels, such as [\"in_voltage0\"]: what `ls` of the device shows, without _raw or _input";
                self.error("", "has no channels", fix);
                return None;
            }
        };
        if channels.len() > MAX_CHANNELS {
            let what = format!("names {} channels", channels.len());
            self.error("channels", what, format!("at most {MAX_CHANNELS} are read"));
        }
        for channel in &channels {
            if iio::quantity(channel).is_none() {
                let what = format!("{} is no channel that is known", quoted(channel));
                let fix = "write in_ and voltage, current, power, temp, humidityrelative, pressure, illuminance, resistance or distance, and its number if it has one";
                self.error("channels", what, fix);
            }
        }
        Some(channels)
    }
}
