//! OTLP over HTTP/1.1: the shell that waits, asks `delivery` what to do, and
//! has `otlp_client` do it.
//!
//! One frame is in flight at a time. It goes back to the spool whenever its
//! request ends without a verdict that settles it, so delivery is at least
//! once. Connection attempts make spans (`attempts` says which), uploads none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::delivery::{Change, Delivery, Step, Verdict};
use super::dial::{Dialer, Wire};
use super::otlp_client::Client;
use super::{Uplink, World};
use crate::clock::monotonic_ns;
use crate::config::{OtlpUplink, UplinkName};
use crate::frame::Frame;
use crate::spool::{Lane, Outcome, Pending};
use crate::status::UplinkStatus;
use crate::trace;
use crate::vitals;

const NAME: UplinkName = UplinkName::Otlp;

/// How often the status is made anew while the link is down or the last change
/// has not been shown; under load no more often than half of it.
const REFRESH: Duration = Duration::from_secs(5);
/// With a link that is up and nothing to send: whoever reads the status moves
/// its ages on, and each wake-up costs more than this task's own.
const IDLE: Duration = Duration::from_secs(60);

/// While held, credentials are looked at this often: three `stat` calls.
const LOOK_AT_CREDENTIALS_NS: u64 = 5 * 1_000_000_000;

/// Starts the uplink.
pub fn spawn(config: OtlpUplink, world: World) -> Uplink {
    let (sender, status) = watch::channel(UplinkStatus::default());
    let shell = Shell::new(config, world, sender);
    Uplink {
        status,
        task: vitals::OTLP.spawn(shell.run()),
    }
}

struct Shell {
    world: World,
    delivery: Delivery,
    client: Client,
    wire: Arc<Wire>,
    endpoint: String,
    pending: watch::Receiver<Pending>,
    status: watch::Sender<UplinkStatus>,
    published: u64,
    /// Something has happened since.
    stale: bool,
    /// The last attempt to connect succeeded, so the next can wait until there is something to send.
    dialled: bool,
    credentials: Vec<Option<(SystemTime, u64)>>,
    looked: u64,
}

impl Shell {
    fn new(config: OtlpUplink, world: World, status: watch::Sender<UplinkStatus>) -> Self {
        let wire = Arc::new(Wire::default());
        let dialer = Dialer {
            host: config.host.clone(),
            port: config.port,
            tls: config.tls.clone(),
            wire: Arc::clone(&wire),
        };
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let now = world.clock.boot_ns();
        let seed = getrandom::u64().unwrap_or(now);
        Self {
            delivery: Delivery::new(config.delivery.clone(), seed, now),
            endpoint: format!("{scheme}://{dialer}"),
            client: Client::new(
                config,
                dialer,
                world.tracer.clone(),
                world.clock.clone(),
                world.events.clone(),
            ),
            pending: world.spool.pending(NAME),
            world,
            wire,
            status,
            published: 0,
            stale: true,
            dialled: false,
            credentials: Vec::new(),
            looked: 0,
        }
    }

    async fn run(mut self) {
        self.publish();
        while !self.world.stop.now.is_cancelled() {
            let now = self.now();
            let pending = *self.pending.borrow_and_update();
            let nothing = !self.delivery.has_work(now, pending);
            if !self.client.is_connected() {
                let change = self.delivery.closed(now);
                self.announce(change);
            }
            self.look_at_credentials(now);
            let step = self.delivery.next(now, pending);
            self.publish_if_due(now, nothing);
            if self.world.stop.finish.is_cancelled() {
                let can_send = matches!(step, Step::Connect | Step::Send(_));
                if nothing || !can_send || self.delivery.is_down() {
                    break;
                }
            }
            match step {
                Step::Connect if nothing && self.dialled => self.rest(None).await,
                Step::Connect => {
                    self.stale = true;
                    self.connect().await;
                }
                Step::Send(lane) => {
                    self.stale = true;
                    self.serve(lane).await;
                }
                Step::WaitUntil(at) => self.rest(Some(at)).await,
                Step::Idle => self.rest(None).await,
            }
        }
        self.client.disconnect();
        self.client.attempts().close();
        self.publish();
    }

    async fn connect(&mut self) {
        let stop = self.world.stop.now.clone();
        let made = tokio::select! {
            made = self.client.connect() => made,
            () = stop.cancelled() => return,
        };
        let now = self.now();
        self.dialled = made.is_ok();
        let change = match made {
            Ok(()) => {
                self.delivery.connected(now);
                None
            }
            Err(Verdict::Hold { reason }) => self.delivery.held(now, &reason, false),
            Err(Verdict::Retry { after, why }) => self.delivery.failed(now, &why, after),
            // A connection attempt has no other outcome; if it ever had, backing off is right.
            Err(other) => self.delivery.failed(now, &format!("{other:?}"), None),
        };
        self.announce(change);
    }

    /// Takes a frame from the lane, or from the other if that one has just run dry.
    async fn serve(&mut self, lane: Lane) {
        let mut lane = lane;
        let signals = self.delivery.signals();
        let mut frame = self.world.spool.next(NAME, lane, signals).await;
        if frame.is_none() && lane == Lane::Live {
            lane = Lane::Backlog;
            frame = self.world.spool.next(NAME, lane, signals).await;
        }
        match frame {
            Some(frame) => self.deliver(frame, lane).await,
            // The figures ran ahead of the frames, or the disk does not give them;
            // the next change of them wakes us.
            None => {
                self.delivery.vain(lane);
                self.rest(None).await;
            }
        }
    }

    async fn deliver(&mut self, frame: Frame, lane: Lane) {
        let bytes = frame.batch.body.len();
        let signal = frame.batch.signal;
        self.delivery.took(self.now(), lane, signal, bytes);
        let began = monotonic_ns();
        let stop = self.world.stop.now.clone();
        let verdict = tokio::select! {
            verdict = self.client.send(&frame) => verdict,
            () = stop.cancelled() => {
                self.client.disconnect();
                self.world.spool.settle(NAME, frame.id, Outcome::Returned);
                return;
            }
        };
        let outcome = match &verdict {
            Verdict::Delivered { .. } => Outcome::Delivered,
            Verdict::Condemn { reason } => {
                log::warn!(
                    "uplink otlp: frame {} with {} {} was refused for good and is dropped: {reason}",
                    frame.id,
                    frame.batch.items,
                    frame.batch.signal.as_str()
                );
                Outcome::Condemned(reason.clone())
            }
            // The client has split what can be split.
            Verdict::Retry { .. }
            | Verdict::Hold { .. }
            | Verdict::Refuse { .. }
            | Verdict::Aside { .. }
            | Verdict::Split => Outcome::Returned,
        };
        self.world.spool.settle(NAME, frame.id, outcome);
        if matches!(verdict, Verdict::Delivered { .. }) {
            self.delivery.round_trip(vitals::since(began));
        }
        let connected = self.client.is_connected();
        let items = frame.batch.items;
        let now = self.now();
        let change = self
            .delivery
            .settled(now, signal, &verdict, items, bytes, connected);
        self.announce(change);
    }

    /// Says a change once, to the log and to the spool; within the attempt to
    /// connect that led to it, if one did.
    fn announce(&mut self, change: Option<Change>) {
        let attempt = self.client.failed_attempt();
        let turns = self.delivery.take_turns();
        let attempts = self.client.attempts();
        match &attempt {
            Some(span) => trace::within(span, || attempts.became(change.as_ref(), &turns)),
            None => attempts.became(change.as_ref(), &turns),
        }
        let Some(change) = change else { return };
        match attempt {
            Some(span) => trace::within(&span, || self.tell(change)),
            None => self.tell(change),
        }
    }

    fn tell(&mut self, change: Change) {
        let endpoint = &self.endpoint;
        let up = match change {
            Change::Up { after: None } => {
                log::info!("uplink otlp: {endpoint} takes data");
                true
            }
            Change::Up { after: Some(after) } => {
                log::info!(
                    "uplink otlp: {endpoint} takes data again after {} s; what was kept is being sent",
                    after.as_secs()
                );
                true
            }
            Change::Down { why } => {
                log::warn!("uplink otlp: {why}; data is kept and sending is tried again");
                false
            }
            Change::Held { reason } => {
                log::warn!("uplink otlp: held: {reason}; data is kept until then");
                false
            }
            Change::SignalHeld { signal, reason } => {
                let signal = signal.as_str();
                log::warn!("uplink otlp: {signal} are held, the rest goes on: {reason}");
                return self.publish();
            }
            Change::SignalTaken { signal } => {
                log::info!("uplink otlp: {} are taken again", signal.as_str());
                return self.publish();
            }
        };
        self.world.spool.link(NAME, up);
        self.publish();
    }

    /// Waits for something to do: a moment, a stored frame, the end, or a status that grows stale.
    async fn rest(&mut self, until: Option<u64>) {
        if until.is_none() {
            // Nothing to send, so nothing more becomes of the last attempt for now.
            self.client.attempts().close();
        }
        let most = if self.stale || until.is_some() || self.delivery.is_held() {
            REFRESH
        } else {
            IDLE
        };
        let left = until.map_or(most, |at| {
            Duration::from_nanos(at.saturating_sub(self.now())).min(most)
        });
        let gone = self.client.gone();
        let finish = self.world.stop.finish.clone();
        let now = self.world.stop.now.clone();
        let already_finishing = finish.is_cancelled();
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = now.cancelled() => {}
            () = gone => self.stale = true,
            () = finish.cancelled(), if !already_finishing => {}
            changed = self.pending.changed() => {
                if changed.is_err() {
                    // The spool has ended; so will we, by `stop`.
                    tokio::time::sleep(left).await;
                }
            }
        }
    }

    /// A rotated token or certificate is tried at once, not after the longest backoff.
    fn look_at_credentials(&mut self, now: u64) {
        if !self.delivery.is_held() {
            self.credentials.clear();
            return;
        }
        if self.credentials.is_empty() {
            self.credentials = self.client.credentials_stamp();
            self.looked = now;
        } else if now.saturating_sub(self.looked) >= LOOK_AT_CREDENTIALS_NS {
            self.looked = now;
            let found = self.client.credentials_stamp();
            if found != self.credentials {
                log::info!("uplink otlp: a credential file has changed; trying it");
                self.credentials = found;
                // The server may have judged the whole connection by its certificate.
                self.client.disconnect();
                let _ = self.delivery.closed(now);
                self.delivery.mended(now);
            }
        }
    }

    /// Also as soon as nothing waits any more: a status that goes on showing
    /// the last frame as pending would be read as trouble.
    fn publish_if_due(&mut self, now: u64, nothing: bool) {
        let drained = nothing && self.status.borrow().pending_frames > 0;
        if drained || Duration::from_nanos(now.saturating_sub(self.published)) >= REFRESH / 2 {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let now = self.now();
        self.published = now;
        self.stale = false;
        let pending = *self.pending.borrow();
        self.status.send_modify(|status| {
            if status.name.is_empty() {
                status.name = NAME.as_str().to_owned();
                status.endpoint = self.endpoint.clone();
            }
            self.delivery.report(now, pending, status);
            status.wire_sent_bytes = self.wire.sent();
            status.wire_received_bytes = self.wire.received();
            status.connections = self.wire.connections();
        });
    }

    fn now(&self) -> u64 {
        self.world.clock.boot_ns()
    }
}

#[cfg(test)]
#[path = "otlp_http_tests.rs"]
mod tests;
