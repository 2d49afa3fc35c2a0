//! A real OpenTelemetry collector between the agent and the sink: what comes
//! out of it was understood by somebody else's parser.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::broker::free_port;
use crate::workspace;

/// A running rotel that forwards to a sink; ended by its id when dropped.
#[derive(Debug)]
pub struct Rotel {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Rotel {
    /// Starts rotel on a free loopback port, forwarding everything to `sink`.
    ///
    /// # Errors
    /// When it is not installed (`tests/run` does that) or does not come up; with what it said.
    pub async fn start(sink: SocketAddr) -> io::Result<Self> {
        let program = find()?;
        let dir = tempfile::tempdir()?;
        let (address, grpc) = (free_port()?, free_port()?);
        let log = dir.path().join("rotel.log");
        let output = std::fs::File::create(&log)?;
        let mut child = Command::new(program)
            .arg("start")
            .args(["--otlp-http-endpoint", &address.to_string()])
            .args(["--otlp-grpc-endpoint", &grpc.to_string()])
            .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
            .args(["--otlp-exporter-endpoint", &format!("http://{sink}")])
            .args(["--batch-timeout", "200ms"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        for _ in 0..500 {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("rotel: {status}: {said}")));
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(Self {
                    child,
                    address,
                    dir,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(io::Error::other("rotel does not listen"))
    }

    /// Its base address for `uplink.otlp.endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("rotel.log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

/// `ROTEL_BIN`, or the wheel's program in the test script's venv.
fn find() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROTEL_BIN") {
        return Ok(path.into());
    }
    let lib = workspace().join("target/venv/lib");
    let packages = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    packages
        .map(|python| python.path().join("site-packages/rotel/rotel-agent"))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let text = format!(
                "no rotel under {}: run tests/run, which installs it, or set ROTEL_BIN",
                lib.display()
            );
            io::Error::new(io::ErrorKind::NotFound, text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::Collector;
    use crate::sample;
    use prost::Message;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_rotel_takes_arrives_at_the_sink() {
        let sink = Collector::start().await.unwrap();
        let rotel = Rotel::start(sink.address()).await.unwrap();
        let body = sample::frame("a", &[1, 2, 3]).encode_to_vec();
        let mut stream = TcpStream::connect(rotel.address).await.unwrap();
        let head = format!(
            "POST /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        sink.book
            .wait("three ticks", Duration::from_secs(20), |ledger| {
                ledger.last_tick(None) == 3
            })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", rotel.log()));
    }
}
