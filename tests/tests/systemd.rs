//! What systemd hears of the agent, over its notify socket.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use sonde_tests::agent::{Gateway, binary};
use sonde_tests::world::{END, SOON};
use tokio::process::Command;

/// Reads datagrams until one holds `wanted`; gives all that came.
fn hear(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut came = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let length = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no {wanted:?} after {came:?}: {error}"));
        let words = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let found = words.contains(wanted);
        came.push(words);
        if found {
            return came;
        }
    }
}

fn listening(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

#[tokio::test]
async fn systemd_hears_of_the_start_of_progress_and_of_the_end() {
    let gateway = Gateway::new("notify");
    let path = gateway.path("notify.sock");
    let socket = listening(&path);
    let mut command = Command::new(binary());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000");
    let mut agent = gateway.start_with(&mut command);
    let (socket, start) = tokio::task::spawn_blocking(move || {
        let start = hear(&socket, "READY=1");
        (socket, start)
    })
    .await
    .unwrap();
    // Not before everything answers.
    assert_eq!(start.len(), 1, "{start:?}");
    agent.ready().await.unwrap();
    let (socket, came) = tokio::task::spawn_blocking(move || {
        let mut came = Vec::new();
        for _ in 0..3 {
            came.extend(hear(&socket, "WATCHDOG=1"));
        }
        (socket, came)
    })
    .await
    .unwrap();
    assert!(
        came.contains(&"STATUS=no uplink is configured".to_owned()),
        "{came:?}"
    );
    agent.terminate(END).await.unwrap();
    let last = hear(&socket, "STOPPING=1");
    assert!(
        last.last().unwrap().contains("EXTEND_TIMEOUT_USEC="),
        "{last:?}"
    );
    // Nothing after it: a keep-alive of a dying process would be a lie.
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
}
