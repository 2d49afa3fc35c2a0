//! One kept-alive HTTP/1.1 connection to a collector, one request at a time.
//!
//! [`Client::send`] says what became of a frame as a [`Verdict`]; when to send
//! again is not decided here. Every request has one deadline from its first
//! byte to the last byte of the answer, so a server that dribbles cannot hold
//! it. An answer that breaks off is no answer: the frame goes again.
//!
//! A connection that the server closed while it was idle looks like a failure
//! of the next request. Such a request is made once more on a fresh connection
//! before anybody hears of it.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanContext;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::attempts::Attempts;
use super::delivery::Verdict;
use super::dial::{DialError, DialErrorKind, Dialer};
use super::otlp_answer::Answer;
use super::otlp_headers::Headers;
use super::{split, tls};
use crate::clock::Clock;
use crate::config::OtlpUplink;
use crate::event::Events;
use crate::frame::{Codec, Frame, Signal};
use crate::trace::Tracer;
use crate::vitals;

/// The longest answer that is read at all (OTLP/HTTP lets a client stop at 4 MiB).
const MAX_ANSWER: usize = 4 << 20;

/// What is kept of it: a partial success or a reason has a few hundred bytes,
/// unless it lists what it rejected.
const KEPT_ANSWER: usize = 256 * 1024;

/// No server that means to take anything refuses a body as small as this, in
/// bytes before it is packed.
const SENSIBLE_LIMIT: usize = 4096;

/// Room for an answer's head; more than that is not a collector's.
const HEAD_BUFFER: usize = 16 * 1024;

/// Partial successes are logged this often at most.
const WARN_EVERY_NS: u64 = 60 * 1_000_000_000;

/// Sends frames to one collector.
#[derive(Debug)]
pub(super) struct Client {
    config: OtlpUplink,
    dialer: Dialer,
    attempts: Attempts,
    clock: Clock,
    host: HeaderValue,
    fixed: HeaderMap,
    secret: Headers,
    /// The file must be read again before the next request.
    reread: bool,
    /// What was last said about bad lines, so that it is said once.
    told: Vec<String>,
    connection: Option<Connection>,
    /// Told when a connection has ended, whoever ended it.
    gone: Arc<Notify>,
    /// The attempt to connect that failed last, for whoever reports it.
    failed_attempt: Option<SpanContext>,
    last_warning: Option<u64>,
    silent_warnings: u64,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<Result<(), hyper::Error>>,
    /// It has answered before, so a failure may only mean that it was idle for too long.
    used: bool,
}

/// A request that got no whole answer.
#[derive(Debug)]
enum Broken {
    Late,
    Http(hyper::Error),
    /// It cannot be made at all.
    Unmade(String),
}

impl Client {
    /// Not connected yet.
    pub(super) fn new(
        config: OtlpUplink,
        dialer: Dialer,
        tracer: Tracer,
        clock: Clock,
        events: Events,
    ) -> Self {
        let standard = if config.tls.is_some() { 443 } else { 80 };
        let host = if config.port == standard {
            let whole = dialer.to_string();
            whole
                .rsplit_once(':')
                .map_or(whole.clone(), |(host, _)| host.to_owned())
        } else {
            dialer.to_string()
        };
        let mut fixed = HeaderMap::new();
        for (name, value) in &config.headers {
            match (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                (Ok(name), Ok(value)) => {
                    fixed.append(name, value);
                }
                _ => log::warn!(
                    "uplink otlp: the header `{name}` cannot be sent and is left out; check `headers`"
                ),
            }
        }
        Self {
            // A host that is no header value is no DNS name either: dialling says so.
            host: HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("")),
            attempts: Attempts::new(
                tracer,
                clock.clone(),
                events,
                "otlp",
                [
                    KeyValue::new("server.address", dialer.host.clone()),
                    KeyValue::new("server.port", i64::from(dialer.port)),
                ],
            ),
            config,
            dialer,
            clock,
            fixed,
            secret: Headers::default(),
            reread: true,
            told: Vec::new(),
            connection: None,
            gone: Arc::default(),
            failed_attempt: None,
            last_warning: None,
            silent_warnings: 0,
        }
    }

    /// Whether there is a connection that the server has not closed.
    pub(super) fn is_connected(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| !connection.sender.is_closed())
    }

    /// Waits for the end of a connection; may tell of one that is known already.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        let gone = self.gone.clone();
        async move { gone.notified().await }
    }

    /// Drops the connection.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Its attempts to connect, and what came of them.
    pub(super) fn attempts(&mut self) -> &mut Attempts {
        &mut self.attempts
    }

    /// The span of the attempt to connect that has just failed, once.
    pub(super) fn failed_attempt(&mut self) -> Option<SpanContext> {
        self.failed_attempt.take()
    }

    /// Makes a connection, see [`Attempts`] for its span. The error is a
    /// [`Verdict::Retry`] or a [`Verdict::Hold`].
    pub(super) async fn connect(&mut self) -> Result<(), Verdict> {
        self.connection = None;
        let began = self.clock.now();
        let made = self.connect_unseen().await;
        let error = match &made {
            Err(Verdict::Retry { why, .. } | Verdict::Hold { reason: why }) => Some(why.as_str()),
            _ => None,
        };
        let span = self.attempts.ended(began, error);
        self.failed_attempt = span.filter(|_| error.is_some());
        made
    }

    async fn connect_unseen(&mut self) -> Result<(), Verdict> {
        self.reread = true;
        self.read_headers()?;
        let timeout = self.config.delivery.timeout;
        let stream = self.dialer.dial(timeout).await.map_err(Verdict::from)?;
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_BUFFER)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| self.judge(&Broken::Http(error)))?;
        let gone = self.gone.clone();
        self.connection = Some(Connection {
            sender,
            driver: vitals::OTLP.spawn(async move {
                let ended = connection.await;
                gone.notify_one();
                ended
            }),
            used: false,
        });
        Ok(())
    }

    /// Sends a frame, connecting first if need be, and says what became of it.
    pub(super) async fn send(&mut self, frame: &Frame) -> Verdict {
        let batch = &frame.batch;
        let packed = batch.codec == Codec::Gzip;
        if packed && self.config.gzip {
            let verdict = self
                .send_body(batch.signal, batch.body.clone(), true, batch.items)
                .await;
            return match verdict {
                Verdict::Split => match split::gunzip(&batch.body) {
                    Ok(body) => self.send_in_parts(batch.signal, body, batch.items).await,
                    Err(error) => unreadable(&error.to_string()),
                },
                other => other,
            };
        }
        let body = if packed {
            match split::gunzip(&batch.body) {
                Ok(body) => Bytes::from(body),
                Err(error) => return unreadable(&error.to_string()),
            }
        } else {
            batch.body.clone()
        };
        match self
            .send_body(batch.signal, body.clone(), false, batch.items)
            .await
        {
            Verdict::Split => {
                self.send_in_parts(batch.signal, body.into(), batch.items)
                    .await
            }
            other => other,
        }
    }

    /// Halves until every part is small enough. A single item that is still
    /// too large counts as rejected; if nothing at all got through, the frame is condemned.
    async fn send_in_parts(&mut self, signal: Signal, whole: Vec<u8>, items: u32) -> Verdict {
        let mut too_large = vec![whole];
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut rejected = 0_u64;
        let mut any_delivered = false;
        while let Some(body) = too_large.pop() {
            match split::halve(signal, &body) {
                Ok(Some((one, two))) => waiting.extend([two, one]),
                // A server that takes not even that takes nothing; asking for
                // each item of the frame would only burn the link.
                Ok(None) if !any_delivered && body.len() <= SENSIBLE_LIMIT => break,
                Ok(None) => {
                    rejected += 1;
                    self.warn_rejected(1, "the server answered 413 to a single item");
                }
                Err(error) => return unreadable(&error.to_string()),
            }
            while let Some(part) = waiting.pop() {
                match self.send_part(signal, &part).await {
                    Verdict::Delivered { rejected_items } => {
                        rejected = rejected.saturating_add(rejected_items);
                        any_delivered = true;
                    }
                    Verdict::Split => {
                        too_large.push(part);
                        break;
                    }
                    other => return other,
                }
            }
        }
        if any_delivered {
            Verdict::Delivered {
                rejected_items: rejected.min(u64::from(items)),
            }
        } else {
            Verdict::Condemn {
                reason: "the server answered 413 even to single items".into(),
            }
        }
    }

    async fn send_part(&mut self, signal: Signal, part: &[u8]) -> Verdict {
        if !self.config.gzip {
            return self
                .send_body(signal, Bytes::copy_from_slice(part), false, u32::MAX)
                .await;
        }
        match split::gzip(part) {
            Ok(packed) => {
                self.send_body(signal, Bytes::from(packed), true, u32::MAX)
                    .await
            }
            Err(error) => Verdict::Retry {
                after: None,
                why: format!("cannot pack a part: {error}"),
            },
        }
    }

    async fn send_body(&mut self, signal: Signal, body: Bytes, gzip: bool, items: u32) -> Verdict {
        if signal == Signal::Message {
            return Verdict::Condemn {
                reason: "a local program's message has no OTLP form; only an MQTT uplink takes it"
                    .into(),
            };
        }
        let first = self.attempt(signal, &body, gzip).await;
        let answer = match first {
            Ok(answer) => answer,
            Err((_, true)) => match self.attempt(signal, &body, gzip).await {
                Ok(answer) => answer,
                Err((verdict, _)) => return verdict,
            },
            Err((verdict, false)) => return verdict,
        };
        let unix_s = self.clock.now().unix_ns / 1_000_000_000;
        let meaning = answer.meaning(items, unix_s);
        match (&meaning.verdict, answer.code) {
            (Verdict::Delivered { rejected_items }, _) if !meaning.warning.is_empty() => {
                let message = self.secret.strike_out(&meaning.warning);
                self.warn_rejected(*rejected_items, &message);
            }
            (_, 401 | 403) => self.reread = true,
            _ => {}
        }
        self.for_people(meaning.verdict, self.path(signal))
    }

    /// One request. The flag of the error: the connection had only been idle for too long.
    async fn attempt(
        &mut self,
        signal: Signal,
        body: &Bytes,
        gzip: bool,
    ) -> Result<Answer, (Verdict, bool)> {
        if !self.is_connected() {
            self.connect().await.map_err(|verdict| (verdict, false))?;
        }
        self.read_headers().map_err(|verdict| (verdict, false))?;
        let request = self
            .request(signal, body.clone(), gzip)
            .map_err(|why| (self.judge(&Broken::Unmade(why)), false))?;
        let Some(mut connection) = self.connection.take() else {
            let why = "the connection was closed at once".to_owned();
            return Err((Verdict::Retry { after: None, why }, false));
        };
        match connection
            .exchange(request, self.config.delivery.timeout)
            .await
        {
            Ok(answer) => {
                connection.used = true;
                // What is left of a body that was too long must not be taken for the next answer.
                if !answer.cut {
                    self.connection = Some(connection);
                }
                Ok(answer)
            }
            Err(broken) => {
                let stale = connection.used && broken.may_be_stale();
                Err((self.judge(&broken), stale))
            }
        }
    }

    fn request(
        &self,
        signal: Signal,
        body: Bytes,
        gzip: bool,
    ) -> Result<Request<Full<Bytes>>, String> {
        let path = self.path(signal);
        let uri: Uri = path
            .parse()
            .map_err(|error| format!("`{path}` is no request path ({error}); check `paths`"))?;
        let mut request = Request::post(uri)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        headers.extend(self.fixed.clone());
        headers.extend(self.secret.map.clone());
        headers.insert(HOST, self.host.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("sonde/", env!("CARGO_PKG_VERSION"))),
        );
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }

    fn read_headers(&mut self) -> Result<(), Verdict> {
        if !self.reread {
            return Ok(());
        }
        if let Some(path) = &self.config.headers_file {
            self.secret = Headers::read(path).map_err(|reason| Verdict::Hold { reason })?;
            if self.secret.problems != self.told {
                for problem in &self.secret.problems {
                    log::warn!("uplink otlp: {problem}; the line is left out");
                }
                self.told.clone_from(&self.secret.problems);
            }
        }
        self.reread = false;
        Ok(())
    }

    /// What a request without a whole answer means.
    fn judge(&self, broken: &Broken) -> Verdict {
        let server = &self.dialer;
        let why = match broken {
            Broken::Unmade(reason) => {
                return Verdict::Hold {
                    reason: reason.clone(),
                };
            }
            Broken::Late => format!(
                "{server} did not answer within {:?}",
                self.config.delivery.timeout
            ),
            Broken::Http(error) => {
                if let Some(io) = io_source(error) {
                    let blamed = self
                        .config
                        .tls
                        .as_ref()
                        .and_then(|files| tls::explain(io, &self.config.host, files));
                    if let Some(reason) = blamed {
                        return Verdict::from(DialError::from(reason));
                    }
                    format!("the connection to {server} broke: {io}")
                } else if error.is_parse() {
                    format!(
                        "{server} answers, but not in HTTP/1.1; check the port of `endpoint` (OTLP over HTTP is 4318 by custom; 4317 is gRPC)"
                    )
                } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed()
                {
                    format!("{server} closed the connection before it had answered")
                } else {
                    format!("the request to {server} failed: {error}")
                }
            }
        };
        Verdict::Retry { after: None, why }
    }

    /// Names the path, since signals have different ones, and strikes secrets out.
    fn for_people(&self, verdict: Verdict, path: &str) -> Verdict {
        let told = |words: &str| format!("{path}: {}", self.secret.strike_out(words));
        match verdict {
            Verdict::Retry { after, why } => Verdict::Retry {
                after,
                why: told(&why),
            },
            Verdict::Condemn { reason } => Verdict::Condemn {
                reason: told(&reason),
            },
            // It is an answer, so it is about this path only.
            Verdict::Hold { reason } | Verdict::Refuse { reason } => Verdict::Refuse {
                reason: told(&reason),
            },
            other => other,
        }
    }

    fn path(&self, signal: Signal) -> &str {
        match signal {
            Signal::Traces => &self.config.paths.traces,
            Signal::Logs => &self.config.paths.logs,
            Signal::Metrics | Signal::Message => &self.config.paths.metrics,
        }
    }

    fn warn_rejected(&mut self, items: u64, message: &str) {
        let now = self.clock.boot_ns();
        if self
            .last_warning
            .is_some_and(|last| now.saturating_sub(last) < WARN_EVERY_NS)
        {
            self.silent_warnings += 1;
            return;
        }
        let more = std::mem::take(&mut self.silent_warnings);
        let before = if more > 0 {
            format!(" ({more} more such answers since the last of these lines)")
        } else {
            String::new()
        };
        self.last_warning = Some(now);
        if items == 0 {
            log::warn!("uplink otlp: the server took everything but warns: {message}{before}");
        } else {
            log::warn!(
                "uplink otlp: the server rejected {items} items of a frame: {message}{before}"
            );
        }
    }

    /// Changes when somebody touches a file that holds a credential.
    pub(super) fn credentials_stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        let tls = self.config.tls.iter();
        let files = tls.flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file]);
        let stamp = |path: &PathBuf| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        std::iter::once(&self.config.headers_file)
            .chain(files)
            .flatten()
            .map(stamp)
            .collect()
    }
}

impl Connection {
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<Answer, Broken> {
        let whole = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let (body, cut) = read_body(body).await?;
            Ok(Answer {
                code: head.status.as_u16(),
                headers: head.headers,
                body,
                cut,
            })
        };
        match tokio::time::timeout(timeout, whole).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Broken::Http(self.cause(error).await)),
            Err(_) => Err(Broken::Late),
        }
    }

    /// Where the request only learnt that the connection was gone, its driver may know why.
    async fn cause(&mut self, error: hyper::Error) -> hyper::Error {
        if !(error.is_canceled() || error.is_closed()) || !self.driver.is_finished() {
            return error;
        }
        match (&mut self.driver).await {
            Ok(Err(cause)) => cause,
            _ => error,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Broken {
    fn may_be_stale(&self) -> bool {
        match self {
            Broken::Http(error) => {
                error.is_incomplete_message()
                    || error.is_canceled()
                    || error.is_closed()
                    || io_source(error).is_some_and(|io| {
                        matches!(
                            io.kind(),
                            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                        )
                    })
            }
            Broken::Late | Broken::Unmade(_) => false,
        }
    }
}

/// The network may mend itself; trust and credentials will not.
impl From<DialError> for Verdict {
    fn from(error: DialError) -> Self {
        match error.kind {
            DialErrorKind::Unreachable => Verdict::Retry {
                after: None,
                why: error.to_string(),
            },
            DialErrorKind::Setup => Verdict::Hold {
                reason: error.to_string(),
            },
        }
    }
}

/// Reads the answer's body; keeps its beginning. `true`: it was too long, and the rest is unread.
async fn read_body(mut body: Incoming) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut kept = Vec::new();
    let mut seen = 0_usize;
    while let Some(part) = body.frame().await {
        if let Ok(data) = part?.into_data() {
            seen = seen.saturating_add(data.len());
            let room = KEPT_ANSWER.saturating_sub(kept.len());
            kept.extend(data.iter().take(room));
            if seen > MAX_ANSWER {
                return Ok((kept, true));
            }
        }
    }
    Ok((kept, false))
}

fn unreadable(why: &str) -> Verdict {
    Verdict::Condemn {
        reason: format!("the stored body cannot be read: {why}"),
    }
}

fn io_source(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref::<io::Error>()
}

#[cfg(test)]
#[path = "otlp_client_tests.rs"]
mod tests;
