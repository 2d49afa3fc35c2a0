//! `[sensor.NAME]` to checked [`Settings`]: what no single key can know about a sensor.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::problem::{Origin, Problem, Problems, quoted};
use super::reader::Settings as Read;
use super::value::Value;
use crate::sensor::{
    I2cPlace, Kind, MAX_BUSES, MAX_CHANNELS, MAX_SENSORS, Place, Settings, SpiPlace, iio,
};

/// Which keys a kind has besides `kind` and `enabled`.
const KEYS: [(&str, &[&str]); 8] = [
    ("tmp102", &["bus", "address"]),
    ("shtc3", &["bus"]),
    ("ina219", &["bus", "address", "shunt", "max_current"]),
    ("ads1115", &["bus", "address"]),
    ("bme280", &["bus", "address", "speed", "mode"]),
    ("bmp280", &["bus", "address", "speed", "mode"]),
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
        if buses.insert(kind.bus()) && buses.len() > MAX_BUSES {
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
                let fix = format!("remove it; such a sensor has {}", mine.join(", "));
                self.pointless(key, &format!("kind \"{word}\""), fix);
            }
        }
        Some(match word.as_str() {
            "tmp102" => Kind::Tmp102(self.i2c(&word, 0x48, 0x48..=0x4B)?),
            "shtc3" => Kind::Shtc3(self.i2c_bus(&word)?),
            "ina219" => {
                let at = self.i2c(&word, 0x40, 0x40..=0x4F);
                let shunt = self.positive("shunt", 0.1, 10.0);
                let most = self.positive("max_current", 3.2, 3_000.0);
                // A step is a 32768th of the largest current, rounded up.
                let step = (most? * 1e6 / 32_768.0).ceil();
                Kind::Ina219(at?, (shunt? * 1e6).round() as u32, step as u32)
            }
            "ads1115" => Kind::Ads1115(self.i2c(&word, 0x48, 0x48..=0x4B)?),
            "bme280" => Kind::Bme280(self.either(0x76, 0x76..=0x77, &[0, 3])?),
            "bmp280" => Kind::Bmp280(self.either(0x76, 0x76..=0x77, &[0, 3])?),
            "iio" => {
                let device = self.path("device", "\"/sys/bus/iio/devices/iio:device0\"");
                let channels = self.channels();
                Kind::Iio(device?, channels?)
            }
            _ => {
                let chip = self.path("chip", "\"/dev/gpiochip0\"");
                let line = match self.get("line") {
                    Some(Value::Whole(line)) => u32::try_from(*line).ok(),
                    _ => {
                        let fix = "set line, as `gpioinfo` counts them";
                        self.error("", "names no line", fix);
                        None
                    }
                };
                let low = matches!(self.get("active_low"), Some(Value::Flag(true)));
                Kind::Gpio(chip?, line?, low)
            }
        })
    }

    fn pointless(&mut self, name: &str, on: &str, fix: impl Into<String>) {
        let key = self.key(name);
        let origin = self.read.origin(&key);
        let known = self.problems.0.iter().any(|problem| problem.key == key);
        if matches!(origin, Origin::File(_)) && !known {
            let what = format!("has no effect on {on}");
            self.problems
                .push(Problem::warning(origin, &key, what, fix));
        }
    }

    fn path(&mut self, name: &str, examples: &str) -> Option<PathBuf> {
        match self.get(name) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => {
                let fix = format!("set {name}, such as {examples}");
                self.error("", format!("has no {name}"), fix);
                None
            }
        }
    }

    /// For a chip that is there for I2C only.
    fn i2c_bus(&mut self, kind: &str) -> Option<PathBuf> {
        let bus = self.path("bus", "\"/dev/i2c-1\"")?;
        if is_spi(&bus) {
            let what = format!("is an SPI device, and a {kind} is on I2C");
            self.error("bus", what, "set bus, such as \"/dev/i2c-1\"");
            return None;
        }
        Some(bus)
    }

    fn i2c(&mut self, kind: &str, usual: u8, allowed: RangeInclusive<u8>) -> Option<I2cPlace> {
        let bus = self.i2c_bus(kind);
        let address = self.address(usual, allowed);
        Some(I2cPlace {
            bus: bus?,
            address: address?,
        })
    }

    /// For a chip that is there for both buses.
    fn either(&mut self, usual: u8, allowed: RangeInclusive<u8>, modes: &[u8]) -> Option<Place> {
        let bus = self.path("bus", "\"/dev/i2c-1\" or \"/dev/spidev0.0\"")?;
        if !is_spi(&bus) {
            for key in ["speed", "mode"] {
                self.pointless(
                    key,
                    "I2C",
                    "remove it, or set bus to the chip's /dev/spidev",
                );
            }
            let address = self.address(usual, allowed)?;
            return Some(Place::I2c(I2cPlace { bus, address }));
        }
        let fix = "remove it: each chip on SPI has a device of its own";
        self.pointless("address", "SPI", fix);
        let speed = u32::try_from(self.whole("speed").unwrap_or(1_000_000)).ok()?;
        let mode = u8::try_from(self.whole("mode").unwrap_or(0)).ok()?;
        if !modes.contains(&mode) {
            let all: Vec<String> = modes.iter().map(u8::to_string).collect();
            let what = format!("{mode} is no mode of this chip");
            self.error("mode", what, format!("it has {}", all.join(" and ")));
            return None;
        }
        Some(Place::Spi(SpiPlace {
            device: bus,
            speed,
            mode,
        }))
    }

    fn whole(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Whole(number)) => Some(*number),
            _ => None,
        }
    }

    fn address(&mut self, usual: u8, allowed: RangeInclusive<u8>) -> Option<u8> {
        let address = match self.whole("address") {
            Some(address) => u8::try_from(address).ok()?,
            None => usual,
        };
        if allowed.contains(&address) {
            return Some(address);
        }
        let what = format!("0x{address:02x} is no address that this chip can have");
        let fix = format!(
            "it has 0x{:02x} to 0x{:02x}",
            allowed.start(),
            allowed.end()
        );
        self.error("address", what, fix);
        None
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

/// Whether a name is one of the kernel's for SPI: `/dev/spidev0.1`.
fn is_spi(bus: &Path) -> bool {
    let name = bus.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"spidev")
}
