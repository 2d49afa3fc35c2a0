//! The OTLP receiver: local programs' spans, metrics and log records, taken
//! into the gateway's durable buffer.
//!
//! ```text
//! head ─► rate ─► body ─► unpack ─► (JSON to protobuf) ─► check ─► keeper ─► spool
//! ```
//!
//! A request is answered 200 once it is in its signal's pile: from then on the
//! loss window counts, as it does for readings that wait for their batch. A
//! pile becomes a frame when it is full or `batch.length` old; a loss window is
//! at least two of those, so the spool has its half. At shutdown the piles are
//! sealed and stored after the door has closed.
//!
//! A frame that the spool refuses is counted there as lost. After that nothing
//! is taken on trust until it takes frames again: requests wait for their own
//! frames and are told what became of them.
//!
//! Source: OTLP specification 1.x, "OTLP/HTTP".

use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, Request, header};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::answer::{Encoding, Refusal};
use self::keeper::{Done, Job, Keeper};
use self::limit::Gate;
use self::pack::Gateway;
use super::Answer;
use super::body::{self, Unread};
use crate::clock::Clock;
use crate::config::Receiver as Limits;
use crate::frame::Signal;
use crate::identity::Identity;
use crate::otlp::schema;
use crate::spool::Spool;
use crate::status::ReceiverStatus;
use crate::vitals;

mod answer;
#[cfg(test)]
mod fuzz;
mod json;
mod keeper;
mod limit;
mod pack;
#[cfg(test)]
mod tests;
mod wire;

/// From the end of the head to the end of the body.
const BODY: Duration = Duration::from_secs(10);

/// Requests that may wait for the keeper.
const WAITING: usize = 4;

/// Memory for requests at a time, as a multiple of the largest that is allowed.
const ROOM: usize = 2;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
}

struct Inner {
    limits: Limits,
    clock: Clock,
    gate: Mutex<Gate>,
    /// In bytes.
    room: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    length: watch::Sender<Duration>,
    status: Mutex<ReceiverStatus>,
}

/// The keeper's end of it.
pub struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Stores what waits, and ends; call it when the doors are closed.
    pub fn stop(self) -> JoinHandle<()> {
        self.stop.cancel();
        self.task
    }
}

/// Starts it. `length`: the longest that a small request waits for others.
pub fn start(
    limits: Limits,
    length: Duration,
    identity: &Identity,
    clock: &Clock,
    spool: &Spool,
) -> (Receiver, Running) {
    start_with(limits, length, identity, clock, spool.clone())
}

fn start_with<S: keeper::Sink>(
    limits: Limits,
    length: Duration,
    identity: &Identity,
    clock: &Clock,
    sink: S,
) -> (Receiver, Running) {
    let (jobs, inbox) = mpsc::channel(WAITING);
    let (length, lengths) = watch::channel(length);
    let gateway = Gateway::new(&identity.attributes);
    let keeper = Keeper::new(sink, clock.clone(), gateway, lengths);
    let stop = CancellationToken::new();
    let task = vitals::RECEIVER.spawn(keeper.run(inbox, stop.clone()));
    let room = limits.max_request.saturating_mul(ROOM);
    let inner = Inner {
        gate: Mutex::new(Gate::new(limits.request_rate, limits.byte_rate)),
        room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
        limits,
        clock: clock.clone(),
        jobs,
        length,
        status: Mutex::default(),
    };
    let receiver = Receiver {
        inner: Arc::new(inner),
    };
    (receiver, Running { task, stop })
}

impl Receiver {
    /// Of what path it is; `None`: none of OTLP's.
    pub fn signal(path: &str) -> Option<Signal> {
        match path {
            "/v1/traces" => Some(Signal::Traces),
            "/v1/metrics" => Some(Signal::Metrics),
            "/v1/logs" => Some(Signal::Logs),
            _ => None,
        }
    }

    /// Answers a POST of an export request.
    pub async fn answer(&self, signal: Signal, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let encoding = encoding(&head.headers);
        let result = match encoding {
            Some(encoding) => self
                .take(signal, encoding, &head.headers, body)
                .await
                .map(|done| (encoding, done)),
            None => Err(Refusal::Unsupported(
                "the content type must be application/x-protobuf or application/json",
            )),
        };
        match result {
            Ok((encoding, done)) => self.told(signal, encoding, done),
            Err(refusal) => {
                self.count_refusal(refusal.reason());
                refusal.answer(encoding)
            }
        }
    }

    /// A new batch length after a reload.
    pub fn set_length(&self, length: Duration) {
        self.inner.length.send_replace(length);
    }

    /// The figures since the start.
    pub fn status(&self) -> ReceiverStatus {
        self.lock().clone()
    }

    /// Says where the port listens, or why it does not.
    pub fn port(&self, listen: String, error: Option<String>) {
        let mut status = self.lock();
        status.listen = Some(listen);
        status.error = error;
    }

    /// Counts a connection that was opened or closed.
    pub fn connected(&self, opened: bool) {
        let mut status = self.lock();
        if opened {
            status.accepted += 1;
            status.connections += 1;
        } else {
            status.connections = status.connections.saturating_sub(1);
        }
    }

    /// Counts a request that was turned away.
    pub fn count_refusal(&self, reason: &'static str) {
        *self.lock().refused.entry(reason.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, ReceiverStatus> {
        self.inner
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(
        &self,
        signal: Signal,
        encoding: Encoding,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Done, Refusal> {
        let inner = &self.inner;
        let gzip = gzip(headers)?;
        let now = inner.clock.boot_ns();
        let admitted = lock(&inner.gate).admit(now);
        admitted.map_err(Refusal::Rate)?;
        let limit = inner.limits.max_request;
        let mut room = Room::new(&inner.room);
        let body = body::read_within(body, limit, BODY, |bytes| room.grow(bytes)).await;
        let body = body.map_err(Refusal::Unread)?;
        let Some(packed) = body else {
            return Err(Refusal::Memory);
        };
        let body = match gzip {
            true => unpack(&packed, limit)?,
            false => Vec::from(packed),
        };
        lock(&inner.gate).charge(body.len());
        let schema = schema::request(signal).ok_or(Refusal::Unsupported("not OTLP"))?;
        let body = match encoding {
            Encoding::Protobuf => body,
            Encoding::Json => json::to_protobuf(&body, schema).map_err(Refusal::Malformed)?,
        };
        wire::check(&body, schema).map_err(|why| Refusal::Malformed(why.to_string()))?;
        if !room.set(body.len()) {
            return Err(Refusal::Memory);
        }
        let bytes = body.len() as u64;
        let (done, answered) = oneshot::channel();
        let job = Job {
            signal,
            body,
            room: room.held,
            done,
        };
        let sent = inner.jobs.send(job).await;
        vitals::RECEIVED.sent(&inner.jobs);
        sent.map_err(|_| Refusal::Stopping)?;
        let done = answered.await.map_err(|_| Refusal::Stopping)?;
        if done.refused > 0 && done.refused + done.too_large == done.items {
            return Err(Refusal::Spool);
        }
        let mut status = self.lock();
        let counts = status.signals.entry(signal.as_str().to_owned());
        let counts = counts.or_default();
        let rejected = done.refused + done.too_large;
        counts.requests += 1;
        counts.items += u64::from(done.items - rejected.min(done.items));
        counts.rejected_items += u64::from(rejected);
        counts.bytes += bytes;
        Ok(done)
    }

    fn told(&self, signal: Signal, encoding: Encoding, done: Done) -> Answer {
        let why = match (done.refused, done.too_large) {
            (0, _) => "too large for a frame of 96 KiB",
            _ => "the spool is full and took only a part",
        };
        answer::taken(encoding, signal, done.refused + done.too_large, why)
    }
}

fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's share of the memory for requests.
struct Room {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            all: Arc::clone(all),
            held: None,
        }
    }

    /// Takes more; `false`: there is no more.
    fn grow(&mut self, bytes: usize) -> bool {
        let Ok(bytes) = u32::try_from(bytes) else {
            return false;
        };
        let Ok(more) = Arc::clone(&self.all).try_acquire_many_owned(bytes) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }

    /// Takes or gives back, until it holds `bytes`.
    fn set(&mut self, bytes: usize) -> bool {
        let held = self.held.as_ref().map_or(0, |held| held.num_permits());
        if bytes >= held {
            return self.grow(bytes - held);
        }
        let spare = self.held.as_mut().and_then(|h| h.split(held - bytes));
        drop(spare);
        true
    }
}

/// The content type, whatever its parameters.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/x-protobuf") {
        Some(Encoding::Protobuf)
    } else if kind.eq_ignore_ascii_case("application/json") {
        Some(Encoding::Json)
    } else {
        None
    }
}

/// Whether the body is packed.
fn gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(false);
    };
    let coding = coding.to_str().unwrap_or_default().trim();
    if coding.eq_ignore_ascii_case("gzip") {
        Ok(true)
    } else if coding.is_empty() || coding.eq_ignore_ascii_case("identity") {
        Ok(false)
    } else {
        Err(Refusal::Unsupported(
            "the content encoding must be gzip or identity",
        ))
    }
}

/// Every member of it, up to the limit.
fn unpack(packed: &Bytes, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let most = limit as u64 + 1;
    let read = MultiGzDecoder::new(packed.as_ref())
        .take(most)
        .read_to_end(&mut out);
    if out.len() > limit {
        return Err(Refusal::Unread(Unread::TooLarge));
    }
    match read {
        Ok(_) => Ok(out),
        Err(error) => Err(Refusal::Malformed(format!("it does not unpack: {error}"))),
    }
}
