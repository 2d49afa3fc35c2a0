//! Who this device is: the OTLP resource.

use crate::config::Config;

/// Found once at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `device.id`
    pub device_id: String,
    /// Where it came from: `config`, `device-tree`, `machine-id`, `hostname`.
    pub source: &'static str,
    /// This boot, from `/proc/sys/kernel/random/boot_id`; zero if unreadable.
    pub boot_id: [u8; 16],
    /// All resource attributes, `device.id` included, sorted by key.
    pub attributes: Vec<(String, String)>,
}

impl Identity {
    /// Looks everywhere the design names; never fails.
    pub fn find(config: &Config) -> Self {
        let _ = config;
        todo!()
    }
}
