//! Where messages go: `{prefix}/state` and `{prefix}/telemetry/{signal}`; and
//! where commands come: `{prefix}/command/{job}`.
//!
//! A device id may hold anything; a topic level may not. What would change the
//! topic's shape (`/`), make it invalid (`+`, `#`, control characters) or
//! reserved (`$`) is percent-encoded, so that two ids never share a topic.

use std::fmt::Write as _;

use crate::frame::Signal;

/// The most bytes a device id may take in a topic. MQTT allows 65,535 for the
/// whole topic, brokers often far less.
const MAX_ID: usize = 512;

/// The place in `topic_prefix` where the device id goes.
const DEVICE_ID: &str = "{device.id}";

/// The topics of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topics {
    /// Birth and last will, retained.
    pub(super) state: String,
    /// What is subscribed to, should commands be taken: one level below is a job.
    pub(super) commands: String,
    metrics: String,
    traces: String,
    logs: String,
}

/// The device's prefix, its id put in; slashes at its end don't count.
pub fn prefix_of(prefix: &str, device_id: &str) -> String {
    let prefix = prefix.replace(DEVICE_ID, &safe_level(device_id));
    prefix.trim_end_matches('/').to_owned()
}

impl Topics {
    /// Puts `device_id` into `prefix`; slashes at the prefix's end don't count.
    pub(super) fn new(prefix: &str, device_id: &str) -> Self {
        let prefix = prefix_of(prefix, device_id);
        let telemetry = |signal: Signal| format!("{prefix}/telemetry/{}", signal.as_str());
        Self {
            state: format!("{prefix}/state"),
            commands: format!("{prefix}/command/+"),
            metrics: telemetry(Signal::Metrics),
            traces: telemetry(Signal::Traces),
            logs: telemetry(Signal::Logs),
        }
    }

    /// Where a signal goes; `None`: it has no telemetry topic.
    pub(super) fn telemetry(&self, signal: Signal) -> Option<&str> {
        match signal {
            Signal::Metrics => Some(&self.metrics),
            Signal::Traces => Some(&self.traces),
            Signal::Logs => Some(&self.logs),
            Signal::Message => None,
        }
    }
}

/// A device id as one topic level or client identifier.
pub(super) fn safe_level(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for c in id.chars() {
        let before = out.len();
        if matches!(c, '/' | '+' | '#' | '$' | '%') || c.is_control() {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
        if out.len() > MAX_ID {
            out.truncate(before);
            break;
        }
    }
    if out.is_empty() {
        out.push_str("unknown");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_stands_in_the_prefix_as_it_is() {
        let topics = Topics::new("sonde/{device.id}", "gw-17");
        assert_eq!(topics.state, "sonde/gw-17/state");
        assert_eq!(
            topics.telemetry(Signal::Metrics),
            Some("sonde/gw-17/telemetry/metrics")
        );
        assert_eq!(
            topics.telemetry(Signal::Traces),
            Some("sonde/gw-17/telemetry/traces")
        );
        assert_eq!(
            topics.telemetry(Signal::Logs),
            Some("sonde/gw-17/telemetry/logs")
        );
        assert_eq!(topics.telemetry(Signal::Message), None);
    }

    #[test]
    fn an_id_cannot_add_levels_wildcards_or_control_characters() {
        assert_eq!(safe_level("a/b+c#d\u{0}e\n"), "a%2Fb%2Bc%23d%00e%0A");
        assert_eq!(safe_level("$SYS"), "%24SYS");
        assert_eq!(safe_level("\u{85}"), "%C2%85");
        assert_eq!(safe_level("Gerät 7"), "Gerät 7");
    }

    #[test]
    fn different_ids_never_share_a_topic() {
        assert_ne!(safe_level("a/b"), safe_level("a%2Fb"));
    }

    #[test]
    fn an_empty_or_endless_id_still_gives_a_topic_of_sane_length() {
        assert_eq!(safe_level(""), "unknown");
        assert_eq!(safe_level(&"x".repeat(100_000)).len(), MAX_ID);
        assert_eq!(safe_level(&"/".repeat(100_000)).len(), MAX_ID / 3 * 3);
    }

    #[test]
    fn a_prefix_ending_in_slashes_makes_no_empty_levels() {
        assert_eq!(
            Topics::new("fleet/{device.id}//", "a").state,
            "fleet/a/state"
        );
        assert_eq!(Topics::new("fixed", "a").state, "fixed/state");
    }
}
