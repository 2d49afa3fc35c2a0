//! Network links (kernel documentation, ABI/testing/sysfs-class-net) and the
//! Wi-Fi signal.
//!
//! ```text
//! /sys/class/net/eth0/{operstate,speed,carrier_changes}        up, Mbit/s, count
//! /proc/net/wireless
//!   wlan0: 0000   54.  -56.  -256        0      0      0      3      0        0
//!          status link level noise   discarded packets…
//! ```
//!
//! Kernels without the wireless extensions have no such file, and no modem
//! driver of the kernel's tells a cellular signal in sysfs: for these a
//! configured command asks the modem.

use std::path::Path;

use super::file::KernelFile;
use super::network::left_out;
use super::probe::{Found, count, entries};
use super::readings::found;
use super::table::{CARRIER_CHANGES, LINK_SPEED, LINK_UP, WIFI_NOISE, WIFI_QUALITY, WIFI_SIGNAL};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// More than any gateway has.
const MAX_RADIOS: usize = 16;
/// What one has.
const GAUGES: usize = 3;

/// The link family but for the radio.
pub fn look(root: &Path, out: &mut Found) {
    let folder = root.join("sys/class/net");
    for name in entries(&folder, "").iter().filter(|name| !left_out(name)) {
        let device = folder.join(name);
        // `bonding_masters` is a file.
        if !device.is_dir() {
            continue;
        }
        let id = [("hw.id", found(name))];
        out.add(&device, "operstate", &LINK_UP, &id, up);
        out.add(&device, "speed", &LINK_SPEED, &id, speed);
        let interface = [("network.interface.name", found(name))];
        let changes = "carrier_changes";
        out.add(&device, changes, &CARRIER_CHANGES, &interface, count);
    }
}

/// RFC 2863's states; `unknown` is what drivers say that do not watch a cable.
fn up(text: &str) -> Result<Value, Missing> {
    match text {
        "up" | "unknown" => Ok(Value::Int(1)),
        "down" | "dormant" | "lowerlayerdown" | "testing" | "notpresent" => Ok(Value::Int(0)),
        _ => Err(Missing::Garbage),
    }
}

/// Mbit/s; -1, or `u32::MAX` from old drivers: unknown.
fn speed(text: &str) -> Result<Value, Missing> {
    let megabits: i64 = text.parse().map_err(|_| Missing::Garbage)?;
    if megabits < 0 || megabits >= i64::from(u32::MAX) {
        return Err(Missing::Unsupported);
    }
    Ok(Value::Int(megabits * 125_000))
}

/// Reads `/proc/net/wireless`.
#[derive(Debug)]
pub struct Wireless {
    file: KernelFile,
    radios: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    name: String,
    ids: [Option<SeriesId>; GAUGES],
    seen: bool,
}

impl Wireless {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/net/wireless")),
            radios: Vec::new(),
        }
    }
}

impl Source for Wireless {
    fn family(&self) -> Family {
        Family::Link
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let table = self.file.read()?;
        for radio in &mut self.radios {
            radio.seen = false;
        }
        let mut beyond = 0;
        for line in table.lines().skip(2) {
            let Some((name, fields)) = line.split_once(':') else {
                continue;
            };
            let name = name.trim_start();
            let at = match self.radios.iter().position(|radio| radio.name == name) {
                Some(at) => at,
                None if self.radios.len() < MAX_RADIOS => {
                    let ids = [&WIFI_QUALITY, &WIFI_SIGNAL, &WIFI_NOISE]
                        .map(|gauge| out.series(gauge, &[("network.interface.name", found(name))]));
                    self.radios.push(Known {
                        name: name.to_owned(),
                        ids,
                        seen: true,
                    });
                    self.radios.len() - 1
                }
                None => {
                    beyond += 1;
                    continue;
                }
            };
            let Some(radio) = self.radios.get_mut(at) else {
                continue;
            };
            radio.seen = true;
            for (id, value) in radio.ids.into_iter().zip(parse(fields)) {
                out.put(id, value);
            }
        }
        self.radios.retain(|radio| {
            if !radio.seen {
                for id in radio.ids {
                    out.put(id, Err(Missing::Gone));
                }
            }
            radio.seen
        });
        let refused = self.radios.iter().flat_map(|radio| radio.ids);
        let refused = refused.filter(Option::is_none).count();
        let registry = out.registry();
        registry.leave_out_beside(Family::Link, beyond * GAUGES + refused);
        Ok(())
    }
}

/// Quality, level, noise. A dot behind a number says that it is fresh.
fn parse(fields: &str) -> [Result<Value, Missing>; 3] {
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let mut next = || {
        let field = fields.next().ok_or(Missing::Garbage)?;
        let number = field.trim_end_matches('.');
        number.parse::<i64>().map_err(|_| Missing::Garbage)
    };
    let decibels = |level: Result<i64, Missing>| match level? {
        dbm @ -255..=0 => Ok(Value::Int(dbm)),
        // -256 is unknown; above 0 it is a share of a scale of the driver's own.
        _ => Err(Missing::Unsupported),
    };
    let (quality, level, noise) = (next(), next(), next());
    [quality.map(Value::Int), decibels(level), decibels(noise)]
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::super::probe::testing::{Tree, read, read_into};
    use super::*;

    #[test]
    fn links_have_a_state_and_a_speed_only_while_they_are_up() {
        let tree = Tree::new(&[
            ("sys/class/net/lo/operstate", "unknown\n"),
            ("sys/class/net/veth1/operstate", "up\n"),
            ("sys/class/net/bonding_masters", "bond0\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/speed", "1000\n"),
            ("sys/class/net/eth0/carrier_changes", "7\n"),
            ("sys/class/net/eth1/operstate", "down\n"),
            ("sys/class/net/eth1/speed", "-1\n"),
            ("sys/class/net/eth1/carrier_changes", "0\n"),
        ]);
        let out = read(&mut tree.probe(Family::Link, look), 1);
        let changes = "sonde.network.carrier.changes network.interface.name=eth0";
        for (name, wanted) in [
            ("hw.network.up hw.id=eth0", Ok(Value::Int(1))),
            ("hw.network.up hw.id=eth1", Ok(Value::Int(0))),
            (
                "hw.network.bandwidth.limit hw.id=eth0",
                Ok(Value::Int(125_000_000)),
            ),
            (
                "hw.network.bandwidth.limit hw.id=eth1",
                Err(Missing::Unsupported),
            ),
            (changes, Ok(Value::Int(7))),
        ] {
            assert_eq!(out.value(name), Some(wanted), "{name}");
        }
        assert_eq!(out.as_slice().len(), 6);
    }

    const HEAD: &str = "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n";

    #[test]
    fn the_radio_tells_its_signal_and_is_gone_when_it_is_unplugged() {
        let line = " wlan0: 0000   54.  -56.  -256        0      0      0      3      0        0\n";
        let tree = Tree::new(&[("proc/net/wireless", &format!("{HEAD}{line}"))]);
        let mut source = Wireless::new(tree.0.path());
        let mut out = Readings::new(Registry::default());
        read_into(&mut source, 1, &mut out).unwrap();
        let of = |out: &Readings, what: &str| {
            out.value(&format!("sonde.wifi.{what} network.interface.name=wlan0"))
        };
        assert_eq!(of(&out, "quality"), Some(Ok(Value::Int(54))));
        assert_eq!(of(&out, "signal"), Some(Ok(Value::Int(-56))));
        assert_eq!(of(&out, "noise"), Some(Err(Missing::Unsupported)));
        tree.write("proc/net/wireless", HEAD);
        read_into(&mut source, 2, &mut out).unwrap();
        assert_eq!(of(&out, "signal"), Some(Err(Missing::Gone)));
    }

    #[test]
    fn radios_beyond_the_limit_are_counted_beside_the_links_that_are() {
        let line = |n| format!("  wlan{n}: 0000   54.  -56.  -90.  0 0 0 3 0 0\n");
        let lines: String = (0..MAX_RADIOS + 2).map(line).collect();
        let tree = Tree::new(&[("proc/net/wireless", &format!("{HEAD}{lines}"))]);
        let mut source = Wireless::new(tree.0.path());
        let mut out = Readings::new(Registry::default());
        out.leave_out(Family::Link, 5);
        read_into(&mut source, 1, &mut out).unwrap();
        assert_eq!(out.left_out(Family::Link), 5 + 2 * GAUGES);
        tree.write("proc/net/wireless", HEAD);
        read_into(&mut source, 2, &mut out).unwrap();
        assert_eq!(out.left_out(Family::Link), 5);
    }

    #[test]
    fn a_cut_line_is_garbage() {
        assert_eq!(
            parse(" 0000 54."),
            [
                Ok(Value::Int(54)),
                Err(Missing::Garbage),
                Err(Missing::Garbage)
            ]
        );
        assert_eq!(up("upp"), Err(Missing::Garbage));
        assert_eq!(speed("4294967295"), Err(Missing::Unsupported));
        assert_eq!(speed("fast"), Err(Missing::Garbage));
    }
}
