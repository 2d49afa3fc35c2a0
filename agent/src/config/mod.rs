//! The checked configuration: after [`Config`] nobody checks again.
//!
//! Two shapes: the file as people write it and this one, which cannot be wrong.
//! Between them, one way:
//!
//! ```text
//! files ─ source ─► reader ─► Settings ◄─ env (fills) ◄─ build::defaults (fill)
//!                     ▲          │
//!                    keys        ├─► build ─► Config
//!                 (the table)    └─► effective (TOML again)
//! ```
//!
//! Every problem is collected with its line and key; nothing stops at the first
//! one. Secrets are kept as paths and read when they are used, so that rotating
//! one needs no restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::ClockTrust;
use crate::gauge::Family;
use crate::gauge::custom::Definition;
use crate::gauge::processes::Watches;
use crate::sensor;
use crate::serial;
use crate::work::Job;

mod build;
pub mod docs;
mod effective;
mod env;
mod gauges;
mod jobs;
pub mod keys;
mod problem;
mod reader;
mod sensors;
mod serial_lines;
mod source;
#[cfg(test)]
mod tests;
mod units;
mod url;
mod value;
mod watches;

pub(crate) use env::percent_decode;
pub use env::{Env, VARIABLES};
pub use problem::{Origin, Place, Problem, Problems, Severity};
pub(crate) use problem::{quoted, suggest};
pub use reader::{Setting, Settings};
pub(crate) use units::parse_duration;
pub use url::Url;
pub use value::{Kind, Value, Wrong};

/// Everything `sonde run` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The files it came from, in the order they were read; empty: built-in defaults.
    pub files: Vec<PathBuf>,
    /// `[device]`
    pub device: Device,
    /// `[paths]`
    pub paths: Paths,
    /// `[clock]`
    pub clock: ClockTrust,
    /// `[gauges]`
    pub gauges: Gauges,
    /// `[batch]`
    pub batch: Batching,
    /// `[spool]`
    pub spool: SpoolLimits,
    /// `[receiver]`
    pub receiver: Receiver,
    /// `[uplink.otlp]`
    pub otlp: Option<OtlpUplink>,
    /// `[uplink.mqtt]`
    pub mqtt: Option<MqttUplink>,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[commands]`
    pub commands: Commands,
    /// `[route]`
    pub routes: Routes,
    /// `[trace]`
    pub trace: Tracing,
    /// `[log]`
    pub log: Logging,
    /// `[gauge.NAME]`, those that are enabled, by name.
    pub custom: BTreeMap<String, Definition>,
    /// `[job.NAME]`, those that are enabled, by name.
    pub jobs: BTreeMap<String, Job>,
    /// `[process.NAME]`, those that are enabled, by name.
    pub processes: Watches,
    /// `[sensor.NAME]`, those that are enabled, in the order of their names.
    pub sensors: Vec<sensor::Settings>,
    /// `[serial.NAME]`, those that are enabled, by name.
    pub serial: BTreeMap<String, serial::Settings>,
    /// `[shutdown] timeout`: from SIGTERM to the last byte synced.
    pub shutdown: Duration,
}

/// Who this device is, as far as the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `device.id`; otherwise found by [`crate::identity`].
    pub id: Option<String>,
    /// `deployment.environment.name`
    pub environment: Option<String>,
    /// Further resource attributes (`[device.attributes]`, `OTEL_RESOURCE_ATTRIBUTES`).
    pub attributes: BTreeMap<String, String>,
    /// `service.name`; default `sonde`.
    pub service_name: String,
}

/// Folders and sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must survive a reboot; the spool is `state/spool`.
    pub state: PathBuf,
    /// What need not: sockets.
    pub runtime: PathBuf,
    /// `status.sock`, read only.
    pub status_socket: PathBuf,
    /// `sonde.sock`: where local programs send telemetry and messages.
    pub socket: PathBuf,
    /// Where `/proc`, `/sys` and `/etc` are looked for; `/` but in tests.
    pub root: PathBuf,
}

/// What is sampled and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// The families that are on, with their own intervals.
    pub families: BTreeMap<Family, Duration>,
}

/// How readings become batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// A batch is sealed when its first reading is this old.
    pub length: Duration,
}

/// When a batch must be on flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Only when a required uplink is down or the loss window is about to pass.
    Window,
    /// Before anything is sent.
    Always,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes that the spool's files may occupy.
    pub quota: u64,
    /// Bytes that stay free on its file system.
    pub reserve: u64,
    /// Bytes of batches kept in memory.
    pub memory: u64,
    /// The most that a power cut may cost, counted from a batch's first reading.
    pub loss_window: Duration,
    /// Bytes a day that writing may cost the flash; 0: no target.
    pub write_budget: u64,
    /// When a batch must be on flash.
    pub durability: Durability,
    /// Local programs' messages are accepted although there is no flash to take them.
    pub outbox_in_memory: bool,
}

/// `[receiver]`: what local programs may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The port beside the socket.
    pub listen: Option<SocketAddr>,
    /// Whether other machines may reach it.
    pub allow_remote: bool,
    /// Bytes of the longest request, packed or unpacked.
    pub max_request: usize,
    /// Requests a second.
    pub request_rate: u64,
    /// Unpacked bytes a second.
    pub byte_rate: u64,
}

/// A way out. Each has a durable cursor of its own under this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UplinkName {
    /// OTLP over HTTP.
    Otlp,
    /// MQTT 5.
    Mqtt,
}

impl UplinkName {
    /// As in the file, the status and the spool's cursors.
    pub fn as_str(self) -> &'static str {
        match self {
            UplinkName::Otlp => "otlp",
            UplinkName::Mqtt => "mqtt",
        }
    }
}

/// `[outbox]`: what local programs may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Topic prefixes of whole levels, `{device.id}` not put in yet; empty: none.
    pub allow: Vec<String>,
    /// Messages a second.
    pub rate: u64,
    /// Bytes a second.
    pub byte_rate: u64,
}

/// Which uplinks each signal goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Gauges.
    pub metrics: Vec<UplinkName>,
    /// Spans.
    pub traces: Vec<UplinkName>,
    /// Log records.
    pub logs: Vec<UplinkName>,
}

/// What TLS trusts and shows. Files are read at each connection attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM roots; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate chain; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM client key; with `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// What the two uplinks have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Holds frames back until it has acknowledged them.
    pub required: bool,
    /// The longest a request or a connection attempt may take.
    pub timeout: Duration,
    /// First and longest wait between attempts; the wait is a random part of it.
    pub backoff: (Duration, Duration),
    /// Bytes a second that the backlog may take; `None`: as fast as it goes.
    pub backlog_rate: Option<u64>,
    /// The first send after a reconnect waits a random part of this, so that a fleet does not stampede.
    pub first_send_jitter: Duration,
}

/// `[uplink.otlp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpUplink {
    /// Shared settings.
    pub delivery: Delivery,
    /// `http` or `https`.
    pub tls: Option<Tls>,
    /// Host name or address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path per signal, each with a leading `/`.
    pub paths: OtlpPaths,
    /// Fixed headers that are not secret.
    pub headers: Vec<(String, String)>,
    /// `Name: value` lines; read at each connection and again after a 401 or 403.
    pub headers_file: Option<PathBuf>,
    /// Keep a body gzipped on the wire (else it is unpacked before it is sent).
    pub gzip: bool,
}

/// Request targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpPaths {
    /// Default `/v1/metrics`.
    pub metrics: String,
    /// Default `/v1/traces`.
    pub traces: String,
    /// Default `/v1/logs`.
    pub logs: String,
}

/// `[uplink.mqtt]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttUplink {
    /// Shared settings.
    pub delivery: Delivery,
    /// `mqtt` or `mqtts`.
    pub tls: Option<Tls>,
    /// Host name or address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// Client identifier; `None`: `sonde-{device.id}`.
    pub client_id: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password; read at each connection.
    pub password_file: Option<PathBuf>,
    /// Keep-alive; at least 5 s.
    pub keep_alive: Duration,
    /// Topic prefix; `{device.id}` has not been put in yet.
    pub topic_prefix: String,
    /// How long the broker may keep an undelivered telemetry message.
    pub message_expiry: Option<Duration>,
    /// Unacknowledged publishes at a time.
    pub window: u16,
}

/// `[commands]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// How long the broker keeps a session while there is no connection.
    pub session_expiry: Duration,
    /// Commands taken in a minute, and at once.
    pub per_minute: u32,
    /// Commands that are taken and not over.
    pub concurrent: usize,
    /// How long a command is remembered.
    pub remember: Duration,
    /// Bytes on flash for that.
    pub journal: u64,
    /// Prefixes that Response Topics may have; `{device.id}` has not been put in yet.
    pub response_topics: Vec<String>,
}

/// `[trace]`
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// For spans that are not routine.
    pub sampler: Sampler,
    /// Part of healthy ticks, flushes and batches whose spans are sent, 0 to 1.
    pub routine_ratio: f64,
    /// A routine span that takes longer is kept whatever the ratio says.
    pub slow: Duration,
    /// Any other local trace that takes longer is kept whatever the sampler says.
    pub slow_work: Duration,
    /// Where spans go.
    pub exporter: Exporter,
}

/// Where the agent's own spans go, as in `OTEL_TRACES_EXPORTER`; default: nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exporter {
    /// Into the spool, and so to the uplinks.
    pub otlp: bool,
    /// To standard output, for development.
    pub console: bool,
}

/// The SDK's samplers, as in `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// `always_on`
    AlwaysOn,
    /// `always_off`
    AlwaysOff,
    /// `traceidratio`
    Ratio(f64),
    /// `parentbased_always_on`
    ParentAlwaysOn,
    /// `parentbased_always_off`
    ParentAlwaysOff,
    /// `parentbased_traceidratio`
    ParentRatio(f64),
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The least important level on stderr.
    pub level: log::LevelFilter,
    /// The least important level that is sent upstream.
    pub send: log::LevelFilter,
}

/// A configuration that was accepted.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run.
    pub config: Config,
    /// What works, and someone should know.
    pub warnings: Problems,
    /// Every value with its origin.
    pub settings: Settings,
}

impl Loaded {
    /// The configuration in effect as TOML, secrets masked.
    pub fn effective(&self) -> String {
        effective::to_toml(&self.settings)
    }
}

/// Loads a configuration: `file` if one is named, else the default file if it
/// exists, then the `conf.d` beside it, then the environment for what those
/// leave open, then defaults. The daemon, its reload and `sonde check` all call this.
///
/// Reads the named files and looks at the files that hold secrets; blocks for that.
///
/// # Errors
/// Everything that is wrong, in the order of the files, warnings at the end.
pub fn load(file: Option<&Path>, env: &Env) -> Result<Loaded, Problems> {
    let (settings, files, mut problems) = gather(file, env);
    let broken = problems.count().0 > 0;
    let read = problems.0.len();
    // It sees what was refused already, and does not miss that as well.
    let config = build::build(&settings, files, &mut problems);
    let mut cross = problems.0.split_off(read);
    // With a key refused its default stands in for it, and a finding about a
    // pair could be about a value that nobody wrote.
    cross.retain(|finding| !broken || stands(finding, &settings, &problems));
    problems.0.extend(cross);
    problems.finish();
    match problems.count() {
        (0, _) => Ok(Loaded {
            config,
            warnings: problems,
            settings,
        }),
        _ => Err(problems),
    }
}

/// Whether a finding about a broken configuration is about what somebody
/// wrote, or about a key that is missing and not merely refused or unreadable.
/// A table that "has no bus" where a key of it was refused may have that one.
fn stands(finding: &Problem, settings: &Settings, problems: &Problems) -> bool {
    let written = !matches!(finding.origin, Origin::Default);
    if settings.get(&finding.key) == Some(&value::Value::Section) {
        let in_table = |problem: &Problem| {
            let table = problem.key.rsplit_once('.').map(|(table, _)| table);
            table == Some(finding.key.as_str())
        };
        return !problems.0.iter().any(in_table);
    }
    let refused = |problem: &Problem| problem.key.is_empty() || problem.key == finding.key;
    written && (settings.0.contains_key(&finding.key) || !problems.0.iter().any(refused))
}

/// Files, environment and defaults, one over the other.
fn gather(file: Option<&Path>, env: &Env) -> (Settings, Vec<PathBuf>, Problems) {
    let mut problems = Problems::default();
    let mut settings = Settings::default();
    let main = match file {
        Some(file) => env.folder.join(file),
        None => env.default_file.clone(),
    };
    let sources = source::read_all(&main, file.is_some(), &mut problems);
    for source in &sources {
        reader::read(source, &mut settings, &mut problems);
    }
    env::fill(env, &mut settings, &mut problems);
    build::defaults(env, &mut settings, &mut problems);
    let files = sources.into_iter().map(|source| source.file).collect();
    (settings, files, problems)
}

/// Where a running agent of this configuration answers; for `sonde status` and
/// its like. A file that is wrong or unreadable gives what could be read of it:
/// asking how the agent is must not depend on the file being right.
pub fn status_socket(file: Option<&Path>, env: &Env) -> PathBuf {
    socket(file, env, STATUS)
}

/// Where a running agent of this configuration takes what local programs send;
/// for `sonde publish` and its like. As forgiving as [`status_socket`].
pub fn local_socket(file: Option<&Path>, env: &Env) -> PathBuf {
    socket(file, env, LOCAL)
}

/// Where an agent of this configuration keeps its state; for `sonde spool` and
/// `sonde trace`. As forgiving as [`status_socket`].
pub fn state_folder(file: Option<&Path>, env: &Env) -> PathBuf {
    socket(file, env, ("paths.state", "/var/lib/sonde"))
}

/// A socket's key (or a folder's), and where the installed service has it.
type Socket = (&'static str, &'static str);

const STATUS: Socket = ("paths.status_socket", "/run/sonde/status.sock");
const LOCAL: Socket = ("paths.socket", "/run/sonde/sonde.sock");

fn socket(file: Option<&Path>, env: &Env, which: Socket) -> PathBuf {
    let mut settings = gather(file, env).0;
    let in_file = |key: &str| {
        let setting = settings.0.get(key);
        setting.is_some_and(|setting| matches!(setting.origin, Origin::File(_)))
    };
    let places = [which.0, "paths.runtime", "paths.state"];
    if !places.into_iter().any(in_file) {
        return default_socket(env, which);
    }
    match settings.0.remove(which.0) {
        Some(Setting {
            value: Value::Path(socket),
            ..
        }) => socket,
        _ => default_socket(env, which),
    }
}

/// Where an agent without a configuration file answers. An operator is seldom
/// the user that the service runs as, so the service's own place is next if
/// there is nothing at this user's.
pub fn default_status_socket(env: &Env) -> PathBuf {
    default_socket(env, STATUS)
}

fn default_socket(env: &Env, (key, service): Socket) -> PathBuf {
    let service = PathBuf::from(service);
    let mut settings = Settings::default();
    build::defaults(env, &mut settings, &mut Problems::default());
    match settings.0.remove(key) {
        Some(Setting {
            value: Value::Path(own),
            ..
        }) if own.exists() || !service.exists() => own,
        _ => service,
    }
}
