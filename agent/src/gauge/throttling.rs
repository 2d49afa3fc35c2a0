//! What holds the CPU back: clock frequency (kernel documentation,
//! admin-guide/pm/cpufreq), cooling devices (driver-api/thermal), a Raspberry
//! Pi's firmware, an x86 CPU's own counts.
//!
//! ```text
//! /sys/devices/system/cpu/cpufreq/policy0/{scaling_cur_freq,scaling_max_freq,cpuinfo_max_freq}   kHz
//! /sys/class/thermal/cooling_device0/{type,cur_state,max_state}
//! /sys/devices/platform/soc/soc:firmware/get_throttled                                     50005 (hex)
//! /sys/devices/system/cpu/cpu0/thermal_throttle/{core,package}_throttle_count
//! ```
//!
//! CPUs that share a clock are one policy, named for its first CPU.

use std::path::Path;

use super::file::small;
use super::probe::{Found, Parse, count, entries};
use super::readings::{found, text};
use super::table::{
    ALARM, COOLING_MAX, COOLING_STATE, CPU_FREQUENCY, CPU_FREQUENCY_LIMIT, CPU_FREQUENCY_MAX,
    THROTTLE_ACTIVE, THROTTLE_COUNT, THROTTLE_SEEN,
};
use super::{Attribute, Missing, Readings, Value};

/// The throttling family.
pub fn look(root: &Path, out: &mut Found) {
    frequency(root, out);
    cooling(root, out);
    raspberry(root, out);
    too_hot(root, out);
}

fn frequency(root: &Path, out: &mut Found) {
    let folder = root.join("sys/devices/system/cpu/cpufreq");
    for name in entries(&folder, "policy") {
        let Some(cpu) = number(&name, "policy") else {
            continue;
        };
        let policy = folder.join(&name);
        let cpu = [("cpu.logical_number", cpu)];
        out.add(&policy, "scaling_cur_freq", &CPU_FREQUENCY, &cpu, kilohertz);
        let limit = "scaling_max_freq";
        out.add(&policy, limit, &CPU_FREQUENCY_LIMIT, &cpu, kilohertz);
        let highest = "cpuinfo_max_freq";
        out.add_slow(&policy, highest, &CPU_FREQUENCY_MAX, &cpu, kilohertz);
    }
}

fn cooling(root: &Path, out: &mut Found) {
    let folder = root.join("sys/class/thermal");
    for name in entries(&folder, "cooling_device") {
        let device = folder.join(&name);
        let kind = small(&device.join("type")).unwrap_or_else(|| name.clone());
        let ids = [("hw.id", found(&name)), ("hw.name", found(&kind))];
        out.add(&device, "cur_state", &COOLING_STATE, &ids, count);
        out.add_slow(&device, "max_state", &COOLING_MAX, &ids, count);
    }
}

/// The firmware's word: bits 0 to 3 now, 16 to 19 since the boot.
fn raspberry(root: &Path, out: &mut Found) {
    const BITS: [(&str, Parse, Parse); 4] = [
        ("under_voltage", bit::<0>, bit::<16>),
        ("frequency_capped", bit::<1>, bit::<17>),
        ("throttled", bit::<2>, bit::<18>),
        ("soft_temperature_limit", bit::<3>, bit::<19>),
    ];
    let platform = root.join("sys/devices/platform");
    let soc = platform.join("soc");
    let folders = [&platform, &soc].into_iter();
    let mut devices = folders.flat_map(|folder| {
        let names = entries(folder, "soc").into_iter();
        names.map(move |name| folder.join(name))
    });
    let Some(device) = devices.find(|device| device.join("get_throttled").exists()) else {
        return;
    };
    for (reason, now, seen) in BITS {
        let reason = [("sonde.reason", text(reason))];
        out.add(&device, "get_throttled", &THROTTLE_ACTIVE, &reason, now);
        out.add(&device, "get_throttled", &THROTTLE_SEEN, &reason, seen);
    }
}

/// A package's count stands at each of its CPUs: the first one's is enough.
fn too_hot(root: &Path, out: &mut Found) {
    let folder = root.join("sys/devices/system/cpu");
    for name in entries(&folder, "cpu") {
        let device = folder.join(&name).join("thermal_throttle");
        let Some(cpu) = number(&name, "cpu").filter(|_| device.exists()) else {
            continue;
        };
        let scopes = match &cpu {
            Attribute::Int(0) => ["core", "package"].as_slice(),
            _ => &["core"],
        };
        for scope in scopes {
            let attributes = [
                ("cpu.logical_number", cpu.clone()),
                ("sonde.scope", text(scope)),
            ];
            let file = format!("{scope}_throttle_count");
            out.add_slow(&device, &file, &THROTTLE_COUNT, &attributes, count);
        }
    }
}

/// What says that the supply's voltage is too low, or was in this boot.
pub fn faint(readings: &Readings) -> Option<String> {
    let told = readings.as_slice().iter();
    let mut on = told.filter(|(_, value)| *value == Ok(Value::Int(1)));
    on.find_map(|(id, _)| {
        let series = readings.registry().get(*id)?;
        let has = |wanted: &str| {
            let mut attributes = series.attributes.iter();
            attributes.any(|(_, value)| *value == found(wanted))
        };
        let name = &series.gauge.name;
        let throttled = *name == THROTTLE_ACTIVE.name || *name == THROTTLE_SEEN.name;
        if throttled && has("under_voltage") {
            return Some(format!("{name} under_voltage"));
        }
        let low = *name == ALARM.name && has("rpi_volt") && has("lcrit_alarm");
        low.then(|| format!("{name} rpi_volt lcrit_alarm"))
    })
}

fn number(name: &str, prefix: &str) -> Option<Attribute> {
    let number = name.strip_prefix(prefix)?.parse().ok()?;
    Some(Attribute::Int(number))
}

fn kilohertz(text: &str) -> Result<Value, Missing> {
    let kilohertz: u64 = text.parse().map_err(|_| Missing::Garbage)?;
    // 0: the driver does not know.
    match kilohertz.checked_mul(1000) {
        Some(0) => Err(Missing::Unsupported),
        Some(hertz) => Value::whole(hertz),
        None => Err(Missing::Garbage),
    }
}

fn bit<const N: u32>(text: &str) -> Result<Value, Missing> {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    let bits = u32::from_str_radix(hex, 16).map_err(|_| Missing::Garbage)?;
    Ok(Value::Int(i64::from(bits >> N & 1)))
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::super::probe::testing::{Tree, read};
    use super::*;

    #[test]
    fn a_supply_that_is_or_was_too_low_is_noticed_and_nothing_else_is() {
        let throttled = "sys/devices/platform/soc/soc:firmware/get_throttled";
        let alarm = "sys/class/hwmon/hwmon1/in0_lcrit_alarm";
        for (chip, low, bits, expected) in [
            ("rpi_volt", "0", "0", None),
            (
                "rpi_volt",
                "1",
                "0",
                Some("sonde.hw.alarm rpi_volt lcrit_alarm"),
            ),
            ("nct6775", "1", "60006", None),
            (
                "rpi_volt",
                "0",
                "10000",
                Some("sonde.throttle.seen under_voltage"),
            ),
        ] {
            let name = format!("{chip}\n");
            let tree = Tree::new(&[
                ("sys/class/hwmon/hwmon1/name", name.as_str()),
                (alarm, low),
                (throttled, bits),
            ]);
            let mut families = [
                tree.probe(Family::Throttling, look),
                tree.probe(Family::Hardware, super::super::hwmon::hardware),
            ];
            let found = families
                .iter_mut()
                .find_map(|family| faint(&read(family, 1)));
            assert_eq!(found.as_deref(), expected, "{chip} {low} {bits}");
        }
    }

    #[test]
    fn what_holds_a_cpu_back_is_read() {
        let tree = Tree::new(&[
            (
                "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq",
                "600000\n",
            ),
            (
                "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq",
                "1200000\n",
            ),
            (
                "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq",
                "1500000\n",
            ),
            (
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
                "3\n",
            ),
            (
                "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
                "5\n",
            ),
            (
                "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count",
                "4\n",
            ),
            (
                "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count",
                "5\n",
            ),
            ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "2\n"),
            ("sys/class/thermal/cooling_device0/max_state", "4\n"),
            (
                "sys/devices/platform/soc/soc:firmware/get_throttled",
                "50005\n",
            ),
        ]);
        let out = read(&mut tree.probe(Family::Throttling, look), 1);
        for (name, wanted) in [
            ("system.cpu.frequency cpu.logical_number=4", 600_000_000),
            (
                "sonde.cpu.frequency.limit cpu.logical_number=4",
                1_200_000_000,
            ),
            (
                "sonde.cpu.frequency.max cpu.logical_number=4",
                1_500_000_000,
            ),
            (
                "sonde.throttle.count cpu.logical_number=0 sonde.scope=package",
                5,
            ),
            (
                "sonde.throttle.count cpu.logical_number=1 sonde.scope=core",
                4,
            ),
            (
                "sonde.cooling.state hw.id=cooling_device0 hw.name=cpufreq-cpu0",
                2,
            ),
            (
                "sonde.cooling.state.max hw.id=cooling_device0 hw.name=cpufreq-cpu0",
                4,
            ),
            ("sonde.throttle.active sonde.reason=under_voltage", 1),
            ("sonde.throttle.active sonde.reason=frequency_capped", 0),
            ("sonde.throttle.active sonde.reason=throttled", 1),
            ("sonde.throttle.seen sonde.reason=under_voltage", 1),
            ("sonde.throttle.seen sonde.reason=soft_temperature_limit", 0),
        ] {
            assert_eq!(out.value(name), Some(Ok(Value::Int(wanted))), "{name}");
        }
        assert_eq!(out.as_slice().len(), 16);
    }

    #[test]
    fn wild_numbers_are_typed() {
        assert_eq!(kilohertz("0"), Err(Missing::Unsupported));
        for wild in ["<unknown>", "-1", "18446744073709551615"] {
            assert_eq!(kilohertz(wild), Err(Missing::Garbage), "{wild}");
        }
        assert_eq!(bit::<0>("0x1ffffffff"), Err(Missing::Garbage));
    }
}
