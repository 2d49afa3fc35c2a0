//! Things that can be read, and what reading them gives: a value or the reason
//! why there is none. Absence is data; it is never 0 or NaN.

use std::borrow::Cow;
use std::sync::Arc;

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
    /// This process.
    Process,
    /// This agent's own workings: ticks, queues, spool, uplinks.
    Agent,
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

impl Family {
    /// All of them.
    pub const ALL: [Family; 9] = [
        Family::Cpu,
        Family::Load,
        Family::Memory,
        Family::Filesystem,
        Family::Disk,
        Family::Network,
        Family::Temperature,
        Family::Process,
        Family::Agent,
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
            Family::Process => "process",
            Family::Agent => "agent",
        }
    }
}

impl Missing {
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
