//! The Unix sockets through which local programs and the CLI reach the agent.
//!
//! HTTP/1.1, so that `curl --unix-socket` works as well as `sonde status`.
//! `status.sock` only tells: `GET /status` (JSON, schema 1), `GET /page` (the same in
//! words), `GET /metrics` (Prometheus text 0.0.4), `GET /traces`, `GET /` (this list);
//! requests with a body are refused. `sonde.sock` takes what local programs send: [`local`].
//!
//! Nobody can hold the agent up through them: connections have seats, a head
//! must arrive in time and fit, a connection has a deadline as a whole, and so has
//! the drain at shutdown. When somebody waits for a seat, one that has asked nothing
//! yet loses its own, the oldest first. One connection
//! carries one request unless [`Limits::keep_alive`] says otherwise; when
//! connections run short, those that are kept are closed after their answer.
//!
//! What is answered is a [`Routes`]; where it is heard a [`Door`]: another
//! socket with other routes is one more [`serve`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::status::{View, render};
use crate::status::{self, Status};
use crate::vitals;

pub mod body;
mod event;
mod gauge;
pub mod local;
pub mod metrics;
pub mod port;
pub mod publish;
pub mod receiver;
mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod traces;

pub use socket::{Door, DoorError, Place, Stream, bind, bind_port};

/// A future in a box, as object-safe traits need it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer, whole in memory.
pub type Answer = Response<Full<Bytes>>;

/// Who can say how things are. A closure `Fn() -> Status` is one.
pub trait Snapshot: Send + Sync + 'static {
    /// Puts the owners' latest figures together; [`Status::problems`] may stay
    /// empty, the door judges.
    fn snapshot(&self) -> Boxed<'_, Status>;

    /// What is in memory of traces, one span a line.
    fn traces(&self) -> Boxed<'_, String> {
        Box::pin(std::future::ready(String::new()))
    }
}

impl<F> Snapshot for F
where
    F: Fn() -> Status + Send + Sync + 'static,
{
    fn snapshot(&self) -> Boxed<'_, Status> {
        Box::pin(std::future::ready(self()))
    }
}

/// What a door answers.
pub trait Routes: Send + Sync + 'static {
    /// Answers one request; a body that is not read is discarded with the connection.
    fn answer(&self, request: Request<Incoming>) -> Boxed<'_, Answer>;

    /// A connection was opened, or closed.
    fn connected(&self, _opened: bool) {}
}

/// How much a door's clients may ask of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// From accept (or the last answer) to the end of a request's head.
    pub head: Duration,
    /// Bytes of a head; at least 8192, hyper's own minimum.
    pub head_bytes: usize,
    /// A connection as a whole; then it may finish the request it is in.
    pub connection: Duration,
    /// For that last request.
    pub last_request: Duration,
    /// For connections that are open at shutdown.
    pub drain: Duration,
    /// More than one request a connection.
    pub keep_alive: bool,
}

impl Default for Limits {
    /// For people and scrapers on the same machine: a head takes them
    /// microseconds, and eight of them at once is already many.
    fn default() -> Self {
        Self {
            connections: 8,
            head: Duration::from_secs(2),
            head_bytes: 8192,
            connection: Duration::from_secs(10),
            last_request: Duration::ZERO,
            drain: Duration::from_secs(1),
            keep_alive: false,
        }
    }
}

impl Limits {
    /// For programs that send again and again: they keep their connections,
    /// for less long than the 60 s after which many send metrics, since one
    /// that idles takes the place of another program's.
    pub const LOCAL: Self = Self {
        connections: 16,
        head: Duration::from_secs(15),
        head_bytes: 8192,
        connection: Duration::from_secs(600),
        last_request: Duration::from_secs(15),
        drain: Duration::from_secs(1),
        keep_alive: true,
    };
}

/// The longest that putting a status together may take.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// After a failed accept (out of descriptors) there is nothing to do but wait.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Opens the read-only door on a bound socket. The task ends after `stop`,
/// within [`Limits::drain`], and takes the socket file with it.
pub fn spawn(door: Door, source: Arc<dyn Snapshot>, stop: CancellationToken) -> JoinHandle<()> {
    let routes = Arc::new(ReadOnly { source });
    vitals::DOOR.spawn(serve(door, routes, Limits::default(), stop))
}

/// Answers on `door` until `stop`, then drains.
pub async fn serve(door: Door, routes: Arc<dyn Routes>, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut seats: VecDeque<Arc<Seat>> = VecDeque::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let room = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    room = room(&permits, &mut seats) => room,
                };
                let (routes, stop) = (Arc::clone(&routes), stop.clone());
                let seat = Arc::new(Seat::new());
                seats.push_back(Arc::clone(&seat));
                routes.connected(true);
                connections.spawn(vitals::DOOR.watch(async move {
                    converse(stream, &routes, limits, stop, &seat).await;
                    seat.left.store(true, Ordering::Relaxed);
                    routes.connected(false);
                    drop(room);
                }));
            }
            Err(error) => {
                log::warn!("{door}: no connection accepted: {error}");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
    }
    // New clients are refused from here on; those inside may finish.
    drop(door);
    let drained = timeout(limits.drain, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

/// A connection's place.
struct Seat {
    since: Instant,
    /// It has asked something.
    heard: AtomicBool,
    /// It is over.
    left: AtomicBool,
    /// Others wait for it.
    wanted: Notify,
}

/// Who has not asked anything after this long may lose the seat.
const SILENCE: Duration = Duration::from_millis(50);

impl Seat {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            heard: AtomicBool::new(false),
            left: AtomicBool::new(false),
            wanted: Notify::new(),
        }
    }
}

/// Waits for a seat, and makes somebody leave one: those that only keep theirs
/// between two requests, and the one that has been silent longest.
async fn room(
    permits: &Arc<Semaphore>,
    seats: &mut VecDeque<Arc<Seat>>,
) -> Option<OwnedSemaphorePermit> {
    seats.retain(|seat| !seat.left.load(Ordering::Relaxed));
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some(permit);
    }
    for seat in seats
        .iter()
        .filter(|seat| seat.heard.load(Ordering::Relaxed))
    {
        seat.wanted.notify_one();
    }
    // One at a time: whoever was asked to leave is given the time to.
    let mut next = Instant::now();
    loop {
        let silent = |seat: &&Arc<Seat>| !seat.heard.load(Ordering::Relaxed);
        let oldest = seats
            .iter()
            .find(silent)
            .map(|seat| next.max(seat.since + SILENCE));
        let patience = async {
            match oldest {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            permit = Arc::clone(permits).acquire_owned() => return permit.ok(),
            () = patience => {
                // It may have asked meanwhile; then the next oldest is looked at.
                if let Some(at) = seats.iter().position(|seat| silent(&seat))
                    && let Some(seat) = seats.remove(at)
                {
                    seat.wanted.notify_one();
                }
                next = Instant::now() + SILENCE;
            }
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        log::error!("a connection of the door ended in a bug: {error}");
    }
}

async fn converse(
    stream: Stream,
    routes: &Arc<dyn Routes>,
    limits: Limits,
    stop: CancellationToken,
    seat: &Seat,
) {
    let service = service_fn(|request| {
        seat.heard.store(true, Ordering::Relaxed);
        let routes = Arc::clone(routes);
        async move { Ok::<_, Infallible>(routes.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes.max(8192))
        .keep_alive(limits.keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    let whole = async {
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => {}
            () = seat.wanted.notified() => {
                // Half a head is nobody's loss.
                if !seat.heard.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            () = sleep(limits.connection) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(limits.connection + limits.last_request, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a client of the door left or erred: {error}"),
        Err(_) => log::debug!("a client of the door was too slow and was dropped"),
    }
}

/// The routes of `status.sock`.
struct ReadOnly {
    source: Arc<dyn Snapshot>,
}

impl Routes for ReadOnly {
    fn answer(&self, request: Request<Incoming>) -> Boxed<'_, Answer> {
        Box::pin(async move {
            let known = matches!(
                request.uri().path(),
                "/" | "/status" | "/page" | "/metrics" | "/traces"
            );
            if !known {
                return refusal(StatusCode::NOT_FOUND, "no such path; try / for a list");
            }
            if request.method() != Method::GET {
                let mut answer = refusal(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "only GET: this door only tells",
                );
                let allow = header::HeaderValue::from_static("GET");
                answer.headers_mut().insert(header::ALLOW, allow);
                return answer;
            }
            if !request.body().is_end_stream() {
                return refusal(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "send no body: this door only tells",
                );
            }
            if request.uri().path() == "/" {
                return text(
                    "GET /status   how the gateway is, JSON, schema 1\nGET /page     the same in words; ?columns=80\nGET /metrics  the same as Prometheus text\nGET /traces   frames of spans that are in memory, a line of JSON each\n",
                );
            }
            if request.uri().path() == "/traces" {
                return match timeout(SNAPSHOT, self.source.traces()).await {
                    Ok(lines) => answer(StatusCode::OK, "application/jsonl", lines),
                    Err(_) => refusal(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the agent is too busy to hand out traces; try again",
                    ),
                };
            }
            let Ok(mut status) = timeout(SNAPSHOT, self.source.snapshot()).await else {
                return refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the agent is too busy to say how it is; try again",
                );
            };
            status.problems = status::problems(&status);
            if request.uri().path() == "/metrics" {
                return text(metrics::render(&status));
            }
            if request.uri().path() == "/page" {
                let view = View {
                    width: columns(request.uri().query()),
                    colour: false,
                };
                return text(render(&status, view));
            }
            match serde_json::to_vec(&status) {
                Ok(json) => answer(StatusCode::OK, "application/json", json),
                Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            }
        })
    }
}

/// Of a page; what is not asked for well is 80.
fn columns(query: Option<&str>) -> usize {
    let asked = query.and_then(|query| query.strip_prefix("columns=")?.parse().ok());
    asked.unwrap_or(80).clamp(20, 1000)
}

/// `{"error": …}`
pub fn refusal(code: StatusCode, why: &str) -> Answer {
    let json = serde_json::json!({ "error": why }).to_string();
    answer(code, "application/json", json)
}

fn text(body: impl Into<Bytes>) -> Answer {
    // The version is Prometheus' own; anything else reads it as plain text.
    answer(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        body,
    )
}

fn answer(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
