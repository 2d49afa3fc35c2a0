//! Gauges on top of well-kept sensor drivers from crates.io, all of them on
//! embedded-hal 1.0. Each owns its driver, which owns its bus; share a bus with
//! `embedded-hal-bus`. None waits longer than the sensor's own measuring time.

#[cfg(feature = "ads1x1x")]
mod ads1x1x;
#[cfg(feature = "bme280")]
mod bme280;
#[cfg(feature = "ina219")]
mod ina219;
#[cfg(feature = "shtcx")]
mod shtcx;
#[cfg(feature = "tmp1x2")]
mod tmp1x2;

#[cfg(feature = "ads1x1x")]
pub use self::ads1x1x::Adc;
#[cfg(feature = "bme280")]
pub use self::bme280::{Barometer, OnI2c, OnSpi, Registers};
#[cfg(feature = "ina219")]
pub use self::ina219::PowerMonitor;
#[cfg(feature = "shtcx")]
pub use self::shtcx::Climate;
#[cfg(feature = "tmp1x2")]
pub use self::tmp1x2::Thermometer;
#[cfg(feature = "ads1x1x")]
pub use ::ads1x1x::TargetAddr as AdcAddress;
#[cfg(feature = "ina219")]
pub use ::ina219::address::Address as PowerMonitorAddress;
#[cfg(feature = "tmp1x2")]
pub use ::tmp1x2::SlaveAddr as ThermometerAddress;
