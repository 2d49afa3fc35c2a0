//! An embedded MQTT 5 broker (rumqttd) for the demo: nothing to install.
//!
//! It lives until the process ends: rumqttd offers no way to stop it. Client
//! ids must do without `+ $ # /`: one refused id, tried twice, panics inside
//! rumqttd 0.20 and leaves it dead for everybody (`will_handlers` poisoned).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::TcpStream;

use crate::broker::free_port;

/// Starts it on a free loopback port and waits until it listens.
///
/// # Errors
/// When its thread cannot be started or it does not listen within five seconds.
pub async fn start() -> io::Result<SocketAddr> {
    let listen = free_port()?;
    let server = ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 16,
            max_outgoing_packet_count: 200,
            max_segment_size: 16 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("demo".to_owned(), server)])),
        ..Config::default()
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            // Ends only with an error, which the caller sees as a broker that does not listen.
            let _ = Broker::new(config).start();
        })?;
    for _ in 0..250 {
        if TcpStream::connect(listen).await.is_ok() {
            return Ok(listen);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(io::Error::other(format!(
        "the embedded broker does not listen on {listen}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Subscriber;
    use crate::broker::tests::{SOON, publish};

    #[tokio::test]
    async fn it_carries_a_frame_with_its_properties() {
        let broker = start().await.unwrap();
        let subscriber = Subscriber::start(broker, "sonde/x").await.unwrap();
        publish(broker, "sonde/x/telemetry/metrics", None)
            .await
            .unwrap();
        subscriber
            .book
            .wait("the frame", SOON, |ledger| ledger.last_tick(None) == 3)
            .await
            .unwrap();
        subscriber.book.read(|ledger| {
            assert!(ledger.deliveries[0].property("traceparent").is_some());
        });
        assert_eq!(subscriber.faults(), Vec::<String>::new());
    }
}
