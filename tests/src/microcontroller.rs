//! A microcontroller in an emulator: the program of
//! `firmware-hal/examples/lm3s6965` on the board that it was written for, with a
//! thermometer on its I2C bus whose temperature the test sets, and its UART on
//! a pseudo terminal.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::workspace;

/// Where the emulator keeps the thermometer.
const THERMOMETER: &str = "/machine/peripheral/t0";

/// The longest that the emulator takes to start and to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A board; its emulator is killed by its id when dropped.
#[derive(Debug)]
pub struct Board {
    emulator: Child,
    control: BufReader<UnixStream>,
    tty: PathBuf,
    _dir: TempDir,
}

/// The program, built now if it is not built yet.
///
/// # Panics
/// When it cannot be built, links a panic path, or is too big: the script says what.
pub fn firmware() -> PathBuf {
    let script = workspace().join("firmware-hal/examples/lm3s6965/build");
    let built = Command::new(&script)
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(built.status.success(), "{} failed", script.display());
    String::from_utf8(built.stdout)
        .expect("a path")
        .trim()
        .into()
}

impl Board {
    /// A board that stands still until [`Board::go`].
    ///
    /// # Panics
    /// When the emulator does not start (Debian's package qemu-system-arm).
    pub async fn new(firmware: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("qmp");
        let emulator = Command::new("qemu-system-arm")
            .args(["-M", "lm3s6965evb", "-display", "none", "-monitor", "none"])
            .args(["-serial", "pty", "-device", "tmp105,id=t0,address=0x48"])
            .args(["-S", "-nodefaults", "-kernel"])
            .arg(firmware)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-system-arm, which tests/run installs");
        let mut board = Self {
            emulator,
            control: BufReader::new(connect(&socket).await),
            tty: PathBuf::new(),
            _dir: dir,
        };
        board.answer();
        board.ask("qmp_capabilities", json!({}));
        let lines = board.ask("query-chardev", json!({}));
        board.tty = lines
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|line| line["filename"].as_str()?.strip_prefix("pty:"))
            .map(PathBuf::from)
            .next()
            .unwrap_or_else(|| panic!("no pseudo terminal in {lines}"));
        board
    }

    /// The terminal that its UART is at.
    pub fn tty(&self) -> &Path {
        &self.tty
    }

    /// Sets the temperature of the air around the thermometer, in thousandths of a degree.
    pub fn temperature(&mut self, thousandths: i32) {
        let set = json!({"path": THERMOMETER, "property": "temperature", "value": thousandths});
        self.ask("qom-set", set);
    }

    /// Lets the program run.
    pub fn go(&mut self) {
        self.ask("cont", json!({}));
    }

    /// Takes its power away, and its terminal with it.
    pub fn kill(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let order = json!({"execute": command, "arguments": arguments});
        writeln!(self.control.get_mut(), "{order}").expect("the emulator listens");
        loop {
            let mut answer = self.answer();
            // Events come in between.
            if answer.get("event").is_none() {
                assert!(answer.get("error").is_none(), "{command}: {answer}");
                return answer["return"].take();
            }
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.control
            .read_line(&mut line)
            .expect("the emulator answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn connect(socket: &Path) -> UnixStream {
    let attempt = async {
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let stream = timeout(PATIENCE, attempt).await.expect("the emulator");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}
