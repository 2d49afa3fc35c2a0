//! `sonde exec -- CMD…`: any command in a span, from the outside as if `sonde
//! exec` were not there.
//!
//! The command keeps the terminal, the process group and the three standard
//! streams, so Ctrl-C and job control work as ever; its exit code is the exit
//! code (128 + n after signal n, as a shell's). The trace context comes from
//! the environment and goes on in it. The span is handed to the agent on this
//! machine after the command has ended; without an agent, nothing is said
//! unless `--verbose`.
//!
//! Signals to this process are passed on, but for those that the terminal
//! sends: it sends SIGINT and SIGQUIT to the whole foreground group, and the
//! command must not get them twice. So while this process is in its terminal's
//! foreground it keeps the two to itself. SIGTSTP and its kin need nothing: the
//! kernel stops and continues the group as a whole. What was ignored at the
//! start (nohup) stays ignored, here and for the command.
//!
//! Little else happens before the command starts: no configuration is read and
//! no socket is opened until it runs.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process, waitid};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::timeout;

use super::{FAILED, client, complain};
use crate::clock::{Clock, ClockTrust};
use crate::config::{self, Env};
use crate::trace::propagation::{self, Carried};
use crate::work::lifecycle::Exit;

mod sampling;
mod span;

use sampling::Decision;
use span::{Ended, Report};

/// The longest that a command's end waits for the agent.
const HANDOVER: Duration = Duration::from_millis(300);

/// As shells have it: the command is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// As shells have it: there is no such command.
const NOT_FOUND: u8 = 127;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--name`: the span's name; else the program's.
    pub name: Option<String>,
    /// `--service`: `service.name`; else `OTEL_SERVICE_NAME` or the program's name.
    pub service: Option<String>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--config`: take the socket's place from there.
    pub config: Option<PathBuf>,
    /// `--verbose`: say what became of the span.
    pub verbose: bool,
    /// The program and its arguments; not empty.
    pub command: Vec<OsString>,
}

/// Runs the command and ends as it ended.
pub fn run(options: &Options, env: &Env) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(wrap(options, env))),
        Err(error) => {
            complain(&format!("sonde exec: cannot start: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn wrap(options: &Options, env: &Env) -> u8 {
    let Some((program, arguments)) = options.command.split_first() else {
        return NOT_FOUND;
    };
    let carried = propagation::from_env(|name| env.vars.get(name)?.to_str().map(str::to_owned));
    let decision = sampling::decide(&carried, |name| env.vars.get(name)?.to_str());
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(own) = decision.context() {
        for name in ["TRACEPARENT", "TRACESTATE", "BAGGAGE"] {
            command.env_remove(name);
        }
        let next = Carried {
            context: Some(own.clone()),
            baggage: carried.baggage.clone(),
        };
        command.envs(propagation::environment(&next));
    }
    let mut forwarded = match Forwarded::listen() {
        Ok(forwarded) => forwarded,
        Err(error) => {
            complain(&format!("sonde exec: cannot listen for signals: {error}"));
            return FAILED;
        }
    };
    let clock = Clock::new(ClockTrust::Always);
    let started = clock.now();
    let child = command.spawn();
    drop(command);
    let (code, ended) = match child {
        Ok(child) => {
            let pid = child.id();
            let (exit, cpu) = forwarded.wait(child).await;
            let code = match exit {
                Exit::Code(code) => u8::try_from(code & 0xff).unwrap_or(FAILED),
                Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            };
            (code, Ended::Ran { pid, exit, cpu })
        }
        Err(error) => {
            let shown = Path::new(program).display();
            complain(&format!("sonde exec: cannot run {shown}: {error}"));
            let code = match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => CANNOT_RUN,
            };
            (code, Ended::NotStarted(error.to_string()))
        }
    };
    let Decision::Sampled(own) = decision else {
        if options.verbose {
            complain("sonde exec: the trace is not sampled, so no span was sent");
        }
        return code;
    };
    let now = clock.now();
    let report = Report {
        program: Path::new(program),
        name: options.name.as_deref(),
        service: options.service.as_deref(),
        parent: carried.context.as_ref(),
        context: &own,
        // By the boot clock, so that a wall clock that was set makes no false length.
        started_unix_ns: now
            .unix_ns
            .saturating_sub(now.boot_ns.saturating_sub(started.boot_ns)),
        ended_unix_ns: now.unix_ns,
        ended,
    };
    let body = report.encode(|name| env.vars.get(name)?.to_str());
    let socket = match &options.socket {
        Some(socket) => socket.clone(),
        None => config::local_socket(options.config.as_deref(), env),
    };
    let told = hand_over(&socket, &body).await;
    if options.verbose {
        complain(&match told {
            Ok(()) => format!("sonde exec: span {}", own.traceparent()),
            Err(why) => format!("sonde exec: the span was lost: {why}"),
        });
    }
    code
}

async fn hand_over(socket: &Path, body: &[u8]) -> Result<(), String> {
    let request = client::Request {
        method: "POST",
        path: "/v1/traces",
        headers: &[("content-type", "application/x-protobuf")],
        body,
    };
    match timeout(HANDOVER, client::send(socket, &request)).await {
        Ok(Ok(reply)) if reply.status == 200 => Ok(()),
        Ok(Ok(reply)) => Err(format!("the agent refused it: {}", reply.error())),
        Ok(Err(failure)) => Err(failure.words().to_owned()),
        Err(_) => Err(format!("the agent did not take it within {HANDOVER:?}")),
    }
}

/// Signals that are passed on to the command, and the one that tells its end.
struct Forwarded {
    children: Signals,
    streams: Vec<(Signal, Signals)>,
}

impl Forwarded {
    fn listen() -> std::io::Result<Self> {
        let ignored = ignored();
        let wanted = [
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::USR1,
            Signal::USR2,
        ];
        let mut streams = Vec::new();
        for wanted in wanted {
            let number = wanted.as_raw();
            if ignored & (1 << (number - 1)) == 0 {
                streams.push((wanted, signal(SignalKind::from_raw(number))?));
            }
        }
        Ok(Self {
            children: signal(SignalKind::child())?,
            streams,
        })
    }

    /// Stays with the command to its end. Also its CPU time, if it is known.
    async fn wait(&mut self, mut child: Child) -> (Exit, Option<Duration>) {
        let pid = Pid::from_child(&child);
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            if let Ok(None) = waitid(WaitId::Pid(pid), options) {
                match self.next().await {
                    None => {}
                    Some(signal) if is_terminals(signal) && in_foreground() => {}
                    // Fails only if it has just ended, which the next round sees.
                    Some(signal) => drop(kill_process(pid, signal)),
                }
                continue;
            }
            // Not reaped yet, so the kernel still knows.
            let cpu = crate::work::process::cpu_of(pid);
            use std::os::unix::process::ExitStatusExt as _;
            let status = child.wait();
            let exit = match &status {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or_default()),
                },
                Err(_) => Exit::Code(i32::from(FAILED)),
            };
            return (exit, cpu);
        }
    }

    /// A signal to pass on, or `None`: some child changed its state.
    async fn next(&mut self) -> Option<Signal> {
        std::future::poll_fn(|context| {
            if self.children.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(None);
            }
            for (signal, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Some(*signal));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

fn is_terminals(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT)
}

/// Whether this process is in the foreground of a terminal.
fn in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| {
        rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
    })
}

/// The signals that whoever started this process had it ignore, a bit each
/// (proc_pid_status(5), SigIgn).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
