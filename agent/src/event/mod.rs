//! What happened, for whoever wants to know: a name, measurements, metadata.
//!
//! ```text
//!  the agent ─ emit ──┐              ┌─ tally    metrics: how often, last measurements
//!                     ├─ Events ─────┼─ upstream OpenTelemetry event records
//!  sonde event ─ offer┘  handlers    ├─ recent   the status
//!  POST /event           come and go └─ a test
//! ```
//!
//! Promises: emitting never waits, never fails and never reaches further than
//! the handlers; a handler that fails or panics is detached, counted and shown
//! in the status, the others go on (in the released program a panic ends the
//! agent, as any panic does there: it is built to abort). What local programs
//! offer is checked and rate-limited before any handler sees it, and each
//! refusal is counted by reason. The agent's own names are [`Name`]s: only one
//! that the table in [`name`] has, and so docs/EVENTS.md, can be emitted.
//!
//! Handlers run on the emitter's thread, one event at a time; they must not
//! block. An event emitted by a handler is counted and dropped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::Level;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};

use crate::clock::Clock;
use crate::frame::Stamp;
use crate::status::EventsStatus;

pub mod name;
mod offer;
mod recent;
pub mod spool_watch;
mod tally;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod upstream;

pub use name::Name;
pub use offer::{Offer, Refusal};
pub use recent::Recent;
pub use tally::Tally;
pub use upstream::Upstream;

use offer::Admission;

/// Handlers at a time.
const MAX_HANDLERS: usize = 16;

/// Names of detached handlers that the status shows.
const MAX_DETACHED: usize = 8;

/// One event, as handlers see it.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// When it was emitted.
    pub at: Stamp,
    /// Such as `sonde.uplink.down`; a local program's own does not begin with `sonde.`.
    pub name: &'a str,
    /// How much it matters.
    pub level: Level,
    /// Numbers, each finite.
    pub measurements: &'a [(&'a str, f64)],
    /// Words.
    pub metadata: &'a [(&'a str, &'a str)],
    /// The documented name it was emitted under; `None`: by a local program.
    pub own: Option<Name>,
    /// The span that it happened in.
    pub span: Option<SpanContext>,
}

/// Whoever wants to know.
pub trait Handler: Send {
    /// Takes note of an event. Must not block.
    ///
    /// # Errors
    /// Why it cannot go on: it is detached.
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String>;
}

impl<F: FnMut(&Event<'_>) -> Result<(), String> + Send> Handler for F {
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String> {
        self(event)
    }
}

/// An attached handler, for [`Events::detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerId(u64);

/// Where events are emitted; a clone is the same place.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    clock: Clock,
    handlers: Mutex<Vec<Attached>>,
    next: AtomicU64,
    admission: Mutex<Admission>,
    nested: AtomicU64,
    detached: Mutex<Vec<String>>,
    detachments: AtomicU64,
    tally: Tally,
    recent: Recent,
}

struct Attached {
    id: HandlerId,
    name: &'static str,
    handler: Box<dyn Handler>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Events {
    /// With the two handlers that every agent has: one for metrics, one for the status.
    pub fn new(clock: Clock) -> Self {
        let (tally, recent) = (Tally::default(), Recent::default());
        let events = Self(Arc::new(Inner {
            clock,
            handlers: Mutex::default(),
            next: AtomicU64::new(0),
            admission: Mutex::default(),
            nested: AtomicU64::new(0),
            detached: Mutex::default(),
            detachments: AtomicU64::new(0),
            tally: tally.clone(),
            recent: recent.clone(),
        }));
        events.attach("metrics", tally);
        events.attach("status", recent);
        events
    }

    /// Says that something of the agent's own happened, within the active span
    /// if there is one.
    pub fn emit(&self, name: Name, measurements: &[(&str, f64)], metadata: &[(&str, &str)]) {
        self.emit_in(active_span(), name, measurements, metadata);
    }

    /// The same, within this span.
    pub fn emit_in(
        &self,
        span: Option<SpanContext>,
        name: Name,
        measurements: &[(&str, f64)],
        metadata: &[(&str, &str)],
    ) {
        self.hand_on(&Event {
            at: self.0.clock.now(),
            name: name.as_str(),
            level: name.level(),
            measurements,
            metadata,
            own: Some(name),
            span: span.filter(SpanContext::is_valid),
        });
    }

    /// A local program's event.
    ///
    /// # Errors
    /// Why it was refused; counted.
    pub fn offer(&self, offer: &Offer) -> Result<(), Refusal> {
        let at = self.0.clock.now();
        lock(&self.0.admission).admit(offer, at.boot_ns)?;
        let measurements: Vec<_> = offer
            .measurements
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        let metadata: Vec<_> = offer
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.hand_on(&Event {
            at,
            name: &offer.name,
            level: Level::Info,
            measurements: &measurements,
            metadata: &metadata,
            own: None,
            span: offer.span.clone().filter(SpanContext::is_valid),
        });
        Ok(())
    }

    /// From now on this handler is told too. `None`: there are too many.
    pub fn attach(&self, name: &'static str, handler: impl Handler + 'static) -> Option<HandlerId> {
        let mut handlers = lock(&self.0.handlers);
        if handlers.len() >= MAX_HANDLERS {
            return None;
        }
        let id = HandlerId(self.0.next.fetch_add(1, Ordering::Relaxed));
        handlers.push(Attached {
            id,
            name,
            handler: Box::new(handler),
        });
        Some(id)
    }

    /// From now on it is not. `false`: it was not attached any more.
    pub fn detach(&self, id: HandlerId) -> bool {
        let mut handlers = lock(&self.0.handlers);
        let before = handlers.len();
        handlers.retain(|attached| attached.id != id);
        handlers.len() < before
    }

    /// For the gauges.
    pub fn tally(&self) -> Tally {
        self.0.tally.clone()
    }

    /// What the status shows.
    pub fn status(&self) -> EventsStatus {
        let mut refused = lock(&self.0.admission).refused();
        let nested = self.0.nested.load(Ordering::Relaxed);
        if nested > 0 {
            refused.insert("nested".to_owned(), nested);
        }
        EventsStatus {
            counts: self.0.tally.counts(),
            recent: self.0.recent.list(),
            refused,
            detached: lock(&self.0.detached).clone(),
            detachments: self.0.detachments.load(Ordering::Relaxed),
        }
    }

    fn hand_on(&self, event: &Event<'_>) {
        let Some(_inside) = Inside::enter() else {
            self.0.nested.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut failed = Vec::new();
        lock(&self.0.handlers).retain_mut(|attached| {
            let handled = catch_unwind(AssertUnwindSafe(|| attached.handler.handle(event)));
            let why = match handled {
                Ok(Ok(())) => return true,
                Ok(Err(why)) => why,
                Err(_) => "it panicked".to_owned(),
            };
            failed.push((attached.name, why));
            false
        });
        for (handler, why) in failed {
            log::error!(
                "The event handler {handler} failed at {} and is detached: {why}.",
                event.name
            );
            self.0.detachments.fetch_add(1, Ordering::Relaxed);
            let mut detached = lock(&self.0.detached);
            if detached.len() < MAX_DETACHED {
                detached.push(format!("{handler}: {why}"));
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

/// Set while handlers run on this thread.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        let already = INSIDE
            .try_with(|inside| inside.replace(true))
            .unwrap_or(true);
        (!already).then_some(Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

fn active_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        context
            .has_active_span()
            .then(|| context.span().span_context().clone())
    })
}

/// Counts by a reason's name.
fn count(into: &mut BTreeMap<String, u64>, reason: &str) {
    match into.get_mut(reason) {
        Some(count) => *count += 1,
        None => {
            into.insert(reason.to_owned(), 1);
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
