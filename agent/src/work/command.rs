//! Commands over MQTT: a message on `{topic_prefix}/command/{job}` asks for a
//! job, and its answers go to the Response Topic.
//!
//! Promises: nothing runs that the configuration does not let a command run
//! (`remote = true`); at most once, whatever the broker repeats and wherever
//! the power goes, unless the job says `idempotent`; every accepted command is
//! answered with exactly one end (and that answer at least once, through the
//! outbox); the broker is told that a command is safe only when it is. Refuses
//! to be flooded: what waits, runs, is remembered and is answered has a bound,
//! and what is beyond it is counted.
//!
//! ```text
//! uplink::mqtt ─ Arrived ─► shell ─ decode, desk (pure) ─ work::admit ─► run ─┐
//!      ▲ PUBACK ◄─────────── │ ◄── journal (fdatasync) ──────────────────────┤
//!      └──── outbox ◄─── poster ◄── received, running, done ◄────────────────┘
//! ```
//!
//! docs/COMMANDS.md is for those who send them.

pub(crate) mod answer;
pub(crate) mod decode;
pub(crate) mod desk;
#[cfg(test)]
mod desk_tests;
#[cfg(test)]
pub(crate) mod fuzz;
mod poster;
pub(crate) mod shell;
mod spans;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::decode::Places;
use self::desk::Limits;
use self::shell::Setup;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Events;
use crate::frame::TraceContext;
use crate::identity::Identity;
use crate::outbox::Outbox;
use crate::spool::storage::{OpenError, RealFiles};
use crate::status::CommandsStatus;
use crate::trace::Tracer;
use crate::uplink::mqtt::{Inbound, QUEUE, Subscribed, prefix_of};

use crate::work::{Admitted, Ended, Order, Refusal, Work};

/// The running part.
#[derive(Debug)]
pub(crate) struct Commands {
    /// For the uplink.
    pub(crate) inbound: Inbound,
    rules: watch::Sender<(Places, Limits)>,
    stop: CancellationToken,
    /// Ends after [`Commands::stop_taking`]; any other end is a bug.
    pub(crate) task: JoinHandle<()>,
}

/// What commands need of the agent.
pub(crate) struct World<'a> {
    pub(crate) config: &'a Config,
    pub(crate) identity: &'a Identity,
    pub(crate) clock: Clock,
    pub(crate) tracer: Tracer,
    pub(crate) events: Events,
    pub(crate) work: Work,
    pub(crate) outbox: Outbox,
    /// Where the figures are shown.
    pub(crate) status: watch::Sender<Option<CommandsStatus>>,
}

/// Whether any command may come: a job has to say so, and there has to be a way.
pub(crate) fn are_on(config: &Config) -> bool {
    config.mqtt.is_some() && config.jobs.values().any(|job| job.remote)
}

impl Commands {
    /// Starts if any command may come. Opens the journal's folder.
    pub(crate) fn start(world: World<'_>) -> Option<Self> {
        let World {
            config, identity, ..
        } = world;
        if !are_on(config) {
            return None;
        }
        let (to, arrived) = mpsc::channel(QUEUE);
        let inbound = Inbound {
            session_expiry: session_expiry(config),
            to,
            subscribed: watch::Sender::new(Subscribed::No),
            dropped: watch::Sender::new(0),
        };
        let rules = watch::Sender::new(rules(config, identity));
        let stop = CancellationToken::new();
        Some(Self {
            task: shell::spawn(Setup {
                rules: rules.subscribe(),
                boot_id: identity.boot_id,
                clock: world.clock,
                tracer: world.tracer,
                events: world.events,
                jobs: world.work,
                outbox: world.outbox,
                storage: open(&config.paths.state.join("commands")),
                arrived,
                subscribed: inbound.subscribed.subscribe(),
                dropped: inbound.dropped.subscribe(),
                status: world.status,
                stop: stop.clone(),
            }),
            inbound,
            rules,
            stop,
        })
    }

    /// Goes on with another configuration. What was taken is not touched.
    pub(crate) fn reconfigure(&mut self, config: &Config, identity: &Identity) {
        self.inbound.session_expiry = session_expiry(config);
        self.rules.send_replace(rules(config, identity));
    }

    /// Takes no more; the task ends with the last run.
    pub(crate) fn stop_taking(&self) {
        self.stop.cancel();
    }
}

fn session_expiry(config: &Config) -> u32 {
    let seconds = config.commands.session_expiry.as_secs();
    // The largest value means for ever (MQTT 5, 3.1.2.11.2).
    u32::try_from(seconds).unwrap_or(u32::MAX - 1)
}

fn rules(config: &Config, identity: &Identity) -> (Places, Limits) {
    let commands = &config.commands;
    let mqtt = config.mqtt.as_ref();
    let template = mqtt.map_or("", |mqtt| mqtt.topic_prefix.trim_end_matches('/'));
    let own = |prefix: &str| prefix_of(prefix, &identity.device_id);
    let places = Places {
        prefix: own(template),
        template: template.to_owned(),
        response_topics: commands.response_topics.iter().map(|p| own(p)).collect(),
    };
    let limits = Limits {
        per_minute: commands.per_minute,
        concurrent: commands.concurrent,
        remember_ns: nanos(commands.remember),
        quota: commands.journal,
    };
    (places, limits)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn open(folder: &Path) -> Result<RealFiles, String> {
    RealFiles::open(folder).map_err(|error| match error {
        OpenError::Locked => format!("another agent uses {}", folder.display()),
        OpenError::Io(error) => error.to_string(),
    })
}

/// Who decides about jobs and runs them.
pub(crate) trait Jobs: Clone + Send + Sync + 'static {
    /// A run that may start.
    type Admitted: Send + 'static;

    /// See [`Work::admit`].
    ///
    /// # Errors
    /// Why it may not run.
    fn admit(&self, order: Order) -> Result<Self::Admitted, Refusal>;

    /// See [`Admitted::run`]. `span`: what its span will be known as.
    fn run(
        admitted: Self::Admitted,
        span: TraceContext,
    ) -> impl Future<Output = Ended> + Send + 'static;

    /// Whether an interrupted run may be repeated.
    fn is_idempotent(&self, job: &str) -> bool;
}

impl Jobs for Work {
    type Admitted = Admitted;

    fn admit(&self, order: Order) -> Result<Admitted, Refusal> {
        Work::admit(self, order)
    }

    fn run(admitted: Admitted, span: TraceContext) -> impl Future<Output = Ended> + Send + 'static {
        admitted.known_as(span).run()
    }

    fn is_idempotent(&self, job: &str) -> bool {
        let job: Option<Arc<_>> = self.job(job);
        job.is_some_and(|job| job.idempotent)
    }
}
