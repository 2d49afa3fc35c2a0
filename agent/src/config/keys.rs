//! Every key there is: one table that drives the reader, the default file, the
//! man page and docs/CONFIG.md, so that none of them can know a key or a limit
//! that the others do not.

use crate::gauge::Family;

use super::reader::Settings;
use super::value::Kind;

/// A key of the file. `*` in a path stands for each gauge family, a part in
/// capitals for any name that somebody gives to a table of the kind.
#[derive(Debug)]
pub struct Key {
    /// Dotted path.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as TOML; `None`: it has none, and `unset` says what happens.
    pub default: Option<&'static str>,
    /// What happens without it, or where a computed default comes from.
    pub unset: &'static str,
    /// What to show in the commented default file where there is no default.
    pub example: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// A section and what it is about.
#[derive(Debug)]
pub struct Section {
    /// Dotted path.
    pub path: &'static str,
    /// One sentence.
    pub help: &'static str,
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const LEVELS: Kind = Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]);

/// The words of `trace.exporter`, as in `OTEL_TRACES_EXPORTER`.
pub const EXPORTERS: [&str; 5] = ["otlp", "console", "otlp,console", "console,otlp", "none"];

/// The words of `trace.sampler`, as in `OTEL_TRACES_SAMPLER`.
pub const SAMPLERS: [&str; 6] = [
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
    "always_on",
    "always_off",
    "traceidratio",
];

const fn with(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        path,
        kind,
        default: Some(default),
        unset: "",
        example: "",
        help,
    }
}

const fn without(
    path: &'static str,
    kind: Kind,
    unset: &'static str,
    example: &'static str,
    help: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default: None,
        unset,
        example,
        help,
    }
}

/// Sections, in the order in which people read them.
pub static SECTIONS: &[Section] = &[
    Section {
        path: "device",
        help: "Who this gateway is. Everything it sends carries this.",
    },
    Section {
        path: "device.attributes",
        help: "Further OTLP resource attributes, such as site = \"plant 7\".",
    },
    Section {
        path: "paths",
        help: "Folders and sockets.",
    },
    Section {
        path: "clock",
        help: "When to believe the wall clock.",
    },
    Section {
        path: "gauges",
        help: "What is sampled, and how often.",
    },
    Section {
        path: "gauges.*",
        help: "One family: cpu, load, memory, filesystem, disk, network, temperature, process (this program), custom (what [gauge.NAME] describes), sensor (on the gateway's buses), serial (microcontrollers), agent (its own workings) or runtime (the same in detail, for debugging).",
    },
    Section {
        path: "gauge.NAME",
        help: "A gauge of your own: a number from a file, from what a program prints, or pushed by a local program. docs/CUSTOM_GAUGES.md has examples.",
    },
    Section {
        path: "gauge.NAME.attributes",
        help: "Attributes that every value of it carries, such as line = \"3\"; at most 16.",
    },
    Section {
        path: "gauge.NAME.environment",
        help: "Variables for the gauge's command besides the few that every program gets.",
    },
    Section {
        path: "batch",
        help: "How readings become batches: longer ones cost fewer bytes a point.",
    },
    Section {
        path: "spool",
        help: "What waits for an uplink: in memory first, on flash when needed.",
    },
    Section {
        path: "receiver",
        help: "OTLP from programs on this machine: on paths.socket always, on a port if one is named.",
    },
    Section {
        path: "uplink.otlp",
        help: "OTLP over HTTP, to any OpenTelemetry collector or back end.",
    },
    Section {
        path: "uplink.otlp.headers",
        help: "HTTP headers that are not secret, such as x-scope-orgid = \"tenant\".",
    },
    Section {
        path: "uplink.otlp.tls",
        help: "What TLS trusts and shows; files are read again at each connection.",
    },
    Section {
        path: "uplink.mqtt",
        help: "MQTT 5, to any broker.",
    },
    Section {
        path: "uplink.mqtt.tls",
        help: "What TLS trusts and shows; files are read again at each connection.",
    },
    Section {
        path: "outbox",
        help: "MQTT messages of local programs: stored, then sent in order.",
    },
    Section {
        path: "commands",
        help: "Jobs over MQTT (docs/COMMANDS.md). Nothing is taken unless a job says remote = true and an MQTT uplink is configured.",
    },
    Section {
        path: "route",
        help: "Which uplinks each signal goes to. [] keeps a signal from being sent.",
    },
    Section {
        path: "trace",
        help: "Which spans of the agent's own work are kept.",
    },
    Section {
        path: "log",
        help: "The agent's own log.",
    },
    Section {
        path: "job.NAME",
        help: "Work that may be run here: a program or a systemd unit, by schedule or when asked. Every run is a span. docs/JOBS.md has examples.",
    },
    Section {
        path: "job.NAME.environment",
        help: "Variables for the job's programs besides the few that every run gets.",
    },
    Section {
        path: "job.NAME.limits",
        help: "What a run may use; memory, cpu and tasks need a delegated cgroup.",
    },
    Section {
        path: "job.NAME.arguments.ARG",
        help: "What an order may say, and what {ARG} in the job's command stands for.",
    },
    Section {
        path: "process.NAME",
        help: "Another program's process to watch: its memory, CPU, I/O and restarts, read with the family process (docs/GAUGES.md).",
    },
    Section {
        path: "sensor.NAME",
        help: "A sensor on a bus of the gateway (docs/SENSORS.md).",
    },
    Section {
        path: "serial.NAME",
        help: "A serial line on which microcontrollers report readings (docs/SERIAL.md).",
    },
    Section {
        path: "serial.NAME.gauges.GAUGE",
        help: "What a sender's gauge measures, where the sender does not say so itself, or says it wrong.",
    },
    Section {
        path: "shutdown",
        help: "How the agent ends.",
    },
];

/// Keys, in the order of [`SECTIONS`].
pub static KEYS: &[Key] = &[
    without(
        "device.id",
        Kind::Name,
        "device-tree serial, else machine id, else host name",
        "\"gw-0017\"",
        "Unique name of this gateway (device.id).",
    ),
    without(
        "device.environment",
        Kind::Text,
        "not sent",
        "\"production\"",
        "What it serves, such as production or test (deployment.environment.name).",
    ),
    with(
        "device.service_name",
        Kind::Text,
        "\"sonde\"",
        "service.name of the agent's own telemetry.",
    ),
    without(
        "device.attributes",
        Kind::Attributes,
        "none",
        "",
        "Further resource attributes, a name and a text each.",
    ),
    without(
        "paths.state",
        Kind::Path,
        "$STATE_DIRECTORY, else /var/lib/sonde for root, else $XDG_STATE_HOME/sonde or ~/.local/state/sonde",
        "\"/var/lib/sonde\"",
        "What must survive a reboot; the spool lies in its folder spool.",
    ),
    without(
        "paths.runtime",
        Kind::Path,
        "$RUNTIME_DIRECTORY, else /run/sonde for root, else $XDG_RUNTIME_DIR/sonde, else the folder run in paths.state",
        "\"/run/sonde\"",
        "What need not survive a reboot: sockets.",
    ),
    without(
        "paths.status_socket",
        Kind::Path,
        "status.sock in paths.runtime",
        "\"/run/sonde/status.sock\"",
        "Where `sonde status` asks; at most 107 bytes.",
    ),
    without(
        "paths.socket",
        Kind::Path,
        "sonde.sock in paths.runtime",
        "\"/run/sonde/sonde.sock\"",
        "Where local programs send telemetry and messages; at most 107 bytes.",
    ),
    with(
        "paths.root",
        Kind::Path,
        "\"/\"",
        "Where /proc, /sys and /etc are looked for; another folder only in tests and containers.",
    ),
    with(
        "clock.trust",
        Kind::ClockTrust,
        "\"timesync\"",
        "\"timesync\": systemd-timesyncd says so; \"file:/PATH\": once that file exists, such as a GPS daemon's; \"always\": this gateway has a battery clock.",
    ),
    with(
        "gauges.interval",
        Kind::Duration(100, DAY),
        "\"10s\"",
        "How often each family is read that says nothing else.",
    ),
    without(
        "gauges.*.interval",
        Kind::Duration(100, DAY),
        "gauges.interval, but at least 30s for hardware, 60s for kernel, link, watchdog, clock and runtime, 300s for flash",
        "\"60s\"",
        "How often this family is read.",
    ),
    with(
        "gauges.*.enabled",
        Kind::Flag,
        "true",
        "Whether this family is read.",
    ),
    without(
        "gauge.NAME.file",
        Kind::Path,
        "a gauge has file, command or push",
        "\"/sys/class/hwmon/hwmon0/temp1_input\"",
        "A regular file of up to 64 KiB with the number in it; opened anew at each reading.",
    ),
    without(
        "gauge.NAME.command",
        Kind::Words,
        "a gauge has file, command or push",
        "[\"/usr/bin/mmcli\", \"-m\", \"0\", \"--signal-get\"]",
        "A program and its arguments that prints the number. No shell; at most 4 run at once.",
    ),
    with(
        "gauge.NAME.push",
        Kind::Flag,
        "false",
        "Local programs push the number: `sonde gauge NAME VALUE`, or POST /gauge on paths.socket.",
    ),
    with(
        "gauge.NAME.enabled",
        Kind::Flag,
        "true",
        "Whether it is read; false is how a drop-in switches one off.",
    ),
    without(
        "gauge.NAME.name",
        Kind::Text,
        "NAME of the table",
        "\"modem.signal\"",
        "The metric's name, by OpenTelemetry's rules: letters, digits and _ . - /, a letter first.",
    ),
    with(
        "gauge.NAME.unit",
        Kind::Text,
        "\"1\"",
        "Its unit, in UCUM: \"Cel\", \"By/s\", \"%\", \"{packet}\".",
    ),
    with(
        "gauge.NAME.kind",
        Kind::Choice(&["gauge", "counter", "updowncounter"]),
        "\"gauge\"",
        "\"gauge\": a last value; \"counter\": a sum that only grows, or begins again; \"updowncounter\": a sum that may fall.",
    ),
    without(
        "gauge.NAME.description",
        Kind::Text,
        "none",
        "\"Signal of the modem.\"",
        "One sentence, sent with each batch.",
    ),
    without(
        "gauge.NAME.pattern",
        Kind::Text,
        "the text is the number",
        "\"rssi: {} dBm\"",
        "Where in a line the number {} stands; {_} is any word, blanks are any blanks.",
    ),
    without(
        "gauge.NAME.pointer",
        Kind::Text,
        "the text is the number",
        "\"/modem/signal/rssi\"",
        "The text is JSON, and this JSON pointer (RFC 6901) leads to the number.",
    ),
    with(
        "gauge.NAME.scale",
        Kind::Number,
        "1",
        "The number is multiplied by this.",
    ),
    with(
        "gauge.NAME.offset",
        Kind::Number,
        "0",
        "Then this is added.",
    ),
    without(
        "gauge.NAME.min",
        Kind::Number,
        "no limit; 0 for a counter",
        "-120",
        "The least that the value can be then; less is no value but garbage.",
    ),
    without(
        "gauge.NAME.max",
        Kind::Number,
        "no limit",
        "0",
        "The most that the value can be then.",
    ),
    without(
        "gauge.NAME.resolution",
        Kind::Number,
        "not rounded",
        "0.1",
        "Then it is rounded to a multiple of this. A whole one, such as 1, makes whole numbers.",
    ),
    without(
        "gauge.NAME.interval",
        Kind::Duration(100, DAY),
        "gauges.custom.interval",
        "\"60s\"",
        "How often it is read, or taken over from where it was pushed; a command at most each second.",
    ),
    with(
        "gauge.NAME.timeout",
        Kind::Duration(100, HOUR),
        "\"10s\"",
        "The longest that the command may run; then it and all that it started is ended.",
    ),
    with(
        "gauge.NAME.output_limit",
        Kind::Size(16, MIB),
        "\"64KiB\"",
        "Bytes that the command may print; more is garbage.",
    ),
    with(
        "gauge.NAME.max_series",
        Kind::Whole(1, 256),
        "16",
        "Sets of attributes that may be pushed; more are refused.",
    ),
    with(
        "gauge.NAME.expires",
        Kind::Duration(SECOND, DAY),
        "\"5m\"",
        "A pushed value that is older is none any more.",
    ),
    without(
        "gauge.NAME.attributes",
        Kind::Attributes,
        "none",
        "",
        "Attributes, a name and a text each.",
    ),
    without(
        "gauge.NAME.environment",
        Kind::Environment,
        "none",
        "",
        "Variables, a name and a text each.",
    ),
    with(
        "batch.length",
        Kind::Duration(SECOND, HOUR),
        "\"30s\"",
        "A batch is sealed when its first reading is this old, or later while no required uplink is up: as late as spool.loss_window allows.",
    ),
    with(
        "spool.quota",
        Kind::Size(2 * MIB, TIB),
        "\"64MiB\"",
        "Bytes that the spool's files may occupy.",
    ),
    with(
        "spool.reserve",
        Kind::Size(0, TIB),
        "\"32MiB\"",
        "Bytes that stay free on the spool's file system.",
    ),
    with(
        "spool.memory",
        Kind::Size(64 * KIB, 1024 * MIB),
        "\"1MiB\"",
        "Bytes of batches kept in memory.",
    ),
    with(
        "spool.loss_window",
        Kind::Duration(2 * SECOND, DAY),
        "\"60s\"",
        "The most that a power cut may cost; at least two batches long.",
    ),
    with(
        "spool.write_budget",
        Kind::Size(0, TIB),
        "\"128MiB\"",
        "Bytes a day that writing may cost the flash, journal included; as it drains the loss window stretches, up to 16 times. 0: no target.",
    ),
    with(
        "spool.durability",
        Kind::Choice(&["window", "always"]),
        "\"window\"",
        "\"window\": flash is written when a required uplink is down or the loss window is about to pass; \"always\": before anything is sent.",
    ),
    with(
        "spool.outbox_in_memory",
        Kind::Flag,
        "false",
        "Accept local programs' messages while the disk fails or is absent: a power cut then loses what was acknowledged. Otherwise they are refused.",
    ),
    without(
        "receiver.listen",
        Kind::Text,
        "no port, paths.socket only",
        "\"127.0.0.1:4318\"",
        "Address and port for programs that cannot dial a Unix socket. Whoever reaches it may send: it asks for no password.",
    ),
    with(
        "receiver.allow_remote",
        Kind::Flag,
        "false",
        "Whether receiver.listen may be an address that other machines reach.",
    ),
    with(
        "receiver.max_request",
        Kind::Size(64 * KIB, 64 * MIB),
        "\"4MiB\"",
        "The longest request, packed or unpacked; twice this is the most memory that requests take.",
    ),
    with(
        "receiver.request_rate",
        Kind::Whole(1, 100_000),
        "100",
        "Requests a second, of all programs together; four seconds' worth may come at once.",
    ),
    with(
        "receiver.byte_rate",
        Kind::Size(KIB, TIB),
        "\"4MiB\"",
        "Unpacked bytes a second, of all programs together; four seconds' worth may come at once.",
    ),
    without(
        "uplink.otlp.endpoint",
        Kind::Url(&["http", "https"], true),
        "no OTLP uplink",
        "\"https://otel.example.com:4318\"",
        "Base URL; /v1/metrics, /v1/traces and /v1/logs are appended.",
    ),
    without(
        "uplink.otlp.metrics_path",
        Kind::Target,
        "the endpoint's path and /v1/metrics",
        "\"/v1/metrics\"",
        "Where metrics go, used as it is.",
    ),
    without(
        "uplink.otlp.traces_path",
        Kind::Target,
        "the endpoint's path and /v1/traces",
        "\"/v1/traces\"",
        "Where traces go, used as it is.",
    ),
    without(
        "uplink.otlp.logs_path",
        Kind::Target,
        "the endpoint's path and /v1/logs",
        "\"/v1/logs\"",
        "Where logs go, used as it is.",
    ),
    without(
        "uplink.otlp.headers_file",
        Kind::Secret,
        "no secret headers",
        "\"/etc/sonde/otlp-headers\"",
        "File of `Name: value` lines (such as Authorization), read at each connection and after a 401 or 403.",
    ),
    with(
        "uplink.otlp.compression",
        Kind::Choice(&["gzip", "none"]),
        "\"gzip\"",
        "How bodies travel.",
    ),
    with(
        "uplink.otlp.required",
        Kind::Flag,
        "true",
        "Frames are kept until this uplink has acknowledged them.",
    ),
    with(
        "uplink.otlp.timeout",
        Kind::Duration(SECOND, 600 * SECOND),
        "\"10s\"",
        "The longest that a request or a connection attempt may take.",
    ),
    with(
        "uplink.otlp.backoff_min",
        Kind::Duration(100, HOUR),
        "\"1s\"",
        "First wait between attempts; the wait is a random part of it.",
    ),
    with(
        "uplink.otlp.backoff_max",
        Kind::Duration(SECOND, DAY),
        "\"5m\"",
        "Longest wait between attempts.",
    ),
    without(
        "uplink.otlp.backlog_rate",
        Kind::Size(KIB, TIB),
        "as fast as it goes",
        "\"64KiB\"",
        "Bytes a second that a backlog may take.",
    ),
    with(
        "uplink.otlp.first_send_jitter",
        Kind::Duration(0, HOUR),
        "\"10s\"",
        "The first send after a reconnect waits a random part of this, so that a fleet does not stampede.",
    ),
    without(
        "uplink.otlp.headers",
        Kind::Headers,
        "none",
        "",
        "HTTP headers that are not secret, a name and a text each.",
    ),
    without(
        "uplink.otlp.tls.ca_file",
        Kind::Path,
        "the system's roots",
        "\"/etc/sonde/ca.pem\"",
        "PEM file of the roots to trust.",
    ),
    without(
        "uplink.otlp.tls.cert_file",
        Kind::Path,
        "no client certificate",
        "\"/etc/sonde/client.pem\"",
        "PEM client certificate chain; needs key_file.",
    ),
    without(
        "uplink.otlp.tls.key_file",
        Kind::Secret,
        "no client certificate",
        "\"/etc/sonde/client.key\"",
        "PEM client key; needs cert_file.",
    ),
    without(
        "uplink.mqtt.url",
        Kind::Url(&["mqtt", "mqtts"], false),
        "no MQTT uplink",
        "\"mqtts://broker.example.com:8883\"",
        "The broker; mqtts is TLS.",
    ),
    without(
        "uplink.mqtt.client_id",
        Kind::Name,
        "sonde-{device.id}",
        "\"gw-0017\"",
        "MQTT client identifier, unique at the broker.",
    ),
    without(
        "uplink.mqtt.username",
        Kind::Text,
        "none",
        "\"gw-0017\"",
        "User name.",
    ),
    without(
        "uplink.mqtt.password_file",
        Kind::Secret,
        "no password",
        "\"/etc/sonde/mqtt-password\"",
        "File that holds the password, read at each connection.",
    ),
    with(
        "uplink.mqtt.keep_alive",
        Kind::Duration(5 * SECOND, 65_535 * SECOND),
        "\"60s\"",
        "Keep-alive; a dead link is noticed within two of them.",
    ),
    with(
        "uplink.mqtt.topic_prefix",
        Kind::Topic,
        "\"sonde/{device.id}\"",
        "What topics start with.",
    ),
    without(
        "uplink.mqtt.message_expiry",
        Kind::Duration(SECOND, 3_650 * DAY),
        "for ever",
        "\"1d\"",
        "How long the broker may keep an undelivered telemetry message.",
    ),
    with(
        "uplink.mqtt.window",
        Kind::Whole(1, 1024),
        "16",
        "Unacknowledged publishes at a time.",
    ),
    with(
        "uplink.mqtt.required",
        Kind::Flag,
        "true",
        "Frames are kept until this uplink has acknowledged them.",
    ),
    with(
        "uplink.mqtt.timeout",
        Kind::Duration(SECOND, 600 * SECOND),
        "\"10s\"",
        "The longest that a connection attempt may take.",
    ),
    with(
        "uplink.mqtt.backoff_min",
        Kind::Duration(100, HOUR),
        "\"1s\"",
        "First wait between attempts; the wait is a random part of it.",
    ),
    with(
        "uplink.mqtt.backoff_max",
        Kind::Duration(SECOND, DAY),
        "\"5m\"",
        "Longest wait between attempts.",
    ),
    without(
        "uplink.mqtt.backlog_rate",
        Kind::Size(KIB, TIB),
        "as fast as it goes",
        "\"64KiB\"",
        "Bytes a second that a backlog may take.",
    ),
    with(
        "uplink.mqtt.first_send_jitter",
        Kind::Duration(0, HOUR),
        "\"10s\"",
        "The first send after a reconnect waits a random part of this, so that a fleet does not stampede.",
    ),
    without(
        "uplink.mqtt.tls.ca_file",
        Kind::Path,
        "the system's roots",
        "\"/etc/sonde/ca.pem\"",
        "PEM file of the roots to trust.",
    ),
    without(
        "uplink.mqtt.tls.cert_file",
        Kind::Path,
        "no client certificate",
        "\"/etc/sonde/client.pem\"",
        "PEM client certificate chain; needs key_file.",
    ),
    without(
        "uplink.mqtt.tls.key_file",
        Kind::Secret,
        "no client certificate",
        "\"/etc/sonde/client.key\"",
        "PEM client key; needs cert_file.",
    ),
    with(
        "outbox.allow",
        Kind::Prefixes,
        "[]",
        "Topic prefixes, of whole levels, that local programs may publish under; [\"#\"] is all but the agent's own topics.",
    ),
    with(
        "outbox.rate",
        Kind::Whole(1, 10_000),
        "100",
        "Messages a second from all local programs together; ten seconds' worth may come at once.",
    ),
    with(
        "outbox.byte_rate",
        Kind::Size(KIB, 1024 * MIB),
        "\"256KiB\"",
        "Bytes a second from all local programs together; ten seconds' worth may come at once.",
    ),
    with(
        "commands.session_expiry",
        Kind::Duration(60 * SECOND, 365 * DAY),
        "\"1d\"",
        "How long the broker keeps commands for this device while there is no connection.",
    ),
    with(
        "commands.per_minute",
        Kind::Whole(1, 60_000),
        "60",
        "Commands taken in a minute, and at once.",
    ),
    with(
        "commands.concurrent",
        Kind::Whole(1, 256),
        "8",
        "Commands that are taken and not over; one more is refused.",
    ),
    with(
        "commands.remember",
        Kind::Duration(60 * SECOND, 30 * DAY),
        "\"1d\"",
        "How long a command is known again when it comes again; less if its own expiry is shorter.",
    ),
    with(
        "commands.journal",
        Kind::Size(64 * KIB, 64 * MIB),
        "\"2MiB\"",
        "Bytes on flash for what is remembered of commands; a quarter of them in memory too.",
    ),
    with(
        "commands.response_topics",
        Kind::Prefixes,
        "[]",
        "Topic prefixes, of whole levels, that a command's Response Topic may have besides {topic_prefix}/response.",
    ),
    without(
        "route.metrics",
        Kind::Uplinks,
        "otlp if it is configured, else mqtt",
        "[\"otlp\"]",
        "Gauges.",
    ),
    without(
        "route.traces",
        Kind::Uplinks,
        "otlp if it is configured, else mqtt",
        "[\"otlp\"]",
        "Spans.",
    ),
    without(
        "route.logs",
        Kind::Uplinks,
        "otlp if it is configured, else mqtt",
        "[\"otlp\"]",
        "Log records.",
    ),
    with(
        "trace.sampler",
        Kind::Choice(&SAMPLERS),
        "\"parentbased_always_on\"",
        "OpenTelemetry's sampler for spans that are not routine.",
    ),
    with(
        "trace.ratio",
        Kind::Ratio,
        "1.0",
        "For the two samplers that keep a part.",
    ),
    with(
        "trace.routine_ratio",
        Kind::Ratio,
        "0.01",
        "Part of healthy ticks, flushes and batches whose spans are sent; failed and slow ones always are.",
    ),
    with(
        "trace.slow",
        Kind::Duration(1, HOUR),
        "\"1s\"",
        "A routine span that takes longer is kept whatever the ratio says.",
    ),
    with(
        "trace.slow_work",
        Kind::Duration(1, DAY),
        "\"10s\"",
        "Any other local trace that takes longer is kept whatever the sampler says, as is one with an error in it, unless the sampler is one of the two that are off; its sampled flag stays 0.",
    ),
    with(
        "trace.exporter",
        Kind::Choice(&EXPORTERS),
        "\"otlp\"",
        "Where the agent's own spans go: to the uplinks, to standard output (for development), to both, or nowhere.",
    ),
    with(
        "log.level",
        LEVELS,
        "\"info\"",
        "The least important level on standard error.",
    ),
    with(
        "log.send",
        LEVELS,
        "\"warn\"",
        "The least important level that is sent upstream.",
    ),
    without(
        "job.NAME.command",
        Kind::Words,
        "none; a job has this or unit",
        "[\"/usr/bin/backup\", \"--site={ARG}\"]",
        "The program and its arguments, an element each; no shell reads them. {ARG} is that argument's value, and an element with an argument that has none is left out; {{ARG}} is the text {ARG}. A program without a / is looked for in PATH.",
    ),
    without(
        "job.NAME.unit",
        Kind::Unit,
        "none; a job has this or command",
        "\"backup.service\"",
        "A systemd unit that is started and waited for, with the rights that polkit gives the agent's user.",
    ),
    with(
        "job.NAME.enabled",
        Kind::Flag,
        "true",
        "false: as if it were not in the file.",
    ),
    with(
        "job.NAME.remote",
        Kind::Flag,
        "false",
        "A command over MQTT may start it.",
    ),
    with(
        "job.NAME.idempotent",
        Kind::Flag,
        "false",
        "Running it twice does no harm: an order that was interrupted may be performed again.",
    ),
    with(
        "job.NAME.directory",
        Kind::Path,
        "\"/\"",
        "Where its programs start.",
    ),
    with(
        "job.NAME.timeout",
        Kind::Duration(100, 7 * DAY),
        "\"5m\"",
        "From the start to SIGTERM for all of it. A suspend does not count.",
    ),
    with(
        "job.NAME.grace",
        Kind::Duration(0, HOUR),
        "\"5s\"",
        "From SIGTERM to SIGKILL; at shutdown at most a second.",
    ),
    without(
        "job.NAME.every",
        Kind::Duration(SECOND, 366 * DAY),
        "it runs only when asked",
        "\"1h\"",
        "It runs by itself this often; times missed during a suspend are one run.",
    ),
    with(
        "job.NAME.jitter",
        Kind::Duration(0, DAY),
        "\"0s\"",
        "Each scheduled run starts up to this much later, by chance, so that a fleet does not start at once.",
    ),
    with(
        "job.NAME.at_start",
        Kind::Flag,
        "false",
        "The first scheduled run comes at the agent's start, not one interval later.",
    ),
    with(
        "job.NAME.concurrency",
        Kind::Choice(&["refuse", "queue", "parallel"]),
        "\"refuse\"",
        "When it is wanted while it runs: refuse the later one, queue it, or run both.",
    ),
    with(
        "job.NAME.concurrency_max",
        Kind::Whole(1, 16),
        "4",
        "How many may wait (queue) or run at once (parallel). All jobs together have 16 places.",
    ),
    with(
        "job.NAME.output_limit",
        Kind::Size(0, 256 * KIB),
        "\"16KiB\"",
        "Kept of standard output and of standard error each: the beginning and the end.",
    ),
    without(
        "job.NAME.environment",
        Kind::Environment,
        "none",
        "",
        "Variables, a name and a text each; PATH is where programs are looked for.",
    ),
    without(
        "job.NAME.limits.memory",
        Kind::Size(MIB, TIB),
        "the agent's own limit",
        "\"16MiB\"",
        "Memory of all its processes together (cgroup memory.max).",
    ),
    without(
        "job.NAME.limits.cpu",
        Kind::Whole(1, 6400),
        "the agent's own limit",
        "20",
        "Percent of one CPU (cgroup cpu.max).",
    ),
    without(
        "job.NAME.limits.tasks",
        Kind::Whole(1, 10_000),
        "the agent's own limit",
        "8",
        "Processes and threads (cgroup pids.max).",
    ),
    without(
        "job.NAME.limits.nice",
        Kind::Whole(0, 19),
        "the agent's own niceness",
        "10",
        "Added to the agent's own niceness.",
    ),
    without(
        "job.NAME.limits.file_size",
        Kind::Size(0, TIB),
        "the agent's own limit",
        "\"10MiB\"",
        "The largest file that it may write (RLIMIT_FSIZE).",
    ),
    without(
        "job.NAME.limits.open_files",
        Kind::Whole(8, 1_048_576),
        "the agent's own limit",
        "64",
        "Files that it may have open (RLIMIT_NOFILE).",
    ),
    with(
        "job.NAME.arguments.ARG.type",
        Kind::Choice(&["string", "integer", "number", "boolean"]),
        "\"string\"",
        "What a value is, as JSON has it; nothing is converted.",
    ),
    with(
        "job.NAME.arguments.ARG.required",
        Kind::Flag,
        "false",
        "An order without it is refused.",
    ),
    without(
        "job.NAME.arguments.ARG.default",
        Kind::Scalar,
        "the elements that hold it are left out",
        "\"north\"",
        "What it is when an order does not say.",
    ),
    without(
        "job.NAME.arguments.ARG.choices",
        Kind::Scalars,
        "any value",
        "[\"north\", \"south\"]",
        "The only values that it may have.",
    ),
    with(
        "job.NAME.arguments.ARG.max_length",
        Kind::Whole(1, 4096),
        "256",
        "Bytes of a string. Control characters are refused, and so is a - that would begin an element.",
    ),
    without(
        "job.NAME.arguments.ARG.min",
        Kind::Number,
        "no bound",
        "0",
        "The least integer or number.",
    ),
    without(
        "job.NAME.arguments.ARG.max",
        Kind::Number,
        "no bound",
        "100",
        "The greatest integer or number.",
    ),
    without(
        "process.NAME.name",
        Kind::Text,
        "none; a process has one of name, executable, pid_file and unit",
        "\"mosquitto\"",
        "What the kernel calls it (/proc/PID/comm), exactly; the kernel keeps 15 bytes.",
    ),
    without(
        "process.NAME.executable",
        Kind::Path,
        "none",
        "\"/usr/sbin/mosquitto\"",
        "The file that it runs; to see another user's takes CAP_SYS_PTRACE.",
    ),
    without(
        "process.NAME.pid_file",
        Kind::Path,
        "none",
        "\"/run/mosquitto.pid\"",
        "A file that holds its number.",
    ),
    without(
        "process.NAME.unit",
        Kind::Unit,
        "none",
        "\"mosquitto.service\"",
        "All processes of this systemd unit.",
    ),
    with(
        "process.NAME.enabled",
        Kind::Flag,
        "true",
        "false: as if it were not in the file.",
    ),
    without(
        "sensor.NAME.kind",
        Kind::Choice(&[
            "tmp102", "shtc3", "ina219", "ads1115", "bme280", "bmp280", "iio", "gpio",
        ]),
        "none; it is required",
        "\"tmp102\"",
        "Which driver reads it: a chip on I2C or SPI, a device of the kernel's industrial I/O, or a GPIO line.",
    ),
    with(
        "sensor.NAME.enabled",
        Kind::Flag,
        "true",
        "false: as if it were not in the file.",
    ),
    without(
        "sensor.NAME.bus",
        Kind::Path,
        "none; a chip on I2C or SPI needs it",
        "\"/dev/i2c-1\"",
        "The I2C bus; or, for a bme280 or bmp280 on SPI, its device, /dev/spidevBUS.CHIP: a name that begins so is taken for one.",
    ),
    without(
        "sensor.NAME.address",
        Kind::Whole(0x03, 0x77),
        "the chip's usual one",
        "0x48",
        "Its address on an I2C bus.",
    ),
    without(
        "sensor.NAME.speed",
        Kind::Whole(10_000, 10_000_000),
        "1000000",
        "1000000",
        "Clock of a chip on SPI in hertz, at most; long wires want less.",
    ),
    without(
        "sensor.NAME.mode",
        Kind::Whole(0, 3),
        "0",
        "0",
        "SPI mode: clock polarity and phase. A bme280 and bmp280 have 0 and 3.",
    ),
    without(
        "sensor.NAME.shunt",
        Kind::Number,
        "0.1",
        "0.1",
        "Ohms of the shunt of an ina219.",
    ),
    without(
        "sensor.NAME.max_current",
        Kind::Number,
        "3.2",
        "3.2",
        "The largest current in amperes that an ina219 will meet; its resolution is a 32768th of it.",
    ),
    without(
        "sensor.NAME.device",
        Kind::Path,
        "none; iio needs it",
        "\"/sys/bus/iio/devices/iio:device0\"",
        "The folder of an industrial I/O device.",
    ),
    without(
        "sensor.NAME.channels",
        Kind::Words,
        "none; iio needs it",
        "[\"in_voltage0\"]",
        "Its channels, as the files are called without _raw or _input.",
    ),
    without(
        "sensor.NAME.chip",
        Kind::Path,
        "none; gpio needs it",
        "\"/dev/gpiochip0\"",
        "The GPIO chip.",
    ),
    without(
        "sensor.NAME.line",
        Kind::Whole(0, 4095),
        "none; gpio needs it",
        "17",
        "The line's number on the chip.",
    ),
    with(
        "sensor.NAME.active_low",
        Kind::Flag,
        "false",
        "Whether a low level counts as 1.",
    ),
    without(
        "serial.NAME.device",
        Kind::Path,
        "none; it is required",
        "\"/dev/ttyUSB0\"",
        "The terminal device; a name below /dev/serial/by-id stays when others are plugged in.",
    ),
    with(
        "serial.NAME.baud",
        Kind::Whole(50, 12_000_000),
        "115200",
        "Bits a second; 8 data bits, no parity, no flow control.",
    ),
    with(
        "serial.NAME.enabled",
        Kind::Flag,
        "true",
        "false: as if it were not in the file.",
    ),
    with(
        "serial.NAME.stale",
        Kind::Duration(100, DAY),
        "\"30s\"",
        "A reading that came longer ago counts as missing (timeout).",
    ),
    with(
        "serial.NAME.max_series",
        Kind::Whole(1, 512),
        "32",
        "Gauges that the senders may name while the line is open; more are counted and left out.",
    ),
    without(
        "serial.NAME.gauges.GAUGE.number",
        Kind::Whole(0, 31),
        "none; it is required",
        "0",
        "The gauge's number at its sender.",
    ),
    with(
        "serial.NAME.gauges.GAUGE.source",
        Kind::Whole(0, 255),
        "1",
        "The sender's number on the line.",
    ),
    with(
        "serial.NAME.gauges.GAUGE.unit",
        Kind::Text,
        "\"1\"",
        "Its unit in UCUM, such as \"Cel\", \"%\" or \"V\".",
    ),
    with(
        "serial.NAME.gauges.GAUGE.scale",
        Kind::Number,
        "1",
        "How much one of the sender's steps is.",
    ),
    with(
        "serial.NAME.gauges.GAUGE.offset",
        Kind::Number,
        "0",
        "Added after scaling.",
    ),
    with(
        "shutdown.timeout",
        Kind::Duration(SECOND, 600 * SECOND),
        "\"10s\"",
        "From SIGTERM to the last byte synced; shorter than the service manager's own limit.",
    ),
];

/// Names that people coming from other agents try, and what they are here.
const ALIASES: &[(&str, &str)] = &[
    ("uplink.otlp.url", "endpoint"),
    ("uplink.otlp.host", "endpoint"),
    (
        "uplink.otlp.insecure",
        "endpoint (http:// is insecure, https:// is TLS)",
    ),
    ("uplink.mqtt.endpoint", "url"),
    ("uplink.mqtt.host", "url"),
    ("uplink.mqtt.broker", "url"),
    ("uplink.mqtt.server", "url"),
    ("uplink.mqtt.user", "username"),
    ("uplink.mqtt.clientid", "client_id"),
    ("uplink.mqtt.inflight", "window"),
    ("spool.size", "quota"),
    ("spool.limit", "quota"),
    ("spool.path", "paths.state"),
    ("device.name", "id"),
];

/// What stands at a path.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A key.
    Key(&'static Key),
    /// A section with keys in it.
    Section,
    /// Nothing.
    Nothing,
}

/// What stands at a path of names.
pub fn find(path: &[String]) -> Found {
    let mut found = Found::Nothing;
    for key in KEYS {
        let mut pattern = key.path.split('.');
        if path
            .iter()
            .all(|name| pattern.next().is_some_and(|part| matches(part, name)))
        {
            match pattern.next() {
                None => return Found::Key(key),
                Some(_) => found = Found::Section,
            }
        }
    }
    found
}

/// The key of a concrete dotted path.
pub fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| {
        let mut names = path.split('.');
        key.path
            .split('.')
            .all(|part| names.next().is_some_and(|name| matches(part, name)))
            && names.next().is_none()
    })
}

/// Names that may follow a path, for suggestions.
pub fn children(path: &[String]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let mut pattern = key.path.split('.');
        if path
            .iter()
            .all(|name| pattern.next().is_some_and(|part| matches(part, name)))
        {
            match pattern.next() {
                Some("*") => names.extend(Family::ALL.iter().map(|family| family.as_str())),
                Some(name) if is_any(name) => {}
                Some(name) => names.push(name),
                None => {}
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// What an unknown key is called here, if other agents call it so.
pub fn alias(path: &str) -> Option<&'static str> {
    let found = ALIASES
        .iter()
        .find(|(other, _)| *other == path.to_ascii_lowercase());
    found.map(|(_, name)| *name)
}

/// Paths of keys that have this last name, with `*` replaced by a family.
pub fn elsewhere(name: &str) -> Vec<String> {
    KEYS.iter()
        .filter(|key| key.path.rsplit('.').next() == Some(name))
        .map(|key| key.path.replace('*', "cpu"))
        .collect()
}

/// Every concrete path with its key, in the order of the table: `*` is each
/// family, and a part in capitals each table of that kind that `settings` has.
pub fn expanded(settings: &Settings) -> Vec<(String, &'static Key)> {
    let mut all = Vec::new();
    // All keys of one table together: section by section, not key by key.
    for section in SECTIONS {
        for path in instances(section.path, settings) {
            for key in of_section(section.path) {
                let rest = key.path.strip_prefix(section.path).unwrap_or_default();
                all.push((format!("{path}{rest}"), key));
            }
        }
    }
    all
}

/// The concrete paths of a pattern.
fn instances(pattern: &str, settings: &Settings) -> Vec<String> {
    let mut paths = vec![String::new()];
    for part in pattern.split('.') {
        let mut longer = Vec::new();
        for path in paths {
            let names: Vec<String> = match part {
                "*" => Family::ALL.iter().map(|f| f.as_str().to_owned()).collect(),
                any if is_any(any) => settings.names(&path),
                name => vec![name.to_owned()],
            };
            let dot = if path.is_empty() { "" } else { "." };
            longer.extend(names.into_iter().map(|name| format!("{path}{dot}{name}")));
        }
        paths = longer;
    }
    paths
}

/// Whether a table at this path is one that somebody gave a name.
pub fn is_named_table(path: &[String]) -> bool {
    SECTIONS.iter().any(|section| {
        let pattern: Vec<&str> = section.path.split('.').collect();
        let any = pattern.last().is_some_and(|last| is_any(last));
        any && pattern.len() == path.len()
            && pattern
                .iter()
                .zip(path)
                .all(|(part, name)| matches(part, name))
    })
}

/// Whether a table below this path may have a name that somebody gives.
pub fn takes_names(path: &[String]) -> bool {
    let mut below = path.to_vec();
    below.push("x".into());
    is_named_table(&below)
}

/// The keys that stand directly in a section. A table such as the headers is a
/// section of its own with one key: itself.
pub fn of_section(section: &'static str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| section_of(key) == section)
}

fn section_of(key: &Key) -> &'static str {
    match key.kind {
        kind if kind.is_table() => key.path,
        _ => key.path.rsplit_once('.').map_or("", |(section, _)| section),
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern {
        "*" => Family::ALL.iter().any(|family| family.as_str() == name),
        any if is_any(any) => is_table_name(name),
        _ => pattern == name,
    }
}

/// Whether a part of a pattern stands for any name.
fn is_any(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether a table may be called so: it becomes a level of a topic, a folder
/// and an attribute's value.
fn is_table_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(ok)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use toml::de::DeValue;

    use super::super::problem::Origin;
    use super::super::value::Value;
    use super::*;

    #[test]
    fn every_default_and_example_is_a_value_that_its_key_takes() {
        for key in KEYS {
            for toml in key
                .default
                .into_iter()
                .chain(Some(key.example).filter(|e| !e.is_empty()))
            {
                let value = DeValue::parse(toml).expect(key.path);
                key.kind
                    .read(value.get_ref(), Path::new("/"))
                    .expect(key.path);
            }
            assert!(!key.help.is_empty(), "{}", key.path);
            assert!(
                key.default.is_some() || !key.unset.is_empty(),
                "{}",
                key.path
            );
        }
    }

    #[test]
    fn every_key_has_a_section_and_stands_once() {
        let mut settings = Settings::default();
        for table in [
            "job.NAME",
            "job.NAME.arguments.ARG",
            "gauge.NAME",
            "process.NAME",
            "sensor.NAME",
            "serial.NAME",
            "serial.NAME.gauges.GAUGE",
        ] {
            settings.fill(table, Value::Section, Origin::Default);
        }
        let listed: Vec<String> = expanded(&settings).into_iter().map(|(p, _)| p).collect();
        let mut unique = listed.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), listed.len());
        let families = Family::ALL.len();
        let starred = KEYS.iter().filter(|key| key.path.contains('*')).count();
        assert_eq!(listed.len(), KEYS.len() - starred + starred * families);
        for path in &listed {
            assert!(key(path).is_some(), "{path}");
        }
    }

    #[test]
    fn aliases_point_at_keys_that_exist_from_paths_that_do_not() {
        for (other, name) in ALIASES {
            assert!(key(other).is_none(), "{other}");
            let name = name.split(' ').next().unwrap();
            let section = other.rsplit_once('.').unwrap().0;
            assert!(
                key(name).or(key(&format!("{section}.{name}"))).is_some(),
                "{name}"
            );
        }
    }
}
