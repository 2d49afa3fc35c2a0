//! Network interfaces from `/proc/net/dev` (proc(5)):
//!
//! ```text
//!   eth0: rx_bytes packets errs drop fifo frame compressed multicast tx_bytes packets errs drop …
//! ```
//!
//! Loopback and the ends of containers' cables (`veth…`) are left out: they
//! repeat what others carry and come and go by the hundred.

use std::path::Path;

use super::file::KernelFile;
use super::readings::{found, text};
use super::table::{NETWORK_DROPPED, NETWORK_ERRORS, NETWORK_IO, NETWORK_PACKETS};
use super::{Descriptor, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// No gateway has more; the rest is left out with a warning.
const MAX_INTERFACES: usize = 64;
/// What one interface has.
const GAUGES: usize = 8;
const LEFT_OUT: [&str; 5] = ["veth", "ifb", "dummy", "cali", "lxc"];

/// Whether nobody wants to hear of an interface of this name.
pub(super) fn left_out(name: &str) -> bool {
    name == "lo" || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads `/proc/net/dev`.
#[derive(Debug)]
pub struct Network {
    file: KernelFile,
    interfaces: Vec<Known>,
    full: bool,
}

#[derive(Debug)]
struct Known {
    name: String,
    ids: [Option<SeriesId>; GAUGES],
    seen: bool,
}

impl Network {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/net/dev")),
            interfaces: Vec::new(),
            full: false,
        }
    }
}

impl Source for Network {
    fn family(&self) -> Family {
        Family::Network
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let table = self.file.read()?;
        if !table.starts_with("Inter-") {
            return Err(Missing::Garbage);
        }
        for interface in &mut self.interfaces {
            interface.seen = false;
        }
        let mut beyond = 0;
        for line in table.lines().skip(2) {
            let Some((name, rest)) = line.rsplit_once(": ").or_else(|| line.rsplit_once(':'))
            else {
                continue;
            };
            let name = name.trim_start();
            if left_out(name) {
                continue;
            }
            let at = match self.interfaces.iter().position(|known| known.name == name) {
                Some(at) => at,
                None if self.interfaces.len() < MAX_INTERFACES => {
                    let ids = series(name, out);
                    self.interfaces.push(Known {
                        name: name.to_owned(),
                        ids,
                        seen: true,
                    });
                    self.interfaces.len() - 1
                }
                None => {
                    beyond += 1;
                    if !self.full {
                        self.full = true;
                        log::warn!(
                            "more than {MAX_INTERFACES} network interfaces: {name} and later ones are not reported"
                        );
                    }
                    continue;
                }
            };
            let Some(interface) = self.interfaces.get_mut(at) else {
                continue;
            };
            interface.seen = true;
            for (id, value) in interface.ids.into_iter().zip(parse(rest)) {
                out.put(id, value);
            }
        }
        self.interfaces.retain(|interface| {
            if !interface.seen {
                for id in interface.ids {
                    out.put(id, Err(Missing::Gone));
                }
            }
            interface.seen
        });
        let known = self.interfaces.iter().flat_map(|known| known.ids);
        let refused = known.filter(Option::is_none).count();
        out.leave_out(Family::Network, beyond * GAUGES + refused);
        Ok(())
    }
}

/// Receive and transmit of: bytes, packets, errors, drops.
fn series(name: &str, out: &Readings) -> [Option<SeriesId>; GAUGES] {
    let both = |gauge: &'static Descriptor| {
        ["receive", "transmit"].map(|direction| {
            out.series(
                gauge,
                &[
                    ("network.interface.name", found(name)),
                    ("network.io.direction", text(direction)),
                ],
            )
        })
    };
    // The convention names the interface `system.device` for this one gauge.
    let packets = ["receive", "transmit"].map(|direction| {
        out.series(
            &NETWORK_PACKETS,
            &[
                ("network.io.direction", text(direction)),
                ("system.device", found(name)),
            ],
        )
    });
    let [io_in, io_out] = both(&NETWORK_IO);
    let [packets_in, packets_out] = packets;
    let [errors_in, errors_out] = both(&NETWORK_ERRORS);
    let [dropped_in, dropped_out] = both(&NETWORK_DROPPED);
    [
        io_in,
        io_out,
        packets_in,
        packets_out,
        errors_in,
        errors_out,
        dropped_in,
        dropped_out,
    ]
}

fn parse(fields: &str) -> [Result<Value, Missing>; 8] {
    let mut raw = [Err(Missing::Garbage); 12];
    for (slot, field) in raw.iter_mut().zip(fields.split_ascii_whitespace()) {
        *slot = field
            .parse::<u64>()
            .map_err(|_| Missing::Garbage)
            .and_then(Value::whole);
    }
    let [
        bytes_in,
        packets_in,
        errors_in,
        dropped_in,
        _,
        _,
        _,
        _,
        bytes_out,
        packets_out,
        errors_out,
        dropped_out,
    ] = raw;
    [
        bytes_in,
        bytes_out,
        packets_in,
        packets_out,
        errors_in,
        errors_out,
        dropped_in,
        dropped_out,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    fn setup(table: &str) -> (tempfile::TempDir, Network, Readings) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/net")).unwrap();
        std::fs::write(dir.path().join("proc/net/dev"), table).unwrap();
        let source = Network::new(dir.path());
        (dir, source, Readings::new(Registry::default()))
    }

    #[test]
    fn interfaces_are_read_in_both_directions() {
        let table = format!(
            "{HEAD}    lo: 1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n  eth0:82951490 4885 1 2 0 0 0 0 421790 3169 3 4 0 0 0 0\nveth12: 1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n"
        );
        let (_dir, mut source, mut out) = setup(&table);
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.as_slice().len(), 8);
        let value =
            out.value("system.network.io network.interface.name=eth0 network.io.direction=receive");
        assert_eq!(value, Some(Ok(Value::Int(82_951_490))));
        let value = out.value("system.network.packet.dropped network.interface.name=eth0 network.io.direction=transmit");
        assert_eq!(value, Some(Ok(Value::Int(4))));
    }

    #[test]
    fn a_vanished_interface_is_gone_and_keeps_its_series_when_it_returns() {
        let table = format!("{HEAD}wwan0: 1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n");
        let (dir, mut source, mut out) = setup(&table);
        source.read(Stamp::default(), &mut out).unwrap();
        let first = out.as_slice().to_vec();
        for (content, gone) in [(HEAD, true), (table.as_str(), false)] {
            std::fs::write(dir.path().join("proc/net/dev"), content).unwrap();
            out.clear();
            source.read(Stamp::default(), &mut out).unwrap();
            assert_eq!(out.as_slice().len(), 8);
            assert!(out.as_slice().iter().zip(&first).all(|(a, b)| a.0 == b.0));
            assert_eq!(
                out.as_slice()
                    .iter()
                    .all(|(_, value)| *value == Err(Missing::Gone)),
                gone
            );
        }
    }

    #[test]
    fn interfaces_are_bounded_and_garbage_is_typed() {
        let mut table = HEAD.to_owned();
        for n in 0..100 {
            table.push_str(&format!("eth{n}: 1 1 x\n"));
        }
        let (_dir, mut source, mut out) = setup(&table);
        source.read(Stamp::default(), &mut out).unwrap();
        assert_eq!(out.as_slice().len(), MAX_INTERFACES * GAUGES);
        assert_eq!(out.left_out(Family::Network), 36 * GAUGES);
        let value = out.value(
            "system.network.errors network.interface.name=eth0 network.io.direction=receive",
        );
        assert_eq!(value, Some(Err(Missing::Garbage)));
        assert_eq!(
            setup("junk").1.read(Stamp::default(), &mut out),
            Err(Missing::Garbage)
        );
    }
}
