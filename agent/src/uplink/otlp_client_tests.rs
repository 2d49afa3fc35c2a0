//! Promises of the client, against real servers on loopback.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::Response;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as ProtoSpan};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::dial::Wire;
use super::*;
use crate::clock::ClockTrust;
use crate::config::{Delivery, OtlpPaths, Tls};
use crate::frame::{Batch, Class, FrameId, Stamp};

/// What a server saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Seen>>>;
type Reply = fn(usize, &Seen) -> Response<Full<Bytes>>;

fn config(port: u16) -> OtlpUplink {
    OtlpUplink {
        delivery: Delivery {
            required: true,
            timeout: Duration::from_secs(5),
            backoff: (Duration::from_secs(1), Duration::from_secs(60)),
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
        headers: vec![("x-fleet".into(), "north".into())],
        headers_file: None,
        gzip: true,
    }
}

fn client(config: OtlpUplink) -> Client {
    let dialer = Dialer {
        host: config.host.clone(),
        port: config.port,
        tls: config.tls.clone(),
        wire: Arc::new(Wire::default()),
    };
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    Client::new(
        config,
        dialer,
        tracer,
        Clock::new(ClockTrust::Always),
        crate::event::testing::events().0,
    )
}

fn spans(count: u32) -> Vec<u8> {
    let span = |index| ProtoSpan {
        name: format!("span {index}"),
        ..ProtoSpan::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: (0..count).map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

fn names(body: &[u8]) -> Vec<String> {
    ExportTraceServiceRequest::decode(body)
        .unwrap()
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .map(|span| span.name)
        .collect()
}

fn frame(items: u32) -> Frame {
    Frame {
        id: FrameId { epoch: 1, seq: 1 },
        batch: Batch {
            signal: Signal::Traces,
            class: Class::Normal,
            codec: Codec::Gzip,
            items,
            first: Stamp::default(),
            last: Stamp::default(),
            context: None,
            body: split::gzip(&spans(items)).unwrap().into(),
        },
        resent: false,
    }
}

fn empty(code: u16) -> Response<Full<Bytes>> {
    Response::builder()
        .status(code)
        .body(Full::default())
        .unwrap()
}

/// A server that answers the n-th request (from 0) with `reply`.
async fn serve(reply: Reply) -> (u16, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let kept = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer(tcp, Arc::clone(&kept), reply));
        }
    });
    (port, log)
}

async fn answer<T>(io: T, log: Log, reply: Reply)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let seen = Seen {
                path: head.uri.to_string(),
                headers: head.headers,
                body: body
                    .collect()
                    .await
                    .map(|body| body.to_bytes())
                    .unwrap_or_default(),
            };
            let mut log = log.lock().unwrap();
            let count = log.len();
            log.push(seen.clone());
            Ok::<_, Infallible>(reply(count, &seen))
        }
    });
    let _ = server::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .await;
}

/// A server that reads a little, says these bytes, and then closes or lingers.
async fn say(words: &'static [u8], linger: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut some = [0; 16 * 1024];
                let _ = tcp.read(&mut some).await;
                let _ = tcp.write_all(words).await;
                if linger {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    port
}

async fn verdict_of(reply: Reply) -> Verdict {
    let (port, _) = serve(reply).await;
    client(config(port)).send(&frame(2)).await
}

#[track_caller]
fn assert_retry(verdict: &Verdict, words: &str) {
    assert!(
        matches!(verdict, Verdict::Retry { why, .. } if why.contains(words)),
        "{verdict:?}"
    );
}

#[track_caller]
fn assert_refuse(verdict: &Verdict, words: &str) {
    assert!(
        matches!(verdict, Verdict::Refuse { reason } if reason.contains(words)),
        "{verdict:?}"
    );
}

fn assert_hold(verdict: &Verdict, words: &str) {
    assert!(
        matches!(verdict, Verdict::Hold { reason } if reason.contains(words)),
        "{verdict:?}"
    );
}

const DELIVERED: Verdict = Verdict::Delivered { rejected_items: 0 };

#[tokio::test]
async fn a_body_goes_out_as_it_was_stored_over_one_connection() {
    let (port, log) = serve(|_, _| empty(200)).await;
    let mut client = client(config(port));
    let frame = frame(3);
    assert_eq!(client.send(&frame).await, DELIVERED);
    assert_eq!(client.send(&frame).await, DELIVERED);
    let log = log.lock().unwrap();
    assert_eq!(log.len(), 2);
    let seen = &log[0];
    assert_eq!(seen.path, "/v1/traces");
    assert_eq!(seen.body, frame.batch.body);
    assert_eq!(seen.headers["content-encoding"], "gzip");
    assert_eq!(seen.headers["content-type"], "application/x-protobuf");
    assert_eq!(seen.headers["host"], format!("127.0.0.1:{port}"));
    assert_eq!(seen.headers["x-fleet"], "north");
    assert!(
        seen.headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("sonde/")
    );
    let wire = &client.dialer.wire;
    assert_eq!(wire.connections(), 1);
    assert!(wire.sent() > 2 * frame.batch.body.len() as u64 && wire.received() > 0);
}

#[tokio::test]
async fn without_gzip_the_body_is_unpacked_first() {
    let (port, log) = serve(|_, _| empty(200)).await;
    let mut config = config(port);
    config.gzip = false;
    assert_eq!(client(config).send(&frame(3)).await, DELIVERED);
    let log = log.lock().unwrap();
    assert!(!log[0].headers.contains_key("content-encoding"));
    assert_eq!(names(&log[0].body).len(), 3);
}

#[tokio::test]
async fn statuses_become_what_happens_next() {
    let busy = verdict_of(|_, _| {
        let mut busy = empty(429);
        busy.headers_mut()
            .insert("retry-after", HeaderValue::from_static("7"));
        busy
    });
    assert!(matches!(
        busy.await,
        Verdict::Retry { after: Some(after), .. } if after == Duration::from_secs(7)
    ));
    assert_retry(&verdict_of(|_, _| empty(503)).await, "503");
    assert_refuse(&verdict_of(|_, _| empty(401)).await, "headers_file");
    assert_refuse(&verdict_of(|_, _| empty(301)).await, "redirects");
    assert_refuse(&verdict_of(|_, _| empty(500)).await, "broken");
    assert!(matches!(
        verdict_of(|_, _| empty(400)).await,
        Verdict::Condemn { .. }
    ));
}

#[tokio::test]
async fn a_partial_success_is_delivered_and_counted() {
    let verdict = verdict_of(|_, _| {
        let partial = ExportTraceServiceResponse {
            partial_success: Some(
                opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess {
                    rejected_spans: 1,
                    error_message: "too old".into(),
                },
            ),
        };
        Response::builder()
            .header("content-type", "application/x-protobuf")
            .body(Full::from(partial.encode_to_vec()))
            .unwrap()
    });
    assert_eq!(verdict.await, Verdict::Delivered { rejected_items: 1 });
}

#[tokio::test]
async fn a_frame_that_is_too_large_arrives_in_parts_in_order() {
    let (port, log) = serve(|_, seen| {
        let body = split::gunzip(&seen.body).unwrap();
        empty(if names(&body).len() > 2 { 413 } else { 200 })
    })
    .await;
    let verdict = client(config(port)).send(&frame(7)).await;
    assert_eq!(verdict, DELIVERED);
    let taken: Vec<String> = log
        .lock()
        .unwrap()
        .iter()
        .map(|seen| names(&split::gunzip(&seen.body).unwrap()))
        .filter(|names| names.len() <= 2)
        .flatten()
        .collect();
    let all: Vec<String> = (0..7).map(|index| format!("span {index}")).collect();
    assert_eq!(taken, all);
}

#[tokio::test]
async fn one_item_that_is_too_large_costs_only_itself_and_a_whole_refusal_condemns() {
    let (port, _) = serve(|_, seen| {
        let names = names(&split::gunzip(&seen.body).unwrap());
        let huge = names.iter().any(|name| name == "span 2");
        empty(if huge { 413 } else { 200 })
    })
    .await;
    let verdict = client(config(port)).send(&frame(5)).await;
    assert_eq!(verdict, Verdict::Delivered { rejected_items: 1 });
    assert!(matches!(
        verdict_of(|_, _| empty(413)).await,
        Verdict::Condemn { .. }
    ));
}

#[tokio::test]
async fn a_refused_connection_is_retried_and_says_where() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let verdict = client(config(port)).send(&frame(1)).await;
    assert_retry(&verdict, &format!("127.0.0.1:{port}: connection refused"));
}

#[tokio::test]
async fn garbage_and_half_answers_are_retried() {
    let port = say(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", false).await;
    assert_retry(
        &client(config(port)).send(&frame(1)).await,
        "not in HTTP/1.1",
    );
    let port = say(b"", false).await;
    assert_retry(&client(config(port)).send(&frame(1)).await, "127.0.0.1");
    let port = say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", false).await;
    assert_retry(&client(config(port)).send(&frame(1)).await, "127.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dribbles_is_left_at_the_deadline() {
    let port = say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nha", true).await;
    let mut client = client(config(port));
    assert_retry(&client.send(&frame(1)).await, "did not answer within 5s");
    assert!(!client.is_connected());
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_is_no_collectors() {
    let (port, _) = serve(|_, _| Response::new(Full::from(vec![b'x'; 5 << 20]))).await;
    let mut client = client(config(port));
    assert_refuse(&client.send(&frame(1)).await, "too long");
    assert!(!client.is_connected());
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut some = [0; 16 * 1024];
            let _ = tcp.read(&mut some).await;
            let _ = tcp
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
            // Reads the next request and closes without a word, as a server does whose idle timer has just run out.
            let _ = tcp.read(&mut some).await;
        }
    });
    let mut client = client(config(port));
    assert_eq!(client.send(&frame(1)).await, DELIVERED);
    assert_eq!(client.send(&frame(1)).await, DELIVERED);
    assert_eq!(client.dialer.wire.connections(), 2);
}

#[tokio::test]
async fn a_renewed_token_is_read_after_a_401_and_never_quoted() {
    let (port, log) = serve(|_, seen| {
        let token = seen.headers.get("authorization").cloned();
        if token
            .as_ref()
            .is_some_and(|token| token == "Bearer new-token")
        {
            return empty(200);
        }
        let mut refusal = empty(401);
        let text = String::from_utf8_lossy(token.as_ref().unwrap().as_bytes()).into_owned();
        *refusal.body_mut() = Full::from(format!("unknown: {text}"));
        refusal
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    std::fs::write(&file, "Authorization: Bearer old-token\n").unwrap();
    let mut config = config(port);
    config.headers_file = Some(file.clone());
    let mut client = client(config);
    let before = client.credentials_stamp();
    let refused = client.send(&frame(1)).await;
    assert_refuse(&refused, "401: unknown: ***");
    assert!(!format!("{refused:?}").contains("old-token"));
    std::fs::write(&file, "# rotated\nAuthorization: Bearer new-token\n").unwrap();
    assert_ne!(client.credentials_stamp(), before);
    assert_eq!(client.send(&frame(1)).await, DELIVERED);
    assert_eq!(log.lock().unwrap().len(), 2);
    assert_eq!(client.dialer.wire.connections(), 1);
}

#[tokio::test]
async fn an_unreadable_headers_file_holds_and_names_it() {
    let mut config = config(9);
    config.headers_file = Some(PathBuf::from("/nonexistent/headers"));
    assert_hold(
        &client(config).send(&frame(1)).await,
        "/nonexistent/headers",
    );
}

#[tokio::test]
async fn a_server_that_finds_everything_too_large_is_not_asked_item_by_item() {
    let (port, log) = serve(|_, _| empty(413)).await;
    let verdict = client(config(port)).send(&frame(64)).await;
    assert!(matches!(verdict, Verdict::Condemn { .. }), "{verdict:?}");
    // The frame, and one half of each half down to a single item.
    assert_eq!(log.lock().unwrap().len(), 7);
}

#[tokio::test]
async fn a_damaged_body_is_condemned_when_it_must_be_opened() {
    let (port, _) = serve(|_, _| empty(413)).await;
    let mut bad = frame(1);
    bad.batch.body = Bytes::from_static(b"\x1f\x8b\x08\x00damaged");
    let verdict = client(config(port)).send(&bad).await;
    assert!(matches!(verdict, Verdict::Condemn { reason } if reason.contains("cannot be read")));
}

/// Keeps what spans say when they end.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<String>>>);

impl opentelemetry_sdk::trace::SpanProcessor for Ended {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: opentelemetry_sdk::trace::SpanData) {
        let line = format!("{} {:?} {:?}", span.name, span.span_kind, span.status);
        self.0.lock().unwrap().push(line);
    }

    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
}

#[tokio::test]
async fn an_attempt_to_connect_is_one_span_and_an_upload_is_none() {
    let (port, _) = serve(|_, _| empty(200)).await;
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(ended.clone())
        .build();
    let mut client = client(config(port));
    client.attempts.tracer = provider.tracer("test");
    for _ in 0..5 {
        assert_eq!(client.send(&frame(1)).await, DELIVERED);
    }
    client.disconnect();
    client.dialer.port = 1;
    assert_retry(&client.send(&frame(1)).await, "refused");
    client.attempts().close();
    let ended = ended.0.lock().unwrap();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert_eq!(ended[0], "connect otlp Client Unset");
    assert!(
        ended[1].starts_with("connect otlp Client Error"),
        "{ended:?}"
    );
}

// TLS, with certificates made on the spot.

struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Certificate and key as PEM.
    fn issue(&self, name: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn tls(&self) -> Tls {
        Tls {
            ca_file: Some(self.path("ca.pem")),
            ..Tls::default()
        }
    }

    /// A server that answers 200 to whom it lets in.
    async fn serve(
        &self,
        (certificate, key): (String, String),
        client_wanted: bool,
        one_two: bool,
    ) -> u16 {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[_] = if one_two {
            &[&rustls::version::TLS12]
        } else {
            rustls::ALL_VERSIONS
        };
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = if client_wanted {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        answer(tls, Log::default(), |_, _| empty(200)).await;
                    }
                });
            }
        });
        port
    }
}

#[tokio::test]
async fn a_ca_that_serves_as_itself_is_explained() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    let ca = Authority::new();
    std::fs::write(ca.path("ca.pem"), own.pem()).unwrap();
    let port = ca
        .serve((own.pem(), key.serialize_pem()), false, false)
        .await;
    assert_hold(&over_tls(port, ca.tls()).await, "CA:FALSE");
}

async fn over_tls(port: u16, tls: Tls) -> Verdict {
    let mut config = config(port);
    config.host = "localhost".into();
    config.tls = Some(tls);
    client(config).send(&frame(1)).await
}

#[tokio::test]
async fn tls_with_a_given_root_delivers() {
    let ca = Authority::new();
    let port = ca.serve(ca.issue("localhost", false), false, false).await;
    assert_eq!(over_tls(port, ca.tls()).await, DELIVERED);
}

#[tokio::test]
async fn a_name_mismatch_an_expiry_and_a_stranger_are_told_apart_and_held() {
    let ca = Authority::new();
    let port = ca
        .serve(ca.issue("other.example", false), false, false)
        .await;
    assert_hold(&over_tls(port, ca.tls()).await, "not for `localhost`");
    let port = ca.serve(ca.issue("localhost", true), false, false).await;
    assert_hold(&over_tls(port, ca.tls()).await, "expired");
    let stranger = Authority::new();
    let port = stranger
        .serve(stranger.issue("localhost", false), false, false)
        .await;
    assert_hold(&over_tls(port, ca.tls()).await, "not signed by a root in");
}

#[tokio::test]
async fn a_missing_client_certificate_is_named_and_one_that_fits_delivers() {
    let ca = Authority::new();
    for one_two in [false, true] {
        let port = ca.serve(ca.issue("localhost", false), true, one_two).await;
        assert_hold(
            &over_tls(port, ca.tls()).await,
            "demands a client certificate",
        );
        let (certificate, key) = ca.issue("device-7", false);
        std::fs::write(ca.path("cert.pem"), certificate).unwrap();
        std::fs::write(ca.path("key.pem"), key).unwrap();
        let mut tls = ca.tls();
        tls.cert_file = Some(ca.path("cert.pem"));
        tls.key_file = Some(ca.path("key.pem"));
        assert_eq!(over_tls(port, tls.clone()).await, DELIVERED);
        let (_, strange_key) = ca.issue("device-8", false);
        std::fs::write(ca.path("key.pem"), strange_key).unwrap();
        assert_hold(&over_tls(port, tls).await, "do not belong together");
    }
}

#[tokio::test]
async fn bad_files_and_a_plain_port_are_named() {
    let ca = Authority::new();
    let file = |path: &Path| Tls {
        ca_file: Some(path.to_owned()),
        ..Tls::default()
    };
    assert_hold(
        &over_tls(9, file(&ca.path("none.pem"))).await,
        "cannot read the CA file",
    );
    std::fs::write(ca.path("empty.pem"), "hello").unwrap();
    assert_hold(
        &over_tls(9, file(&ca.path("empty.pem"))).await,
        "BEGIN CERTIFICATE",
    );
    let port = say(b"HTTP/1.1 400 Bad Request\r\n\r\n", true).await;
    assert_hold(&over_tls(port, ca.tls()).await, "does not speak TLS");
}
