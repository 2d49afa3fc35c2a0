//! What may go into the outbox: form, topic, pace. Pure; `now` is boot time in
//! nanoseconds.
//!
//! A topic prefix is whole levels: `plant/` allows `plant` and `plant/1`, not
//! `plants/1`. `#` alone allows every topic but the agent's own, on which a
//! local program could pass itself off as the agent or command another job.

use std::time::Duration;

use super::Refusal;
use crate::config;
use crate::message::Message;
use crate::uplink::mqtt::prefix_of;

/// Longest text in an MQTT packet (MQTT 5, 1.5.4).
const MAX_TEXT: usize = 65_535;

/// User properties that one message may have.
const MAX_PROPERTIES: usize = 64;

/// User properties that the agent sets.
const OWN_PROPERTIES: [&str; 5] = [
    "traceparent",
    "tracestate",
    "baggage",
    "sonde-frame",
    "sonde-resent",
];

/// Topics below the device's prefix that are the agent's.
const OWN_TOPICS: [&str; 4] = ["state", "telemetry", "command", "response"];

/// A program may do in one moment what it could have done in this time.
const BURST_NS: u64 = 10 * SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;

/// Topics that local programs may publish to, and how much.
#[derive(Debug)]
pub(super) struct Rules {
    allowed: Vec<Allowed>,
    /// The device's own prefix, its id put in.
    own: String,
    messages: Meter,
    bytes: Meter,
}

#[derive(Debug)]
struct Allowed {
    /// As configured, and what it matches: names spans, so it must be few.
    template: String,
    /// Its levels without a slash at the end; empty: every topic.
    prefix: String,
}

impl Rules {
    pub(super) fn new(config: &config::Outbox, topic_prefix: &str, device_id: &str) -> Self {
        let allowed = config.allow.iter().map(|allow| {
            let allow = allow.trim_end_matches('#').trim_end_matches('/');
            Allowed {
                template: match allow {
                    "" => "#".to_owned(),
                    allow => format!("{allow}/#"),
                },
                prefix: prefix_of(allow, device_id),
            }
        });
        Self {
            allowed: allowed.collect(),
            own: prefix_of(topic_prefix, device_id),
            messages: Meter::new(config.rate),
            bytes: Meter::new(config.byte_rate),
        }
    }

    /// What is allowed, in the order of the configuration.
    pub(super) fn templates(&self) -> Vec<String> {
        let templates = self.allowed.iter();
        templates.map(|allowed| allowed.template.clone()).collect()
    }

    /// The template of the prefix that allows a local program this topic.
    pub(super) fn allowed(&self, topic: &str) -> Result<&str, Refusal> {
        let own = under(topic, &self.own).and_then(|rest| rest.split('/').next());
        if own.is_some_and(|level| OWN_TOPICS.contains(&level)) {
            return Err(Refusal::NotAllowed(format!(
                "the topic \"{topic}\" is the agent's own; publish elsewhere"
            )));
        }
        let found = self
            .allowed
            .iter()
            .find(|allowed| under(topic, &allowed.prefix).is_some());
        match found {
            Some(allowed) => Ok(&allowed.template),
            None if self.allowed.is_empty() => Err(Refusal::NotAllowed(format!(
                "local programs may not publish: outbox.allow names no topic prefix; to allow this \
                 one, set allow = [\"{}\"] under [outbox] and reload",
                first_level(topic)
            ))),
            None => Err(Refusal::NotAllowed(format!(
                "the topic \"{topic}\" is under none of the prefixes in outbox.allow; add one \
                 such as \"{}\", or publish under one of those",
                first_level(topic)
            ))),
        }
    }

    /// Counts a message of so many bytes, unless it comes too fast.
    pub(super) fn pace(&mut self, bytes: usize, now: u64) -> Result<(), Refusal> {
        let wait = self.messages.wait(now).max(self.bytes.wait(now));
        if wait > 0 {
            return Err(Refusal::TooFast {
                after: Duration::from_nanos(wait),
            });
        }
        self.messages.take(1, now);
        self.bytes.take(bytes as u64, now);
        Ok(())
    }
}

/// A rate with a burst: what was taken is paid for at `paid_at`, and so much of
/// that may lie in the future.
#[derive(Debug)]
struct Meter {
    a_second: u64,
    paid_at: u64,
}

impl Meter {
    fn new(a_second: u64) -> Self {
        Self {
            a_second: a_second.max(1),
            paid_at: 0,
        }
    }

    /// Nanoseconds until something may be taken.
    fn wait(&self, now: u64) -> u64 {
        self.paid_at.saturating_sub(now.saturating_add(BURST_NS))
    }

    fn take(&mut self, count: u64, now: u64) {
        let cost = u128::from(count) * u128::from(SECOND_NS) / u128::from(self.a_second);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.paid_at = self.paid_at.max(now).saturating_add(cost);
    }
}

/// Checks what MQTT 5 asks of a message's parts, whoever made it.
pub(super) fn check(message: &Message) -> Result<(), Refusal> {
    check_topic("topic", &message.topic)?;
    if let Some(topic) = &message.response_topic {
        check_topic("response topic", topic)?;
    }
    if let Some(text) = &message.content_type {
        check_text("content type", text)?;
    }
    if message
        .correlation
        .as_ref()
        .is_some_and(|c| c.len() > MAX_TEXT)
    {
        return Err(invalid("the correlation data is longer than 65,535 bytes"));
    }
    if message.expiry == Some(0) {
        return Err(invalid(
            "the expiry is 0 s: it would expire before it is sent",
        ));
    }
    if message.text && std::str::from_utf8(&message.payload).is_err() {
        return Err(invalid(
            "the payload is said to be text, but it is not UTF-8",
        ));
    }
    if message.properties.len() > MAX_PROPERTIES {
        return Err(invalid(&format!(
            "there are {} user properties, at most {MAX_PROPERTIES} are allowed",
            message.properties.len()
        )));
    }
    for (key, value) in &message.properties {
        if OWN_PROPERTIES.contains(&key.as_str()) {
            return Err(invalid(&format!(
                "the user property \"{key}\" is set by the agent; trace context goes in the \
                 request's headers or in TRACEPARENT"
            )));
        }
        if key.is_empty() || key.len() + value.len() > MAX_TEXT - 2 {
            return Err(invalid(
                "a user property has no name, or is longer than 65,533 bytes",
            ));
        }
        check_text("name of a user property", key)?;
        check_text("value of a user property", value)?;
    }
    Ok(())
}

/// A topic name by MQTT 5, 4.7. Levels beginning with `$` at the start are a
/// broker's own.
fn check_topic(what: &str, topic: &str) -> Result<(), Refusal> {
    let wrong = match topic {
        "" => "is empty",
        _ if topic.starts_with('$') => "begins with $, which brokers keep for themselves",
        _ if topic.contains(['+', '#']) => {
            "has a wildcard (+ or #), which only a subscription may have"
        }
        _ => return check_text(what, topic),
    };
    Err(invalid(&format!("the {what} {wrong}")))
}

/// Control characters and non-characters are what MQTT 5, 1.5.4 advises
/// against, and brokers close the connection over.
fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_TEXT {
        let length = text.len();
        return Err(invalid(&format!(
            "the {what} has {length} bytes, MQTT allows 65,535"
        )));
    }
    let odd = |c: char| {
        let code = u32::from(c);
        c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    };
    if text.chars().any(odd) {
        return Err(invalid(&format!(
            "the {what} has a control character or another that Unicode keeps for no text"
        )));
    }
    Ok(())
}

fn invalid(what: &str) -> Refusal {
    Refusal::Invalid(what.to_owned())
}

/// What follows `prefix` in `topic`, if the prefix's levels begin it.
fn under<'a>(topic: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(topic);
    }
    match topic.strip_prefix(prefix)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

fn first_level(topic: &str) -> String {
    format!("{}/", topic.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn rules(allow: &[&str]) -> Rules {
        let config = config::Outbox {
            allow: allow.iter().map(|a| (*a).to_owned()).collect(),
            rate: 2,
            byte_rate: 1000,
        };
        Rules::new(&config, "sonde/{device.id}", "gw")
    }

    fn to(topic: &str) -> Message {
        Message {
            topic: topic.to_owned(),
            ..Message::default()
        }
    }

    #[test]
    fn a_prefix_is_whole_levels() {
        let rules = rules(&["plant/", "site", "{device.id}/#"]);
        for (topic, template) in [
            ("plant", "plant/#"),
            ("plant/1", "plant/#"),
            ("plant//x", "plant/#"),
            ("site/a/b", "site/#"),
            ("gw/x", "{device.id}/#"),
        ] {
            assert_eq!(rules.allowed(topic), Ok(template), "{topic}");
        }
        for topic in ["plants/1", "plan", "/plant", "Plant/1", "gw2/x", "sites"] {
            assert!(rules.allowed(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn nothing_is_allowed_unless_the_configuration_says_so() {
        let refused = rules(&[]).allowed("plant/1").unwrap_err().to_string();
        assert!(
            refused.contains("allow = [\"plant/\"] under [outbox]"),
            "{refused}"
        );
    }

    #[test]
    fn no_program_may_speak_as_the_agent() {
        let rules = rules(&["#"]);
        assert_eq!(rules.allowed("sonde/gw/own"), Ok("#"));
        assert_eq!(rules.allowed("sonde/gwx/state"), Ok("#"));
        for topic in [
            "sonde/gw/state",
            "sonde/gw/telemetry/metrics",
            "sonde/gw/command/reboot",
            "sonde/gw/response/reboot",
        ] {
            assert!(rules.allowed(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn a_topic_is_one_that_every_broker_takes() {
        for topic in ["a", "a/b/c", "/a", "a//b", "a b", "ü/é", "a$b"] {
            assert_eq!(check(&to(topic)), Ok(()), "{topic}");
        }
        let long = "x".repeat(65_536);
        for topic in [
            "",
            "$SYS/x",
            "a/+/b",
            "a/#",
            "a+",
            "a\0b",
            "a\nb",
            "a\u{85}",
            "a\u{fffe}",
            &long,
        ] {
            assert!(check(&to(topic)).is_err(), "{topic:?}");
            let mut answered = to("a");
            answered.response_topic = Some(topic.to_owned());
            assert!(check(&answered).is_err(), "{topic:?}");
        }
    }

    #[test]
    fn properties_are_bounded_and_the_agents_own_are_its_own() {
        let with = |properties: Vec<(&str, &str)>| {
            let mut message = to("a");
            let own = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
            message.properties = properties.into_iter().map(own).collect();
            check(&message)
        };
        assert_eq!(with(vec![("k", "v"), ("k", "")]), Ok(()));
        assert!(with(vec![("", "v")]).is_err());
        assert!(with(vec![("k", "a\u{0}")]).is_err());
        assert!(with(vec![("traceparent", "x")]).is_err());
        assert!(with(vec![("k", "v"); MAX_PROPERTIES + 1]).is_err());
        let long = "x".repeat(65_533);
        assert!(with(vec![("k", &long)]).is_err());
    }

    #[test]
    fn what_is_called_text_must_be() {
        let mut message = to("a");
        message.payload = Bytes::from_static(&[0xff]);
        assert_eq!(check(&message), Ok(()));
        message.text = true;
        assert!(check(&message).is_err());
    }

    #[test]
    fn too_many_messages_are_told_when_to_come_again() {
        let mut rules = rules(&[]);
        let mut now = 1_000 * SECOND_NS;
        // Two a second, for ten seconds at once, and one more that it ends in.
        for _ in 0..21 {
            assert_eq!(rules.pace(1, now), Ok(()));
        }
        let Err(Refusal::TooFast { after }) = rules.pace(1, now) else {
            panic!("not refused");
        };
        assert_eq!(after, Duration::from_millis(500));
        now += 500_000_000;
        assert_eq!(rules.pace(1, now), Ok(()));
        assert!(rules.pace(1, now).is_err());
    }

    #[test]
    fn too_many_bytes_are_refused_too_and_the_largest_message_passes() {
        let mut rules = rules(&[]);
        assert_eq!(rules.pace(96 * 1024, SECOND_NS), Ok(()));
        let Err(Refusal::TooFast { after }) = rules.pace(1, SECOND_NS) else {
            panic!("not refused");
        };
        assert_eq!(after.as_secs(), 88);
    }
}
