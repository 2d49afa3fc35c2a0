//! What is wrong with a configuration, for people: where, which key, what it
//! is, what to do. Also where good values came from, because `--effective`
//! says it in the same words.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A line of a file.
    File(Arc<Place>),
    /// An environment variable.
    Variable(&'static str),
    /// Built in.
    Default,
    /// Built in, and found by looking at this.
    Found(&'static str),
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// From 1; 0: the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters on that line, at least 1.
    pub width: usize,
    /// The line itself; `None` where it may hold a secret or is too long to show.
    pub text: Option<String>,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is used, and someone should know.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub origin: Origin,
    /// Which key; empty: the file as a whole.
    pub key: String,
    /// What it is.
    pub what: String,
    /// What to do; may be empty.
    pub fix: String,
}

impl Problem {
    /// One that refuses the configuration.
    pub fn error(
        origin: Origin,
        key: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            origin,
            key: key.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// One that does not.
    pub fn warning(
        origin: Origin,
        key: &str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(origin, key, what, fix)
        }
    }

    /// The line of the file with a caret under the value, if it may be shown.
    pub fn excerpt(&self) -> Option<String> {
        let Origin::File(place) = &self.origin else {
            return None;
        };
        let text = place.text.as_deref()?;
        // Tabs stay tabs, so that the caret stands right whatever their width.
        let indent: String = text
            .chars()
            .take(place.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(place.width.clamp(1, 60));
        Some(format!(
            "  {:>4} | {text}\n       | {indent}{carets}",
            place.line
        ))
    }

    /// What lines it up with the others: file, line, column.
    fn order(&self) -> (Severity, usize, PathBuf, usize, usize) {
        match &self.origin {
            Origin::File(place) => (
                self.severity,
                0,
                place.file.clone(),
                place.line,
                place.column,
            ),
            _ => (self.severity, 1, PathBuf::new(), 0, 0),
        }
    }
}

impl fmt::Display for Problem {
    /// One line, without secrets: fit for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(place) if place.line == 0 => write!(f, "{}: ", place.file.display())?,
            Origin::File(place) => write!(
                f,
                "{}:{}:{}: ",
                place.file.display(),
                place.line,
                place.column
            )?,
            Origin::Variable(name) => write!(f, "{name}: ")?,
            Origin::Default | Origin::Found(_) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match self.fix.is_empty() {
            true => Ok(()),
            false => write!(f, " — {}", self.fix),
        }
    }
}

impl fmt::Display for Origin {
    /// As in the comments of `--effective`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(place) => write!(f, "{}:{}", place.file.display(), place.line),
            Origin::Variable(name) => write!(f, "environment {name}"),
            Origin::Default => f.write_str("default"),
            Origin::Found(how) => write!(f, "default, {how}"),
        }
    }
}

/// Everything that is wrong: errors first, each group in the order of the file.
/// Holds at least one error when it is returned as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// More than this many are counted, not listed: a binary file given by
    /// mistake must not fill the journal.
    pub const MAX: usize = 100;

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether one of these keys of a table was refused, or one in it that is
    /// unknown: then what is missing there may be what somebody meant to say.
    pub fn may_hide(&self, table: &str, keys: &[&str]) -> bool {
        let in_table = |problem: &Problem| {
            let name = problem.key.strip_prefix(table)?.strip_prefix('.')?;
            Some(keys.contains(&name) || problem.what.starts_with("unknown key"))
        };
        self.0.iter().any(|problem| in_table(problem) == Some(true))
    }

    /// How many errors and warnings.
    pub fn count(&self) -> (usize, usize) {
        let errors = self
            .0
            .iter()
            .filter(|p| p.severity == Severity::Error)
            .count();
        (errors, self.0.len().saturating_sub(errors))
    }

    /// Puts them in order for reading and cuts the tail off.
    pub fn finish(&mut self) {
        self.0.sort_by_key(Problem::order);
        self.0.dedup();
        if self.0.len() > Self::MAX {
            let more = self.0.len().saturating_sub(Self::MAX);
            self.0.truncate(Self::MAX);
            if let Some(last) = self.0.last().cloned() {
                self.0.push(Problem {
                    key: String::new(),
                    what: format!("{more} more not shown"),
                    fix: "correct these first".into(),
                    ..last
                });
            }
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Text from outside inside a message: quoted, escaped, cut to 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (index, c) in text.chars().enumerate() {
        if index == 60 {
            out.push('…');
            break;
        }
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The candidate that was probably meant: at most a third of it mistyped.
pub(crate) fn suggest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Nothing longer is a key, and the distance is quadratic in the length.
    if typed.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which swapping two neighbours counts once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&above, j + 1) + 1)
                .min(at(&row, j) + 1)
                .min(at(&above, j) + usize::from(x != y));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_probably_meant_and_nothing_else() {
        let words = ["interval", "enabled", "endpoint", "quota"];
        for (typed, meant) in [
            ("intervall", Some("interval")),
            ("intreval", Some("interval")),
            ("Interval", Some("interval")),
            ("endpont", Some("endpoint")),
            ("qutoa", Some("quota")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(suggest(typed, words), meant, "{typed}");
        }
        assert_eq!(suggest(&"x".repeat(100_000), words), None);
    }

    #[test]
    fn distances_count_each_slip_once() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn carets_stand_under_the_value_behind_tabs() {
        let place = Place {
            file: "f".into(),
            line: 3,
            column: 4,
            width: 2,
            text: Some("\té=12".into()),
        };
        let problem = Problem::error(Origin::File(Arc::new(place)), "é", "bad", "");
        let excerpt = problem.excerpt().unwrap();
        assert_eq!(excerpt, "     3 | \té=12\n       | \t  ^^");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut problems = Problems::default();
        for n in 0..1000 {
            problems.push(Problem::error(Origin::Default, &n.to_string(), "bad", ""));
        }
        problems.finish();
        assert_eq!(problems.0.len(), Problems::MAX + 1);
        assert!(
            problems
                .to_string()
                .ends_with("900 more not shown — correct these first")
        );
    }
}
