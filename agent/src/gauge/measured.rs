//! What a sensor's reading is called.
//!
//! OpenTelemetry has names for a few physical quantities (`hw.*`, semantic
//! conventions 1.44, hardware); the unit decides. All else is
//! `sonde.sensor.NAME`, with the name that the sensor gives itself.

use std::sync::Arc;

use sonde_firmware_hal::Missing as Absent;

use super::{Descriptor, Family, Kind, Missing};

/// The gauge of a reading called `name` in `unit` (UCUM).
pub fn measured(name: &str, unit: &str, family: Family) -> Arc<Descriptor> {
    let (gauge, what) = match unit {
        "Cel" => ("hw.temperature", "Temperature as the sensor gives it."),
        "V" => ("hw.voltage", "Voltage as the sensor gives it."),
        "W" => ("hw.power", "Power as the sensor gives it."),
        _ => ("", "As the sensor gives it."),
    };
    let gauge = match gauge {
        "" => format!("sonde.sensor.{name}"),
        gauge => gauge.to_owned(),
    };
    Descriptor::owned(gauge, unit.to_owned(), what.to_owned(), Kind::Gauge, family)
}

/// A sensor's reason for giving nothing, in the agent's words.
pub fn absence(absent: Absent) -> Missing {
    match absent {
        Absent::NotReady => Missing::Timeout,
        Absent::Garbage => Missing::Garbage,
        Absent::Gone
        | Absent::Refused
        | Absent::Arbitration
        | Absent::Overrun
        | Absent::Bus
        | Absent::Other => Missing::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conventions_name_is_used_where_there_is_one() {
        let name = |name, unit| measured(name, unit, Family::Serial).name.to_string();
        assert_eq!(name("board.temperature", "Cel"), "hw.temperature");
        assert_eq!(name("voltage.0", "V"), "hw.voltage");
        assert_eq!(name("power", "W"), "hw.power");
        assert_eq!(name("humidity", "%"), "sonde.sensor.humidity");
    }
}
