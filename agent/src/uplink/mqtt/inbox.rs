//! What comes to us: commands, handed on without a wait and acknowledged when
//! whoever took them says so.
//!
//! Bounds: at QoS 1 the broker has at most
//! [`RECEIVE_MAXIMUM`](super::packet::RECEIVE_MAXIMUM) of them unacknowledged,
//! which is the queue's length, so that none is ever turned away here. At QoS 0
//! nothing holds a broker back; what does not fit is counted and gone, as QoS 0
//! allows.
//!
//! An acknowledgement belongs to the connection that the message came by. What
//! is not acknowledged when that ends, the broker sends again on the next.

use crate::vitals;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::packet::{RECEIVE_MAXIMUM, Received};
use super::session::pause;

/// The length of the queue from here to whoever takes commands.
pub const QUEUE: usize = RECEIVE_MAXIMUM as usize * 2;

/// A message that came, and the way to acknowledge it.
#[derive(Debug)]
pub struct Arrived {
    /// What it says.
    pub message: Received,
    /// To be used once it is safe.
    pub receipt: Receipt,
}

/// Lets the broker forget a message. Dropped unused, the broker keeps it and
/// sends it again after the next connect.
#[derive(Debug)]
pub struct Receipt {
    pkid: u16,
    to: Option<mpsc::Sender<u16>>,
}

impl Receipt {
    /// A message of QoS 0, which nobody waits to hear of.
    pub fn none() -> Self {
        Self { pkid: 0, to: None }
    }

    /// One whose use shows in `to`.
    #[cfg(test)]
    pub fn of(pkid: u16, to: mpsc::Sender<u16>) -> Self {
        let to = Some(to);
        Self { pkid, to }
    }

    /// The message's packet id; 0 at QoS 0.
    pub fn pkid(&self) -> u16 {
        self.pkid
    }

    /// It is safe here. Nothing happens if its connection has ended.
    pub fn acknowledge(self) {
        if let Some(to) = self.to {
            // It holds as many as the broker may have unacknowledged.
            let _ = to.try_send(self.pkid);
            vitals::RECEIPTS.sent(&to);
        }
    }
}

/// What came of asking for commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subscribed {
    /// Not yet, or the connection is gone.
    #[default]
    No,
    /// Commands come.
    Yes,
    /// The broker said no, in words.
    Refused(String),
}

/// What whoever takes commands gives the uplink.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Seconds the broker keeps commands for us while there is no connection.
    pub session_expiry: u32,
    /// Where they go; holds [`QUEUE`].
    pub to: mpsc::Sender<Arrived>,
    /// Whether any come.
    pub subscribed: watch::Sender<Subscribed>,
    /// How many were dropped here: QoS 0 beyond the queue, and what could not be read.
    pub dropped: watch::Sender<u64>,
}

/// One uplink's side of it, from connection to connection.
#[derive(Debug)]
pub(super) struct Inbox {
    to: Option<Inbound>,
    /// Connections in a row that ended while the broker owed us its answer to SUBSCRIBE.
    cut_off: u32,
    receipts: mpsc::Sender<u16>,
    acks: mpsc::Receiver<u16>,
}

impl Inbox {
    pub(super) fn new(to: Option<Inbound>) -> Self {
        let (receipts, acks) = mpsc::channel(usize::from(RECEIVE_MAXIMUM));
        Self {
            to,
            cut_off: 0,
            receipts,
            acks,
        }
    }

    /// A new connection: acknowledgements of the last one count no more.
    pub(super) fn begin(&mut self) {
        (self.receipts, self.acks) = mpsc::channel(usize::from(RECEIVE_MAXIMUM));
        match self.ask_after() {
            Duration::ZERO => self.told(Subscribed::No),
            pause => self.told(Subscribed::Refused(format!(
                "the broker ends the connection when commands are asked for; check its access \
                 rules for this client; asked again after {} s of connection",
                pause.as_secs()
            ))),
        }
    }

    /// The connection is over. `asking`: while SUBSCRIBE was unanswered, which is
    /// how some brokers refuse it.
    pub(super) fn ended(&mut self, asking: bool) {
        self.cut_off = match asking {
            true => self.cut_off.saturating_add(1),
            false => self.cut_off,
        };
        self.told(Subscribed::No);
    }

    /// How long a connection shall carry telemetry before commands are asked
    /// for. Once is taken for a link that broke just then.
    pub(super) fn ask_after(&self) -> Duration {
        match self.cut_off.checked_sub(2) {
            Some(times) => pause(times),
            None => Duration::ZERO,
        }
    }

    /// SUBSCRIBE was answered, with this.
    pub(super) fn answered(&mut self, subscribed: Subscribed) {
        self.cut_off = 0;
        self.told(subscribed);
    }

    /// What came of SUBSCRIBE, or of the connection.
    fn told(&self, subscribed: Subscribed) {
        let Some(inbound) = &self.to else { return };
        inbound.subscribed.send_if_modified(|now| {
            let news = *now != subscribed;
            *now = subscribed;
            news
        });
    }

    /// Hands a message on. `true`: it was not taken and shall be acknowledged at once.
    pub(super) fn deliver(&self, pkid: u16, message: Result<Box<Received>, String>) -> bool {
        let Some(inbound) = &self.to else { return true };
        let receipt = Receipt {
            pkid,
            to: (pkid != 0).then(|| self.receipts.clone()),
        };
        let lost = match message {
            Err(why) => {
                log::warn!("mqtt: a message for us cannot be read and is dropped: {why}");
                true
            }
            // The rest of the queue is for those that the broker counts.
            Ok(_) if pkid == 0 && inbound.to.capacity() <= usize::from(RECEIVE_MAXIMUM) => true,
            Ok(message) => {
                let message = *message;
                // Fails if whoever took them has ended: the broker keeps it for the next start.
                let _ = inbound.to.try_send(Arrived { message, receipt });
                vitals::COMMANDS_IN.sent(&inbound.to);
                false
            }
        };
        if lost {
            inbound.dropped.send_modify(|dropped| *dropped += 1);
        }
        lost
    }

    /// The next message that is safe.
    pub(super) async fn acknowledged(&mut self) -> u16 {
        match self.acks.recv().await {
            Some(pkid) => {
                vitals::RECEIPTS.received(&self.acks);
                pkid
            }
            // `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}
