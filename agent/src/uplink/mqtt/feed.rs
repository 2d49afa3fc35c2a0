//! Between a connection and the spool: asks `delivery` which lane is next,
//! takes frames, settles them, publishes the status, says what changed.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::Frames;
use super::order::{Order, Settle, Turn};
use super::piece::{Outgoing, Piece, PieceId};
use super::reason::{End, Reaction};
use super::session::Verdict;
use crate::clock::Clock;
use crate::clock::monotonic_ns;
use crate::config::UplinkName;
use crate::frame::{Frame, FrameId, Signal, Signals, Stamp};
use crate::outbox::envelope::Envelope;
use crate::outbox::expiry;
use crate::spool::{Lane, Outcome, Pending, Spool};
use crate::status::{TopicStatus, UplinkStatus};
use crate::trace;
use crate::uplink::attempts::Attempts;
use crate::uplink::delivery::{self, Change, Delivery, Step};
use crate::uplink::dial::Wire;
use crate::vitals;

/// The spool said that something waits and then had nothing: no asking again
/// before news or this.
const DRY: Duration = Duration::from_millis(250);

/// Messages looked at in a row that are not to be sent now, before the connection has its turn.
const ROUNDS: u32 = 64;

/// So many connections may end over one frame, without a word from the broker,
/// before it is given up. A broker or a link that fails by itself ends over
/// whichever frame is out, not over the same one each time.
const HUNG_UP: u32 = 5;

/// What may be taken while as many messages wait for their topics as can.
const ALL_BUT_MESSAGES: Signals = Signals::ALL.without(Signal::Message);

/// Refused topics in the status.
const SHOWN_TOPICS: usize = 16;

/// What the uplink wants of the spool.
pub(super) trait Store: Send + Sync + 'static {
    /// See [`Spool::next`].
    fn next(&self, lane: Lane, signals: Signals) -> impl Future<Output = Option<Frame>> + Send;
    /// See [`Spool::settle`].
    fn settle(&self, id: FrameId, outcome: Outcome);
    /// See [`Spool::link`].
    fn link(&self, up: bool);
    /// See [`Spool::pending`].
    fn pending(&self) -> watch::Receiver<Pending>;
}

impl Store for Spool {
    fn next(&self, lane: Lane, signals: Signals) -> impl Future<Output = Option<Frame>> + Send {
        Spool::next(self, UplinkName::Mqtt, lane, signals)
    }

    fn settle(&self, id: FrameId, outcome: Outcome) {
        Spool::settle(self, UplinkName::Mqtt, id, outcome);
    }

    fn link(&self, up: bool) {
        Spool::link(self, UplinkName::Mqtt, up);
    }

    fn pending(&self) -> watch::Receiver<Pending> {
        Spool::pending(self, UplinkName::Mqtt)
    }
}

/// All that outlives a connection.
pub(super) struct Feed<S> {
    store: S,
    clock: Clock,
    delivery: Delivery,
    pending: watch::Receiver<Pending>,
    order: Order,
    boot_id: [u8; 16],
    lane: Lane,
    dry: bool,
    /// Frames given out and not settled. As many as the window at most.
    flight: Vec<Flight>,
    /// Their pieces on the way; the bodies are shared with what was sent.
    sent: Vec<Piece>,
    /// What the broker hung up over last, and how often.
    suspect: Option<(PieceId, u32)>,
    /// One was given up for that, and nothing has been delivered since: then
    /// it is the broker that hangs up over everything, and no reason to delete more.
    gave_up: bool,
    /// Their pieces that are still to be sent.
    cut: VecDeque<Piece>,
    wire: Arc<Wire>,
    status: watch::Sender<UplinkStatus>,
    attempts: Attempts,
    /// The attempt that is under way began then.
    began: Option<Stamp>,
}

struct Flight {
    id: FrameId,
    signal: Signal,
    items: u32,
    bytes: usize,
    /// When it was taken, by the clock that own waits are measured with.
    began_ns: u64,
    /// Pieces without a verdict.
    open: u32,
    /// Why a piece of it was given up.
    lost: Option<String>,
}

impl<S: Store> Feed<S> {
    pub(super) fn new(
        store: S,
        clock: Clock,
        boot_id: [u8; 16],
        (delivery, order): (Delivery, Order),
        wire: Arc<Wire>,
        status: watch::Sender<UplinkStatus>,
        attempts: Attempts,
    ) -> Self {
        Self {
            pending: store.pending(),
            store,
            clock,
            delivery,
            order,
            boot_id,
            lane: Lane::Live,
            dry: false,
            flight: Vec::new(),
            sent: Vec::new(),
            suspect: None,
            gave_up: false,
            cut: VecDeque::new(),
            wire,
            status,
            attempts,
            began: None,
        }
    }

    /// What to do next.
    pub(super) fn next(&mut self) -> Step {
        let mut pending = *self.pending.borrow_and_update();
        if self.order.is_full() {
            pending = pending.of(ALL_BUT_MESSAGES);
        }
        let step = self.delivery.next(self.clock.boot_ns(), pending);
        self.show();
        step
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self) {
        self.began = Some(self.clock.now());
        self.show();
    }

    /// Whether the circuit is open.
    pub(super) fn is_held(&self) -> bool {
        self.delivery.is_held()
    }

    /// Somebody changed a secret.
    pub(super) fn mended(&mut self) {
        log::info!("uplink mqtt: a credential file changed; trying again");
        self.delivery.mended(self.clock.boot_ns());
        self.order.mended(self.clock.boot_ns());
        self.show();
    }

    /// An attempt or a connection ended. What was in flight goes back to the spool.
    pub(super) fn ended(&mut self, end: End) {
        self.store.link(false);
        self.flight.clear();
        self.sent.clear();
        self.cut.clear();
        self.order.clear();
        self.dry = false;
        if end.reaction == Reaction::OneByOne {
            self.delivery.prefer_message();
        }
        let mut attempt = None;
        if let Some(began) = self.began.take()
            && end.reaction != Reaction::Finished
        {
            attempt = self.attempts.ended(began, Some(&end.text));
        }
        let now = self.clock.boot_ns();
        let change = match end.reaction {
            Reaction::Finished => {
                self.delivery.closed(now);
                None
            }
            Reaction::Hold => self.delivery.held(now, &end.text, false),
            Reaction::Retry | Reaction::WithoutRetain | Reaction::OneByOne => {
                self.delivery.failed(now, &end.text, None)
            }
        };
        match attempt {
            Some(span) => trace::within(&span, || self.tell(change)),
            None => self.tell(change),
        }
        self.attempts.close();
    }

    /// The uplink's task ends.
    pub(super) fn gone(&mut self) {
        self.store.link(false);
        self.delivery.closed(self.clock.boot_ns());
        self.show();
    }

    /// Settles a frame once all its pieces are, or at once when it is to come again.
    fn finish(&mut self, at: usize, again: Option<delivery::Verdict>) {
        let open = self.flight.get(at).map_or(0, |flight| flight.open);
        if again.is_none() && open > 0 {
            return;
        }
        let flight = self.flight.swap_remove(at);
        let id = flight.id;
        self.cut.retain(|piece| piece.frame.id != id);
        self.sent.retain(|piece| piece.frame.id != id);
        let (outcome, verdict) = match (again, flight.lost) {
            (Some(verdict), _) => (Outcome::Returned, verdict),
            (None, Some(reason)) => (
                Outcome::Condemned(reason.clone()),
                delivery::Verdict::Condemn { reason },
            ),
            (None, None) => (
                Outcome::Delivered,
                delivery::Verdict::Delivered { rejected_items: 0 },
            ),
        };
        if matches!(outcome, Outcome::Delivered) {
            self.gave_up = false;
            self.delivery.round_trip(vitals::since(flight.began_ns));
        }
        if self.suspect.is_some_and(|(suspect, _)| suspect.frame == id) {
            self.suspect = None;
        }
        self.store.settle(id, outcome);
        let now = self.clock.boot_ns();
        let (items, bytes) = (flight.items, flight.bytes);
        let signal = flight.signal;
        let change = self
            .delivery
            .settled(now, signal, &verdict, items, bytes, true);
        self.tell(change);
    }

    /// State changes are logged once each, here.
    fn tell(&mut self, change: Option<Change>) {
        let turns = self.delivery.take_turns();
        self.attempts.became(change.as_ref(), &turns);
        match change {
            None => {}
            Some(Change::Up { after: None }) => log::info!("uplink mqtt: up"),
            Some(Change::Up { after: Some(after) }) => {
                log::info!("uplink mqtt: up again after {} s", after.as_secs());
            }
            Some(Change::Down { why }) => log::warn!("uplink mqtt: down: {why}"),
            Some(Change::Held { reason }) => {
                log::error!("uplink mqtt: holding all data: {reason}");
            }
            Some(Change::SignalHeld { signal, reason }) => {
                let signal = signal.as_str();
                log::error!("uplink mqtt: {signal} are held, the rest goes on: {reason}");
            }
            Some(Change::SignalTaken { signal }) => {
                log::info!("uplink mqtt: {} are taken again", signal.as_str());
            }
        }
        self.show();
    }

    fn show(&mut self) {
        let now = self.clock.boot_ns();
        let pending = *self.pending.borrow();
        let (delivery, wire) = (&self.delivery, &self.wire);
        self.status.send_modify(|status| {
            delivery.report(now, pending, status);
            let refused = self.order.refused_topics().take(SHOWN_TOPICS);
            status.refused_topics = refused
                .map(|(trouble, waiting)| TopicStatus {
                    topic: trouble.topic.clone(),
                    reason: trouble.reason.clone(),
                    since_s: now.saturating_sub(trouble.since) as f64 / 1e9,
                    waiting: waiting as u64,
                })
                .collect();
            status.wire_sent_bytes = wire.sent();
            status.wire_received_bytes = wire.received();
            status.connections = wire.connections();
        });
    }
}

/// The outbox.
impl<S: Store> Feed<S> {
    /// Reads a message that the spool gave; `None`: it is not to be sent now.
    fn admit(&mut self, frame: Frame) -> Option<Piece> {
        let id = frame.id;
        let envelope = match Envelope::decode(&frame.batch.body) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                log::warn!("uplink mqtt: gave up message {id}: {malformed}");
                let condemned = Outcome::Condemned(malformed.to_string());
                self.store.settle(id, condemned);
                return None;
            }
        };
        let mut message = envelope.message;
        message.context = frame.batch.context.clone();
        let now = self.clock.now();
        let left = match message.expiry {
            None => None,
            Some(seconds) => {
                let asked = expiry::Now {
                    stamp: now,
                    believed: self.clock.synchronised(),
                    boot_id: self.boot_id,
                };
                let left = expiry::left(seconds, envelope.birth, frame.batch.first, asked);
                if left.is_none() {
                    self.store.settle(id, Outcome::Expired);
                    return None;
                }
                left
            }
        };
        match self.order.take(id, &message.topic, now.boot_ns) {
            Turn::Send => Some(Piece::message(frame, Outgoing { message, left })),
            Turn::Wait => None,
        }
    }

    /// What of `signals` may be taken.
    fn takeable(&self, signals: Signals) -> Signals {
        if self.order.is_full() {
            signals.without(Signal::Message)
        } else {
            signals
        }
    }

    /// A message's verdict.
    fn settled_message(&mut self, at: usize, topic: &str, verdict: Verdict) {
        let Some(flight) = self.flight.get_mut(at) else {
            return;
        };
        let (id, now) = (flight.id, self.clock.boot_ns());
        match verdict {
            Verdict::Delivered => {
                let settled = self.order.acknowledged(id, now);
                self.perform(settled, "an earlier one of its topic was refused");
            }
            Verdict::Again(why) | Verdict::Refused(why) => {
                let known = self.order.refused_topics().any(|(t, _)| t.topic == topic);
                if !known {
                    log::warn!(
                        "uplink mqtt: messages to \"{topic}\" wait, the rest goes on: {why}"
                    );
                }
                let settled = self.order.refused(id, &why, now);
                self.perform(settled, &why);
            }
            Verdict::Condemned(why) | Verdict::TooLarge(why) => {
                log::warn!("uplink mqtt: gave up message {id} to \"{topic}\": {why}");
                flight.lost = Some(why);
                flight.open = 0;
                self.finish(at, None);
                let settled = self.order.gave_up(id);
                self.perform(settled, "");
            }
        }
    }

    fn perform(&mut self, settled: Vec<Settle>, why: &str) {
        for settle in settled {
            let (Settle::Delivered(id) | Settle::Wait(id)) = settle;
            let Some(at) = self.flight.iter().position(|flight| flight.id == id) else {
                continue;
            };
            match settle {
                Settle::Delivered(_) => {
                    if let Some(flight) = self.flight.get_mut(at) {
                        flight.open = 0;
                    }
                    self.finish(at, None);
                }
                Settle::Wait(_) => {
                    // The spool keeps it as given out until its turn comes.
                    let flight = self.flight.swap_remove(at);
                    let now = self.clock.boot_ns();
                    let aside = delivery::Verdict::Aside {
                        why: why.to_owned(),
                    };
                    let (items, bytes) = (flight.items, flight.bytes);
                    let change =
                        self.delivery
                            .settled(now, flight.signal, &aside, items, bytes, true);
                    self.tell(change);
                }
            }
        }
    }

    /// Asks the spool for those that waited for their topic.
    fn bring_back(&mut self) {
        for id in self.order.due(self.clock.boot_ns()) {
            self.store.settle(id, Outcome::Returned);
        }
    }

    /// Waits for news from the spool, or for the moment.
    async fn news(&mut self, at: Option<u64>) {
        let at = [at, self.order.due_at()].into_iter().flatten().min();
        let left = at.map(|at| at.saturating_sub(self.clock.boot_ns()));
        let moment = async {
            match left {
                Some(left) => sleep(Duration::from_nanos(left)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.pending.changed() => if news.is_err() {
                // The spool is gone; the end will be said by `Stop`.
                std::future::pending::<()>().await;
            },
            () = moment => {}
        }
    }
}

impl<S: Store> Frames for Feed<S> {
    fn online(&mut self) {
        if let Some(began) = self.began.take() {
            self.attempts.ended(began, None);
        }
        self.store.link(true);
        let now = self.clock.boot_ns();
        self.delivery.connected(now);
        let change = self.delivery.answered(now);
        self.tell(change);
    }

    async fn ready(&mut self) {
        if !self.cut.is_empty() {
            return;
        }
        loop {
            self.bring_back();
            if self.dry {
                // Its end is news only if the watch has any; either way it is worth asking again.
                let _ = timeout(DRY, self.pending.changed()).await;
                self.dry = false;
            }
            match self.next() {
                Step::Send(lane) => {
                    self.lane = lane;
                    return;
                }
                Step::WaitUntil(at) => self.news(Some(at)).await,
                Step::Connect | Step::Idle => self.news(None).await,
            }
        }
    }

    async fn take(&mut self, drain: bool) -> Option<Piece> {
        if let Some(piece) = self.cut.pop_front() {
            self.sent.push(piece.clone());
            return Some(piece);
        }
        let (mut lane, mut rounds) = (self.lane, 0);
        let piece = loop {
            let mut frame = None;
            if drain {
                // A refusal still counts: what is held or put off stays for the next start.
                if self.delivery.is_down() {
                    return None;
                }
                for either in [Lane::Live, Lane::Backlog] {
                    if frame.is_none() {
                        lane = either;
                        let free = self.takeable(self.delivery.free());
                        frame = self.store.next(lane, free).await;
                    }
                }
            } else {
                let signals = self.takeable(self.delivery.signals());
                frame = self.store.next(lane, signals).await;
            }
            let Some(frame) = frame else {
                self.delivery.vain(lane);
                self.dry = true;
                return None;
            };
            if frame.batch.signal != Signal::Message {
                break Piece::whole(frame);
            }
            if let Some(piece) = self.admit(frame) {
                break piece;
            }
            rounds += 1;
            if rounds >= ROUNDS && !drain {
                return None;
            }
        };
        let frame = &piece.frame;
        let bytes = frame.batch.body.len();
        let now = self.clock.boot_ns();
        self.delivery.took(now, lane, frame.batch.signal, bytes);
        self.flight.push(Flight {
            id: frame.id,
            signal: frame.batch.signal,
            items: frame.batch.items,
            bytes,
            began_ns: monotonic_ns(),
            open: 1,
            lost: None,
        });
        self.sent.push(piece.clone());
        Some(piece)
    }

    fn settled(&mut self, id: PieceId, verdict: Verdict) {
        let Some(at) = self.sent.iter().position(|piece| piece.id() == id) else {
            return;
        };
        let piece = self.sent.swap_remove(at);
        let Some(at) = self.flight.iter().position(|f| f.id == id.frame) else {
            return;
        };
        if let Some(outgoing) = &piece.outgoing {
            self.settled_message(at, &outgoing.message.topic, verdict);
            return;
        }
        let Some(flight) = self.flight.get_mut(at) else {
            return;
        };
        let verdict = match verdict {
            Verdict::TooLarge(why) => match piece.halves() {
                Some((one, two)) => {
                    log::debug!("uplink mqtt: {id} goes out in two pieces: {why}");
                    flight.open += 1;
                    self.cut.push_front(two);
                    self.cut.push_front(one);
                    return;
                }
                None => Verdict::Condemned(why),
            },
            verdict => verdict,
        };
        flight.open = flight.open.saturating_sub(1);
        match verdict {
            Verdict::Again(why) => {
                let again = delivery::Verdict::Retry { after: None, why };
                self.finish(at, Some(again));
            }
            Verdict::Refused(reason) => {
                let refused = delivery::Verdict::Refuse { reason };
                self.finish(at, Some(refused));
            }
            Verdict::Condemned(reason) | Verdict::TooLarge(reason) => {
                log::warn!("uplink mqtt: gave up {id}: {reason}");
                flight.lost = Some(reason);
                self.finish(at, None);
            }
            Verdict::Delivered => self.finish(at, None),
        }
    }

    fn suspect(&mut self, id: PieceId) -> Option<Verdict> {
        let before = self.suspect.filter(|(suspect, _)| *suspect == id);
        let times = before.map_or(0, |(_, times)| times).saturating_add(1);
        self.suspect = Some((id, times));
        if times < HUNG_UP || self.gave_up {
            return None;
        }
        self.suspect = None;
        self.gave_up = true;
        Some(Verdict::Condemned(format!(
            "the broker closed {times} connections over it and gave no reason"
        )))
    }

    fn look(&mut self) {
        self.show();
    }
}
