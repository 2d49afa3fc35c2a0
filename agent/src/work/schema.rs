//! Given arguments to an argument vector, or all that is wrong with them.
//!
//! What a caller sends ends up as whole elements of an argument vector or as
//! parts of one, never split, never read by a shell. A value cannot turn an
//! element into an option: one that would begin an element with `-` is refused
//! unless it is a number or one of the argument's choices.
//!
//! An element with an argument that has no value is left out as a whole, so
//! `--level={level}` vanishes where no level is given.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::job::{Argument, ArgumentKind, Job, Part, Program, Word};

/// Values by name, as the text that goes into the argument vector.
type Checked = BTreeMap<String, String>;

/// Problems told about one order; the rest is not looked at.
const MAX_PROBLEMS: usize = 8;

/// The argument vector of a run, or every problem (at most eight) as a
/// sentence that names its argument and never shows its value.
///
/// # Errors
/// Unknown and missing arguments, wrong types, values out of bounds.
pub fn argument_vector(job: &Job, given: &Map<String, Value>) -> Result<Vec<String>, Vec<String>> {
    let mut problems = Vec::new();
    let unknown = given
        .keys()
        .filter(|name| !job.arguments.contains_key(*name));
    for name in unknown.take(MAX_PROBLEMS) {
        problems.push(unknown_argument(job, name));
    }
    let mut checked = Checked::new();
    for (name, argument) in &job.arguments {
        match given.get(name).filter(|value| !value.is_null()) {
            Some(value) => match argument.text_of(value) {
                Ok(text) => {
                    checked.insert(name.clone(), text);
                }
                Err(why) => problems.push(format!("argument {name}: {why}")),
            },
            None if argument.required => problems.push(format!("argument {name} is missing")),
            None => {
                let default = argument.default.as_ref();
                if let Some(Ok(text)) = default.map(|value| argument.text_of(value)) {
                    checked.insert(name.clone(), text);
                }
            }
        }
    }
    let words = match &job.program {
        Program::Command(words) => words.as_slice(),
        Program::Unit(_) => &[],
    };
    let mut vector = Vec::with_capacity(words.len());
    for word in words {
        match word.fill(job, &checked) {
            Ok(Some(element)) => vector.push(element),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    problems.truncate(MAX_PROBLEMS);
    match problems.is_empty() {
        true => Ok(vector),
        false => Err(problems),
    }
}

fn unknown_argument(job: &Job, name: &str) -> String {
    let shown = crate::config::quoted(name);
    let known: Vec<&str> = job.arguments.keys().map(String::as_str).collect();
    match known.is_empty() {
        true => format!("argument {shown} is unknown: this job takes none"),
        false => format!(
            "argument {shown} is unknown: this job takes {}",
            known.join(", ")
        ),
    }
}

impl Argument {
    /// The text of a value that this argument may have.
    ///
    /// # Errors
    /// Why it may not, in words that follow the argument's name.
    pub fn text_of(&self, value: &Value) -> Result<String, String> {
        let text = self.kind.text_of(value)?;
        if !self.choices.is_empty() && !self.is_choice(&text) {
            let choices: Vec<String> = self.choices.iter().map(Value::to_string).collect();
            return Err(format!("is not one of {}", choices.join(", ")));
        }
        Ok(text)
    }

    /// Compared as text, so that 1 and 1.0 are one choice of a number.
    fn is_choice(&self, text: &str) -> bool {
        let same = |choice| self.kind.text_of(choice).is_ok_and(|choice| choice == text);
        self.choices.iter().any(same)
    }
}

impl ArgumentKind {
    fn text_of(self, value: &Value) -> Result<String, String> {
        match (self, value) {
            (ArgumentKind::Text { max_length }, Value::String(text)) => {
                if text.len() > max_length {
                    Err(format!("is longer than {max_length} bytes"))
                } else if text.chars().any(char::is_control) {
                    Err("contains a control character".into())
                } else {
                    Ok(text.clone())
                }
            }
            (ArgumentKind::Integer { min, max }, Value::Number(number)) => {
                let range = format!("is not a whole number from {min} to {max}");
                let whole = number.as_i64().filter(|n| (min..=max).contains(n));
                whole.map(|n| n.to_string()).ok_or(range)
            }
            (ArgumentKind::Number { min, max }, Value::Number(number)) => {
                let range = format!("is not a number from {min:?} to {max:?}");
                let fits = number
                    .as_f64()
                    .filter(|n| n.is_finite() && (min..=max).contains(n));
                fits.map(|n| format!("{n:?}")).ok_or(range)
            }
            (ArgumentKind::Boolean, Value::Bool(flag)) => Ok(flag.to_string()),
            (kind, other) => Err(format!(
                "is {}, not {}",
                type_of(other),
                match kind {
                    ArgumentKind::Integer { .. } => "an integer",
                    ArgumentKind::Number { .. } => "a number",
                    ArgumentKind::Text { .. } => "a string",
                    ArgumentKind::Boolean => "a boolean",
                }
            )),
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Word {
    /// Reads placeholders: `{name}` is the argument of that name, `{{name}}`
    /// the text `{name}`, and every other brace stands for itself.
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            plain.push_str(before);
            let doubled = from.strip_prefix("{{").and_then(|inner| name(inner, "}}"));
            let single = from.strip_prefix('{').and_then(|inner| name(inner, "}"));
            rest = match (doubled, single) {
                (Some((name, after)), _) => {
                    plain.push_str(&format!("{{{name}}}"));
                    after
                }
                (None, Some((name, after))) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Argument(name.to_owned()));
                    after
                }
                (None, None) => {
                    plain.push('{');
                    from.get(1..).unwrap_or_default()
                }
            };
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Self(parts)
    }

    /// The names of its placeholders.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Argument(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The element; `None`: an argument in it has no value.
    fn fill(&self, job: &Job, values: &Checked) -> Result<Option<String>, String> {
        let mut element = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => element.push_str(text),
                Part::Argument(name) => {
                    let Some(value) = values.get(name) else {
                        return Ok(None);
                    };
                    let harmless = job.arguments.get(name).is_some_and(|argument| {
                        !matches!(argument.kind, ArgumentKind::Text { .. })
                            || !argument.choices.is_empty()
                    });
                    if element.is_empty() && value.starts_with('-') && !harmless {
                        return Err(format!(
                            "argument {name}: begins with -, which the program could take for an option"
                        ));
                    }
                    element.push_str(value);
                }
            }
        }
        Ok(Some(element))
    }
}

/// Whether this can be an argument's name: what a placeholder can hold.
pub fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    first && text.len() <= 64 && text.chars().all(rest)
}

/// A name that ends with `close`, and what comes after that.
fn name<'a>(inner: &'a str, close: &str) -> Option<(&'a str, &'a str)> {
    let (name, after) = inner.split_once(close)?;
    is_name(name).then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::super::testing::job;
    use super::*;
    use serde_json::json;

    fn text(max_length: usize) -> Argument {
        argument(ArgumentKind::Text { max_length })
    }

    fn argument(kind: ArgumentKind) -> Argument {
        Argument {
            kind,
            required: false,
            default: None,
            choices: vec![],
        }
    }

    fn with(command: &[&str], arguments: &[(&str, Argument)]) -> Job {
        let mut job = job("j", command);
        job.arguments = arguments
            .iter()
            .map(|(name, argument)| ((*name).to_owned(), argument.clone()))
            .collect();
        job
    }

    fn vector(job: &Job, given: Value) -> Result<Vec<String>, Vec<String>> {
        let Value::Object(given) = given else {
            panic!("not an object")
        };
        argument_vector(job, &given)
    }

    fn refused(job: &Job, given: Value, part: &str) {
        let problems = vector(job, given.clone()).expect_err(&given.to_string());
        assert!(problems.join("; ").contains(part), "{given}: {problems:?}");
    }

    #[test]
    fn shell_syntax_is_only_text() {
        let job = with(&["/bin/x", "{name}"], &[("name", text(64))]);
        for nasty in [
            "; rm -rf /",
            "$(reboot)",
            "`id`",
            "a b  c",
            "\"'",
            "*",
            "../../etc/passwd",
            "| nc",
            "{name}",
            "é",
            "",
        ] {
            let expected = vec!["/bin/x".to_owned(), nasty.to_owned()];
            assert_eq!(vector(&job, json!({ "name": nasty })), Ok(expected));
        }
    }

    #[test]
    fn control_characters_and_what_is_too_long_are_refused_without_being_repeated() {
        let job = with(&["/bin/x", "{name}"], &[("name", text(8))]);
        refused(&job, json!({"name": "a\0b"}), "control character");
        refused(&job, json!({"name": "a\nb"}), "control character");
        refused(&job, json!({"name": "\u{1b}[2J"}), "control character");
        refused(
            &job,
            json!({"name": "secret-secret"}),
            "longer than 8 bytes",
        );
        let problems = vector(&job, json!({"name": "secret-secret"})).unwrap_err();
        assert!(!problems.join("").contains("secret"));
        refused(&job, json!({"name": "x".repeat(10_000_000)}), "longer");
    }

    #[test]
    fn types_are_not_converted() {
        let whole = argument(ArgumentKind::Integer { min: -5, max: 10 });
        let number = argument(ArgumentKind::Number { min: 0.0, max: 1.5 });
        let job = with(
            &["/x", "{i}", "{n}", "{b}", "{t}"],
            &[
                ("i", whole),
                ("n", number),
                ("b", argument(ArgumentKind::Boolean)),
                ("t", text(9)),
            ],
        );
        for (given, part) in [
            (json!({"i": "1"}), "i: is a string, not an integer"),
            (json!({"i": 1.5}), "whole number from -5 to 10"),
            (json!({"i": 11}), "whole number"),
            (json!({"i": 18_446_744_073_709_551_615_u64}), "whole number"),
            (json!({"n": 2}), "number from 0.0 to 1.5"),
            (json!({"n": "0"}), "n: is a string"),
            (json!({"b": 1}), "b: is a number, not a boolean"),
            (json!({"b": "true"}), "b: is a string"),
            (json!({"t": 1}), "t: is a number, not a string"),
            (json!({"t": ["a"]}), "t: is an array"),
            (json!({"t": {"a": 1}}), "t: is an object"),
        ] {
            refused(&job, given, part);
        }
        let good = json!({"i": -5, "n": 1, "b": false, "t": "x"});
        let expected = ["/x", "-5", "1.0", "false", "x"].map(str::to_owned);
        assert_eq!(vector(&job, good), Ok(expected.to_vec()));
    }

    #[test]
    fn unknown_and_missing_arguments_are_told_all_at_once() {
        let required = Argument {
            required: true,
            ..text(9)
        };
        let job = with(&["/x", "{a}", "{b}"], &[("a", required), ("b", text(9))]);
        let problems = vector(&job, json!({"c": 1, "b": 2})).unwrap_err();
        assert_eq!(
            problems,
            [
                "argument \"c\" is unknown: this job takes a, b",
                "argument a is missing",
                "argument b: is a number, not a string"
            ]
        );
        refused(&job, json!({"a": null}), "a is missing");
        let many: Map<String, Value> = (0..10_000).map(|n| (n.to_string(), json!(n))).collect();
        assert_eq!(
            argument_vector(&job, &many).unwrap_err().len(),
            MAX_PROBLEMS
        );
        refused(&with(&["/x"], &[]), json!({"a": 1}), "this job takes none");
    }

    #[test]
    fn an_element_whose_argument_has_no_value_is_left_out() {
        let default = Argument {
            default: Some(json!("info")),
            ..text(9)
        };
        let job = with(
            &["/x", "--level={level}", "--out={file}", "{file}", "-q"],
            &[("level", default), ("file", text(9))],
        );
        assert_eq!(
            vector(&job, json!({})).unwrap(),
            ["/x", "--level=info", "-q"]
        );
        assert_eq!(
            vector(&job, json!({"file": "-rf", "level": "-a"})).unwrap_err(),
            ["argument file: begins with -, which the program could take for an option"]
        );
    }

    #[test]
    fn a_value_cannot_become_an_option() {
        let job = with(&["/x", "{a}{b}"], &[("a", text(9)), ("b", text(9))]);
        refused(&job, json!({"a": "", "b": "--force"}), "begins with -");
        let choice = Argument {
            choices: vec![json!("-v"), json!("-q")],
            ..text(9)
        };
        let job = with(&["/x", "{a}"], &[("a", choice)]);
        assert_eq!(vector(&job, json!({"a": "-v"})).unwrap(), ["/x", "-v"]);
        refused(&job, json!({"a": "-x"}), "is not one of \"-v\", \"-q\"");
    }

    #[test]
    fn braces_that_hold_no_name_stand_for_themselves() {
        for (text, expected) in [
            ("{a}", vec![Part::Argument("a".into())]),
            ("{{a}}", vec![Part::Text("{a}".into())]),
            ("{\"k\": 1}", vec![Part::Text("{\"k\": 1}".into())]),
            ("{", vec![Part::Text("{".into())]),
            ("", vec![Part::Text(String::new())]),
            (
                "x={a},{A b}{{b",
                vec![
                    Part::Text("x=".into()),
                    Part::Argument("a".into()),
                    Part::Text(",{A b}{{b".into()),
                ],
            ),
        ] {
            assert_eq!(Word::parse(text).0, expected, "{text}");
        }
    }
}
