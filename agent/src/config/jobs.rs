//! `[job.NAME]` to checked [`Job`]s: what no single key can know about a job.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::problem::{Origin, Problem, Problems, quoted, suggest};
use super::reader::Settings;
use super::value::Value;
use crate::work::job::{Argument, ArgumentKind, Concurrency, Job, Limits, Program, Schedule, Word};
use crate::work::{process, schema};

/// More than a gateway has, and few enough for a status that people read.
const MAX_JOBS: usize = 64;

/// Every enabled job. What is wrong with one goes to `problems`.
pub(super) fn build(settings: &Settings, problems: &mut Problems) -> BTreeMap<String, Job> {
    let mut jobs = BTreeMap::new();
    for name in settings.names("job") {
        let mut table = Table {
            settings,
            problems,
            path: format!("job.{name}"),
        };
        if matches!(table.get("enabled"), Some(Value::Flag(false))) {
            continue;
        }
        if jobs.len() == MAX_JOBS {
            table.error(
                "",
                format!("is one job more than {MAX_JOBS}"),
                "remove some",
            );
            break;
        }
        let job = table.job(&name);
        jobs.insert(name, job);
    }
    jobs
}

/// One named table. Getters are neutral where a key has no value: then its
/// problem is on the list already.
pub(super) struct Table<'a> {
    pub(super) settings: &'a Settings,
    pub(super) problems: &'a mut Problems,
    pub(super) path: String,
}

impl Table<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        match name {
            "" => self.path.clone(),
            name => format!("{}.{name}", self.path),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.settings.get(&self.key(name))
    }

    pub(super) fn written(&self, name: &str) -> bool {
        matches!(self.settings.origin(&self.key(name)), Origin::File(_))
    }

    pub(super) fn error(&mut self, name: &str, what: impl Into<String>, fix: impl Into<String>) {
        let key = self.key(name);
        let origin = self.settings.origin(&key);
        self.problems.push(Problem::error(origin, &key, what, fix));
    }

    pub(super) fn warning(&mut self, name: &str, what: impl Into<String>, fix: impl Into<String>) {
        let key = self.key(name);
        let origin = self.settings.origin(&key);
        self.problems
            .push(Problem::warning(origin, &key, what, fix));
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Flag(true)))
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        match self.get(name) {
            Some(Value::Duration(duration)) => Some(*duration),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Whole(number) | Value::Size(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn json(&self, name: &str) -> Option<&Json> {
        match self.get(name) {
            Some(Value::Json(json)) => Some(json),
            _ => None,
        }
    }

    fn job(&mut self, name: &str) -> Job {
        let arguments = self.arguments();
        let environment = match self.get("environment") {
            Some(Value::Table(table)) => {
                let entries = table.iter();
                entries
                    .map(|(name, (text, _))| (name.clone(), text.clone()))
                    .collect()
            }
            _ => BTreeMap::new(),
        };
        let most = self.number("concurrency_max").unwrap_or(1) as usize;
        let concurrency = match self.text("concurrency") {
            "queue" => Concurrency::Queue(most),
            "parallel" => Concurrency::Parallel(most),
            _ => Concurrency::Refuse,
        };
        if concurrency == Concurrency::Refuse && self.written("concurrency_max") {
            self.warning(
                "concurrency_max",
                "has no effect",
                "set concurrency to \"queue\" or \"parallel\"",
            );
        }
        let every = self.duration("every");
        for name in ["jitter", "at_start"] {
            if every.is_none() && self.written(name) {
                self.warning(name, "has no effect without a schedule", "set every");
            }
        }
        if every.is_some() {
            self.check_schedule(&arguments);
        }
        let program = self.program(&arguments, &environment);
        Job {
            name: name.to_owned(),
            program,
            arguments,
            directory: match self.get("directory") {
                Some(Value::Path(path)) => path.clone(),
                _ => "/".into(),
            },
            environment,
            timeout: self.duration("timeout").unwrap_or_default(),
            grace: self.duration("grace").unwrap_or_default(),
            schedule: every.map(|every| Schedule {
                every,
                jitter: self.duration("jitter").unwrap_or_default(),
                at_start: self.flag("at_start"),
            }),
            concurrency,
            output_limit: self.number("output_limit").unwrap_or_default() as usize,
            limits: Limits {
                memory: self.number("limits.memory"),
                cpu: self.small("limits.cpu"),
                tasks: self.small("limits.tasks"),
                nice: self.small("limits.nice"),
                file_size: self.number("limits.file_size"),
                open_files: self.number("limits.open_files"),
            },
            remote: self.flag("remote"),
            idempotent: self.flag("idempotent"),
        }
    }

    /// A number whose range the table of keys has checked.
    fn small<N: TryFrom<u64>>(&self, name: &str) -> Option<N> {
        N::try_from(self.number(name)?).ok()
    }

    /// A scheduled run gives no arguments.
    fn check_schedule(&mut self, arguments: &BTreeMap<String, Argument>) {
        let missing = arguments.iter().find(|(_, argument)| argument.required);
        if let Some((name, _)) = missing {
            self.error(
                "every",
                format!("a scheduled run gives no arguments, and {name} is required"),
                format!("give {name} a default instead, or remove every"),
            );
        }
    }

    fn program(
        &mut self,
        arguments: &BTreeMap<String, Argument>,
        environment: &BTreeMap<String, String>,
    ) -> Program {
        let command = match self.get("command") {
            Some(Value::Words(words)) => Some(words.clone()),
            _ => None,
        };
        let unit = match self.get("unit") {
            Some(Value::Text(unit)) => Some(unit.clone()),
            _ => None,
        };
        match (command, unit) {
            (Some(command), None) => self.command(&command, arguments, environment),
            (None, Some(unit)) => {
                self.check_unit(arguments, environment);
                Program::Unit(unit)
            }
            (Some(_), Some(unit)) => {
                self.error(
                    "unit",
                    "stands beside command, and a job starts one thing",
                    "remove one of the two",
                );
                Program::Unit(unit)
            }
            (None, None) => {
                self.error(
                    "",
                    "starts nothing",
                    "set command = [\"/path/to/program\"] or unit = \"NAME.service\"",
                );
                Program::Command(vec![])
            }
        }
    }

    fn command(
        &mut self,
        words: &[String],
        arguments: &BTreeMap<String, Argument>,
        environment: &BTreeMap<String, String>,
    ) -> Program {
        let parsed: Vec<Word> = words.iter().map(|word| Word::parse(word)).collect();
        let Some(program) = words.first() else {
            self.error("command", "is empty", "write [\"/path/to/program\"]");
            return Program::Command(parsed);
        };
        let chosen_by_caller = parsed
            .first()
            .is_some_and(|first| first.placeholders().next().is_some());
        if chosen_by_caller {
            self.error(
                "command",
                "takes its program from an argument",
                "name the program; a caller may only choose what it is given",
            );
        } else if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
            self.error(
                "command",
                format!("starts {}, which depends on the folder", quoted(program)),
                "write the program's full path, or its name alone",
            );
        } else {
            let path = environment
                .get("PATH")
                .map_or(process::PATH, String::as_str);
            let found = process::find(program, path);
            if !found.is_ok_and(|file| process::is_program(Path::new(&file))) {
                self.warning(
                    "command",
                    format!(
                        "{} is no program that can be started here now",
                        quoted(program)
                    ),
                    "install it, or correct the path",
                );
            }
        }
        let known = || arguments.keys().map(String::as_str);
        let mut used: Vec<&str> = Vec::new();
        for name in parsed.iter().flat_map(Word::placeholders) {
            if arguments.contains_key(name) {
                used.push(name);
                continue;
            }
            let fix = match suggest(name, known()) {
                Some(meant) => format!("did you mean {{{meant}}}?"),
                None => format!(
                    "declare it with [{}.arguments.{name}], or write {{{{{name}}}}} for the text {{{name}}}",
                    self.path
                ),
            };
            self.error(
                "command",
                format!("holds {{{name}}}, which is no argument"),
                fix,
            );
        }
        if let Some(name) = executed(&parsed, words, arguments) {
            let fix = format!(
                "hand it over beside the script: [\"/bin/sh\", \"-c\", \"… \\\"$1\\\" …\", \"sh\", \"{{{name}}}\"]"
            );
            self.error(
                "command",
                format!("puts {{{name}}} into a script, which would execute what a caller writes"),
                fix,
            );
        }
        for name in known().filter(|name| !used.contains(name)) {
            self.warning(
                &format!("arguments.{name}"),
                "is used nowhere",
                format!("put {{{name}}} into command, or remove it"),
            );
        }
        Program::Command(parsed)
    }

    /// What a unit's own file has to say.
    fn check_unit(
        &mut self,
        arguments: &BTreeMap<String, Argument>,
        environment: &BTreeMap<String, String>,
    ) {
        let fix = "set it in the unit";
        if let Some(name) = arguments.keys().next() {
            let name = format!("arguments.{name}");
            self.error(&name, "is nothing that a unit can be given", "use command");
        }
        if !environment.is_empty() {
            self.error("environment", "does not reach a unit", fix);
        }
        for name in ["memory", "cpu", "tasks", "nice", "file_size", "open_files"] {
            let name = format!("limits.{name}");
            if self.written(&name) {
                self.error(&name, "does not reach a unit", fix);
            }
        }
    }

    fn arguments(&mut self) -> BTreeMap<String, Argument> {
        let names = self.settings.names(&self.key("arguments"));
        let mut arguments = BTreeMap::new();
        for name in names {
            if !schema::is_name(&name) {
                self.error(
                    &format!("arguments.{name}"),
                    "is not a name that a placeholder can hold",
                    "use letters, digits and _, a letter first",
                );
                continue;
            }
            let path = self.key(&format!("arguments.{name}"));
            let mut table = Table {
                settings: self.settings,
                problems: self.problems,
                path,
            };
            let argument = table.argument();
            arguments.insert(name, argument);
        }
        arguments
    }

    fn argument(&mut self) -> Argument {
        let min = self.json("min").cloned();
        let max = self.json("max").cloned();
        let whole = |bound: &Option<Json>, open: i64| match bound {
            Some(bound) => bound.as_i64(),
            None => Some(open),
        };
        let kind = match self.text("type") {
            "integer" => match (whole(&min, i64::MIN), whole(&max, i64::MAX)) {
                (Some(min), Some(max)) => ArgumentKind::Integer { min, max },
                _ => {
                    let name = if min.is_some_and(|min| min.is_f64()) {
                        "min"
                    } else {
                        "max"
                    };
                    self.error(name, "is not whole", "an integer has whole bounds");
                    return self.finish(ArgumentKind::Boolean, false);
                }
            },
            "number" => {
                let bound = |bound: &Option<Json>, open| {
                    bound.as_ref().and_then(Json::as_f64).unwrap_or(open)
                };
                ArgumentKind::Number {
                    min: bound(&min, f64::MIN),
                    max: bound(&max, f64::MAX),
                }
            }
            "boolean" => ArgumentKind::Boolean,
            _ => ArgumentKind::Text {
                max_length: self.number("max_length").unwrap_or_default() as usize,
            },
        };
        let useless: &[&str] = match kind {
            ArgumentKind::Text { .. } => &["min", "max"],
            ArgumentKind::Integer { .. } | ArgumentKind::Number { .. } => &["max_length"],
            ArgumentKind::Boolean => &["min", "max", "max_length"],
        };
        for name in useless {
            if self.written(name) {
                let what = format!("has no effect on a {}", kind.as_str());
                self.warning(name, what, "remove it");
            }
        }
        let empty = match kind {
            ArgumentKind::Integer { min, max } => min > max,
            ArgumentKind::Number { min, max } => min > max,
            ArgumentKind::Text { .. } | ArgumentKind::Boolean => false,
        };
        if empty {
            self.error("min", "is greater than max", "exchange the two");
        }
        self.finish(kind, !empty)
    }

    /// `check`: whether the kind is right, so that values can be held against it.
    fn finish(&mut self, kind: ArgumentKind, check: bool) -> Argument {
        let choices = match self.json("choices") {
            Some(Json::Array(choices)) => choices.clone(),
            _ => vec![],
        };
        let mut argument = Argument {
            kind,
            required: self.flag("required"),
            default: None,
            choices: vec![],
        };
        if !check {
            return argument;
        }
        if self.written("choices") && choices.is_empty() {
            self.error(
                "choices",
                "is empty, so no value is allowed",
                "list some, or remove it",
            );
        }
        for choice in &choices {
            if let Err(why) = argument.text_of(choice) {
                self.error(
                    "choices",
                    format!("holds {choice}, which {why}"),
                    "correct or remove it",
                );
            }
        }
        argument.choices = choices;
        let default = self.json("default").cloned();
        if let Some(default) = &default {
            if let Err(why) = argument.text_of(default) {
                self.error("default", why, "use a value that an order could give");
            }
            if argument.required {
                self.error(
                    "default",
                    "stands with required = true",
                    "remove one of the two",
                );
            }
        }
        argument.default = default;
        argument
    }
}

/// The free text that would become a part of an interpreter's script
/// (`sh -c "… {name} …"`): no schema could make that safe. Choices, numbers and
/// booleans cannot say anything.
fn executed<'a>(
    parsed: &'a [Word],
    words: &[String],
    arguments: &BTreeMap<String, Argument>,
) -> Option<&'a str> {
    const INTERPRETERS: [&str; 13] = [
        "sh", "bash", "dash", "ash", "zsh", "ksh", "busybox", "python", "python3", "perl", "lua",
        "ruby", "node",
    ];
    let first = Path::new(words.first()?).file_name()?.to_str()?;
    if !INTERPRETERS.contains(&first) {
        return None;
    }
    // `-c`, `-e`, also together with others: `-euc`.
    let option = |word: &String| {
        word.starts_with('-') && !word.starts_with("--") && word.ends_with(['c', 'e'])
    };
    let at = words.iter().position(option)?;
    parsed.get(at + 1)?.placeholders().find(|name| {
        arguments.get(*name).is_some_and(|argument| {
            matches!(argument.kind, ArgumentKind::Text { .. }) && argument.choices.is_empty()
        })
    })
}
