//! Everything that one configuration started: telemetry, uplinks, gauges.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::join;
use crate::clock::Clock;
use crate::config::{Config, UplinkName};
use crate::frame::Signal;
use crate::identity::Identity;
use crate::pipeline::{self, Pipeline, PipelineDeps};
use crate::spool::{Spool, Subscription};
use crate::status::UplinkStatus;
use crate::trace::{Telemetry, Tracer};
use crate::uplink::{Stop, Uplink, World, mqtt, otlp_http};

/// One configuration at work.
pub(super) struct Generation {
    telemetry: Telemetry,
    uplinks: Vec<(UplinkName, Uplink)>,
    uplinks_stop: Stop,
    pipeline: Pipeline,
    pipeline_stop: CancellationToken,
}

impl Generation {
    pub(super) fn start(config: &Config, identity: &Identity, clock: Clock, spool: Spool) -> Self {
        let telemetry = Telemetry::start(
            &config.trace,
            &config.log,
            identity,
            spool.clone(),
            clock.clone(),
            config.batch.length,
        );
        let uplinks_stop = Stop::default();
        let world = World {
            spool: spool.clone(),
            clock: clock.clone(),
            tracer: telemetry.tracer.clone(),
            device_id: identity.device_id.clone(),
            stop: uplinks_stop.clone(),
        };
        let mut uplinks = Vec::new();
        if let Some(otlp) = &config.otlp {
            uplinks.push((
                UplinkName::Otlp,
                otlp_http::spawn(otlp.clone(), world.clone()),
            ));
        }
        if let Some(mqtt) = &config.mqtt {
            uplinks.push((UplinkName::Mqtt, mqtt::spawn(mqtt.clone(), world)));
        }
        let pipeline_stop = CancellationToken::new();
        let pipeline = pipeline::spawn(
            config,
            identity,
            PipelineDeps {
                clock,
                spool_status: spool.status(),
                spool,
                tracer: telemetry.tracer.clone(),
                uplink_status: uplinks.iter().map(|(_, u)| u.status.clone()).collect(),
                stop: pipeline_stop.clone(),
            },
        );
        Self {
            telemetry,
            uplinks,
            uplinks_stop,
            pipeline,
            pipeline_stop,
        }
    }

    pub(super) fn tracer(&self) -> Tracer {
        self.telemetry.tracer.clone()
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub(super) fn uplink_status(&self) -> Vec<watch::Receiver<UplinkStatus>> {
        self.uplinks.iter().map(|(_, u)| u.status.clone()).collect()
    }

    /// Waits for a task that should not end before it is asked to; says which.
    pub(super) async fn lost_a_part(&mut self) -> &'static str {
        poll_fn(|context| {
            if Pin::new(&mut self.pipeline.task).poll(context).is_ready() {
                return Poll::Ready("the gauge pipeline");
            }
            for (name, uplink) in &mut self.uplinks {
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

    /// Ends for a successor: everything goes into the spool, nothing more is sent.
    pub(super) async fn replace(self, budget: Duration) {
        self.uplinks_stop.now.cancel();
        self.end(budget).await;
    }

    /// Ends for good: the uplinks send what waits, if their link is up.
    pub(super) async fn finish(self, budget: Duration) {
        self.end(budget).await;
    }

    async fn end(self, budget: Duration) {
        self.pipeline_stop.cancel();
        join("the gauge pipeline", self.pipeline.task, budget / 4).await;
        let flushed = tokio::time::timeout(budget / 4, self.telemetry.stop()).await;
        if flushed.is_err() {
            log::warn!("the last spans and logs were not stored within {:?}", budget / 4);
        }
        self.uplinks_stop.finish.cancel();
        let end_now = self.uplinks_stop.now.clone();
        let hurry = tokio::spawn(async move {
            tokio::time::sleep(budget / 4).await;
            end_now.cancel();
        });
        for (name, uplink) in self.uplinks {
            join(name.as_str(), uplink.task, budget / 2).await;
        }
        hurry.abort();
    }
}

/// Who reads what from the spool.
pub(super) fn subscriptions(config: &Config) -> Vec<Subscription> {
    let required = |name| match name {
        UplinkName::Otlp => config.otlp.as_ref().map(|uplink| uplink.delivery.required),
        UplinkName::Mqtt => config.mqtt.as_ref().map(|uplink| uplink.delivery.required),
    };
    let routes = [
        (Signal::Metrics, &config.routes.metrics),
        (Signal::Traces, &config.routes.traces),
        (Signal::Logs, &config.routes.logs),
    ];
    [UplinkName::Otlp, UplinkName::Mqtt]
        .into_iter()
        .filter_map(|uplink| {
            Some(Subscription {
                uplink,
                required: required(uplink)?,
                signals: routes
                    .iter()
                    .filter(|(_, to)| to.contains(&uplink))
                    .map(|(signal, _)| *signal)
                    .collect(),
            })
        })
        .collect()
}
