//! Text to settings: walks the parsed tree along the table of [`keys`], takes
//! what a key's kind accepts, and records everything else as a problem with
//! its line. Never stops at the first one.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Found, Key};
use super::problem::{Origin, Problem, Problems, quoted, suggest};
use super::source::Source;
use super::value::{Kind, Value, Wrong, is_secret_name};

/// Entries of `[device.attributes]` and of headers.
const MAX_ENTRIES: usize = 64;

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Where from.
    pub origin: Origin,
}

/// What the files, the environment and the defaults have said so far, by path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(pub BTreeMap<String, Setting>);

impl Settings {
    /// The value at a path.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path).map(|setting| &setting.value)
    }

    /// Where the value at a path came from; `Default` if there is none.
    pub fn origin(&self, path: &str) -> Origin {
        self.0
            .get(path)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// The tables that somebody gave a name below a path.
    pub fn names(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}.");
        let below = self.0.range(prefix.clone()..);
        below
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter(|(_, setting)| setting.value == Value::Section)
            .filter_map(|(key, _)| key.strip_prefix(&prefix))
            .filter(|name| !name.contains('.'))
            .map(str::to_owned)
            .collect()
    }

    /// Sets what is still open.
    pub fn fill(&mut self, path: &str, value: Value, origin: Origin) {
        self.0
            .entry(path.to_string())
            .or_insert(Setting { value, origin });
    }

    /// Whether a file says something at or below a path.
    pub fn in_file(&self, path: &str) -> Option<Origin> {
        self.0
            .range(path.to_string()..)
            .take_while(|(key, _)| key.starts_with(path))
            .filter(|(key, _)| {
                key.len() == path.len() || key.as_bytes().get(path.len()) == Some(&b'.')
            })
            .map(|(_, setting)| &setting.origin)
            .find(|origin| matches!(origin, Origin::File(_)))
            .cloned()
    }

    /// Takes a file's settings over those of earlier files. Tables grow, all else is replaced.
    pub fn overlay(&mut self, later: Settings) {
        for (path, new) in later.0 {
            match (self.0.get_mut(&path), new) {
                (
                    Some(Setting {
                        value: Value::Table(old),
                        ..
                    }),
                    Setting {
                        value: Value::Table(more),
                        ..
                    },
                ) => old.extend(more),
                (_, new) => {
                    self.0.insert(path, new);
                }
            }
        }
    }
}

/// Reads one file. `false`: it is not TOML throughout, so what is missing
/// from the result may only have been unreadable.
pub(super) fn read(source: &Source, settings: &mut Settings, problems: &mut Problems) -> bool {
    let (tree, errors) = DeTable::parse_recoverable(&source.text);
    let mut broken_lines = Vec::new();
    // Finding a line is a scan of the file, so a flood of errors is only counted.
    for error in errors.iter().take(Problems::MAX) {
        let origin = source.place(&error.span().unwrap_or(0..0));
        let line = line_of(&origin);
        // One slip often makes several errors on its line; the first one says it.
        if !broken_lines.contains(&line) {
            broken_lines.push(line);
            problems.push(syntax(error.message(), origin));
        }
    }
    if errors.len() > Problems::MAX {
        problems.push(Problem::error(
            super::source::whole_file(&source.file),
            "",
            format!("has {} syntax errors", errors.len()),
            "this is probably not a TOML file",
        ));
    }
    let mut reader = Reader {
        source,
        base: source.file.parent().unwrap_or(Path::new("/")),
        settings: Settings::default(),
        problems: Problems::default(),
    };
    reader.section(&mut Vec::new(), tree.get_ref());
    // What stands on a broken line was told already, and is half read at best.
    let Reader {
        settings: mut read,
        problems: found,
        ..
    } = reader;
    read.0
        .retain(|_, setting| !broken_lines.contains(&line_of(&setting.origin)));
    settings.overlay(read);
    for problem in found.0 {
        if !broken_lines.contains(&line_of(&problem.origin)) {
            problems.push(problem);
        }
    }
    errors.is_empty()
}

fn line_of(origin: &Origin) -> usize {
    match origin {
        Origin::File(place) => place.line,
        _ => 0,
    }
}

/// The parser's message with advice for the slips that people make.
fn syntax(message: &str, origin: Origin) -> Problem {
    let line = match &origin {
        Origin::File(place) => place.text.clone().unwrap_or_default(),
        _ => String::new(),
    };
    let fix = match line.split_once('=') {
        _ if message.contains("duplicate") => "remove one of the two",
        _ if message.contains("recurs") => "nothing here is nested that deep",
        Some((_, value)) if value.trim().is_empty() => "put a value after the =",
        Some((_, value)) if !value.contains(['"', '\'', '[']) => {
            "text, durations and sizes stand in quotes, such as \"10s\""
        }
        None if line.contains(':') => "TOML writes key = value",
        _ => "see https://toml.io for the notation",
    };
    Problem::error(origin, "", format!("is not TOML here: {message}"), fix)
}

struct Reader<'a> {
    source: &'a Source,
    base: &'a Path,
    settings: Settings,
    problems: Problems,
}

impl Reader<'_> {
    fn section(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (name, value) in table {
            // A flood was cut already for the reader of the list; stop working on it, too.
            if self.problems.0.len() > Problems::MAX {
                return;
            }
            path.push(name.get_ref().to_string());
            match (keys::find(path), value.get_ref()) {
                (Found::Key(key), DeValue::Table(table)) if key.kind.is_table() => {
                    let mut entries = BTreeMap::new();
                    self.entries(key, "", table, &mut entries);
                    // A bare header without entries says nothing.
                    if entries.is_empty() {
                        path.pop();
                        continue;
                    }
                    let origin = self.source.place(&name.span());
                    let value = Value::Table(entries);
                    self.settings
                        .0
                        .insert(path.join("."), Setting { value, origin });
                }
                (Found::Key(key), _) => self.value(key, path, value),
                (Found::Section, DeValue::Table(table)) => {
                    if keys::is_named_table(path) {
                        let origin = self.source.place(&name.span());
                        let value = Value::Section;
                        let setting = Setting { value, origin };
                        self.settings.0.insert(path.join("."), setting);
                    }
                    self.section(path, table);
                }
                (Found::Section, _) => self.problem(
                    &path.join("."),
                    value,
                    Wrong::new(
                        "is a section, not a value",
                        format!("write [{}] and its keys below", path.join(".")),
                    ),
                ),
                (Found::Nothing, _) => self.unknown(path, name, value.get_ref()),
            }
            path.pop();
        }
    }

    fn value(&mut self, key: &Key, path: &[String], value: &Spanned<DeValue<'_>>) {
        let path = path.join(".");
        match key.kind.read(value.get_ref(), self.base) {
            Ok(read) => {
                let origin = self.source.place(&value.span());
                self.settings.0.insert(
                    path,
                    Setting {
                        value: read,
                        origin,
                    },
                );
            }
            Err(wrong) => self.problem(&path, value, wrong),
        }
    }

    /// Entries of a table. `site.name = "x"` is a table within a table to
    /// TOML, and the attribute `site.name` to everybody else.
    fn entries(
        &mut self,
        key: &Key,
        prefix: &str,
        table: &DeTable<'_>,
        entries: &mut BTreeMap<String, (String, Origin)>,
    ) {
        for (name, value) in table {
            if entries.len() >= MAX_ENTRIES {
                let wrong = Wrong::new(
                    format!("has more than {MAX_ENTRIES} entries"),
                    "each of them goes out with every batch; keep the few that matter",
                );
                return self.problem(key.path, value, wrong);
            }
            let name = format!("{prefix}{}", name.get_ref());
            if let (DeValue::Table(table), Kind::Attributes) = (value.get_ref(), key.kind) {
                self.entries(key, &format!("{name}."), table, entries);
                continue;
            }
            match key.kind.read_entry(&name, value.get_ref()) {
                Ok(text) => {
                    entries.insert(name, (text, self.source.place(&value.span())));
                }
                Err(wrong) => {
                    self.problem(&format!("{}.{}", key.path, shorten(&name)), value, wrong)
                }
            }
        }
    }

    fn unknown(
        &mut self,
        path: &[String],
        name: &Spanned<toml::de::DeString<'_>>,
        value: &DeValue<'_>,
    ) {
        let full = path.join(".");
        let parent = path.split_last().map_or(&[][..], |(_, parent)| parent);
        let typed = name.get_ref();
        let children = keys::children(parent);
        let lower = typed.to_ascii_lowercase();
        let wrong = if is_secret_name(&lower) && !matches!(value, DeValue::Table(_)) {
            let file = match parent.get(1).map(String::as_str) {
                Some("otlp") => "headers_file",
                _ => "password_file",
            };
            Wrong::secret(
                "is a secret, and secrets do not belong in this file",
                format!("put it into a file of its own (mode 0600) and name that with {file}"),
            )
        } else {
            let what = format!("unknown key {}", quoted(typed));
            let fix = if let Some(name) = keys::alias(&full) {
                format!("here it is called {name}")
            } else if keys::takes_names(parent) {
                "a name here has 1 to 64 letters, digits, _ and -".into()
            } else if let Some(name) = suggest(typed, children.iter().copied()) {
                format!("did you mean \"{name}\"?")
            } else if let [one] = keys::elsewhere(typed).as_slice() {
                format!("did you mean {one}?")
            } else if children.len() <= 12 {
                format!("allowed here: {}", children.join(", "))
            } else {
                "see `sonde help config` for all keys".into()
            };
            Wrong::new(what, fix)
        };
        self.refuse(&shorten(&full), &name.span(), wrong);
    }

    fn problem(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wrong: Wrong) {
        self.refuse(key, &value.span(), wrong);
    }

    fn refuse(&mut self, key: &str, span: &std::ops::Range<usize>, wrong: Wrong) {
        let mut origin = self.source.place(span);
        if let (Origin::File(place), true) = (&mut origin, wrong.secret) {
            std::sync::Arc::make_mut(place).text = None;
        }
        self.problems
            .push(Problem::error(origin, key, wrong.what, wrong.fix));
    }
}

/// A key of somebody else's making, fit for one line.
fn shorten(key: &str) -> String {
    let clean: String = key
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(81)
        .collect();
    match clean.chars().count() > 80 {
        true => clean.chars().take(80).chain(['…']).collect(),
        false => clean,
    }
}
