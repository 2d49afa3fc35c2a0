//! The real mosquitto with a configuration made for one test, and a subscriber
//! that keeps what the gateway publishes in the same [`Book`] as the collector.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use sonde_agent::frame::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::certs::{Certs, Pair};
use crate::ledger::{Book, Delivery, Payload, TooLate, now_unix_ns};

/// How gateways may come in. Subscribers of the test have a plain door of their own.
#[derive(Clone, Debug)]
pub enum Door {
    /// No TLS, anonymous.
    Plain,
    /// No TLS, this user and password only.
    Password(String, String),
    /// The broker shows this certificate.
    Tls(Pair),
    /// It also demands one of the test's authority.
    MutualTls(Pair),
}

/// A running mosquitto; ended by its id when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    door: SocketAddr,
    back_door: SocketAddr,
    dir: TempDir,
}

/// A subscriber of everything under a prefix; ends when dropped.
#[derive(Debug)]
pub struct Subscriber {
    /// Telemetry that came.
    pub book: Book,
    states: Arc<Mutex<Vec<State>>>,
    faults: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// One message on the `state` topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// As published.
    pub payload: String,
    /// Came from the broker's memory when we subscribed.
    pub retained: bool,
}

impl Broker {
    /// Starts mosquitto on free loopback ports and waits until it listens.
    ///
    /// # Errors
    /// When mosquitto is not installed or does not come up; with what it said.
    pub async fn start(door: &Door, certs: Option<&Certs>) -> io::Result<Self> {
        let mut last = io::Error::other("mosquitto was not tried");
        // A free port can be taken by somebody else before mosquitto binds it.
        for _ in 0..5 {
            match Self::try_start(door, certs).await {
                Ok(broker) => return Ok(broker),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_start(door: &Door, certs: Option<&Certs>) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (front, back) = (free_port()?, free_port()?);
        let text = configuration(door, certs, dir.path(), front, back)?;
        let file = dir.path().join("mosquitto.conf");
        std::fs::write(&file, text)?;
        let log = dir.path().join("mosquitto.log");
        let mut child = Command::new(program("mosquitto")?)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        for _ in 0..250 {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("mosquitto: {status}: {said}")));
            }
            if TcpStream::connect(front).await.is_ok() && TcpStream::connect(back).await.is_ok() {
                return Ok(Self {
                    child,
                    door: front,
                    back_door: back,
                    dir,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Err(io::Error::other(format!(
            "mosquitto does not listen: {said}"
        )))
    }

    /// Where gateways connect to.
    pub fn address(&self) -> SocketAddr {
        self.door
    }

    /// Where the test's own clients connect to: plain and anonymous.
    pub fn back_door(&self) -> SocketAddr {
        self.back_door
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("mosquitto.log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

impl Subscriber {
    /// Subscribes to everything under `prefix` and waits until the broker said yes.
    ///
    /// # Errors
    /// [`TooLate`] when it did not within ten seconds.
    pub async fn start(broker: SocketAddr, prefix: &str) -> Result<Self, TooLate> {
        let book = Book::default();
        let states = Arc::<Mutex<Vec<State>>>::default();
        let faults = Arc::<Mutex<Vec<String>>>::default();
        let (ready, mut is_ready) = watch::channel(false);
        let task = tokio::spawn(listen(
            broker,
            prefix.to_owned(),
            ready,
            book.clone(),
            Arc::clone(&states),
            Arc::clone(&faults),
        ));
        let subscriber = Self {
            book,
            states,
            faults,
            task,
        };
        let limit = Duration::from_secs(10);
        match tokio::time::timeout(limit, is_ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(subscriber),
            _ => {
                let faults = subscriber.faults();
                Err(TooLate(format!("subscribing at {broker}: {faults:?}")))
            }
        }
    }

    /// What was said on the `state` topic, in order.
    pub fn states(&self) -> Vec<State> {
        lock(&self.states).clone()
    }

    /// Messages that were not as documented, in words.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that was free a moment ago.
///
/// # Errors
/// When loopback has none.
pub fn free_port() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Where a program is; Debian keeps mosquitto where only root's PATH looks.
///
/// # Errors
/// `NotFound` with what to install.
pub fn program(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let text =
                format!("{name} is not installed: run tests/run, or apt-get install mosquitto");
            io::Error::new(io::ErrorKind::NotFound, text)
        })
}

fn configuration(
    door: &Door,
    certs: Option<&Certs>,
    dir: &Path,
    front: SocketAddr,
    back: SocketAddr,
) -> io::Result<String> {
    let mut text = format!(
        "per_listener_settings true\npersistence false\nlog_dest stderr\nlog_type all\n\
         max_queued_messages 0\nset_tcp_nodelay true\n\
         listener {} 127.0.0.1\nallow_anonymous true\n\
         listener {} 127.0.0.1\n",
        back.port(),
        front.port()
    );
    // Started as root it would give up the right to read the test's folder.
    if rustix::process::geteuid().is_root() {
        text.insert_str(0, "user root\n");
    }
    match door {
        Door::Plain => text.push_str("allow_anonymous true\n"),
        Door::Password(user, password) => {
            let file = dir.join("passwords");
            let made = std::process::Command::new(program("mosquitto_passwd")?)
                .args(["-b", "-c"])
                .arg(&file)
                .args([user, password])
                .output()?;
            if !made.status.success() {
                let said = String::from_utf8_lossy(&made.stderr).into_owned();
                return Err(io::Error::other(format!("mosquitto_passwd: {said}")));
            }
            let line = format!("allow_anonymous false\npassword_file {}\n", file.display());
            text.push_str(&line);
        }
        Door::Tls(pair) | Door::MutualTls(pair) => {
            let (cert, key) = (pair.cert.display(), pair.key.display());
            text.push_str(&format!(
                "allow_anonymous true\ncertfile {cert}\nkeyfile {key}\n"
            ));
        }
    }
    if let (Door::MutualTls(_), Some(certs)) = (door, certs) {
        let ca = certs.ca.display();
        text.push_str(&format!("cafile {ca}\nrequire_certificate true\n"));
    }
    Ok(text)
}

async fn listen(
    broker: SocketAddr,
    prefix: String,
    ready: watch::Sender<bool>,
    book: Book,
    states: Arc<Mutex<Vec<State>>>,
    faults: Arc<Mutex<Vec<String>>>,
) {
    // rumqttd takes no client id with a character that topics use.
    let id = format!("sonde-tests-{}", prefix.replace(['/', '+', '$', '#'], "-"));
    let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
    options.set_max_packet_size(Some(8 << 20));
    let (client, mut events) = AsyncClient::new(options, 16);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if client
                    .subscribe(format!("{prefix}/#"), QoS::AtLeastOnce)
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                ready.send_replace(true);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => match take(&prefix, publish) {
                Ok(Message::State(state)) => lock(&states).push(state),
                Ok(Message::Telemetry(delivery)) => book.record(delivery),
                Err(fault) => lock(&faults).push(fault),
            },
            Ok(_) => {}
            Err(error) => {
                lock(&faults).push(format!("the subscriber's connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

enum Message {
    State(State),
    Telemetry(Delivery),
}

/// Reads a message as the documentation promises it.
fn take(prefix: &str, publish: Publish) -> Result<Message, String> {
    let received_unix_ns = now_unix_ns();
    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
    let rest = topic.strip_prefix(prefix).unwrap_or(&topic);
    let signal = match rest {
        "/state" => {
            return Ok(Message::State(State {
                payload: String::from_utf8_lossy(&publish.payload).into_owned(),
                retained: publish.retain,
            }));
        }
        "/telemetry/metrics" => Signal::Metrics,
        "/telemetry/traces" => Signal::Traces,
        "/telemetry/logs" => Signal::Logs,
        _ => return Err(format!("unknown topic {topic}")),
    };
    let properties = publish.properties.unwrap_or_default();
    if properties.content_type.as_deref() != Some("application/x-protobuf") {
        return Err(format!(
            "{topic}: content type {:?}",
            properties.content_type
        ));
    }
    let names = |name: &str| {
        properties
            .user_properties
            .iter()
            .filter(|(key, _)| key == name)
            .count()
    };
    if names("sonde-frame") != 1 || names("traceparent") > 1 || names("tracestate") > 1 {
        let found = &properties.user_properties;
        return Err(format!("{topic}: user properties {found:?}"));
    }
    let gzip = properties
        .user_properties
        .iter()
        .any(|(key, value)| key == "content-encoding" && value == "gzip");
    let payload = Payload::decode(signal, gzip, &publish.payload)
        .map_err(|error| format!("{topic}: {error}"))?;
    Ok(Message::Telemetry(Delivery {
        payload,
        target: topic,
        body_bytes: publish.payload.len(),
        properties: properties.user_properties,
        received_unix_ns,
        decoded_unix_ns: now_unix_ns(),
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sample;
    use prost::Message as _;
    use rumqttc::v5::mqttbytes::v5::PublishProperties;

    pub(crate) const SOON: Duration = Duration::from_secs(10);

    /// Publishes one frame of gauges as the agent does and waits for the acknowledgement.
    pub(crate) async fn publish(
        to: SocketAddr,
        topic: &str,
        login: Option<(&str, &str)>,
    ) -> Result<(), String> {
        let mut options = MqttOptions::new("gateway", to.ip().to_string(), to.port());
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        let (client, mut events) = AsyncClient::new(options, 4);
        let properties = PublishProperties {
            content_type: Some("application/x-protobuf".to_owned()),
            user_properties: vec![
                (
                    "traceparent".to_owned(),
                    format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8)),
                ),
                ("sonde-frame".to_owned(), "0000002a-1".to_owned()),
            ],
            ..PublishProperties::default()
        };
        let body = sample::frame("a", &[1, 2, 3]).encode_to_vec();
        client
            .publish_with_properties(topic, QoS::AtLeastOnce, false, body, properties)
            .await
            .map_err(|error| error.to_string())?;
        let acknowledged = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        tokio::time::timeout(SOON, acknowledged)
            .await
            .map_err(|_| "no PubAck".to_owned())?
    }

    #[tokio::test]
    async fn a_published_frame_is_in_the_book_with_its_properties() {
        let broker = Broker::start(&Door::Plain, None).await.unwrap();
        let subscriber = Subscriber::start(broker.back_door(), "sonde/x")
            .await
            .unwrap();
        publish(broker.address(), "sonde/x/telemetry/metrics", None)
            .await
            .unwrap();
        subscriber
            .book
            .wait("the frame", SOON, |ledger| ledger.last_tick(None) == 3)
            .await
            .unwrap();
        subscriber.book.read(|ledger| {
            assert_eq!(
                ledger.deliveries[0].property("sonde-frame"),
                Some("0000002a-1")
            );
        });
        assert_eq!(subscriber.faults(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_password_door_refuses_the_wrong_one_and_takes_the_right_one() {
        let door = Door::Password("gateway".to_owned(), "right".to_owned());
        let broker = Broker::start(&door, None).await.unwrap();
        let topic = "sonde/x/telemetry/metrics";
        let wrong = publish(broker.address(), topic, Some(("gateway", "wrong"))).await;
        assert!(
            wrong.unwrap_err().contains("NotAuthorized"),
            "{}",
            broker.log()
        );
        publish(broker.address(), topic, Some(("gateway", "right")))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn tls_doors_open() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::make(dir.path());
        for door in [
            Door::Tls(certs.server.clone()),
            Door::Tls(certs.expired.clone()),
            Door::MutualTls(certs.server.clone()),
        ] {
            Broker::start(&door, Some(&certs)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_message_that_is_not_as_documented_is_a_fault() {
        let broker = Broker::start(&Door::Plain, None).await.unwrap();
        let subscriber = Subscriber::start(broker.back_door(), "sonde/x")
            .await
            .unwrap();
        publish(broker.address(), "sonde/x/elsewhere", None)
            .await
            .unwrap();
        publish(broker.address(), "sonde/x/telemetry/metrics", None)
            .await
            .unwrap();
        subscriber
            .book
            .wait("the frame", SOON, |ledger| !ledger.deliveries.is_empty())
            .await
            .unwrap();
        assert_eq!(subscriber.faults().len(), 1);
    }
}
