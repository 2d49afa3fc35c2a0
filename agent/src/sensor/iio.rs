//! Channels of the kernel's industrial I/O, read from sysfs
//! (Documentation/ABI/testing/sysfs-bus-iio).
//!
//! ```text
//! value = (in_voltage0_raw + in_voltage0_offset) * in_voltage0_scale
//! value = in_voltage0_input                 where the driver scales by itself
//! ```
//!
//! Offset and scale may stand for all channels of a type (`in_voltage_scale`).
//! They are read with every value: a program may change a range at any time.

use std::path::Path;

use super::driver::Driver;
use crate::gauge::Missing;
use crate::gauge::file::KernelFile;

/// Units of the kernel's ABI, by the type in a channel's name: UCUM's unit, and
/// how many of the kernel's make one of it.
const TYPES: [(&str, &str, f64); 9] = [
    ("voltage", "V", 1e3),
    ("current", "A", 1e3),
    ("power", "W", 1e3),
    ("temp", "Cel", 1e3),
    ("humidityrelative", "%", 1e3),
    ("pressure", "Pa", 1e-3),
    ("illuminance", "lx", 1.0),
    ("resistance", "Ohm", 1.0),
    ("distance", "m", 1.0),
];

/// UCUM's unit of a channel such as `in_voltage0`, and how many of the kernel's
/// make one; `None`: no channel that is known here.
pub fn quantity(channel: &str) -> Option<(&'static str, f64)> {
    let kind = kind(channel)?;
    let mut known = TYPES.iter();
    known
        .find(|(name, ..)| *name == kind)
        .map(|(_, unit, many)| (*unit, *many))
}

/// `voltage` of `in_voltage0` and of `in_voltage0_vdd`.
fn kind(channel: &str) -> Option<&str> {
    let rest = channel.strip_prefix("in_")?;
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !rest.chars().all(fine) {
        return None;
    }
    let end = rest.find(|c: char| !c.is_ascii_lowercase());
    rest.get(..end.unwrap_or(rest.len()))
}

/// The channels of one device.
#[derive(Debug)]
pub struct Device {
    channels: Vec<Channel>,
}

#[derive(Debug)]
struct Channel {
    /// `_input`, then `_raw`.
    value: [KernelFile; 2],
    /// Of the channel, then of its type.
    scale: [KernelFile; 2],
    offset: [KernelFile; 2],
    many: f64,
}

impl Device {
    /// In this folder.
    pub fn new(folder: &Path, channels: &[String]) -> Self {
        let channel = |name: &String| {
            let file =
                |name: &str, what: &str| KernelFile::new(folder.join(format!("{name}_{what}")));
            let shared = format!("in_{}", kind(name).unwrap_or_default());
            Channel {
                value: [file(name, "input"), file(name, "raw")],
                scale: [file(name, "scale"), file(&shared, "scale")],
                offset: [file(name, "offset"), file(&shared, "offset")],
                many: quantity(name).map_or(1.0, |(_, many)| many),
            }
        };
        Self {
            channels: channels.iter().map(channel).collect(),
        }
    }
}

impl Driver for Device {
    fn read(&mut self) -> Vec<Result<f64, Missing>> {
        self.channels.iter_mut().map(Channel::read).collect()
    }
}

impl Channel {
    fn read(&mut self) -> Result<f64, Missing> {
        let [input, raw] = &mut self.value;
        let value = match number(input) {
            Err(Missing::Unsupported) => {
                let raw = number(raw)?;
                (raw + first(&mut self.offset, 0.0)?) * first(&mut self.scale, 1.0)?
            }
            other => other?,
        };
        Ok(value / self.many)
    }
}

/// Of the file that there is; `else_` if there is none.
fn first(files: &mut [KernelFile; 2], else_: f64) -> Result<f64, Missing> {
    for file in files {
        match number(file) {
            Err(Missing::Unsupported) => {}
            other => return other,
        }
    }
    Ok(else_)
}

fn number(file: &mut KernelFile) -> Result<f64, Missing> {
    let text = file.head(64)?;
    let number: f64 = text.trim().parse().map_err(|_| Missing::Garbage)?;
    match number.is_finite() {
        true => Ok(number),
        false => Err(Missing::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], channel: &str) -> Result<f64, Missing> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Device::new(folder.path(), &[channel.into()])
            .read()
            .remove(0)
    }

    #[test]
    fn raw_steps_are_scaled_as_the_kernel_says() {
        let raw = ("in_voltage0_raw", "1000\n");
        assert_eq!(read(&[raw], "in_voltage0"), Ok(1.0));
        let shared = ("in_voltage_scale", "0.125\n");
        assert_eq!(read(&[raw, shared], "in_voltage0"), Ok(0.125));
        let own = ("in_voltage0_scale", "2\n");
        let offset = ("in_voltage_offset", "-500\n");
        assert_eq!(read(&[raw, shared, own, offset], "in_voltage0"), Ok(1.0));
        assert_eq!(read(&[("in_temp_input", "21500")], "in_temp"), Ok(21.5));
        assert_eq!(
            read(&[("in_pressure_input", "101.325")], "in_pressure"),
            Ok(101_325.0)
        );
    }

    #[test]
    fn what_is_no_number_is_garbage_and_what_is_not_there_is_unsupported() {
        for text in ["", "x", "nan", "inf", "1 2", "\0"] {
            let files = [("in_voltage0_raw", text)];
            assert_eq!(
                read(&files, "in_voltage0"),
                Err(Missing::Garbage),
                "{text:?}"
            );
        }
        let broken = [("in_voltage0_raw", "5"), ("in_voltage_scale", "?")];
        assert_eq!(read(&broken, "in_voltage0"), Err(Missing::Garbage));
        assert_eq!(read(&[], "in_voltage0"), Err(Missing::Unsupported));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("in_voltage0_raw");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::fs::create_dir(folder.path().join("in_voltage1_raw")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("in_voltage2_raw")).unwrap();
        // A scale that cannot be read must not count as none.
        std::fs::write(folder.path().join("in_voltage3_raw"), "5").unwrap();
        std::fs::create_dir(folder.path().join("in_voltage3_scale")).unwrap();
        let channels: Vec<String> = (0..4).map(|n| format!("in_voltage{n}")).collect();
        let got = Device::new(folder.path(), &channels).read();
        assert_eq!(got, [Err(Missing::Garbage); 4]);
    }

    #[test]
    fn a_channels_name_says_its_unit() {
        for (channel, unit) in [
            ("in_voltage0", Some("V")),
            ("in_voltage0_vdd", Some("V")),
            ("in_temp", Some("Cel")),
            ("in_humidityrelative", Some("%")),
            ("in_nothing0", None),
            ("voltage0", None),
            ("in_voltage/../../x", None),
        ] {
            assert_eq!(quantity(channel).map(|(unit, _)| unit), unit, "{channel}");
        }
    }
}
