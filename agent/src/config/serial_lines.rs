//! `[serial.NAME]` to checked [`Settings`]: what no single key can know about a line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::problem::{Problem, Problems};
use super::reader::Settings as Read;
use super::value::Value;
use crate::gauge::naming;
use crate::serial::{Channel, MAX_LINES, Settings};

/// Every enabled line. What is wrong with one goes to `problems`.
pub(super) fn build(read: &Read, problems: &mut Problems) -> BTreeMap<String, Settings> {
    let mut lines = BTreeMap::new();
    for name in read.names("serial") {
        let path = format!("serial.{name}");
        if matches!(
            read.get(&format!("{path}.enabled")),
            Some(Value::Flag(false))
        ) {
            continue;
        }
        if lines.len() == MAX_LINES {
            let what = format!("is one line more than {MAX_LINES}");
            error(read, problems, &path, what, "remove some");
            break;
        }
        let line = line(read, problems, &path, &name);
        let named = !line.device.as_os_str().is_empty();
        let same = |other: &&Settings| named && other.device == line.device;
        if let Some(other) = lines.values().find(same) {
            let what = format!("is the device of serial.{} too", other.name);
            let key = format!("{path}.device");
            error(read, problems, &key, what, "one line reads one device");
        }
        lines.insert(name, line);
    }
    lines
}

fn line(read: &Read, problems: &mut Problems, path: &str, name: &str) -> Settings {
    let key = |key: &str| format!("{path}.{key}");
    let device = match read.get(&key("device")) {
        Some(Value::Path(device)) => device.clone(),
        _ => {
            let fix = "set device, such as \"/dev/ttyUSB0\"";
            error(read, problems, path, "names no device", fix);
            PathBuf::new()
        }
    };
    let mut gauges: Vec<Channel> = Vec::new();
    for gauge in read.names(&key("gauges")) {
        let channel = channel(read, problems, &key(&format!("gauges.{gauge}")), &gauge);
        let place = (channel.source, channel.number);
        // Without a number, which was said, it has no place.
        if read.get(&key(&format!("gauges.{gauge}.number"))).is_none() {
            continue;
        }
        let taken = gauges.iter().find(|g| (g.source, g.number) == place);
        if let Some(other) = taken {
            let what = format!("is the place of {} too", other.name);
            let key = key(&format!("gauges.{gauge}.number"));
            let fix = "give each gauge another number or another source";
            error(read, problems, &key, what, fix);
        }
        gauges.push(channel);
    }
    Settings {
        name: name.to_owned(),
        device,
        baud: u32::try_from(whole(read, &key("baud"))).unwrap_or(115_200),
        max_series: usize::try_from(whole(read, &key("max_series"))).unwrap_or(32),
        stale: match read.get(&key("stale")) {
            Some(Value::Duration(stale)) => *stale,
            _ => std::time::Duration::ZERO,
        },
        gauges,
    }
}

fn channel(read: &Read, problems: &mut Problems, path: &str, name: &str) -> Channel {
    let key = |key: &str| format!("{path}.{key}");
    if let Err(wrong) = naming::check_name(name) {
        let fix = "call the table otherwise, such as [serial.NAME.gauges.water_level]";
        error(read, problems, path, format!("the name {wrong}"), fix);
    }
    let unit = match read.get(&key("unit")) {
        Some(Value::Text(unit)) => unit.clone(),
        _ => String::new(),
    };
    if let Err(wrong) = naming::check_unit(&unit) {
        let fix = "units are written in UCUM: \"Cel\", \"%\", \"V\", \"1\"";
        error(read, problems, &key("unit"), wrong, fix);
    }
    if read.get(&key("number")).is_none() {
        let fix = "set number, 0 to 31, as the sender's program has it";
        error(read, problems, path, "has no number", fix);
    }
    let scale = number(read, &key("scale"));
    if scale == 0.0 {
        let fix = "set how much one step is, such as 0.1";
        error(read, problems, &key("scale"), "makes every reading 0", fix);
    }
    Channel {
        name: name.to_owned(),
        source: u8::try_from(whole(read, &key("source"))).unwrap_or(1),
        number: u8::try_from(whole(read, &key("number"))).unwrap_or(0),
        unit,
        scale,
        offset: number(read, &key("offset")),
    }
}

fn whole(read: &Read, path: &str) -> u64 {
    match read.get(path) {
        Some(Value::Whole(number)) => *number,
        _ => 0,
    }
}

fn number(read: &Read, path: &str) -> f64 {
    match read.get(path) {
        Some(Value::Json(json)) => json.as_f64().unwrap_or_default(),
        _ => 0.0,
    }
}

fn error(
    read: &Read,
    problems: &mut Problems,
    key: &str,
    what: impl Into<String>,
    fix: impl Into<String>,
) {
    problems.push(Problem::error(read.origin(key), key, what, fix));
}
