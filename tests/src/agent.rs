//! The real `sonde` binary in folders of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sonde_agent::status::Status;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::ledger::TooLate;
use crate::workspace;

/// Between two looks at the status.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A gateway's folders and configuration; outlives the agent's starts.
#[derive(Debug)]
pub struct Gateway {
    dir: Arc<TempDir>,
    /// table -> key -> value as TOML
    tables: BTreeMap<String, BTreeMap<String, String>>,
}

/// One running `sonde run`; killed by its id when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stderr: PathBuf,
    socket: PathBuf,
    /// Its folders stay while it runs, also when the gateway was only needed to start it.
    _dir: Arc<TempDir>,
}

impl Gateway {
    /// Folders, and a configuration with short windows: 1 s ticks, 2 s batches,
    /// 4 s loss window, quick retries. No uplink yet.
    ///
    /// # Panics
    /// When no folder can be made: a test cannot go on without.
    pub fn new(id: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("sonde-")
            .tempdir()
            .expect("a folder for the gateway");
        let mut gateway = Self {
            dir: Arc::new(dir),
            tables: BTreeMap::new(),
        };
        let folder = |name: &str| gateway.path(name).display().to_string();
        let (state, runtime) = (folder("state"), folder("run"));
        let socket = gateway.socket().display().to_string();
        let local = gateway.local_socket().display().to_string();
        gateway
            .text("device.id", id)
            .text("paths.state", &state)
            .text("paths.runtime", &runtime)
            .text("paths.status_socket", &socket)
            .text("paths.socket", &local)
            .text("clock.trust", "always")
            .text("gauges.interval", "1s")
            .text("batch.length", "2s")
            .text("spool.quota", "64MiB")
            .text("spool.loss_window", "4s")
            .text("trace.sampler", "always_on")
            .set("trace.routine_ratio", "1.0");
        gateway
    }

    /// Adds an OTLP uplink with quick retries.
    pub fn otlp(&mut self, endpoint: &str) -> &mut Self {
        self.text("uplink.otlp.endpoint", endpoint)
            .text("uplink.otlp.timeout", "2s")
            .text("uplink.otlp.backoff_min", "100ms")
            .text("uplink.otlp.backoff_max", "1s")
            .text("uplink.otlp.first_send_jitter", "0s")
            .route()
    }

    /// Adds an MQTT uplink with quick retries and the shortest keep-alive.
    pub fn mqtt(&mut self, url: &str) -> &mut Self {
        self.text("uplink.mqtt.url", url)
            .text("uplink.mqtt.timeout", "2s")
            .text("uplink.mqtt.backoff_min", "100ms")
            .text("uplink.mqtt.backoff_max", "1s")
            .text("uplink.mqtt.first_send_jitter", "0s")
            .text("uplink.mqtt.keep_alive", "5s")
            .set("uplink.mqtt.required", "true")
            .route()
    }

    /// Sets `table.key` to a text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.set(key, &format!("{value:?}"))
    }

    /// Sets `table.key` to a value as it stands in TOML.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.tables
            .entry(table.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// Takes `table.key` out.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        if let Some(table) = self.tables.get_mut(table) {
            table.remove(key);
        }
        self
    }

    /// A file or folder of this gateway's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The spool's folder.
    pub fn spool(&self) -> PathBuf {
        self.path("state/spool")
    }

    /// The status socket.
    pub fn socket(&self) -> PathBuf {
        self.path("status.sock")
    }

    /// Where local programs send.
    pub fn local_socket(&self) -> PathBuf {
        self.path("sonde.sock")
    }

    /// The spool's files with data in them: segments, not cursors or the lock.
    pub fn segments(&self) -> Vec<PathBuf> {
        let classes = std::fs::read_dir(self.spool()).into_iter().flatten();
        classes
            .flatten()
            .filter_map(|class| std::fs::read_dir(class.path()).ok())
            .flatten()
            .flatten()
            .map(|file| file.path())
            .filter(|file| file.is_file())
            .collect()
    }

    /// Bytes of the spool's segments right now.
    pub fn spool_bytes(&self) -> u64 {
        let files = self.segments();
        let sizes = files.iter().filter_map(|file| file.metadata().ok());
        sizes.map(|file| file.len()).sum()
    }

    /// The configuration as a file's text.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        for (table, keys) in &self.tables {
            let _ = writeln!(text, "[{table}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }

    /// Writes the configuration; returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self) -> PathBuf {
        let file = self.path("sonde.toml");
        std::fs::write(&file, self.toml()).expect("the gateway's configuration");
        file
    }

    /// Writes the configuration and starts `sonde run`.
    ///
    /// # Panics
    /// When the binary cannot be started.
    pub fn start(&self) -> Agent {
        self.start_with(&mut Command::new(binary()))
    }

    /// The same through a prepared command (`unshare …`, `setpriv …`): the
    /// agent's arguments are appended.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(&self, command: &mut Command) -> Agent {
        let config = self.write();
        let stderr = self.path("stderr.log");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&stderr)
            .expect("a file for stderr");
        let child = clean(command)
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        Agent {
            child,
            stderr,
            socket: self.socket(),
            _dir: Arc::clone(&self.dir),
        }
    }

    /// Runs `sonde ARGS` to its end (at most 20 s).
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    pub async fn run(&self, args: &[&str]) -> Output {
        run(args).await
    }

    /// The spans and errors of every start, as printed.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr.log")).unwrap_or_default()
    }

    fn route(&mut self) -> &mut Self {
        let mut uplinks = Vec::new();
        for name in ["otlp", "mqtt"] {
            if self.tables.contains_key(&format!("uplink.{name}")) {
                uplinks.push(format!("{name:?}"));
            }
        }
        let list = format!("[{}]", uplinks.join(", "));
        for signal in ["metrics", "traces", "logs"] {
            self.set(&format!("route.{signal}"), &list);
        }
        self
    }
}

impl Agent {
    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the agent runs")
    }

    /// `sonde status --json`; `None` while there is no answer.
    pub async fn status(&self) -> Option<Status> {
        status(&self.socket).await
    }

    /// Asks for the status until it is as wanted.
    ///
    /// # Errors
    /// [`TooLate`] with the last status and what the agent printed.
    pub async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<Status, TooLate> {
        let end = Instant::now() + limit;
        let mut last = None;
        while Instant::now() < end {
            if let Some(status) = self.status().await {
                if condition(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
            if let Ok(Some(exit)) = self.child.try_wait() {
                return Err(TooLate(format!(
                    "{what}: the agent ended ({exit})\n{}",
                    self.stderr()
                )));
            }
            sleep(LOOK_AGAIN).await;
        }
        let last = last.map(|mut status| {
            status.gauges.clear();
            serde_json::to_string(&status).unwrap_or_default()
        });
        Err(TooLate(format!(
            "{what} (within {limit:?})\nlast status: {last:?}\n{}",
            self.stderr()
        )))
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`TooLate`] when it does not within ten seconds.
    pub async fn ready(&mut self) -> Result<Status, TooLate> {
        self.wait("the first status", Duration::from_secs(10), |_| true)
            .await
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Panics
    /// When it has already ended.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// [`TooLate`] when it has not ended within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus, TooLate> {
        self.signal(Signal::TERM);
        self.ended(limit).await
    }

    /// SIGHUP.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits for the end without asking for it.
    ///
    /// # Errors
    /// [`TooLate`] when it has not ended within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus, TooLate> {
        match timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            _ => Err(TooLate(format!(
                "the agent's end (within {limit:?})\n{}",
                self.stderr()
            ))),
        }
    }

    /// What it has printed so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        // An id of a child that has not been waited for cannot belong to anybody else.
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        {
            let _ = kill_process(pid, signal);
        }
    }
}

/// `sonde status --json` at a socket; `None` while there is no answer.
pub async fn status(socket: &Path) -> Option<Status> {
    let socket = socket.to_str()?;
    let output = run(&["status", "--socket", socket, "--json"]).await;
    serde_json::from_slice(&output.stdout).ok()
}

/// Runs `sonde ARGS` to its end (at most 20 s).
///
/// # Panics
/// When it cannot be started or does not end.
pub async fn run(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    let output = clean(&mut command)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(Duration::from_secs(20), output)
        .await
        .unwrap_or_else(|_| panic!("sonde {args:?} does not end"))
        .unwrap_or_else(|error| panic!("{}: {error}", binary().display()))
}

/// `SONDE_BIN`, or the release build of this workspace.
pub fn binary() -> PathBuf {
    std::env::var_os("SONDE_BIN")
        .map_or_else(|| workspace().join("target/release/sonde"), PathBuf::from)
}

/// Builds the release binary if there is none.
///
/// # Errors
/// When cargo fails; its output has been shown.
pub async fn build_if_missing() -> io::Result<PathBuf> {
    let path = binary();
    if path.is_file() {
        return Ok(path);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-p", "sonde-agent"])
        .current_dir(workspace())
        .status()
        .await?;
    if status.success() && path.is_file() {
        return Ok(path);
    }
    Err(io::Error::other(format!(
        "{} is not there and building it failed: try cargo build --release -p sonde-agent",
        path.display()
    )))
}

/// The environment of whoever runs the tests must not configure the agent.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_configuration_is_toml_with_its_uplinks_routed() {
        let mut gateway = Gateway::new("gw-1");
        gateway
            .otlp("http://127.0.0.1:4318")
            .mqtt("mqtt://127.0.0.1:1883");
        let text = gateway.toml();
        assert!(text.contains("[uplink.otlp]"), "{text}");
        assert!(text.contains("metrics = [\"otlp\", \"mqtt\"]"), "{text}");
        assert!(text.contains("id = \"gw-1\""), "{text}");
        gateway.unset("device.id");
        assert!(!gateway.toml().contains("gw-1"));
    }
}
