//! Hostile commands, and what a hostile journal says; see [`crate::fuzz`].

use bytes::Bytes;
use serde_json::Value;

use super::answer;
use super::decode::{MAX_CORRELATION, MAX_PAYLOAD, MAX_TOPIC, Places};
use super::desk::{Desk, Limits, Weighed};
use crate::frame::Stamp;
use crate::uplink::mqtt::Received;
use crate::work::journal::Entry;

const LIMITS: Limits = Limits {
    per_minute: 10,
    concurrent: 4,
    remember_ns: 1 << 40,
    quota: 64 * 1024,
};

/// A desk, and a clock that stands still.
pub(crate) struct Caller(Desk);

impl Caller {
    pub(crate) fn new() -> Self {
        let places = Places {
            prefix: "sonde/gw".to_owned(),
            template: "sonde/{device.id}".to_owned(),
            response_topics: vec!["cloud/answers/".to_owned()],
        };
        Self(Desk::new(places, LIMITS, [7; 16]))
    }

    /// What is accepted or refused has bounds, and its answer goes only where it may.
    pub(crate) fn call(&mut self, received: Received, pkid: u16) {
        let now = Stamp::default();
        let back = match self.0.weigh(received, pkid, now) {
            Weighed::New(command) => {
                assert!(command.payload.len() <= MAX_PAYLOAD);
                let back = command.back.clone();
                let id = self.0.accept(*command, now, true);
                let entry = self.0.entry(id).unwrap();
                assert_eq!(entry.response_topic, back.topic);
                back
            }
            Weighed::Refused(refused) => {
                let code = refused.code;
                let said = answer::refused(&refused.back.job, code, &refused.words, None);
                let said: Value = serde_json::from_slice(&said).unwrap();
                assert_eq!(said["code"], code.as_str());
                refused.back
            }
            Weighed::Again(id) => {
                assert!(self.0.entry(id).is_some());
                return;
            }
            Weighed::Nothing => return,
        };
        assert!((1..=64).contains(&back.job.len()));
        let most = |data: &Bytes| data.len() <= MAX_CORRELATION;
        assert!(back.correlation.as_ref().is_none_or(most));
        let allowed = ["sonde/gw/response", "cloud/answers"];
        let below = |prefix: &&str| {
            let rest = back.topic.strip_prefix(*prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        assert!(allowed.iter().any(below), "{}", back.topic);
        assert!(back.topic.len() <= MAX_TOPIC && !back.topic.contains(['+', '#', '\0']));
    }

    /// A command as it should be.
    pub(crate) fn call_for(&mut self, job: &str, payload: Bytes) {
        let received = Received {
            topic: format!("sonde/gw/command/{job}"),
            payload,
            ..Received::default()
        };
        self.call(received, 7);
    }

    /// What a journal held; whatever that was, new commands come after it.
    pub(crate) fn recover(&mut self, found: Vec<Entry>) {
        let now = Stamp::default();
        let needs = self.0.recover(found, now, true, |_| true);
        for (id, _) in needs {
            assert!(self.0.entry(id).is_some());
        }
        self.0.forget_old(now);
        let _ = self.0.counts();
    }
}
