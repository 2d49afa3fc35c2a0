//! A cloud service that sends commands and reads the answers: paho-mqtt, by
//! `tests/cloud.py`.

use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::trace_tree::parse_traceparent;
use crate::workspace;

/// One that runs; it is killed when dropped.
#[derive(Debug)]
pub struct Cloud {
    _child: Child,
    to: ChildStdin,
    answers: Arc<Mutex<Vec<Answer>>>,
    count: watch::Receiver<usize>,
    reader: JoinHandle<()>,
}

/// What came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where.
    pub topic: String,
    /// The answer, if it is JSON.
    pub body: Value,
    /// Correlation data.
    pub correlation: String,
    /// Content type.
    pub content_type: Option<String>,
    /// User properties.
    pub properties: Vec<(String, String)>,
}

impl Cloud {
    /// Connects to the broker at a loopback port and listens on these topics.
    ///
    /// # Errors
    /// When Python or its packages are missing, or the broker refuses.
    pub async fn start(port: u16, topics: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(workspace().join("target/venv/bin/python"))
            .arg(workspace().join("tests/cloud.py"))
            .arg("serve")
            .arg(port.to_string())
            .args(topics)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes to the cloud service"));
        };
        let mut lines = BufReader::new(from).lines();
        let ready = timeout(Duration::from_secs(20), lines.next_line()).await;
        if !matches!(ready, Ok(Ok(Some(_)))) {
            return Err(io::Error::other("the cloud service did not start"));
        }
        let answers = Arc::<Mutex<Vec<Answer>>>::default();
        let (counted, count) = watch::channel(0);
        let into = Arc::clone(&answers);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut answers = into.lock().unwrap_or_else(PoisonError::into_inner);
                answers.push(read(&line));
                counted.send_replace(answers.len());
            }
        });
        Ok(Self {
            _child: child,
            to,
            answers,
            count,
            reader,
        })
    }

    /// Publishes as `tests/cloud.py` documents.
    ///
    /// # Panics
    /// When the cloud service is gone.
    pub async fn send(&mut self, request: Value) {
        let line = format!("{request}\n");
        let sent = self.to.write_all(line.as_bytes()).await;
        sent.expect("the cloud service listens");
    }

    /// Asks for a job.
    pub async fn command(&mut self, prefix: &str, job: &str, payload: &str, correlation: &str) {
        self.send(json!({
            "topic": format!("{prefix}/command/{job}"),
            "payload": payload,
            "correlation": correlation,
        }))
        .await;
    }

    /// All that came so far.
    pub fn answers(&self) -> Vec<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.clone()
    }

    /// What came for a command.
    pub fn of(&self, correlation: &str) -> Vec<Answer> {
        let mut answers = self.answers();
        answers.retain(|answer| answer.correlation == correlation);
        answers
    }

    /// The first answer of that state to a command.
    ///
    /// # Panics
    /// When it does not come in time.
    pub async fn wait(&mut self, correlation: &str, state: &str) -> Answer {
        self.wait_for(correlation, state, 1).await.remove(0)
    }

    /// So many answers of that state to a command.
    ///
    /// # Panics
    /// When they do not come in time.
    pub async fn wait_for(&mut self, correlation: &str, state: &str, count: usize) -> Vec<Answer> {
        let find = |cloud: &Self| {
            let mut answers = cloud.of(correlation);
            answers.retain(|answer| answer.body["state"] == state);
            answers
        };
        let waiting = async {
            loop {
                self.count.borrow_and_update();
                let found = find(self);
                if found.len() >= count {
                    return found;
                }
                if self.count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match timeout(Duration::from_secs(30), waiting).await {
            Ok(found) => found,
            Err(_) => panic!(
                "no {count} answers {state} to {correlation}: {:?}",
                self.of(correlation)
            ),
        }
    }
}

/// What a cloud service sees of so many commands, one after the other: JSON of
/// milliseconds by name and quantile.
///
/// # Errors
/// When Python or its packages are missing, or a command is refused or lost.
pub async fn figures(port: u16, prefix: &str, job: &str, count: u32) -> io::Result<Value> {
    let output = Command::new(workspace().join("target/venv/bin/python"))
        .arg(workspace().join("tests/cloud.py"))
        .arg("figures")
        .arg(port.to_string())
        .args([prefix, job])
        .arg(count.to_string())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(said));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn read(line: &str) -> Answer {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    Answer {
        topic: text("topic"),
        body: serde_json::from_str(&text("payload")).unwrap_or_default(),
        correlation: text("correlation"),
        content_type: line["content_type"].as_str().map(str::to_owned),
        properties: serde_json::from_value(line["properties"].clone()).unwrap_or_default(),
    }
}

/// The caller's own span, for a tree that begins with it.
///
/// # Panics
/// When that is no `traceparent`.
pub fn caller(traceparent: &str) -> Span {
    let (trace_id, span_id) = parse_traceparent(traceparent).expect("a traceparent");
    Span {
        trace_id,
        span_id,
        name: "publish command".to_owned(),
        kind: SpanKind::Producer.into(),
        ..Span::default()
    }
}
