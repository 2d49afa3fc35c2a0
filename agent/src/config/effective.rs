//! The configuration in effect, as TOML that loads back to the same: each
//! value with a comment that says where it came from.
//!
//! Secrets are not in the settings (only their files' paths are), except for
//! headers, which the environment may fill with anything: their values are
//! masked, and those of the environment are commented out so that a mask never
//! reaches a server.

use std::fmt::Write;

use super::keys;
use super::problem::Origin;
use super::reader::Settings;
use super::value::{Kind, Value, toml_text};

/// What stands for a header's value.
const MASK: &str = "***";

/// All of it as TOML.
pub(super) fn to_toml(settings: &Settings) -> String {
    let mut out = String::new();
    let mut section = String::new();
    // Tables last in their parents, as TOML wants it; the table of keys is in that order.
    for (path, key) in keys::expanded(settings) {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
        let Some(setting) = settings.0.get(&path) else {
            continue;
        };
        let mut open = |out: &mut String, wanted: &str| {
            if section != wanted {
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{wanted}]");
                section = wanted.to_string();
            }
        };
        match &setting.value {
            Value::Table(entries) => {
                for (entry, (text, origin)) in entries {
                    open(&mut out, &path);
                    let (text, hide) = match key.kind {
                        Kind::Headers => (MASK, !matches!(origin, Origin::File(_))),
                        _ => (text.as_str(), false),
                    };
                    let comment = if hide { "# " } else { "" };
                    let _ = writeln!(
                        out,
                        "{comment}{} = {} # {}",
                        toml_text(entry),
                        toml_text(text),
                        clean(origin)
                    );
                }
            }
            value => {
                open(&mut out, parent);
                let _ = writeln!(out, "{name} = {value} # {}", clean(&setting.origin));
            }
        }
    }
    out
}

/// A file's name may hold a line break, which would end the comment.
fn clean(origin: &Origin) -> String {
    origin
        .to_string()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
