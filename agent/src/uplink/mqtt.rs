//! MQTT 5 on rumqttc.

use super::{Uplink, World};
use crate::config::MqttUplink;

/// Starts the uplink.
pub fn spawn(config: MqttUplink, world: World) -> Uplink {
    let _ = (config, world);
    todo!()
}
