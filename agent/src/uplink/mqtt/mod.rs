//! The way out over MQTT 5.
//!
//! It promises: telemetry goes out at QoS 1, each frame naming itself
//! (`sonde-frame`) and carrying its trace context as user properties; the
//! spool's cursor moves on a frame's own PUBACK and on nothing else; a dead
//! link is noticed within two keep-alives; a broker's no holds the data
//! unless it is about that one message. It refuses to keep a second copy of
//! anything: what is unacknowledged when a connection ends goes back to the
//! spool and comes again, marked `sonde-resent`. A frame too large for the broker
//! goes out in pieces, each named for its place in the frame (`piece`).
//!
//! ```text
//! {prefix}/state                              retained: online, stopped, or (last will) offline
//! {prefix}/telemetry/{metrics,traces,logs}    OTLP protobuf, gzip marked by `content-encoding`
//! (its own topic)                             messages of the outbox, in their order (`order`)
//! {prefix}/command/{job}                      in: subscribed to only if a job may be run remotely
//! ```
//!
//! **Why rumqttc's codec and not its client.** Its event loop owns the socket,
//! the retries and 14 MB of tables, drops what is pending when a session is
//! lost, cannot be told to give up a link that swallows everything, and reports
//! TLS and name errors as text. Everything it keeps, the spool keeps better. So
//! only `rumqttc::v5::mqttbytes` is used (`packet`), `session` decides
//! (pure), `link` moves bytes over [`dial::Stream`](super::dial::Stream),
//! where DNS, TCP and TLS errors are typed and every byte on the wire is
//! counted; `feed` stands between it, the spool and `delivery`.
//!
//! Each connection is new from the ground: packet ids, window, limits.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry::KeyValue;
use tokio::sync::watch;

use super::attempts::Attempts;
use super::delivery::{Delivery, Step};
use super::dial::{DialErrorKind, Dialer, Stream, Wire};
use super::{Stop, Uplink, World};
use crate::clock::Clock;
use crate::config::MqttUplink;
use crate::event::Events;
use crate::frame::Stamp;
use crate::status::UplinkStatus;
use crate::trace::Tracer;
use crate::vitals;

mod feed;
#[cfg(test)]
mod fuzz;
mod inbox;
#[cfg(test)]
mod inbox_tests;
mod link;
#[cfg(test)]
mod mosquitto_tests;
mod order;
#[cfg(test)]
mod outbox_tests;
mod packet;
mod piece;
mod reason;
#[cfg(test)]
mod script;
mod session;
#[cfg(test)]
mod tests;
mod topics;

pub use inbox::{Arrived, Inbound, QUEUE, Receipt, Subscribed};
pub use packet::Received;
pub use topics::prefix_of;

use feed::{Feed, Store};
use inbox::Inbox;
use link::Frames as _;
use order::Order;
use reason::{End, Reaction};
use session::{Attempt, Keep, Plan, States};
use topics::{Topics, safe_level};

/// A longer password file is some other file.
const MAX_PASSWORD: u64 = 64 * 1024;

/// How often a held uplink looks whether somebody changed a secret.
const LOOK_FOR_CHANGES: Duration = Duration::from_secs(2);

/// Starts the uplink.
///
/// `commands`: where commands go, if any are taken; they make the broker keep
/// a session for this device.
pub fn spawn(config: MqttUplink, world: World, commands: Option<Inbound>) -> Uplink {
    let World {
        spool,
        clock,
        tracer,
        events,
        device_id,
        boot_id,
        stop,
    } = world;
    let parts = Parts {
        clock,
        tracer,
        events,
        device_id,
        boot_id,
        stop,
    };
    spawn_on(config, parts, spool, commands)
}

/// The [`World`] without its spool.
struct Parts {
    clock: Clock,
    tracer: Tracer,
    events: Events,
    device_id: String,
    boot_id: [u8; 16],
    stop: Stop,
}

fn spawn_on<S: Store>(
    config: MqttUplink,
    world: Parts,
    store: S,
    commands: Option<Inbound>,
) -> Uplink {
    let now = world.clock.boot_ns();
    // Without randomness waits are still spread by what differs between boots.
    let seed = getrandom::u64().unwrap_or(now);
    let delivery = Delivery::new(config.delivery.clone(), seed, now);
    let dialer = Dialer {
        host: config.host.clone(),
        port: config.port,
        tls: config.tls.clone(),
        wire: Arc::new(Wire::default()),
    };
    let scheme = if config.tls.is_some() {
        "mqtts"
    } else {
        "mqtt"
    };
    let (sender, status) = watch::channel(UplinkStatus {
        name: "mqtt".to_owned(),
        endpoint: format!("{scheme}://{dialer}"),
        state: "idle".to_owned(),
        required: config.delivery.required,
        ..UplinkStatus::default()
    });
    let mut plan = plan(&config, &world.device_id);
    if let Some(commands) = &commands {
        plan.keep = Keep::Seconds(commands.session_expiry);
    }
    let clock = world.clock.clone();
    let attempts = Attempts::new(
        world.tracer.clone(),
        clock.clone(),
        world.events.clone(),
        "mqtt",
        [
            KeyValue::new("server.address", config.host.clone()),
            KeyValue::new("server.port", i64::from(config.port)),
            KeyValue::new("network.protocol.name", "mqtt"),
            KeyValue::new("network.protocol.version", "5"),
        ],
    );
    let wire = Arc::clone(&dialer.wire);
    let order = Order::new(config.delivery.backoff);
    let feed = Feed::new(
        store,
        clock,
        world.boot_id,
        (delivery, order),
        wire,
        sender,
        attempts,
    );
    let uplink = Mqtt {
        config,
        plan,
        dialer,
        world,
        without_retain: false,
        one_by_one: false,
        inbox: Inbox::new(commands),
    };
    let task = vitals::MQTT.spawn(uplink.run(feed));
    Uplink { status, task }
}

fn plan(config: &MqttUplink, device_id: &str) -> Plan {
    Plan {
        client_id: config
            .client_id
            .clone()
            .unwrap_or_else(|| format!("sonde-{}", safe_level(device_id))),
        topics: Topics::new(&config.topic_prefix, device_id),
        keep_alive: config.keep_alive.max(Duration::from_secs(5)),
        window: config.window,
        expiry: config
            .message_expiry
            .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        timeout: config.delivery.timeout,
        keep: Keep::Nothing,
    }
}

/// The task: one connection after the other.
struct Mqtt {
    config: MqttUplink,
    plan: Plan,
    dialer: Dialer,
    world: Parts,
    /// Learned from this broker.
    without_retain: bool,
    one_by_one: bool,
    /// What comes to us.
    inbox: Inbox,
}

impl Mqtt {
    async fn run<S: Store>(mut self, mut feed: Feed<S>) {
        loop {
            if self.world.stop.finish.is_cancelled() || self.world.stop.now.is_cancelled() {
                break;
            }
            match feed.next() {
                Step::Connect => {
                    if self.connect(&mut feed).await == Reaction::Finished {
                        break;
                    }
                }
                Step::WaitUntil(at) => self.wait(&mut feed, at).await,
                // Not what `delivery` says without a connection; a pause keeps a mistake from spinning.
                Step::Send(_) | Step::Idle => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        feed.gone();
    }

    /// Waits for `at`, the end, or (while held) for a secret that was changed.
    async fn wait<S: Store>(&self, feed: &mut Feed<S>, at: u64) {
        let before = self.secrets_changed_at();
        loop {
            let left = Duration::from_nanos(at.saturating_sub(self.world.clock.boot_ns()));
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = self.world.stop.finish.cancelled() => return,
                () = self.world.stop.now.cancelled() => return,
                () = tokio::time::sleep(left.min(LOOK_FOR_CHANGES)) => {}
            }
            if feed.is_held() && self.secrets_changed_at() != before {
                feed.mended();
                return;
            }
            feed.look();
        }
    }

    /// When each file that a connection reads was last changed.
    fn secrets_changed_at(&self) -> [Option<SystemTime>; 4] {
        let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
        let tls = self.config.tls.as_ref();
        [
            self.config.password_file.as_deref(),
            tls.and_then(|tls| tls.ca_file.as_deref()),
            tls.and_then(|tls| tls.cert_file.as_deref()),
            tls.and_then(|tls| tls.key_file.as_deref()),
        ]
        .map(|path| path.and_then(changed))
    }

    /// One attempt, and the connection that comes of it.
    async fn connect<S: Store>(&mut self, feed: &mut Feed<S>) -> Reaction {
        feed.attempt();
        let end = match self.dial().await {
            Ok((stream, attempt)) => {
                let stop = &self.world.stop;
                let inbox = &mut self.inbox;
                let run = pin!(link::run(stream, &self.plan, &attempt, feed, inbox, stop));
                run.await
            }
            Err(end) => end,
        };
        self.without_retain |= end.reaction == Reaction::WithoutRetain;
        self.one_by_one = end.reaction == Reaction::OneByOne;
        let reaction = end.reaction;
        feed.ended(end);
        reaction
    }

    /// Reads the secrets, looks up, connects, shakes hands.
    async fn dial(&self) -> Result<(Stream, Attempt), End> {
        let login = self.login()?;
        let stop = &self.world.stop;
        let stream = tokio::select! {
            biased;
            () = stop.now.cancelled() => return Err(End::finished()),
            () = stop.finish.cancelled() => return Err(End::finished()),
            dialled = self.dialer.dial(self.config.delivery.timeout) => {
                dialled.map_err(|error| match error.kind {
                    DialErrorKind::Unreachable => End::retry(error.to_string()),
                    DialErrorKind::Setup => End::hold(error.to_string()),
                })?
            }
        };
        let attempt = Attempt {
            login,
            without_retain: self.without_retain,
            one_by_one: self.one_by_one,
            ask_after: self.inbox.ask_after(),
            states: states(&self.world.device_id, self.world.clock.now()),
            tls: (self.config.tls.clone()).map(|files| (self.config.host.clone(), files)),
        };
        Ok((stream, attempt))
    }

    fn login(&self) -> Result<Option<(String, String)>, End> {
        let username = self.config.username.clone().unwrap_or_default();
        let password = match &self.config.password_file {
            None => String::new(),
            Some(path) => read_password(path)?,
        };
        Ok((!username.is_empty() || !password.is_empty()).then_some((username, password)))
    }
}

/// Opens a file that can be read to its end: opening a fifo waits for a writer.
fn regular(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(std::io::Error::other("it is not a regular file"))
    }
}

/// What keeps the password in a file that can be read from being one.
pub(super) fn password_fault(path: &Path) -> Option<String> {
    let shown = path.display();
    match read_password(path) {
        Err(end) => Some(end.text),
        Ok(password) if password.is_empty() => Some(format!("{shown} is empty")),
        Ok(password) if password.contains('\n') => Some(format!(
            "{shown} has more than one line; all of them are the password"
        )),
        Ok(_) => None,
    }
}

/// What the file holds, without the newline that editors end it with.
fn read_password(path: &Path) -> Result<String, End> {
    let shown = path.display();
    let hold = |what: String| {
        End::hold(format!(
            "{what}; connecting once the file that uplink.mqtt.password_file names can be read"
        ))
    };
    let mut bytes = Vec::new();
    regular(path)
        .and_then(|file| file.take(MAX_PASSWORD + 1).read_to_end(&mut bytes))
        .map_err(|error| hold(format!("cannot read the password from {shown}: {error}")))?;
    if bytes.len() as u64 > u64::from(u16::MAX) {
        return Err(hold(format!(
            "the password in {shown} is longer than the 65,535 bytes MQTT allows"
        )));
    }
    let mut password = String::from_utf8(bytes)
        .map_err(|_| hold(format!("the password in {shown} is not UTF-8")))?;
    if password.ends_with('\n') {
        password.pop();
        if password.ends_with('\r') {
            password.pop();
        }
    }
    Ok(password)
}

/// The payloads for the state topic. `since` is when this connection was made,
/// by this device's clock.
fn states(device_id: &str, now: Stamp) -> States {
    let since = rfc3339(now.unix_ns / 1_000_000_000);
    let payload = |state: &str| {
        Bytes::from(
            serde_json::json!({
                "state": state,
                "device": device_id,
                "version": env!("CARGO_PKG_VERSION"),
                "since": since,
            })
            .to_string(),
        )
    };
    let offline = serde_json::json!({ "state": "offline", "device": device_id });
    States {
        online: payload("online"),
        offline: Bytes::from(offline.to_string()),
        stopped: payload("stopped"),
    }
}

/// `2026-11-21T04:05:06Z`. Years run from March here, so that the leap day is a year's last.
fn rfc3339(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let (year, month) = if march_month < 10 {
        (era * 400 + year_of_era, march_month + 3)
    } else {
        (era * 400 + year_of_era + 1, march_month - 9)
    };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
