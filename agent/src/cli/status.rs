//! `sonde status`: is this gateway fine, and if not why.
//!
//! Asks the agent's door and prints. Trusts nothing that comes back: bytes and
//! time are bounded, the schema is checked, and what could steer a terminal is
//! replaced. Exit codes: 0 the agent answered (problems or not: read the
//! verdict or `problems` in the JSON), 1 it answered nonsense, 3 nobody answered.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::status::{SCHEMA, Status};

mod render;
pub(super) use render::clean;
pub use render::{View, render};

/// From connecting to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);

/// A thousand series take about 200 KB; this is for whoever sends without end.
const MOST: u64 = 8 << 20;

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// What the command line said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The agent's `status.sock`.
    pub socket: PathBuf,
    /// Print the JSON instead of words.
    pub json: bool,
    /// Again each second, until Ctrl-C.
    pub watch: bool,
}

/// Why there is no status, by exit code.
#[derive(Debug)]
enum Failure {
    /// 3
    Nobody(String),
    /// 1
    Nonsense(String),
}

/// Runs the subcommand.
pub fn run(options: Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sonde status: could not start: {error}");
            return ExitCode::from(1);
        }
    };
    runtime.block_on(async {
        if !options.watch {
            return once(&options).await;
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
            code = watch(&options) => code,
        }
    })
}

/// The agent's status, for other subcommands; `None`: it has none to give now.
pub(super) fn ask(socket: &Path) -> Option<Status> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let asked = async { timeout(DEADLINE, fetch(socket)).await };
    let answer = runtime.block_on(asked).ok()?;
    parse(&answer.ok()?).ok()
}

/// Waits, between two questions.
pub(super) fn pause(length: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    if let Ok(runtime) = runtime {
        runtime.block_on(async { sleep(length).await });
    }
}

async fn once(options: &Options) -> ExitCode {
    let (code, words) = match page(options).await {
        Ok(page) => {
            return if print(&page) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            };
        }
        Err(Failure::Nobody(words)) => (3, words),
        Err(Failure::Nonsense(words)) => (1, words),
    };
    eprintln!("{}", render::clean(&words));
    ExitCode::from(code)
}

async fn watch(options: &Options) -> ExitCode {
    let redraw = io::stdout().is_terminal() && !options.json;
    loop {
        let page = match page(options).await {
            Ok(page) => page,
            Err(Failure::Nobody(words)) => {
                format!("waiting for the agent: {}\n", render::clean(&words))
            }
            Err(Failure::Nonsense(words)) => format!("{}\n", render::clean(&words)),
        };
        let page = match (redraw, options.json) {
            (true, _) => format!("\x1b[H\x1b[2J{page}"),
            (false, true) => page,
            (false, false) => format!("{page}----\n"),
        };
        if !print(&page) {
            return ExitCode::SUCCESS;
        }
        sleep(EVERY).await;
    }
}

/// `false`: nobody reads any more.
fn print(page: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(page.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

async fn page(options: &Options) -> Result<String, Failure> {
    let json = match timeout(DEADLINE, fetch(&options.socket)).await {
        Ok(answer) => answer?,
        Err(_) => {
            return Err(Failure::Nobody(format!(
                "no agent answers on {} within {} s. Is it hanging? Try: systemctl status sonde",
                options.socket.display(),
                DEADLINE.as_secs()
            )));
        }
    };
    let status = parse(&json)?;
    if options.json {
        let mut text = if io::stdout().is_terminal() {
            render::clean_json(&json)
        } else {
            json
        };
        text.push('\n');
        return Ok(text);
    }
    Ok(render(&status, View::of_stdout()))
}

fn parse(json: &str) -> Result<Status, Failure> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let nonsense = |why: String| Failure::Nonsense(format!("the answer is not a status: {why}"));
    let head: Head = serde_json::from_str(json).map_err(|error| nonsense(error.to_string()))?;
    if head.schema != SCHEMA {
        return Err(Failure::Nonsense(format!(
            "the agent speaks status schema {}, this program {SCHEMA}: use the `sonde` of the same version",
            head.schema
        )));
    }
    serde_json::from_str(json).map_err(|error| nonsense(error.to_string()))
}

async fn fetch(socket: &Path) -> Result<String, Failure> {
    let nobody = |error: io::Error| {
        let dead = match error.kind() {
            io::ErrorKind::ConnectionRefused => " (a dead agent's socket)",
            io::ErrorKind::PermissionDenied => " (you need the socket's group, or sudo)",
            _ => "",
        };
        Failure::Nobody(format!(
            "no agent answers on {}: {error}{dead}. Is it running? Try: systemctl status sonde, \
             or sonde run --config FILE",
            socket.display()
        ))
    };
    let mut stream = UnixStream::connect(socket).await.map_err(nobody)?;
    let request = b"GET /status HTTP/1.1\r\nHost: sonde\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(nobody)?;
    let mut answer = Vec::new();
    stream
        .take(MOST + 1)
        .read_to_end(&mut answer)
        .await
        .map_err(nobody)?;
    if answer.is_empty() {
        return Err(nobody(io::ErrorKind::UnexpectedEof.into()));
    }
    body(answer)
}

/// The agent answers with a length and closes: what follows the head is the body.
fn body(answer: Vec<u8>) -> Result<String, Failure> {
    let nonsense = |why: &str| Failure::Nonsense(format!("the answer is not a status: {why}"));
    if answer.len() as u64 > MOST {
        return Err(nonsense("it does not end"));
    }
    let text = String::from_utf8(answer).map_err(|_| nonsense("not UTF-8"))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| nonsense("not HTTP"))?;
    let first = head.lines().next().unwrap_or_default();
    if first.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(nonsense(&format!("{first}: {body}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn other_subcommands_ask_and_wait_without_a_runtime_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(&dir.path().join("s")).is_none());
        pause(Duration::from_millis(1));
    }

    #[tokio::test]
    async fn a_dead_or_missing_socket_is_nobody_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..2 {
            match fetch(&path).await {
                Err(Failure::Nobody(words)) => assert!(words.contains("systemctl status sonde")),
                other => panic!("{other:?}"),
            }
            // The second time: a dead agent's socket.
            drop(std::os::unix::net::UnixListener::bind(&path).ok());
        }
    }

    #[tokio::test]
    async fn a_real_door_is_read_and_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let stop = tokio_util::sync::CancellationToken::new();
        let door = crate::door::bind(&path).await.unwrap();
        let task = crate::door::spawn(door, std::sync::Arc::new(sample::fine), stop.clone());
        let status = parse(&fetch(&path).await.unwrap()).unwrap();
        assert_eq!(status.device.id, "gw-42");
        stop.cancel();
        task.await.unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        let huge = vec![b'a'; MOST as usize + 1];
        for answer in [
            huge,
            b"hello".to_vec(),
            vec![0xff],
            b"HTTP/1.1 500 no\r\n\r\nx".to_vec(),
        ] {
            assert!(matches!(body(answer), Err(Failure::Nonsense(_))));
        }
        for json in [
            "",
            "[]",
            "{\"schema\":2}",
            "{\"schema\":1}",
            &"[".repeat(100_000),
        ] {
            assert!(matches!(parse(json), Err(Failure::Nonsense(_))));
        }
    }
}
