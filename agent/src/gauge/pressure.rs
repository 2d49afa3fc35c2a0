//! Pressure stall information (kernel documentation, accounting/psi): for how
//! long work that could run waited for a CPU, for memory, for a disk.
//!
//! ```text
//! some avg10=0.22 avg60=0.17 avg300=1.11 total=58761459
//! full avg10=0.22 avg60=0.16 avg300=1.08 total=58217457      microseconds
//! ```
//!
//! For the CPU of a whole machine `full` is not defined and stays 0, so it is
//! not reported. Kernels without it, or with `psi=0`, have none of this.

use std::path::Path;

use super::cpu::SHARE_GRAIN;
use super::file::KernelFile;
use super::readings::text;
use super::table::{PRESSURE_SHARE, PRESSURE_TIME};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

const RESOURCES: [&str; 4] = ["cpu", "memory", "io", "irq"];
const STALLS: [&str; 2] = ["some", "full"];
/// Finer than a millisecond.
const SECOND_GRAIN: f64 = 1024.0;

/// Time and share.
type Pair<T> = [T; 2];

/// Reads `/proc/pressure`.
#[derive(Debug)]
pub struct Pressure {
    files: [KernelFile; RESOURCES.len()],
    ids: [[Option<Pair<Option<SeriesId>>>; STALLS.len()]; RESOURCES.len()],
}

impl Pressure {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        let folder = root.join("proc/pressure");
        Self {
            files: RESOURCES.map(|name| KernelFile::new(folder.join(name))),
            ids: Default::default(),
        }
    }
}

impl Source for Pressure {
    fn family(&self) -> Family {
        Family::Pressure
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let mut done = Err(Missing::Unsupported);
        let all = RESOURCES
            .into_iter()
            .zip(&mut self.files)
            .zip(&mut self.ids);
        for ((resource, file), ids) in all {
            // Two lines of some eighty bytes: one read each.
            let found = match file.head(512) {
                Ok(text) => parse(text),
                Err(Missing::Unsupported) => continue,
                Err(missing) => [Some([Err(missing); 2]), None],
            };
            done = Ok(());
            for ((stall, values), ids) in STALLS.into_iter().zip(found).zip(ids) {
                if resource == "cpu" && stall == "full" {
                    continue;
                }
                let Some(values) = values else { continue };
                let ids = *ids.get_or_insert_with(|| {
                    let key = [
                        ("sonde.resource", text(resource)),
                        ("sonde.stall", text(stall)),
                    ];
                    [&PRESSURE_TIME, &PRESSURE_SHARE].map(|gauge| out.series(gauge, &key))
                });
                for (id, value) in ids.into_iter().zip(values) {
                    out.put(id, value);
                }
            }
        }
        done
    }
}

/// Of each of [`STALLS`] that has a line; a text without any is garbage of the first.
fn parse(text: &str) -> [Option<Pair<Result<Value, Missing>>>; STALLS.len()] {
    let mut all = STALLS.map(|stall| {
        let line = text.lines().find_map(|line| line.strip_prefix(stall))?;
        let field = |key: &str| {
            let fields = line.split_ascii_whitespace();
            let mut values = fields.filter_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            values.next().ok_or(Missing::Garbage)
        };
        let total = field("total").and_then(|text| {
            let us: u64 = text.parse().map_err(|_| Missing::Garbage)?;
            Value::grained(us as f64 / 1e6, SECOND_GRAIN)
        });
        let share = field("avg10").and_then(|text| {
            let percent: f64 = text.parse().map_err(|_| Missing::Garbage)?;
            match (0.0..=100.0).contains(&percent) {
                true => Value::grained(percent / 100.0, SHARE_GRAIN),
                false => Err(Missing::Garbage),
            }
        });
        Some([total, share])
    });
    if let [first @ None, None] = &mut all {
        *first = Some([Err(Missing::Garbage); 2]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::super::probe::testing::{Tree, read, read_into};
    use super::*;

    #[test]
    fn time_and_share_are_read_by_resource() {
        let tree = Tree::new(&[
            (
                "proc/pressure/cpu",
                "some avg10=50.00 avg60=49.42 avg300=18.74 total=8222959844\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            (
                "proc/pressure/memory",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=1500000\n",
            ),
            ("proc/pressure/io", "some avg10=101.00 total=-1\n"),
        ]);
        let out = read(&mut Pressure::new(tree.0.path()), 1);
        let of = |what: &str| out.value(&format!("sonde.pressure.{what}"));
        assert_eq!(
            of("share sonde.resource=cpu sonde.stall=some"),
            Some(Ok(Value::Float(0.5)))
        );
        assert_eq!(
            of("time sonde.resource=memory sonde.stall=full"),
            Some(Ok(Value::Float(1.5)))
        );
        assert_eq!(
            of("share sonde.resource=memory sonde.stall=full"),
            Some(Ok(Value::Float(0.125)))
        );
        for what in ["time", "share"] {
            let io = of(&format!("{what} sonde.resource=io sonde.stall=some"));
            assert_eq!(io, Some(Err(Missing::Garbage)), "{what}");
        }
        assert_eq!(out.as_slice().len(), 8);
    }

    #[test]
    fn a_kernel_without_it_is_unsupported_and_an_empty_file_is_garbage() {
        let tree = Tree::new(&[]);
        let mut source = Pressure::new(tree.0.path());
        let mut out = Readings::new(Registry::default());
        assert_eq!(
            read_into(&mut source, 1, &mut out),
            Err(Missing::Unsupported)
        );
        tree.write("proc/pressure/io", "");
        assert_eq!(read_into(&mut source, 2, &mut out), Ok(()));
        assert_eq!(
            out.value("sonde.pressure.time sonde.resource=io sonde.stall=some"),
            Some(Err(Missing::Garbage))
        );
    }
}
