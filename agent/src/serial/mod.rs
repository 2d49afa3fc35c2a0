//! Serial lines from microcontrollers (`docs/SERIAL.md`): the newest reading of
//! every gauge that a sender on a line has described, and what the line loses.
//!
//! ```text
//!  tty ─ thread ─► Link (decoder, sequence, latest readings) ◄─ gauge thread, status
//! ```
//!
//! A line has a thread of its own and shares only its [`Link`], which nobody
//! holds for longer than a read's worth of decoding.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::status::SerialStatus;
use crate::trace::Tracer;

pub mod link;
#[cfg(test)]
mod tests;
pub mod tty;

pub use link::{Channel, Link, Settings};
use tty::{Line, lock};

/// Lines of one gateway, each a thread.
pub const MAX_LINES: usize = 8;

/// How long a reload waits for a line to close.
const CLOSE: Duration = Duration::from_secs(1);

/// All lines; cheap to clone.
#[derive(Clone, Debug)]
pub struct Serial {
    inner: Arc<Mutex<Lines>>,
    clock: Clock,
    tracer: Tracer,
}

#[derive(Debug, Default)]
struct Lines {
    running: BTreeMap<String, Line>,
    /// Threads that hang in a driver and were left behind: they count against the bound.
    left: usize,
}

impl Serial {
    /// No line yet.
    pub fn new(clock: Clock, tracer: Tracer) -> Self {
        Self {
            inner: Arc::default(),
            clock,
            tracer,
        }
    }

    /// Opens the lines that are new or changed, and closes those that are gone.
    pub async fn configure(&self, wanted: &BTreeMap<String, Settings>) {
        let mut over = Vec::new();
        {
            let mut lines = self.lines();
            let changed: Vec<String> = lines
                .running
                .iter()
                .filter(|(name, line)| wanted.get(*name) != Some(lock(&line.link).settings()))
                .map(|(name, _)| name.clone())
                .collect();
            for name in changed {
                over.extend(lines.running.remove(&name));
            }
        }
        // The same device may be wanted with another speed: close before open.
        let left = close(over, CLOSE).await;
        let mut lines = self.lines();
        lines.left += left;
        for (name, settings) in wanted {
            if lines.running.contains_key(name) {
                continue;
            }
            if lines.running.len() + lines.left >= MAX_LINES {
                log::error!(
                    "serial {name} is not read: {} lines hang in their drivers; unplug them, or restart the agent",
                    lines.left
                );
                continue;
            }
            let link = Link::new(Arc::new(settings.clone()), self.clock.boot_ns());
            match Line::start(link, self.clock.clone(), self.tracer.clone()) {
                Ok(line) => {
                    lines.running.insert(name.clone(), line);
                }
                Err(error) => log::error!("serial {name}: could not start its thread: {error}"),
            }
        }
    }

    /// Ends all of them; `false`: one hangs and was left behind.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let running = std::mem::take(&mut self.lines().running);
        close(running.into_values().collect(), deadline).await == 0
    }

    /// Each line, in the order of their names.
    pub(crate) fn each(&self, mut see: impl FnMut(&mut Link)) {
        for line in self.lines().running.values() {
            see(&mut lock(&line.link));
        }
    }

    /// For people.
    pub fn status(&self, now_ns: u64) -> Vec<SerialStatus> {
        let mut all = Vec::new();
        self.each(|link| all.push(link.status(now_ns)));
        all
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many did not end in time.
async fn close(lines: Vec<Line>, deadline: Duration) -> usize {
    let stops = lines
        .into_iter()
        .map(|line| tokio::spawn(line.stop(deadline)));
    let mut left = 0;
    for stop in stops.collect::<Vec<_>>() {
        left += usize::from(!stop.await.unwrap_or(false));
    }
    left
}
