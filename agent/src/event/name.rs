//! Every event of the agent's own: the one place where the names are written
//! down. docs/EVENTS.md is checked against it; a name stays what it means.

use std::fmt;

use log::Level;

/// A documented name. There is no other way to one than this table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(&'static Row);

/// What the table says of a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Dotted, lower case.
    pub name: &'static str,
    /// Error: data is or will be lost. Warn: worth a look. Info: good to know.
    pub level: Level,
    /// Keys of its measurements, each with its unit.
    pub measurements: &'static [(&'static str, &'static str)],
    /// Keys of its metadata.
    pub metadata: &'static [&'static str],
    /// When it is emitted.
    pub text: &'static str,
}

impl Name {
    /// As it goes out.
    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    /// How much it matters.
    pub fn level(self) -> Level {
        self.0.level
    }

    /// Whether who emits it stores its record too, as `critical`.
    pub fn is_critical(self) -> bool {
        [AGENT_END, AGENT_FAILED, BOOT_END, BOOT_FAILED].contains(&self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

macro_rules! names {
    ($($id:ident: $level:ident $name:literal ($($measure:literal [$unit:literal]),*) ($($key:literal),*) $text:literal;)*) => {
        $(
            #[doc = $text]
            pub const $id: Name = Name(&Row {
                name: $name,
                level: Level::$level,
                measurements: &[$(($measure, $unit)),*],
                metadata: &[$($key),*],
                text: $text,
            });
        )*
        /// All of them, in the order of the documentation.
        pub const ALL: &[Name] = &[$($id),*];
    };
}

names! {
    AGENT_START: Info "sonde.agent.start" () ("version") "The agent has opened its spool and begins to sample.";
    AGENT_READY: Info "sonde.agent.ready" ("startup" ["s"]) () "Everything runs; systemd was told.";
    AGENT_STOP: Info "sonde.agent.stop" ("uptime" ["s"]) ("reason") "The agent begins to stop: on a signal, or because a part of it was lost.";
    AGENT_END: Info "sonde.agent.end" ("boot" ["{boot}"]) ("reason", "evidence") "At a start: the agent's last run was stopped, or ended with its boot. docs/BOOT.md; stored as critical.";
    AGENT_FAILED: Warn "sonde.agent.failed" ("boot" ["{boot}"]) ("reason", "evidence") "At a start: the agent's last run ended otherwise. docs/BOOT.md; stored as critical.";
    BOOT_END: Info "sonde.boot.end" ("boot" ["{boot}"]) ("reason", "evidence") "Once a boot: the boot before it ended because somebody asked for it. docs/BOOT.md; stored as critical.";
    BOOT_FAILED: Warn "sonde.boot.failed" ("boot" ["{boot}"]) ("reason", "evidence") "Once a boot: the boot before it ended otherwise, or nobody knows (not at the very first start). docs/BOOT.md; stored as critical.";
    RESUME: Info "sonde.host.resume" ("suspended" ["s"]) () "The machine was suspended for so long, and is awake again.";
    CONFIG_RELOAD: Info "sonde.config.reload" () () "The configuration was loaded again.";
    CONFIG_REFUSED: Warn "sonde.config.refused" () ("error") "A reload was refused; the old configuration stays.";
    CLOCK_STEP: Warn "sonde.clock.step" ("step" ["s"]) () "The wall clock was set; forward is positive.";
    FILESYSTEM_READ_ONLY: Warn "sonde.filesystem.read_only" () ("device", "mountpoint", "type") "A file system that could be written became read-only: by an error, or by somebody's hand.";
    UPLINK_UP: Info "sonde.uplink.up" ("down" ["s"]) ("uplink") "The other side takes data; down says for how long it did not, and is missing the first time.";
    UPLINK_DOWN: Warn "sonde.uplink.down" () ("uplink", "error") "The other side cannot be reached or fails; data is kept and sending is tried again.";
    CIRCUIT_OPEN: Warn "sonde.circuit.open" () ("uplink", "signal", "error") "The other side refuses us, or one signal: data is kept until a probe is taken.";
    CIRCUIT_HALF_OPEN: Info "sonde.circuit.half_open" () ("uplink") "The first probe after the circuit opened; those that follow are only counted.";
    CIRCUIT_CLOSED: Info "sonde.circuit.closed" () ("uplink", "signal") "The other side takes data again that it refused.";
    SPOOL_PRESSURE: Warn "sonde.spool.pressure" ("usage" ["By"], "limit" ["By"]) () "The spool has filled to 80 % of its quota; again only after it was below 70 %.";
    SPOOL_LOSS: Error "sonde.spool.loss" ("items" ["{item}"]) ("class", "reason") "Stored data was lost; at most once a minute for each class and reason, with what was lost since the last.";
    SPOOL_ALARM: Error "sonde.spool.alarm" () ("error") "The spool had to leave flash alone.";
    SPOOL_RECOVERED: Info "sonde.spool.recovered" () () "The spool writes to flash again.";
    JOB_START: Info "sonde.job.start" () ("job", "origin") "A run of a job begins.";
    JOB_END: Info "sonde.job.end" ("duration" ["s"], "exit_code" ["1"]) ("job", "outcome") "A run of a job has ended.";
    JOB_FAILED: Warn "sonde.job.failed" ("duration" ["s"], "exit_code" ["1"]) ("job", "outcome") "A run of a job has ended, and not well.";
    COMMAND_START: Info "sonde.command.start" () ("job") "A command was accepted.";
    COMMAND_END: Info "sonde.command.end" ("duration" ["s"]) ("job", "outcome") "A command was answered.";
    COMMAND_REFUSED: Warn "sonde.command.refused" () ("job", "error") "A command was refused; nothing was run.";
}

/// The longest name or key, in bytes.
pub const MAX_NAME: usize = 64;

/// Words of `a-z`, `0-9` and `_`, beginning with a letter, with dots between
/// them: what OpenTelemetry's naming rules have in common.
pub fn is_valid(name: &str) -> bool {
    let word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The table as it stands in the documentation.
    fn rendered() -> String {
        let mut out = String::from(
            "| event | level | measurements | metadata | when |\n|---|---|---|---|---|\n",
        );
        for Name(row) in ALL {
            let measurements: Vec<_> = row
                .measurements
                .iter()
                .map(|(key, unit)| format!("`{key}` ({unit})"))
                .collect();
            let metadata: Vec<_> = row.metadata.iter().map(|key| format!("`{key}`")).collect();
            let level = row.level.as_str().to_ascii_lowercase();
            let _ = writeln!(
                out,
                "| `{}` | {level} | {} | {} | {} |",
                row.name,
                measurements.join(", "),
                metadata.join(", "),
                row.text
            );
        }
        out
    }

    #[test]
    fn the_documentation_lists_exactly_these_events() {
        let page = include_str!("../../../docs/EVENTS.md");
        let table = rendered();
        assert!(
            page.contains(&table),
            "docs/EVENTS.md should hold:\n{table}"
        );
        assert_eq!(page.matches("\n| `sonde.").count(), ALL.len());
    }

    #[test]
    fn names_are_unique_valid_and_the_agents_own() {
        for (at, name) in ALL.iter().enumerate() {
            assert!(is_valid(name.as_str()) && name.as_str().starts_with("sonde."));
            assert!(ALL.iter().skip(at + 1).all(|other| other != name));
            let Name(row) = name;
            let keys = row.measurements.iter().map(|(key, _)| key);
            assert!(keys.chain(row.metadata).all(|key| is_valid(key)));
        }
    }

    #[test]
    fn only_lower_case_dotted_words_are_names() {
        for good in ["a", "pump.start", "a1.b_2", &"x".repeat(64)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "A",
            "1a",
            "a.1",
            "_a",
            "a b",
            "a-b",
            "a\n",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
