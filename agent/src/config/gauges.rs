//! `[gauge.NAME]` to checked [`Definition`]s: what no single key can know about
//! a gauge that the config describes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::jobs::Table;
use super::problem::{Origin as Place, Problem, Problems, quoted};
use super::reader::Settings;
use super::units::show_duration;
use super::value::Value;
use crate::gauge::custom::push::MAX_ATTRIBUTES;
use crate::gauge::custom::{Definition, Extract, MAX_GAUGES, Origin, Pattern, Shape};
use crate::gauge::naming::{check_attribute, check_name, check_unit};
use crate::gauge::{Descriptor, Family, Kind, table};
use crate::work::job::{Concurrency, Job, Limits, Part, Program, Word};
use crate::work::process;

/// From SIGTERM to SIGKILL: a program that only reads has nothing to save.
const GRACE: Duration = Duration::from_secs(1);
/// A program more often than this would cost more than its number is worth.
const SHORTEST_COMMAND: Duration = Duration::from_secs(1);
/// Settings that mean something to one source only.
const OF_COMMAND: [&str; 3] = ["environment", "timeout", "output_limit"];
const OF_PUSH: [&str; 2] = ["max_series", "expires"];
const OF_TEXT: [&str; 2] = ["pattern", "pointer"];

/// Every enabled gauge. What is wrong with one goes to `problems`.
pub(super) fn build(settings: &Settings, problems: &mut Problems) -> BTreeMap<String, Definition> {
    let mut gauges = BTreeMap::new();
    let mut answers = true;
    for name in settings.names("gauge") {
        let mut table = Table {
            settings,
            problems,
            path: format!("gauge.{name}"),
        };
        if matches!(table.get("enabled"), Some(Value::Flag(false))) {
            continue;
        }
        if gauges.len() == MAX_GAUGES {
            let what = format!("is one gauge more than {MAX_GAUGES}");
            table.error("", what, "remove some");
            break;
        }
        if let Some(definition) = definition(&mut table, &name) {
            if let (Origin::File(path, _), true) = (&definition.origin, answers) {
                let trouble = trouble(settings, path);
                answers = trouble != Some(Trouble::Silent);
                if let Some(trouble) = trouble {
                    let (what, fix) = trouble.words();
                    table.warning("file", what, fix);
                }
            }
            check_twins(&mut table, &definition, &gauges);
            gauges.insert(name, definition);
        }
    }
    gauges
}

/// What is wrong with a file today; it may be right when it is read.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Special,
    Refused(std::io::ErrorKind, String),
    /// It hangs.
    Silent,
}

/// For a file that answers at all.
const PATIENCE: Duration = Duration::from_millis(250);

/// Looks whether a file can be opened, on a thread that a dead mount may keep.
fn trouble(settings: &Settings, path: &Path) -> Option<Trouble> {
    let root = match settings.get("paths.root") {
        Some(Value::Path(root)) => root.as_path(),
        _ => Path::new("/"),
    };
    let path = root.join(path.strip_prefix("/").unwrap_or(path));
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let look = move || {
        let refused = |error: std::io::Error| Trouble::Refused(error.kind(), error.to_string());
        let found = match path.metadata() {
            Err(error) => Some(refused(error)),
            Ok(file) if !file.is_file() => Some(Trouble::Special),
            Ok(_) => std::fs::File::open(&path).err().map(refused),
        };
        // Whoever asked may have given up.
        let _ = tell.send(found);
    };
    // Without a thread nothing is known, and the gauge itself will say.
    std::thread::Builder::new().spawn(look).ok()?;
    told.recv_timeout(PATIENCE).unwrap_or(Some(Trouble::Silent))
}

impl Trouble {
    fn words(&self) -> (String, &'static str) {
        match self {
            Trouble::Special => (
                "is no regular file, and such are never opened".into(),
                "name the file that holds the number",
            ),
            Trouble::Refused(std::io::ErrorKind::NotFound, _) => (
                "is not there now".into(),
                "correct the path, unless a program makes it later",
            ),
            Trouble::Refused(_, why) => (
                format!("cannot be opened by this user now: {why}"),
                "correct the path, or let the agent's user read it",
            ),
            Trouble::Silent => (
                "does not answer now".into(),
                "look at the file system that it is on",
            ),
        }
    }
}

/// Two gauges may have one metric name, if they are the same but for their attributes.
fn check_twins(table: &mut Table<'_>, new: &Definition, before: &BTreeMap<String, Definition>) {
    let name = &new.gauge.name;
    let twin = before
        .iter()
        .find(|(_, old)| folded(&old.gauge.name) == folded(name));
    let Some((other, old)) = twin else {
        return;
    };
    let place = if table.written("name") { "name" } else { "" };
    if old.gauge != new.gauge {
        table.error(
            place,
            format!(
                "{} is the name of gauge.{other} too, with another unit, kind, description or spelling",
                quoted(name)
            ),
            "give both the same ones, or one another name",
        );
    }
    let same = before.iter().find(|(_, old)| {
        folded(&old.gauge.name) == folded(name) && old.attributes == new.attributes
    });
    if let Some((other, _)) = same {
        table.error(
            place,
            format!(
                "{} with the same attributes is gauge.{other} already",
                quoted(name)
            ),
            "give one of them another name or other attributes",
        );
    }
}

/// What Prometheus and those who search by a name in any case make of it: two
/// gauges that meet there are one.
fn folded(name: &str) -> String {
    let fold = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '_',
    };
    name.chars().map(fold).collect()
}

/// `None`: it has no source, which is on the list.
fn definition(table: &mut Table<'_>, name: &str) -> Option<Definition> {
    let gauge = descriptor(table, name);
    let attributes = attributes(table);
    let shape = shape(table, gauge.kind);
    let interval = table.duration("interval").unwrap_or_default();
    let origin = origin(table, name)?;
    if matches!(origin, Origin::Command(..)) && interval < SHORTEST_COMMAND {
        let place = if table.written("interval") {
            "interval"
        } else {
            ""
        };
        table.error(
            place,
            format!("a command every {interval:?} costs more than its number is worth"),
            "write interval = \"1s\" or longer",
        );
    }
    Some(Definition {
        gauge,
        attributes,
        shape,
        interval,
        origin,
    })
}

fn descriptor(table: &mut Table<'_>, table_name: &str) -> Arc<Descriptor> {
    let written = table.written("name");
    let name = match table.text("name") {
        "" => table_name.to_owned(),
        name => name.to_owned(),
    };
    let place = if written { "name" } else { "" };
    if let Err(wrong) = check_name(&name) {
        let fix = match written {
            true => "write a name such as \"modem.signal\"",
            false => "write name = \"…\" with a name such as \"modem.signal\"",
        };
        table.error(place, format!("{} {wrong}", quoted(&name)), fix);
    }
    let lower = name.to_ascii_lowercase();
    if table::ALL
        .iter()
        .any(|(own, _)| folded(&own.name) == folded(&name))
    {
        table.error(
            place,
            format!("{} is a gauge that the agent has already", quoted(&name)),
            "choose another name; docs/GAUGES.md lists those that are taken",
        );
    } else if lower == "sonde" || lower.starts_with("sonde.") {
        table.error(
            place,
            format!(
                "{}: names that begin with sonde. are the agent's own",
                quoted(&name)
            ),
            "choose another name",
        );
    }
    let unit = table.text("unit").to_owned();
    if table.get("unit").is_some()
        && let Err(wrong) = check_unit(&unit)
    {
        let what = format!("{} {wrong}", quoted(&unit));
        table.error(
            "unit",
            what,
            "units are UCUM's, such as \"Cel\", \"By/s\", \"%\", or a word in braces: \"{packet}\"",
        );
    }
    let kind = match table.text("kind") {
        "counter" => Kind::Counter,
        "updowncounter" => Kind::UpDownCounter,
        _ => Kind::Gauge,
    };
    let description = table.text("description").to_owned();
    Descriptor::owned(name, unit, description, kind, Family::Custom)
}

fn attributes(table: &mut Table<'_>) -> BTreeMap<String, String> {
    let key = table.key("attributes");
    let Some(Value::Table(entries)) = table.settings.get(&key) else {
        return BTreeMap::new();
    };
    if entries.len() > MAX_ATTRIBUTES {
        let what = format!("has {} entries", entries.len());
        table.error(
            "attributes",
            what,
            format!("at most {MAX_ATTRIBUTES} are taken"),
        );
    }
    let mut attributes = BTreeMap::new();
    for (name, (text, place)) in entries {
        if let Err(wrong) = check_attribute(name, text) {
            let key = format!("{key}.{name}");
            let problem = Problem::error(place.clone(), &key, wrong, "correct or remove it");
            table.problems.push(problem);
        }
        attributes.insert(name.clone(), text.clone());
    }
    attributes
}

fn shape(table: &mut Table<'_>, kind: Kind) -> Shape {
    let number = |table: &Table<'_>, name| table.json(name).and_then(Json::as_f64);
    let shape = Shape {
        scale: number(table, "scale").unwrap_or(1.0),
        offset: number(table, "offset").unwrap_or(0.0),
        // A sum that only grows began at nothing.
        min: number(table, "min").or((kind == Kind::Counter).then_some(0.0)),
        max: number(table, "max"),
        resolution: number(table, "resolution"),
    };
    if shape.scale == 0.0 {
        table.error(
            "scale",
            "makes every value the same",
            "use another number than 0",
        );
    }
    if let (Some(min), Some(max)) = (shape.min, shape.max)
        && min > max
    {
        table.error(
            "min",
            format!("{min} is greater than max, {max}"),
            "exchange the two",
        );
    }
    if shape.resolution.is_some_and(|resolution| resolution <= 0.0) {
        let fix = "write the smallest step that the sensor can tell, such as 0.1";
        table.error("resolution", "is not greater than 0", fix);
    }
    shape
}

fn origin(table: &mut Table<'_>, name: &str) -> Option<Origin> {
    let file = match table.get("file") {
        Some(Value::Path(path)) => Some(path.clone()),
        _ => None,
    };
    let command = match table.get("command") {
        Some(Value::Words(words)) => Some(words.clone()),
        _ => None,
    };
    let push = table.flag("push");
    let sources = [
        ("file", file.is_some()),
        ("command", command.is_some()),
        ("push", push),
    ];
    let mut given = sources
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name);
    let Some(first) = given.next() else {
        // One mistake, one error.
        let sources = ["file", "command", "push"];
        if table.problems.may_hide(&table.path, &sources) {
            return None;
        }
        let problem = Problem::error(
            table.settings.origin(&table.path),
            &table.key("command"),
            "is missing, and so are file and push: there is no source",
            "set file = \"/path\", command = [\"/path/to/program\"] or push = true",
        );
        table.problems.push(problem);
        return None;
    };
    if let Some(second) = given.next() {
        table.error(
            second,
            format!("stands beside {first}, and a gauge has one source"),
            "remove one of the two",
        );
    }
    drop(given);
    for (source, keys) in [("command", &OF_COMMAND[..]), ("push", &OF_PUSH[..])] {
        for key in keys.iter().filter(|_| first != source) {
            if table.written(key) {
                let what = format!("has no effect on a gauge with {first}");
                table.warning(key, what, "remove it");
            }
        }
    }
    if push && first == "push" {
        for key in OF_TEXT
            .iter()
            .filter(|key| table.written(key))
            .collect::<Vec<_>>()
        {
            table.error(
                key,
                "has no effect on what is pushed, which is a number",
                "remove it",
            );
        }
        let expires = table.duration("expires").unwrap_or_default();
        let interval = table.duration("interval").unwrap_or_default();
        if expires < interval {
            let place = ["expires", "interval"]
                .into_iter()
                .find(|key| table.written(key));
            let what = format!(
                "values expire after {} and are told every {}: most are too old by then",
                show_duration(expires),
                show_duration(interval)
            );
            let place = place.unwrap_or_default();
            table.warning(place, what, "write a longer expires or a shorter interval");
        }
        return Some(Origin::Push {
            max_series: table.number("max_series").unwrap_or(1) as usize,
            expires,
        });
    }
    let extract = extract(table);
    match (file, command) {
        (Some(path), _) => Some(Origin::File(path, extract)),
        (None, Some(words)) => Some(Origin::Command(Arc::new(job(table, name, &words)), extract)),
        (None, None) => None,
    }
}

fn extract(table: &mut Table<'_>) -> Extract {
    let pattern = table.text("pattern").to_owned();
    let pointer = table.text("pointer").to_owned();
    if !pattern.is_empty() && !pointer.is_empty() {
        let what = "stands beside pattern, and there is one way to find the number";
        table.error("pointer", what, "remove one of the two");
    }
    if !pattern.is_empty() {
        return match Pattern::parse(&pattern) {
            Ok(pattern) => Extract::Pattern(pattern),
            Err(wrong) => {
                let fix = "write what stands around the number, such as \"MemFree: {} kB\"";
                table.error("pattern", format!("{} {wrong}", quoted(&pattern)), fix);
                Extract::Whole
            }
        };
    }
    if pointer.is_empty() {
        return Extract::Whole;
    }
    let mut tildes = pointer.split('~').skip(1);
    if !pointer.starts_with('/') || !tildes.all(|after| after.starts_with(['0', '1'])) {
        table.error(
            "pointer",
            format!("{} is no JSON pointer", quoted(&pointer)),
            "write the names from the outside in, each with a / before it, such as \"/modem/signal\" (~0 is ~, ~1 is /)",
        );
    }
    Extract::Pointer(pointer)
}

/// The program as work that can be run.
fn job(table: &mut Table<'_>, name: &str, words: &[String]) -> Job {
    let environment: BTreeMap<String, String> = match table.get("environment") {
        Some(Value::Table(entries)) => {
            let entries = entries.iter();
            entries
                .map(|(name, (text, _))| (name.clone(), text.clone()))
                .collect()
        }
        _ => BTreeMap::new(),
    };
    match words.first() {
        None => table.error("command", "is empty", "write [\"/path/to/program\"]"),
        Some(program)
            if program.is_empty() || (program.contains('/') && !program.starts_with('/')) =>
        {
            table.error(
                "command",
                format!("starts {}, which depends on the folder", quoted(program)),
                "write the program's full path, or its name alone",
            );
        }
        Some(program) => {
            let path = environment
                .get("PATH")
                .map_or(process::PATH, String::as_str);
            let found = process::find(program, path);
            if !found.is_ok_and(|file| process::is_program(Path::new(&file))) {
                let what = format!(
                    "{} is no program that can be started here now",
                    quoted(program)
                );
                table.warning("command", what, "install it, or correct the path");
            }
        }
    }
    // Nobody gives it arguments: a brace is a brace.
    let literal = |word: &String| Word(vec![Part::Text(word.clone())]);
    Job {
        name: name.to_owned(),
        program: Program::Command(words.iter().map(literal).collect()),
        arguments: BTreeMap::new(),
        directory: "/".into(),
        environment,
        timeout: table.duration("timeout").unwrap_or_default(),
        grace: GRACE,
        schedule: None,
        concurrency: Concurrency::Refuse,
        output_limit: table.number("output_limit").unwrap_or_default() as usize,
        limits: Limits::default(),
        remote: false,
        idempotent: false,
    }
}

/// How often the family has a tick: as the file says, and oftener if one of
/// its gauges asks for it.
pub(super) fn family_interval(
    every: Duration,
    gauges: &BTreeMap<String, Definition>,
) -> Option<Duration> {
    let shortest = gauges.values().map(|gauge| gauge.interval).min()?;
    Some(shortest.min(every))
}

/// Where a gauge's interval comes from if it says none.
pub(super) fn defaults(settings: &mut Settings) {
    let Some(every) = settings.get("gauges.custom.interval").cloned() else {
        return;
    };
    for name in settings.names("gauge") {
        let path = format!("gauge.{name}.interval");
        settings.fill(&path, every.clone(), Place::Found("gauges.custom.interval"));
    }
}
