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
use tokio::time::sleep;

use super::client::{self, Failure, Request};
use crate::status::{SCHEMA, Status};

mod render;
pub(super) use render::clean;
pub use render::{View, render};

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
    let answer = runtime.block_on(fetch(socket));
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
    match page(options).await {
        Ok(page) if print(&page) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("{}", render::clean(failure.words()));
            ExitCode::from(failure.code())
        }
    }
}

async fn watch(options: &Options) -> ExitCode {
    let redraw = io::stdout().is_terminal() && !options.json;
    loop {
        let page = match page(options).await {
            Ok(page) => page,
            Err(Failure::Unreachable(words)) => {
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
    let json = fetch(&options.socket).await?;
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
    let request = Request {
        method: "GET",
        path: "/status",
        headers: &[],
        body: b"",
    };
    let reply = client::send(socket, &request).await?;
    let nonsense = |why: &str| Failure::Nonsense(format!("the answer is not a status: {why}"));
    if reply.status != 200 {
        let why = format!("HTTP {}: {}", reply.status, reply.error());
        return Err(nonsense(&why));
    }
    String::from_utf8(reply.body).map_err(|_| nonsense("not UTF-8"))
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
    async fn a_real_door_is_read_and_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let stop = tokio_util::sync::CancellationToken::new();
        let door = crate::door::bind(&path, "paths.status_socket")
            .await
            .unwrap();
        let task = crate::door::spawn(door, std::sync::Arc::new(sample::fine), stop.clone());
        let status = parse(&fetch(&path).await.unwrap()).unwrap();
        assert_eq!(status.device.id, "gw-42");
        stop.cancel();
        task.await.unwrap();
        assert!(matches!(fetch(&path).await, Err(Failure::Unreachable(_))));
    }

    #[test]
    fn nonsense_is_refused() {
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
