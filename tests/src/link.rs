//! The link between gateway and server, as a TCP proxy whose cable can be
//! pulled: up, refuse, black hole or cut, switched while connections live.
//!
//! It counts what crosses it in each direction, so wire bytes (TLS, headers
//! and keep-alives included) are measured from outside the agent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Up,
    /// Nobody listens: connection attempts are refused, living ones are reset.
    Refuse,
    /// Connections are accepted and stay open; bytes vanish in both directions
    /// and nobody is told. What a lost radio link looks like.
    BlackHole,
    /// The listener accepts and resets at once; living connections are reset.
    Cut,
}

/// Bytes that crossed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the gateway to the server.
    pub up: u64,
    /// From the server to the gateway.
    pub down: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    listening: watch::Receiver<bool>,
    counters: Arc<Counters>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    /// Starts a link to `server` on a free loopback port, up.
    ///
    /// # Errors
    /// When no loopback port can be bound.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, follow) = watch::channel(Mode::Up);
        let (listening_tx, listening) = watch::channel(true);
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(serve(
            listener,
            server,
            follow,
            listening_tx,
            Arc::clone(&counters),
        ));
        Ok(Self {
            address,
            mode,
            listening,
            counters,
            task,
        })
    }

    /// Where the gateway connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`Link::address`].
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Switches; returns when the listener is open or closed as the mode wants it.
    pub async fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        let mut listening = self.listening.clone();
        let want = mode != Mode::Refuse;
        // The proxy task lives as long as this handle, so this only ends early with it.
        let _ = listening.wait_for(|is| *is == want).await;
    }

    /// What has crossed.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            up: self.counters.up.load(Ordering::Relaxed),
            down: self.counters.down.load(Ordering::Relaxed),
            connections: self.counters.connections.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    listening: watch::Sender<bool>,
    counters: Arc<Counters>,
) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = rebind(address).await;
        }
        listening.send_replace(listener.is_some());
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            accepted = accept(listener.as_ref()) => {
                let Ok((client, _)) = accepted else { continue };
                counters.connections.fetch_add(1, Ordering::Relaxed);
                if now == Mode::Cut {
                    reset(&client);
                    continue;
                }
                connections.spawn(carry(client, server, mode.clone(), Arc::clone(&counters)));
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The same port again; it was ours a moment ago, so this only waits for the kernel.
async fn rebind(address: SocketAddr) -> Option<TcpListener> {
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        if socket.bind(address).is_ok()
            && let Ok(listener) = socket.listen(64)
        {
            return Some(listener);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// One connection. The server's side is only dialled once the link is up, so a
/// black hole looks the same to connections from before and after.
async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) {
    let _ = client.set_nodelay(true);
    let mut remote: Option<TcpStream> = None;
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let now = *mode.borrow_and_update();
        if matches!(now, Mode::Cut | Mode::Refuse) {
            reset(&client);
            remote.iter().for_each(reset);
            return;
        }
        if now == Mode::Up && remote.is_none() {
            match TcpStream::connect(server).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    remote = Some(stream);
                }
                Err(_) => {
                    reset(&client);
                    return;
                }
            }
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            read = client.read(&mut up) => {
                let Ok(length) = read else { return };
                if now == Mode::BlackHole {
                    if length == 0 {
                        // Bytes were swallowed: the server must not see a clean end either.
                        remote.iter().for_each(reset);
                        return;
                    }
                    // A stream with a hole can never be right again.
                    if let Some(stream) = remote.take() {
                        drop(tokio::spawn(hold(stream, mode.clone())));
                    }
                    swallow(client, mode).await;
                    return;
                }
                let Some(stream) = remote.as_mut() else { return };
                if length == 0 || stream.write_all(&up[..length]).await.is_err() {
                    let _ = stream.shutdown().await;
                    return;
                }
                counters.up.fetch_add(length as u64, Ordering::Relaxed);
            }
            read = read_some(remote.as_mut(), &mut down), if now == Mode::Up => {
                let Ok(length) = read else {
                    reset(&client);
                    return;
                };
                if length == 0 || client.write_all(&down[..length]).await.is_err() {
                    let _ = client.shutdown().await;
                    return;
                }
                counters.down.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
    }
}

async fn read_some(stream: Option<&mut TcpStream>, buffer: &mut [u8]) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Reads and forgets until the black hole ends, then resets: the peer's bytes are gone.
async fn swallow(mut client: TcpStream, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() || *mode.borrow() != Mode::BlackHole {
                    reset(&client);
                    return;
                }
            }
            read = client.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
        }
    }
}

/// Keeps the server's side of a swallowed connection open until the hole ends.
async fn hold(stream: TcpStream, mut mode: watch::Receiver<Mode>) {
    let _ = mode.wait_for(|mode| *mode != Mode::BlackHole).await;
    reset(&stream);
}

/// Closing sends RST instead of FIN from here on.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn say(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"hello").await?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await?;
        assert_eq!(&back, b"hello");
        Ok(())
    }

    #[tokio::test]
    async fn up_passes_and_counts_both_ways() {
        let link = Link::to(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        say(&mut stream).await.unwrap();
        assert_eq!(
            link.traffic(),
            Traffic {
                up: 5,
                down: 5,
                connections: 1
            }
        );
    }

    #[tokio::test]
    async fn refuse_resets_the_living_and_refuses_the_new_and_comes_back_on_the_same_port() {
        let link = Link::to(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        say(&mut stream).await.unwrap();
        link.set(Mode::Refuse).await;
        let error = timeout(SOON, stream.read(&mut [0; 1])).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let refused = TcpStream::connect(link.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        link.set(Mode::Up).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        say(&mut stream).await.unwrap();
    }

    #[tokio::test]
    async fn a_black_hole_accepts_and_answers_nothing() {
        let link = Link::to(echo().await).await.unwrap();
        let mut old = TcpStream::connect(link.address()).await.unwrap();
        say(&mut old).await.unwrap();
        link.set(Mode::BlackHole).await;
        let mut new = TcpStream::connect(link.address()).await.unwrap();
        for stream in [&mut old, &mut new] {
            stream.write_all(b"lost").await.unwrap();
            let silence = timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
            assert!(silence.is_err(), "{silence:?}");
        }
        assert_eq!(link.traffic().up, 5);
    }

    #[tokio::test]
    async fn a_cut_resets_whoever_comes() {
        let link = Link::to(echo().await).await.unwrap();
        let mut old = TcpStream::connect(link.address()).await.unwrap();
        say(&mut old).await.unwrap();
        link.set(Mode::Cut).await;
        assert!(timeout(SOON, say(&mut old)).await.unwrap().is_err());
        if let Ok(mut new) = TcpStream::connect(link.address()).await {
            assert!(timeout(SOON, say(&mut new)).await.unwrap().is_err());
        }
    }
}
