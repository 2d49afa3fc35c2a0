//! A collector that can have a bad day: an OTLP/HTTP sink that decodes what
//! comes, writes it into a [`Book`], and answers as it is told to.
//!
//! It is strict: a request that is not OTLP as the specification says (method,
//! path, content type, encoding, body) gets a 4xx and is written down as a
//! fault, so a test can demand that there were none. Only what was answered
//! with a 200 counts as delivered.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message;
use sonde_agent::frame::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ledger::{Book, Delivery, Payload, TooLate, now_unix_ns};

/// The largest request the specification lets a client send.
const MAX_REQUEST: usize = 64 << 20;

/// How requests are answered from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200.
    Accept,
    /// This status, an empty body.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    TooMany {
        /// Seconds.
        retry_after: u64,
    },
    /// 401 until `Authorization` is exactly this.
    NeedToken(String),
    /// 413 for bodies of more bytes (as they are on the wire).
    LimitBytes(usize),
    /// 200 that says this many data points were rejected.
    Partial {
        /// How many.
        rejected: i64,
    },
    /// 200 with a body that is not protobuf.
    GarbageBody,
    /// Bytes that are not HTTP.
    Garbage,
    /// One byte of a good answer a second, for ever.
    SlowLoris,
    /// 307 to this address.
    Redirect(String),
}

impl Answer {
    /// Does not speak HTTP, so it is decided at the connection.
    fn is_raw(&self) -> bool {
        matches!(self, Self::Garbage | Self::SlowLoris)
    }
}

/// A running sink; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    tls: bool,
    /// What was accepted.
    pub book: Book,
    desk: Arc<Desk>,
    task: tokio::task::JoinHandle<()>,
}

/// What connections share.
#[derive(Debug)]
struct Desk {
    state: Mutex<State>,
    /// Steps when the way of answering changes between HTTP and raw.
    answer: watch::Sender<Answer>,
    /// Steps at every request.
    seen: watch::Sender<u64>,
    book: Book,
}

#[derive(Debug, Default)]
struct State {
    once: VecDeque<Answer>,
    statuses: BTreeMap<u16, u64>,
    faults: Vec<String>,
}

impl Collector {
    /// Starts a plain sink on a free loopback port.
    ///
    /// # Errors
    /// When no loopback port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::launch(None).await
    }

    /// Starts one that speaks TLS (and mTLS if the config demands it).
    ///
    /// # Errors
    /// When no loopback port can be bound.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> io::Result<Self> {
        Self::launch(Some(TlsAcceptor::from(config))).await
    }

    async fn launch(tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let book = Book::default();
        let desk = Arc::new(Desk {
            state: Mutex::default(),
            answer: watch::Sender::new(Answer::Accept),
            seen: watch::Sender::new(0),
            book: book.clone(),
        });
        let secure = tls.is_some();
        let task = tokio::spawn(serve(listener, tls, Arc::clone(&desk)));
        Ok(Self {
            address,
            tls: secure,
            book,
            desk,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base address for `uplink.otlp.endpoint`.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers like this from now on. Going to or from a raw answer drops living connections.
    pub fn answer(&self, answer: Answer) {
        self.desk.lock().once.clear();
        self.desk.answer.send_replace(answer);
    }

    /// Answers the next requests like this, one each, then as before.
    pub fn answer_once(&self, answers: impl IntoIterator<Item = Answer>) {
        self.desk.lock().once.extend(answers);
    }

    /// How often each status was answered.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        self.desk.lock().statuses.clone()
    }

    /// How often this status was answered.
    pub fn answered(&self, status: u16) -> u64 {
        self.desk
            .lock()
            .statuses
            .get(&status)
            .copied()
            .unwrap_or_default()
    }

    /// Requests that were not OTLP, in words.
    pub fn faults(&self) -> Vec<String> {
        self.desk.lock().faults.clone()
    }

    /// Waits until this status was answered that often.
    ///
    /// # Errors
    /// [`TooLate`] when it was not within `limit`.
    pub async fn wait_answered(
        &self,
        status: u16,
        times: u64,
        limit: Duration,
    ) -> Result<(), TooLate> {
        let mut seen = self.desk.seen.subscribe();
        let enough = seen.wait_for(|_| self.answered(status) >= times);
        match tokio::time::timeout(limit, enough).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TooLate(format!(
                "the collector answering {status} {times} times (within {limit:?}; so far {:?})",
                self.statuses()
            ))),
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let response = self.respond(request).await;
        let status = response.status().as_u16();
        *self.lock().statuses.entry(status).or_default() += 1;
        self.seen.send_modify(|count| *count += 1);
        Ok(response)
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = header_of(&request, header::AUTHORIZATION.as_str());
        let delivery = match read(request).await {
            Ok(delivery) => delivery,
            Err((status, fault)) => {
                self.lock().faults.push(fault);
                return plain(status);
            }
        };
        let standing = self.answer.borrow().clone();
        let answer = self.lock().once.pop_front().unwrap_or(standing);
        let ok = ExportMetricsServiceResponse::default().encode_to_vec();
        match answer {
            Answer::Accept => self.accept(delivery, ok),
            Answer::NeedToken(wanted) if token.as_deref() == Some(wanted.as_str()) => {
                self.accept(delivery, ok)
            }
            Answer::NeedToken(_) => plain(StatusCode::UNAUTHORIZED),
            Answer::LimitBytes(limit) if delivery.body_bytes > limit => {
                plain(StatusCode::PAYLOAD_TOO_LARGE)
            }
            Answer::LimitBytes(_) => self.accept(delivery, ok),
            Answer::Status(code) => {
                plain(StatusCode::from_u16(code).unwrap_or(StatusCode::IM_A_TEAPOT))
            }
            Answer::TooMany { retry_after } => {
                let mut response = plain(StatusCode::TOO_MANY_REQUESTS);
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, retry_after.into());
                response
            }
            Answer::Partial { rejected } => {
                let body = ExportMetricsServiceResponse {
                    partial_success: Some(ExportMetricsPartialSuccess {
                        rejected_data_points: rejected,
                        error_message: "too old".to_owned(),
                    }),
                };
                self.accept(delivery, body.encode_to_vec())
            }
            Answer::GarbageBody => self.accept(delivery, vec![0xff; 64]),
            Answer::Redirect(to) => {
                let mut response = plain(StatusCode::TEMPORARY_REDIRECT);
                if let Ok(value) = to.parse() {
                    response.headers_mut().insert(header::LOCATION, value);
                }
                response
            }
            // Switched while this request was under way.
            Answer::Garbage | Answer::SlowLoris => plain(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    fn accept(&self, delivery: Delivery, body: Vec<u8>) -> Response<Full<Bytes>> {
        self.book.record(delivery);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/x-protobuf"),
        );
        response
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(greet(stream, tls.clone(), Arc::clone(&desk)));
            }
        }
    }
}

async fn greet(stream: TcpStream, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => talk(stream, desk).await,
        Some(acceptor) => {
            // A client that does not trust us goes away here; its log says why.
            if let Ok(stream) = acceptor.accept(stream).await {
                talk(stream, desk).await;
            }
        }
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) {
    let mut answer = desk.answer.subscribe();
    let now = answer.borrow_and_update().clone();
    let raw = now.is_raw();
    let switched = async move { answer.wait_for(|next| next.is_raw() != raw).await.map(drop) };
    if raw {
        tokio::select! {
            () = misbehave(&mut stream, now == Answer::Garbage) => {}
            _ = switched => {}
        }
        return;
    }
    let service = service_fn(|request| desk.handle(request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        _ = switched => {}
    }
}

async fn misbehave(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), garbage: bool) {
    let mut buffer = [0; 16 * 1024];
    if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
        return;
    }
    if garbage {
        let _ = stream
            .write_all(&[0x15, 0x03, 0xff, 0x00, b'\n'].repeat(100))
            .await;
        let _ = stream.shutdown().await;
        return;
    }
    let good = b"HTTP/1.1 200 OK\r\nX-Padding: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for byte in good {
        tokio::select! {
            _ = tick.tick() => if stream.write_all(&[*byte]).await.is_err() { return },
            // Keep taking what still comes, as a slow server's kernel would.
            read = stream.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
        }
    }
}

/// Reads a request as the specification wants it.
async fn read(request: Request<Incoming>) -> Result<Delivery, (StatusCode, String)> {
    let path = request.uri().path().to_owned();
    let signal = match path.as_str() {
        "/v1/metrics" => Signal::Metrics,
        "/v1/traces" => Signal::Traces,
        "/v1/logs" => Signal::Logs,
        _ => return Err((StatusCode::NOT_FOUND, format!("no such path: {path}"))),
    };
    if request.method() != Method::POST {
        let fault = format!("{} {path}, not POST", request.method());
        return Err((StatusCode::METHOD_NOT_ALLOWED, fault));
    }
    let content_type = header_of(&request, header::CONTENT_TYPE.as_str());
    if content_type.as_deref() != Some("application/x-protobuf") {
        let fault = format!("{path}: content type {content_type:?}");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, fault));
    }
    let encoding = header_of(&request, header::CONTENT_ENCODING.as_str());
    let gzip = match encoding.as_deref() {
        None | Some("identity") => false,
        Some("gzip") => true,
        Some(other) => {
            let fault = format!("{path}: content encoding {other}");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, fault));
        }
    };
    let body = Limited::new(request.into_body(), MAX_REQUEST)
        .collect()
        .await
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{path}: body: {error}")))?
        .to_bytes();
    let received_unix_ns = now_unix_ns();
    let payload = Payload::decode(signal, gzip, &body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{path}: {error}")))?;
    if payload.items() == 0 {
        return Err((
            StatusCode::BAD_REQUEST,
            format!("{path}: an empty envelope"),
        ));
    }
    Ok(Delivery {
        payload,
        target: path,
        body_bytes: body.len(),
        properties: Vec::new(),
        received_unix_ns,
        decoded_unix_ns: now_unix_ns(),
    })
}

fn header_of(request: &Request<Incoming>, name: &str) -> Option<String> {
    let value = request.headers().get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proof, sample};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const SOON: Duration = Duration::from_secs(5);

    /// One raw request; the status line's code, or `None` for anything else.
    async fn post(to: SocketAddr, extra: &str, path: &str, body: &[u8]) -> Option<u16> {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n{extra}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn body() -> Vec<u8> {
        sample::frame("a", &[1, 2, 3]).encode_to_vec()
    }

    #[tokio::test]
    async fn what_is_accepted_is_in_the_book_plain_or_packed() {
        let collector = Collector::start().await.unwrap();
        let to = collector.address();
        assert_eq!(post(to, "", "/v1/metrics", &body()).await, Some(200));
        let packed = gzip(&body());
        let extra = "Content-Encoding: gzip\r\n";
        assert_eq!(post(to, extra, "/v1/metrics", &packed).await, Some(200));
        let verdict = proof::judge(&collector.book.copy());
        assert!(verdict.holds(), "{:?}", verdict.failures());
        assert_eq!(verdict.repeats(), verdict.delivered());
        assert_eq!(collector.faults(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn each_script_answers_as_told_and_only_200_counts() {
        let collector = Collector::start().await.unwrap();
        let to = collector.address();
        for (answer, expected, delivered) in [
            (Answer::Status(503), Some(503), 0),
            (Answer::TooMany { retry_after: 1 }, Some(429), 0),
            (Answer::Status(400), Some(400), 0),
            (Answer::NeedToken("Bearer new".to_owned()), Some(401), 0),
            (Answer::LimitBytes(10), Some(413), 0),
            (Answer::LimitBytes(100_000), Some(200), 1),
            (Answer::Partial { rejected: 2 }, Some(200), 1),
            (Answer::GarbageBody, Some(200), 1),
            (
                Answer::Redirect("http://127.0.0.1:9/".to_owned()),
                Some(307),
                0,
            ),
            (Answer::Garbage, None, 0),
            (Answer::SlowLoris, None, 0),
            (Answer::Accept, Some(200), 1),
        ] {
            let before = collector.book.len();
            collector.answer(answer.clone());
            assert_eq!(
                post(to, "", "/v1/metrics", &body()).await,
                expected,
                "{answer:?}"
            );
            assert_eq!(collector.book.len() - before, delivered, "{answer:?}");
        }
        collector.wait_answered(200, 4, SOON).await.unwrap();
    }

    #[tokio::test]
    async fn the_right_token_opens() {
        let collector = Collector::start().await.unwrap();
        collector.answer(Answer::NeedToken("Bearer new".to_owned()));
        let extra = "Authorization: Bearer new\r\n";
        let status = post(collector.address(), extra, "/v1/metrics", &body()).await;
        assert_eq!(status, Some(200));
    }

    #[tokio::test]
    async fn one_shot_answers_come_first_and_in_order() {
        let collector = Collector::start().await.unwrap();
        collector.answer_once([Answer::Status(503), Answer::Status(429)]);
        for expected in [503, 429, 200] {
            let status = post(collector.address(), "", "/v1/metrics", &body()).await;
            assert_eq!(status, Some(expected));
        }
    }

    #[tokio::test]
    async fn what_is_not_otlp_is_a_fault() {
        let collector = Collector::start().await.unwrap();
        let to = collector.address();
        assert_eq!(post(to, "", "/v1/other", &body()).await, Some(404));
        assert_eq!(post(to, "", "/v1/metrics", &[0xff; 20]).await, Some(400));
        assert_eq!(post(to, "", "/v1/metrics", &[]).await, Some(400));
        let lie = "Content-Encoding: gzip\r\n";
        assert_eq!(post(to, lie, "/v1/metrics", &body()).await, Some(400));
        assert_eq!(collector.faults().len(), 4);
        assert!(collector.book.is_empty());
    }
}
