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
//!   settled(Hold) opens the circuit: the data stays, and one frame at a time
//!   probes at the longest backoff until the server takes one.
//! ```
//!
//! What it promises: waits are random parts of a growing whole, never longer
//! than the longest backoff unless the server asked for it; live data goes
//! before backlog, one for one; the backlog keeps its byte rate; and a server
//! that refuses everything gets no chance to empty the spool.

use std::time::Duration;

use crate::config;
use crate::spool::{Lane, Pending};
use crate::status::UplinkStatus;

/// The shortest wait after a failure: a full-jitter wait can be zero, and a
/// refused connection costs microseconds, so it would spin.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// The longest a server can put us off with Retry-After.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Condemned in a row, with nothing delivered between, before the circuit
/// opens. A few bad frames are bad frames; a server that refuses ten of ten is
/// the wrong server, and it must not empty the backlog.
const CONDEMNED_IN_A_ROW: u32 = 10;

/// The drain rate is a mean over about this long.
const RATE_WINDOW_NS: u64 = 60 * SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;

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
}

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
    condemned_in_a_row: u32,
    /// The lane that was served last while both waited.
    last_lane: Lane,
    bucket: Bucket,
    rate: Rate,
    shown: Shown,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Away,
    /// Connected since then.
    Linked(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Circuit {
    Closed,
    /// One frame at a time may go out; `probing`: it is out.
    Open {
        probing: bool,
    },
}

/// What was announced last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Up,
    Down { since: u64 },
    Held { since: u64, reason: String },
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
    last_error: Option<(u64, String)>,
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
            condemned_in_a_row: 0,
            last_lane: Lane::Backlog,
            rate: Rate::default(),
            shown: Shown::Nothing,
            figures: Figures {
                state_since: now,
                ..Figures::default()
            },
        }
    }

    /// What to do now. After `Send`, report with [`Delivery::took`] what the
    /// lane gave, and later with [`Delivery::settled`] what became of it.
    pub fn next(&mut self, now: u64, pending: Pending) -> Step {
        self.rate.observe(now, pending.backlog > 0);
        let step = self.decide(now, pending);
        self.note_state(now);
        step
    }

    fn decide(&mut self, now: u64, pending: Pending) -> Step {
        if now < self.not_before {
            return Step::WaitUntil(self.not_before);
        }
        if self.link == Link::Away {
            return Step::Connect;
        }
        if matches!(self.circuit, Circuit::Open { probing: true }) {
            return Step::Idle;
        }
        match (pending.live > 0, pending.backlog > 0) {
            (false, false) => Step::Idle,
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
    pub fn took(&mut self, now: u64, lane: Lane, bytes: usize) {
        self.last_lane = lane;
        if lane == Lane::Backlog {
            self.bucket.take(now, bytes);
        }
        if let Circuit::Open { probing } = &mut self.circuit {
            *probing = true;
        }
    }

    /// A connection was made. After an outage the first send waits a random
    /// part of `first_send_jitter`, so that a fleet does not stampede.
    pub fn connected(&mut self, now: u64) {
        self.link = Link::Linked(now);
        let after_outage = matches!(self.shown, Shown::Down { .. } | Shown::Held { .. });
        if after_outage {
            let jitter = self.random.part_of(self.settings.first_send_jitter);
            self.not_before = self.not_before.max(later(now, jitter));
        }
        self.unprobe();
        self.note_state(now);
    }

    /// The other side said yes to us (an MQTT CONNACK, an HTTP success).
    /// While the circuit is open only a delivered frame counts.
    pub fn answered(&mut self, now: u64) -> Option<Change> {
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

    /// The connection ended without anybody's fault (an idle keep-alive that
    /// the server closed): connect again when there is something to send.
    pub fn closed(&mut self, now: u64) {
        self.link = Link::Away;
        self.unprobe();
        self.note_state(now);
    }

    /// An attempt to connect, or the connection, failed. Frames in flight were returned.
    pub fn failed(&mut self, now: u64, why: &str, after: Option<Duration>) -> Option<Change> {
        // A connection that held for longer than any backoff was a good one: start afresh.
        if let Link::Linked(since) = self.link
            && self.shown == Shown::Up
            && now.saturating_sub(since) > nanos(self.settings.backoff.1)
        {
            self.failures = 0;
        }
        self.link = Link::Away;
        self.back_off(now, why, after)
    }

    /// Credentials or configuration are wrong, on our side or in the server's
    /// eyes. Frames in flight were returned. `linked`: the connection lives on.
    pub fn held(&mut self, now: u64, reason: &str, linked: bool) -> Option<Change> {
        if !linked {
            self.link = Link::Away;
        }
        self.circuit = Circuit::Open { probing: false };
        self.failures = self.failures.saturating_add(1);
        self.note_error(now, reason);
        let longest = self.settings.backoff.1;
        // At least half: probing is for finding out, not for pressing.
        let wait = longest / 2 + self.random.part_of(longest / 2);
        self.not_before = later(now, wait.max(MIN_WAIT));
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
    }

    /// What became of a frame that was taken. `linked`: the connection is
    /// still good (it answered, or the verdict did not need one).
    pub fn settled(
        &mut self,
        now: u64,
        verdict: &Verdict,
        items: u32,
        bytes: usize,
        linked: bool,
    ) -> Option<Change> {
        self.unprobe();
        match verdict {
            Verdict::Delivered { rejected_items } => {
                self.failures = 0;
                self.condemned_in_a_row = 0;
                self.circuit = Circuit::Closed;
                self.rate.delivered(bytes);
                let figures = &mut self.figures;
                figures.last_ack = Some(now);
                figures.acked_frames += 1;
                figures.acked_items += u64::from(items).saturating_sub(*rejected_items);
                figures.rejected_items += rejected_items;
                let change = self.answered(now);
                if !linked {
                    self.closed(now);
                }
                change
            }
            Verdict::Retry { after, why } => {
                self.figures.retries += 1;
                if linked {
                    self.back_off(now, why, *after)
                } else {
                    self.failed(now, why, *after)
                }
            }
            Verdict::Split => {
                if !linked {
                    self.closed(now);
                }
                None
            }
            Verdict::Condemn { reason } => {
                self.figures.condemned_frames += 1;
                self.condemned_in_a_row = self.condemned_in_a_row.saturating_add(1);
                self.note_error(now, reason);
                if self.condemned_in_a_row >= CONDEMNED_IN_A_ROW {
                    return self.held(
                        now,
                        &format!(
                            "refuses everything it is sent ({reason}); check that endpoint and paths lead to the right server"
                        ),
                        linked,
                    );
                }
                if !linked {
                    self.closed(now);
                }
                None
            }
            Verdict::Hold { reason } => {
                self.figures.retries += 1;
                self.held(now, reason, linked)
            }
        }
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
        status.pending_frames = pending.live.saturating_add(pending.backlog);
        status.pending_items = pending.items;
        status.pending_bytes = pending.bytes;
        status.drain_eta_s = self.drain_eta_s(now, pending);
        status.next_attempt_s =
            (self.not_before > now).then(|| (self.not_before - now) as f64 / SECOND_NS as f64);
        status.last_error = figures.last_error.as_ref().map(|(_, why)| why.clone());
        status.last_error_s = figures.last_error.as_ref().map(|(at, _)| ago(*at));
    }

    /// What it is doing.
    pub fn state(&self, now: u64) -> State {
        if self.circuit != Circuit::Closed {
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

    /// Whether the circuit is open, which is when [`Delivery::mended`] is of use.
    pub fn is_held(&self) -> bool {
        self.circuit != Circuit::Closed
    }

    /// Whether the last thing the other side did was to fail or refuse us.
    pub fn is_down(&self) -> bool {
        matches!(self.shown, Shown::Down { .. } | Shown::Held { .. })
    }

    /// Seconds until the backlog is gone at the present rate; `None`: none waits, or not known yet.
    fn drain_eta_s(&self, now: u64, pending: Pending) -> Option<f64> {
        if pending.backlog == 0 || self.shown != Shown::Up {
            return None;
        }
        let rate = self.rate.bytes_a_second(now)?;
        Some((pending.bytes as f64 / rate).max(0.0))
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
        if let Circuit::Open { probing } = &mut self.circuit {
            *probing = false;
        }
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

/// What an HTTP status means for the frame that was sent.
///
/// Departs from OTLP 1.11, which calls every 4xx but 429 final: only 400 and
/// 422 are about the data. The others are about us or the server, and one
/// expired token must not delete a fleet's backlog. `said` is what the server
/// gave as its reason; empty: nothing.
pub fn of_status(code: u16, retry_after: Option<Duration>, said: &str) -> Verdict {
    let answer = if said.is_empty() {
        format!("the server answered {code}")
    } else {
        format!("the server answered {code}: {said}")
    };
    let hold = |todo: &str| Verdict::Hold {
        reason: format!("{answer}; {todo}"),
    };
    match code {
        200..=299 => Verdict::Delivered { rejected_items: 0 },
        400 | 422 => Verdict::Condemn { reason: answer },
        413 => Verdict::Split,
        408 | 429 | 502 | 503 | 504 => Verdict::Retry {
            after: retry_after,
            why: answer,
        },
        300..=399 => hold("redirects are not followed: put the final address into `endpoint`"),
        401 => hold("renew the token in `headers_file` (it is read again by itself)"),
        403 => hold("the token or certificate lacks the right to write here"),
        404 | 405 => hold("check `endpoint` and the path of this signal"),
        407 => hold("a proxy in between wants credentials of its own"),
        415 => {
            hold("it does not take OTLP as gzipped protobuf: try `gzip = false`, check the path")
        }
        500..=599 => hold("the server is broken; see its log"),
        _ => hold("this is no answer an OTLP server gives: check `endpoint`"),
    }
}

/// Reads a Retry-After value: seconds, or a date, which is compared with the
/// server's own `Date` where it sent one, since our clock may be wrong.
///
/// Source: RFC 9110, 10.2.3 and 5.6.7 (IMF-fixdate only). Nonsense is `None`.
pub fn retry_after(value: &str, server_date: Option<&str>, unix_s: u64) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds still mean "long".
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let at = http_date(value)?;
    let from = server_date.and_then(http_date).unwrap_or(unix_s);
    Some(Duration::from_secs(at.saturating_sub(from)).min(MAX_RETRY_AFTER))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    let (_weekday, rest) = text.trim().split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = match words.next()? {
        "Jan" => 1,
        "Feb" => 2,
        "Mar" => 3,
        "Apr" => 4,
        "May" => 5,
        "Jun" => 6,
        "Jul" => 7,
        "Aug" => 8,
        "Sep" => 9,
        "Oct" => 10,
        "Nov" => 11,
        "Dec" => 12,
        _ => return None,
    };
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.splitn(3, ':');
    let mut part = |limit: u64| {
        time.next()?
            .parse::<u64>()
            .ok()
            .filter(|part| *part < limit)
    };
    let (hour, minute, second) = (part(24)?, part(60)?, part(61)?);
    if words.next() != Some("GMT") || !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    // Days since 1970-03-01 of a year that begins in March, so that the leap day comes last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    const TO_1970: u64 = 719_468;
    days.checked_sub(TO_1970)
        .map(|days| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// A token bucket that goes into debt: a frame's size is known only once it is
/// taken, so it may start as long as nothing is owed.
#[derive(Debug)]
struct Bucket {
    rate: Option<u64>,
    /// All that was taken is paid for at this moment.
    paid_at: u64,
}

impl Bucket {
    fn new(rate: Option<u64>, now: u64) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            paid_at: now,
        }
    }

    /// `None`: now.
    fn ready_at(&self, now: u64) -> Option<u64> {
        (self.rate.is_some() && self.paid_at > now).then_some(self.paid_at)
    }

    fn take(&mut self, now: u64, bytes: usize) {
        if let Some(rate) = self.rate {
            let cost = u128::from(SECOND_NS) * bytes as u128 / u128::from(rate);
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            self.paid_at = self.paid_at.max(now).saturating_add(cost);
        }
    }
}

/// How fast a backlog goes; measured only while one waits, since otherwise it
/// would be the rate of what comes in.
#[derive(Debug, Default)]
struct Rate {
    since: Option<u64>,
    bytes: u64,
}

impl Rate {
    fn observe(&mut self, now: u64, backlog: bool) {
        match (backlog, self.since) {
            (false, _) => *self = Self::default(),
            (true, None) => self.since = Some(now),
            (true, Some(since)) if now.saturating_sub(since) > 2 * RATE_WINDOW_NS => {
                // Halve both: the older half of the past is forgotten.
                self.since = Some(now - (now - since) / 2);
                self.bytes /= 2;
            }
            (true, Some(_)) => {}
        }
    }

    fn delivered(&mut self, bytes: usize) {
        if self.since.is_some() {
            self.bytes = self.bytes.saturating_add(bytes as u64);
        }
    }

    fn bytes_a_second(&self, now: u64) -> Option<f64> {
        let elapsed = now.checked_sub(self.since?)?;
        (elapsed >= SECOND_NS / 2 && self.bytes > 0)
            .then(|| self.bytes as f64 * SECOND_NS as f64 / elapsed as f64)
    }
}

/// SplitMix64: good enough to keep a fleet apart, and a test can seed it.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from zero to `whole`.
    fn part_of(&mut self, whole: Duration) -> Duration {
        let product = u128::from(nanos(whole)) * u128::from(self.next());
        Duration::from_nanos((product >> 64) as u64)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn later(now: u64, by: Duration) -> u64 {
    now.saturating_add(nanos(by))
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
