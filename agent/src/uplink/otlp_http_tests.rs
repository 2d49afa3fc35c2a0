//! Promises of the whole uplink: a real spool, real servers on loopback.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::super::Stop;
use super::*;
use crate::clock::{Clock, ClockTrust};
use crate::config::{Delivery as Settings, Durability, OtlpPaths, SpoolLimits};
use crate::frame::{Batch, Class, Codec, Signal};
use crate::spool::{Options, Spool, Subscription};

/// A collector whose answer can be changed while it runs.
#[derive(Default)]
struct Collector {
    answer: AtomicU16,
    asked: AtomicUsize,
    taken: Mutex<Vec<Bytes>>,
}

impl Collector {
    async fn start(code: u16) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let collector = Arc::new(Self::default());
        collector.answer.store(code, Ordering::Relaxed);
        let serving = Arc::clone(&collector);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let collector = Arc::clone(&serving);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let collector = Arc::clone(&collector);
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let code = collector.answer.load(Ordering::Relaxed);
                        collector.asked.fetch_add(1, Ordering::Relaxed);
                        if code == 200 {
                            collector.taken.lock().unwrap().push(body);
                        }
                        let reply = Response::builder()
                            .status(code)
                            .body(Full::<Bytes>::default());
                        Ok::<_, Infallible>(reply.unwrap())
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(tcp), service));
            }
        });
        (collector, port)
    }

    fn taken(&self) -> Vec<Bytes> {
        self.taken.lock().unwrap().clone()
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    spool: Spool,
    stop: Stop,
    uplink: Uplink,
}

fn rig(port: u16, longest: Duration, headers_file: Option<std::path::PathBuf>) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::new(ClockTrust::Always);
    let spool = Spool::start(Options {
        dir: dir.path().join("spool"),
        limits: SpoolLimits {
            quota: 16 << 20,
            reserve: 0,
            memory: 4 << 20,
            loss_window: Duration::from_secs(60),
            write_budget: 0,
            durability: Durability::Window,
            outbox_in_memory: false,
        },
        subscriptions: vec![Subscription {
            uplink: NAME,
            required: true,
            signals: vec![Signal::Metrics, Signal::Traces, Signal::Logs],
        }],
        boot_id: [7; 16],
        clock: clock.clone(),
    })
    .unwrap();
    let config = OtlpUplink {
        delivery: Settings {
            required: true,
            timeout: Duration::from_secs(5),
            backoff: (Duration::from_millis(100), longest),
            backlog_rate: None,
            first_send_jitter: Duration::ZERO,
        },
        tls: None,
        host: "127.0.0.1".into(),
        port,
        paths: OtlpPaths {
            metrics: "/v1/metrics".into(),
            traces: "/v1/traces".into(),
            logs: "/v1/logs".into(),
        },
        headers: Vec::new(),
        headers_file,
        gzip: true,
    };
    let stop = Stop::default();
    let world = World {
        spool: spool.clone(),
        clock,
        tracer: SdkTracerProvider::builder().build().tracer("test"),
        events: crate::event::testing::events().0,
        device_id: "d".into(),
        boot_id: [1; 16],
        stop: stop.clone(),
    };
    Rig {
        _dir: dir,
        spool,
        stop,
        uplink: spawn(config, world),
    }
}

impl Rig {
    async fn store(&self, number: u32) {
        let now = Clock::new(ClockTrust::Always).now();
        let batch = Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Gzip,
            items: 1,
            first: now,
            last: now,
            context: None,
            body: Bytes::from(format!("body {number}")),
        };
        self.spool.store(batch).await.unwrap();
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&UplinkStatus) -> bool) {
        let waited = self.uplink.status.wait_for(reached);
        timeout(Duration::from_secs(20), waited)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"))
            .unwrap();
    }
}

fn numbers(bodies: &[Bytes]) -> Vec<u32> {
    let mut numbers: Vec<u32> = bodies
        .iter()
        .map(|body| std::str::from_utf8(&body[5..]).unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn what_is_stored_while_the_server_is_busy_arrives_once_it_is_not() {
    let (collector, port) = Collector::start(503).await;
    let mut rig = rig(port, Duration::from_millis(300), None);
    for number in 0..20 {
        rig.store(number).await;
    }
    rig.until("down", |status| status.retries >= 2).await;
    assert_eq!(collector.taken().len(), 0);
    collector.answer.store(200, Ordering::Relaxed);
    rig.until("delivered", |status| status.acked_frames == 20)
        .await;
    assert_eq!(numbers(&collector.taken()), (0..20).collect::<Vec<_>>());
    rig.until("up", |status| {
        status.state == "up" && status.pending_frames == 0
    })
    .await;
}

#[tokio::test]
async fn an_expired_token_deletes_nothing_and_a_renewed_one_is_tried_at_once() {
    let (collector, port) = Collector::start(401).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    std::fs::write(&file, "Authorization: Bearer old-token\n").unwrap();
    // Without the file being looked at, the next probe would come after half an hour.
    let mut rig = rig(port, Duration::from_secs(3600), Some(file.clone()));
    for number in 0..5 {
        rig.store(number).await;
    }
    rig.until("held", |status| status.state == "open").await;
    assert_eq!(collector.asked.load(Ordering::Relaxed), 1);
    collector.answer.store(200, Ordering::Relaxed);
    std::fs::write(&file, "Authorization: Bearer a-newer-token\n").unwrap();
    rig.until("delivered", |status| status.acked_frames == 5)
        .await;
    assert_eq!(numbers(&collector.taken()), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn finishing_sends_what_waits_and_then_ends() {
    let (collector, port) = Collector::start(200).await;
    let rig = rig(port, Duration::from_secs(1), None);
    for number in 0..10 {
        rig.store(number).await;
    }
    let mut pending = rig.spool.pending(NAME);
    pending
        .wait_for(|pending| pending.live + pending.backlog > 0 || !collector.taken().is_empty())
        .await
        .unwrap();
    rig.stop.finish.cancel();
    timeout(Duration::from_secs(10), rig.uplink.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(numbers(&collector.taken()), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn finishing_does_not_wait_for_a_dead_link_and_the_end_is_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut down = rig(port, Duration::from_secs(3600), None);
    down.store(1).await;
    down.until("down", |status| status.state == "waiting").await;
    down.stop.finish.cancel();
    timeout(Duration::from_secs(5), down.uplink.task)
        .await
        .unwrap()
        .unwrap();

    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut hung = rig(
        silent.local_addr().unwrap().port(),
        Duration::from_secs(1),
        None,
    );
    hung.store(1).await;
    hung.until("connected", |status| status.connections > 0)
        .await;
    hung.stop.now.cancel();
    timeout(Duration::from_secs(2), hung.uplink.task)
        .await
        .unwrap()
        .unwrap();
    let mut pending = hung.spool.pending(NAME);
    timeout(
        Duration::from_secs(5),
        pending.wait_for(|pending| pending.live + pending.backlog == 1),
    )
    .await
    .unwrap()
    .unwrap();
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_noticed_though_nothing_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let mut rig = rig(port, Duration::from_secs(3600), None);
    rig.until("waiting", |status| {
        status.state == "waiting" && status.last_error.is_some()
    })
    .await;
}

#[tokio::test]
async fn what_was_delivered_last_is_shown_though_nothing_follows() {
    let (_collector, port) = Collector::start(200).await;
    let mut rig = rig(port, Duration::from_secs(1), None);
    for number in 0..3 {
        rig.store(number).await;
        // One after the other, faster than the status is made anew.
        let delivered = |pending: &Pending| pending.live + pending.backlog == 0;
        rig.spool.pending(NAME).wait_for(delivered).await.unwrap();
    }
    rig.until("shown", |status| status.acked_frames == 3).await;
}
