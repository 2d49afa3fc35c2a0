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
use tty::{Left, Line, Opener, lock};

/// Lines of one gateway, each a thread.
pub const MAX_LINES: usize = 8;

/// Threads beyond those, which hang in drivers with lines that were closed:
/// when there are more, a line is not opened before one of them returns.
pub const MAX_LEFT: usize = 4;

/// How long a reload waits for a line to close.
const CLOSE: Duration = Duration::from_secs(1);

/// All lines; cheap to clone.
#[derive(Clone, Debug)]
pub struct Serial {
    inner: Arc<Mutex<Lines>>,
    clock: Clock,
    tracer: Tracer,
    open: Opener,
    close: Duration,
}

#[derive(Debug, Default)]
struct Lines {
    running: BTreeMap<String, Line>,
    /// Closed while they hung in a driver. A device that one of them hangs with
    /// is not opened by another.
    left: Vec<Left>,
    /// Not opened, because of those.
    waiting: BTreeMap<String, Link>,
}

impl Serial {
    /// No line yet.
    pub fn new(clock: Clock, tracer: Tracer) -> Self {
        Self {
            inner: Arc::default(),
            clock,
            tracer,
            open: Opener::default(),
            close: CLOSE,
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
        let left = close(over, self.close).await;
        let mut lines = self.lines();
        for line in &left {
            log::error!(
                "serial {}: {} hangs in its driver and could not be closed",
                line.name,
                line.device.display()
            );
        }
        lines.left.extend(left);
        lines
            .waiting
            .retain(|name, link| wanted.get(name) == Some(link.settings()));
        for (name, settings) in wanted {
            if !lines.running.contains_key(name) && !lines.waiting.contains_key(name) {
                let link = Link::new(Arc::new(settings.clone()), self.clock.boot_ns());
                lines.waiting.insert(name.clone(), link);
            }
        }
        self.start(&mut lines);
    }

    /// Opens what waits, where nothing hangs.
    fn start(&self, lines: &mut Lines) {
        lines.left.retain_mut(Left::hangs);
        for (name, mut link) in std::mem::take(&mut lines.waiting) {
            let device = &link.settings().device;
            let why = if lines.left.iter().any(|left| left.device == *device) {
                "is not opened: an earlier reader of it hangs in its driver"
            } else if lines.running.len() + lines.left.len() >= MAX_LINES + MAX_LEFT {
                "is not opened: too many closed lines hang in their drivers; unplug them, or restart the agent"
            } else {
                let settings = link.settings().clone();
                let (clock, tracer) = (self.clock.clone(), self.tracer.clone());
                match Line::start(link, clock, tracer, self.open.clone()) {
                    Ok(line) => {
                        lines.running.insert(name, line);
                        continue;
                    }
                    Err(error) => {
                        log::error!("serial {name}: could not start its thread: {error}");
                        link = Link::new(settings, self.clock.boot_ns());
                        "is not opened: no thread could be started for it"
                    }
                }
            };
            if link.absent(why.into(), self.clock.boot_ns()) {
                let device = link.settings().device.display();
                log::warn!("serial {name}: {device} {why}");
            }
            lines.waiting.insert(name, link);
        }
    }

    /// Ends all of them; `false`: one hangs and was left behind.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let mut lines = std::mem::take(&mut *self.lines());
        lines.left.retain_mut(Left::hangs);
        let left = close(lines.running.into_values().collect(), deadline).await;
        left.is_empty() && lines.left.is_empty()
    }

    /// Each line; and a look whether one that waits can be opened.
    pub(crate) fn each(&self, mut see: impl FnMut(&mut Link)) {
        let mut lines = self.lines();
        if !lines.waiting.is_empty() || !lines.left.is_empty() {
            self.start(&mut lines);
        }
        for line in lines.running.values() {
            see(&mut lock(&line.link));
        }
        lines.waiting.values_mut().for_each(see);
    }

    /// Closed lines whose threads hang in their drivers, with their devices.
    pub fn left_behind(&self) -> Vec<String> {
        let lines = self.lines();
        let all = lines.left.iter();
        all.map(|left| format!("{} at {}", left.name, left.device.display()))
            .collect()
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

/// Those that did not end in time.
async fn close(lines: Vec<Line>, deadline: Duration) -> Vec<Left> {
    let stops = lines
        .into_iter()
        .map(|line| tokio::spawn(line.stop(deadline)));
    let mut left = Vec::new();
    for stop in stops.collect::<Vec<_>>() {
        left.extend(stop.await.ok().flatten());
    }
    left
}
