//! Decides what an uplink does next.
//!
//! Pure: the shell says what happened and what time it is (`now`, always
//! `boot_ns`), and asks [`Delivery::next`] what to do. No socket, clock or
//! frame is known here. Both uplinks drive this one machine:
//!
//! ```text
//!            connected            settled(Delivered)
//!   away ──────────────► linked ────────────────────► up
//!    ▲                     │                           │
//!    └── failed: backoff ──┴────────── failed ─────────┘
//!
//!   held opens the circuit: the data stays, and one frame at a time
//!   probes at the longest backoff until the server takes one.
//! ```
//!
//! Apart from the link, each signal has a circuit of its own: a collector that
//! takes no logs must not keep the metrics from it. settled(Refuse) opens that
//! one; the others go on, and one frame of it probes at the longest backoff. If
//! no signal is taken, that is one refusal: the probes take turns, and the first
//! that is taken lets all of them try at once.
//!
//! What it promises: waits are random parts of a growing whole, never longer
//! than the longest backoff unless the server asked for it; live data goes
//! before backlog, one for one; the backlog keeps its byte rate; and a server
//! that refuses everything gets no chance to empty the spool.

use std::time::Duration;

use crate::config;
use crate::frame::{Signal, Signals};
use crate::spool::{Lane, Pending};
use crate::status::{HeldStatus, UplinkStatus};

use super::pace::{Bucket, Random, Rate, nanos};

/// The shortest wait after a failure: a full-jitter wait can be zero, and a
/// refused connection costs microseconds, so it would spin.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// The longest a server can put us off with Retry-After.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Condemned in a row, with nothing delivered between, before the circuit
/// opens. A few bad frames are bad frames; a server that refuses ten of ten is
/// the wrong server, and it must not empty the backlog.
const CONDEMNED_IN_A_ROW: u32 = 10;

/// A connection that ends sooner, without a word about any frame, was never
/// one: connecting again at once would spin.
const CLOSED_AT_ONCE_NS: u64 = SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;

/// Local programs' messages.
const MESSAGES: Signals = Signals::NONE.with(Signal::Message);

/// What the other side made of a frame, named by what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has it. Settle as delivered.
    Delivered {
        /// Items that it took note of but will not keep (OTLP partial success).
        rejected_items: u64,
    },
    /// Not now. Return the frame and back off.
    Retry {
        /// The least wait that the server asked for.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// Too large: send it in parts. A frame that has no parts is condemned.
    Split,
    /// Never. Settle as condemned.
    Condemn {
        /// Why.
        reason: String,
    },
    /// Not before somebody mends credentials, configuration or the server.
    /// Return the frame and open the circuit.
    Hold {
        /// Why, and what to do.
        reason: String,
    },
    /// Not now, and only this message: its topic is refused. It waits; the rest goes on.
    Aside {
        /// What happened.
        why: String,
    },
    /// The same, as the answer to one frame: nothing is known about other signals.
    Refuse {
        /// Why, and what to do.
        reason: String,
    },
}

/// What the shell does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a connection. An uplink that needs none while nothing waits may leave it.
    Connect,
    /// Take a frame from this lane and send it.
    Send(Lane),
    /// Nothing before this moment (`boot_ns`).
    WaitUntil(u64),
    /// Nothing until a frame is stored or an event comes in.
    Idle,
}

/// What an operator should hear of, once each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The other side takes data (again).
    Up {
        /// How long it did not; `None`: the first time since the start.
        after: Option<Duration>,
    },
    /// It does not; we try again by ourselves.
    Down {
        /// Why.
        why: String,
    },
    /// It refuses us; a person has to act. Nothing is lost meanwhile.
    Held {
        /// Why, and what to do.
        reason: String,
    },
    /// It refuses one signal, and takes others.
    SignalHeld {
        /// Which.
        signal: Signal,
        /// Why, and what to do.
        reason: String,
    },
    /// It takes a signal again that it refused.
    SignalTaken {
        /// Which.
        signal: Signal,
    },
}

/// What the circuit of the whole uplink turned to; [`Change`] says why it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first probe since it opened is out.
    HalfOpen,
    /// The other side takes data again.
    Closed,
}

/// The circuit in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Switch {
    #[default]
    Closed,
    Open,
    /// One frame is out to see.
    HalfOpen,
}

/// What is counted of link and circuit, in the order of [`Figures::turned`].
const TRANSITIONS: [&str; 5] = ["up", "down", "open", "half_open", "closed"];

/// One word for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Data goes out.
    Up,
    /// No answer yet, and no failure.
    Connecting,
    /// Backing off.
    Waiting,
    /// Held: the circuit is open.
    Open,
    /// Nothing to do and no connection.
    Idle,
}

/// The state of one uplink's delivery.
#[derive(Debug)]
pub struct Delivery {
    settings: config::Delivery,
    random: Random,
    link: Link,
    circuit: Circuit,
    /// Failures in a row, for the backoff.
    failures: u32,
    /// No attempt and no send before this moment.
    not_before: u64,
    condemned_in_a_row: [u32; Signal::ALL.len()],
    holds: [Option<Hold>; Signal::ALL.len()],
    /// Signals that a frame was sent of.
    seen: Signals,
    /// What the next frame may be.
    giving: Signals,
    /// The lane that was served last while both waited.
    last_lane: Lane,
    /// Telemetry was sent last: a message is next, if one waits.
    messages_next: bool,
    bucket: Bucket,
    rate: Rate,
    shown: Shown,
    figures: Figures,
    /// Not yet taken by [`Delivery::take_turns`]: at most one of each kind.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Away,
    /// Connected since then; `answered`: it has said anything about a frame.
    Linked {
        since: u64,
        answered: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Circuit {
    Closed,
    /// One frame at a time may go out; `probing`: it is out. `by_data`: it came
    /// after the connection was accepted, so only a delivered frame ends it.
    Open {
        probing: bool,
        by_data: bool,
    },
}

/// A signal's own open circuit.
#[derive(Clone, Debug)]
struct Hold {
    since: u64,
    /// Refused last.
    refused: u64,
    /// No frame of it before this moment.
    not_before: u64,
    probing: bool,
    reason: String,
}

/// What was announced last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Up,
    Down { since: u64 },
    Held { since: u64, reason: String },
}

/// What keeps data here, as the status counts it.
const FAILURES: [&str; 6] = ["link", "retry", "hold", "refuse", "aside", "condemn"];

/// An index into [`FAILURES`].
#[derive(Clone, Copy, Debug)]
enum Failure {
    Link,
    Retry,
    Hold,
    Refuse,
    Aside,
    Condemn,
}

#[derive(Debug, Default)]
struct Figures {
    state_since: u64,
    state: Option<State>,
    last_ack: Option<u64>,
    acked_frames: u64,
    acked_items: u64,
    rejected_items: u64,
    condemned_frames: u64,
    retries: u64,
    attempts: u64,
    failures: [u64; FAILURES.len()],
    round_trip: Option<Duration>,
    last_error: Option<(u64, String)>,
    up: bool,
    switch: Switch,
    /// A probe was announced since the circuit opened.
    probed: bool,
    turned: [u64; TRANSITIONS.len()],
}

impl Delivery {
    /// Starts disconnected. `seed` makes this device's waits its own.
    pub fn new(settings: config::Delivery, seed: u64, now: u64) -> Self {
        Self {
            bucket: Bucket::new(settings.backlog_rate, now),
            settings,
            random: Random(seed),
            link: Link::Away,
            circuit: Circuit::Closed,
            failures: 0,
            not_before: now,
            condemned_in_a_row: Default::default(),
            holds: Default::default(),
            seen: Signals::NONE,
            giving: Signals::ALL,
            last_lane: Lane::Backlog,
            messages_next: true,
            rate: Rate::default(),
            shown: Shown::Nothing,
            figures: Figures {
                state_since: now,
                ..Figures::default()
            },
            turns: Vec::new(),
        }
    }

    /// What to do now. After `Send`, take a frame of one of
    /// [`Delivery::signals`], report with [`Delivery::took`] what the
    /// lane gave, and later with [`Delivery::settled`] what became of it.
    pub fn next(&mut self, now: u64, pending: Pending) -> Step {
        self.giving = self.free();
        self.rate.observe(now, pending.of(self.giving).backlog > 0);
        let step = self.decide(now, pending);
        self.note_state(now);
        step
    }

    /// The next frame shall be a message, if one waits.
    pub fn prefer_message(&mut self) {
        self.messages_next = true;
    }

    /// What the frame may be that the last [`Step::Send`] asked for.
    pub fn signals(&self) -> Signals {
        self.giving
    }

    /// The signals that are not held.
    pub fn free(&self) -> Signals {
        self.holds()
            .fold(Signals::ALL, |free, (signal, _)| free.without(signal))
    }

    /// Whether a frame waits that may go out now.
    pub fn has_work(&self, now: u64, pending: Pending) -> bool {
        let free = pending.of(self.free());
        free.live + free.backlog > 0 || self.probe(now, pending).is_some()
    }

    fn decide(&mut self, now: u64, pending: Pending) -> Step {
        if now < self.not_before {
            return Step::WaitUntil(self.not_before);
        }
        if self.link == Link::Away {
            return Step::Connect;
        }
        if matches!(self.circuit, Circuit::Open { probing: true, .. }) {
            return Step::Idle;
        }
        if let Some(signal) = self.probe(now, pending) {
            self.giving = Signals::NONE.with(signal);
            // The oldest: each probe is then the same frame.
            let old = pending.of(self.giving).backlog > 0;
            return Step::Send(if old { Lane::Backlog } else { Lane::Live });
        }
        let waiting = pending.of(MESSAGES);
        if self.giving.contains(Signal::Message) && waiting.live + waiting.backlog > 0 {
            // Messages and telemetry take turns, and either has the link to
            // itself while the other has nothing to send.
            self.giving = self.giving.without(Signal::Message);
            let rest = if self.messages_next {
                Step::Idle
            } else {
                self.decide_telemetry(now, pending)
            };
            if !matches!(rest, Step::Send(_)) {
                self.giving = MESSAGES;
                return Step::Send(Lane::Backlog);
            }
            return rest;
        }
        self.decide_telemetry(now, pending)
    }

    fn decide_telemetry(&mut self, now: u64, pending: Pending) -> Step {
        let next_probe = self.next_probe(pending);
        let pending = pending.of(self.giving);
        match (pending.live > 0, pending.backlog > 0) {
            (false, false) => next_probe.map_or(Step::Idle, Step::WaitUntil),
            (true, false) => Step::Send(Lane::Live),
            (live, true) => {
                let paced = self.bucket.ready_at(now);
                let backlog_turn = !live || self.last_lane == Lane::Live;
                match paced {
                    None if backlog_turn => Step::Send(Lane::Backlog),
                    _ if live => Step::Send(Lane::Live),
                    Some(at) => Step::WaitUntil(at),
                    None => Step::Send(Lane::Backlog),
                }
            }
        }
    }

    /// A frame of this many body bytes was taken from the lane and is on its way.
    pub fn took(&mut self, now: u64, lane: Lane, signal: Signal, bytes: usize) {
        self.seen = self.seen.with(signal);
        self.figures.attempts += 1;
        if let Some(hold) = self.hold_mut(signal) {
            hold.probing = true;
        }
        self.messages_next = signal != Signal::Message;
        if signal == Signal::Message {
            // Paced where programs hand them in.
        } else if lane == Lane::Backlog {
            self.last_lane = lane;
            self.bucket.take(now, bytes);
        } else {
            self.last_lane = lane;
        }
        if let Circuit::Open { probing, .. } = &mut self.circuit {
            *probing = true;
        }
        self.note_state(now);
    }

    /// From handing a frame over to hearing that it was delivered.
    pub fn round_trip(&mut self, took: Duration) {
        self.figures.round_trip = Some(took);
    }

    fn count(&mut self, failure: Failure) {
        if let Some(count) = self.figures.failures.get_mut(failure as usize) {
            *count += 1;
        }
    }

    /// Nothing could be taken from the lane, whatever the figures say: a disk may
    /// not give what it has. The others have their turn meanwhile.
    pub fn vain(&mut self, lane: Lane) {
        let messages = self.giving == MESSAGES;
        self.messages_next = !messages;
        if !messages {
            self.last_lane = lane;
        }
    }

    /// What the circuit turned to since this was asked last, for whoever announces it.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// A connection was made. After an outage the first send waits a random
    /// part of `first_send_jitter`, so that a fleet does not stampede.
    pub fn connected(&mut self, now: u64) {
        self.link = Link::Linked {
            since: now,
            answered: false,
        };
        let after_outage = matches!(self.shown, Shown::Down { .. } | Shown::Held { .. });
        if after_outage {
            let jitter = self.random.part_of(self.settings.first_send_jitter);
            self.not_before = self.not_before.max(later(now, jitter));
        }
        self.unprobe();
        self.note_state(now);
    }

    /// The other side said yes to us (an MQTT CONNACK, an HTTP success). Where
    /// it refused us after such a yes, only a delivered frame counts; and it is
    /// not up while it refuses every signal.
    pub fn answered(&mut self, now: u64) -> Option<Change> {
        if matches!(self.circuit, Circuit::Open { by_data: false, .. }) {
            self.circuit = Circuit::Closed;
        }
        if self.refuses_all() {
            return None;
        }
        let change = match (&self.shown, &self.circuit) {
            (Shown::Up, _) | (_, Circuit::Open { .. }) => None,
            (Shown::Nothing, _) => Some(Change::Up { after: None }),
            (Shown::Down { since } | Shown::Held { since, .. }, _) => Some(Change::Up {
                after: Some(Duration::from_nanos(now.saturating_sub(*since))),
            }),
        };
        if change.is_some() {
            self.shown = Shown::Up;
        }
        self.note_state(now);
        change
    }

    /// The connection ended while nothing was under way. An idle keep-alive
    /// that the server closed is nobody's fault: connect again when there is
    /// something to send. One that was closed as soon as it was made is a failure.
    pub fn closed(&mut self, now: u64) -> Option<Change> {
        let Link::Linked { since, answered } = self.link else {
            return None;
        };
        if !answered && now.saturating_sub(since) < CLOSED_AT_ONCE_NS {
            return self.failed(now, "the server closed the connection at once", None);
        }
        self.part(now);
        None
    }

    /// An attempt to connect, or the connection, failed. Frames in flight were returned.
    pub fn failed(&mut self, now: u64, why: &str, after: Option<Duration>) -> Option<Change> {
        // A connection that held for longer than any backoff was a good one: start afresh.
        if let Link::Linked { since, .. } = self.link
            && self.shown == Shown::Up
            && now.saturating_sub(since) > nanos(self.settings.backoff.1)
        {
            self.failures = 0;
        }
        self.count(Failure::Link);
        self.link = Link::Away;
        self.back_off(now, why, after)
    }

    /// Credentials or configuration are wrong, on our side or in the server's
    /// eyes. Frames in flight were returned. `linked`: the connection lives on.
    pub fn held(&mut self, now: u64, reason: &str, linked: bool) -> Option<Change> {
        let by_data = self.link != Link::Away;
        self.count(Failure::Hold);
        if !linked {
            self.link = Link::Away;
        }
        self.circuit = Circuit::Open {
            probing: false,
            by_data,
        };
        self.unprobe();
        self.failures = self.failures.saturating_add(1);
        self.note_error(now, reason);
        self.not_before = self.probe_at(now);
        let known = matches!(&self.shown, Shown::Held { reason: shown, .. } if shown == reason);
        let since = match self.shown {
            Shown::Down { since } | Shown::Held { since, .. } => since,
            Shown::Up | Shown::Nothing => now,
        };
        self.shown = Shown::Held {
            since,
            reason: reason.to_owned(),
        };
        self.note_state(now);
        (!known).then(|| Change::Held {
            reason: reason.to_owned(),
        })
    }

    /// Somebody touched a credential or the configuration: probe at once.
    pub fn mended(&mut self, now: u64) {
        if matches!(self.circuit, Circuit::Open { .. }) {
            self.not_before = now;
        }
        self.try_holds(now);
    }

    /// What became of a frame that was taken. `linked`: the connection is
    /// still good (it answered, or the verdict did not need one).
    pub fn settled(
        &mut self,
        now: u64,
        signal: Signal,
        verdict: &Verdict,
        items: u32,
        bytes: usize,
        linked: bool,
    ) -> Option<Change> {
        self.unprobe();
        if let Link::Linked { answered, .. } = &mut self.link {
            *answered = true;
        }
        match verdict {
            Verdict::Delivered { rejected_items } => {
                self.failures = 0;
                if let Some(condemned) = self.condemned_mut(signal) {
                    *condemned = 0;
                }
                self.circuit = Circuit::Closed;
                let all = self.refuses_all();
                let released = self.holds.get_mut(slot(signal)).and_then(Option::take);
                if all {
                    self.try_holds(now);
                }
                self.rate.delivered(bytes);
                let figures = &mut self.figures;
                figures.last_ack = Some(now);
                figures.acked_frames += 1;
                figures.acked_items += u64::from(items).saturating_sub(*rejected_items);
                figures.rejected_items += rejected_items;
                let change = self.answered(now);
                if !linked {
                    self.part(now);
                }
                change.or_else(|| released.map(|_| Change::SignalTaken { signal }))
            }
            Verdict::Retry { after, why } => {
                self.figures.retries += 1;
                if linked {
                    self.count(Failure::Retry);
                    self.back_off(now, why, *after)
                } else {
                    self.failed(now, why, *after)
                }
            }
            Verdict::Aside { why } => {
                self.figures.retries += 1;
                self.count(Failure::Aside);
                self.note_error(now, why);
                if !linked {
                    self.part(now);
                }
                None
            }
            Verdict::Split => {
                if !linked {
                    self.part(now);
                }
                None
            }
            Verdict::Condemn { reason } => {
                self.figures.condemned_frames += 1;
                self.count(Failure::Condemn);
                self.note_error(now, reason);
                let row = self.condemned_mut(signal).map_or(0, |row| {
                    *row = row.saturating_add(1);
                    *row
                });
                // Each message is another program's: ten bad ones say nothing about the broker.
                if row >= CONDEMNED_IN_A_ROW && signal != Signal::Message {
                    let reason = format!(
                        "refuses everything it is sent of {} ({reason}); check that endpoint and paths lead to the right server",
                        signal.as_str()
                    );
                    return self.refused(now, signal, &reason, linked);
                }
                if !linked {
                    self.part(now);
                }
                None
            }
            Verdict::Hold { reason } => {
                self.figures.retries += 1;
                self.held(now, reason, linked)
            }
            Verdict::Refuse { reason } => {
                self.figures.retries += 1;
                self.count(Failure::Refuse);
                self.refused(now, signal, reason, linked)
            }
        }
    }

    /// One signal is refused by a server that answers.
    fn refused(&mut self, now: u64, signal: Signal, reason: &str, linked: bool) -> Option<Change> {
        self.failures = 0;
        self.circuit = Circuit::Closed;
        self.note_error(now, reason);
        let not_before = self.probe_at(now);
        let before = self.holds.get_mut(slot(signal))?;
        let known = before.as_ref().is_some_and(|hold| hold.reason == reason);
        let since = before.as_ref().map_or(now, |hold| hold.since);
        *before = Some(Hold {
            since,
            refused: now,
            not_before,
            probing: false,
            reason: reason.to_owned(),
        });
        let all = self.refuses_all();
        if all {
            // One refusal, not one for each signal: whose turn is next waits as long.
            let held = self.holds.iter_mut().flatten();
            held.for_each(|hold| hold.not_before = hold.not_before.max(not_before));
            if !matches!(self.shown, Shown::Held { .. }) {
                let since = match self.shown {
                    Shown::Down { since } => since,
                    _ => now,
                };
                self.shown = Shown::Held {
                    since,
                    reason: reason.to_owned(),
                };
            }
        }
        if !linked {
            self.part(now);
        }
        self.note_state(now);
        let reason = reason.to_owned();
        match (known, all) {
            (true, _) => None,
            (false, true) => Some(Change::Held { reason }),
            (false, false) => Some(Change::SignalHeld { signal, reason }),
        }
    }

    /// Whether each signal that was ever sent is held.
    fn refuses_all(&self) -> bool {
        let free = self.free();
        let mut seen = Signal::ALL.into_iter().filter(|s| self.seen.contains(*s));
        !self.seen.is_empty() && seen.all(|signal| !free.contains(signal))
    }

    /// The held signal whose turn it is to probe.
    fn probe(&self, now: u64, pending: Pending) -> Option<Signal> {
        if self.holds().any(|(_, hold)| hold.probing) {
            return None;
        }
        let waiting = self.waiting_holds(pending);
        let due = waiting.filter(|(_, hold)| hold.not_before <= now);
        due.min_by_key(|(_, hold)| hold.refused)
            .map(|(signal, _)| signal)
    }

    /// When the next probe is due; `None`: nothing held waits, or one is out.
    fn next_probe(&self, pending: Pending) -> Option<u64> {
        if self.holds().any(|(_, hold)| hold.probing) {
            return None;
        }
        let waiting = self.waiting_holds(pending);
        waiting.map(|(_, hold)| hold.not_before).min()
    }

    fn waiting_holds(&self, pending: Pending) -> impl Iterator<Item = (Signal, &Hold)> {
        self.holds().filter(move |(signal, _)| {
            let part = pending.signals.get(slot(*signal));
            part.is_some_and(|part| part.live + part.backlog > 0)
        })
    }

    fn holds(&self) -> impl Iterator<Item = (Signal, &Hold)> {
        let all = Signal::ALL.into_iter().zip(&self.holds);
        all.filter_map(|(signal, hold)| Some((signal, hold.as_ref()?)))
    }

    fn hold_mut(&mut self, signal: Signal) -> Option<&mut Hold> {
        self.holds.get_mut(slot(signal))?.as_mut()
    }

    fn condemned_mut(&mut self, signal: Signal) -> Option<&mut u32> {
        self.condemned_in_a_row.get_mut(slot(signal))
    }

    /// Whatever they waited for may have happened.
    fn try_holds(&mut self, now: u64) {
        let held = self.holds.iter_mut().flatten();
        held.for_each(|hold| hold.not_before = now);
    }

    /// At least half of the longest: probing is for finding out, not for pressing.
    fn probe_at(&mut self, now: u64) -> u64 {
        let longest = self.settings.backoff.1;
        let wait = longest / 2 + self.random.part_of(longest / 2);
        later(now, wait.max(MIN_WAIT))
    }

    /// What the status shows of it; the caller adds name, endpoint, pending and wire figures.
    pub fn report(&self, now: u64, pending: Pending, status: &mut UplinkStatus) {
        let ago = |at: u64| now.saturating_sub(at) as f64 / SECOND_NS as f64;
        let figures = &self.figures;
        status.state = self.state(now).as_str().to_owned();
        status.as_of_boot_ns = now;
        status.since_s = ago(figures.state_since);
        status.down_s = match self.shown {
            Shown::Down { since } | Shown::Held { since, .. } => Some(ago(since)),
            Shown::Nothing | Shown::Up => None,
        };
        status.required = self.settings.required;
        status.last_ack_s = figures.last_ack.map(ago);
        status.acked_frames = figures.acked_frames;
        status.acked_items = figures.acked_items;
        status.rejected_items = figures.rejected_items;
        status.condemned_frames = figures.condemned_frames;
        status.retries = figures.retries;
        status.attempts = figures.attempts;
        let failures = FAILURES.iter().zip(figures.failures);
        let failures = failures.filter(|(_, count)| *count > 0);
        status.failures = failures
            .map(|(it, count)| ((*it).to_owned(), count))
            .collect();
        status.round_trip_s = figures.round_trip.map(|took| took.as_secs_f64());
        status.pending_frames = pending.live.saturating_add(pending.backlog);
        status.pending_items = pending.items;
        status.pending_bytes = pending.bytes;
        status.drain_eta_s = self.drain_eta_s(now, pending);
        let next = if self.refuses_all() {
            self.next_probe(pending).unwrap_or_default()
        } else {
            0
        };
        let next = next.max(self.not_before);
        status.next_attempt_s = (next > now).then(|| (next - now) as f64 / SECOND_NS as f64);
        let held = self.holds().map(|(signal, hold)| HeldStatus {
            signal: signal.as_str().to_owned(),
            reason: hold.reason.clone(),
            since_s: ago(hold.since),
            pending_items: pending
                .signals
                .get(slot(signal))
                .map_or(0, |part| part.items),
        });
        status.held = held.collect();
        status.up = figures.up;
        status.circuit = figures.switch.as_str().to_owned();
        let counted = TRANSITIONS.iter().zip(figures.turned);
        let counted = counted.filter(|(_, count)| *count > 0);
        status.transitions = counted
            .map(|(it, count)| ((*it).to_owned(), count))
            .collect();
        status.last_error = figures.last_error.as_ref().map(|(_, why)| why.clone());
        status.last_error_s = figures.last_error.as_ref().map(|(at, _)| ago(*at));
    }

    /// What it is doing.
    pub fn state(&self, now: u64) -> State {
        if self.circuit != Circuit::Closed || self.refuses_all() {
            State::Open
        } else if now < self.not_before && self.failures > 0 {
            State::Waiting
        } else {
            match (&self.shown, self.link) {
                (Shown::Up, _) => State::Up,
                (Shown::Nothing, Link::Away) => State::Idle,
                _ => State::Connecting,
            }
        }
    }

    /// Whether a circuit is open, which is when [`Delivery::mended`] is of use.
    pub fn is_held(&self) -> bool {
        self.circuit != Circuit::Closed || self.holds().next().is_some()
    }

    /// Whether the last thing the other side did was to fail or refuse us.
    pub fn is_down(&self) -> bool {
        matches!(self.shown, Shown::Down { .. } | Shown::Held { .. })
    }

    /// Seconds until the backlog is gone at the present rate; `None`: none waits, or not known yet.
    fn drain_eta_s(&self, now: u64, pending: Pending) -> Option<f64> {
        let pending = pending.of(self.free());
        if pending.backlog == 0 || self.shown != Shown::Up {
            return None;
        }
        let rate = self.rate.bytes_a_second(now)?;
        Some((pending.bytes as f64 / rate).max(0.0))
    }

    fn part(&mut self, now: u64) {
        self.link = Link::Away;
        self.unprobe();
        self.note_state(now);
    }

    fn back_off(&mut self, now: u64, why: &str, after: Option<Duration>) -> Option<Change> {
        self.unprobe();
        self.note_error(now, why);
        let (first, longest) = self.settings.backoff;
        let whole = if self.circuit == Circuit::Closed {
            first
                .saturating_mul(1 << self.failures.min(20))
                .min(longest)
        } else {
            longest
        };
        self.failures = self.failures.saturating_add(1);
        let wait = self.random.part_of(whole).max(MIN_WAIT.min(longest));
        let asked = after.unwrap_or_default().min(MAX_RETRY_AFTER);
        // Everyone was told the same moment; the jitter keeps them apart after it.
        let wait = if asked > wait {
            asked + self.random.part_of(first)
        } else {
            wait
        };
        self.not_before = later(now, wait);
        let change = match self.shown {
            Shown::Up | Shown::Nothing => {
                self.shown = Shown::Down { since: now };
                Some(Change::Down {
                    why: why.to_owned(),
                })
            }
            Shown::Down { .. } | Shown::Held { .. } => None,
        };
        self.note_state(now);
        change
    }

    fn unprobe(&mut self) {
        if let Circuit::Open { probing, .. } = &mut self.circuit {
            *probing = false;
        }
        let held = self.holds.iter_mut().flatten();
        held.for_each(|hold| hold.probing = false);
    }

    fn note_error(&mut self, now: u64, why: &str) {
        self.figures.last_error = Some((now, why.to_owned()));
    }

    fn note_state(&mut self, now: u64) {
        let state = self.state(now);
        if self.figures.state != Some(state) {
            self.figures.state = Some(state);
            self.figures.state_since = now;
        }
        let up = self.shown == Shown::Up;
        if self.figures.up != up {
            self.figures.up = up;
            self.count_transition(if up { "up" } else { "down" });
        }
        let switch = self.switch();
        if self.figures.switch == switch {
            return;
        }
        self.figures.switch = switch;
        self.count_transition(switch.as_str());
        let turn = match switch {
            Switch::Open => None,
            Switch::HalfOpen => (!self.figures.probed).then_some(Turn::HalfOpen),
            Switch::Closed => Some(Turn::Closed),
        };
        self.figures.probed = switch != Switch::Closed && (self.figures.probed || turn.is_some());
        if let Some(turn) = turn.filter(|turn| !self.turns.contains(turn)) {
            self.turns.push(turn);
        }
    }

    fn count_transition(&mut self, name: &str) {
        let counts = TRANSITIONS.iter().zip(&mut self.figures.turned);
        for (_, count) in counts.filter(|(it, _)| **it == name) {
            *count += 1;
        }
    }

    fn switch(&self) -> Switch {
        let held = match self.circuit {
            Circuit::Open { probing, .. } => Some(probing),
            Circuit::Closed => self
                .refuses_all()
                .then(|| self.holds().any(|(_, hold)| hold.probing)),
        };
        match held {
            None => Switch::Closed,
            Some(false) => Switch::Open,
            Some(true) => Switch::HalfOpen,
        }
    }
}

impl Switch {
    fn as_str(self) -> &'static str {
        match self {
            Switch::Closed => "closed",
            Switch::Open => "open",
            Switch::HalfOpen => "half_open",
        }
    }
}

impl State {
    /// As in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Connecting => "connecting",
            State::Waiting => "waiting",
            State::Open => "open",
            State::Idle => "idle",
        }
    }
}

/// A signal's place in arrays.
fn slot(signal: Signal) -> usize {
    usize::from(signal as u8).saturating_sub(1)
}

fn later(now: u64, by: Duration) -> u64 {
    now.saturating_add(nanos(by))
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
