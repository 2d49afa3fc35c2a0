//! `sonde status`: is this gateway fine, and if not why.
//!
//! Asks the agent's door for its page, or its JSON, and prints: the agent words
//! its own status, so this side needs to know neither its fields nor its version.
//! Trusts nothing that comes back: bytes and time are bounded, and what could
//! steer a terminal is replaced. Exit codes: 0 the agent answered (problems or not: read the
//! verdict or `problems` in the JSON), 1 it answered nonsense, 3 nobody answered.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::client::{self, Failure, Request};
use crate::status::SCHEMA;

mod custom;
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

/// The agent's status as JSON, for other subcommands; `None`: it has none to give now.
pub(super) fn ask(socket: &Path) -> Option<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let answer = runtime.block_on(fetch(socket, "/status"));
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
    if options.json {
        let json = fetch(&options.socket, "/status").await?;
        parse(&json)?;
        let mut text = if io::stdout().is_terminal() {
            render::clean_json(&json)
        } else {
            json
        };
        text.push('\n');
        return Ok(text);
    }
    let view = View::of_stdout();
    let path = format!("/page?columns={}", view.width);
    Ok(render::shown(&fetch(&options.socket, &path).await?, view))
}

fn parse(json: &str) -> Result<Value, Failure> {
    let nonsense = |why: &str| Failure::Nonsense(format!("the answer is not a status: {why}"));
    let status: Value = serde_json::from_str(json).map_err(|error| nonsense(&error.to_string()))?;
    match status.get("schema").and_then(Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => Ok(status),
        Some(schema) => Err(Failure::Nonsense(format!(
            "the agent speaks status schema {schema}, this program {SCHEMA}: use the `sonde` of the same version"
        ))),
        None => Err(nonsense("it names no schema")),
    }
}

async fn fetch(socket: &Path, path: &str) -> Result<String, Failure> {
    let request = Request {
        method: "GET",
        path,
        headers: &[],
        body: b"",
    };
    let reply = client::send(socket, &request).await?;
    let nonsense = |why: &str| Failure::Nonsense(format!("the answer is not a status: {why}"));
    if reply.status == 404 {
        return Err(Failure::Nonsense(
            "the agent that runs is of another version and knows no page: restart it, or use --json"
                .to_owned(),
        ));
    }
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
        let status = parse(&fetch(&path, "/status").await.unwrap()).unwrap();
        assert_eq!(status["device"]["id"], "gw-42");
        let page = fetch(&path, "/page?columns=60").await.unwrap();
        let view = View {
            width: 60,
            colour: false,
        };
        assert_eq!(page, render(&sample::fine(), view));
        assert_eq!(
            fetch(&path, "/page").await.unwrap().lines().next(),
            page.lines().next()
        );
        stop.cancel();
        task.await.unwrap();
        assert!(matches!(
            fetch(&path, "/page").await,
            Err(Failure::Unreachable(_))
        ));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            "",
            "[]",
            "{\"schema\":2}",
            "{\"schema\":\"1\"}",
            &"[".repeat(100_000),
        ] {
            assert!(matches!(parse(json), Err(Failure::Nonsense(_))));
        }
    }
}
