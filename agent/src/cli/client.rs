//! One HTTP request to the agent over one of its Unix sockets.
//!
//! Trusts nothing that comes back: bytes and time are bounded.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{FAILED, UNREACHABLE};

/// From connecting to the last byte.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A thousand series take about 200 KB; this is for whoever sends without end.
pub const MOST: u64 = 8 << 20;

/// What to ask.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`.
    pub method: &'a str,
    /// Such as `/v1/traces`.
    pub path: &'a str,
    /// Names and values; no line breaks in either, else [`Failure::Nonsense`].
    pub headers: &'a [(&'a str, &'a str)],
    /// Empty: none is sent.
    pub body: &'a [u8],
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// As it was sent.
    pub body: Vec<u8>,
}

/// Why there is no reply, in words, by exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers: 3.
    Unreachable(String),
    /// Who answers does not speak HTTP: 1.
    Nonsense(String),
}

impl Failure {
    /// The exit code that says it.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Unreachable(_) => UNREACHABLE,
            Failure::Nonsense(_) => FAILED,
        }
    }

    /// What happened and what to do.
    pub fn words(&self) -> &str {
        match self {
            Failure::Unreachable(words) | Failure::Nonsense(words) => words,
        }
    }
}

impl Reply {
    /// The `error` of a refusal (`{"error": …}`), or the body as it is.
    pub fn error(&self) -> String {
        let json = serde_json::from_slice::<serde_json::Value>(&self.body);
        match json
            .ok()
            .as_ref()
            .and_then(|json| json.get("error")?.as_str())
        {
            Some(error) => error.to_owned(),
            None => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}

/// Asks and waits, for subcommands that have no runtime of their own.
pub fn ask(socket: &Path, request: &Request<'_>) -> Result<Reply, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Nonsense(format!("could not start: {error}")))?;
    runtime.block_on(send(socket, request))
}

/// Asks within [`DEADLINE`].
pub async fn send(socket: &Path, request: &Request<'_>) -> Result<Reply, Failure> {
    match timeout(DEADLINE, exchange(socket, request)).await {
        Ok(reply) => reply,
        Err(_) => Err(Failure::Unreachable(format!(
            "no agent answers on {} within {} s. Is it hanging? Try: systemctl status sonde",
            socket.display(),
            DEADLINE.as_secs()
        ))),
    }
}

async fn exchange(socket: &Path, request: &Request<'_>) -> Result<Reply, Failure> {
    let nobody = |error: io::Error| {
        let dead = match error.kind() {
            io::ErrorKind::ConnectionRefused => " (a dead agent's socket)",
            io::ErrorKind::PermissionDenied => " (you need the socket's group, or sudo)",
            _ => "",
        };
        Failure::Unreachable(format!(
            "no agent answers on {}: {error}{dead}. Is it running? Try: systemctl status sonde, \
             or sonde run --config FILE",
            socket.display()
        ))
    };
    let head = head(request)?;
    let mut stream = UnixStream::connect(socket).await.map_err(nobody)?;
    // A refusal may come before the body is taken: read it all the same.
    let written = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(request.body).await
    }
    .await;
    let mut answer = Vec::new();
    let read = (&mut stream).take(MOST + 1).read_to_end(&mut answer).await;
    if answer.is_empty() {
        let nothing = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Err(nobody(written.and(read).err().unwrap_or(nothing)));
    }
    parse(&answer)
}

fn head(request: &Request<'_>) -> Result<String, Failure> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: sonde\r\nConnection: close\r\n",
        request.method, request.path
    );
    if !request.body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
    }
    for (name, value) in request.headers {
        if name.contains(['\r', '\n', ':']) || value.contains(['\r', '\n']) {
            let what = format!("{name:?} cannot be sent: it holds a line break");
            return Err(Failure::Nonsense(what));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Ok(head)
}

/// The agent answers with a length and closes: what follows the head is the body.
fn parse(answer: &[u8]) -> Result<Reply, Failure> {
    let nonsense = |why: &str| Failure::Nonsense(format!("who answers is no agent: {why}"));
    if answer.len() as u64 > MOST {
        return Err(nonsense("the answer does not end"));
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| nonsense("it does not speak HTTP"))?;
    let (head, body) = answer.split_at(end);
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
        .ok_or_else(|| nonsense("it does not speak HTTP/1.1"))?;
    Ok(Reply {
        status,
        body: body.get(4..).unwrap_or_default().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::door;
    use crate::door::{Answer, Boxed, Routes, refusal};

    /// Answers before it has read a body, and reads none.
    struct Picky;

    impl Routes for Picky {
        fn answer(&self, request: http::Request<hyper::body::Incoming>) -> Boxed<'_, Answer> {
            let answer = match request.uri().path() {
                "/" => refusal(http::StatusCode::OK, ""),
                _ => refusal(http::StatusCode::NOT_FOUND, "no such path"),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    fn get(path: &str) -> Request<'_> {
        Request {
            method: "GET",
            path,
            headers: &[("x-test", "1")],
            body: b"",
        }
    }

    #[tokio::test]
    async fn a_dead_or_missing_socket_is_nobody_with_advice_and_exit_code_3() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..2 {
            let failure = send(&path, &get("/")).await.unwrap_err();
            assert_eq!(failure.code(), 3);
            assert!(failure.words().contains("systemctl status sonde"));
            // The second time: a dead agent's socket.
            drop(std::os::unix::net::UnixListener::bind(&path).ok());
        }
        assert_eq!(
            std::thread::spawn(move || ask(&path, &get("/")).unwrap_err().code())
                .join()
                .unwrap(),
            3
        );
    }

    #[tokio::test]
    async fn a_real_door_answers_with_code_and_body() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let stop = CancellationToken::new();
        let door = door::bind(&path, "paths.socket").await.unwrap();
        let routes = Arc::new(Picky);
        let task = tokio::spawn(door::serve(door, routes, door::Limits::LOCAL, stop.clone()));
        let reply = send(&path, &get("/")).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, b"{\"error\":\"\"}");
        let post = Request {
            method: "POST",
            body: &[b'x'; 100_000],
            ..get("/nowhere")
        };
        let reply = send(&path, &post).await.unwrap();
        assert_eq!(reply.status, 404);
        assert_eq!(reply.error(), "no such path");
        stop.cancel();
        task.await.unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        for answer in [
            &vec![b'a'; MOST as usize + 1],
            b"hello".as_slice(),
            b"\xff\r\n\r\n",
            b"HTTP/1.1 2\r\n\r\n",
        ] {
            assert_eq!(parse(answer).unwrap_err().code(), 1);
        }
        let split = Request {
            headers: &[("a", "b\r\nc: d")],
            ..get("/")
        };
        assert!(head(&split).is_err());
    }
}
