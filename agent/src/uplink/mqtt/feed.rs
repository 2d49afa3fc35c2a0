//! Between a connection and the spool: asks `delivery` which lane is next,
//! takes frames, settles them, publishes the status, says what changed.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::link::Frames;
use super::piece::{Piece, PieceId};
use super::reason::{End, Reaction};
use super::session::Verdict;
use crate::clock::Clock;
use crate::config::UplinkName;
use crate::frame::{Frame, FrameId, Signal, Signals, Stamp};
use crate::spool::{Lane, Outcome, Pending, Spool};
use crate::status::UplinkStatus;
use crate::trace;
use crate::uplink::attempts::Attempts;
use crate::uplink::delivery::{self, Change, Delivery, Step};
use crate::uplink::dial::Wire;

/// The spool said that something waits and then had nothing: no asking again
/// before news or this.
const DRY: Duration = Duration::from_millis(250);

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
    lane: Lane,
    dry: bool,
    /// Frames given out and not settled. As many as the window at most.
    flight: Vec<Flight>,
    /// Their pieces on the way; the bodies are shared with what was sent.
    sent: Vec<Piece>,
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
    /// Pieces without a verdict.
    open: u32,
    /// Why a piece of it was given up.
    lost: Option<String>,
}

impl<S: Store> Feed<S> {
    pub(super) fn new(
        store: S,
        clock: Clock,
        delivery: Delivery,
        wire: Arc<Wire>,
        status: watch::Sender<UplinkStatus>,
        attempts: Attempts,
    ) -> Self {
        Self {
            pending: store.pending(),
            store,
            clock,
            delivery,
            lane: Lane::Live,
            dry: false,
            flight: Vec::new(),
            sent: Vec::new(),
            cut: VecDeque::new(),
            wire,
            status,
            attempts,
            began: None,
        }
    }

    /// What to do next.
    pub(super) fn next(&mut self) -> Step {
        let pending = *self.pending.borrow_and_update();
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
        self.show();
    }

    /// An attempt or a connection ended. What was in flight goes back to the spool.
    pub(super) fn ended(&mut self, end: End) {
        self.store.link(false);
        self.flight.clear();
        self.sent.clear();
        self.cut.clear();
        self.dry = false;
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
            status.wire_sent_bytes = wire.sent();
            status.wire_received_bytes = wire.received();
            status.connections = wire.connections();
        });
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
                Step::WaitUntil(at) => {
                    let left = at.saturating_sub(self.clock.boot_ns());
                    sleep(Duration::from_nanos(left)).await;
                }
                Step::Connect | Step::Idle => {
                    if self.pending.changed().await.is_err() {
                        // The spool is gone; the end will be said by `Stop`.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    async fn take(&mut self, drain: bool) -> Option<Piece> {
        if let Some(piece) = self.cut.pop_front() {
            self.sent.push(piece.clone());
            return Some(piece);
        }
        let mut lane = self.lane;
        let mut frame = None;
        if drain {
            // A refusal still counts: what is held or put off stays for the next start.
            if self.delivery.is_down() {
                return None;
            }
            for either in [Lane::Live, Lane::Backlog] {
                if frame.is_none() {
                    lane = either;
                    frame = self.store.next(lane, self.delivery.free()).await;
                }
            }
        } else {
            frame = self.store.next(lane, self.delivery.signals()).await;
        }
        let Some(frame) = frame else {
            self.dry = true;
            return None;
        };
        let bytes = frame.batch.body.len();
        let now = self.clock.boot_ns();
        self.delivery.took(now, lane, frame.batch.signal, bytes);
        self.flight.push(Flight {
            id: frame.id,
            signal: frame.batch.signal,
            items: frame.batch.items,
            bytes,
            open: 1,
            lost: None,
        });
        let piece = Piece::whole(frame);
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

    fn look(&mut self) {
        self.show();
    }
}
