//! MQTT 5 on rumqttc.

use super::{Uplink, World};
use crate::config::MqttUplink;

mod link;
mod packet;
mod reason;
mod session;
#[cfg(test)]
mod tests;
mod topics;

/// Starts the uplink.
pub fn spawn(config: MqttUplink, world: World) -> Uplink {
    let _ = (config, world);
    todo!()
}
