//! Hardware watchdogs (kernel documentation, ABI/testing/sysfs-class-watchdog):
//! whether somebody keeps them, and what they say of the last reset. The files
//! are there if the kernel was built with `CONFIG_WATCHDOG_SYSFS`.

use std::path::Path;

use super::file::small;
use super::probe::{Found, Parse, count, entries};
use super::readings::found;
use super::table::{WATCHDOG_ACTIVE, WATCHDOG_BOOT, WATCHDOG_LEFT, WATCHDOG_TIMEOUT};
use super::{Descriptor, Missing, Value};

/// The watchdog family.
pub fn look(root: &Path, out: &mut Found) {
    const FILES: [(&str, &Descriptor, Parse); 4] = [
        ("state", &WATCHDOG_ACTIVE, active),
        ("timeleft", &WATCHDOG_LEFT, count),
        ("timeout", &WATCHDOG_TIMEOUT, count),
        ("bootstatus", &WATCHDOG_BOOT, count),
    ];
    let folder = root.join("sys/class/watchdog");
    for name in entries(&folder, "watchdog") {
        let device = folder.join(&name);
        let identity = small(&device.join("identity")).unwrap_or_else(|| name.clone());
        let ids = [("hw.id", found(&name)), ("hw.name", found(&identity))];
        for (file, gauge, parse) in FILES {
            if device.join(file).exists() {
                out.add(&device, file, gauge, &ids, parse);
            }
        }
    }
}

fn active(text: &str) -> Result<Value, Missing> {
    match text {
        "active" => Ok(Value::Int(1)),
        "inactive" => Ok(Value::Int(0)),
        _ => Err(Missing::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::super::probe::testing::{Tree, read};
    use super::*;

    #[test]
    fn a_watchdog_tells_who_keeps_it_and_why_it_bit() {
        let tree = Tree::new(&[
            (
                "sys/class/watchdog/watchdog0/identity",
                "Broadcom BCM2835 Watchdog timer\n",
            ),
            ("sys/class/watchdog/watchdog0/state", "active\n"),
            ("sys/class/watchdog/watchdog0/timeout", "15\n"),
            ("sys/class/watchdog/watchdog0/timeleft", "12\n"),
            ("sys/class/watchdog/watchdog0/bootstatus", "32\n"),
            ("sys/class/watchdog/watchdog1/state", "asleep\n"),
        ]);
        let out = read(&mut tree.probe(Family::Watchdog, look), 1);
        for (gauge, wanted) in [
            ("active", 1),
            ("timeout", 15),
            ("time_left", 12),
            ("boot_status", 32),
        ] {
            let name = format!(
                "sonde.watchdog.{gauge} hw.id=watchdog0 hw.name=Broadcom BCM2835 Watchdog timer"
            );
            assert_eq!(out.value(&name), Some(Ok(Value::Int(wanted))), "{gauge}");
        }
        let odd = "sonde.watchdog.active hw.id=watchdog1 hw.name=watchdog1";
        assert_eq!(out.value(odd), Some(Err(Missing::Garbage)));
        assert_eq!(out.as_slice().len(), 5);
    }
}
