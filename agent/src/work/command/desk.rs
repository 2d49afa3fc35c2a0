//! What becomes of each command: decides, remembers, counts. Pure: messages,
//! ends and `now` go in, decisions come out; `shell` performs them, and calls
//! in the order that makes them safe:
//!
//! ```text
//! weigh ─ New ──► accept, start ─ synced ─► PUBACK, answer "received"
//!   │                                        └► the program starts, answer "running"
//!   ├─ Again ──► answer as it stands             └► done ─ synced ─► the answer
//!   └─ Refused ► answer, if not too many were
//! ```
//!
//! **One write before the PUBACK.** It says that the program may have been
//! started. A record that says less would have to be run after a restart; but a
//! write that was reported as failed, and was answered `unavailable`, can be on
//! disk all the same. This one is answered `interrupted` then, and not run.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::decode::{self, Code, Command, Places, Refused};
use crate::frame::{Stamp, TraceContext};
use crate::status::CommandsStatus;
use crate::uplink::mqtt::Received;
use crate::work::journal::{Arrival, Entry, Key, State};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// An answer is remembered that long at least, however short the command's expiry.
const REMEMBER_MIN_NS: u64 = 10 * MINUTE_NS;

/// Commands remembered at once, whatever their size.
const MAX_ENTRIES: usize = 8192;

/// What stays for answers of commands that are accepted already.
const ANSWER_ROOM: usize = 8 * 1024;

/// Refusals and repeats that are answered: so many at once, then one each
/// [`REPLY_EVERY_NS`]. Ten thousand bad commands must not fill the outbox.
const REPLY_BURST: u64 = 20;
const REPLY_EVERY_NS: u64 = SECOND_NS;

/// Refusals that are known again when the broker repeats the message.
const REFUSALS: usize = 64;

/// A program that takes the agent down with it must not do so for ever.
const MAX_STARTS: u8 = 3;

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Commands that may be accepted in a minute; as many at once.
    pub(crate) per_minute: u32,
    /// Accepted commands that are not over.
    pub(crate) concurrent: usize,
    /// How long an answer is remembered, in nanoseconds; less if the command expires.
    pub(crate) remember_ns: u64,
    /// Bytes that the journal may have on disk. What is remembered may have a
    /// quarter of them: its file has twice that before it is written anew, and
    /// then there are two for a moment.
    pub(crate) quota: u64,
}

impl Limits {
    fn bytes(&self) -> usize {
        usize::try_from(self.quota / 4).unwrap_or(usize::MAX)
    }
}

/// The first decision about a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Weighed {
    /// A new command: ask whether its job may run, then [`Desk::accept`] it.
    New(Box<Command>),
    /// It is known: say again how it stands.
    Again(u64),
    /// Nothing is run; who asked is told.
    Refused(Box<Refused>),
    /// Nothing is run and nothing is said; it is counted.
    Nothing,
}

/// What a command that was found at the start needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Run it: its job is idempotent.
    Run,
    /// It may have been started, and not twice: say so.
    Interrupted,
    /// It is over; its answer may not have been sent.
    Answer,
}

/// The desk that commands come to.
#[derive(Debug)]
pub(crate) struct Desk {
    places: Places,
    limits: Limits,
    /// This boot.
    boot: [u8; 16],
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
    next: u64,
    rate: Bucket,
    replies: Bucket,
    refused: VecDeque<(String, Key, u64)>,
    counts: CommandsStatus,
}

impl Desk {
    /// One that remembers nothing.
    pub(crate) fn new(places: Places, limits: Limits, boot: [u8; 16]) -> Self {
        let per_minute = u64::from(limits.per_minute.max(1));
        Self {
            places,
            limits,
            boot,
            entries: BTreeMap::new(),
            bytes: 0,
            next: 1,
            rate: Bucket::new(per_minute, MINUTE_NS / per_minute),
            replies: Bucket::new(REPLY_BURST, REPLY_EVERY_NS),
            refused: VecDeque::new(),
            counts: CommandsStatus::default(),
        }
    }

    /// Goes on by other rules.
    pub(crate) fn reconfigure(&mut self, places: Places, limits: Limits) {
        if limits.per_minute != self.limits.per_minute {
            let per_minute = u64::from(limits.per_minute.max(1));
            self.rate = Bucket::new(per_minute, MINUTE_NS / per_minute);
        }
        self.places = places;
        self.limits = limits;
    }

    /// Takes over what was found on disk and says what each one needs, oldest
    /// first.
    pub(crate) fn recover(
        &mut self,
        found: Vec<Entry>,
        now: Stamp,
        trusted: bool,
        idempotent: impl Fn(&str) -> bool,
    ) -> Vec<(u64, Resume)> {
        // How far each boot is known to have come.
        let mut lasted: BTreeMap<[u8; 16], u64> = BTreeMap::new();
        for entry in &found {
            let started = match &entry.state {
                State::Started { at, .. } => at.boot_ns,
                _ => 0,
            };
            let last = lasted.entry(entry.arrival.boot).or_default();
            *last = (*last).max(entry.arrival.at.boot_ns).max(started);
        }
        let mut needs = Vec::new();
        // None was acknowledged: whoever sent it sends it again, or was told no.
        let found = found
            .into_iter()
            .filter(|entry| entry.state != State::Received);
        for mut entry in found {
            let last = lasted.get(&entry.arrival.boot).copied().unwrap_or(0);
            let came = entry.arrival.at.boot_ns;
            let boot = entry.arrival.boot;
            entry.arrival = self.rebased(entry.arrival, last, now, trusted);
            if entry.arrival.boot != boot {
                rebase_times(&mut entry, came, now);
            }
            let again = entry.starts < MAX_STARTS && idempotent(&entry.job);
            let need = match &entry.state {
                State::Done { posted: true, .. } => None,
                State::Done { .. } => Some(Resume::Answer),
                _ if again && !is_expired(&entry, now) => Some(Resume::Run),
                _ => Some(Resume::Interrupted),
            };
            needs.extend(need.map(|need| (entry.id, need)));
            self.next = self.next.max(entry.id.saturating_add(1));
            self.put(entry);
        }
        needs
    }

    /// An arrival of an earlier boot in terms of this one.
    fn rebased(&self, arrival: Arrival, last: u64, now: Stamp, trusted: bool) -> Arrival {
        // An unreadable boot id is all zero and no boot's.
        if arrival.boot == self.boot && self.boot != [0; 16] {
            return arrival;
        }
        // What it lived to see then, and what this boot has lasted.
        let lived = last.saturating_sub(arrival.at.boot_ns);
        let lived = arrival.age_ns.saturating_add(lived);
        let lived = lived.saturating_add(now.boot_ns);
        let both = trusted && arrival.trusted && !arrival.unsure;
        // A named exception: between two boots there is no other clock.
        let by_wall = now.unix_ns.saturating_sub(arrival.at.unix_ns);
        let by_wall = arrival.age_ns.saturating_add(by_wall);
        Arrival {
            boot: self.boot,
            at: now,
            trusted,
            age_ns: if both { lived.max(by_wall) } else { lived },
            unsure: !both,
        }
    }

    /// What a message is. `pkid`: its packet id, 0 at QoS 0.
    pub(crate) fn weigh(&mut self, received: Received, pkid: u16, now: Stamp) -> Weighed {
        self.counts.received += 1;
        if received.retain {
            // It was meant for whoever was there then.
            *self
                .counts
                .refused
                .entry("retained".to_owned())
                .or_default() += 1;
            return Weighed::Nothing;
        }
        let command = match decode::decode(received, pkid, &self.places) {
            Ok(command) => command,
            Err(refused) => return self.refuse(refused, now),
        };
        let no = |code, words: String, command: Command| {
            Box::new(Refused {
                code,
                words,
                back: command.back,
            })
        };
        match self.known(&command) {
            Some((id, true)) => {
                self.counts.repeated += 1;
                return if self.may_reply(now) {
                    Weighed::Again(id)
                } else {
                    Weighed::Nothing
                };
            }
            Some((_, false)) => {
                let words =
                    "its correlation data came with another command before; nothing was run"
                        .to_owned();
                return self.refuse(no(Code::Conflict, words, command), now);
            }
            None => {}
        }
        if command.dup && self.was_refused(&command) {
            self.counts.repeated += 1;
            return Weighed::Nothing;
        }
        if let Some((code, words)) = self.no_room(&command, now) {
            self.remember_refusal(&command);
            return self.refuse(no(code, words, command), now);
        }
        Weighed::New(Box::new(command))
    }

    /// Why a new command cannot be taken.
    fn no_room(&mut self, command: &Command, now: Stamp) -> Option<(Code, String)> {
        if command.expiry == Some(0) {
            return Some((Code::Expired, "its time was up when it came".to_owned()));
        }
        let in_flight = self.in_flight();
        if in_flight >= self.limits.concurrent {
            let words =
                format!("{in_flight} commands are under way, commands.concurrent allows no more");
            return Some((Code::TooMany, words));
        }
        self.forget_old(now);
        let wanted = command.payload.len() + 1024 + (in_flight + 1) * ANSWER_ROOM;
        if self.bytes + wanted > self.limits.bytes() || self.entries.len() >= MAX_ENTRIES {
            let words = format!(
                "{} commands are remembered, commands.journal has no room for more; let commands \
                 expire sooner, or set commands.remember shorter or commands.journal larger",
                self.entries.len()
            );
            return Some((Code::Unavailable, words));
        }
        if !self.rate.take(now.boot_ns) {
            let words = format!(
                "more than {} commands a minute (commands.per_minute)",
                self.limits.per_minute
            );
            return Some((Code::TooMany, words));
        }
        None
    }

    /// Its entry, and whether it is truly the same.
    fn known(&self, command: &Command) -> Option<(u64, bool)> {
        let mut latest = self.entries.values().rev();
        let found = latest.find(|entry| {
            let same = entry.key == command.key && entry.response_topic == command.back.topic;
            same && match command.key {
                Key::Named(_) => true,
                Key::Unnamed(pkid) => pkid != 0 && command.dup && entry.digest == command.digest,
            }
        })?;
        let same = found.digest == command.digest && found.job == command.back.job;
        Some((found.id, same))
    }

    fn was_refused(&self, command: &Command) -> bool {
        let mut refused = self.refused.iter();
        refused.any(|(topic, key, digest)| {
            *topic == command.back.topic && *key == command.key && *digest == command.digest
        })
    }

    /// A command that was refused shall not run because the broker sends it
    /// again after the connection broke.
    pub(crate) fn remember_refusal(&mut self, command: &Command) {
        let key = command.key.clone();
        self.refused
            .push_back((command.back.topic.clone(), key, command.digest));
        if self.refused.len() > REFUSALS {
            self.refused.pop_front();
        }
    }

    /// Counts a refusal, and says whether it is answered.
    pub(crate) fn refuse(&mut self, refused: Box<Refused>, now: Stamp) -> Weighed {
        let code = refused.code.as_str().to_owned();
        *self.counts.refused.entry(code).or_default() += 1;
        if self.may_reply(now) {
            Weighed::Refused(refused)
        } else {
            Weighed::Nothing
        }
    }

    fn may_reply(&mut self, now: Stamp) -> bool {
        let may = self.replies.take(now.boot_ns);
        self.counts.unanswered += u64::from(!may);
        may
    }

    /// Takes a command in. It counts once its entry is on disk.
    pub(crate) fn accept(&mut self, command: Command, now: Stamp, trusted: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        self.counts.accepted += 1;
        self.put(Entry {
            id,
            key: command.key,
            job: command.back.job,
            digest: command.digest,
            arrival: Arrival {
                boot: self.boot,
                at: now,
                trusted,
                age_ns: 0,
                unsure: false,
            },
            expiry: command.expiry,
            response_topic: command.back.topic,
            arguments: command.payload,
            carried: command.back.carried,
            state: State::Received,
            starts: 0,
        });
        id
    }

    /// An accepted command could not be written down: it never was.
    pub(crate) fn drop_unwritten(&mut self, id: u64) {
        if self.take(id).is_some() {
            self.counts.accepted = self.counts.accepted.saturating_sub(1);
            let code = Code::Unavailable.as_str().to_owned();
            *self.counts.refused.entry(code).or_default() += 1;
        }
    }

    /// Its program is about to start; gives back how it stood. `None`: its time is up.
    pub(crate) fn start(
        &mut self,
        id: u64,
        process: TraceContext,
        run: Option<TraceContext>,
        now: Stamp,
    ) -> Option<State> {
        let entry = self.entries.get_mut(&id)?;
        if is_expired(entry, now) {
            return None;
        }
        entry.starts = entry.starts.saturating_add(1);
        let started = State::Started {
            process,
            run,
            at: now,
        };
        Some(std::mem::replace(&mut entry.state, started))
    }

    /// That could not be written down: it stands as `before`.
    pub(crate) fn not_started(&mut self, id: u64, before: State) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.starts = entry.starts.saturating_sub(1);
            entry.state = before;
        }
    }

    /// The span of its run has ended, or never began: no other process need tell of it.
    pub(crate) fn run_told(&mut self, id: u64) {
        if let Some(Entry {
            state: State::Started { run, .. },
            ..
        }) = self.entries.get_mut(&id)
        {
            *run = None;
        }
    }

    /// Whether its time is up.
    pub(crate) fn is_expired(&self, id: u64, now: Stamp) -> bool {
        self.entry(id).is_some_and(|entry| is_expired(entry, now))
    }

    /// It is over.
    pub(crate) fn done(
        &mut self,
        id: u64,
        answer: Bytes,
        process: Option<TraceContext>,
        now: Stamp,
    ) {
        if let Some(mut entry) = self.take(id) {
            let (run, began) = match &mut entry.state {
                State::Started { run, at, .. } => (run.take(), *at),
                _ => (None, now),
            };
            entry.arguments = Bytes::new();
            entry.state = State::Done {
                answer,
                process,
                posted: false,
                run,
                times: (began, now),
            };
            self.put(entry);
        }
    }

    /// Its answer is in the outbox.
    pub(crate) fn posted(&mut self, id: u64) {
        if let Some(Entry {
            state: State::Done { posted, .. },
            ..
        }) = self.entries.get_mut(&id)
        {
            *posted = true;
        }
    }

    /// A command.
    pub(crate) fn entry(&self, id: u64) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All of them, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Accepted and not over.
    fn in_flight(&self) -> usize {
        let open = |entry: &&Entry| !matches!(entry.state, State::Done { .. });
        self.entries.values().filter(open).count()
    }

    /// Forgets what is over and old enough. A restart may bring it back.
    pub(crate) fn forget_old(&mut self, now: Stamp) {
        let remember = self.limits.remember_ns;
        let old = |entry: &Entry| {
            let expiry = entry.expiry.map(|s| u64::from(s).saturating_mul(SECOND_NS));
            let least = REMEMBER_MIN_NS.min(remember);
            let life = expiry.map_or(remember, |expiry| expiry.clamp(least, remember));
            matches!(entry.state, State::Done { posted: true, .. }) && entry.age_ns(now) >= life
        };
        self.entries.retain(|_, entry| !old(entry));
        self.bytes = self.entries.values().map(Entry::size).sum();
    }

    /// What the status shows; the shell adds what it knows.
    pub(crate) fn counts(&self) -> CommandsStatus {
        CommandsStatus {
            under_way: self.in_flight() as u64,
            remembered: self.entries.len() as u64,
            remembered_bytes: self.bytes as u64,
            remembered_limit_bytes: self.limits.bytes() as u64,
            ..self.counts.clone()
        }
    }

    fn put(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.entries.insert(entry.id, entry);
    }

    fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(entry.size());
        Some(entry)
    }
}

/// Times of another boot in terms of this one. `came`: when it came, by the
/// other boot's clock.
fn rebase_times(entry: &mut Entry, came: u64, now: Stamp) {
    let start = entry.came_unix_ns();
    let rebase = |at: &mut Stamp| {
        let after = at.boot_ns.saturating_sub(came);
        *at = Stamp {
            unix_ns: start.saturating_add(after).min(now.unix_ns),
            boot_ns: now.boot_ns,
        };
    };
    match &mut entry.state {
        State::Received => {}
        State::Started { at, .. } => rebase(at),
        State::Done { times, .. } => {
            rebase(&mut times.0);
            rebase(&mut times.1);
        }
    }
}

/// Of a command whose age is not known for sure, only what never expires is run.
fn is_expired(entry: &Entry, now: Stamp) -> bool {
    entry.expiry.is_some_and(|seconds| {
        let life = u64::from(seconds).saturating_mul(SECOND_NS);
        entry.arrival.unsure || entry.age_ns(now) >= life
    })
}

/// So many at once, then one each interval.
#[derive(Debug)]
struct Bucket {
    interval_ns: u64,
    burst_ns: u64,
    /// What was taken is paid for at this moment.
    paid_at: u64,
}

impl Bucket {
    fn new(burst: u64, interval_ns: u64) -> Self {
        Self {
            interval_ns,
            burst_ns: burst.saturating_mul(interval_ns),
            paid_at: 0,
        }
    }

    fn take(&mut self, now: u64) -> bool {
        let paid_at = self.paid_at.max(now).saturating_add(self.interval_ns);
        let may = paid_at - now <= self.burst_ns;
        if may {
            self.paid_at = paid_at;
        }
        may
    }
}
