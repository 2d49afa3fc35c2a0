//! The loader as a whole: files, environment and defaults to a configuration or its problems.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder with a configuration in it, and an environment that is nobody's.
struct World {
    folder: tempfile::TempDir,
    env: Env,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Env {
            vars: [("HOME".to_string(), "/home/op".into())].into(),
            root: false,
            folder: folder.path().to_path_buf(),
            default_file: folder.path().join("absent.toml"),
        };
        Self { folder, env }
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.env.vars.insert(name.into(), value.into());
        self
    }

    fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(Some(Path::new("sonde.toml")), &self.env)
    }

    /// Problems with the folder's own name taken out.
    fn lines(&self) -> Vec<String> {
        let problems = match self.load() {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        };
        let prefix = format!("{}/", self.folder.path().display());
        problems
            .0
            .iter()
            .map(|p| p.to_string().replace(&prefix, ""))
            .collect()
    }
}

fn toml(text: &str) -> World {
    World::new().file("sonde.toml", text)
}

fn fine(world: &World) -> Config {
    world
        .load()
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

/// The configuration is refused, and its problems are these (by what they contain).
fn refused(world: &World, expected: &[&str]) {
    assert!(world.load().is_err(), "was accepted");
    let mut lines = world.lines();
    lines.retain(|line| !line.starts_with("uplink: none is configured"));
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "{line}\n  lacks {part}");
    }
}

const BOTH: &str = "[uplink.otlp]\nendpoint = \"https://c.example:4318/otlp/\"\n[uplink.mqtt]\nurl = \"mqtts://b.example\"\n";

#[test]
fn nothing_configured_is_a_configuration() {
    let world = World::new();
    let loaded = load(None, &world.env).unwrap();
    assert_eq!(loaded.config.files, Vec::<PathBuf>::new());
    assert_eq!(
        loaded.config.paths.state,
        Path::new("/home/op/.local/state/sonde")
    );
    assert_eq!(
        loaded.config.paths.status_socket,
        Path::new("/home/op/.local/state/sonde/run/status.sock")
    );
    // Custom, sensor and serial are on with the first of their own.
    assert_eq!(loaded.config.gauges.families.len(), Family::ALL.len() - 3);
    assert_eq!(loaded.config.batch.length, Duration::from_secs(30));
    assert_eq!(loaded.config.trace.routine_ratio, 0.01);
    assert!(
        loaded
            .warnings
            .to_string()
            .contains("nothing leaves this machine")
    );
}

#[test]
fn all_problems_are_told_at_once_each_with_its_line() {
    let world = toml(
        "[gauges]\nintervall = \"5s\"\ninterval = \"10y\"\n[gauges.cpu]\ninterval = 0\nenabled = \"true\"\n\
         [uplink.otlp]\nendpoint = \"https://x:99999\"\nbackoff_max = \"3650d\"\n[spool]\nquota = -1\n[uplnk]\na = 1\n",
    );
    refused(
        &world,
        &[
            "sonde.toml:2:1: gauges.intervall: unknown key \"intervall\" — did you mean \"interval\"?",
            "sonde.toml:3:12: gauges.interval: \"10y\" is not a duration",
            "sonde.toml:5:12: gauges.cpu.interval: 0 has no unit — allowed: a duration from 100ms to 1d",
            "sonde.toml:6:11: gauges.cpu.enabled: is text in quotes — write true without quotes",
            "sonde.toml:8:12: uplink.otlp.endpoint: has the port \"99999\"",
            "sonde.toml:9:15: uplink.otlp.backoff_max: \"3650d\" is out of range — allowed: a duration from 1s to 1d",
            "sonde.toml:11:9: spool.quota: -1 is out of range",
            "sonde.toml:12:2: uplnk: unknown key \"uplnk\" — did you mean \"uplink\"?",
        ],
    );
}

#[test]
fn syntax_errors_join_the_others() {
    let world = toml(
        "[gauges]\ninterval =\n[batch]\nlength = 30s\n[spool]\nquoat = 1\n[log]\nlevel: debug\n",
    );
    refused(
        &world,
        &[
            "sonde.toml:2:",
            "sonde.toml:4:",
            "sonde.toml:6:1: spool.quoat: unknown key \"quoat\" — did you mean \"quota\"?",
            "sonde.toml:8:",
        ],
    );
}

#[test]
fn files_that_are_no_configuration_are_refused_by_what_they_are() {
    let world = World::new();
    refused(&world, &["sonde.toml: there is no such file"]);
    fs::create_dir(world.folder.path().join("sonde.toml")).unwrap();
    refused(&world, &["sonde.toml: is a folder"]);
    refused(
        &World::new().file("sonde.toml", b"[log]\n\xff = 1\n"),
        &["sonde.toml:2:1: is not UTF-8 (byte 0xff)"],
    );
    let world = World::new();
    let huge = fs::File::create(world.folder.path().join("sonde.toml")).unwrap();
    huge.set_len(100 << 20).unwrap();
    refused(&world, &["sonde.toml: is larger than 256 KiB"]);
    let world = World::new();
    symlink("/dev/zero", world.folder.path().join("sonde.toml")).unwrap();
    refused(&world, &["sonde.toml: is not a regular file"]);
}

#[test]
fn odd_but_valid_files_load() {
    for text in [
        "",
        "\n",
        "# only a comment",
        "\u{feff}[batch]\r\nlength = \"20s\"\r\n",
        "[uplink.otlp]\n",
    ] {
        fine(&toml(text));
    }
    assert_eq!(
        fine(&toml("\u{feff}batch.length = \"20s\"")).batch.length,
        Duration::from_secs(20)
    );
    assert_eq!(
        fine(&toml("trace.routine_ratio = 1")).trace.routine_ratio,
        1.0
    );
}

#[test]
fn hostile_files_end_in_a_short_list() {
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
    let flood = "x\n".repeat(100_000);
    let unknown: String = (0..20_000).map(|n| format!("k{n} = 1\n")).collect();
    let attributes: String = (0..20_000).map(|n| format!("k{n} = 1\n")).collect();
    for text in [
        deep,
        dotted,
        flood,
        unknown,
        format!("[device.attributes]\n{attributes}"),
        "\0".repeat(1000),
    ] {
        let problems = toml(&text).load().unwrap_err();
        assert!(problems.0.len() <= Problems::MAX + 1);
        assert!(problems.0.iter().all(|p| p.to_string().len() < 2000));
    }
    refused(
        &toml("batch.length = \"20s\"\nbatch.length = \"21s\"\n"),
        &["remove one of the two"],
    );
}

#[test]
fn drop_ins_win_in_the_order_of_their_names_and_are_named_in_problems() {
    let world =
        toml("[batch]\nlength = \"10s\"\n[device.attributes]\nsite.name = \"a\"\nrack = 4\n")
            .file("conf.d/20-b.toml", "batch.length = \"12s\"\n")
            .file(
                "conf.d/10-a.toml",
                "batch.length = \"11s\"\ndevice.attributes.rack = \"5\"\n",
            )
            .file("conf.d/.hidden.toml", "nonsense")
            .file("conf.d/readme.txt", "nonsense");
    let config = fine(&world);
    assert_eq!(config.batch.length, Duration::from_secs(12));
    assert_eq!(
        config.device.attributes,
        [
            ("rack".into(), "5".into()),
            ("site.name".into(), "a".into())
        ]
        .into()
    );
    assert_eq!(config.files.len(), 3);
    let world = world.file("conf.d/30-c.toml", "\nbatch.lenght = \"1s\"\n");
    refused(
        &world,
        &["conf.d/30-c.toml:2:7: batch.lenght: unknown key \"lenght\" — did you mean \"length\"?"],
    );
    let world = toml("");
    fs::create_dir(world.folder.path().join("conf.d")).unwrap();
    symlink("../sonde.toml", world.folder.path().join("conf.d/a.toml")).unwrap();
    refused(
        &world,
        &["conf.d/a.toml: is the same file as one that was already read"],
    );
}

#[test]
fn what_belongs_together_is_checked_together() {
    refused(
        &toml("[batch]\nlength = \"40s\"\n"),
        &[
            "sonde.toml:2:10: batch.length: the loss window of 60s is shorter than two batches of 40s",
        ],
    );
    fine(&toml(
        "[batch]\nlength = \"40s\"\n[spool]\nloss_window = \"80s\"\n",
    ));
    refused(
        &toml(&format!(
            "{BOTH}keep_alive = \"4s\"\n[uplink.otlp.tls]\ncert_file = \"c\"\n"
        )),
        &[
            "uplink.mqtt.keep_alive: \"4s\" is out of range — allowed: a duration from 5s",
            "uplink.otlp.tls.cert_file: needs",
            "c does not exist",
        ],
    );
    refused(
        &toml("route.logs = [\"mqtt\"]\n"),
        &["names the uplink mqtt, which is not configured"],
    );
    refused(
        &toml("[uplink.mqtt]\nusername = \"x\"\n"),
        &["uplink.mqtt.url: is missing"],
    );
    refused(
        &toml(
            "[uplink.otlp]\nendpoint = \"http://x\"\ntls.ca_file = \"/dev/null\"\nbackoff_min = \"10m\"\n",
        ),
        &[
            "uplink.otlp.tls: is set, but",
            "uplink.otlp.backoff_min: is longer than backoff_max, 5m",
            "not a regular file",
        ],
    );
    let long = format!("paths.status_socket = \"/{}\"\n", "x".repeat(107));
    refused(&toml(&long), &["is 108 bytes long"]);
    refused(
        &toml("spool.quota = \"1MiB\"\n"),
        &["out of range — allowed: a size from 2MiB"],
    );
}

#[test]
fn a_missing_key_is_told_beside_other_problems_but_not_when_it_was_only_refused() {
    refused(
        &toml("[uplink.mqtt]\nusername = \"x\"\nkeepalive = 1\n"),
        &[
            "uplink.mqtt.url: is missing",
            "did you mean \"keep_alive\"?",
        ],
    );
    refused(
        &toml("[uplink.mqtt]\nusername = \"x\"\nurl = 1\n"),
        &["uplink.mqtt.url: is a number"],
    );
    refused(
        &toml("[uplink.mqtt]\nusername = \"x\"\nurl = x\n"),
        &["sonde.toml:3:7: is not TOML"],
    );
}

#[test]
fn urls_become_hosts_ports_and_paths() {
    let config = fine(&toml(BOTH));
    let (otlp, mqtt) = (config.otlp.unwrap(), config.mqtt.unwrap());
    assert_eq!(
        (&*otlp.host, otlp.port, otlp.tls),
        ("c.example", 4318, Some(Tls::default()))
    );
    assert_eq!(
        (&*otlp.paths.metrics, &*otlp.paths.logs),
        ("/otlp/v1/metrics", "/otlp/v1/logs")
    );
    assert_eq!((&*mqtt.host, mqtt.port), ("b.example", 8883));
    assert_eq!(config.routes.metrics, [UplinkName::Otlp]);
    let config = fine(&toml("uplink.mqtt.url = \"mqtt://[::1]:1884\""));
    assert_eq!(
        (&*config.mqtt.unwrap().host, config.routes.logs),
        ("::1", vec![UplinkName::Mqtt])
    );
}

#[test]
fn secrets_in_the_file_are_refused_and_shown_nowhere() {
    let world = toml(&format!(
        "{BOTH}password = \"hunter2\"\n[uplink.otlp.headers]\nauthorization = \"Bearer hunter2\"\nx-tenant = \"t\"\n"
    ));
    refused(
        &world,
        &[
            "uplink.mqtt.password: is a secret",
            "uplink.otlp.headers.authorization: is a secret",
        ],
    );
    refused(
        &toml("uplink.mqtt.url = \"mqtt://me:hunter2@x\""),
        &["remove everything up to the @"],
    );
    for world in [
        world,
        toml("uplink.mqtt.url = \"mqtt://me:hunter2@x\""),
        toml("password = hunter2\n"),
    ] {
        for problem in world.load().unwrap_err().0 {
            let shown = format!("{problem}\n{}", problem.excerpt().unwrap_or_default());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn secret_files_that_are_missing_or_open_to_all_are_warnings() {
    let world = toml(
        &format!("{BOTH}password_file = \"pass\"\n[uplink.otlp]\nheaders_file = \"gone\"\n")
            .replace(
                "[uplink.otlp]\nheaders_file",
                "[log]\n[uplink.mqtt.tls]\nca_file",
            ),
    )
    .file("pass", "x");
    let mode = |mode| {
        fs::set_permissions(
            world.folder.path().join("pass"),
            fs::Permissions::from_mode(mode),
        )
        .unwrap()
    };
    mode(0o644);
    fine(&world);
    let lines = world.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("can be read by every user"));
    assert!(lines[1].contains("gone does not exist"));
    mode(0o600);
    assert_eq!(world.lines().len(), 1);
}

#[test]
fn the_environment_fills_what_the_file_leaves_open() {
    let env = |text: &str| {
        toml(text)
            .var("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env.example:4318")
            .var(
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://env.example:4318/custom",
            )
            .var(
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20x, X-Tenant=env",
            )
            .var("OTEL_EXPORTER_OTLP_TIMEOUT", "3000")
            .var("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
            .var(
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,site=env,device.id=gw",
            )
            .var("OTEL_SERVICE_NAME", "svc")
            .var("OTEL_TRACES_SAMPLER", "traceidratio")
            .var("OTEL_TRACES_SAMPLER_ARG", "0.5")
            .var("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "")
    };
    let config = fine(&env(""));
    let otlp = config.otlp.unwrap();
    assert_eq!(
        (&*otlp.host, otlp.delivery.timeout, otlp.gzip),
        ("env.example", Duration::from_secs(3), false)
    );
    assert_eq!(
        (&*otlp.paths.traces, &*otlp.paths.logs),
        ("/custom", "/v1/logs")
    );
    assert_eq!(
        otlp.headers,
        [
            ("Authorization".into(), "Bearer x".into()),
            ("X-Tenant".into(), "env".into())
        ]
    );
    assert_eq!(
        (&*config.device.service_name, config.device.id.as_deref()),
        ("svc", Some("gw"))
    );
    assert_eq!(config.trace.sampler, Sampler::Ratio(0.5));
    let config = fine(&env(
        "[uplink.otlp]\nendpoint = \"http://file:1\"\ntimeout = \"7s\"\nheaders.x-tenant = \"file\"\n[device]\nattributes.site = \"file\"\n[trace]\nsampler = \"always_on\"\n",
    ));
    let otlp = config.otlp.unwrap();
    assert_eq!(
        (&*otlp.host, otlp.delivery.timeout, &*otlp.paths.traces),
        ("file", Duration::from_secs(7), "/v1/traces")
    );
    assert_eq!(
        otlp.headers,
        [
            ("Authorization".into(), "Bearer x".into()),
            ("x-tenant".into(), "file".into())
        ]
    );
    assert_eq!(config.device.attributes["site"], "file");
    assert_eq!(config.trace.sampler, Sampler::AlwaysOn);
    let config = fine(
        &toml("")
            .var("OTEL_SDK_DISABLED", "TRUE")
            .var("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
    );
    assert_eq!(
        (config.trace.sampler, config.log.send, config.otlp),
        (Sampler::AlwaysOff, log::LevelFilter::Off, None)
    );
}

#[test]
fn bad_variables_are_problems_that_name_them() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@x"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ("OTEL_SDK_DISABLED", "1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
    ] {
        let lines = toml("").var(name, value).load().unwrap_err().to_string();
        assert!(
            lines.contains(&format!("{name}: ")),
            "{name}={value}: {lines}"
        );
        assert!(!lines.contains("hunter2"), "{lines}");
    }
    let world = toml("")
        .var("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1")
        .var("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b:1");
    refused(
        &world,
        &["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT: goes to another server"],
    );
}

#[test]
fn folders_follow_systemd_then_root_then_the_user() {
    let paths = |world: World| fine(&world.file("sonde.toml", "")).paths;
    let mut root = World::new();
    root.env.root = true;
    assert_eq!(
        paths(root).status_socket,
        Path::new("/run/sonde/status.sock")
    );
    let unit = World::new()
        .var("STATE_DIRECTORY", "/var/lib/private/sonde:/x")
        .var("RUNTIME_DIRECTORY", "/run/s");
    let paths_of_unit = paths(unit);
    assert_eq!(paths_of_unit.state, Path::new("/var/lib/private/sonde"));
    assert_eq!(paths_of_unit.status_socket, Path::new("/run/s/status.sock"));
    let user = World::new()
        .var("XDG_STATE_HOME", "/s")
        .var("XDG_RUNTIME_DIR", "/run/user/7");
    let paths_of_user = paths(user);
    assert_eq!(
        (paths_of_user.state, paths_of_user.runtime),
        ("/s/sonde".into(), "/run/user/7/sonde".into())
    );
    let mut nobody = World::new().file("sonde.toml", "");
    nobody.env.vars.clear();
    refused(&nobody, &["paths.state: there is no folder for state"]);
}

#[test]
fn status_finds_the_socket_even_of_a_broken_file() {
    let world = toml("[paths]\nstatus_socket = \"/x/s.sock\"\n[nonsense]\n");
    assert_eq!(
        status_socket(Some(Path::new("sonde.toml")), &world.env),
        Path::new("/x/s.sock")
    );
    let moved = toml("[paths]\nruntime = \"/x\"\n");
    assert_eq!(
        status_socket(Some(Path::new("sonde.toml")), &moved.env),
        Path::new("/x/status.sock")
    );
    let mut state_only = toml("[paths]\nstate = \"/x\"\n");
    state_only.env.vars.remove("XDG_RUNTIME_DIR");
    assert_eq!(
        status_socket(Some(Path::new("sonde.toml")), &state_only.env),
        Path::new("/x/run/status.sock")
    );
    let own = World::new().file("run/sonde/status.sock", "");
    let own = {
        let folder = own.folder.path().join("run");
        own.var("XDG_RUNTIME_DIR", folder.to_str().unwrap())
    };
    assert_eq!(
        default_status_socket(&own.env),
        own.folder.path().join("run/sonde/status.sock")
    );
}

#[test]
fn the_effective_configuration_loads_back_as_the_same() {
    let text = format!(
        "{BOTH}message_expiry = \"1d\"\nwindow = 3\n[uplink.mqtt.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n\
         [device]\nid = \"gw\"\nattributes.\"a \\\" b\" = \"\\\\é\"\n[gauges.cpu]\ninterval = \"1500ms\"\n\
         [gauges.disk]\nenabled = false\n[clock]\ntrust = \"file:/run/gps\"\n[route]\nlogs = [\"otlp\", \"mqtt\"]\ntraces = []\n\
         [trace]\nsampler = \"traceidratio\"\nratio = 0.125\n[spool]\nreserve = 0\ndurability = \"always\"\n"
    );
    for world in [
        toml(""),
        toml(&text),
        toml("")
            .var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://[::1]:9/t")
            .var("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2"),
    ] {
        let loaded = world.load().unwrap();
        let effective = loaded.effective();
        assert!(!effective.contains("hunter2"), "{effective}");
        let again = toml(&effective);
        let mut config = fine(&again);
        config.files = loaded.config.files.clone();
        let mut before = loaded.config;
        if let Some(otlp) = &mut before.otlp {
            otlp.headers.clear();
        }
        assert_eq!(config, before, "{effective}");
    }
    let effective = toml(&text).load().unwrap().effective();
    assert!(effective.contains("sonde.toml:2\n"), "{effective}");
    assert!(effective.contains("length = \"30s\" # default\n"));
}

/// Lines of the default file that exclude others.
const EITHER: [&str; 6] = [
    "unit = \"backup",
    "file = ",
    "pointer = ",
    "executable = ",
    "pid_file = ",
    "unit = \"mosquitto",
];

#[test]
fn the_default_file_changes_nothing_and_each_of_its_lines_can_be_taken() {
    let world = toml(&docs::default_file());
    let mut config = fine(&world);
    config.files.clear();
    assert_eq!(config, load(None, &world.env).unwrap().config);
    let taken: String = docs::default_file()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // A job has a command or a unit, a gauge one source and one way to its number,
            // a process is found in one way.
            Some(rest) if EITHER.iter().any(|key| rest.starts_with(key)) => String::new(),
            Some(rest) if rest.starts_with('[') => format!("{rest}\n"),
            Some(rest) if rest.contains(" = ") && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = toml(&taken)
        .load()
        .unwrap_or_else(|problems| panic!("{problems}"));
    // Every key of the table was read; the other families differ only in name.
    for key in keys::KEYS
        .iter()
        .filter(|key| !key.kind.is_table() && key.kind != Kind::Unit)
        .filter(|key| !["gauge.NAME.file", "gauge.NAME.pointer"].contains(&key.path))
        .filter(|key| !["process.NAME.executable", "process.NAME.pid_file"].contains(&key.path))
    {
        let origin = loaded.settings.origin(&key.path.replace('*', "cpu"));
        assert!(matches!(origin, Origin::File(_)), "{}", key.path);
    }
}

#[test]
fn no_cut_and_no_damaged_byte_ends_in_a_panic() {
    let whole: String = docs::default_file().replace("\n#", "\n");
    let read = |text: String| {
        let source = source::Source {
            file: "/f.toml".into(),
            text,
        };
        let (mut settings, mut problems) = (Settings::default(), Problems::default());
        reader::read(&source, &mut settings, &mut problems);
        for problem in &problems.0 {
            let _ = (problem.to_string(), problem.excerpt());
        }
        build::build(&settings, Vec::new(), &mut problems);
    };
    for at in (0..whole.len())
        .step_by(97)
        .filter(|at| whole.is_char_boundary(*at))
    {
        let (before, after) = whole.split_at(at);
        read(before.to_string());
        for damage in [
            "[", "]", "\"", "=", "\\", "\n", ".", "\u{0}", "é", "{", "\'\'\'", "#",
        ] {
            read(format!("{before}{damage}{after}"));
        }
    }
}

const BACKUP: &str = "[job.backup]
command = [\"/bin/true\", \"--site={site}\", \"{count}\"]
every = \"1h\"
jitter = \"5m\"
remote = true
[job.backup.environment]
COLOR = \"blue\"
KEY_FILE = \"/etc/key\"
[job.backup.limits]
memory = \"16MiB\"
cpu = 20
[job.backup.arguments.site]
choices = [\"north\", \"south\"]
default = \"north\"
[job.backup.arguments.count]
type = \"integer\"
min = 1
max = 9
";

#[test]
fn a_job_is_read_with_everything_it_says() {
    use crate::work::job::{ArgumentKind, Program};
    let world = toml(BACKUP);
    let config = fine(&world);
    let job = &config.jobs["backup"];
    assert!(matches!(&job.program, Program::Command(words) if words.len() == 3));
    assert_eq!(job.schedule.unwrap().jitter, Duration::from_secs(300));
    assert_eq!(job.environment["KEY_FILE"], "/etc/key");
    assert_eq!(job.limits.memory, Some(16 << 20));
    assert_eq!(job.limits.cpu, Some(20));
    let count = &job.arguments["count"];
    assert_eq!(count.kind, ArgumentKind::Integer { min: 1, max: 9 });
    assert_eq!(job.arguments["site"].choices.len(), 2);
    assert_eq!((job.remote, job.output_limit), (true, 16 << 10));
    assert!(config.jobs.len() == 1);
}

#[test]
fn a_job_shown_in_effect_loads_to_the_same_job() {
    let world = toml(BACKUP);
    let jobs = fine(&world).jobs;
    let effective = world.load().unwrap().effective();
    assert_eq!(fine(&toml(&effective)).jobs, jobs, "{effective}");
}

#[test]
fn a_drop_in_changes_one_key_of_a_job_or_disables_it() {
    let world = toml(BACKUP)
        .file("conf.d/a.toml", "[job.backup]\ntimeout = \"1s\"\n")
        .file("conf.d/b.toml", "[job.other]\ncommand = [\"true\"]\n");
    let jobs = fine(&world).jobs;
    assert_eq!(jobs["backup"].timeout, Duration::from_secs(1));
    assert_eq!(jobs["backup"].arguments.len(), 2);
    assert!(jobs.contains_key("other"));
    let world = world.file("conf.d/c.toml", "[job.backup]\nenabled = false\n");
    assert!(!fine(&world).jobs.contains_key("backup"));
}

#[test]
fn everything_that_is_wrong_with_jobs_is_told_at_once_with_its_line() {
    let world = toml(
        "[job.a]
command = \"rm -rf /\"
[job.b]
comand = [\"x\"]
[job.\"c/d\"]
command = [\"/bin/true\"]
[job.e]
command = [\"{x}\", \"{siet}\"]
every = \"1h\"
[job.e.environment]
API_TOKEN = \"x\"
[job.e.arguments.site]
required = true
default = 5
[job.e.arguments.x]
type = \"integer\"
min = 2
max = 1
[job.f]
command = [\"bin/x\"]
unit = \"a.service\"
[job.g]
unit = \"a.service; reboot\"
[job.h]
command = [\"/bin/true\", \"{nothing}\"]
",
    );
    let lines = world.lines().join("\n");
    for expected in [
        "sonde.toml:2:11: job.a.command: is text where a list is expected — no shell splits it",
        "sonde.toml:4:1: job.b.comand: unknown key \"comand\" — did you mean \"command\"?",
        "sonde.toml:5:6: job.c/d: unknown key \"c/d\" — a name here has 1 to 64 letters",
        "sonde.toml:8:11: job.e.command: takes its program from an argument",
        "sonde.toml:8:11: job.e.command: holds {siet}, which is no argument — did you mean {site}?",
        "sonde.toml:9:9: job.e.every: a scheduled run gives no arguments, and site is required",
        "sonde.toml:11:13: job.NAME.environment.API_TOKEN: is a secret",
        "sonde.toml:14:11: job.e.arguments.site.default: is a number, not a string",
        "sonde.toml:14:11: job.e.arguments.site.default: stands with required = true",
        "sonde.toml:17:7: job.e.arguments.x.min: is greater than max",
        "sonde.toml:21:8: job.f.unit: stands beside command",
        "sonde.toml:23:8: job.g.unit: \"a.service; reboot\" is not allowed",
        "sonde.toml:25:11: job.h.command: holds {nothing}, which is no argument — declare it with [job.h.arguments.nothing]",
    ] {
        assert!(lines.contains(expected), "{expected}\n---\n{lines}");
    }
}

#[test]
fn what_a_caller_writes_never_becomes_a_part_of_a_script() {
    let job = |command: &str, argument: &str| {
        let text = format!("[job.a]\ncommand = {command}\n[job.a.arguments.x]\n{argument}\n");
        let world = World::new().file("sonde.toml", &text);
        world
            .load()
            .map(|_| ())
            .map_err(|problems| problems.to_string())
    };
    let (text, number) = ("type = \"string\"", "type = \"integer\"");
    for script in [
        "[\"/bin/sh\", \"-c\", \"echo {x}\"]",
        "[\"bash\", \"-euc\", \"{x}\"]",
        "[\"busybox\", \"sh\", \"-c\", \"echo {x}\"]",
        "[\"python3\", \"-c\", \"print({x})\"]",
    ] {
        let refused = job(script, text).unwrap_err();
        assert!(refused.contains("puts {x} into a script"), "{refused}");
        assert_eq!(job(script, number), Ok(()), "{script}");
    }
    let beside = "[\"/bin/sh\", \"-c\", \"echo $1\", \"sh\", \"{x}\"]";
    assert_eq!(job(beside, text), Ok(()));
}

#[test]
fn what_needs_a_broker_is_warned_of_without_one() {
    let text = "[outbox]\nallow = [\"plant/\"]\n[job.a]\ncommand = [\"true\"]\nremote = true\n";
    let warned = |text: &str| toml(text).load().unwrap().warnings.to_string();
    for line in [
        "2:9: outbox.allow: has no effect",
        "5:10: job.a.remote: has no effect",
    ] {
        assert!(warned(text).contains(line), "{line}\n{}", warned(text));
    }
    let with = format!("{text}[uplink.mqtt]\nurl = \"mqtt://127.0.0.1\"\n");
    assert!(!warned(&with).contains("no effect"), "{}", warned(&with));
}

#[test]
fn a_gauge_of_its_own_is_read_with_everything_it_says() {
    use crate::gauge::custom::{Extract, Origin};
    let world = toml(
        "[gauges.custom]
interval = \"30s\"
[gauge.modem]
name = \"modem.signal\"
unit = \"dB\"
kind = \"updowncounter\"
description = \"Signal.\"
command = [\"/bin/true\", \"{x}\"]
pattern = \"rssi: {} dBm\"
scale = 2
offset = -0.5
min = -120
max = 0
resolution = 0.5
interval = \"20s\"
timeout = \"3s\"
output_limit = \"1KiB\"
[gauge.modem.attributes]
sim = \"1\"
[gauge.modem.environment]
LC_ALL = \"C\"
[gauge.speed]
push = true
expires = \"1m\"
max_series = 3
[gauge.level]
file = \"state.json\"
pointer = \"/a/~01\"
kind = \"counter\"
[gauge.off]
enabled = false
",
    );
    let config = fine(&world);
    assert_eq!(config.custom.len(), 3);
    let modem = &config.custom["modem"];
    assert_eq!(modem.gauge.name, "modem.signal");
    assert_eq!(modem.gauge.kind.as_str(), "updowncounter");
    assert_eq!(modem.attributes["sim"], "1");
    assert_eq!((modem.shape.scale, modem.shape.offset), (2.0, -0.5));
    // A sum that only grows is never less than nothing.
    assert_eq!(
        (modem.shape.min, config.custom["level"].shape.min),
        (Some(-120.0), Some(0.0))
    );
    let Origin::Command(job, Extract::Pattern(_)) = &modem.origin else {
        panic!("{modem:?}");
    };
    assert_eq!(job.environment["LC_ALL"], "C");
    assert_eq!((job.timeout.as_secs(), job.output_limit), (3, 1024));
    let empty = Default::default();
    let words = crate::work::schema::argument_vector(job, &empty).unwrap();
    assert_eq!(words, ["/bin/true", "{x}"]);
    assert_eq!(config.custom["speed"].gauge.name, "speed");
    let expires = Duration::from_secs(60);
    let speed = Origin::Push {
        max_series: 3,
        expires,
    };
    assert_eq!(config.custom["speed"].origin, speed);
    let Origin::File(path, Extract::Pointer(_)) = &config.custom["level"].origin else {
        panic!("no file");
    };
    assert!(path.is_absolute());
    assert_eq!(config.custom["level"].interval, Duration::from_secs(30));
    // The family has a tick as often as the quickest of them.
    assert_eq!(
        config.gauges.families[&Family::Custom],
        Duration::from_secs(20)
    );
    let effective = world.load().unwrap().effective();
    assert_eq!(fine(&toml(&effective)).custom, config.custom, "{effective}");
    let off = fine(&world.file("conf.d/off.toml", "[gauges.custom]\nenabled = false\n"));
    assert!(off.custom.is_empty() && !off.gauges.families.contains_key(&Family::Custom));
}

#[test]
fn everything_that_is_wrong_with_gauges_is_told_at_once_with_its_line() {
    let problems = toml(
        "[gauge.a]
file = \"/a\"
command = [\"/bin/true\"]
name = \"system.CPU.time\"
[gauge.b]
push = true
unit = \"bytes\"
min = 5
max = 4
[gauge.c]
name = \"1c\"
file = \"/c\"
pattern = \"{} {}\"
resolution = 0
scale = 0.0
[gauge.d]
name = \"sonde.d\"
file = \"/d\"
pointer = \"d~2\"
[gauge.e]
unit = \"Cel\"
[gauge.f]
name = \"line.speed\"
push = true
pattern = \"{}\"
[gauge.g]
name = \"Line_Speed\"
push = true
[gauge.g.attributes]
\"a b\" = \"c\"
[gauge.h]
name = \"h.h\"
unit = \"A\"
push = true
[gauge.i]
name = \"h.h\"
unit = \"A\"
file = \"/i\"
[gauge.j]
command = [\"bin/x\"]
interval = \"200ms\"
[gauge.k]
command = \"mmcli -m 0\"
[gauge.l]
file = \"/l\"
timeout = \"1s\"
expires = \"1m\"
",
    )
    .load()
    .unwrap_err();
    let told = problems.to_string();
    for expected in [
        "sonde.toml:3:11: gauge.a.command: stands beside file, and a gauge has one source",
        "sonde.toml:4:8: gauge.a.name: \"system.CPU.time\" is a gauge that the agent has already",
        "sonde.toml:7:8: gauge.b.unit: \"bytes\" is no UCUM unit; write \"By\"",
        "sonde.toml:8:7: gauge.b.min: 5 is greater than max, 4",
        "sonde.toml:11:8: gauge.c.name: \"1c\" must begin with a letter",
        "sonde.toml:13:11: gauge.c.pattern: \"{} {}\" has more than one {}",
        "sonde.toml:14:14: gauge.c.resolution: is not greater than 0",
        "sonde.toml:15:9: gauge.c.scale: makes every value the same",
        "sonde.toml:17:8: gauge.d.name: \"sonde.d\": names that begin with sonde.",
        "sonde.toml:19:11: gauge.d.pointer: \"d~2\" is no JSON pointer",
        "sonde.toml:20:8: gauge.e.command: is missing, and so are file and push",
        "sonde.toml:25:11: gauge.f.pattern: has no effect on what is pushed",
        "sonde.toml:27:8: gauge.g.name: \"Line_Speed\" is the name of gauge.f too",
        "gauge.g.attributes.a b: a name may hold letters",
        "sonde.toml:36:8: gauge.i.name: \"h.h\" with the same attributes is gauge.h already",
        "sonde.toml:40:11: gauge.j.command: starts \"bin/x\", which depends on the folder",
        "sonde.toml:41:12: gauge.j.interval: a command every 200ms costs more",
        "sonde.toml:43:11: gauge.k.command: is text where a list is expected",
        "sonde.toml:46:11: gauge.l.timeout: has no effect on a gauge with file",
        "sonde.toml:47:11: gauge.l.expires: has no effect on a gauge with file",
    ] {
        assert!(told.contains(expected), "{expected}\n---\n{told}");
    }
    // What was refused is not missed as well.
    assert!(!told.contains("gauge.k.command: is missing"), "{told}");
}

#[test]
fn one_mistake_is_one_error() {
    for (text, key) in [
        ("[gauge.a]\nfile = 5\n", "gauge.a.file"),
        ("[gauge.a]\nfile = \"\"\n", "gauge.a.file"),
        ("[gauge.a]\npush = \"yes\"\n", "gauge.a.push"),
        ("[gauge.a]\nfiel = \"/x\"\n", "gauge.a.fiel"),
        ("[process.a]\npid_file = 5\n", "process.a.pid_file"),
        ("[process.a]\npid_flie = \"/x\"\n", "process.a.pid_flie"),
    ] {
        let problems = toml(text).load().unwrap_err().0;
        let errors = problems.iter().filter(|p| p.severity == Severity::Error);
        let keys: Vec<_> = errors.map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, [key], "{text}");
    }
}

#[test]
fn a_gauge_that_can_give_nothing_today_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("there"), "1").unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    let text = format!(
        "[paths]\nroot = {root:?}\n[gauge.there]\nfile = \"/there\"\n\
         [gauge.typo]\nfile = \"/theer\"\n[gauge.folder]\nfile = \"/folder\"\n\
         [gauge.short]\npush = true\ninterval = \"10s\"\nexpires = \"1s\"\n\
         [gauge.long]\npush = true\ninterval = \"10s\"\n",
        root = folder.path()
    );
    let warnings = toml(&text).load().unwrap().warnings.to_string();
    let told: Vec<_> = warnings
        .lines()
        .filter(|line| line.contains("gauge."))
        .collect();
    assert_eq!(told.len(), 3, "{warnings}");
    for words in [
        "sonde.toml:6:8: gauge.typo.file: is not there now",
        "sonde.toml:8:8: gauge.folder.file: is no regular file",
        "gauge.short.expires: values expire after 1s and are told every 10s",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
}

#[test]
fn a_watched_process_is_found_in_one_way_and_what_is_wrong_is_told_with_its_line() {
    use crate::gauge::processes::By;
    let text = "[process.broker]\nname = \"mosquitto\"\n[process.modem]\nunit = \"ModemManager.service\"\n\
                [process.gps]\nexecutable = \"/usr/sbin/gpsd\"\n[process.own]\npid_file = \"/run/own.pid\"\n\
                [process.off]\nenabled = false\n";
    let watched = fine(&toml(text)).processes;
    let expected = [
        ("broker", By::Name("mosquitto".into())),
        ("gps", By::Executable("/usr/sbin/gpsd".into())),
        ("modem", By::Unit("ModemManager.service".into())),
        ("own", By::PidFile("/run/own.pid".into())),
    ];
    let expected = expected.map(|(name, by)| (name.to_owned(), by));
    assert_eq!(watched, expected.into());
    let loaded = toml(text).load().unwrap();
    assert_eq!(fine(&toml(&loaded.effective())).processes, watched);

    let many: String = (0..33)
        .map(|at| format!("[process.p{at:02}]\nname = \"p\"\n"))
        .collect();
    refused(
        &toml(&many),
        &["process.p32: is one watched process more than 32"],
    );
    refused(
        &toml(
            "[process.a]\n[process.b]\nname = \"x\"\nunit = \"x.service\"\n\
             [process.c]\nname = \"sixteen-letters-\"\n[process.d]\nunit = \"d.service\"\nexecutabel = \"/x\"\n\
             [process.\"e f\"]\n",
        ),
        &[
            "process.a: says nothing about which process it is",
            "sonde.toml:4:8: process.b.unit: stands beside another way to find the process",
            "sonde.toml:6:8: process.c.name: is 16 bytes long, and the kernel keeps 15",
            "sonde.toml:9:1: process.d.executabel: unknown key \"executabel\" — did you mean \"executable\"?",
            "a name here has 1 to 64 letters, digits, _ and -",
        ],
    );
    let off = toml(&format!("[gauges.process]\nenabled = false\n{text}"));
    let warnings = off.load().unwrap().warnings.to_string();
    assert!(
        warnings.contains("no [process.NAME] is watched"),
        "{warnings}"
    );
}

/// The configuration is refused, and each of these is said somewhere.
fn refused_among(world: &World, expected: &[&str]) {
    assert!(world.load().is_err(), "was accepted");
    let lines = world.lines();
    for part in expected {
        let said = lines.iter().any(|line| line.contains(part));
        assert!(said, "{lines:#?}\n  lacks {part}");
    }
}

/// The configuration is refused with these errors, each said once, and no others.
fn refused_exactly(world: &World, expected: &[&str]) {
    let errors = world.load().unwrap_err().count().0;
    refused_among(world, expected);
    assert_eq!(errors, expected.len(), "{:#?}", world.lines());
}

/// The configuration is taken, and this is said about it.
fn warned(world: &World, expected: &str) {
    let warnings = world.load().unwrap().warnings;
    let lines: Vec<String> = warnings.0.iter().map(ToString::to_string).collect();
    let said = lines.iter().any(|line| line.contains(expected));
    assert!(said, "{lines:#?}\n  lacks {expected}");
}

#[test]
fn a_sensor_is_read_from_its_table_and_a_wrong_one_is_refused_in_words() {
    use crate::sensor::{I2cPlace, Kind as Sensor};
    let config = fine(&toml(
        "[sensor.supply]\nkind = \"ina219\"\nbus = \"/dev/i2c-1\"\naddress = 0x41\n\
         [sensor.adc]\nkind = \"iio\"\ndevice = \"/sys/x\"\nchannels = [\"in_voltage0\"]\n\
         [sensor.off]\nkind = \"shtc3\"\nbus = \"/dev/i2c-1\"\nenabled = false\n",
    ));
    let place = I2cPlace {
        bus: "/dev/i2c-1".into(),
        address: 0x41,
    };
    let kinds: Vec<_> = config.sensors.iter().map(|one| one.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            Sensor::Iio("/sys/x".into(), vec!["in_voltage0".into()]),
            Sensor::Ina219(place, 100_000, 98),
        ]
    );
    assert!(config.gauges.families.contains_key(&Family::Sensor));
    refused_among(
        &toml(
            "[sensor.a]\nkind = \"tmp102\"\nbus = \"/dev/i2c-1\"\naddress = 0x40\n\
             [sensor.b]\nkind = \"iio\"\ndevice = \"/sys/x\"\nchannels = [\"in_volt\"]\n\
             [sensor.c]\nkind = \"gpio\"\nchip = \"/dev/gpiochip0\"\n\
             [sensor.d]\nbus = \"/dev/i2c-1\"\n\
             [sensor.e]\nkind = \"tmp102\"\n\
             [sensor.f]\nkind = \"ina219\"\nbus = \"/dev/i2c-1\"\nshunt = -1\n\
             [sensor.g]\nkind = \"shtc3\"\nbus = \"/dev/i2c-1\"\nline = 3\n\
             [sensor.h]\nkind = \"shtc3\"\nbus = \"/dev/i2c-1\"\n",
        ),
        &[
            "sensor.a.address: 0x40 is no address that this chip can have — it has 0x48 to 0x4b",
            "sensor.b.channels: \"in_volt\" is no channel that is known",
            "sensor.c: names no line",
            "sensor.d: has no kind",
            "sensor.e: has no bus",
            "sensor.f.shunt: -1 cannot be",
            "sensor.g.line: has no effect on kind \"shtc3\"",
            "sensor.h: is at /dev/i2c-1 0x70, as sensor.g is",
        ],
    );
}

#[test]
fn a_chip_on_spi_has_its_device_file_a_speed_and_a_mode_and_on_i2c_an_address() {
    use crate::sensor::{I2cPlace, Kind as Sensor, Place, SpiPlace};
    let config = fine(&toml(
        "[sensor.a]\nkind = \"bme280\"\nbus = \"/dev/spidev0.1\"\n\
         [sensor.b]\nkind = \"bmp280\"\nbus = \"/dev/spidev0.0\"\nspeed = 500_000\nmode = 3\n\
         [sensor.c]\nkind = \"bme280\"\nbus = \"/dev/i2c-1\"\naddress = 0x77\n",
    ));
    let spi = |device: &str, speed, mode| {
        let device = device.into();
        Place::Spi(SpiPlace {
            device,
            speed,
            mode,
        })
    };
    let at = I2cPlace {
        bus: "/dev/i2c-1".into(),
        address: 0x77,
    };
    let kinds: Vec<_> = config.sensors.iter().map(|one| one.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            Sensor::Bme280(spi("/dev/spidev0.1", 1_000_000, 0)),
            Sensor::Bmp280(spi("/dev/spidev0.0", 500_000, 3)),
            Sensor::Bme280(Place::I2c(at)),
        ]
    );
    // Chip selects of one bus share a thread.
    assert_eq!(kinds[0].bus(), "/dev/spidev0");
    assert_eq!(kinds[1].bus(), kinds[0].bus());
    assert_eq!(kinds[0].place(), "/dev/spidev0.1");
    refused_exactly(
        &toml(
            "[sensor.a]\nkind = \"bme280\"\nbus = \"/dev/spidev0.0\"\nmode = 1\n\
             [sensor.b]\nkind = \"bme280\"\nbus = \"/dev/spidev0.1\"\nspeed = 50_000_000\n\
             [sensor.c]\nkind = \"tmp102\"\nbus = \"/dev/spidev0.2\"\n\
             [sensor.d]\nkind = \"bmp280\"\nbus = \"/dev/i2c-1\"\naddress = 0x48\n\
             [sensor.e]\nkind = \"bmp280\"\n",
        ),
        &[
            "sensor.a.mode: 1 is no mode of this chip — it has 0 and 3",
            "sensor.b.speed: 50000000 is out of range — allowed: a whole number from 10000 to 10000000",
            "sensor.c.bus: is an SPI device, and a tmp102 is on I2C — set bus, such as \"/dev/i2c-1\"",
            "sensor.d.address: 0x48 is no address that this chip can have — it has 0x76 to 0x77",
            "sensor.e: has no bus — set bus, such as \"/dev/i2c-1\" or \"/dev/spidev0.0\"",
        ],
    );
    // What the other bus has is pointed out.
    let world = toml(
        "[sensor.a]\nkind = \"bme280\"\nbus = \"/dev/spidev0.0\"\naddress = 0x76\n\
         [sensor.b]\nkind = \"bme280\"\nbus = \"/dev/i2c-1\"\nspeed = 100_000\n",
    );
    fine(&world);
    warned(&world, "sensor.a.address: has no effect on SPI");
    warned(&world, "sensor.b.speed: has no effect on I2C");
}

#[test]
fn one_mistake_in_a_sensor_or_a_serial_line_is_one_error() {
    refused_exactly(
        &toml(
            "[sensor.a]\nkind = \"bme68x\"\nbus = \"/dev/i2c-1\"\n\
             [sensor.b]\nkind = 280\nbus = \"/dev/i2c-1\"\n\
             [sensor.c]\nkimd = \"shtc3\"\nbus = \"/dev/i2c-1\"\n\
             [sensor.d]\nkind = \"shtc3\"\nbus = 1\n\
             [sensor.e]\nkind = \"gpio\"\nchip = \"/dev/gpiochip0\"\nline = \"seventeen\"\n\
             [sensor.f]\nkind = \"iio\"\ndevice = \"/sys/x\"\nchannels = 3\n\
             [sensor.g]\nkind = \"ina219\"\nbus = \"/dev/i2c-1\"\nshunt = \"small\"\n\
             [serial.a]\ndevice = 3\n\
             [serial.b]\ndevice = 4\n\
             [serial.c]\ndevice = \"/dev/ttyS0\"\n[serial.c.gauges.x]\nnumber = \"x\"\n\
             [serial.c.gauges.y]\nnumber = 0\n",
        ),
        &[
            "sensor.a.kind: ",
            "sensor.b.kind: ",
            "sensor.c.kimd: unknown key",
            "sensor.d.bus: ",
            "sensor.e.line: ",
            "sensor.f.channels: ",
            "sensor.g.shunt: ",
            "serial.a.device: ",
            "serial.b.device: ",
            "serial.c.gauges.x.number: ",
        ],
    );
    let many =
        (0..10).map(|n| format!("[sensor.s{n}]\nkind = \"shtc3\"\nbus = \"/dev/i2c-{n}\"\n"));
    let again = "[sensor.t]\nkind = \"tmp102\"\nbus = \"/dev/i2c-9\"\n".to_owned();
    refused_exactly(
        &toml(&many.chain([again]).collect::<String>()),
        &[
            "sensor.s8: is on one bus more than 8",
            "sensor.s9: is on one bus more than 8",
        ],
    );
}

#[test]
fn a_serial_line_is_read_from_its_table_and_a_wrong_one_is_refused_in_words() {
    let config = fine(&toml(
        "[serial.boiler]\ndevice = \"/dev/ttyUSB0\"\nbaud = 9600\n\
         [serial.boiler.gauges.level]\nnumber = 3\nunit = \"m\"\nscale = 0.001\noffset = -1\n",
    ));
    let line = config.serial.get("boiler").unwrap();
    assert_eq!((line.baud, line.max_series), (9600, 32));
    let gauge = line.gauges.first().unwrap();
    assert_eq!((gauge.source, gauge.number), (1, 3));
    assert_eq!((gauge.scale, gauge.offset), (0.001, -1.0));
    assert!(config.gauges.families.contains_key(&Family::Serial));
    refused_among(
        &toml(
            "[serial.a]\nbaud = 9600\n\
             [serial.b]\ndevice = \"/dev/ttyS0\"\n\
             [serial.b.gauges.x]\nnumber = 1\nscale = 0\n\
             [serial.b.gauges.y]\nnumber = 1\nunit = \"bytes\"\n\
             [serial.b.gauges.z]\nsource = 2\n\
             [serial.c]\ndevice = \"/dev/ttyS0\"\n",
        ),
        &[
            "serial.a: names no device",
            "serial.b.gauges.x.scale: makes every reading 0",
            "serial.b.gauges.y.number: is the place of x too",
            "serial.b.gauges.y.unit: is no UCUM unit",
            "serial.b.gauges.z: has no number",
            "serial.c.device: is the device of serial.b too",
        ],
    );
}
