use std::path::Path;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::status::sample;

/// A real door in a folder of its own.
struct Rig {
    _dir: TempDir,
    path: std::path::PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn rig(limits: Limits) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/sonde/status.sock");
    let door = bind(&path, "paths.status_socket").await.unwrap();
    let stop = CancellationToken::new();
    let source: Arc<dyn Snapshot> = Arc::new(sample::link_down);
    let routes = Arc::new(ReadOnly { source });
    let task = tokio::spawn(serve(door, routes, limits, stop.clone()));
    Rig {
        _dir: dir,
        path,
        stop,
        task,
    }
}

/// Sends bytes, reads to the end.
async fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(path: &Path, target: &str) -> String {
    ask(path, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_status_arrives_as_it_was_and_judged() {
    let rig = rig(Limits::default()).await;
    let answer = get(&rig.path, "/status").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let status: Status = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        serde_json::to_value(sample::link_down()).unwrap()
    );
    assert_eq!(status.problems.len(), 1);
}

#[test]
fn schema_1_is_pinned() {
    // If this fails, a field of schema 1 changed: undo that, or make schema 2.
    // Added fields belong into the file.
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../status/golden/schema1.json")).unwrap();
    assert_eq!(serde_json::to_value(sample::link_down()).unwrap(), golden);
}

#[tokio::test]
async fn metrics_and_the_list_are_served() {
    let rig = rig(Limits::default()).await;
    let answer = get(&rig.path, "/metrics").await;
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nsonde_uplink_pending_items{uplink=\"otlp\"} 12400\n"));
    assert!(get(&rig.path, "/").await.contains("GET /status"));
}

#[tokio::test]
async fn anything_else_is_refused_with_a_reason() {
    let rig = rig(Limits::default()).await;
    let post = "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let with_body = "GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    let long = format!("GET /status HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    for (request, code) in [
        ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (post, "405"),
        (with_body, "413"),
        (long.as_str(), "431"),
        ("what is this\r\n\r\n", "400"),
    ] {
        let answer = ask(&rig.path, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
        if matches!(code, "404" | "405" | "413") {
            assert!(body(&answer).starts_with("{\"error\":"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_slow_client_blocks_nobody_and_is_dropped() {
    let limits = Limits {
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = rig(limits).await;
    let mut slow = UnixStream::connect(&rig.path).await.unwrap();
    slow.write_all(b"GET /sta").await.unwrap();
    assert!(get(&rig.path, "/status").await.starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the slow client is still connected");
}

#[tokio::test]
async fn slow_clients_on_every_permit_only_delay_the_next() {
    let limits = Limits {
        head: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = rig(limits).await;
    let mut slow = Vec::new();
    for _ in 0..limits.connections {
        slow.push(UnixStream::connect(&rig.path).await.unwrap());
    }
    assert!(get(&rig.path, "/status").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn half_requests_keep_nobody_out_however_many_and_patient_they_are() {
    let hour = Duration::from_secs(3600);
    let rig = rig(Limits {
        connections: 4,
        head: hour,
        connection: hour,
        ..Limits::default()
    })
    .await;
    let mut half = Vec::new();
    for _ in 0..100 {
        let mut one = UnixStream::connect(&rig.path).await.unwrap();
        one.write_all(b"GET /sta").await.unwrap();
        half.push(one);
    }
    let answer = timeout(Duration::from_secs(60), get(&rig.path, "/status")).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    // The oldest went; the last are still heard out.
    let mut last = half.pop().unwrap();
    last.write_all(b"tus HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = last.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_hundred_connections_are_all_answered() {
    let rig = rig(Limits::default()).await;
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let path = rig.path.clone();
        all.spawn(async move { get(&path, "/status").await });
    }
    let answers = all.join_all().await;
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|a| a.starts_with("HTTP/1.1 200")));
}

#[tokio::test]
async fn stopping_drains_within_a_bound_and_removes_the_file() {
    let rig = rig(Limits::default()).await;
    let mut slow = UnixStream::connect(&rig.path).await.unwrap();
    slow.write_all(b"GET /sta").await.unwrap();
    assert!(get(&rig.path, "/").await.contains("200"));
    rig.stop.cancel();
    timeout(Duration::from_secs(5), rig.task)
        .await
        .unwrap()
        .unwrap();
    assert!(!rig.path.exists());
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_live_one_is_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead socket stays behind");
    let door = bind(&path, "paths.status_socket").await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let refused = bind(&path, "paths.status_socket").await.unwrap_err();
    assert!(refused.to_string().contains("another agent answers on"));
    // What a later agent put there is left alone.
    std::fs::remove_file(&path).unwrap();
    let _later = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(door);
    assert!(path.exists());
}

#[tokio::test]
async fn impossible_paths_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    for (path, expected) in [
        (file.clone(), "is not a socket"),
        (dir.path().join("x".repeat(120)), "too long"),
        (file.join("below"), "could not make the folder"),
    ] {
        let error = bind(&path, "paths.status_socket")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_never_comes_is_an_answer_too() {
    struct Never;
    impl Snapshot for Never {
        fn snapshot(&self) -> Boxed<'_, Status> {
            Box::pin(std::future::pending())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let stop = CancellationToken::new();
    let task = spawn(
        bind(&path, "paths.status_socket").await.unwrap(),
        Arc::new(Never),
        stop.clone(),
    );
    assert!(get(&path, "/status").await.starts_with("HTTP/1.1 503"));
    stop.cancel();
    task.await.unwrap();
}
