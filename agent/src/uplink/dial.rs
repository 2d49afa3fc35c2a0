//! Makes connections: name look-up, TCP, TLS, within one deadline, counting
//! every byte that crosses the socket (TLS and headers included).
//!
//! A resolver can hang for longer than anybody wants to wait and cannot be
//! cancelled. So a look-up runs on a thread of its own, and there is one such
//! thread in the process: whoever comes second waits for it within its own
//! deadline and is then told that the resolver hangs, rather than starting a
//! second thread that hangs as well.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::tls::{self, TlsError};
use crate::config::Tls;

/// The one look-up that this process may have under way.
static RESOLVER: Semaphore = Semaphore::const_new(1);

/// Addresses of one name that are tried; with more, each would get too little of the time.
const MAX_ADDRESSES: usize = 8;

/// Enough for any libc's resolver; the default of 2 MiB would be reserved for nothing.
const RESOLVER_STACK: usize = 256 * 1024;

/// Knows one server and how to reach it.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// Host name or address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// Where bytes are counted.
    pub wire: Arc<Wire>,
}

/// What has crossed the sockets of one uplink since the start.
#[derive(Debug, Default)]
pub struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
}

/// An open connection.
#[derive(Debug)]
pub struct Stream {
    peer: SocketAddr,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Plain(Counted),
    Tls(Box<tokio_rustls::client::TlsStream<Counted>>),
}

/// What a caller does about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialErrorKind {
    /// The network or the server is away: try again, backing off.
    Unreachable,
    /// Trust, credentials or configuration are wrong: a person has to act, so
    /// hold everything and try rarely.
    Setup,
}

/// Why there is no connection, in words that say what to do.
#[derive(Debug)]
pub struct DialError {
    /// What to do about it.
    pub kind: DialErrorKind,
    message: String,
}

impl Dialer {
    /// Connects within `timeout`, which covers look-up, TCP and TLS together.
    ///
    /// The socket's `TCP_USER_TIMEOUT` is set to `timeout`, too: data that stays
    /// unacknowledged for that long ends the connection.
    pub async fn dial(&self, timeout: Duration) -> Result<Stream, DialError> {
        let deadline = Instant::now() + timeout;
        // First what needs no network: a missing file is better said than a dead link.
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some((
                TlsConnector::from(tls::client_config(tls)?),
                server_name(&self.host)?,
                tls,
            )),
        };
        let addresses = self.look_up(deadline).await?;
        let tcp = self.connect(&addresses, deadline).await?;
        let peer = tcp.peer_addr().map_err(|error| self.unreachable(&error))?;
        prepare(&tcp, timeout);
        self.wire.connections.fetch_add(1, Ordering::Relaxed);
        let tcp = Counted {
            tcp,
            wire: Arc::clone(&self.wire),
        };
        let inner = match tls {
            None => Inner::Plain(tcp),
            Some((connector, name, files)) => {
                match timeout_at(deadline, connector.connect(name, tcp)).await {
                    Ok(Ok(stream)) => Inner::Tls(Box::new(stream)),
                    Ok(Err(error)) => {
                        return Err(match tls::explain(&error, &self.host, files) {
                            Some(reason) => reason.into(),
                            None => self.unreachable(&error),
                        });
                    }
                    Err(_) => {
                        return Err(DialError::unreachable(format!(
                            "{self} took the connection but did not finish the TLS handshake in time; check that the port speaks TLS"
                        )));
                    }
                }
            }
        };
        Ok(Stream { peer, inner })
    }

    async fn look_up(&self, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let Ok(Ok(permit)) = timeout_at(deadline, RESOLVER.acquire()).await else {
            return Err(DialError::unreachable(format!(
                "cannot look up `{}`: an earlier look-up still hangs; check this machine's DNS servers",
                self.host
            )));
        };
        let (answer, waiting) = oneshot::channel();
        let host = self.host.clone();
        let port = self.port;
        std::thread::Builder::new()
            .name("sonde-resolver".into())
            .stack_size(RESOLVER_STACK)
            .spawn(move || {
                let found = (host.as_str(), port)
                    .to_socket_addrs()
                    .map(|list| in_turn(list.collect()));
                // The slot is free before the answer is known: the next look-up need not wait.
                drop(permit);
                let _ = answer.send(found);
            })
            .map_err(|error| {
                DialError::unreachable(format!(
                    "cannot look up `{}`: no thread for it ({error})",
                    self.host
                ))
            })?;
        match timeout_at(deadline, waiting).await {
            Ok(Ok(Ok(list))) if !list.is_empty() => Ok(list),
            Ok(Ok(Ok(_))) => Err(DialError::unreachable(format!(
                "`{}` has no address; check the name",
                self.host
            ))),
            Ok(Ok(Err(error))) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: {error}; check the name and this machine's DNS servers",
                self.host
            ))),
            Ok(Err(_)) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: the look-up broke off",
                self.host
            ))),
            Err(_) => Err(DialError::unreachable(format!(
                "cannot look up `{}`: no answer in time; check this machine's DNS servers",
                self.host
            ))),
        }
    }

    /// Tries one address after the other; a silent one gets an even part of the time that is left.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<TcpStream, DialError> {
        let mut failures = Vec::with_capacity(addresses.len());
        for (done, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - done).unwrap_or(1).max(1);
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failures.push(format!("{address}: {}", plainly(&error))),
                Err(_) => failures.push(format!("{address}: no answer in time")),
            }
        }
        Err(DialError::unreachable(format!(
            "cannot connect to {self}: {}; check that the server runs and that no firewall is between",
            failures.join(", ")
        )))
    }

    fn unreachable(&self, error: &io::Error) -> DialError {
        DialError::unreachable(format!(
            "the connection to {self} broke while it was made: {}",
            plainly(error)
        ))
    }
}

impl Wire {
    /// Bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// TCP connections made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl DialError {
    fn unreachable(message: String) -> Self {
        Self {
            kind: DialErrorKind::Unreachable,
            message,
        }
    }
}

/// Trust, keys and names need a person; no network weather mends them.
impl From<TlsError> for DialError {
    fn from(error: TlsError) -> Self {
        Self {
            kind: DialErrorKind::Setup,
            message: error.to_string(),
        }
    }
}

impl std::error::Error for DialError {}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `host:port`, with brackets where they are needed.
impl fmt::Display for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName(host.to_owned()))
}

/// The resolver's order, but the families take turns: one that is broken here costs one part of the time, not all.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == six_first);
    let mut first = first.into_iter();
    let mut second = second.into_iter();
    let mut out: Vec<SocketAddr> = Vec::new();
    while out.len() < MAX_ADDRESSES {
        match (first.next(), second.next()) {
            (None, None) => break,
            (one, other) => out.extend(one.into_iter().chain(other)),
        }
    }
    out.truncate(MAX_ADDRESSES);
    out
}

/// Options that make a dead link show; a kernel without them still connects.
fn prepare(tcp: &TcpStream, timeout: Duration) {
    // Requests are written whole: waiting for more to send would only add a delay.
    let _ = tcp.set_nodelay(true);
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(tcp, millis);
}

/// An I/O error without `(os error 111)`.
fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by the server".into(),
        io::ErrorKind::UnexpectedEof => "closed by the server".into(),
        io::ErrorKind::NetworkUnreachable => "no route: network unreachable".into(),
        io::ErrorKind::HostUnreachable => "no route: host unreachable".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        _ => error.to_string(),
    }
}

/// A socket that counts.
#[derive(Debug)]
struct Counted {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        count(
            &self.wire.received,
            buf.filled().len().saturating_sub(before),
        );
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = polled {
            count(&self.wire.sent, bytes);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = polled {
            count(&self.wire.sent, bytes);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_read(cx, buf),
            Inner::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_write(cx, buf),
            Inner::Tls(inner) => Pin::new(inner).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),
            Inner::Tls(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(inner) => inner.is_write_vectored(),
            Inner::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_flush(cx),
            Inner::Tls(inner) => Pin::new(inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(inner) => Pin::new(inner).poll_shutdown(cx),
            Inner::Tls(inner) => Pin::new(inner).poll_shutdown(cx),
        }
    }
}
