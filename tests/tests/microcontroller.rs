//! A thermometer on a microcontroller's bus, through its UART, the agent's
//! serial line, the spool and the uplink to the collector.

use std::time::Duration;

use sonde_tests::microcontroller::{Board, firmware};
use sonde_tests::world::{Otlp, SOON, finish};

/// A description that came before the line was open comes again after a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a point of the board's thermometer with this value.
async fn arrives(otlp: &Otlp, degrees: f64) {
    let what = format!("{degrees} degrees at the collector");
    otlp.collector
        .book
        .wait(&what, PATIENCE, |ledger| {
            ledger.points().iter().any(|point| {
                point.series.contains("hw.temperature")
                    && point.series.contains("board/1/temperature")
                    && point.value == Some(degrees)
            })
        })
        .await
        .unwrap_or_else(|error| {
            let ledger = otlp.collector.book.copy();
            let points = ledger.points();
            let serial = points
                .iter()
                .filter(|p| p.series.contains("serial") || p.series.contains("board/"));
            panic!("{error}: {:?}", serial.rev().take(20).collect::<Vec<_>>())
        });
}

#[tokio::test]
async fn the_temperature_at_a_microcontrollers_sensor_reaches_the_collector() {
    let mut board = Board::new(&firmware()).await;
    board.temperature(31_500);
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("microcontroller");
    gateway.text("serial.board.device", &board.tty().display().to_string());
    let mut agent = gateway.start();
    agent
        .wait("the open line", SOON, |status| {
            status.serial.iter().any(|line| line.state == "open")
        })
        .await
        .unwrap();
    board.go();
    arrives(&otlp, 31.5).await;

    board.temperature(-12_250);
    arrives(&otlp, -12.25).await;

    let status = agent.status().await.expect("a status");
    let line = &status.serial[0];
    assert_eq!(
        (line.sources, line.gauges, line.lost),
        (1, 1, 0),
        "{line:?}"
    );
    assert!(line.bad.is_empty(), "{line:?}");

    // Without power there is no temperature: not the last one, not 0.
    board.kill();
    agent
        .wait("the missing temperature", SOON, |status| {
            let gauge = status.gauges.iter().find(|gauge| {
                gauge.attributes.get("hw.id").map(String::as_str) == Some("board/1/temperature")
            });
            gauge.is_some_and(|gauge| {
                gauge.value.is_none() && gauge.missing.as_deref() == Some("gone")
            })
        })
        .await
        .unwrap();
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("microcontroller");
}
