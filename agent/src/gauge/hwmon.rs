//! Thermal zones and hwmon chips (kernel documentation, driver-api/thermal and
//! hwmon/sysfs-interface): temperatures with their limits; fans, voltages,
//! currents, power, alarms.
//!
//! ```text
//! /sys/class/thermal/thermal_zone0/{type,temp,trip_point_0_type,trip_point_0_temp}
//! /sys/class/hwmon/hwmon1/{name,temp1_input,temp1_label,temp1_crit,in0_lcrit_alarm,device}
//! ```
//!
//! `hwmon1` is another chip after the next boot, so `hw.id` names the device
//! behind it where there is one: `lm75/1-0048/temp1`. `hw.name` is the
//! sensor's label, else the chip's name; equal labels stay apart by `hw.id`.
//! A chip that stands for a thermal zone repeats it and is left out.

use std::path::{Path, PathBuf};

use super::file::small;
use super::probe::{Found, Parse, count, entries, flag, millionths, target, thousandths};
use super::readings::{found, text};
use super::table::{
    ALARM, CURRENT, ENERGY, FAN_SPEED, HUMIDITY, POWER, TEMPERATURE, TEMPERATURE_LIMIT, VOLTAGE,
};
use super::{Descriptor, Missing, Value};

/// The coldest and hottest that a sensor on a gateway can mean.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -100.0..=300.0;
/// Trip points of a zone that are looked at.
const MAX_TRIPS: usize = 16;

/// The temperature family.
pub fn temperatures(root: &Path, out: &mut Found) {
    let folder = root.join("sys/class/thermal");
    for zone in entries(&folder, "thermal_zone") {
        let device = folder.join(&zone);
        let name = small(&device.join("type")).unwrap_or_else(|| zone.clone());
        let id = ("hw.id", found(&zone));
        let named = ("hw.name", found(&name));
        out.add(
            &device,
            "temp",
            &TEMPERATURE,
            &[id.clone(), named.clone()],
            degrees,
        );
        for trip in 0..MAX_TRIPS {
            let kind = small(&device.join(format!("trip_point_{trip}_type")));
            let limit = match kind.as_deref() {
                Some("critical") => "high.critical",
                Some("passive") => "high.degraded",
                Some(_) => continue,
                None => break,
            };
            out.add_slow(
                &device,
                &format!("trip_point_{trip}_temp"),
                &TEMPERATURE_LIMIT,
                &[id.clone(), ("hw.limit_type", text(limit)), named.clone()],
                degrees,
            );
        }
    }
    for chip in chips(root) {
        for sensor in chip.sensors("temp", "_input") {
            let (id, name) = chip.names(&sensor);
            let (id, named) = (("hw.id", found(&id)), ("hw.name", found(&name)));
            out.add(
                &chip.folder,
                &format!("{sensor}_input"),
                &TEMPERATURE,
                &[id.clone(), named.clone()],
                degrees,
            );
            for (file, limit) in [("max", "high.degraded"), ("crit", "high.critical")] {
                let file = format!("{sensor}_{file}");
                if chip.files.contains(&file) {
                    let kind = ("hw.limit_type", text(limit));
                    let attributes = [id.clone(), kind, named.clone()];
                    out.add_slow(
                        &chip.folder,
                        &file,
                        &TEMPERATURE_LIMIT,
                        &attributes,
                        degrees,
                    );
                }
            }
        }
    }
}

/// The hardware family.
pub fn hardware(root: &Path, out: &mut Found) {
    const KINDS: [(&str, &str, &Descriptor, Parse); 7] = [
        ("fan", "_input", &FAN_SPEED, count),
        ("in", "_input", &VOLTAGE, thousandths),
        ("curr", "_input", &CURRENT, thousandths),
        ("power", "_input", &POWER, millionths),
        ("power", "_average", &POWER, millionths),
        ("energy", "_input", &ENERGY, millionths),
        ("humidity", "_input", &HUMIDITY, share),
    ];
    for chip in chips(root) {
        for (kind, file, gauge, parse) in KINDS {
            for sensor in chip.sensors(kind, file) {
                // Power is given as it is now, as a mean, or both.
                let now = format!("{sensor}_input");
                if file == "_average" && chip.files.contains(&now) {
                    continue;
                }
                let (id, name) = chip.names(&sensor);
                let attributes = [("hw.id", found(&id)), ("hw.name", found(&name))];
                out.add(
                    &chip.folder,
                    &format!("{sensor}{file}"),
                    gauge,
                    &attributes,
                    parse,
                );
            }
        }
        let alarms = chip.files.iter().filter_map(|file| {
            let (sensor, alarm) = file.split_once('_')?;
            let ends = alarm.ends_with("alarm") || alarm == "fault";
            ends.then_some((file, sensor, alarm))
        });
        for (file, sensor, alarm) in alarms {
            let (id, name) = chip.names(sensor);
            let attributes = [
                ("hw.id", found(&id)),
                ("hw.name", found(&name)),
                ("sonde.alarm", found(alarm)),
            ];
            out.add(&chip.folder, file, &ALARM, &attributes, flag);
        }
    }
}

struct Chip {
    folder: PathBuf,
    /// Names the device, also after the next boot.
    id: String,
    name: String,
    files: Vec<String>,
}

fn chips(root: &Path) -> Vec<Chip> {
    let parent = root.join("sys/class/hwmon");
    let mut chips: Vec<Chip> = Vec::new();
    for entry in entries(&parent, "hwmon") {
        let mut folder = parent.join(&entry);
        let device = target(&folder.join("device"));
        let mut name = small(&folder.join("name"));
        if name.is_none() {
            // Drivers of before 2013 (max1111, mc13783-adc) have their files in the device's own folder.
            name = small(&folder.join("device/name"));
            if name.is_some() {
                folder.push("device");
            }
        }
        if device
            .as_ref()
            .is_some_and(|d| d.starts_with("thermal_zone"))
        {
            continue;
        }
        let name = name.unwrap_or_else(|| entry.clone());
        let mut id = format!("{name}/{}", device.unwrap_or_else(|| entry.clone()));
        if chips.iter().any(|chip| chip.id == id) {
            id = format!("{id}/{entry}");
        }
        chips.push(Chip {
            files: entries(&folder, ""),
            folder,
            id,
            name,
        });
    }
    chips
}

impl Chip {
    /// `temp1`, `temp2` of kind `temp` that have a file with this ending.
    fn sensors(&self, kind: &str, file: &str) -> Vec<String> {
        let sensor = |name: &String| {
            let sensor = name.strip_suffix(file)?;
            let number = sensor.strip_prefix(kind)?;
            let ok = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            ok.then(|| sensor.to_owned())
        };
        self.files.iter().filter_map(sensor).collect()
    }

    /// `hw.id` and `hw.name`.
    fn names(&self, sensor: &str) -> (String, String) {
        let label = format!("{sensor}_label");
        let label = self.files.contains(&label).then(|| self.folder.join(label));
        let name = label.and_then(|path| small(&path));
        (
            format!("{}/{sensor}", self.id),
            name.unwrap_or_else(|| self.name.clone()),
        )
    }
}

/// Millidegrees that can be true.
fn degrees(text: &str) -> Result<Value, Missing> {
    let value = thousandths(text)?;
    match PLAUSIBLE.contains(&value.as_f64()) {
        true => Ok(value),
        false => Err(Missing::Garbage),
    }
}

/// Thousandths of a percent.
fn share(text: &str) -> Result<Value, Missing> {
    let value = thousandths(text)?.as_f64() / 100.0;
    match (0.0..=1.0).contains(&value) {
        true => Value::grained(value, 1000.0),
        false => Err(Missing::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::testing::{Tree, read};
    use super::super::{Family, Readings};
    use super::*;

    fn check(out: &Readings, name: &str, wanted: Result<Value, Missing>) {
        assert_eq!(out.value(name), Some(wanted), "{name}: {:?}", out.listed());
    }

    #[test]
    fn thermal_zones_have_degrees_and_limits() {
        let tree = Tree::new(&[
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "45277\n"),
            (
                "sys/class/thermal/thermal_zone0/trip_point_0_type",
                "passive\n",
            ),
            (
                "sys/class/thermal/thermal_zone0/trip_point_0_temp",
                "80000\n",
            ),
            (
                "sys/class/thermal/thermal_zone0/trip_point_1_type",
                "critical\n",
            ),
            (
                "sys/class/thermal/thermal_zone0/trip_point_1_temp",
                "95000\n",
            ),
            ("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-12500\n"),
            ("sys/class/thermal/thermal_zone2/type", "modem\n"),
            ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
            ("sys/class/thermal/cooling_device0/type", "Processor\n"),
        ]);
        let out = read(&mut tree.probe(Family::Temperature, temperatures), 1);
        let zone = "hw.temperature hw.id=thermal_zone0 hw.name=cpu-thermal";
        check(&out, zone, Ok(Value::Float(45.277)));
        let limit = "hw.temperature.limit hw.id=thermal_zone0 hw.limit_type=high.critical hw.name=cpu-thermal";
        check(&out, limit, Ok(Value::Float(95.0)));
        let equal = "hw.temperature hw.id=thermal_zone1 hw.name=cpu-thermal";
        check(&out, equal, Ok(Value::Float(-12.5)));
        let broken = "hw.temperature hw.id=thermal_zone2 hw.name=modem";
        check(&out, broken, Err(Missing::Garbage));
        assert_eq!(out.as_slice().len(), 5);
    }

    fn board() -> Tree {
        let tree = Tree::new(&[
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "45277\n"),
            ("sys/class/hwmon/hwmon1/name", "lm75\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "21500\n"),
            ("sys/class/hwmon/hwmon1/temp1_max", "80000\n"),
            ("sys/class/hwmon/hwmon2/name", "lm75\n"),
            ("sys/class/hwmon/hwmon2/temp1_input", "22500\n"),
            ("sys/class/hwmon/hwmon3/name", "nct6775\n"),
            ("sys/class/hwmon/hwmon3/fan1_input", "1200\n"),
            ("sys/class/hwmon/hwmon3/fan1_alarm", "1\n"),
            ("sys/class/hwmon/hwmon3/in0_input", "1032\n"),
            ("sys/class/hwmon/hwmon3/in0_label", "Vcore\n"),
            ("sys/class/hwmon/hwmon3/curr1_input", "-250\n"),
            ("sys/class/hwmon/hwmon3/power1_average", "12345678\n"),
            ("sys/class/hwmon/hwmon3/humidity1_input", "45300\n"),
            ("sys/class/hwmon/hwmon3/energy1_input", "5000000\n"),
            ("sys/class/hwmon/hwmon4/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon4/in0_lcrit_alarm", "1\n"),
        ]);
        for (n, device) in [
            (0, "thermal_zone0"),
            (1, "1-0048"),
            (2, "1-0049"),
            (4, "raspberrypi-hwmon"),
        ] {
            let link = format!("sys/class/hwmon/hwmon{n}/device");
            tree.link(&link, &format!("../../../{device}"));
        }
        tree
    }

    #[test]
    fn chips_of_one_label_stay_apart_and_a_zone_is_not_told_twice() {
        let tree = board();
        let out = read(&mut tree.probe(Family::Temperature, temperatures), 1);
        let one = "hw.temperature hw.id=lm75/1-0048/temp1 hw.name=lm75";
        check(&out, one, Ok(Value::Float(21.5)));
        let other = "hw.temperature hw.id=lm75/1-0049/temp1 hw.name=lm75";
        check(&out, other, Ok(Value::Float(22.5)));
        let limit =
            "hw.temperature.limit hw.id=lm75/1-0048/temp1 hw.limit_type=high.degraded hw.name=lm75";
        check(&out, limit, Ok(Value::Float(80.0)));
        assert_eq!(out.as_slice().len(), 3);
    }

    #[test]
    fn a_driver_of_the_old_kind_has_its_files_at_the_device() {
        let tree = Tree::new(&[
            ("sys/class/hwmon/hwmon0/uevent", ""),
            ("sys/devices/spi4.0/name", "max1111\n"),
            ("sys/devices/spi4.0/in0_input", "800\n"),
        ]);
        tree.link("sys/class/hwmon/hwmon0/device", "../../../devices/spi4.0");
        let out = read(&mut tree.probe(Family::Hardware, hardware), 1);
        let gauge = "hw.voltage hw.id=max1111/spi4.0/in0 hw.name=max1111";
        check(&out, gauge, Ok(Value::Float(0.8)));
    }

    #[test]
    fn fans_voltages_currents_power_and_alarms_are_read() {
        let tree = board();
        let out = read(&mut tree.probe(Family::Hardware, hardware), 1);
        let of = |gauge: &str, sensor: &str, name: &str| {
            format!("{gauge} hw.id=nct6775/hwmon3/{sensor} hw.name={name}")
        };
        check(
            &out,
            &of("hw.fan.speed", "fan1", "nct6775"),
            Ok(Value::Int(1200)),
        );
        check(
            &out,
            &of("hw.voltage", "in0", "Vcore"),
            Ok(Value::Float(1.032)),
        );
        check(
            &out,
            &of("sonde.hw.current", "curr1", "nct6775"),
            Ok(Value::Float(-0.25)),
        );
        check(
            &out,
            &of("hw.power", "power1", "nct6775"),
            Ok(Value::Float(12.346)),
        );
        check(
            &out,
            &of("hw.energy", "energy1", "nct6775"),
            Ok(Value::Float(5.0)),
        );
        check(
            &out,
            &of("sonde.hw.humidity", "humidity1", "nct6775"),
            Ok(Value::Float(0.453)),
        );
        let alarm = of("sonde.hw.alarm", "fan1", "nct6775") + " sonde.alarm=alarm";
        check(&out, &alarm, Ok(Value::Int(1)));
        let brown = "sonde.hw.alarm hw.id=rpi_volt/raspberrypi-hwmon/in0 hw.name=rpi_volt sonde.alarm=lcrit_alarm";
        check(&out, brown, Ok(Value::Int(1)));
        assert_eq!(out.as_slice().len(), 8);
    }
}
