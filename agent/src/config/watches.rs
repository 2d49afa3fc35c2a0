//! `[process.NAME]` to checked [`Watches`]: what no single key can know about
//! a process that is watched.

use super::problem::{Origin, Problem, Problems};
use super::reader::Settings;
use super::value::Value;
use crate::gauge::processes::{By, MAX_WATCHED, Watches};

/// `TASK_COMM_LEN` without its NUL: what the kernel keeps of a name.
const MAX_NAME: usize = 15;

/// Every enabled one. What is wrong with one goes to `problems`.
pub(super) fn build(settings: &Settings, problems: &mut Problems) -> Watches {
    let mut watches = Watches::new();
    for name in settings.names("process") {
        let path = format!("process.{name}");
        let get = |key: &str| settings.get(&format!("{path}.{key}"));
        let hidden = problems.may_hide(&path, &["name", "executable", "pid_file", "unit"]);
        let mut error = |key: &str, what: String, fix: &str| {
            let key = match key {
                "" => path.clone(),
                key => format!("{path}.{key}"),
            };
            problems.push(Problem::error(settings.origin(&key), &key, what, fix));
        };
        if matches!(get("enabled"), Some(Value::Flag(false))) {
            continue;
        }
        if watches.len() == MAX_WATCHED {
            let what = format!("is one watched process more than {MAX_WATCHED}");
            error("", what, "remove some");
            break;
        }
        let mut ways = Vec::new();
        if let Some(Value::Text(name)) = get("name") {
            if name.len() > MAX_NAME {
                let what = format!(
                    "is {} bytes long, and the kernel keeps {MAX_NAME} of a name",
                    name.len()
                );
                error("name", what, "cut it to 15 bytes, or use executable");
            }
            ways.push(("name", By::Name(name.clone())));
        }
        if let Some(Value::Path(path)) = get("executable") {
            ways.push(("executable", By::Executable(path.clone())));
        }
        if let Some(Value::Path(path)) = get("pid_file") {
            ways.push(("pid_file", By::PidFile(path.clone())));
        }
        if let Some(Value::Text(unit)) = get("unit") {
            ways.push(("unit", By::Unit(unit.clone())));
        }
        if let Some((second, _)) = ways.get(1) {
            let what = "stands beside another way to find the process".to_owned();
            error(
                second,
                what,
                "keep one of name, executable, pid_file and unit",
            );
        }
        match ways.into_iter().next() {
            Some((_, by)) => {
                watches.insert(name, by);
            }
            // One mistake, one error.
            None if hidden => {}
            None => error(
                "",
                "says nothing about which process it is".into(),
                "set name, executable, pid_file or unit",
            ),
        }
    }
    let off = matches!(
        settings.get("gauges.process.enabled"),
        Some(Value::Flag(false))
    );
    if off && !watches.is_empty() {
        let key = "gauges.process.enabled";
        let origin: Origin = settings.origin(key);
        problems.push(Problem::warning(
            origin,
            key,
            "is false, so no [process.NAME] is watched",
            "remove it, or the processes",
        ));
    }
    watches
}
