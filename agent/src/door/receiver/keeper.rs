//! The task that owns the piles: requests in, frames to the spool.
//!
//! A task of its own, because a client that leaves ends its connection's: what
//! other programs were told is stored must not go with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::pack::{Gateway, Pile, Sealed, Taken};
use crate::clock::Clock;
use crate::frame::{Batch, Signal, Stamp};
use crate::spool::{Refused, Spool};
use crate::vitals;

/// The longest sleep: timers may not count a suspend.
const NAP: Duration = Duration::from_secs(10);

/// A request that was checked.
pub(super) struct Job {
    pub(super) signal: Signal,
    pub(super) body: Vec<u8>,
    /// Its share of the memory for requests.
    pub(super) room: Option<OwnedSemaphorePermit>,
    pub(super) done: oneshot::Sender<Done>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Items in it.
    pub(super) items: u32,
    /// Those that no frame can hold.
    pub(super) too_large: u32,
    /// Those that the spool did not take.
    pub(super) refused: u32,
}

/// Where frames go: the spool, or a test's list.
pub(super) trait Sink: Send + Sync + 'static {
    fn store(&self, batch: Batch) -> impl Future<Output = Result<(), Refused>> + Send;
}

impl Sink for Spool {
    async fn store(&self, batch: Batch) -> Result<(), Refused> {
        Spool::store(self, batch).await.map(|_| ())
    }
}

/// All that the task owns.
pub(super) struct Keeper<S> {
    pub(super) sink: S,
    pub(super) clock: Clock,
    pub(super) gateway: Arc<Gateway>,
    pub(super) piles: [Pile; 3],
    /// How long a pile may wait: a batch's length, half a loss window at most.
    pub(super) length: watch::Receiver<Duration>,
    /// The spool refused the last frame: nothing more is taken on trust.
    pub(super) refusing: bool,
}

impl<S: Sink> Keeper<S> {
    pub(super) fn new(
        sink: S,
        clock: Clock,
        gateway: Gateway,
        length: watch::Receiver<Duration>,
    ) -> Self {
        Self {
            sink,
            clock,
            gateway: Arc::new(gateway),
            piles: [Signal::Traces, Signal::Metrics, Signal::Logs].map(Pile::new),
            length,
            refusing: false,
        }
    }

    /// Until `stop`; then what was handed over is taken in, and all is stored.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
        loop {
            let wait = self.wait();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                job = jobs.recv() => match job {
                    Some(job) => {
                        vitals::RECEIVED.received(&jobs);
                        self.work(job).await;
                    }
                    None => break,
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.seal_due().await;
        }
        jobs.close();
        while let Some(job) = jobs.recv().await {
            self.work(job).await;
        }
        for at in 0..self.piles.len() {
            self.seal(at).await;
        }
    }

    fn due_at(&self, pile: &Pile) -> Option<u64> {
        let length = u64::try_from(self.length.borrow().as_nanos()).unwrap_or(u64::MAX);
        Some(pile.since()?.saturating_add(length))
    }

    fn wait(&self) -> Duration {
        let due = self.piles.iter().filter_map(|pile| self.due_at(pile)).min();
        due.map_or(NAP, |due| {
            Duration::from_nanos(due.saturating_sub(self.clock.boot_ns())).min(NAP)
        })
    }

    async fn seal_due(&mut self) {
        let now = self.clock.boot_ns();
        for at in 0..self.piles.len() {
            let due = self.piles.get(at).and_then(|pile| self.due_at(pile));
            if due.is_some_and(|due| due <= now) {
                self.seal(at).await;
            }
        }
    }

    async fn seal(&mut self, at: usize) {
        let sealed = self.piles.get_mut(at).map(Pile::empty);
        self.store(sealed.unwrap_or_default()).await;
    }

    async fn work(&mut self, job: Job) {
        let now: Stamp = self.clock.now();
        let refusing = self.refusing;
        let pile = self.piles.iter_mut().find(|p| p.signal() == job.signal);
        let Some(pile) = pile else {
            return;
        };
        let mut taken: Taken = pile.take_in(&job.body, &self.gateway, now);
        if refusing {
            taken.sealed.extend(pile.empty());
        }
        // Before the wait: the memory may go to the next one.
        drop((job.body, job.room));
        let refused = self.store(taken.sealed).await;
        // Who asked may have gone; it is stored all the same.
        let _ = job.done.send(Done {
            items: taken.items,
            too_large: taken.too_large,
            refused,
        });
    }

    /// How many items of the request at hand the spool refused. It has counted them.
    async fn store(&mut self, frames: Vec<Sealed>) -> u32 {
        let mut refused = 0_u32;
        for frame in frames {
            match self.sink.store(frame.batch).await {
                Ok(()) => self.refusing = false,
                Err(why) => {
                    if !self.refusing {
                        log::warn!("the spool refused what local programs sent: {why}");
                    }
                    self.refusing = true;
                    refused = refused.saturating_add(frame.own);
                }
            }
        }
        refused
    }
}
