//! The demo itself, and that its proof can fail.

use std::process::Output;
use std::time::Duration;

use sonde_tests::agent::binary;
use tokio::process::Command;

/// About a minute, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_demo_proves_itself() {
    let output = demo(&[]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("The proof holds"), "{said}");
    assert!(
        said.contains("CONSUMER"),
        "no trace to the consumer: {said}"
    );
}

#[tokio::test]
async fn a_demo_with_one_frame_taken_away_fails() {
    let output = demo(&["--tamper"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("THE PROOF FAILS"), "{said}");
}

async fn demo(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(args)
        .env("SONDE_BIN", binary())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(LIMIT, output)
        .await
        .expect("the demo ends by itself")
        .unwrap()
}
