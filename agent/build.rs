//! Tells the program when it was built, so that TLS can refuse to believe a
//! clock from before that day.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_S: u64 = 86_400;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=src");
    let given = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    // Whole days: a constant that changed each second would rebuild the crate for nothing.
    let day = given.unwrap_or_else(now_s) / DAY_S * DAY_S;
    println!("cargo::rustc-env=SONDE_BUILD_UNIX_S={day}");
}

#[allow(
    clippy::disallowed_methods,
    reason = "a build has no crate::clock; SOURCE_DATE_EPOCH replaces this where builds must repeat"
)]
fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
