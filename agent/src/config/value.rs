//! Single values: from TOML or text into a type that cannot be wrong, and back.
//!
//! Every [`Kind`] knows three things: which values it takes ([`Kind::allowed`],
//! in words for people), how to read one, and how one is written so that it can
//! be read again ([`Value`]'s `Display` is TOML). Nothing here knows a file or
//! a line; a refused value is a [`Wrong`] and the caller says where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::UplinkName;
use super::problem::{Origin, quoted, suggest};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::url::Url;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text without control characters, 1 to 256 bytes.
    Text,
    /// An id that is safe in a topic and a file name.
    Name,
    /// An MQTT topic prefix.
    Topic,
    /// `true` or `false`.
    Flag,
    /// A whole number in a range, ends included.
    Whole(u64, u64),
    /// A number from 0 to 1.
    Ratio,
    /// A duration in a range, in milliseconds, ends included.
    Duration(u64, u64),
    /// Bytes in a range, ends included.
    Size(u64, u64),
    /// A file or folder; a relative one starts at the configuration file's folder.
    Path,
    /// A file that others must not read.
    Secret,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of uplinks.
    Uplinks,
    /// A list of MQTT topic prefixes.
    Prefixes,
    /// A URL with one of some schemes; whether it may have a path.
    Url(&'static [&'static str], bool),
    /// An HTTP request target.
    Target,
    /// When to believe the clock.
    ClockTrust,
    /// A table of resource attributes.
    Attributes,
    /// A table of HTTP headers.
    Headers,
    /// A table of environment variables.
    Environment,
    /// A program and its arguments.
    Words,
    /// A systemd unit's name.
    Unit,
    /// A number, whole or not.
    Number,
    /// A text, a number, true or false.
    Scalar,
    /// A list of those.
    Scalars,
}

/// A value that its [`Kind`] has accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text of any kind.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Whole(u64),
    /// A number from 0 to 1.
    Ratio(f64),
    /// A duration.
    Duration(Duration),
    /// Bytes.
    Size(u64),
    /// An absolute path.
    Path(PathBuf),
    /// Uplinks.
    Uplinks(Vec<UplinkName>),
    /// Topic prefixes.
    Prefixes(Vec<String>),
    /// A URL.
    Url(Url),
    /// A table; each entry knows where it came from.
    Table(BTreeMap<String, (String, Origin)>),
    /// A program and its arguments.
    Words(Vec<String>),
    /// A text, a number, true or false; or a list of those.
    Json(serde_json::Value),
    /// Nothing by itself: a table of this name is there.
    Section,
}

/// Why a value was refused: what it is, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
    /// The value may hold a secret: never show its line.
    pub secret: bool,
}

impl Wrong {
    /// A refusal.
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            fix: fix.into(),
            secret: false,
        }
    }

    /// A refusal of something that must not be shown.
    pub fn secret(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            secret: true,
            ..Self::new(what, fix)
        }
    }
}

/// Longest text that a value may be; nothing that this program sends needs more.
const TEXT_MAX: usize = 256;

/// Headers that the uplink sets itself.
const OWN_HEADERS: [&str; 8] = [
    "content-type",
    "content-encoding",
    "content-length",
    "host",
    "connection",
    "transfer-encoding",
    "te",
    "upgrade",
];

/// Elements of a list, and bytes of one of them.
const LIST_MAX: usize = 128;
const WORD_MAX: usize = 4096;

impl Kind {
    /// Whether its entries have names that somebody gives, and stand in a section of their own.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::Attributes | Kind::Headers | Kind::Environment)
    }

    /// What it takes, to follow "allowed:" or "expected".
    pub fn allowed(self) -> String {
        match self {
            Kind::Text => format!("text of 1 to {TEXT_MAX} bytes"),
            Kind::Name => "1 to 128 letters, digits and . _ - :".into(),
            Kind::Topic => {
                "an MQTT topic without +, # and empty levels; {device.id} is put in".into()
            }
            Kind::Flag => "true or false".into(),
            Kind::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Ratio => "a number from 0 to 1".into(),
            Kind::Duration(min, max) => format!(
                "a duration from {} to {} such as \"10s\"",
                show_duration(Duration::from_millis(min)),
                show_duration(Duration::from_millis(max))
            ),
            Kind::Size(min, max) => format!(
                "a size from {} to {} such as \"64MiB\"",
                show_size(min),
                show_size(max)
            ),
            Kind::Path => "a path".into(),
            Kind::Secret => "the path of a file that only the agent may read".into(),
            Kind::Choice(words) => words
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(" or "),
            Kind::Uplinks => "a list of \"otlp\" and \"mqtt\"".into(),
            Kind::Prefixes => "a list of up to 32 topic prefixes without + and with # at the end \
                               only, such as [\"plant/\"]; {device.id} is put in"
                .into(),
            Kind::Url(schemes, path) => {
                let forms: Vec<_> = schemes.iter().map(|s| format!("{s}://HOST:PORT")).collect();
                let tail = if path { ", a path may follow" } else { "" };
                format!("{}{tail}", forms.join(" or "))
            }
            Kind::Target => "a path that starts with /".into(),
            Kind::ClockTrust => "\"timesync\", \"always\" or \"file:/PATH\"".into(),
            Kind::Attributes => "a table of texts".into(),
            Kind::Headers => "a table of header names and texts".into(),
            Kind::Environment => "a table of variables and texts".into(),
            Kind::Words => "a list of texts".into(),
            Kind::Unit => "a systemd unit's name such as \"backup.service\"".into(),
            Kind::Number => "a number".into(),
            Kind::Scalar => "text, a number, true or false".into(),
            Kind::Scalars => "a list of texts, numbers, true or false".into(),
        }
    }

    /// Reads a value of the file. `base`: where relative paths start.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn read(self, value: &DeValue<'_>, base: &Path) -> Result<Value, Wrong> {
        match (self, value) {
            (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Kind::Whole(min, max), DeValue::Integer(_)) => match whole(value) {
                Some(n) if (min..=max).contains(&n) => Ok(Value::Whole(n)),
                _ => Err(self.out_of_range(&number_text(value))),
            },
            (Kind::Size(..), DeValue::Integer(_)) => match whole(value) {
                Some(bytes) => self.size(bytes),
                None => Err(self.out_of_range(&number_text(value))),
            },
            (Kind::Ratio, DeValue::Integer(_) | DeValue::Float(_)) => {
                // "inf" and "nan" parse; ratio() refuses them.
                self.ratio(&number_text(value))
            }
            (Kind::Duration(..), DeValue::Integer(_) | DeValue::Float(_)) => {
                let number = number_text(value);
                let fix = if number.starts_with('-') || number.parse() == Ok(0_u64) {
                    format!("allowed: {}", self.allowed())
                } else {
                    format!("write it as text with ms, s, m, h or d, such as \"{number}s\"")
                };
                Err(Wrong::new(format!("{number} has no unit"), fix))
            }
            (Kind::Uplinks, DeValue::Array(items)) => {
                let mut names = Vec::new();
                for item in items.iter() {
                    let name = match item.get_ref() {
                        DeValue::String(text) => uplink(text)?,
                        other => return Err(self.mismatch(other)),
                    };
                    if names.contains(&name) {
                        return Err(Wrong::new(
                            format!("\"{}\" is listed twice", name.as_str()),
                            "list each uplink once",
                        ));
                    }
                    names.push(name);
                }
                Ok(Value::Uplinks(names))
            }
            (Kind::Prefixes, DeValue::Array(items)) => {
                let mut prefixes = Vec::new();
                for item in items.iter() {
                    let DeValue::String(text) = item.get_ref() else {
                        return Err(self.mismatch(item.get_ref()));
                    };
                    if !is_prefix(text) || items.len() > PREFIXES_MAX {
                        return Err(Wrong::new(
                            format!("{} is not allowed", quoted(text)),
                            format!("expected {}", self.allowed()),
                        ));
                    }
                    prefixes.push(text.to_string());
                }
                Ok(Value::Prefixes(prefixes))
            }
            (Kind::Prefixes, DeValue::String(text)) if is_prefix(text) => Err(Wrong::new(
                "is text where a list is expected",
                format!("write [{}]", toml_text(text)),
            )),
            (Kind::Uplinks, DeValue::String(text)) => match uplink(text) {
                Ok(name) => Err(Wrong::new(
                    "is text where a list is expected",
                    format!("write [\"{}\"]", name.as_str()),
                )),
                Err(wrong) => Err(wrong),
            },
            (Kind::Words, DeValue::Array(items)) if items.len() <= LIST_MAX => {
                let words = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(text) => self.word(text),
                    other => Err(self.mismatch(other)),
                });
                words.collect::<Result<_, _>>().map(Value::Words)
            }
            (Kind::Words | Kind::Scalars, DeValue::Array(items)) if items.len() > LIST_MAX => {
                Err(Wrong::new(
                    format!("has {} elements", items.len()),
                    format!("at most {LIST_MAX} are taken"),
                ))
            }
            (Kind::Words, DeValue::String(_)) => Err(Wrong::new(
                "is text where a list is expected",
                "no shell splits it: write [\"/path/to/program\", \"argument\"]",
            )),
            (Kind::Scalars, DeValue::Array(items)) => {
                let values = items.iter().map(|item| self.scalar(item.get_ref()));
                let values: Vec<_> = values.collect::<Result<_, _>>()?;
                Ok(Value::Json(values.into()))
            }
            (Kind::Scalar, value) => self.scalar(value).map(Value::Json),
            (Kind::Number, DeValue::Integer(_) | DeValue::Float(_)) => {
                self.scalar(value).map(Value::Json)
            }
            (Kind::Flag | Kind::Whole(..) | Kind::Ratio, DeValue::String(text)) => Err(Wrong::new(
                "is text in quotes",
                match text.parse::<f64>().is_ok() || *text == "true" || *text == "false" {
                    true => format!("write {text} without quotes; expected {}", self.allowed()),
                    false => format!("expected {}", self.allowed()),
                },
            )),
            (
                Kind::Attributes
                | Kind::Headers
                | Kind::Environment
                | Kind::Words
                | Kind::Number
                | Kind::Scalars,
                _,
            ) => Err(self.mismatch(value)),
            (_, DeValue::String(text)) => self.read_text(text, base),
            (_, other) => Err(self.mismatch(other)),
        }
    }

    /// Reads a value that is text by nature: a TOML string or an environment variable.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn read_text(self, text: &str, base: &Path) -> Result<Value, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new(
                "is empty",
                format!(
                    "expected {}; leave the key out for the default",
                    self.allowed()
                ),
            ));
        }
        // A URL may carry a password, so its parser decides what may be shown.
        if let Kind::Url(schemes, path) = self {
            return Url::parse(text, schemes, path).map(Value::Url);
        }
        if text.chars().any(char::is_control) {
            return Err(Wrong::new(
                "contains a control character",
                format!("expected {}", self.allowed()),
            ));
        }
        let refuse = || {
            Err(Wrong::new(
                format!("{} is not allowed", quoted(text)),
                format!("expected {}", self.allowed()),
            ))
        };
        match self {
            Kind::Text if text.len() <= TEXT_MAX => Ok(Value::Text(text.into())),
            Kind::Text => Err(Wrong::new(
                format!("is {} bytes long", text.len()),
                format!("expected {}", self.allowed()),
            )),
            Kind::Name => {
                let ok = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
                match text.len() <= 128 && text.chars().all(ok) {
                    true => Ok(Value::Text(text.into())),
                    false => refuse(),
                }
            }
            Kind::Topic => {
                let ok = text.len() <= TEXT_MAX
                    && !text.contains(['+', '#'])
                    && !text.starts_with('$')
                    && text.split('/').all(|level| !level.is_empty())
                    && !text.replace("{device.id}", "").contains(['{', '}']);
                match ok {
                    true => Ok(Value::Text(text.into())),
                    false => refuse(),
                }
            }
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.into())),
            Kind::Choice(words) => Err(Wrong::new(
                format!("{} is not one of its words", quoted(text)),
                match suggest(text, words.iter().copied()) {
                    Some(word) => format!("did you mean \"{word}\"? allowed: {}", self.allowed()),
                    None => format!("allowed: {}", self.allowed()),
                },
            )),
            Kind::Duration(min, max) => {
                let duration = parse_duration(text)
                    .map_err(|what| Wrong::new(what, format!("expected {}", self.allowed())))?;
                let range = Duration::from_millis(min)..=Duration::from_millis(max);
                match duration {
                    Some(duration) if range.contains(&duration) => Ok(Value::Duration(duration)),
                    _ => Err(self.out_of_range(&quoted(text))),
                }
            }
            Kind::Size(..) => match parse_size(text) {
                Ok(Some(bytes)) => self.size(bytes),
                Ok(None) => Err(self.out_of_range(&quoted(text))),
                Err(what) => Err(Wrong::new(what, format!("expected {}", self.allowed()))),
            },
            Kind::Ratio => self.ratio(text),
            Kind::Path | Kind::Secret => Ok(Value::Path(tidy(&base.join(text)))),
            Kind::Target => match text.starts_with('/') && super::url::is_target(text) {
                true => Ok(Value::Text(text.into())),
                false => refuse(),
            },
            Kind::ClockTrust => match text {
                "timesync" | "always" => Ok(Value::Text(text.into())),
                _ => match text.strip_prefix("file:") {
                    Some(path) if path.starts_with('/') && path.len() > 1 => {
                        Ok(Value::Text(text.into()))
                    }
                    _ => refuse(),
                },
            },
            Kind::Flag
            | Kind::Whole(..)
            | Kind::Uplinks
            | Kind::Prefixes
            | Kind::Url(..)
            | Kind::Attributes
            | Kind::Headers
            | Kind::Environment
            | Kind::Words
            | Kind::Number
            | Kind::Scalar
            | Kind::Scalars => refuse(),
            // systemd.unit(5): the characters of a unit's name and its types that can be started.
            Kind::Unit => {
                let ok = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
                let kind = text.rsplit_once('.').map_or("", |(_, kind)| kind);
                let startable = ["service", "target", "mount", "timer", "socket", "path"];
                match text.len() <= 255
                    && text.chars().all(ok)
                    && !text.starts_with(['.', '-'])
                    && startable.contains(&kind)
                {
                    true => Ok(Value::Text(text.into())),
                    false => refuse(),
                }
            }
        }
    }

    /// One entry of a table.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn read_entry(self, name: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(_) | DeValue::Float(_) => number_text(value),
            DeValue::Boolean(flag) => flag.to_string(),
            other => {
                return Err(Wrong::new(
                    format!("is {}", article(other)),
                    "write it as text in quotes",
                ));
            }
        };
        self.check_entry(name, &text, true)?;
        Ok(text)
    }

    /// Checks one entry of a table that is already text. `inline`: it stands
    /// in the configuration file, where a secret has no place.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn check_entry(self, name: &str, text: &str, inline: bool) -> Result<(), Wrong> {
        if self == Kind::Environment {
            return check_variable(name, text);
        }
        if self == Kind::Headers {
            let lower = name.to_ascii_lowercase();
            if inline && is_secret_name(&lower) {
                return Err(Wrong::secret(
                    "is a secret, and secrets do not belong in this file",
                    format!(
                        "put the line `{name}: …` into a file of its own (mode 0600) and name it with uplink.otlp.headers_file"
                    ),
                ));
            }
            if OWN_HEADERS.contains(&lower.as_str()) {
                return Err(Wrong::new(
                    "is a header that the agent sets itself",
                    "remove it",
                ));
            }
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(Wrong::new(
                    "is not a valid HTTP header name",
                    "use letters, digits and -",
                ));
            }
            if http::HeaderValue::from_str(text).is_err() || text.len() > 4096 {
                return Err(Wrong::secret(
                    "is not a valid HTTP header value",
                    "use up to 4096 visible ASCII characters",
                ));
            }
        } else if name.is_empty()
            || text.len() > 1024
            || name.len() > TEXT_MAX
            || text.chars().any(char::is_control)
        {
            return Err(Wrong::new(
                "is not a usable attribute",
                "use a name of 1 to 256 bytes and a text of up to 1024 bytes without control characters",
            ));
        }
        Ok(())
    }

    /// An element of an argument vector.
    fn word(self, text: &str) -> Result<String, Wrong> {
        match text.len() <= WORD_MAX && !text.contains('\0') {
            true => Ok(text.to_owned()),
            false => Err(Wrong::new(
                "has an element that no program can be given",
                format!("use up to {WORD_MAX} bytes without a zero byte"),
            )),
        }
    }

    fn scalar(self, value: &DeValue<'_>) -> Result<serde_json::Value, Wrong> {
        let refuse = || {
            Wrong::new(
                format!("{} is out of range", number_text(value)),
                format!("expected {}", self.allowed()),
            )
        };
        match value {
            DeValue::String(text) => self.word(text).map(serde_json::Value::from),
            DeValue::Boolean(flag) => Ok((*flag).into()),
            DeValue::Integer(_) => {
                let number: i64 = number_text(value).parse().map_err(|_| refuse())?;
                Ok(number.into())
            }
            DeValue::Float(float) => {
                let number = float.as_str().replace('_', "").parse::<f64>();
                let number = number.ok().and_then(serde_json::Number::from_f64);
                number.map(serde_json::Value::Number).ok_or_else(refuse)
            }
            other => Err(self.mismatch(other)),
        }
    }

    /// A ratio from its decimal text.
    fn ratio(self, text: &str) -> Result<Value, Wrong> {
        match text.parse::<f64>() {
            // NaN is in no range.
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Value::Ratio(ratio.abs())),
            _ => Err(self.out_of_range(text)),
        }
    }

    fn size(self, bytes: u64) -> Result<Value, Wrong> {
        match self {
            Kind::Size(min, max) if (min..=max).contains(&bytes) => Ok(Value::Size(bytes)),
            _ => Err(self.out_of_range(&show_size(bytes))),
        }
    }

    fn out_of_range(self, what: &str) -> Wrong {
        Wrong::new(
            format!("{what} is out of range"),
            format!("allowed: {}", self.allowed()),
        )
    }

    fn mismatch(self, value: &DeValue<'_>) -> Wrong {
        Wrong::new(
            format!("is {}", article(value)),
            format!("expected {}", self.allowed()),
        )
    }
}

/// Whether a header or key of this name (lower case) usually holds a secret.
pub(super) fn is_secret_name(lower: &str) -> bool {
    [
        "authorization",
        "cookie",
        "api-key",
        "apikey",
        "api_key",
        "token",
        "secret",
        "password",
        "passwd",
    ]
    .iter()
    .any(|word| lower.contains(word))
}

/// One environment variable of a job.
fn check_variable(name: &str, text: &str) -> Result<(), Wrong> {
    let lower = name.to_ascii_lowercase();
    let names_a_place = ["_file", "_path", "_dir"]
        .iter()
        .any(|end| lower.ends_with(end));
    if is_secret_name(&lower) && !names_a_place {
        return Err(Wrong::secret(
            "is a secret, and secrets do not belong in this file",
            "put it into a file (mode 0600) that the job reads, and name that with a variable that ends in _FILE",
        ));
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty()
        || name.len() > TEXT_MAX
        || !name.chars().all(ok)
        || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(Wrong::new(
            "is not a variable's name",
            "use letters, digits and _, not a digit first",
        ));
    }
    // Set by the agent for each run.
    if [
        "TRACEPARENT",
        "TRACESTATE",
        "BAGGAGE",
        "SONDE_JOB",
        "SONDE_RUN",
    ]
    .contains(&name)
    {
        return Err(Wrong::new(
            "is a variable that the agent sets itself",
            "remove it",
        ));
    }
    match text.len() <= WORD_MAX && !text.contains('\0') {
        true => Ok(()),
        false => Err(Wrong::new(
            "is not a value that a variable can have",
            format!("use up to {WORD_MAX} bytes without a zero byte"),
        )),
    }
}

fn uplink(text: &str) -> Result<UplinkName, Wrong> {
    match text {
        "otlp" => Ok(UplinkName::Otlp),
        "mqtt" => Ok(UplinkName::Mqtt),
        _ => Err(Wrong::new(
            format!("{} is not an uplink", quoted(text)),
            match suggest(text, ["otlp", "mqtt"]) {
                Some(word) => format!(
                    "did you mean \"{word}\"? allowed: {}",
                    Kind::Uplinks.allowed()
                ),
                None => format!("allowed: {}", Kind::Uplinks.allowed()),
            },
        )),
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A TOML number as decimal text where that is possible.
fn number_text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => integer.to_string(),
        },
        DeValue::Float(float) => float.as_str().to_string(),
        other => other.type_str().to_string(),
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// More prefixes than anyone needs.
const PREFIXES_MAX: usize = 32;

/// `#`, or levels with `/` or `/#` at the end or neither.
fn is_prefix(text: &str) -> bool {
    let levels = text
        .strip_suffix("/#")
        .or(text.strip_suffix('/'))
        .unwrap_or(text);
    text == "#"
        || (!levels.is_empty()
            && text.len() <= TEXT_MAX
            && !levels.contains(['+', '#'])
            && !levels.chars().any(char::is_control)
            && !levels.starts_with('$')
            && !levels.replace("{device.id}", "").contains(['{', '}']))
}

/// Takes `.` and doubled slashes out, which is safe; `..` stays, which is not.
fn tidy(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != std::path::Component::CurDir)
        .collect()
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(&toml_text(text)),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Whole(number) => write!(f, "{number}"),
            Value::Ratio(ratio) => write!(f, "{ratio:?}"),
            Value::Duration(duration) => write!(f, "\"{}\"", show_duration(*duration)),
            Value::Size(bytes) => write!(f, "\"{}\"", show_size(*bytes)),
            Value::Path(path) => f.write_str(&toml_text(&path.to_string_lossy())),
            Value::Uplinks(names) => {
                let names: Vec<_> = names
                    .iter()
                    .map(|name| format!("\"{}\"", name.as_str()))
                    .collect();
                write!(f, "[{}]", names.join(", "))
            }
            Value::Prefixes(prefixes) => {
                let prefixes: Vec<_> = prefixes.iter().map(|p| toml_text(p)).collect();
                write!(f, "[{}]", prefixes.join(", "))
            }
            Value::Url(url) => f.write_str(&toml_text(&url.to_string())),
            Value::Words(words) => {
                let words: Vec<_> = words.iter().map(|word| toml_text(word)).collect();
                write!(f, "[{}]", words.join(", "))
            }
            Value::Json(serde_json::Value::String(text)) => f.write_str(&toml_text(text)),
            Value::Json(serde_json::Value::Array(items)) => {
                let items = items
                    .iter()
                    .map(|item| Value::Json(item.clone()).to_string());
                write!(f, "[{}]", items.collect::<Vec<_>>().join(", "))
            }
            Value::Json(scalar) => write!(f, "{scalar}"),
            Value::Section => Ok(()),
            Value::Table(entries) => {
                f.write_str("{")?;
                for (index, (name, (text, _))) in entries.iter().enumerate() {
                    let comma = if index == 0 { " " } else { ", " };
                    write!(f, "{comma}{} = {}", toml_text(name), toml_text(text))?;
                }
                f.write_str(" }")
            }
        }
    }
}

/// A TOML basic string.
pub(super) fn toml_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Kind = Kind::Duration(100, 86_400_000);

    fn read(kind: Kind, toml: &str) -> Result<Value, Wrong> {
        kind.read(
            DeValue::parse(toml).unwrap().get_ref(),
            Path::new("/etc/sonde"),
        )
    }

    fn refused(kind: Kind, toml: &str) -> String {
        let wrong = read(kind, toml).expect_err(toml);
        format!("{} — {}", wrong.what, wrong.fix)
    }

    #[test]
    fn durations_have_a_unit_and_a_range() {
        for (toml, ms) in [
            ("\"500ms\"", 500),
            ("\"10s\"", 10_000),
            ("\"5m\"", 300_000),
            ("\"1h\"", 3_600_000),
            ("\"1d\"", 86_400_000),
        ] {
            assert_eq!(
                read(INTERVAL, toml),
                Ok(Value::Duration(Duration::from_millis(ms)))
            );
        }
        for toml in [
            "\"0s\"",
            "\"-5s\"",
            "\"3650d\"",
            "\"10y\"",
            "\"10\"",
            "\"s\"",
            "\"1.5s\"",
            "\"99999999999999999999d\"",
            "10",
            "0",
            "-1",
            "1.5",
            "nan",
            "inf",
            "true",
            "[]",
            "\"\"",
            "\"10 s x\"",
            "\"１0s\"",
        ] {
            let line = refused(INTERVAL, toml);
            assert!(!line.is_empty(), "{toml}");
        }
        assert!(refused(INTERVAL, "\"3650d\"").contains("100ms to 1d"));
        assert!(refused(INTERVAL, "-1").contains("100ms to 1d"));
        assert!(refused(INTERVAL, "10").contains("\"10s\""));
    }

    #[test]
    fn sizes_take_units_or_bytes() {
        let kind = Kind::Size(1024, 1 << 40);
        for (toml, bytes) in [
            ("\"64MiB\"", 64 << 20),
            ("\"512KiB\"", 512 << 10),
            ("\"2kB\"", 2000),
            ("4096", 4096),
            ("0x1000", 4096),
            ("\"4096\"", 4096),
        ] {
            assert_eq!(read(kind, toml), Ok(Value::Size(bytes)), "{toml}");
        }
        for toml in [
            "0",
            "-1",
            "\"1\"",
            "\"99999999TiB\"",
            "1.5",
            "\"64MB/s\"",
            "\"MiB\"",
            "99999999999999999999",
        ] {
            refused(kind, toml);
        }
    }

    #[test]
    fn ratios_take_integers_and_refuse_what_is_not_a_number() {
        assert_eq!(read(Kind::Ratio, "1"), Ok(Value::Ratio(1.0)));
        assert_eq!(read(Kind::Ratio, "0.25"), Ok(Value::Ratio(0.25)));
        for toml in [
            "nan", "inf", "-inf", "-0.1", "1.01", "2", "\"0.5\"", "1e999",
        ] {
            if DeValue::parse(toml).is_ok() {
                refused(Kind::Ratio, toml);
            }
        }
        assert!(refused(Kind::Ratio, "\"0.5\"").contains("without quotes"));
    }

    #[test]
    fn text_reads_back_whatever_is_in_it() {
        let nasty = "quote \" slash \\ tab \t bell \u{7} é";
        let toml = toml_text(nasty);
        let parsed = DeValue::parse(&toml).unwrap().into_inner();
        assert_eq!(parsed.as_str(), Some(nasty));
    }

    #[test]
    fn relative_paths_start_at_the_files_folder() {
        assert_eq!(
            read(Kind::Path, "\"./ca.pem\""),
            Ok(Value::Path("/etc/sonde/ca.pem".into()))
        );
        assert_eq!(
            read(Kind::Path, "\"/x/ca.pem\""),
            Ok(Value::Path("/x/ca.pem".into()))
        );
        refused(Kind::Path, "\"a\\u0000b\"");
    }

    #[test]
    fn topics_and_names_are_safe_to_publish_under() {
        read(Kind::Topic, "\"sonde/{device.id}\"").unwrap();
        for toml in [
            "\"a/+/b\"",
            "\"a/#\"",
            "\"/a\"",
            "\"a/\"",
            "\"a//b\"",
            "\"$SYS/a\"",
            "\"a/{id}\"",
        ] {
            refused(Kind::Topic, toml);
        }
        read(
            Kind::Prefixes,
            "[\"plant/\", \"a/b\", \"{device.id}/#\", \"#\"]",
        )
        .unwrap();
        for toml in [
            "[\"\"]",
            "[\"a/+/b\"]",
            "[\"a#\"]",
            "[\"$SYS/\"]",
            "[1]",
            "\"a/\"",
        ] {
            refused(Kind::Prefixes, toml);
        }
        read(Kind::Name, "\"gw-0017.site_3\"").unwrap();
        for toml in ["\"a/b\"", "\"a b\"", "\"+\"", "\"é\""] {
            refused(Kind::Name, toml);
        }
    }

    #[test]
    fn secrets_are_sent_to_a_file_and_never_echoed() {
        for name in ["Authorization", "X-Api-Key", "cookie", "x-vault-token"] {
            let wrong = Kind::Headers
                .check_entry(name, "hunter2", true)
                .unwrap_err();
            assert!(wrong.secret && wrong.fix.contains("headers_file"));
            assert!(!format!("{wrong:?}").contains("hunter2"));
            Kind::Headers.check_entry(name, "hunter2", false).unwrap();
        }
        assert!(Kind::Headers.check_entry("x-tenant", "a\nb", true).is_err());
        assert!(Kind::Headers.check_entry("x tenant", "a", true).is_err());
        assert!(
            Kind::Headers
                .check_entry("Content-Type", "a", true)
                .is_err()
        );
    }
}
