//! One MQTT connection, as a pure state machine: packets and `now` go in,
//! bytes to send and verdicts come out.
//!
//! It promises: never more publishes unacknowledged than both sides allow, nor
//! more than [`MAX_FLIGHT`] bytes of them; never a packet larger than the
//! broker takes; a frame is [`Verdict::Delivered`] only after its own PUBACK,
//! in whatever order those come; and silence ends the connection.
//!
//! ```text
//!  CONNECT ──► Connecting ──CONNACK 0──► Online ──leave()──► Leaving ──► Gone
//!                                        │ birth, frames      │ "stopped" acknowledged,
//!                                        │ pings              │ DISCONNECT
//! ```
//!
//! **Silence.** Counted from the last byte received, with K the keep-alive:
//! a PINGREQ at 0.9 K (also 0.9 K after the last packet sent, which is what the
//! broker counts), the end at 1.5 K. A link that swallows everything is so
//! noticed before two keep-alives have passed, however many bytes the kernel
//! still takes from us.
//!
//! `now` is the time since the connection began.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::packet::{self, Incoming, Limits, RECEIVE_MAXIMUM, Received, TooLarge, Words};
use super::piece::{Outgoing, Piece, PieceId};
use super::reason::{self, Answer, End, Reaction};
use super::topics::Topics;
use crate::config::Tls;
use crate::message::Qos;

/// Bytes of publishes that may be unacknowledged: what a lost link makes us
/// send again on a metered link, and about what a slow one holds in its buffers.
pub(super) const MAX_FLIGHT: usize = 256 * 1024;

/// A subscription that the broker refuses is asked for again after this long,
/// after twice as long each further time, and at least every hour: somebody may
/// have mended its access rules, and commands shall not wait for a lost link.
const ASK_AGAIN: Duration = Duration::from_secs(30);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// So many publishes go one by one while the bad one is looked for: messages
/// and telemetry, live and backlog take turns, and it may be the oldest of any.
const SINGLY: u8 = 8;

/// The most publishes in flight, whatever is configured: each costs a row.
const MAX_WINDOW: u16 = 256;

/// What stays the same over all connections of one uplink.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Client identifier.
    pub(super) client_id: String,
    /// Where messages go.
    pub(super) topics: Topics,
    /// Keep-alive.
    pub(super) keep_alive: Duration,
    /// Unacknowledged publishes at a time, before the broker's own limit.
    pub(super) window: u16,
    /// Seconds the broker may keep an undelivered telemetry message.
    pub(super) expiry: Option<u32>,
    /// How long CONNACK and each PUBACK may take.
    pub(super) timeout: Duration,
    /// What becomes of the session at the broker.
    pub(super) keep: Keep,
}

/// Whether the broker keeps a session between connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing: the spool is the session. Enough for whoever only publishes.
    Nothing,
    /// Subscriptions and messages for us, for so many seconds. What is sent
    /// *by* us still lives in the spool only.
    Seconds(u32),
}

/// What differs from one connection to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempt {
    /// User name and password.
    pub(super) login: Option<(String, String)>,
    /// Send no retained messages: an earlier connection was refused for them.
    pub(super) without_retain: bool,
    /// One publish at a time until [`SINGLY`] are acknowledged: an earlier connection ended over one it did not name.
    pub(super) one_by_one: bool,
    /// Ask for commands that long after CONNACK: earlier connections ended over it.
    pub(super) ask_after: Duration,
    /// The retained payloads, in order: birth, last will, clean end.
    pub(super) states: States,
    /// The server's name and our TLS files, to say what its alerts mean.
    pub(super) tls: Option<(String, Tls)>,
}

/// What stands on the state topic, as JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct States {
    /// After CONNACK.
    pub(super) online: Bytes,
    /// The broker's to publish when we vanish.
    pub(super) offline: Bytes,
    /// Before our own DISCONNECT.
    pub(super) stopped: Bytes,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Acknowledged.
    Delivered,
    /// Too large for this broker: cut it, or give it up for this reason.
    TooLarge(String),
    /// Will never be taken.
    Condemned(String),
    /// Not now: wait, then again.
    Again(String),
    /// Not on this topic until somebody changes something.
    Refused(String),
}

/// What a packet changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Connected; birth is on its way.
    Online,
    /// A piece of a frame is settled.
    Settled(PieceId, Verdict),
    /// A message came for us: its packet id (0 at QoS 0) and what it says.
    Arrived(u16, Result<Box<Received>, String>),
    /// Commands come, or why not.
    Subscribed(Result<(), String>),
}

/// The machine.
#[derive(Debug)]
pub(super) struct Session<'a> {
    plan: &'a Plan,
    attempt: &'a Attempt,
    phase: Phase,
    limits: Limits,
    keep_alive: Duration,
    flight: VecDeque<Flight>,
    /// A message at QoS 0 that is not written yet: nobody acknowledges it.
    unwritten: Option<PieceId>,
    flight_bytes: usize,
    last_pkid: u16,
    /// Publishes that still go one by one.
    singly: u8,
    heard: Duration,
    sent: Duration,
    /// A PINGREQ is unanswered.
    pinged: bool,
    ignored: u64,
    /// Packet ids of messages for us that wait for our acknowledgement.
    taken: Vec<u16>,
    /// Of the SUBSCRIBE that is unanswered, and when it was sent.
    asked: Option<(u16, Duration)>,
    /// When to ask for commands.
    ask_at: Option<Duration>,
    /// How often the broker refused them on this connection.
    refusals: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Online,
    /// Waiting for the acknowledgement of "stopped".
    Leaving,
    /// DISCONNECT is written.
    Gone,
}

#[derive(Debug)]
struct Flight {
    pkid: u16,
    /// `None`: a state message.
    piece: Option<PieceId>,
    /// It is a local program's message.
    message: bool,
    size: usize,
    sent: Duration,
}

impl<'a> Session<'a> {
    /// Begins at `now` = 0 by writing CONNECT.
    pub(super) fn begin(
        plan: &'a Plan,
        attempt: &'a Attempt,
        out: &mut BytesMut,
    ) -> Result<Self, End> {
        let hello = packet::Hello {
            client_id: &plan.client_id,
            keep_alive: u16::try_from(plan.keep_alive.as_secs()).unwrap_or(u16::MAX),
            keep_session: match plan.keep {
                Keep::Nothing => None,
                Keep::Seconds(seconds) => Some(seconds),
            },
            login: attempt.login.clone(),
            will: (&plan.topics.state, attempt.states.offline.clone()),
            retain: !attempt.without_retain,
        };
        packet::connect(hello, out)
            .map_err(|error| End::hold(format!("cannot make a CONNECT packet: {error}")))?;
        Ok(Self {
            plan,
            attempt,
            phase: Phase::Connecting,
            limits: Limits::default(),
            keep_alive: plan.keep_alive,
            flight: VecDeque::new(),
            unwritten: None,
            flight_bytes: 0,
            last_pkid: 0,
            singly: if attempt.one_by_one { SINGLY } else { 0 },
            heard: Duration::ZERO,
            sent: Duration::ZERO,
            pinged: false,
            ignored: 0,
            taken: Vec::new(),
            asked: None,
            ask_at: None,
            refusals: 0,
        })
    }

    /// Whether CONNACK has come and we are not leaving.
    pub(super) fn online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// Whether CONNACK has not come yet.
    pub(super) fn connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether our goodbye is under way or written.
    pub(super) fn leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Gone)
    }

    /// Whether DISCONNECT has been written.
    pub(super) fn gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether nothing waits for an acknowledgement.
    pub(super) fn idle(&self) -> bool {
        self.flight.is_empty() && self.unwritten.is_none()
    }

    /// Whether frames are unacknowledged; `Some`: which, if it is one alone and
    /// nothing else of ours was.
    pub(super) fn outstanding(&self) -> (bool, Option<PieceId>) {
        let mut all = self.flight.iter();
        let alone = match (all.next(), all.next(), self.asked) {
            (Some(flight), None, None) => flight.piece,
            _ => None,
        };
        (self.flight.iter().any(|f| f.piece.is_some()), alone)
    }

    /// Whether another frame may be sent now.
    pub(super) fn room(&self) -> bool {
        self.online()
            && self.unwritten.is_none()
            && self.flight.len() < usize::from(self.window())
            && self.flight_bytes < MAX_FLIGHT
    }

    fn window(&self) -> u16 {
        if self.singly > 0 {
            return 1;
        }
        self.plan
            .window
            .min(self.limits.receive_maximum)
            .clamp(1, MAX_WINDOW)
    }

    /// Bytes came in, whatever they are.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.pinged = false;
    }

    /// A packet came in.
    pub(super) fn received(
        &mut self,
        packet: Incoming,
        now: Duration,
        out: &mut BytesMut,
    ) -> Result<Option<Change>, End> {
        if self.phase == Phase::Connecting {
            return self.answered(packet, now, out).map(Some);
        }
        match packet {
            Incoming::PubAck { pkid, code, words } => self.acknowledged(pkid, code, &words, out),
            Incoming::PingResp => Ok(None),
            Incoming::Publish { pkid, qos, message } => self.arrived(pkid, qos, message, now, out),
            Incoming::SubAck { pkid, code, words } => self.subscribed(pkid, code, &words, now),
            Incoming::Disconnect { code, words } => self.dismissed(code, &words),
            Incoming::ConnAck { .. } => Err(End::retry(
                "the broker broke the protocol: a second CONNACK; trying again",
            )),
            Incoming::Unexpected(kind) => Err(End::retry(format!(
                "the broker broke the protocol: packet type {kind} was not asked for; trying again"
            ))),
        }
    }

    /// The first packet must be CONNACK.
    fn answered(
        &mut self,
        packet: Incoming,
        now: Duration,
        out: &mut BytesMut,
    ) -> Result<Change, End> {
        let Incoming::ConnAck {
            code,
            session_present,
            limits,
            words,
        } = packet
        else {
            return Err(not_mqtt());
        };
        if code != 0 {
            return Err(reason::of_refusal(code, &words));
        }
        if session_present && self.plan.keep == Keep::Nothing {
            // MQTT-3.2.2-2 and 3.2.2-4: close.
            return Err(End::retry(
                "the broker broke the protocol: it kept a session that it was asked to forget; \
                 trying again",
            ));
        }
        if limits.qos == 0 {
            return Err(End::hold(
                "the broker offers QoS 0 only, without which nothing is acknowledged; use a \
                 broker or a listener with QoS 1",
            ));
        }
        self.limits = limits;
        if let Some(seconds) = limits.keep_alive {
            self.keep_alive = self.keep_alive.min(Duration::from_secs(seconds.into()));
        }
        self.phase = Phase::Online;
        self.announce(self.attempt.states.online.clone(), now, out);
        if self.plan.keep != Keep::Nothing {
            self.ask_at = Some(now + self.attempt.ask_after);
            self.ask(now, out)?;
        }
        Ok(Change::Online)
    }

    /// Asks for commands if it is time. At each connection: the broker may
    /// have lost the session, and the answer shows whether it still lets us.
    fn ask(&mut self, now: Duration, out: &mut BytesMut) -> Result<(), End> {
        if self.phase != Phase::Online || self.ask_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.ask_at = None;
        let pkid = self.next_pkid();
        self.last_pkid = pkid;
        self.asked = Some((pkid, now));
        self.sent = now;
        packet::subscribe(&self.plan.topics.commands, pkid, out)
            .map_err(|error| End::hold(format!("cannot make a SUBSCRIBE packet: {error}")))
    }

    /// A refusal costs the commands, never the telemetry.
    fn subscribed(
        &mut self,
        pkid: u16,
        code: u8,
        words: &Words,
        now: Duration,
    ) -> Result<Option<Change>, End> {
        if self.asked.take().map(|(pkid, _)| pkid) != Some(pkid) {
            return Err(End::retry(
                "the broker broke the protocol: SUBACK for what was not asked; trying again",
            ));
        }
        let pause = pause(self.refusals);
        let granted = match code {
            1 => Ok(()),
            // What it would send could be lost on the way, and could not be acknowledged.
            0 | 2 => Err(format!(
                "the broker grants {} at QoS {code} instead of 1; asked again in {} s",
                self.plan.topics.commands,
                pause.as_secs()
            )),
            _ => Err(reason::sentence(
                &format!("the broker refused to send {}", self.plan.topics.commands),
                code,
                words,
                &format!(
                    "check its access rules for this client; asked again in {} s",
                    pause.as_secs()
                ),
            )),
        };
        if granted.is_err() {
            self.refusals = self.refusals.saturating_add(1);
            self.ask_at = Some(now + pause);
        }
        Ok(Some(Change::Subscribed(granted)))
    }

    /// Whether the broker owes us the answer about commands.
    pub(super) fn asking(&self) -> bool {
        self.asked.is_some()
    }

    /// A message came. It is ours to acknowledge when [`take_in`](Self::take_in) is called.
    fn arrived(
        &mut self,
        pkid: u16,
        qos: u8,
        message: Result<Box<Received>, String>,
        now: Duration,
        out: &mut BytesMut,
    ) -> Result<Option<Change>, End> {
        if self.leaving() {
            // Not acknowledged: it comes again when we are back.
            return Ok(None);
        }
        let below = self.plan.topics.commands.trim_end_matches('+');
        let ours = message.as_ref().is_ok_and(|m| m.topic.starts_with(below));
        let unreadable = message.is_err();
        if self.plan.keep == Keep::Nothing || qos > 1 || !(ours || unreadable) {
            // Some brokers subscribe clients by themselves. Take it politely, or it is sent for ever.
            self.ignored = self.ignored.saturating_add(1);
            if self.ignored == 1 {
                log::warn!(
                    "mqtt: the broker sends messages that nobody here subscribed to; they are ignored"
                );
            }
            if qos == 1 {
                packet::acknowledge(pkid, out);
                self.sent = now;
            }
            return Ok(None);
        }
        if qos == 1 {
            if self.taken.contains(&pkid) {
                // It has been handed on; one acknowledgement is for both.
                return Ok(None);
            }
            self.taken.push(pkid);
        }
        Ok(Some(Change::Arrived(pkid, message)))
    }

    /// Whether more messages for us may be read. The broker was told how many
    /// it may send before we acknowledge; not every broker heeds it (mosquitto
    /// 2.0.11 does not in a burst), and then it waits on the wire.
    pub(super) fn has_room_in(&self) -> bool {
        self.taken.len() < usize::from(RECEIVE_MAXIMUM)
    }

    /// Acknowledges a message that is safe now.
    pub(super) fn take_in(&mut self, pkid: u16, now: Duration, out: &mut BytesMut) {
        let at = self.taken.iter().position(|taken| *taken == pkid);
        if let Some(at) = at
            && matches!(self.phase, Phase::Online | Phase::Leaving)
        {
            if !self.has_room_in() {
                // Nothing was read meanwhile, and that was not the broker's silence.
                self.heard = now;
                self.pinged = false;
                self.flight.iter_mut().for_each(|flight| flight.sent = now);
                self.asked = self.asked.map(|(pkid, _)| (pkid, now));
            }
            self.taken.swap_remove(at);
            packet::acknowledge(pkid, out);
            self.sent = now;
        }
    }

    /// Puts a payload on the state topic; `false`: the broker would not take it.
    fn announce(&mut self, payload: Bytes, now: Duration, out: &mut BytesMut) -> bool {
        let pkid = self.next_pkid();
        let retain = self.limits.retain && !self.attempt.without_retain;
        let limit = self.limits.packet_size;
        match packet::state(&self.plan.topics.state, payload, pkid, retain, limit, out) {
            Ok(size) => {
                self.launched(pkid, None, size, now);
                true
            }
            Err(TooLarge { size, limit }) => {
                log::warn!(
                    "mqtt: the state message has {size} bytes, the broker takes {limit}; going on without"
                );
                false
            }
        }
    }

    /// Appends a piece's PUBLISH to `out`. Call only while there is [`room`](Self::room).
    /// `Some`: it was not sent, and this is why.
    pub(super) fn publish(
        &mut self,
        piece: &Piece,
        now: Duration,
        out: &mut BytesMut,
    ) -> Option<Verdict> {
        if let Some(outgoing) = &piece.outgoing {
            return self.publish_message(piece, outgoing, now, out);
        }
        let Some(topic) = self.plan.topics.telemetry(piece.frame.batch.signal) else {
            return Some(Verdict::Condemned(format!(
                "{} have no MQTT telemetry topic",
                piece.frame.batch.signal.as_str()
            )));
        };
        let pkid = self.next_pkid();
        let limit = self.limits.packet_size;
        match packet::telemetry(piece, topic, pkid, self.plan.expiry, limit, out) {
            Ok(size) => {
                self.launched(pkid, Some((piece.id(), false)), size, now);
                None
            }
            Err(TooLarge { size, limit }) => Some(Verdict::TooLarge(format!(
                "as an MQTT packet it has {size} bytes, the broker takes at most {limit}; raise \
                 the broker's limit or shorten batch.length"
            ))),
        }
    }

    fn publish_message(
        &mut self,
        piece: &Piece,
        outgoing: &Outgoing,
        now: Duration,
        out: &mut BytesMut,
    ) -> Option<Verdict> {
        // Better not kept by the broker than not delivered at all.
        let retain = self.limits.retain && !self.attempt.without_retain;
        let pkid = self.next_pkid();
        let limit = self.limits.packet_size;
        match packet::own_message(piece, outgoing, pkid, retain, limit, out) {
            Ok(_) if outgoing.message.qos == Qos::AtMostOnce => {
                self.sent = now;
                self.unwritten = Some(piece.id());
                None
            }
            Ok(size) => {
                self.launched(pkid, Some((piece.id(), true)), size, now);
                None
            }
            Err(TooLarge { size, limit }) => Some(Verdict::TooLarge(format!(
                "as an MQTT packet the message has {size} bytes, the broker takes at most {limit}"
            ))),
        }
    }

    /// All bytes are with the kernel: a message at QoS 0 that is delivered by that.
    pub(super) fn written(&mut self) -> Option<PieceId> {
        self.unwritten.take()
    }

    /// `piece`: with whether it is a local program's message; `None`: a state message.
    fn launched(&mut self, pkid: u16, piece: Option<(PieceId, bool)>, size: usize, now: Duration) {
        self.last_pkid = pkid;
        self.sent = now;
        self.flight_bytes += size;
        self.flight.push_back(Flight {
            pkid,
            piece: piece.map(|(id, _)| id),
            message: piece.is_some_and(|(_, message)| message),
            size,
            sent: now,
        });
    }

    /// The next packet identifier that is not in flight. At most [`MAX_WINDOW`]
    /// and a state message are, so one is found at once.
    fn next_pkid(&self) -> u16 {
        let mut pkid = self.last_pkid;
        loop {
            pkid = pkid.checked_add(1).unwrap_or(1);
            let asked = self.asked.is_some_and(|(asked, _)| asked == pkid);
            if !asked && !self.flight.iter().any(|flight| flight.pkid == pkid) {
                return pkid;
            }
        }
    }

    fn acknowledged(
        &mut self,
        pkid: u16,
        code: u8,
        words: &Words,
        out: &mut BytesMut,
    ) -> Result<Option<Change>, End> {
        let at = self.flight.iter().position(|flight| flight.pkid == pkid);
        let Some(flight) = at.and_then(|at| self.flight.remove(at)) else {
            return Err(End::retry(format!(
                "the broker broke the protocol: it acknowledged message {pkid}, which was not in flight; trying again"
            )));
        };
        self.flight_bytes = self.flight_bytes.saturating_sub(flight.size);
        let refused = |what: &str| reason::sentence(what, code, words, "");
        let Some(id) = flight.piece else {
            if code >= 0x80 {
                log::warn!("mqtt: {}", refused("the broker refused the state message"));
            }
            if self.phase == Phase::Leaving {
                self.disconnect(out);
            }
            return Ok(None);
        };
        let (answer, advice) = if flight.message {
            let advice = "check its access rules for this client and that topic";
            (reason::of_message(code), advice)
        } else {
            let advice = "check its access rules for this client and uplink.mqtt.topic_prefix";
            (reason::of_publish(code), advice)
        };
        let verdict = match answer {
            Answer::Delivered => {
                self.singly = self.singly.saturating_sub(1);
                Verdict::Delivered
            }
            Answer::TooLarge => Verdict::TooLarge(refused("the broker refused the message")),
            Answer::Condemned => Verdict::Condemned(refused("the broker refused the message")),
            Answer::Again => Verdict::Again(refused("the broker put the message off")),
            Answer::Hold => Verdict::Refused(reason::sentence(
                "the broker refused to take a message",
                code,
                words,
                advice,
            )),
        };
        Ok(Some(Change::Settled(id, verdict)))
    }

    fn dismissed(&self, code: u8, words: &Words) -> Result<Option<Change>, End> {
        let mut end = reason::of_disconnect(code, words);
        if self.asking() && matches!(code, 0x87 | 0x8f | 0xa2) {
            // The commands are what it will not have; telemetry need not wait for that.
            end.reaction = Reaction::Retry;
            return Err(end);
        }
        // A topic that a local program chose must not hold everything else.
        let by_topic = matches!(code, 0x87 | 0x90) && self.flight.iter().any(|f| f.message);
        if by_topic {
            end.reaction = Reaction::OneByOne;
        }
        if end.reaction == Reaction::OneByOne {
            let mut frames = self.flight.iter().filter(|flight| flight.piece.is_some());
            match (frames.next(), frames.next()) {
                (None, _) => end.reaction = Reaction::Retry,
                (Some(flight), None) => {
                    end.reaction = Reaction::Retry;
                    let text = reason::sentence(
                        "the broker ended the connection over it",
                        code,
                        words,
                        "",
                    );
                    let verdict = match code {
                        0x87 => Verdict::Refused(text),
                        _ => Verdict::Condemned(text),
                    };
                    end.blame = flight.piece.map(|id| (id, verdict));
                    if code == 0x87 {
                        return Err(end);
                    }
                    end.text = reason::sentence(
                        "the broker ended the connection over this message",
                        code,
                        words,
                        "the message is given up, trying again with the others",
                    );
                }
                _ => {}
            }
        }
        Err(end)
    }

    /// Says goodbye: "stopped" on the state topic, and DISCONNECT once that is
    /// acknowledged. Call when [`idle`](Self::idle).
    pub(super) fn leave(&mut self, now: Duration, out: &mut BytesMut) {
        if !self.online() {
            return;
        }
        self.phase = Phase::Leaving;
        if !self.announce(self.attempt.states.stopped.clone(), now, out) {
            self.disconnect(out);
        }
    }

    fn disconnect(&mut self, out: &mut BytesMut) {
        packet::disconnect(packet::NORMAL, out);
        self.phase = Phase::Gone;
    }

    /// Does what is due at `now`: ping, or end.
    pub(super) fn tick(&mut self, now: Duration, out: &mut BytesMut) -> Result<(), End> {
        let timeout = self.plan.timeout;
        if self.phase == Phase::Connecting {
            if now >= timeout {
                return Err(End::retry(format!(
                    "the broker took the connection but did not answer CONNECT within {} s; check \
                     that the port speaks MQTT, trying again",
                    timeout.as_secs()
                )));
            }
            return Ok(());
        }
        self.ask(now, out)?;
        if !self.has_room_in() {
            // We do not listen: whatever is missing may be there.
        } else if now >= self.silence_ends() {
            return Err(End::retry(format!(
                "nothing came from the broker for {} s; the link is dead, trying again",
                now.saturating_sub(self.heard).as_secs()
            )));
        } else if self.flight.front().is_some_and(|f| now >= f.sent + timeout) {
            return Err(End::retry(format!(
                "the broker did not acknowledge a message within {} s; trying again",
                timeout.as_secs()
            )));
        } else if self.asked.is_some_and(|(_, at)| now >= at + timeout) {
            return Err(End::retry(format!(
                "the broker did not answer SUBSCRIBE within {} s; trying again",
                timeout.as_secs()
            )));
        }
        if now >= self.ping_at() {
            packet::ping(out);
            self.pinged = true;
            self.sent = now;
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(super) fn wake_at(&self) -> Duration {
        if self.phase == Phase::Connecting {
            return self.plan.timeout;
        }
        let ask_at = self.ask_at.filter(|_| self.online());
        let next = self.ping_at().min(ask_at.unwrap_or(Duration::MAX));
        if !self.has_room_in() {
            return next;
        }
        let oldest = self.flight.front().map(|f| f.sent);
        let asked = self.asked.map(|(_, at)| at);
        let next = self.silence_ends().min(next);
        let waiting = [oldest, asked].into_iter().flatten();
        waiting.fold(next, |next, sent| next.min(sent + self.plan.timeout))
    }

    fn silence_ends(&self) -> Duration {
        self.heard + self.keep_alive * 3 / 2
    }

    /// One unanswered ping is enough: a second could only queue behind it.
    fn ping_at(&self) -> Duration {
        if !self.has_room_in() {
            // Its answer would not be read; the broker must hear of us all the same.
            return self.sent + self.keep_alive * 9 / 10;
        }
        if self.pinged {
            return Duration::MAX;
        }
        self.heard.min(self.sent) + self.keep_alive * 9 / 10
    }
}

/// How long to wait before commands are asked for again.
pub(super) fn pause(refusals: u32) -> Duration {
    let pause = ASK_AGAIN.saturating_mul(2u32.saturating_pow(refusals));
    pause.min(ASK_AGAIN_MAX)
}

/// The other side closed the connection.
pub(super) fn closed(connecting: bool) -> End {
    if connecting {
        return End::retry(
            "closed by the other side before it answered CONNECT; check that the port is an MQTT 5 \
             listener and whether it wants TLS, trying again",
        );
    }
    End {
        hung_up: true,
        ..End::retry("the broker closed the connection; trying again")
    }
}

/// What answered is not a broker.
pub(super) fn not_mqtt() -> End {
    End::retry(
        "the answer to CONNECT is not MQTT 5; check host, port and whether TLS is needed, trying \
         again",
    )
}
