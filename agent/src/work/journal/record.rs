//! A command as it is remembered, and as it stands in the journal's file.
//!
//! Strings and bytes have a length u32 before them; what may be missing has a
//! byte 0 or 1 before it. Read back with every length checked.

use bytes::Bytes;

use crate::frame::{Stamp, TraceContext};
use crate::trace::propagation::Carried;

/// What makes two messages one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The caller's correlation data, together with the topic that answers go to.
    Named(Bytes),
    /// Without correlation data: the packet id that it came with. Only what the
    /// broker itself marks as sent again can be known again.
    Unnamed(u16),
}

/// When a command came, as well as that can be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The boot that `at` belongs to.
    pub(crate) boot: [u8; 16],
    /// When it came; after a restart, when it was found again.
    pub(crate) at: Stamp,
    /// Whether the wall clock was believed then.
    pub(crate) trusted: bool,
    /// How old it was at `at`, in nanoseconds: at least.
    pub(crate) age_ns: u64,
    /// It may be older: a reboot lies between, and no believed clock.
    pub(crate) unsure: bool,
}

/// How far a command has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Accepted; nothing has been started.
    Received,
    /// Its program may have been started.
    Started {
        /// The span of its processing, that the program's is a child of.
        process: TraceContext,
        /// The span of its run.
        run: Option<TraceContext>,
        /// When.
        at: Stamp,
    },
    /// Over.
    Done {
        /// What to answer to it, now and when it comes again.
        answer: Bytes,
        /// The span of its processing.
        process: Option<TraceContext>,
        /// The answer is in the outbox.
        posted: bool,
        /// The span of its run.
        run: Option<TraceContext>,
        /// When that began; when all was over.
        times: (Stamp, Stamp),
    },
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counts up; the journal's own name for it.
    pub(crate) id: u64,
    /// The caller's.
    pub(crate) key: Key,
    /// What is wanted.
    pub(crate) job: String,
    /// Of job and payload: the same key with another digest is another command.
    pub(crate) digest: u64,
    /// When it came.
    pub(crate) arrival: Arrival,
    /// Seconds after which nobody wants it run any more, from its arrival.
    pub(crate) expiry: Option<u32>,
    /// Where answers go.
    pub(crate) response_topic: String,
    /// Arguments as JSON; emptied when it is over.
    pub(crate) arguments: Bytes,
    /// The trace that it came with.
    pub(crate) carried: Carried,
    /// How far it is.
    pub(crate) state: State,
    /// How often its program may have been started.
    pub(crate) starts: u8,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A command's state from now on.
    Put(Box<Entry>),
    /// The answer to that one is in the outbox.
    Posted(u64),
    /// Ends a snapshot.
    Whole,
}

impl State {
    /// The span of its processing.
    pub(crate) fn process(&self) -> Option<&TraceContext> {
        match self {
            State::Started { process, .. } => Some(process),
            State::Done { process, .. } => process.as_ref(),
            State::Received => None,
        }
    }
}

impl Entry {
    /// When it came, by the wall clock as it is now believed, in nanoseconds.
    pub(crate) fn came_unix_ns(&self) -> u64 {
        let at = self.arrival.at.unix_ns;
        at.saturating_sub(self.arrival.age_ns)
    }

    /// How old it is at least, in nanoseconds. `now` is of the boot in `arrival`.
    pub(crate) fn age_ns(&self, now: Stamp) -> u64 {
        let since = now.boot_ns.saturating_sub(self.arrival.at.boot_ns);
        self.arrival.age_ns.saturating_add(since)
    }

    /// What it takes in the file and, about, in memory.
    pub(crate) fn size(&self) -> usize {
        let answer = match &self.state {
            State::Done { answer, .. } => answer.len(),
            _ => 0,
        };
        let carried = self.carried.context.as_ref().map_or(0, |c| c.state.len());
        let key = match &self.key {
            Key::Named(correlation) => correlation.len(),
            Key::Unnamed(_) => 0,
        };
        256 + key
            + self.job.len()
            + self.response_topic.len()
            + self.arguments.len()
            + self.carried.baggage.len()
            + carried
            + answer
    }
}

impl Record {
    /// Appends it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut out = Writer(out);
        match self {
            Record::Put(entry) => {
                out.byte(1);
                out.entry(entry);
            }
            Record::Posted(id) => {
                out.byte(2);
                out.long(*id);
            }
            Record::Whole => out.byte(3),
        }
    }

    /// Reads a frame's payload; `None`: the rest of it is none of this version's.
    pub(super) fn decode_all(payload: &[u8], mut each: impl FnMut(Self)) -> Option<()> {
        let mut input = Reader(payload);
        while !input.0.is_empty() {
            each(match input.byte()? {
                1 => Record::Put(Box::new(input.entry()?)),
                2 => Record::Posted(input.long()?),
                3 => Record::Whole,
                _ => return None,
            });
        }
        Some(())
    }
}

/// What is longer than that does not get here: a packet has 32 KiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&length(bytes).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn stamp(&mut self, stamp: Stamp) {
        self.long(stamp.unix_ns);
        self.long(stamp.boot_ns);
    }

    fn context(&mut self, context: Option<&TraceContext>) {
        self.byte(context.is_some().into());
        if let Some(context) = context {
            self.0.extend_from_slice(&context.trace_id);
            self.0.extend_from_slice(&context.span_id);
            self.byte(context.flags);
            self.bytes(context.state.as_bytes());
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.long(entry.id);
        match &entry.key {
            Key::Named(correlation) => {
                self.byte(1);
                self.bytes(correlation);
            }
            Key::Unnamed(pkid) => {
                self.byte(0);
                self.long((*pkid).into());
            }
        }
        self.bytes(entry.job.as_bytes());
        self.long(entry.digest);
        self.0.extend_from_slice(&entry.arrival.boot);
        self.stamp(entry.arrival.at);
        self.byte(entry.arrival.trusted.into());
        self.long(entry.arrival.age_ns);
        self.byte(entry.arrival.unsure.into());
        self.byte(entry.expiry.is_some().into());
        self.long(entry.expiry.unwrap_or(0).into());
        self.bytes(entry.response_topic.as_bytes());
        self.bytes(&entry.arguments);
        self.context(entry.carried.context.as_ref());
        self.bytes(entry.carried.baggage.as_bytes());
        self.byte(entry.starts);
        match &entry.state {
            State::Received => self.byte(0),
            State::Started { process, run, at } => {
                self.byte(1);
                self.context(Some(process));
                self.context(run.as_ref());
                self.stamp(*at);
            }
            State::Done {
                answer,
                process,
                posted,
                run,
                times,
            } => {
                self.byte(2);
                self.bytes(answer);
                self.context(process.as_ref());
                self.byte((*posted).into());
                self.context(run.as_ref());
                self.stamp(times.0);
                self.stamp(times.1);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            unix_ns: self.long()?,
            boot_ns: self.long()?,
        })
    }

    /// The outer `None`: it cannot be read.
    fn context(&mut self) -> Option<Option<TraceContext>> {
        if !self.flag()? {
            return Some(None);
        }
        Some(Some(TraceContext {
            trace_id: self.take(16)?.try_into().ok()?,
            span_id: self.take(8)?.try_into().ok()?,
            flags: self.byte()?,
            state: self.text()?.into(),
        }))
    }

    fn entry(&mut self) -> Option<Entry> {
        Some(Entry {
            // New commands come after it: no number may be the last.
            id: self.long().filter(|id| *id <= u64::MAX / 2)?,
            key: if self.flag()? {
                Key::Named(Bytes::copy_from_slice(self.bytes()?))
            } else {
                Key::Unnamed(u16::try_from(self.long()?).ok()?)
            },
            job: self.text()?.to_owned(),
            digest: self.long()?,
            arrival: Arrival {
                boot: self.take(16)?.try_into().ok()?,
                at: self.stamp()?,
                trusted: self.flag()?,
                age_ns: self.long()?,
                unsure: self.flag()?,
            },
            expiry: {
                let some = self.flag()?;
                let seconds = u32::try_from(self.long()?).ok()?;
                some.then_some(seconds)
            },
            response_topic: self.text()?.to_owned(),
            arguments: Bytes::copy_from_slice(self.bytes()?),
            carried: Carried {
                context: self.context()?,
                baggage: self.text()?.into(),
            },
            starts: self.byte()?,
            state: match self.byte()? {
                0 => State::Received,
                1 => State::Started {
                    process: self.context()??,
                    run: self.context()?,
                    at: self.stamp()?,
                },
                2 => State::Done {
                    answer: Bytes::copy_from_slice(self.bytes()?),
                    process: self.context()?,
                    posted: self.flag()?,
                    run: self.context()?,
                    times: (self.stamp()?, self.stamp()?),
                },
                _ => return None,
            },
        })
    }
}
