//! Everything that runs between the spool and the door: telemetry, uplinks,
//! gauges, jobs; how they start, change at a reload, and end.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::join;
use crate::boot::Boot;
use crate::clock::Clock;
use crate::config::{Config, UplinkName};
use crate::event::{Events, HandlerId, spool_watch};
use crate::frame::Signal;
use crate::gauge::custom::{self, Custom};
use crate::gauge::processes::Watches;
use crate::identity::Identity;
use crate::outbox::Outbox;
use crate::pipeline::{self, Pipeline, PipelineDeps, PipelineHandle};
use crate::sensor::Sensors;
use crate::serial::Serial;
use crate::spool::{Spool, Subscription};
use crate::status::CommandsStatus;
use crate::trace::{Drops, Telemetry, Tracer, Unsealed};
use crate::uplink::mqtt::Inbound;
use crate::uplink::{Roster, Stop, Uplink, World, mqtt, otlp_http};
use crate::vitals;
use crate::work::command::{self, Commands};
use crate::work::{Setup, Work, agenda};

/// The running parts.
pub(super) struct Parts {
    telemetry: Telemetry,
    outbox: Outbox,
    uplinks: Uplinks,
    pipeline: Pipeline,
    pipeline_stop: CancellationToken,
    work: Work,
    sensors: Sensors,
    serial: Serial,
    agenda: JoinHandle<()>,
    custom: Custom,
    measuring: JoinHandle<()>,
    measuring_stop: CancellationToken,
    spool_watch: JoinHandle<()>,
    event_log: Option<HandlerId>,
    events: Events,
    /// From when a job may be run remotely; it then stays.
    commands: Option<Commands>,
    commands_status: watch::Sender<Option<CommandsStatus>>,
    processes: watch::Sender<Watches>,
}

/// Where the broker's messages go; none while no job may be run remotely.
fn inbound(config: &Config, commands: Option<&Commands>) -> Option<Inbound> {
    let commands = commands.filter(|_| command::are_on(config));
    commands.map(|commands| commands.inbound.clone())
}

/// The ways out, all started from one configuration.
#[derive(Default)]
struct Uplinks {
    running: Vec<(UplinkName, Uplink)>,
    stop: Stop,
    /// The credential files as they were at the start.
    credentials: Vec<FileStamp>,
}

/// When a file was changed, and its length.
type FileStamp = Option<(SystemTime, u64)>;

impl Parts {
    pub(super) async fn start(
        config: &Config,
        identity: &Identity,
        clock: &Clock,
        spool: &Spool,
        roster: &Roster,
        events: &Events,
        boot: &Boot,
    ) -> std::io::Result<Self> {
        let telemetry = Telemetry::start(
            &config.trace,
            &config.log,
            identity,
            spool.clone(),
            clock.clone(),
            config.batch.length,
        );
        let setup = Setup::of_process(
            clock.clone(),
            telemetry.tracer.clone(),
            events.clone(),
            &config.paths.root,
        );
        let work = Work::new(setup);
        work.configure(&config.jobs, receiver(config));
        let event_log = attach_log(config, events, &telemetry);
        let custom = Custom::default();
        custom.configure(&config.custom, clock.boot_ns());
        let processes = watch::Sender::new(config.processes.clone());
        let serial = Serial::new(clock.clone(), telemetry.tracer.clone());
        serial.configure(&config.serial).await;
        let sensors = Sensors::default();
        sensors.configure(config.sensors.clone());
        let pipeline_stop = CancellationToken::new();
        let pipeline = pipeline::spawn(
            config,
            identity,
            PipelineDeps {
                clock: clock.clone(),
                spool: spool.clone(),
                horizon: spool.horizon(),
                tracer: telemetry.tracer.clone(),
                spool_status: spool.status(),
                uplinks: roster.clone(),
                work: work.clone(),
                processes: processes.subscribe(),
                sensors: sensors.clone(),
                serial: serial.clone(),
                events: events.clone(),
                custom: custom.clone(),
                boot: boot.clone(),
                stop: pipeline_stop.clone(),
            },
        )?;
        let spool_watch = spool_watch::spawn(
            spool.status(),
            events.clone(),
            clock.clone(),
            pipeline_stop.clone(),
        );
        let outbox = Outbox::new(
            config,
            identity,
            clock.clone(),
            spool.clone(),
            telemetry.tracer.clone(),
            telemetry.keeper(),
        );
        let measuring_stop = CancellationToken::new();
        let commands_status = watch::Sender::new(None);
        let commands = Commands::start(command::World {
            config,
            identity,
            clock: clock.clone(),
            tracer: telemetry.tracer.clone(),
            events: events.clone(),
            work: work.clone(),
            outbox: outbox.clone(),
            status: commands_status.clone(),
        });
        let inbound = inbound(config, commands.as_ref());
        let uplinks = Uplinks::start(
            config, identity, clock, spool, &telemetry, roster, events, inbound,
        );
        Ok(Self {
            commands,
            commands_status,
            processes,
            telemetry,
            outbox,
            uplinks,
            pipeline,
            pipeline_stop,
            measuring: vitals::GAUGES.spawn(custom::commands::run(
                custom.clone(),
                work.clone(),
                clock.clone(),
                measuring_stop.clone(),
            )),
            measuring_stop,
            custom,
            agenda: vitals::JOBS.spawn(agenda::run(work.clone())),
            work,
            sensors,
            serial,
            spool_watch,
            event_log,
            events: events.clone(),
        })
    }

    pub(super) fn commands(&self) -> watch::Receiver<Option<CommandsStatus>> {
        self.commands_status.subscribe()
    }

    pub(super) fn work(&self) -> Work {
        self.work.clone()
    }

    pub(super) fn sensors(&self) -> Sensors {
        self.sensors.clone()
    }

    pub(super) fn serial(&self) -> Serial {
        self.serial.clone()
    }

    pub(super) fn tracer(&self) -> Tracer {
        self.telemetry.tracer.clone()
    }

    pub(super) fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    pub(super) fn custom(&self) -> Custom {
        self.custom.clone()
    }

    pub(super) fn unsealed(&self) -> Unsealed {
        self.telemetry.unsealed()
    }

    pub(super) fn drops(&self) -> Drops {
        self.telemetry.drops()
    }

    pub(super) fn pipeline(&self) -> PipelineHandle {
        self.pipeline.handle.clone()
    }

    /// Puts a new configuration to work. What has been sampled stays where it
    /// is; uplinks are connected anew only if their own settings changed.
    pub(super) async fn reload(
        &mut self,
        old: &Config,
        new: &Config,
        identity: &Identity,
        clock: &Clock,
        spool: &Spool,
        roster: &Roster,
    ) {
        self.telemetry.reconfigure(&new.trace, &new.log);
        if let Some(log) = self.event_log.take() {
            self.events.detach(log);
        }
        let events = &self.events;
        self.event_log = attach_log(new, events, &self.telemetry);
        self.outbox.reconfigure(new);
        self.custom.configure(&new.custom, clock.boot_ns());
        self.processes.send_if_modified(|watches| {
            let changed = *watches != new.processes;
            watches.clone_from(&new.processes);
            changed
        });
        self.serial.configure(&new.serial).await;
        if old.sensors != new.sensors {
            self.sensors.configure(new.sensors.clone());
        }
        self.pipeline.handle.reload(new).await;
        self.work.configure(&new.jobs, receiver(new));
        match &mut self.commands {
            Some(commands) => commands.reconfigure(new, identity),
            None => {
                self.commands = Commands::start(command::World {
                    config: new,
                    identity,
                    clock: clock.clone(),
                    tracer: self.telemetry.tracer.clone(),
                    events: events.clone(),
                    work: self.work.clone(),
                    outbox: self.outbox.clone(),
                    status: self.commands_status.clone(),
                });
            }
        }
        let session =
            |config: &Config| command::are_on(config).then_some(config.commands.session_expiry);
        // A rotated secret is read at the next connection in any case; whoever reloads wants it now.
        let restart = old.otlp != new.otlp
            || old.mqtt != new.mqtt
            || session(old) != session(new)
            || self.uplinks.credentials != credentials(new);
        if restart {
            std::mem::take(&mut self.uplinks).replace().await;
        }
        spool
            .reconfigure(new.spool.clone(), subscriptions(new))
            .await;
        if restart {
            let inbound = inbound(new, self.commands.as_ref());
            let telemetry = &self.telemetry;
            self.uplinks = Uplinks::start(
                new, identity, clock, spool, telemetry, roster, events, inbound,
            );
        }
    }

    /// Waits for a task that should not end before it is asked to; says which.
    pub(super) async fn lost_one(&mut self) -> &'static str {
        poll_fn(|context| {
            if Pin::new(&mut self.pipeline.task).poll(context).is_ready() {
                return Poll::Ready("the gauge pipeline");
            }
            if Pin::new(&mut self.agenda).poll(context).is_ready() {
                return Poll::Ready("the jobs' schedule");
            }
            if Pin::new(&mut self.measuring).poll(context).is_ready() {
                return Poll::Ready("the commands of gauges");
            }
            if let Some(commands) = &mut self.commands
                && Pin::new(&mut commands.task).poll(context).is_ready()
            {
                return Poll::Ready("the commands");
            }
            for (name, uplink) in &mut self.uplinks.running {
                if Pin::new(&mut uplink.task).poll(context).is_ready() {
                    return Poll::Ready(match name {
                        UplinkName::Otlp => "the otlp uplink",
                        UplinkName::Mqtt => "the mqtt uplink",
                    });
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Ends with the flow: what runs is ended, the last batch is sealed, spans
    /// and logs are flushed, the uplinks send what waits if their link is up.
    pub(super) async fn finish(self, budget: Duration) {
        if let Some(commands) = &self.commands {
            commands.stop_taking();
        }
        self.measuring_stop.cancel();
        if !self.work.stop(budget / 2).await {
            log::error!("a run did not end within {:?}, not even killed", budget / 2);
        }
        join("the jobs' schedule", self.agenda, budget / 4).await;
        join("the commands of gauges", self.measuring, budget / 4).await;
        if let Some(commands) = self.commands {
            join("the commands", commands.task, budget / 4).await;
        }
        self.pipeline_stop.cancel();
        join("the gauge pipeline", self.pipeline.task, budget / 4).await;
        if !self.serial.stop(budget / 8).await {
            log::warn!("a serial line hangs in its driver; the agent ends without waiting for it");
        }
        join("the watch over the spool", self.spool_watch, budget / 4).await;
        if let Some(log) = self.event_log {
            self.events.detach(log);
        }
        if timeout(budget / 4, self.telemetry.stop()).await.is_err() {
            log::warn!(
                "the last spans and logs were not stored within {:?}",
                budget / 4
            );
        }
        self.uplinks.finish(budget / 2).await;
    }
}

/// Events become log records unless no log records are sent.
fn attach_log(config: &Config, events: &Events, telemetry: &Telemetry) -> Option<HandlerId> {
    let wanted = config.log.send != log::LevelFilter::Off;
    wanted.then(|| events.attach("logs", telemetry.event_log()))?
}

/// To return what is in flight and end.
const REPLACE: Duration = Duration::from_secs(2);

impl Uplinks {
    #[expect(clippy::too_many_arguments, reason = "wiring")]
    fn start(
        config: &Config,
        identity: &Identity,
        clock: &Clock,
        spool: &Spool,
        telemetry: &Telemetry,
        roster: &Roster,
        events: &Events,
        commands: Option<Inbound>,
    ) -> Self {
        let stop = Stop::default();
        // Before the files are read: a change in between is seen at the next reload.
        let credentials = credentials(config);
        let world = World {
            spool: spool.clone(),
            clock: clock.clone(),
            tracer: telemetry.tracer.clone(),
            events: events.clone(),
            device_id: identity.device_id.clone(),
            boot_id: identity.boot_id,
            stop: stop.clone(),
        };
        let mut running = Vec::new();
        if let Some(otlp) = &config.otlp {
            let uplink = otlp_http::spawn(otlp.clone(), world.clone());
            running.push((UplinkName::Otlp, uplink));
        }
        if let Some(mqtt) = &config.mqtt {
            let uplink = mqtt::spawn(mqtt.clone(), world, commands);
            running.push((UplinkName::Mqtt, uplink));
        }
        roster.set(running.iter().map(|(_, uplink)| uplink.status.clone()));
        Self {
            running,
            stop,
            credentials,
        }
    }

    /// Ends at once; nothing more is sent.
    async fn replace(self) {
        self.stop.now.cancel();
        for (name, uplink) in self.running {
            join(name.as_str(), uplink.task, REPLACE).await;
        }
    }

    /// Ends after sending what waits, or when half the budget is gone.
    async fn finish(self, budget: Duration) {
        self.stop.finish.cancel();
        let now = self.stop.now.clone();
        let hurry = tokio::spawn(async move {
            sleep(budget / 2).await;
            now.cancel();
        });
        for (name, uplink) in self.running {
            join(name.as_str(), uplink.task, budget).await;
        }
        hurry.abort();
    }
}

/// Of all files with secrets and certificates that the uplinks name.
fn credentials(config: &Config) -> Vec<FileStamp> {
    let (otlp, mqtt) = (config.otlp.as_ref(), config.mqtt.as_ref());
    let tls = [
        otlp.and_then(|otlp| otlp.tls.as_ref()),
        mqtt.and_then(|mqtt| mqtt.tls.as_ref()),
    ];
    let tls = tls.into_iter().flatten();
    let files = tls.flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file]);
    let secrets = [
        otlp.and_then(|otlp| otlp.headers_file.as_ref()),
        mqtt.and_then(|mqtt| mqtt.password_file.as_ref()),
    ];
    let files = files.flatten().chain(secrets.into_iter().flatten());
    files
        .map(|path| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        })
        .collect()
}

/// Where a job's programs find the OTLP receiver. One that listens on every
/// address, or on a port that the kernel chose, has none to be told.
fn receiver(config: &Config) -> Option<String> {
    let listen = config.receiver.listen?;
    let usable = listen.port() != 0 && !listen.ip().is_unspecified();
    usable.then(|| format!("http://{listen}"))
}

/// Who reads what from the spool.
pub(crate) fn subscriptions(config: &Config) -> Vec<Subscription> {
    let required = |name| match name {
        UplinkName::Otlp => config.otlp.as_ref().map(|otlp| otlp.delivery.required),
        UplinkName::Mqtt => config.mqtt.as_ref().map(|mqtt| mqtt.delivery.required),
    };
    let routes = [
        (Signal::Metrics, &config.routes.metrics),
        (Signal::Traces, &config.routes.traces),
        (Signal::Logs, &config.routes.logs),
    ];
    [UplinkName::Otlp, UplinkName::Mqtt]
        .into_iter()
        .filter_map(|uplink| {
            let signals = routes
                .iter()
                .filter(|(_, to)| to.contains(&uplink))
                .map(|(signal, _)| *signal)
                // A message is an MQTT message: it has one way.
                .chain((uplink == UplinkName::Mqtt).then_some(Signal::Message))
                .collect();
            Some(Subscription {
                uplink,
                required: required(uplink)?,
                signals,
            })
        })
        .collect()
}
