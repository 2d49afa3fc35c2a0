//! Wiring and shutdown order, nothing else.
//!
//! A reload changes the running parts in place: what has been sampled stays
//! where it is, and only uplinks whose own settings changed connect anew. What
//! names the process to others (its folders, sockets, identity and clock rule)
//! stays until the next start.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{FutureExt as _, Span as _, SpanKind, Status as SpanStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::boot::Boot;
use crate::clock::Clock;
use crate::config::{self, Config, Env, Loaded};
use crate::door::{self, local::LocalRoutes, receiver};
use crate::event::{self, Events};
use crate::identity::Identity;
use crate::journal;
use crate::notify::Notifier;
use crate::notify::keepalive::{self, Watched};
use crate::otlp::rewrite::Rewriter;
use crate::spool::{Options as SpoolOptions, Spool, StartError, Stopped};
use crate::status::words::of;
use crate::trace;
use crate::uplink::Roster;
use crate::vitals;

mod board;
mod local;
mod parts;

use board::Board;
use local::LocalDoor;
use parts::Parts;
pub(crate) use parts::subscriptions;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--config`
    pub config: Option<PathBuf>,
}

/// Why the daemon could not start, in words, by exit code.
enum Failure {
    /// The configuration: 2.
    Config(String),
    /// Anything else: 1.
    Start(String),
}

/// Threads for blocking calls: one name look-up, one for the signal driver's rare needs.
const BLOCKING_THREADS: usize = 2;

/// Runs until SIGTERM or SIGINT. Exit code 0: an orderly end; 1: something
/// failed; 2: the configuration was refused.
pub fn run(options: Options) -> ExitCode {
    journal::install_panic_hook();
    match start(options) {
        Ok(code) => code,
        Err(Failure::Config(problems)) => {
            eprintln!("{problems}");
            ExitCode::from(2)
        }
        Err(Failure::Start(message)) => {
            eprintln!("sonde: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> Result<ExitCode, Failure> {
    let env = Env::of_process();
    let loaded = config::load(options.config.as_deref(), &env)
        .map_err(|problems| Failure::Config(problems.to_string()))?;
    journal::install(&loaded.config.log);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|error| Failure::Start(format!("could not start the runtime: {error}")))?
        .block_on(vitals::MAIN.watch(Daemon::run(options, env, loaded)))
}

/// The whole run, on the runtime.
struct Daemon {
    options: Options,
    env: Env,
    config: Config,
    identity: Identity,
    clock: Clock,
    events: Events,
    boot: Boot,
    reported: JoinHandle<()>,
    spool: Spool,
    roster: Roster,
    parts: Parts,
    local: LocalDoor,
    board: Arc<Board>,
    notifier: Notifier,
}

impl Daemon {
    async fn run(options: Options, env: Env, loaded: Loaded) -> Result<ExitCode, Failure> {
        for warning in &loaded.warnings.0 {
            log::warn!("{warning}");
        }
        let config = loaded.config;
        let cannot = |what: &str, error: std::io::Error| {
            Failure::Start(format!("could not listen for {what}: {error}"))
        };
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| cannot("SIGTERM", error))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| cannot("SIGINT", error))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| cannot("SIGHUP", error))?;

        // A file size limit then is an error of the write, not the end of the process.
        let too_large = rustix::process::Signal::XFSZ.as_raw();
        let _too_large =
            signal(SignalKind::from_raw(too_large)).map_err(|error| cannot("SIGXFSZ", error))?;

        let identity = Identity::find(&config);
        let clock = Clock::new(config.clock.clone());
        let spool = open_spool(&config, &identity, &clock)?;
        identity.keep(&config.paths.state);
        let cannot_bind = |error: door::DoorError| Failure::Start(error.to_string());
        let local = door::bind(&config.paths.socket, "paths.socket")
            .await
            .map_err(cannot_bind)?;
        let door = door::bind(&config.paths.status_socket, "paths.status_socket")
            .await
            .map_err(cannot_bind)?;

        // After the spool's lock and the sockets: whoever is refused those is no run.
        let boot = Boot::start(&config, &identity, &clock).await;
        let roster = Roster::default();
        let events = Events::new(clock.clone());
        let started = clock.boot_ns();
        let parts = Parts::start(&config, &identity, &clock, &spool, &roster, &events, &boot)
            .await
            .map_err(|error| cannot_thread(&error))?;
        let board = Arc::new(Board::new(
            &config,
            &identity,
            clock.clone(),
            &spool,
            roster.clone(),
            events.clone(),
            boot.clone(),
            &parts,
        ));
        let send = config.log.send != log::LevelFilter::Off;
        let reported = boot.report(&identity, clock.now(), &spool, &events, send);
        let reported = tokio::spawn(reported.await);
        let version = ("version", env!("CARGO_PKG_VERSION"));
        events.emit(event::name::AGENT_START, &[], &[version]);
        let door_stop = CancellationToken::new();
        let (receiver, keeper) = receiver::start(
            config.receiver.clone(),
            config.batch.length,
            &identity,
            &clock,
            &spool,
        );
        board.receives(receiver.clone());
        let routes = LocalRoutes {
            receiver,
            events: events.clone(),
            custom: parts.custom(),
            clock: clock.clone(),
            outbox: parts.outbox(),
        };
        let local = LocalDoor::open(local, routes, keeper, &config);
        // Last: whoever gets a status finds the door for local programs open.
        let door = door::spawn(door, board.clone(), door_stop.clone());
        let mut daemon = Self {
            options,
            env,
            config,
            identity,
            clock,
            events,
            boot,
            reported,
            spool,
            roster,
            parts,
            local,
            board,
            notifier: Notifier::from_env(),
        };
        daemon.notifier.ready();
        let keep_stop = CancellationToken::new();
        let keep = daemon.keep_alive(keep_stop.clone());
        let startup = ("startup", daemon.seconds_since(started));
        daemon
            .events
            .emit(event::name::AGENT_READY, &[startup], &[]);
        log::info!(
            "sonde {} runs as {} (pid {}); status on {}, local programs on {}",
            env!("CARGO_PKG_VERSION"),
            daemon.identity.device_id,
            std::process::id(),
            daemon.config.paths.status_socket.display(),
            daemon.config.paths.socket.display(),
        );

        let lost = loop {
            tokio::select! {
                _ = terminate.recv() => break None,
                _ = interrupt.recv() => break None,
                _ = hangup.recv() => daemon.reload().await,
                part = daemon.parts.lost_one() => break Some(part),
            }
        };
        let uptime = ("uptime", daemon.seconds_since(started));
        let reason = ("reason", lost.unwrap_or("signal"));
        daemon
            .events
            .emit(event::name::AGENT_STOP, &[uptime], &[reason]);
        keep_stop.cancel();
        if let Some(keep) = keep {
            join("the keep-alive", keep, DOOR_CLOSES).await;
        }
        let synced = daemon.end(lost).await;
        door_stop.cancel();
        join("the door", door, DOOR_CLOSES).await;
        Ok(if synced && lost.is_none() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn keep_alive(&self, stop: CancellationToken) -> Option<JoinHandle<()>> {
        let watched = Watched {
            clock: self.clock.clone(),
            pipeline: self.parts.pipeline(),
            spool: self.spool.clone(),
            uplinks: self.roster.clone(),
        };
        keepalive::spawn(&self.notifier, watched, stop)
    }

    fn seconds_since(&self, boot_ns: u64) -> f64 {
        let ran = Duration::from_nanos(self.clock.boot_ns().saturating_sub(boot_ns));
        ran.as_secs_f64()
    }

    /// Loads the configuration again. What it got wrong is said in the status,
    /// and the old one stays.
    async fn reload(&mut self) {
        self.notifier.reloading();
        let mut span = trace::routine("reload", SpanKind::Internal).start(&self.parts.tracer());
        let within = trace::inside(span.span_context());
        if !self.load_again().with_context(within).await {
            span.set_status(SpanStatus::error("configuration refused"));
        }
        span.end();
        self.notifier.ready();
    }

    /// `false`: it was refused.
    async fn load_again(&mut self) -> bool {
        match config::load(self.options.config.as_deref(), &self.env) {
            Err(problems) => {
                let problems = problems.to_string();
                log::error!("reload refused, the old configuration stays: {problems}");
                let error = [("error", problems.as_str())];
                self.events.emit(event::name::CONFIG_REFUSED, &[], &error);
                self.board.reload_refused(problems);
                false
            }
            Ok(loaded) => {
                for warning in &loaded.warnings.0 {
                    log::warn!("{warning}");
                }
                let (config, kept) = self.keep_what_needs_a_restart(loaded.config);
                self.parts
                    .reload(
                        &self.config,
                        &config,
                        &self.identity,
                        &self.clock,
                        &self.spool,
                        &self.roster,
                    )
                    .await;
                self.local.reload(&config);
                self.config = config;
                self.board.reloaded(&self.config, kept);
                log::info!("configuration loaded again");
                self.events.emit(event::name::CONFIG_RELOAD, &[], &[]);
                true
            }
        }
    }

    fn keep_what_needs_a_restart(&self, mut new: Config) -> (Config, Vec<String>) {
        let old = &self.config;
        let mut kept = Vec::new();
        if new.paths != old.paths {
            kept.push("[paths]".to_owned());
            new.paths = old.paths.clone();
        }
        if new.device != old.device {
            kept.push("[device]".to_owned());
            new.device = old.device.clone();
        }
        if new.clock != old.clock {
            kept.push("[clock]".to_owned());
            new.clock = old.clock.clone();
        }
        if new.receiver != old.receiver {
            kept.push("[receiver]".to_owned());
            new.receiver = old.receiver.clone();
        }
        if !kept.is_empty() {
            log::warn!(
                "{} changed: that takes effect when sonde is started again",
                kept.join(", ")
            );
        }
        (new, kept)
    }

    /// With the flow: local programs, gauges, spans and logs, uplinks, spool. With a part lost
    /// the rest of the flow cannot be trusted to end, so only the spool is
    /// saved. `false`: something was still unwritten when the time was up.
    async fn end(self, lost: Option<&str>) -> bool {
        let budget = self.config.shutdown;
        self.notifier.stopping(budget + STOP_MARGIN);
        self.local.close().await;
        match lost {
            None => {
                log::info!("stopping, within {budget:?}");
                self.parts.finish(budget / 2).await;
            }
            Some(part) => log::error!(
                "{part} ended by itself, which is a bug; stopping, so that the service manager starts a whole agent again"
            ),
        }
        join("the report of the last boot", self.reported, REPORTED).await;
        let stopped = self.spool.stop(budget / 4).await;
        let state = self.config.paths.state.display();
        match stopped {
            Stopped::Whole => log::info!("stopped; what waits is in the spool"),
            Stopped::Unwritten { frames, items } => {
                let status = self.spool.status();
                let status = status.borrow();
                log::error!(
                    "{} ({}) could not be written to {state} and are lost: {}",
                    of(frames, "frame"),
                    of(items, "item"),
                    status.alarm.as_deref().unwrap_or("the disk failed"),
                );
            }
            Stopped::Late => log::error!(
                "the spool in {state} was not written within {:?}; what was only in memory may be lost. Check the disk, or raise shutdown.timeout",
                budget / 4
            ),
        }
        self.boot.stopped(lost, self.clock.now().unix_ns);
        stopped == Stopped::Whole
    }
}

/// What the doors and the last joins may take beside the budget.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// It sleeps for a second after the start.
const REPORTED: Duration = Duration::from_secs(2);

/// A door's own drain takes up to a second.
const DOOR_CLOSES: Duration = Duration::from_secs(2);

fn open_spool(config: &Config, identity: &Identity, clock: &Clock) -> Result<Spool, Failure> {
    let options = SpoolOptions {
        dir: config.paths.state.join("spool"),
        limits: config.spool.clone(),
        subscriptions: subscriptions(config),
        boot_id: identity.boot_id,
        clock: clock.clone(),
    };
    Spool::start_with(options, Box::new(Rewriter)).map_err(|error| {
        Failure::Start(match error {
            StartError::Locked(folder) => format!(
                "another agent uses the spool in {}; stop it first, or give this one a folder of its own with [paths] state",
                folder.display()
            ),
            StartError::Thread(error) => return cannot_thread(&error),
        })
    })
}

fn cannot_thread(error: &std::io::Error) -> Failure {
    Failure::Start(format!(
        "could not start a thread: {error}; is the process at its limit of threads or memory?"
    ))
}

/// Waits for a task that was asked to end, and says so if it does not.
async fn join(name: &str, mut task: JoinHandle<()>, deadline: Duration) {
    match timeout(deadline, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("{name} did not end well: {error}"),
        Err(_) => {
            log::warn!("{name} did not end within {deadline:?}; leaving it behind");
            task.abort();
        }
    }
}
