//! OTLP over HTTP/1.1.

use super::{Uplink, World};
use crate::config::OtlpUplink;

/// Starts the uplink.
pub fn spawn(config: OtlpUplink, world: World) -> Uplink {
    let _ = (config, world);
    todo!()
}
