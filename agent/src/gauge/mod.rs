//! Things that can be read, and what reading them gives: a value or the reason
//! why there is none. Absence is data; it is never 0 or NaN.

//!
//! One file per family implements [`Source`] and reads into a [`Readings`].
//! Sources that read one small file per number are a [`probe::Look`] only.
//! `sysinfo` tells the host's name and kernel (see [`crate::identity`]); the
//! families are read by own small parsers, because `sysinfo` has no CPU time by
//! mode, no dropped packets, no superblock options, no fans, merges sensors of
//! the same label, opens every file anew at each refresh, and cannot be pointed
//! at a test's own `/proc`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::frame::Stamp;

pub mod agent;
pub mod boot;
pub mod clock;
pub mod cpu;
pub mod custom;
pub mod disk;
pub mod file;
pub mod filesystem;
pub mod flash;
pub mod helper;
pub mod hwmon;
pub mod kernel;
pub mod link;
pub mod load;
pub mod measured;
pub mod memory;
pub mod naming;
pub mod network;
pub mod pressure;
pub mod probe;
pub mod process;
pub mod processes;
pub mod reader;
pub mod readings;
pub mod runtime;
pub mod sensor;
pub mod serial;
pub mod table;
pub mod throttling;
pub mod watchdog;

pub use measured::measured;
pub use readings::{Reading, Readings, Registry};

/// A group of gauges that is read together, at one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// CPU time by mode, utilization.
    Cpu,
    /// Load averages, number of processes, uptime.
    Load,
    /// Memory and swap.
    Memory,
    /// Mounted file systems.
    Filesystem,
    /// Block devices.
    Disk,
    /// Network interfaces.
    Network,
    /// Thermal zones and hwmon.
    Temperature,
    /// Fans, voltages, currents, power and alarms of hwmon chips.
    Hardware,
    /// Clock frequency, cooling devices and what holds the CPU back.
    Throttling,
    /// Pressure stall information.
    Pressure,
    /// Out-of-memory kills, page faults, entropy.
    Kernel,
    /// Wear of eMMC, UFS and raw NAND.
    Flash,
    /// State and speed of network links, Wi-Fi signal.
    Link,
    /// Hardware watchdogs.
    Watchdog,
    /// Synchronisation of the wall clock, the battery clock.
    Clock,
    /// This process, and those that `[process.NAME]` names.
    Process,
    /// What the config describes: files, commands, pushes.
    Custom,
    /// Sensors on the gateway's own buses.
    Sensor,
    /// Serial lines from microcontrollers.
    Serial,
    /// This agent's own workings: ticks, queues, spool, uplinks.
    Agent,
    /// The same in detail: event loop, tasks, syncs, round trips.
    Runtime,
    /// Boots, restarts of the agent, suspends.
    Boot,
}

/// What a gauge is, apart from which series of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// OpenTelemetry name where there is one, else `sonde.*`.
    pub name: Cow<'static, str>,
    /// UCUM unit.
    pub unit: Cow<'static, str>,
    /// One sentence.
    pub description: Cow<'static, str>,
    /// How values relate over time.
    pub kind: Kind,
    /// Which family reads it.
    pub family: Family,
}

/// How values relate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A last value (OTLP gauge).
    Gauge,
    /// A cumulative, monotonic sum.
    Counter,
    /// A cumulative sum that may fall.
    UpDownCounter,
}

/// A value of a reading. Whole where the unit is whole, else rounded to what its sensor resolves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Whole.
    Int(i64),
    /// Finite; the recorder turns anything else into [`Missing::Garbage`].
    Float(f64),
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Int(i64),
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// This machine has no such thing.
    Unsupported,
    /// The kernel did not let us.
    Denied,
    /// It was there and is not any more.
    Gone,
    /// It did not answer in time.
    Timeout,
    /// It answered, but not with a number that can be true.
    Garbage,
    /// Needs two readings; this is the first.
    First,
}

/// A series' number, stable for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u32);

/// One gauge with one set of attributes.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its number.
    pub id: SeriesId,
    /// What it is.
    pub gauge: Arc<Descriptor>,
    /// Which one of it, sorted by key.
    pub attributes: Vec<(Cow<'static, str>, Attribute)>,
}

/// Reads one family. Owned by one thread; keeps its files open.
pub trait Source: Send {
    /// Which one.
    fn family(&self) -> Family;

    /// Reads every series of the family into `out`.
    ///
    /// One series that has no value is put as [`Missing`]; an `Err` says that
    /// the family as a whole could not be read.
    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing>;
}

/// Everything that is read on the gauge-reader thread, below `root` (`/` but
/// in tests). [`Family::Agent`] and most of [`Family::Runtime`] are not among
/// them: they never block, so the pipeline reads them itself, and the tick
/// number does not depend on a disk.
pub fn host_sources(root: &Path, clock: &crate::clock::Clock) -> Vec<Box<dyn Source>> {
    let shared = probe::shared();
    let probe = |family, look, limit, keep| {
        Box::new(probe::Probe::new(
            family,
            root,
            look,
            limit,
            keep,
            shared.clone(),
        ))
    };
    vec![
        Box::new(cpu::Cpu::new(root)),
        Box::new(load::Load::new(root)),
        Box::new(memory::Memory::new(root)),
        Box::new(filesystem::Filesystem::new(root)),
        Box::new(disk::Disk::new(root)),
        Box::new(network::Network::new(root)),
        Box::new(pressure::Pressure::new(root)),
        Box::new(kernel::Kernel::new(root)),
        Box::new(clock::TimeSync::new(root, clock.clone())),
        Box::new(process::Process::new(root)),
        Box::new(runtime::Own::new(root)),
        Box::new(link::Wireless::new(root)),
        // What may hang comes last.
        probe(Family::Throttling, throttling::look, 128, true),
        probe(Family::Watchdog, watchdog::look, 32, false),
        probe(Family::Link, link::look, 192, false),
        probe(Family::Flash, flash::look, 128, false),
        probe(Family::Temperature, hwmon::temperatures, 64, true),
        probe(Family::Hardware, hwmon::hardware, 256, true),
    ]
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 22] = [
        Family::Cpu,
        Family::Load,
        Family::Memory,
        Family::Filesystem,
        Family::Disk,
        Family::Network,
        Family::Temperature,
        Family::Hardware,
        Family::Throttling,
        Family::Pressure,
        Family::Kernel,
        Family::Flash,
        Family::Link,
        Family::Watchdog,
        Family::Clock,
        Family::Process,
        Family::Custom,
        Family::Sensor,
        Family::Serial,
        Family::Agent,
        Family::Runtime,
        Family::Boot,
    ];

    /// As in `[gauges.NAME]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Cpu => "cpu",
            Family::Load => "load",
            Family::Memory => "memory",
            Family::Filesystem => "filesystem",
            Family::Disk => "disk",
            Family::Network => "network",
            Family::Temperature => "temperature",
            Family::Hardware => "hardware",
            Family::Throttling => "throttling",
            Family::Pressure => "pressure",
            Family::Kernel => "kernel",
            Family::Flash => "flash",
            Family::Link => "link",
            Family::Watchdog => "watchdog",
            Family::Clock => "clock",
            Family::Process => "process",
            Family::Custom => "custom",
            Family::Sensor => "sensor",
            Family::Serial => "serial",
            Family::Agent => "agent",
            Family::Runtime => "runtime",
            Family::Boot => "boot",
        }
    }
}

impl Family {
    /// The shortest interval that it has by default, whatever `gauges.interval` says.
    pub fn rhythm(self) -> Option<Duration> {
        let seconds = match self {
            Family::Flash => 300,
            Family::Kernel
            | Family::Link
            | Family::Watchdog
            | Family::Clock
            | Family::Runtime
            | Family::Boot => 60,
            Family::Hardware => 30,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }
}

impl Descriptor {
    /// What the config describes; [`naming`] says what name and unit may be.
    pub fn owned(
        name: String,
        unit: String,
        description: String,
        kind: Kind,
        family: Family,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: Cow::Owned(name),
            unit: Cow::Owned(unit),
            description: Cow::Owned(description),
            kind,
            family,
        })
    }
}

impl Value {
    /// A finite float, or the reason why there is none.
    pub fn float(value: f64) -> Result<Self, Missing> {
        if value.is_finite() {
            Ok(Value::Float(value))
        } else {
            Err(Missing::Garbage)
        }
    }

    /// A float rounded to a multiple of `1 / grain`.
    ///
    /// A power of two leaves most of the mantissa zero, which is what makes a
    /// float cheap on the wire. Choose one that is finer than the sensor, so
    /// that rounding back to the sensor's own steps gives its exact reading.
    pub fn grained(value: f64, grain: f64) -> Result<Self, Missing> {
        Self::float((value * grain).round() / grain)
    }

    /// A whole number; the kernel's unsigned counters beyond `i64` are [`Missing::Garbage`].
    pub fn whole(value: u64) -> Result<Self, Missing> {
        i64::try_from(value)
            .map(Value::Int)
            .map_err(|_| Missing::Garbage)
    }

    /// As a float, for people.
    pub fn as_f64(self) -> f64 {
        match self {
            Value::Int(value) => value as f64,
            Value::Float(value) => value,
        }
    }
}

impl Kind {
    /// As in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::UpDownCounter => "updowncounter",
        }
    }
}

impl Missing {
    /// Why a file could not be read.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Missing::Unsupported,
            ErrorKind::PermissionDenied => Missing::Denied,
            // A sensor that is not ready says "try again".
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Missing::Timeout,
            // The speed of a link that is down, a zone that is switched off.
            ErrorKind::InvalidInput | ErrorKind::Unsupported => Missing::Unsupported,
            _ if error.raw_os_error() == Some(rustix::io::Errno::NODATA.raw_os_error()) => {
                Missing::Unsupported
            }
            ErrorKind::InvalidData => Missing::Garbage,
            _ => Missing::Gone,
        }
    }

    /// One word, as in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Missing::Unsupported => "unsupported",
            Missing::Denied => "denied",
            Missing::Gone => "gone",
            Missing::Timeout => "timeout",
            Missing::Garbage => "garbage",
            Missing::First => "first",
        }
    }
}
