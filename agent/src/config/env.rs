//! The environment, and what OpenTelemetry's variables in it fill in where the
//! files say nothing (OpenTelemetry specification 1.50, "Environment Variable
//! Specification" and "OTLP Exporter Configuration"). An empty variable counts
//! as unset, as the specification says.
//!
//! The environment is passed in, never read here but in [`Env::of_process`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys;
use super::problem::{Origin, Problem, Problems, quoted};
use super::reader::Settings;
use super::url::Url;
use super::value::{Kind, Value, Wrong};

/// What the process was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// Variables.
    pub vars: BTreeMap<String, OsString>,
    /// Whether it runs as root.
    pub root: bool,
    /// Where relative paths of variables and of the command line start.
    pub folder: PathBuf,
    /// The configuration file that is used when none is named and this one exists.
    pub default_file: PathBuf,
}

/// Variables that this program takes, and what each fills.
pub const VARIABLES: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "uplink.otlp.endpoint"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "uplink.otlp.metrics_path",
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "uplink.otlp.traces_path",
    ),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "uplink.otlp.logs_path"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "uplink.otlp.headers"),
    (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "uplink.otlp.timeout (milliseconds)",
    ),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "uplink.otlp.compression"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "uplink.otlp.tls.ca_file"),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "uplink.otlp.tls.cert_file",
    ),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "uplink.otlp.tls.key_file"),
    (
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "nothing; only http/protobuf is accepted",
    ),
    ("OTEL_SERVICE_NAME", "device.service_name"),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "device.attributes, device.id, device.environment and device.service_name",
    ),
    ("OTEL_TRACES_EXPORTER", "trace.exporter"),
    ("OTEL_TRACES_SAMPLER", "trace.sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "trace.ratio"),
    (
        "OTEL_SDK_DISABLED",
        "true: trace.sampler, trace.routine_ratio and log.send are off; gauges stay",
    ),
];

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self {
            vars: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
            root: rustix::process::geteuid().is_root(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            default_file: "/etc/sonde/sonde.toml".into(),
        }
    }

    /// A folder from a variable: the first of a list, absolute.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        let value = self.vars.get(name)?;
        // systemd lists several folders with colons between them.
        std::env::split_paths(value)
            .next()
            .filter(|path| path.is_absolute())
    }
}

/// Fills what the files left open.
pub(super) fn fill(env: &Env, settings: &mut Settings, problems: &mut Problems) {
    let mut filler = Filler {
        env,
        settings,
        problems,
    };
    filler.endpoints();
    filler.headers();
    filler.timeout();
    filler.text("OTEL_EXPORTER_OTLP_COMPRESSION", "uplink.otlp.compression");
    filler.text("OTEL_EXPORTER_OTLP_CERTIFICATE", "uplink.otlp.tls.ca_file");
    filler.text(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "uplink.otlp.tls.cert_file",
    );
    filler.text("OTEL_EXPORTER_OTLP_CLIENT_KEY", "uplink.otlp.tls.key_file");
    filler.protocol();
    // OTEL_SERVICE_NAME goes before service.name in OTEL_RESOURCE_ATTRIBUTES.
    filler.text("OTEL_SERVICE_NAME", "device.service_name");
    filler.resource();
    filler.disabled();
    filler.text("OTEL_TRACES_EXPORTER", "trace.exporter");
    filler.text("OTEL_TRACES_SAMPLER", "trace.sampler");
    filler.text("OTEL_TRACES_SAMPLER_ARG", "trace.ratio");
}

struct Filler<'a> {
    env: &'a Env,
    settings: &'a mut Settings,
    problems: &'a mut Problems,
}

impl Filler<'_> {
    /// A variable that is set and not empty.
    fn get(&mut self, name: &'static str) -> Option<String> {
        let value = self.env.vars.get(name).filter(|value| !value.is_empty())?;
        match value.to_str() {
            Some(text) => Some(text.trim().to_string()).filter(|text| !text.is_empty()),
            None => {
                self.refuse(name, Wrong::new("is not UTF-8", "correct or unset it"));
                None
            }
        }
    }

    fn refuse(&mut self, name: &'static str, wrong: Wrong) {
        let problem = Problem::error(Origin::Variable(name), "", wrong.what, wrong.fix);
        self.problems.push(problem);
    }

    /// A variable that means exactly what the key means.
    fn text(&mut self, name: &'static str, path: &str) {
        let (Some(text), Some(key)) = (self.get(name), keys::key(path)) else {
            return;
        };
        match key.kind.read_text(&text, &self.env.folder) {
            Ok(value) => self.settings.fill(path, value, Origin::Variable(name)),
            Err(wrong) => self.refuse(name, wrong),
        }
    }

    /// The general endpoint gets each signal's path appended; a signal's own
    /// endpoint is used as it is. All must be one server: it is one uplink.
    fn endpoints(&mut self) {
        let kind = keys::key("uplink.otlp.endpoint").map_or(Kind::Text, |key| key.kind);
        self.text("OTEL_EXPORTER_OTLP_ENDPOINT", "uplink.otlp.endpoint");
        let from_file = self.settings.in_file("uplink.otlp.endpoint").is_some();
        for (name, path) in [
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "uplink.otlp.metrics_path",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "uplink.otlp.traces_path",
            ),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "uplink.otlp.logs_path"),
        ] {
            let Some(text) = self.get(name) else { continue };
            let url = match kind.read_text(&text, &self.env.folder) {
                Ok(Value::Url(url)) => url,
                Ok(_) => continue,
                Err(wrong) => {
                    self.refuse(name, wrong);
                    continue;
                }
            };
            // The file's endpoint says where all three go.
            if from_file {
                continue;
            }
            let server = Url {
                path: String::new(),
                given: String::new(),
                ..url.clone()
            };
            self.settings.fill(
                "uplink.otlp.endpoint",
                Value::Url(server),
                Origin::Variable(name),
            );
            match self.settings.get("uplink.otlp.endpoint") {
                Some(Value::Url(other)) if !other.same_server(&url) => {
                    let wrong = Wrong::new(
                        format!(
                            "goes to another server than {}://{}:{}",
                            other.scheme, other.host, other.port
                        ),
                        "all signals go through one server; use the same scheme, host and port",
                    );
                    self.refuse(name, wrong);
                }
                _ => {
                    let target = if url.given.is_empty() {
                        "/".into()
                    } else {
                        url.given
                    };
                    self.settings
                        .fill(path, Value::Text(target), Origin::Variable(name));
                }
            }
        }
    }

    /// `name=value` pairs, percent-encoded, with commas between them.
    fn pairs(&mut self, name: &'static str, kind: Kind) -> BTreeMap<String, (String, Origin)> {
        let mut pairs = BTreeMap::new();
        let Some(text) = self.get(name) else {
            return pairs;
        };
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                Some((percent_decode(key.trim())?, percent_decode(value.trim())?))
            });
            let Some((key, value)) = decoded else {
                // The pair may be a secret that lost its name: not repeated here.
                let wrong = Wrong::new(
                    "has an entry that is not name=value, percent-encoded",
                    "separate entries with commas and write %2C for a comma in a value",
                );
                self.refuse(name, wrong);
                continue;
            };
            match kind.check_entry(&key, &value, false) {
                Ok(()) => {
                    pairs.insert(key, (value, Origin::Variable(name)));
                }
                Err(wrong) => {
                    let what = format!("{} {}", quoted(&key), wrong.what);
                    self.refuse(name, Wrong { what, ..wrong });
                }
            }
        }
        pairs
    }

    /// Adds entries that the table does not have yet.
    fn entries(
        &mut self,
        path: &str,
        pairs: BTreeMap<String, (String, Origin)>,
        name: &'static str,
    ) {
        if pairs.is_empty() {
            return;
        }
        self.settings
            .fill(path, Value::Table(BTreeMap::new()), Origin::Variable(name));
        if let Some(setting) = self.settings.0.get_mut(path)
            && let Value::Table(table) = &mut setting.value
        {
            for (key, entry) in pairs {
                if !table.keys().any(|known| known.eq_ignore_ascii_case(&key)) {
                    table.insert(key, entry);
                }
            }
        }
    }

    fn headers(&mut self) {
        let name = "OTEL_EXPORTER_OTLP_HEADERS";
        let pairs = self.pairs(name, Kind::Headers);
        self.entries("uplink.otlp.headers", pairs, name);
    }

    fn timeout(&mut self) {
        let name = "OTEL_EXPORTER_OTLP_TIMEOUT";
        let Some(text) = self.get(name) else { return };
        let Some(Kind::Duration(min, max)) = keys::key("uplink.otlp.timeout").map(|key| key.kind)
        else {
            return;
        };
        match text.parse::<u64>() {
            Ok(ms) if (min..=max).contains(&ms) => self.settings.fill(
                "uplink.otlp.timeout",
                Value::Duration(Duration::from_millis(ms)),
                Origin::Variable(name),
            ),
            _ => self.refuse(
                name,
                Wrong::new(
                    format!("{} is not a number of milliseconds in range", quoted(&text)),
                    format!("allowed: a whole number from {min} to {max}"),
                ),
            ),
        }
    }

    fn protocol(&mut self) {
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
        ] {
            match self.get(name).as_deref() {
                None | Some("http/protobuf") => {}
                Some(other) => {
                    let wrong = Wrong::new(
                        format!("{} is not spoken here", quoted(other)),
                        "set it to http/protobuf (usually port 4318) or unset it",
                    );
                    self.refuse(name, wrong);
                }
            }
        }
    }

    /// `service.name`, `device.id` and `deployment.environment.name` have keys of their own.
    fn resource(&mut self) {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let mut pairs = self.pairs(name, Kind::Attributes);
        for (attribute, path) in [
            ("service.name", "device.service_name"),
            ("device.id", "device.id"),
            ("deployment.environment.name", "device.environment"),
        ] {
            let (Some((text, origin)), Some(key)) = (pairs.remove(attribute), keys::key(path))
            else {
                continue;
            };
            match key.kind.read_text(&text, Path::new("/")) {
                Ok(value) => self.settings.fill(path, value, origin),
                Err(wrong) => {
                    let what = format!("{attribute}: {}", wrong.what);
                    self.refuse(name, Wrong { what, ..wrong });
                }
            }
        }
        self.entries("device.attributes", pairs, name);
    }

    fn disabled(&mut self) {
        let name = "OTEL_SDK_DISABLED";
        match self
            .get(name)
            .map(|text| text.to_ascii_lowercase())
            .as_deref()
        {
            Some("true") => {
                let origin = || Origin::Variable(name);
                self.settings
                    .fill("trace.sampler", Value::Text("always_off".into()), origin());
                self.settings
                    .fill("trace.routine_ratio", Value::Ratio(0.0), origin());
                self.settings
                    .fill("log.send", Value::Text("off".into()), origin());
            }
            None | Some("false") => {}
            Some(other) => {
                let wrong = Wrong::new(
                    format!("{} is neither true nor false", quoted(other)),
                    "set it to true or false, or unset it",
                );
                self.refuse(name, wrong);
            }
        }
    }
}

/// `%41` to `A`; `None` where it is malformed or not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let (hex, tail) = rest.split_at_checked(2)?;
        let hex = std::str::from_utf8(hex)
            .ok()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        out.push(u8::from_str_radix(hex, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(out).ok().filter(|text| !text.is_empty())
}
