//! What reads one sensor, and how it is opened.

use std::path::Path;

use linux_embedded_hal::gpio_cdev::{Chip as GpioChip, LineRequestFlags};
use linux_embedded_hal::spidev::{SpiModeFlags, SpidevOptions};
use linux_embedded_hal::{CdevPin, Delay, I2cdev, SpidevDevice};
use sonde_firmware_hal::sensors::{
    Adc, AdcAddress, Barometer, Climate, PowerMonitor, PowerMonitorAddress, Thermometer,
    ThermometerAddress,
};
use sonde_firmware_hal::{Gauges, Line};

use super::{Kind, Place, SpiPlace, iio};
use crate::gauge::Missing;
use crate::gauge::measured::absence;

/// Reads one sensor; may hang, and then only its bus's thread does.
pub trait Driver: Send {
    /// One result for each of [`Kind::measures`].
    fn read(&mut self) -> Vec<Result<f64, Missing>>;
}

/// Opens the sensor's device. Whether the sensor answers shows when it is read.
pub fn open(kind: &Kind, root: &Path) -> Result<Box<dyn Driver>, Missing> {
    Ok(match kind {
        Kind::Tmp102(at) => {
            let address = thermometer(at.address);
            Box::new(Chip(Thermometer::new(i2c(&at.bus)?, address)))
        }
        Kind::Shtc3(bus) => Box::new(Chip(Climate::new(i2c(bus)?, Delay))),
        Kind::Ina219(at, shunt_uohm, step_ua) => {
            let address =
                PowerMonitorAddress::from_byte(at.address).map_err(|_| Missing::Unsupported)?;
            let monitor = PowerMonitor::new(i2c(&at.bus)?, address, *step_ua, *shunt_uohm);
            Box::new(Chip(monitor.ok_or(Missing::Unsupported)?))
        }
        Kind::Ads1115(at) => {
            let address = match at.address {
                0x49 => AdcAddress::Vdd,
                0x4A => AdcAddress::Sda,
                0x4B => AdcAddress::Scl,
                _ => AdcAddress::Gnd,
            };
            Box::new(Chip(Adc::new(i2c(&at.bus)?, address, Delay)))
        }
        // A BMP280's third value is left out by who asks for two.
        Kind::Bme280(Place::I2c(at)) | Kind::Bmp280(Place::I2c(at)) => {
            let second = at.address & 1 != 0;
            Box::new(Chip(Barometer::on_i2c(i2c(&at.bus)?, second, Delay)))
        }
        Kind::Bme280(Place::Spi(at)) | Kind::Bmp280(Place::Spi(at)) => {
            Box::new(Chip(Barometer::on_spi(spi(at)?, Delay)))
        }
        Kind::Iio(folder, channels) => {
            let folder = root.join(folder.strip_prefix("/").unwrap_or(folder));
            Box::new(iio::Device::new(&folder, channels))
        }
        Kind::Gpio(chip, line, active_low) => {
            let flags = match active_low {
                true => LineRequestFlags::INPUT | LineRequestFlags::ACTIVE_LOW,
                false => LineRequestFlags::INPUT,
            };
            let line = GpioChip::new(chip).and_then(|mut chip| chip.get_line(*line));
            let pin = line
                .and_then(|line| line.request(flags, 0, "sonde"))
                .and_then(CdevPin::new);
            Box::new(Chip(Line::new(pin.map_err(|_| gpio_missing(chip))?)))
        }
    })
}

/// Which of its address pin's four connections.
fn thermometer(address: u8) -> ThermometerAddress {
    ThermometerAddress::Alternative(address & 2 != 0, address & 1 != 0)
}

fn i2c(bus: &Path) -> Result<I2cdev, Missing> {
    I2cdev::new(bus).map_err(|error| match error {
        linux_embedded_hal::i2cdev::linux::LinuxI2CError::Io(error) => Missing::of(&error),
        linux_embedded_hal::i2cdev::linux::LinuxI2CError::Errno(number) => {
            Missing::of(&std::io::Error::from_raw_os_error(number))
        }
    })
}

/// A speed or mode that the controller cannot do is refused here.
fn spi(at: &SpiPlace) -> Result<SpidevDevice, Missing> {
    let mode = SpiModeFlags::from_bits_truncate(u32::from(at.mode));
    let mut options = SpidevOptions::new();
    options.bits_per_word(8).lsb_first(false);
    options.max_speed_hz(at.speed).mode(mode);
    let mut device = SpidevDevice::open(&at.device).map_err(|error| Missing::of(error.inner()))?;
    let configured = device.configure(&options);
    configured.map_err(|error| Missing::of(&error))?;
    Ok(device)
}

/// `gpio-cdev` tells its reason only in words, and asking for them links tables
/// of every error's name. What can be opened has no such line, or not for us.
fn gpio_missing(chip: &Path) -> Missing {
    let opened = std::fs::File::open(chip);
    opened.map_or_else(|error| Missing::of(&error), |_| Missing::Gone)
}

/// A sensor of `sonde-firmware-hal` with `N` values.
struct Chip<G, const N: usize>(G);

impl<G: Gauges<N> + Send, const N: usize> Driver for Chip<G, N> {
    fn read(&mut self) -> Vec<Result<f64, Missing>> {
        let about = self.0.about_all();
        let read = self.0.read_all().into_iter().zip(about);
        read.map(|(reading, about)| {
            let steps = reading.map_err(absence)?;
            Ok(about.resolution.value(steps))
        })
        .collect()
    }
}
