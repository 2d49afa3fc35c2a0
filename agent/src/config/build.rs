//! Settings to a checked [`Config`]: fills defaults, then looks at what no
//! single key can know: pairs that belong together, and files that should exist.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::env::Env;
use super::gauges;
use super::keys;
use super::problem::{Origin, Problem, Problems};
use super::reader::Settings;
use super::units::{show_duration, show_size};
use super::url::Url;
use super::value::{Kind, Value};
use super::watches;
use super::{
    Batching, Commands, Config, Delivery, Device, Durability, Exporter, Gauges, Logging,
    MqttUplink, OtlpPaths, OtlpUplink, Outbox, Paths, Receiver, Routes, Sampler, SpoolLimits, Tls,
    Tracing, UplinkName,
};
use super::{jobs, sensors, serial_lines};
use crate::clock::ClockTrust;
use crate::gauge::Family;

/// `sun_path` has 108 bytes, the last one for the end (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Fills every key that is still open and has a default.
pub(super) fn defaults(env: &Env, settings: &mut Settings, problems: &mut Problems) {
    let (state, how) = state_folder(env);
    if let Some(state) = state {
        settings.fill("paths.state", Value::Path(state), Origin::Found(how));
    }
    let state = match settings.get("paths.state") {
        Some(Value::Path(state)) => Some(state.clone()),
        _ => None,
    };
    if state.is_none() && problems.count().0 == 0 {
        problems.push(Problem::error(
            Origin::Default,
            "paths.state",
            "there is no folder for state: neither STATE_DIRECTORY nor HOME is set",
            "set paths.state in the configuration file",
        ));
    }
    let (runtime, how) = runtime_folder(env);
    match (runtime, state) {
        (Some(runtime), _) => {
            settings.fill("paths.runtime", Value::Path(runtime), Origin::Found(how))
        }
        (None, Some(state)) => {
            let run = Value::Path(state.join("run"));
            settings.fill("paths.runtime", run, Origin::Found("run in paths.state"));
        }
        (None, None) => {}
    }
    if let Some(Value::Path(runtime)) = settings.get("paths.runtime") {
        let status = Value::Path(runtime.join("status.sock"));
        let local = Value::Path(runtime.join("sonde.sock"));
        settings.fill(
            "paths.status_socket",
            status,
            Origin::Found("status.sock in paths.runtime"),
        );
        settings.fill(
            "paths.socket",
            local,
            Origin::Found("sonde.sock in paths.runtime"),
        );
    }
    let otlp = settings.get("uplink.otlp.endpoint").cloned();
    let mqtt = settings.get("uplink.mqtt.url").is_some();
    for (path, key) in keys::expanded(settings) {
        // An uplink that is not there has no defaults.
        let absent = (path.starts_with("uplink.otlp.") && otlp.is_none())
            || (path.starts_with("uplink.mqtt.") && !mqtt);
        if let (Some(default), false) = (key.default, absent)
            && let Ok(value) = DeValue::parse(default)
            && let Ok(value) = key.kind.read(value.get_ref(), Path::new("/"))
        {
            settings.fill(&path, value, Origin::Default);
        }
    }
    for family in Family::ALL {
        let interval = settings.get("gauges.interval").cloned();
        let path = format!("gauges.{}.interval", family.as_str());
        let slow = family.rhythm();
        match (interval, slow) {
            (Some(Value::Duration(every)), Some(slow)) if every < slow => {
                let slow = Value::Duration(slow);
                settings.fill(&path, slow, Origin::Found("this family's own default"));
            }
            (Some(interval), _) => {
                settings.fill(&path, interval, Origin::Found("gauges.interval"));
            }
            (None, _) => {}
        }
    }
    gauges::defaults(settings);
    if let Some(Value::Url(endpoint)) = otlp {
        for signal in ["metrics", "traces", "logs"] {
            let target = Value::Text(format!("{}/v1/{signal}", endpoint.path));
            settings.fill(
                &format!("uplink.otlp.{signal}_path"),
                target,
                Origin::Found("endpoint"),
            );
        }
    }
    let uplinks = match (settings.get("uplink.otlp.endpoint").is_some(), mqtt) {
        (true, _) => vec![UplinkName::Otlp],
        (false, true) => vec![UplinkName::Mqtt],
        (false, false) => vec![],
    };
    for signal in ["metrics", "traces", "logs"] {
        let names = Value::Uplinks(uplinks.clone());
        settings.fill(
            &format!("route.{signal}"),
            names,
            Origin::Found("the uplinks there are"),
        );
    }
}

/// Where state lies by default, and why there.
fn state_folder(env: &Env) -> (Option<PathBuf>, &'static str) {
    if let Some(folder) = env.folder("STATE_DIRECTORY") {
        return (Some(folder), "$STATE_DIRECTORY");
    }
    if env.root {
        return (Some("/var/lib/sonde".into()), "for root");
    }
    if let Some(folder) = env.folder("XDG_STATE_HOME") {
        return (Some(folder.join("sonde")), "$XDG_STATE_HOME");
    }
    let home = env
        .folder("HOME")
        .map(|home| home.join(".local/state/sonde"));
    (home, "$HOME")
}

/// Where sockets lie by default, and why there; `None`: below the state folder.
pub(super) fn runtime_folder(env: &Env) -> (Option<PathBuf>, &'static str) {
    if let Some(folder) = env.folder("RUNTIME_DIRECTORY") {
        return (Some(folder), "$RUNTIME_DIRECTORY");
    }
    if env.root {
        return (Some("/run/sonde".into()), "for root");
    }
    let xdg = env
        .folder("XDG_RUNTIME_DIR")
        .map(|folder| folder.join("sonde"));
    (xdg, "$XDG_RUNTIME_DIR")
}

/// Builds the configuration. It means something only if `problems` got no error.
pub(super) fn build(settings: &Settings, files: Vec<PathBuf>, problems: &mut Problems) -> Config {
    let builder = Builder { settings };
    let mut config = builder.config(files);
    config.jobs = jobs::build(settings, problems);
    config.custom = gauges::build(settings, problems);
    // Without gauges of its own the family has nothing to read, and none is
    // read while the family is off.
    if let Some(every) = config.gauges.families.remove(&Family::Custom) {
        let every = gauges::family_interval(every, &config.custom);
        config
            .gauges
            .families
            .extend(every.map(|every| (Family::Custom, every)));
    } else {
        config.custom.clear();
    }
    config.processes = watches::build(settings, problems);
    config.sensors = sensors::build(settings, problems);
    config.serial = serial_lines::build(settings, problems);
    if config.serial.is_empty() {
        config.gauges.families.remove(&Family::Serial);
    }
    if config.sensors.is_empty() {
        config.gauges.families.remove(&Family::Sensor);
    }
    if config.mqtt.is_none() {
        for name in config
            .jobs
            .iter()
            .filter(|(_, job)| job.remote)
            .map(|(name, _)| name)
        {
            let key = format!("job.{name}.remote");
            problems.push(Problem::warning(
                settings.origin(&key),
                &key,
                "has no effect without an MQTT uplink",
                "set uplink.mqtt.url, or remove it",
            ));
        }
    }
    builder.check(&config, problems);
    config
}

struct Builder<'a> {
    settings: &'a Settings,
}

/// Getters give a neutral value where a key has none: then its problem is
/// already on the list and the result is thrown away. A test proves that every
/// key of the table is there and of its kind when nothing is wrong.
impl Builder<'_> {
    fn text(&self, path: &str) -> Option<String> {
        match self.settings.get(path) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn flag(&self, path: &str) -> bool {
        matches!(self.settings.get(path), Some(Value::Flag(true)))
    }

    fn duration(&self, path: &str) -> Duration {
        self.maybe_duration(path).unwrap_or_default()
    }

    fn maybe_duration(&self, path: &str) -> Option<Duration> {
        match self.settings.get(path) {
            Some(Value::Duration(duration)) => Some(*duration),
            _ => None,
        }
    }

    fn size(&self, path: &str) -> Option<u64> {
        match self.settings.get(path) {
            Some(Value::Size(bytes)) => Some(*bytes),
            _ => None,
        }
    }

    fn ratio(&self, path: &str) -> f64 {
        match self.settings.get(path) {
            Some(Value::Ratio(ratio)) => *ratio,
            _ => 0.0,
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        match self.settings.get(path) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => None,
        }
    }

    fn url(&self, path: &str) -> Option<&Url> {
        match self.settings.get(path) {
            Some(Value::Url(url)) => Some(url),
            _ => None,
        }
    }

    fn whole(&self, path: &str) -> u32 {
        match self.settings.get(path) {
            Some(Value::Whole(number)) => u32::try_from(*number).unwrap_or(u32::MAX),
            _ => 1,
        }
    }

    fn prefixes(&self, path: &str) -> Vec<String> {
        match self.settings.get(path) {
            Some(Value::Prefixes(prefixes)) => prefixes.clone(),
            _ => Vec::new(),
        }
    }

    fn uplinks(&self, path: &str) -> Vec<UplinkName> {
        match self.settings.get(path) {
            Some(Value::Uplinks(names)) => names.clone(),
            _ => Vec::new(),
        }
    }

    fn table(&self, path: &str) -> BTreeMap<String, String> {
        match self.settings.get(path) {
            Some(Value::Table(table)) => table
                .iter()
                .map(|(k, (v, _))| (k.clone(), v.clone()))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    fn level(&self, path: &str) -> log::LevelFilter {
        let text = self.text(path).unwrap_or_default();
        text.parse().unwrap_or(log::LevelFilter::Info)
    }

    fn config(&self, files: Vec<PathBuf>) -> Config {
        let families = Family::ALL.into_iter().filter_map(|family| {
            let name = family.as_str();
            self.flag(&format!("gauges.{name}.enabled"))
                .then(|| (family, self.duration(&format!("gauges.{name}.interval"))))
        });
        Config {
            files,
            device: Device {
                id: self.text("device.id"),
                environment: self.text("device.environment"),
                attributes: self.table("device.attributes"),
                service_name: self.text("device.service_name").unwrap_or_default(),
            },
            paths: Paths {
                state: self.path("paths.state").unwrap_or_default(),
                runtime: self.path("paths.runtime").unwrap_or_default(),
                status_socket: self.path("paths.status_socket").unwrap_or_default(),
                socket: self.path("paths.socket").unwrap_or_default(),
                root: self.path("paths.root").unwrap_or_default(),
            },
            clock: match self.text("clock.trust").unwrap_or_default().as_str() {
                "always" => ClockTrust::Always,
                text => match text.strip_prefix("file:") {
                    Some(file) => ClockTrust::File(file.into()),
                    None => ClockTrust::Timesync,
                },
            },
            gauges: Gauges {
                families: families.collect(),
            },
            batch: Batching {
                length: self.duration("batch.length"),
            },
            spool: SpoolLimits {
                quota: self.size("spool.quota").unwrap_or_default(),
                reserve: self.size("spool.reserve").unwrap_or_default(),
                memory: self.size("spool.memory").unwrap_or_default(),
                loss_window: self.duration("spool.loss_window"),
                write_budget: self.size("spool.write_budget").unwrap_or_default(),
                durability: match self.text("spool.durability").as_deref() {
                    Some("always") => Durability::Always,
                    _ => Durability::Window,
                },
                outbox_in_memory: self.flag("spool.outbox_in_memory"),
            },
            receiver: Receiver {
                listen: self.listen(),
                allow_remote: self.flag("receiver.allow_remote"),
                max_request: self.whole_size("receiver.max_request"),
                request_rate: match self.settings.get("receiver.request_rate") {
                    Some(Value::Whole(rate)) => *rate,
                    _ => 1,
                },
                byte_rate: self.size("receiver.byte_rate").unwrap_or(1),
            },
            otlp: self.url("uplink.otlp.endpoint").map(|url| self.otlp(url)),
            mqtt: self.url("uplink.mqtt.url").map(|url| self.mqtt(url)),
            outbox: Outbox {
                allow: match self.settings.get("outbox.allow") {
                    Some(Value::Prefixes(prefixes)) => prefixes.clone(),
                    _ => Vec::new(),
                },
                rate: match self.settings.get("outbox.rate") {
                    Some(Value::Whole(rate)) => *rate,
                    _ => 0,
                },
                byte_rate: self.size("outbox.byte_rate").unwrap_or_default(),
            },
            commands: Commands {
                session_expiry: self.duration("commands.session_expiry"),
                per_minute: self.whole("commands.per_minute"),
                concurrent: usize::try_from(self.whole("commands.concurrent")).unwrap_or(1),
                remember: self.duration("commands.remember"),
                journal: self.size("commands.journal").unwrap_or_default(),
                response_topics: self.prefixes("commands.response_topics"),
            },
            routes: Routes {
                metrics: self.uplinks("route.metrics"),
                traces: self.uplinks("route.traces"),
                logs: self.uplinks("route.logs"),
            },
            trace: Tracing {
                sampler: self.sampler(),
                routine_ratio: self.ratio("trace.routine_ratio"),
                slow: self.duration("trace.slow"),
                slow_work: self.duration("trace.slow_work"),
                exporter: self.exporter(),
            },
            log: Logging {
                level: self.level("log.level"),
                send: self.level("log.send"),
            },
            custom: BTreeMap::new(),
            jobs: BTreeMap::new(),
            processes: BTreeMap::new(),
            sensors: Vec::new(),
            serial: BTreeMap::new(),
            shutdown: self.duration("shutdown.timeout"),
        }
    }

    fn whole_size(&self, path: &str) -> usize {
        let bytes = self.size(path).unwrap_or_default();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// `localhost` is what people write; which family it means is not looked up.
    fn listen(&self) -> Option<SocketAddr> {
        let text = self.text("receiver.listen")?;
        match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}").parse().ok(),
            None => text.parse().ok(),
        }
    }

    fn delivery(&self, uplink: &str) -> Delivery {
        let key = |name: &str| format!("uplink.{uplink}.{name}");
        Delivery {
            required: self.flag(&key("required")),
            timeout: self.duration(&key("timeout")),
            backoff: (
                self.duration(&key("backoff_min")),
                self.duration(&key("backoff_max")),
            ),
            backlog_rate: self.size(&key("backlog_rate")),
            first_send_jitter: self.duration(&key("first_send_jitter")),
        }
    }

    fn tls(&self, uplink: &str, url: &Url) -> Option<Tls> {
        let key = |name: &str| format!("uplink.{uplink}.tls.{name}");
        url.is_tls().then(|| Tls {
            ca_file: self.path(&key("ca_file")),
            cert_file: self.path(&key("cert_file")),
            key_file: self.path(&key("key_file")),
        })
    }

    fn otlp(&self, url: &Url) -> OtlpUplink {
        OtlpUplink {
            delivery: self.delivery("otlp"),
            tls: self.tls("otlp", url),
            host: url.host.clone(),
            port: url.port,
            paths: OtlpPaths {
                metrics: self.text("uplink.otlp.metrics_path").unwrap_or_default(),
                traces: self.text("uplink.otlp.traces_path").unwrap_or_default(),
                logs: self.text("uplink.otlp.logs_path").unwrap_or_default(),
            },
            headers: self.table("uplink.otlp.headers").into_iter().collect(),
            headers_file: self.path("uplink.otlp.headers_file"),
            gzip: self.text("uplink.otlp.compression").as_deref() == Some("gzip"),
        }
    }

    fn mqtt(&self, url: &Url) -> MqttUplink {
        MqttUplink {
            delivery: self.delivery("mqtt"),
            tls: self.tls("mqtt", url),
            host: url.host.clone(),
            port: url.port,
            client_id: self.text("uplink.mqtt.client_id"),
            username: self.text("uplink.mqtt.username"),
            password_file: self.path("uplink.mqtt.password_file"),
            keep_alive: self.duration("uplink.mqtt.keep_alive"),
            topic_prefix: self.text("uplink.mqtt.topic_prefix").unwrap_or_default(),
            message_expiry: self.maybe_duration("uplink.mqtt.message_expiry"),
            window: match self.settings.get("uplink.mqtt.window") {
                Some(Value::Whole(window)) => u16::try_from(*window).unwrap_or(u16::MAX),
                _ => 1,
            },
        }
    }

    fn exporter(&self) -> Exporter {
        let words = self.text("trace.exporter").unwrap_or_default();
        Exporter {
            otlp: words.split(',').any(|word| word == "otlp"),
            console: words.split(',').any(|word| word == "console"),
        }
    }

    fn sampler(&self) -> Sampler {
        let ratio = self.ratio("trace.ratio");
        match self.text("trace.sampler").as_deref() {
            Some("always_on") => Sampler::AlwaysOn,
            Some("always_off") => Sampler::AlwaysOff,
            Some("traceidratio") => Sampler::Ratio(ratio),
            Some("parentbased_always_off") => Sampler::ParentAlwaysOff,
            Some("parentbased_traceidratio") => Sampler::ParentRatio(ratio),
            _ => Sampler::ParentAlwaysOn,
        }
    }

    /// What no single key can know.
    fn check(&self, config: &Config, problems: &mut Problems) {
        let settings = self.settings;
        let mut error = |path: &str, what: String, fix: String| {
            problems.push(Problem::error(settings.origin(path), path, what, fix));
        };
        let two_batches = config.batch.length.saturating_mul(2);
        if config.spool.loss_window < two_batches {
            // The key that somebody set is the one to talk about.
            let key = match settings.origin("spool.loss_window") {
                Origin::Default => "batch.length",
                _ => "spool.loss_window",
            };
            error(
                key,
                format!(
                    "the loss window of {} is shorter than two batches of {}",
                    show_duration(config.spool.loss_window),
                    show_duration(config.batch.length)
                ),
                format!(
                    "set spool.loss_window to at least \"{}\", or batch.length to at most \"{}\"",
                    show_duration(two_batches),
                    show_duration(config.spool.loss_window / 2)
                ),
            );
        }
        if config.spool.memory > config.spool.quota {
            error(
                "spool.memory",
                format!(
                    "is more than spool.quota, {}",
                    show_size(config.spool.quota)
                ),
                "what is in memory must fit on flash when the link is down".into(),
            );
        }
        for (key, socket) in [
            ("paths.status_socket", &config.paths.status_socket),
            ("paths.socket", &config.paths.socket),
        ] {
            let length = socket.as_os_str().len();
            if length > SOCKET_PATH_MAX {
                error(
                    key,
                    format!("is {length} bytes long"),
                    format!(
                        "a socket's path has at most {SOCKET_PATH_MAX}; set a shorter paths.runtime or {key}"
                    ),
                );
            }
        }
        if config.paths.socket == config.paths.status_socket {
            error(
                "paths.socket",
                "is the same as paths.status_socket".into(),
                "give each a name of its own".into(),
            );
        }
        if let Some(text) = self.text("receiver.listen") {
            match config.receiver.listen {
                None => error(
                    "receiver.listen",
                    format!("{text:?} is no address and port"),
                    "write it as \"127.0.0.1:4318\" or \"[::1]:4318\"".into(),
                ),
                Some(at) if at.port() == 0 => error(
                    "receiver.listen",
                    "has the port 0, which nobody can know".into(),
                    "OTLP's own is 4318".into(),
                ),
                Some(at) if !at.ip().is_loopback() && !config.receiver.allow_remote => error(
                    "receiver.listen",
                    format!(
                        "other machines may reach {}, and it asks for no password",
                        at.ip()
                    ),
                    "use 127.0.0.1 or [::1]; or set receiver.allow_remote = true".into(),
                ),
                Some(_) => {}
            }
        }
        for (signal, names) in [
            ("metrics", &config.routes.metrics),
            ("traces", &config.routes.traces),
            ("logs", &config.routes.logs),
        ] {
            for name in names {
                let (there, key) = match name {
                    UplinkName::Otlp => (config.otlp.is_some(), "endpoint"),
                    UplinkName::Mqtt => (config.mqtt.is_some(), "url"),
                };
                if !there {
                    let name = name.as_str();
                    error(
                        &format!("route.{signal}"),
                        format!("names the uplink {name}, which is not configured"),
                        format!("set uplink.{name}.{key}, or remove it here"),
                    );
                }
            }
        }
        for (uplink, key, there, delivery, tls) in [
            (
                "otlp",
                "endpoint",
                config.otlp.is_some(),
                config.otlp.as_ref().map(|u| &u.delivery),
                config.otlp.as_ref().map(|u| u.tls.is_some()),
            ),
            (
                "mqtt",
                "url",
                config.mqtt.is_some(),
                config.mqtt.as_ref().map(|u| &u.delivery),
                config.mqtt.as_ref().map(|u| u.tls.is_some()),
            ),
        ] {
            let section = format!("uplink.{uplink}");
            if let (false, Some(origin)) = (there, settings.in_file(&section)) {
                problems.push(Problem::error(
                    origin,
                    &format!("{section}.{key}"),
                    "is missing, and without it this uplink goes nowhere",
                    format!("add {key} to [{section}], or remove the section"),
                ));
                continue;
            }
            if let Some(Delivery {
                backoff: (min, max),
                ..
            }) = delivery
                && min > max
            {
                let path = format!("{section}.backoff_min");
                problems.push(Problem::error(
                    settings.origin(&path),
                    &path,
                    format!("is longer than backoff_max, {}", show_duration(*max)),
                    "make it shorter, or backoff_max longer",
                ));
            }
            self.check_tls(&section, tls, problems);
        }
        self.warn(config, problems);
    }

    fn check_tls(&self, section: &str, tls: Option<bool>, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.tls.{name}");
        if let (Some(false), Some(origin)) = (tls, self.settings.in_file(&format!("{section}.tls")))
        {
            problems.push(Problem::error(
                origin,
                &format!("{section}.tls"),
                "is set, but the uplink's address is one without TLS",
                "use https:// or mqtts://, or remove the section",
            ));
        }
        for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
            let (one, other) = (key(one), key(other));
            if tls.is_some() && self.path(&one).is_some() && self.path(&other).is_none() {
                problems.push(Problem::error(
                    self.settings.origin(&one),
                    &one,
                    format!("needs {other}"),
                    "a client certificate and its key go together: set both or none",
                ));
            }
        }
    }

    /// What works, and someone should know.
    fn warn(&self, config: &Config, problems: &mut Problems) {
        if config.otlp.is_none() && config.mqtt.is_none() {
            problems.push(Problem::warning(
                Origin::Default,
                "uplink",
                "none is configured, so nothing leaves this machine",
                "set uplink.otlp.endpoint or uplink.mqtt.url",
            ));
        }
        if config.mqtt.is_none() && !config.outbox.allow.is_empty() {
            problems.push(Problem::warning(
                self.settings.origin("outbox.allow"),
                "outbox.allow",
                "has no effect without an MQTT uplink",
                "set uplink.mqtt.url, or remove it",
            ));
        }
        let by_ratio = matches!(
            config.trace.sampler,
            Sampler::Ratio(_) | Sampler::ParentRatio(_)
        );
        if !by_ratio && !matches!(self.settings.origin("trace.ratio"), Origin::Default) {
            problems.push(Problem::warning(
                self.settings.origin("trace.ratio"),
                "trace.ratio",
                "has no effect with this trace.sampler",
                "use \"parentbased_traceidratio\", or remove the ratio",
            ));
        }
        for (path, setting) in &self.settings.0 {
            let kind = keys::key(path).map(|key| key.kind);
            let uplink = path.starts_with("uplink.");
            if let (Value::Path(file), Some(kind @ (Kind::Path | Kind::Secret)), true) =
                (&setting.value, kind, uplink)
                && let Some((what, fix)) = file_warning(file, kind == Kind::Secret)
            {
                problems.push(Problem::warning(setting.origin.clone(), path, what, fix));
            }
        }
    }
}

/// What is wrong with a file that will be read later. Never an error: a
/// gateway's first start without its credentials is normal, and frames wait.
fn file_warning(file: &Path, secret: bool) -> Option<(String, String)> {
    let shown = file.display();
    let held = "the uplink tries again at each connection; until then its data waits";
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some((format!("{shown} does not exist"), held.into()));
        }
        Err(error) => return Some((format!("{shown} cannot be looked at: {error}"), held.into())),
    };
    // Opening anything else, such as a FIFO, could wait for ever.
    if !meta.is_file() {
        return Some((format!("{shown} is not a regular file"), held.into()));
    }
    if let Err(error) = std::fs::File::open(file) {
        return Some((format!("{shown} cannot be read: {error}"), held.into()));
    }
    if secret && meta.mode() & 0o004 != 0 {
        return Some((
            format!("{shown} can be read by every user of this machine"),
            format!("run: chmod o-rwx {shown}"),
        ));
    }
    None
}
