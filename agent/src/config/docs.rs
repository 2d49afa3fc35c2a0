//! What people read about the keys, written from the table of [`keys`]: the
//! default file that explains itself, and (for the repository, where a test
//! compares them) the reference part of docs/CONFIG.md and the man page.

use std::fmt::Write;

#[cfg(test)]
use super::keys::Key;
use super::keys::{self, SECTIONS};

/// The default configuration file: every key with its default, commented out,
/// so that it says what happens and changes nothing.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Sonde's configuration. Every key is optional; what stands here commented out\n\
         # is the default, or an example where there is none.\n\
         #\n\
         # Files in conf.d/*.toml beside this one are read after it, in the order of\n\
         # their names; a later value replaces an earlier one. OpenTelemetry's OTEL_*\n\
         # variables fill what the files leave open. Secrets stay in files of their own.\n\
         #\n\
         #   sonde check               every problem, with its line\n\
         #   sonde check --effective   what would run, and where each value came from\n",
    );
    for section in SECTIONS {
        let _ = write!(out, "\n\n{}", wrapped("## ", section.help));
        if section.path.contains('*') {
            let _ = writeln!(out, "[{}]", section.path.replace('*', "cpu"));
        } else {
            // A table that somebody has to name is an example.
            let mark = if section.path.contains(".NAME") {
                "#"
            } else {
                ""
            };
            let _ = writeln!(out, "{mark}[{}]", section.path);
        }
        let mut first = true;
        for key in keys::of_section(section.path) {
            if key.kind.is_table() {
                continue;
            }
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            // The first key stands with its section.
            if !first {
                out.push('\n');
            }
            first = false;
            out.push_str(&wrapped("# ", key.help));
            out.push_str(&wrapped("#   Allowed: ", &key.kind.allowed()));
            match key.default {
                Some(default) => {
                    let _ = writeln!(out, "#{name} = {default}");
                }
                None => {
                    out.push_str(&wrapped("#   Default: ", key.unset));
                    let _ = writeln!(out, "#{name} = {}", key.example);
                }
            }
        }
    }
    out
}

/// The reference part of docs/CONFIG.md.
#[cfg(test)]
pub fn markdown() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let _ = write!(out, "\n### `[{}]`\n\n{}\n\n", section.path, section.help);
        let _ = writeln!(out, "| key | allowed | default | what |\n|---|---|---|---|");
        for key in keys::of_section(section.path) {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                if section.path == key.path {
                    "NAME"
                } else {
                    key.path.rsplit('.').next().unwrap_or_default()
                },
                key.kind.allowed(),
                default_words(key).replace('|', "\\|"),
                key.help.replace('|', "\\|")
            );
        }
    }
    out.push_str("\n### Environment\n\n| variable | fills |\n|---|---|\n");
    for (name, fills) in super::VARIABLES {
        let _ = writeln!(out, "| `{name}` | {fills} |");
    }
    out
}

/// The man page sonde.toml(5).
#[cfg(test)]
pub fn man_page() -> String {
    let mut out = String::from(
        ".\\\" Written from the table of keys in agent/src/config/keys.rs.\n\
         .TH SONDE.TOML 5 \"\" \"Sonde\" \"File formats\"\n\
         .SH NAME\nsonde.toml \\- configuration of the Sonde device agent\n\
         .SH SYNOPSIS\n.nf\n/etc/sonde/sonde.toml\n/etc/sonde/conf.d/*.toml\n.fi\n\
         .SH DESCRIPTION\n\
         TOML. Every key is optional. Unknown keys are refused. Files in\n.I conf.d\n\
         beside the main file are read after it in the order of their names; a later value replaces an earlier one, and tables of attributes and headers grow.\n\
         Environment variables fill what the files leave open.\n\
         Relative paths start at the folder of the file in which they stand.\n\
         .PP\n.B sonde check\nlists every problem with its line;\n.B sonde check \\-\\-effective\nprints what would run and where each value came from.\n",
    );
    for section in SECTIONS {
        let _ = write!(
            out,
            ".SH [{}]\n{}\n",
            roff(section.path),
            roff(section.help)
        );
        for key in keys::of_section(section.path) {
            let name = if section.path == key.path {
                "NAME"
            } else {
                key.path.rsplit('.').next().unwrap_or_default()
            };
            let _ = write!(
                out,
                ".TP\n.B {}\n{}\n.br\nAllowed: {}.\n.br\nDefault: {}.\n",
                roff(name),
                roff(key.help),
                roff(&key.kind.allowed()),
                roff(&default_words(key).replace('`', ""))
            );
        }
    }
    out.push_str(".SH ENVIRONMENT\n");
    for (name, fills) in super::VARIABLES {
        let _ = write!(out, ".TP\n.B {name}\n{}\n", roff(fills));
    }
    out.push_str(".SH SEE ALSO\n.BR sonde (1)\n");
    out
}

/// Text as roff takes it.
#[cfg(test)]
pub fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
fn default_words(key: &Key) -> String {
    match key.default {
        Some(default) => format!("`{default}`"),
        None => key.unset.to_string(),
    }
}

/// Comment lines of at most 88 characters.
fn wrapped(prefix: &str, text: &str) -> String {
    let mut out = String::new();
    let mut line = prefix.to_string();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > 88 {
            let _ = writeln!(out, "{line}");
            line = match prefix.ends_with("# ") {
                true => prefix.to_string(),
                false => "#   ".to_string(),
            };
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
    out
}

/// Compares a file of the repository with what the code says. To write it
/// anew after changing a table: `SONDE_WRITE_DOCS=1 cargo test -p sonde-agent --lib`.
#[cfg(test)]
pub(crate) fn compare(file: &str, expected: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(file);
    if std::env::var_os("SONDE_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} is not what the code says; run the tests with SONDE_WRITE_DOCS=1"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str =
        "<!-- From here on written from the table of keys in agent/src/config/keys.rs. -->\n";

    #[test]
    fn the_default_file_is_what_the_table_of_keys_says() {
        compare("systemd/sonde.toml", &default_file());
    }

    #[test]
    fn the_man_page_is_what_the_table_of_keys_says() {
        compare("docs/man/sonde.toml.5", &man_page());
    }

    fn repository(file: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(file)
    }

    #[test]
    fn the_readme_names_every_document() {
        let readme = std::fs::read_to_string(repository("README.md")).unwrap();
        for entry in std::fs::read_dir(repository("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let named = readme.contains(&format!("(docs/{name})"));
            assert!(named || !name.ends_with(".md"), "docs/{name}");
        }
    }

    #[test]
    fn status_md_has_every_field_of_the_status() {
        let told = std::fs::read_to_string(repository("docs/STATUS.md")).unwrap();
        let source = include_str!("../status.rs");
        let mut part = String::new();
        let mut missing = Vec::new();
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("pub struct ") {
                part = name.to_owned();
            }
            let field = line
                .strip_prefix("    pub ")
                .and_then(|rest| rest.split_once(':'));
            let Some((name, _)) = field.filter(|(name, _)| !name.contains('(')) else {
                continue;
            };
            // The owners' own, which are never told.
            if name == "as_of_boot_ns" {
                continue;
            }
            let spelled = ["`NAME`", ".NAME`", "`NAME.", "`NAME[", ".NAME[", ".NAME."];
            if !spelled
                .iter()
                .any(|form| told.contains(&form.replace("NAME", name)))
            {
                missing.push(format!("{part} {name}"));
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn the_reference_in_config_md_is_what_the_table_of_keys_says() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIG.md");
        let found = std::fs::read_to_string(path).unwrap();
        let (intro, _) = found.split_once(MARK).expect("the mark line is missing");
        let names = crate::gauge::Family::ALL.map(|family| family.as_str());
        let families = format!("`*` stands for each gauge family: {}.\n", names.join(", "));
        let start = intro.find("`*` stands for").expect("what * is");
        let (before, rest) = intro.split_at(start);
        let (_, after) = rest.split_once('\n').expect("a line");
        let intro = format!("{before}{families}{after}");
        compare("docs/CONFIG.md", &format!("{intro}{MARK}{}", markdown()));
    }
}
