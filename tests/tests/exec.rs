//! `sonde exec` from the outside: what a person or a script notices of it,
//! which should be nothing.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use sonde_tests::agent::binary;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

fn exec(command: &[&str]) -> Command {
    let mut exec = Command::new(binary());
    exec.arg("exec")
        .args(["--socket", "/nowhere"])
        .arg("--")
        .args(command);
    for name in [
        "TRACEPARENT",
        "TRACESTATE",
        "BAGGAGE",
        "OTEL_TRACES_SAMPLER",
    ] {
        exec.env_remove(name);
    }
    exec
}

fn sh(script: &str) -> Command {
    exec(&["/bin/sh", "-c", script])
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    (code, text(&output.stdout), text(&output.stderr))
}

#[test]
fn exit_codes_are_the_commands_or_a_shells() {
    for (command, code) in [
        (vec!["/bin/true"], 0),
        (vec!["/bin/sh", "-c", "exit 42"], 42),
        (vec!["/bin/sh", "-c", "kill -TERM $$"], 128 + 15),
        (vec!["/bin/sh", "-c", "kill -KILL $$"], 128 + 9),
        (vec!["/etc/passwd"], 126),
        (vec!["no-such-command-here"], 127),
    ] {
        let (got, _, errors) = said(&exec(&command).output().unwrap());
        assert_eq!(got, code, "{command:?}: {errors}");
        // Without an agent nothing is said, but what a shell would say too.
        assert_eq!(errors.is_empty(), !(126..=127).contains(&code), "{errors}");
    }
}

#[test]
fn streams_and_arguments_are_the_commands_own() {
    let mut child = exec(&["/bin/sh", "-c", "cat; echo \"$1\" >&2", "sh", "--verbose"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = said(&child.wait_with_output().unwrap());
    assert_eq!(output, (0, "through".into(), "--verbose\n".into()));
}

#[test]
fn the_environment_carries_the_trace_on() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let output = sh("echo $TRACEPARENT $TRACESTATE $BAGGAGE")
        .env("TRACEPARENT", format!("00-{trace}-b7ad6b7169203331-00"))
        .env("TRACESTATE", "v=1")
        .env("BAGGAGE", "a=b")
        .output()
        .unwrap();
    let (_, out, _) = said(&output);
    assert!(out.starts_with(&format!("00-{trace}-")), "{out}");
    assert!(
        out.ends_with("-00 v=1 a=b\n"),
        "the parent's flag goes on: {out}"
    );
    assert!(!out.contains("b7ad6b7169203331"), "{out}");
    // An invalid parent starts a trace of its own, and goes no further.
    let (_, out, _) = said(
        &sh("echo $TRACEPARENT")
            .env("TRACEPARENT", "00-00000000000000000000000000000000-1-01")
            .output()
            .unwrap(),
    );
    assert!(
        out.trim().len() == 55 && out.trim().ends_with("-01"),
        "{out}"
    );
}

#[test]
fn signals_reach_the_command() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::USR1] {
        let name = signal.as_raw();
        let mut command = sh(&format!(
            "trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
        ));
        // Away from any terminal, as under a service manager.
        let mut child = command
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        use std::io::Read as _;
        out.read_exact(&mut [0; 6]).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(
            (rest.as_str(), child.wait().unwrap().code()),
            ("got\n", Some(9))
        );
    }
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let script = format!(
        "trap '' HUP; exec {} exec --socket /nowhere -- /bin/sh -c 'grep SigIgn /proc/self/status'",
        binary().display()
    );
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let (_, out, _) = said(&output);
    let mask = u64::from_str_radix(out.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(mask & 1, 1, "{out}");
}

/// A terminal of Python's: types what the script says and prints what comes back.
fn on_a_terminal(script: &str) -> String {
    let python = format!(
        r#"
import os, pty, select, signal, sys, time
sonde = sys.argv[1]
pid, fd = pty.fork()
if pid == 0:
    os.environ["PS1"] = "$ "
    os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
seen = b""
def until(*whats, limit=15):
    global seen
    end = time.time() + limit
    while not any(what in seen for what in whats):
        left = end - time.time()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            print("NOT SEEN", whats, seen.decode(errors="replace")); sys.exit(1)
        seen += os.read(fd, 4096)
    came = min((what for what in whats if what in seen), key=seen.index)
    seen = seen.split(came, 1)[1]
    return came
def typed(text): os.write(fd, text)
E = sonde.encode() + b" exec --socket /nowhere -- "
until(b"$ ")
{script}
os.kill(pid, signal.SIGKILL)
print("FINE")
"#
    );
    let output = Command::new("python3")
        .args(["-c", &python])
        .arg(binary())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_command_is_on_the_terminal() {
    let told = on_a_terminal(
        r#"
typed(E + b"sh -c 'test -t 0 && test -t 1 && test -t 2 && echo is-$((1+1))-tty; stty size >/dev/null && echo asked-$((1+1))'\r")
until(b"is-2-tty"); until(b"asked-2")
"#,
    );
    assert!(told.contains("FINE"), "{told}");
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    let told = on_a_terminal(
        r#"
typed(E + b"bash -c 'n=0; trap \"n=\\$((n+1))\" INT; echo rea\"\"dy; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done; echo count-$n; exit 5'; echo code-$?\r")
until(b"ready"); typed(b"\x03"); until(b"count-1"); until(b"code-5")
"#,
    );
    assert!(told.contains("FINE"), "{told}");
}

#[test]
fn ctrl_c_ends_a_command_that_does_not_catch_it() {
    // With `exec`: a shell loses a Ctrl-C that comes while it forks.
    let told = on_a_terminal(
        r#"
typed(E + b"sh -c 'echo rea\"\"dy; exec sleep 60'; echo code-$?\r")
until(b"ready"); typed(b"\x03"); until(b"code-130")
"#,
    );
    assert!(told.contains("FINE"), "{told}");
}

#[test]
fn job_control_stops_and_continues_it() {
    let told = on_a_terminal(
        r#"
typed(E + b"sh -c 'echo rea\"\"dy; read line; echo got-$line'\r")
until(b"ready"); typed(b"\x1a"); until(b"Stopped"); until(b"$ ")
typed(b"fg\r")
# bash may lose a key while it takes note of the stop. Had the stopped command eaten it, `hello` would not come back alone.
while until(b"got-$line", b"not found") == b"not found":
    until(b"$ "); typed(b"fg\r")
typed(b"hello\r"); until(b"got-hello")
"#,
    );
    assert!(told.contains("FINE"), "{told}");
}

/// An agent's door that takes one request: its path and the span in it.
async fn one_span(
    socket: &Path,
    answer: &str,
) -> tokio::task::JoinHandle<(String, ExportTraceServiceRequest)> {
    let listener = UnixListener::bind(socket).unwrap();
    let answer = answer.to_owned();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.unwrap();
            all.extend_from_slice(&piece[..count]);
            let Some(at) = all.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&all[..at]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().trim().parse().unwrap();
            if all.len() < at + 4 + length {
                continue;
            }
            let body = ExportTraceServiceRequest::decode(&all[at + 4..]).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            return (head.lines().next().unwrap().to_owned(), body);
        }
    })
}

#[tokio::test]
async fn the_span_goes_to_the_agent_as_a_child_of_the_parent_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sonde.sock");
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let taken = one_span(&socket, answer).await;
    let output = tokio::process::Command::new(binary())
        .args([
            "exec",
            "--verbose",
            "--name",
            "nightly",
            "--service",
            "backup",
            "--socket",
        ])
        .arg(&socket)
        .args(["--", "/bin/sh", "-c", "echo $TRACEPARENT; exit 3"])
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .output()
        .await
        .unwrap();
    let (code, out, errors) = said(&output);
    assert_eq!(code, 3);
    let (request, body) = taken.await.unwrap();
    assert!(request.starts_with("post /v1/traces "), "{request}");
    let spans = &body.resource_spans[0];
    let span = &spans.scope_spans[0].spans[0];
    assert_eq!(span.name, "nightly");
    assert_eq!(
        span.parent_span_id,
        [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]
    );
    assert_eq!(span.status.clone().unwrap().message, "exit code 3");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    let own: String = span
        .span_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(
        out.contains(&own),
        "the command's parent is the span: {out}"
    );
    assert!(errors.contains(&own), "{errors}");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sonde.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let output = tokio::process::Command::new(binary())
        .args(["exec", "--socket"])
        .arg(&socket)
        .args(["--", "/bin/true"])
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        )
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    assert!(listener.accept().is_err(), "somebody called");
}

#[test]
fn an_agent_that_hangs_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sonde.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let started = tokio::time::Instant::now();
    let status = Command::new(binary())
        .args(["exec", "--socket"])
        .arg(&socket)
        .args(["--", "/bin/sh", "-c", "exit 6"])
        .status()
        .unwrap();
    assert_eq!((status.code(), status.signal()), (Some(6), None));
    assert!(started.elapsed().as_secs() < 5);
}
