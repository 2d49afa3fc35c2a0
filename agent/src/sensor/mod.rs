//! Sensors on the gateway's own buses: chips on I2C and SPI through
//! `sonde-firmware-hal` and `linux-embedded-hal`, channels of the kernel's
//! industrial I/O drivers, lines of GPIO chips.
//!
//! ```text
//!  gauge thread ─ ask ─► thread of the bus ─► driver ─► /dev/i2c-1, …
//!       ▲──── readings, or a timeout ────┘
//! ```
//!
//! A bus can hang in the kernel without a way to cancel, so each bus has a
//! thread of its own ([`bus`]). [`Sensors`] is how the rest of the agent hands
//! over a configuration and sees what became of it: it is never held while
//! something is read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::status::SensorStatus;

pub mod bus;
pub mod driver;
pub mod iio;
#[cfg(test)]
mod tests;

/// Buses of one gateway, each a thread.
pub const MAX_BUSES: usize = 8;

/// Threads beyond those, which hang with sensors of an earlier configuration:
/// when there are more, a bus is not read before one of them returns.
pub const MAX_LEFT: usize = 4;

/// Sensors of one gateway.
pub const MAX_SENSORS: usize = 32;

/// Channels of one sensor.
pub const MAX_CHANNELS: usize = 16;

/// `[sensor.NAME]`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// NAME.
    pub name: String,
    /// Which driver, and where.
    pub kind: Kind,
}

/// Which driver, and where.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// TMP102, TMP112 and their like.
    Tmp102(I2cPlace),
    /// SHTC3; its address is fixed.
    Shtc3(PathBuf),
    /// INA219, with its shunt in µΩ and the resolution of its current in µA.
    Ina219(I2cPlace, u32, u32),
    /// ADS1115.
    Ads1115(I2cPlace),
    /// BME280.
    Bme280(Place),
    /// BMP280: the same without humidity.
    Bmp280(Place),
    /// A folder of the kernel's industrial I/O, and channels such as `in_voltage0`.
    Iio(PathBuf, Vec<String>),
    /// A GPIO chip, the line's number, and whether low means 1.
    Gpio(PathBuf, u32, bool),
}

/// A chip on an I2C bus.
#[derive(Clone, Debug, PartialEq)]
pub struct I2cPlace {
    /// Such as `/dev/i2c-1`.
    pub bus: PathBuf,
    /// Seven bits.
    pub address: u8,
}

/// A chip on SPI.
#[derive(Clone, Debug, PartialEq)]
pub struct SpiPlace {
    /// Such as `/dev/spidev0.1`: bus and chip select.
    pub device: PathBuf,
    /// Clock in hertz.
    pub speed: u32,
    /// 0 to 3.
    pub mode: u8,
}

/// A chip that there is for both buses.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// With its address.
    I2c(I2cPlace),
    /// With its own device file.
    Spi(SpiPlace),
}

/// Hands configurations over and shows what became of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sensors {
    wanted: Arc<Mutex<Option<Vec<Settings>>>>,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug, Default)]
struct Shown {
    sensors: Vec<SensorStatus>,
    left_behind: Vec<String>,
}

impl Sensors {
    /// From the next tick on these are read. What is gone is not shown any more
    /// at once: without a sensor there are no ticks.
    pub fn configure(&self, wanted: Vec<Settings>) {
        let mut shown = lock(&self.shown);
        let Shown {
            sensors,
            left_behind,
        } = &mut *shown;
        sensors.retain(|one| {
            let same = |other: &Settings| other.name == one.name && other.kind.place() == one.place;
            let stays = wanted.iter().any(same);
            if !stays && one.state == "hangs" {
                left_behind.push(format!("{} at {}", one.name, one.place));
            }
            stays
        });
        *lock(&self.wanted) = Some(wanted);
    }

    /// A configuration that nobody has taken up yet.
    pub(crate) fn take(&self) -> Option<Vec<Settings>> {
        lock(&self.wanted).take()
    }

    /// What the last tick found, and which sensors of earlier configurations
    /// have threads that hang.
    pub(crate) fn show(&self, sensors: Vec<SensorStatus>, left_behind: Vec<String>) {
        *lock(&self.shown) = Shown {
            sensors,
            left_behind,
        };
    }

    /// For people.
    pub fn status(&self) -> Vec<SensorStatus> {
        lock(&self.shown).sensors.clone()
    }

    /// Sensors that are no longer configured and whose threads hang.
    pub fn left_behind(&self) -> Vec<String> {
        lock(&self.shown).left_behind.clone()
    }
}

/// Nothing that holds one of these locks can leave its value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kind {
    /// What shares a thread: an I2C bus, the chip selects of an SPI bus, a GPIO
    /// chip, an industrial I/O device.
    pub fn bus(&self) -> String {
        match self {
            Kind::Tmp102(at) | Kind::Ina219(at, ..) | Kind::Ads1115(at) => {
                at.bus.display().to_string()
            }
            Kind::Bme280(place) | Kind::Bmp280(place) => place.bus(),
            Kind::Shtc3(bus) => bus.display().to_string(),
            Kind::Iio(folder, _) => folder.display().to_string(),
            Kind::Gpio(chip, ..) => chip.display().to_string(),
        }
    }

    /// As in `kind = `.
    pub fn as_str(&self) -> &'static str {
        match self {
            Kind::Tmp102(_) => "tmp102",
            Kind::Shtc3(_) => "shtc3",
            Kind::Ina219(..) => "ina219",
            Kind::Ads1115(_) => "ads1115",
            Kind::Bme280(_) => "bme280",
            Kind::Bmp280(_) => "bmp280",
            Kind::Iio(..) => "iio",
            Kind::Gpio(..) => "gpio",
        }
    }

    /// For people: the bus and the place on it.
    pub fn place(&self) -> String {
        match self {
            Kind::Tmp102(at) | Kind::Ina219(at, ..) | Kind::Ads1115(at) => at.place(),
            Kind::Bme280(Place::I2c(at)) | Kind::Bmp280(Place::I2c(at)) => at.place(),
            Kind::Bme280(Place::Spi(at)) | Kind::Bmp280(Place::Spi(at)) => {
                at.device.display().to_string()
            }
            Kind::Shtc3(bus) => format!("{} 0x70", bus.display()),
            Kind::Iio(folder, _) => folder.display().to_string(),
            Kind::Gpio(chip, line, _) => format!("{} line {line}", chip.display()),
        }
    }

    /// The name and the UCUM unit of each value, in the order of a reading.
    pub fn measures(&self) -> Vec<(String, &'static str)> {
        let fixed: &[(&str, &str)] = match self {
            Kind::Tmp102(_) => &[("temperature", "Cel")],
            Kind::Shtc3(_) => &[("temperature", "Cel"), ("humidity", "%")],
            Kind::Ina219(..) => &[("voltage", "V"), ("current", "A"), ("power", "W")],
            Kind::Ads1115(_) => &[
                ("voltage.0", "V"),
                ("voltage.1", "V"),
                ("voltage.2", "V"),
                ("voltage.3", "V"),
            ],
            Kind::Bme280(_) => &[
                ("temperature", "Cel"),
                ("pressure", "Pa"),
                ("humidity", "%"),
            ],
            Kind::Bmp280(_) => &[("temperature", "Cel"), ("pressure", "Pa")],
            Kind::Gpio(..) => &[("level", "1")],
            Kind::Iio(_, channels) => {
                let known = channels.iter();
                return known
                    .map(|channel| {
                        let name = channel.strip_prefix("in_").unwrap_or(channel);
                        (
                            name.to_owned(),
                            iio::quantity(channel).unwrap_or(("1", 1.0)).0,
                        )
                    })
                    .collect();
            }
        };
        let owned = fixed.iter().map(|(name, unit)| ((*name).to_owned(), *unit));
        owned.collect()
    }
}

impl I2cPlace {
    fn place(&self) -> String {
        format!("{} 0x{:02x}", self.bus.display(), self.address)
    }
}

impl Place {
    /// Chip selects share their bus's wires: what comes before the dot.
    fn bus(&self) -> String {
        match self {
            Place::I2c(at) => at.bus.display().to_string(),
            Place::Spi(at) => {
                let device = at.device.display().to_string();
                match device.rsplit_once('.') {
                    Some((bus, _)) => bus.to_owned(),
                    None => device,
                }
            }
        }
    }
}
