//! How the agent itself is doing: how long its tasks run at a stretch, how late
//! its timers fire, how full its queues get. Debugging figures of the family
//! `runtime`.
//!
//! Everything here is a few atomic numbers in a `static`: one agent is one
//! process, whoever measures needs no handle, and a measurement is an addition.
//! On a current-thread runtime a task that runs long makes everything else
//! wait, and nothing but the task itself can tell. So the long-lived tasks are
//! wrapped: two clock reads (no system calls) around each poll.
//!
//! `CLOCK_MONOTONIC`, not `CLOCK_BOOTTIME`: a machine that slept was not busy.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::monotonic_ns;

/// Time that something took, again and again.
#[derive(Debug)]
pub struct Meter {
    name: &'static str,
    count: AtomicU64,
    total_ns: AtomicU64,
    last_ns: AtomicU64,
    longest_ns: AtomicU64,
}

/// How full a queue is.
#[derive(Debug)]
pub struct Level {
    name: &'static str,
    depth: AtomicU64,
    high: AtomicU64,
}

/// Waits for signals, reloads, ends the rest.
pub static MAIN: Meter = Meter::new("main");
/// Samples, records, seals.
pub static SAMPLER: Meter = Meter::new("sampler");
/// The uplink over OTLP, its connection included.
pub static OTLP: Meter = Meter::new("otlp");
/// The uplink over MQTT.
pub static MQTT: Meter = Meter::new("mqtt");
/// Both sockets and the loopback port, every connection included.
pub static DOOR: Meter = Meter::new("door");
/// Packs what local programs sent.
pub static RECEIVER: Meter = Meter::new("receiver");
/// Stores spans and logs.
pub static SPANS: Meter = Meter::new("spans");
/// Starts jobs.
pub static JOBS: Meter = Meter::new("jobs");
/// Runs the programs of custom gauges.
pub static GAUGES: Meter = Meter::new("gauges");
/// Takes commands and answers them.
pub static COMMANDS: Meter = Meter::new("commands");

/// The tasks that are measured.
pub static TASKS: [&Meter; 10] = [
    &MAIN, &SAMPLER, &OTLP, &MQTT, &DOOR, &RECEIVER, &SPANS, &JOBS, &GAUGES, &COMMANDS,
];

/// How late the sampler's timer fires: what an event waits for the loop.
pub static LAG: Meter = Meter::new("lag");
/// `fdatasync` of the spool's files.
pub static SYNC: Meter = Meter::new("sync");

/// Orders to the spool's thread.
pub static SPOOL_ORDERS: Level = Level::new("spool");
/// Questions to the sampler.
pub static SAMPLER_ORDERS: Level = Level::new("sampler");
/// Requests of local programs that wait to be packed.
pub static RECEIVED: Level = Level::new("receiver");
/// Commands that came and were not looked at yet.
pub static COMMANDS_IN: Level = Level::new("commands");
/// Answers to commands that wait for the outbox.
pub static ANSWERS: Level = Level::new("answers");
/// Own spans and logs that wait to be stored.
pub static OWN_RECORDS: Level = Level::new("spans");
/// Programs whose message waits until the spans it hangs on are stored.
pub static KEEPING: Level = Level::new("keeper");
/// Commands whose receipt is to be told to the broker.
pub static RECEIPTS: Level = Level::new("receipts");

/// Tasks that others woke and that wait for their turn, as tokio tells at a tick.
pub static READY: Level = Level::new("tokio");

/// The queues that are measured.
pub static QUEUES: [&Level; 9] = [
    &SPOOL_ORDERS,
    &SAMPLER_ORDERS,
    &RECEIVED,
    &COMMANDS_IN,
    &ANSWERS,
    &OWN_RECORDS,
    &KEEPING,
    &RECEIPTS,
    &READY,
];

impl Meter {
    /// Nothing measured yet.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            count: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        }
    }

    /// As in the attribute.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It took this long, once more.
    pub fn took(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.total_ns.fetch_add(ns, Relaxed);
        self.last_ns.store(ns, Relaxed);
        self.longest_ns.fetch_max(ns, Relaxed);
    }

    /// Takes the time of a call.
    pub fn time<T>(&self, call: impl FnOnce() -> T) -> T {
        let began = monotonic_ns();
        let result = call();
        self.took(since(began));
        result
    }

    /// How often; `None`: never.
    pub fn count(&self) -> Option<u64> {
        Some(self.count.load(Relaxed)).filter(|count| *count > 0)
    }

    /// All together, since the start.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns.load(Relaxed))
    }

    /// The last one.
    pub fn last(&self) -> Duration {
        Duration::from_nanos(self.last_ns.load(Relaxed))
    }

    /// The longest since this was asked before. One asker: the family `runtime`.
    pub fn take_longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Relaxed))
    }

    /// A task whose every poll is measured.
    pub fn spawn<F>(&'static self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.watch(task))
    }

    /// The same without starting it.
    pub fn watch<F: Future>(&'static self, task: F) -> Watched<F> {
        Watched {
            meter: self,
            task: Box::pin(task),
        }
    }
}

/// A future whose polls are measured.
#[derive(Debug)]
pub struct Watched<F> {
    meter: &'static Meter,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let meter = self.meter;
        meter.time(|| self.task.as_mut().poll(context))
    }
}

impl Level {
    /// Empty.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            depth: AtomicU64::new(0),
            high: AtomicU64::new(0),
        }
    }

    /// As in the attribute.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It holds this many now.
    pub fn is_at(&self, depth: usize) {
        let depth = u64::try_from(depth).unwrap_or(u64::MAX);
        self.depth.store(depth, Relaxed);
        self.high.fetch_max(depth, Relaxed);
    }

    /// One more, for a queue that cannot be asked.
    pub fn put(&self) {
        let before = self.depth.fetch_add(1, Relaxed);
        self.high.fetch_max(before.saturating_add(1), Relaxed);
    }

    /// One less.
    pub fn taken(&self) {
        // Whatever is counted wrong, it must not wrap.
        let _ = self
            .depth
            .fetch_update(Relaxed, Relaxed, |depth| Some(depth.saturating_sub(1)));
    }

    /// After a send into a bounded channel.
    pub fn sent<T>(&self, to: &mpsc::Sender<T>) {
        self.is_at(to.max_capacity().saturating_sub(to.capacity()));
    }

    /// After a receive from one.
    pub fn received<T>(&self, from: &mpsc::Receiver<T>) {
        self.is_at(from.len());
    }

    /// How many there are.
    pub fn depth(&self) -> u64 {
        self.depth.load(Relaxed)
    }

    /// The most that there were at a time, since the start.
    pub fn high(&self) -> u64 {
        self.high.load(Relaxed)
    }
}

/// How long ago a moment of [`monotonic_ns`] was.
pub fn since(began_ns: u64) -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(began_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_blocks_its_thread_shows_in_its_own_meter() {
        static SLOW: Meter = Meter::new("slow");
        static QUICK: Meter = Meter::new("quick");
        let slow = SLOW.spawn(async {
            tokio::task::yield_now().await;
            let began = monotonic_ns();
            while since(began) < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
        });
        let quick = QUICK.spawn(tokio::task::yield_now());
        slow.await.unwrap();
        quick.await.unwrap();
        assert_eq!((SLOW.count(), QUICK.count()), (Some(2), Some(2)));
        assert!(SLOW.take_longest() >= Duration::from_millis(20));
        assert!(SLOW.total() >= SLOW.last() && SLOW.last() >= Duration::from_millis(20));
        assert!(QUICK.total() < SLOW.total());
        // Asked again, there is nothing new; the total stays.
        assert_eq!(SLOW.take_longest(), Duration::ZERO);
        assert!(SLOW.total() >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn the_high_water_mark_of_a_queue_outlives_its_emptying() {
        static QUEUE: Level = Level::new("queue");
        let (to, mut from) = mpsc::channel(4);
        for n in 0..3 {
            to.send(n).await.unwrap();
            QUEUE.sent(&to);
        }
        assert_eq!((QUEUE.depth(), QUEUE.high()), (3, 3));
        while from.try_recv().is_ok() {
            QUEUE.received(&from);
        }
        assert_eq!((QUEUE.depth(), QUEUE.high()), (0, 3));
        QUEUE.taken();
        QUEUE.put();
        assert_eq!((QUEUE.depth(), QUEUE.high()), (1, 3));
    }
}
