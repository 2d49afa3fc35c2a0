//! The outbox: MQTT messages of local programs (and the agent's own answers to
//! commands), stored first, sent when there is a link.
//!
//! ```text
//! sonde publish ┐                                   spool            uplink::mqtt
//! POST /publish ┼─► rules ─► envelope ─► PRODUCER ─► class outbox ─► order ─► broker
//! commands ─────┘   form, topic, pace    span        synced
//! ```
//!
//! Promises: [`Outbox::post`] answers with a name once the message is on flash
//! (or delivered meanwhile), and from then on it is delivered at least once, in
//! order per topic, or counted as expired or as refused by the broker for good.
//! What is not taken is refused with the reason and what to do. Never a file
//! write from here, never a queue of its own: the spool has both.
//!
//! The message's trace goes on: a span `publish {topic prefix}` is the child of
//! the program's own, and its context is what travels with the message.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status as SpanStatus};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Config;
use crate::frame::{Batch, Class, Codec, FrameId, MAX_BODY, Signal, push_hex};
use crate::identity::Identity;
use crate::message::Message;
use crate::spool::{Refused, Spool};
use crate::status::words::bytes;
use crate::status::{OutboxStatus, SpoolStatus};
use crate::trace::propagation::Carried;
use crate::trace::{DURABLE, Keeper, Tracer};

pub mod envelope;
pub mod expiry;
mod rules;

use envelope::{Birth, Envelope};
use rules::Rules;

/// Who wants to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A local program: bound to the allowed prefixes and to the rate.
    Local,
    /// The agent itself, such as an answer to a command.
    Agent,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks a rule of MQTT.
    Invalid(String),
    /// The configuration does not allow the topic.
    NotAllowed(String),
    /// It does not fit a frame.
    TooLarge {
        /// Bytes with topic and properties.
        size: usize,
    },
    /// The rate is exhausted.
    TooFast {
        /// When to try again.
        after: Duration,
    },
    /// The outbox's share of the spool is full.
    Full(String),
    /// There is no MQTT uplink.
    NoUplink,
    /// It could not be made safe.
    Disk(String),
    /// The agent is stopping.
    Stopping,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Spool,
    spool_status: watch::Receiver<SpoolStatus>,
    clock: Clock,
    tracer: Tracer,
    keeper: Keeper,
    device_id: String,
    boot_id: [u8; 16],
    /// `None`: no MQTT uplink.
    rules: Mutex<Option<Rules>>,
    status: Mutex<OutboxStatus>,
}

impl Outbox {
    /// Takes messages for this spool by the rules of this configuration.
    pub fn new(
        config: &Config,
        identity: &Identity,
        clock: Clock,
        spool: Spool,
        tracer: Tracer,
        keeper: Keeper,
    ) -> Self {
        Self(Arc::new(Inner {
            spool_status: spool.status(),
            spool,
            clock,
            tracer,
            keeper,
            device_id: identity.device_id.clone(),
            boot_id: identity.boot_id,
            rules: Mutex::new(rules_of(config, &identity.device_id)),
            status: Mutex::default(),
        }))
    }

    /// New rules after a reload.
    pub fn reconfigure(&self, config: &Config) {
        *lock(&self.0.rules) = rules_of(config, &self.0.device_id);
    }

    /// What came of everything so far.
    pub fn status(&self) -> OutboxStatus {
        let mut status = lock(&self.0.status).clone();
        let rules = lock(&self.0.rules);
        status.allow = rules.as_ref().map(Rules::templates).unwrap_or_default();
        status
    }

    /// Stores a message; `message.context` and `message.baggage` are the
    /// caller's. Resolves after the sync, which other messages may share.
    ///
    /// # Errors
    /// It was not taken, for this reason. Dropped before it resolves, it may or
    /// may not have been taken.
    pub async fn post(&self, message: Message, from: Origin) -> Result<FrameId, Refusal> {
        let posted = self.store(message, from).await;
        let mut status = lock(&self.0.status);
        match &posted {
            Ok((_, size)) => {
                status.stored += 1;
                status.stored_bytes += *size as u64;
            }
            Err(refusal) => {
                let reason = refusal.reason().to_owned();
                *status.refused.entry(reason).or_default() += 1;
            }
        }
        posted.map(|(id, _)| id)
    }

    async fn store(&self, message: Message, from: Origin) -> Result<(FrameId, usize), Refusal> {
        let inner = &*self.0;
        let now = inner.clock.now();
        rules::check(&message)?;
        let birth = Birth {
            boot_id: inner.boot_id,
            believed: inner.clock.synchronised(),
        };
        let body = Envelope::encode(&message, birth);
        let size = body.len();
        let template = self.admit(&message, size, from, now.boot_ns)?;

        let carried = Carried {
            context: message.context,
            baggage: message.baggage,
        };
        let mut span = SpanBuilder::from_name(format!("publish {template}"))
            .with_kind(SpanKind::Producer)
            .with_attributes([
                KeyValue::new("messaging.system", "mqtt"),
                KeyValue::new("messaging.operation.name", "publish"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", message.topic),
                KeyValue::new("messaging.destination.template", template),
                KeyValue::new(
                    "messaging.message.body.size",
                    i64::try_from(message.payload.len()).unwrap_or(i64::MAX),
                ),
            ])
            .start_with_context(&inner.tracer, &carried.parent());
        if let Some(correlation) = &message.correlation {
            let id = KeyValue::new("messaging.message.conversation_id", shown(correlation));
            span.set_attribute(id);
        }
        let batch = Batch {
            signal: Signal::Message,
            class: Class::Outbox,
            codec: Codec::Identity,
            items: 1,
            first: now,
            last: now,
            context: carried.within(span.span_context()).context,
            body,
        };
        if from == Origin::Agent && span.span_context().is_sampled() {
            // Its reader's span will hang on this one, whatever happens to us.
            span.set_attribute(KeyValue::new(DURABLE, true));
            span.end();
            inner.keeper.keep().await;
        }
        let stored = inner.spool.store(batch).await;
        match stored {
            Ok(id) => {
                span.set_attribute(KeyValue::new("messaging.message.id", id.to_string()));
                Ok((id, size))
            }
            Err(refused) => {
                let refusal = self.because(refused, size);
                span.set_status(SpanStatus::error(refusal.to_string()));
                Err(refusal)
            }
        }
    }

    /// Whether it may be stored; the name that its span goes by.
    fn admit(
        &self,
        message: &Message,
        size: usize,
        from: Origin,
        now: u64,
    ) -> Result<String, Refusal> {
        let mut rules = lock(&self.0.rules);
        let rules = rules.as_mut().ok_or(Refusal::NoUplink)?;
        let template = match from {
            Origin::Local => rules.allowed(&message.topic)?.to_owned(),
            Origin::Agent => "response".to_owned(),
        };
        if size > MAX_BODY {
            return Err(Refusal::TooLarge { size });
        }
        if from == Origin::Local {
            rules.pace(size, now)?;
        }
        Ok(template)
    }

    /// The spool's no, in this module's words.
    fn because(&self, refused: Refused, size: usize) -> Refusal {
        let spool = self.0.spool_status.borrow();
        match refused {
            Refused::TooLarge => Refusal::TooLarge { size },
            Refused::Stopped => Refusal::Stopping,
            Refused::NoDisk => Refusal::Disk(format!(
                "the message cannot be made safe: {}; it was not taken",
                spool
                    .alarm
                    .as_deref()
                    .unwrap_or("the spool's disk fails or is absent")
            )),
            Refused::Full => {
                let outbox = spool.classes.get(Class::Outbox.as_str());
                let (waiting, held) = outbox.map_or((0, 0), |class| (class.frames, class.bytes));
                Refusal::Full(format!(
                    "the outbox is full: {waiting} messages ({}) wait in it, and the spool takes \
                     {} of {}; it empties when the broker takes them (see `sonde status`), or \
                     raise spool.quota",
                    bytes(held),
                    bytes(spool.bytes),
                    bytes(spool.limit_bytes)
                ))
            }
        }
    }
}

fn rules_of(config: &Config, device_id: &str) -> Option<Rules> {
    let mqtt = config.mqtt.as_ref()?;
    Some(Rules::new(&config.outbox, &mqtt.topic_prefix, device_id))
}

/// Correlation data for a span: text as it is, anything else in hexadecimal.
pub(crate) fn shown(correlation: &[u8]) -> String {
    match std::str::from_utf8(correlation) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => {
            let mut hex = String::with_capacity(correlation.len() * 2);
            push_hex(&mut hex, correlation);
            hex
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusal {
    /// One word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Invalid(_) => "invalid",
            Refusal::NotAllowed(_) => "not_allowed",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::TooFast { .. } => "rate",
            Refusal::Full(_) => "full",
            Refusal::NoUplink => "no_uplink",
            Refusal::Disk(_) => "disk",
            Refusal::Stopping => "stopping",
        }
    }
}

/// What happened, and what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Invalid(why)
            | Refusal::NotAllowed(why)
            | Refusal::Full(why)
            | Refusal::Disk(why) => f.write_str(why),
            Refusal::TooLarge { size } => write!(
                f,
                "the message has {size} bytes with its topic and properties, at most {MAX_BODY} can \
                 be stored; send it in parts"
            ),
            Refusal::TooFast { after } => write!(
                f,
                "messages come faster than outbox.rate or outbox.byte_rate allows; try again in \
                 {:.1} s",
                after.as_secs_f64()
            ),
            Refusal::NoUplink => f.write_str(
                "no MQTT uplink is configured, so nothing could send it; set uplink.mqtt.url",
            ),
            Refusal::Stopping => f.write_str("the agent is stopping; try again when it runs"),
        }
    }
}

impl std::error::Error for Refusal {}
