//! What a broker's reason codes mean for us: what happens next, and words that
//! help. Source: MQTT 5, sections 2.4, 3.2.2.2, 3.4.2.1 and 3.14.2.1.
//!
//! A broker's no is not a licence to delete: only what is wrong with *this*
//! message condemns it. A refused topic (0x90) holds its signal, because the
//! topic comes from the configuration and is the same for every message.

use super::packet::Words;
use super::piece::PieceId;
use super::session::Verdict;

/// Why a connection is over, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// What happens next.
    pub(super) reaction: Reaction,
    /// What was tried, what happened, what to do.
    pub(super) text: String,
    /// The one frame that the broker ended it over, and what that means for it.
    pub(super) blame: Option<(PieceId, Verdict)>,
    /// The other side closed it and gave no reason.
    pub(super) hung_up: bool,
}

/// What happens after a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// We wanted to end.
    Finished,
    /// Try again after the backoff.
    Retry,
    /// Somebody has to change something first: open the circuit, keep the data.
    Hold,
    /// The broker keeps no retained messages: connect again without any.
    WithoutRetain,
    /// One of the publishes in flight is too large or malformed for the broker, which did
    /// not say which, or it hung up over them: connect again and send one at a time.
    OneByOne,
}

/// What a PUBACK says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The broker has it.
    Delivered,
    /// It is too large for it.
    TooLarge,
    /// It will never take it.
    Condemned,
    /// Not now.
    Again,
    /// Not until somebody changes something.
    Hold,
}

impl End {
    pub(super) fn retry(text: impl Into<String>) -> Self {
        Self {
            reaction: Reaction::Retry,
            text: text.into(),
            blame: None,
            hung_up: false,
        }
    }

    pub(super) fn hold(text: impl Into<String>) -> Self {
        Self {
            reaction: Reaction::Hold,
            text: text.into(),
            blame: None,
            hung_up: false,
        }
    }

    pub(super) fn finished() -> Self {
        Self {
            reaction: Reaction::Finished,
            text: String::new(),
            blame: None,
            hung_up: false,
        }
    }
}

/// What becomes of a publish that was answered with `code`.
pub(super) fn of_publish(code: u8) -> Answer {
    match code {
        // 0x10: nobody subscribes right now; the broker did its part.
        0x00..=0x7f => Answer::Delivered,
        0x87 | 0x90 => Answer::Hold,
        0x95 => Answer::TooLarge,
        0x99 => Answer::Condemned,
        _ => Answer::Again,
    }
}

/// A local program's message was answered with `code`. Its topic is the
/// program's choice, so a topic that is invalid here is wrong with this message.
pub(super) fn of_message(code: u8) -> Answer {
    match code {
        0x90 => Answer::Condemned,
        _ => of_publish(code),
    }
}

/// CONNECT was refused. Codes below 0x80 are those of an MQTT 3.1.1 broker.
pub(super) fn of_refusal(code: u8, words: &Words) -> End {
    let (reaction, advice) = match code {
        0x01 | 0x84 => (
            Reaction::Hold,
            "it does not speak MQTT 5; update the broker or switch its listener to MQTT 5",
        ),
        0x02 | 0x85 => (
            Reaction::Hold,
            "it does not allow the client identifier; set uplink.mqtt.client_id to one it does",
        ),
        0x04 | 0x86 => (
            Reaction::Hold,
            "user name or password is wrong; check uplink.mqtt.username and the password file",
        ),
        0x05 | 0x87 => (
            Reaction::Hold,
            "these credentials may not connect; check user name, password file or client \
             certificate, and the broker's access rules",
        ),
        0x8a => (
            Reaction::Hold,
            "this client is banned; ask who runs the broker",
        ),
        0x8c => (
            Reaction::Hold,
            "it wants another way to authenticate; user name and password or a client \
             certificate is what the agent offers",
        ),
        0x90 => (
            Reaction::Hold,
            "it does not allow the last-will topic; check uplink.mqtt.topic_prefix",
        ),
        _ => at_any_time(code),
    };
    End {
        reaction,
        text: sentence("the broker refused the connection", code, words, advice),
        blame: None,
        hung_up: false,
    }
}

/// The broker sent DISCONNECT.
pub(super) fn of_disconnect(code: u8, words: &Words) -> End {
    let (reaction, advice) = match code {
        0x87 => (
            Reaction::Hold,
            "check the broker's access rules for this client",
        ),
        0x8e => (
            Reaction::Hold,
            "another client connected with the same identifier: are two agents running with one \
             device id?",
        ),
        0x90 => (
            Reaction::Hold,
            "it does not allow the topic; check uplink.mqtt.topic_prefix",
        ),
        0x95 | 0x99 => (
            Reaction::OneByOne,
            "trying the messages one by one to find the one it cannot take",
        ),
        0x98 => (
            Reaction::Hold,
            "somebody at the broker ended it; ask who runs the broker",
        ),
        _ => at_any_time(code),
    };
    End {
        reaction,
        text: sentence("the broker ended the connection", code, words, advice),
        blame: None,
        hung_up: false,
    }
}

/// One line: what, code and its name, the broker's words, what to do.
pub(super) fn sentence(what: &str, code: u8, words: &Words, advice: &str) -> String {
    let mut text = format!("{what}: {} (0x{code:02x})", name(code));
    if !words.reason.is_empty() {
        text.push_str(", saying \"");
        text.push_str(&words.reason);
        text.push('"');
    }
    if !words.server.is_empty() {
        text.push_str(", pointing to ");
        text.push_str(&words.server);
    }
    if !advice.is_empty() {
        text.push_str("; ");
        text.push_str(advice);
    }
    text
}

/// A reason code's name in the specification.
fn name(code: u8) -> &'static str {
    match code {
        0x00 => "normal",
        0x01 => "unacceptable protocol version",
        0x02 => "identifier rejected",
        0x03 => "server unavailable",
        0x04 => "bad user name or password",
        0x05 => "not authorized",
        0x10 => "no matching subscribers",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep-alive timeout",
        0x8e => "session taken over",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        _ => "unknown reason",
    }
}

/// Codes that mean the same in CONNACK and DISCONNECT.
fn at_any_time(code: u8) -> (Reaction, &'static str) {
    match code {
        0x9a => (
            Reaction::WithoutRetain,
            "it keeps no retained messages; trying without",
        ),
        0x9b => (
            Reaction::Hold,
            "it does not offer QoS 1, without which nothing is acknowledged; use another broker",
        ),
        0x9c | 0x9d => (
            Reaction::Hold,
            "it sends clients elsewhere; set uplink.mqtt.url to the new address",
        ),
        _ => (Reaction::Retry, "trying again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u8) -> Reaction {
        of_refusal(code, &Words::default()).reaction
    }

    #[test]
    fn wrong_credentials_and_wrong_versions_hold_the_data() {
        for code in [0x01, 0x04, 0x05, 0x84, 0x86, 0x87, 0x8a, 0x8c, 0x9c, 0x9d] {
            assert_eq!(refusal(code), Reaction::Hold, "0x{code:02x}");
        }
    }

    #[test]
    fn a_busy_broker_is_tried_again() {
        for code in [0x03, 0x80, 0x83, 0x88, 0x89, 0x97, 0x9f, 0xf0] {
            assert_eq!(refusal(code), Reaction::Retry, "0x{code:02x}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_the_message_itself_condemns_it() {
        for code in 0..=u8::MAX {
            let condemned = of_publish(code) == Answer::Condemned;
            assert_eq!(condemned, code == 0x99, "0x{code:02x}");
        }
        assert_eq!(of_publish(0x10), Answer::Delivered);
        assert_eq!(of_publish(0x97), Answer::Again);
        assert_eq!(of_publish(0x87), Answer::Hold);
    }

    #[test]
    fn an_invalid_topic_condemns_a_programs_message_and_holds_telemetry() {
        assert_eq!(of_message(0x90), Answer::Condemned);
        assert_eq!(of_publish(0x90), Answer::Hold);
        assert_eq!(of_message(0x87), Answer::Hold);
    }

    #[test]
    fn the_sentence_carries_the_brokers_own_words_and_advice() {
        let words = Words {
            reason: "maintenance".to_owned(),
            server: "b.example:8883".to_owned(),
        };
        assert_eq!(
            of_refusal(0x9d, &words).text,
            "the broker refused the connection: server moved (0x9d), saying \"maintenance\", \
             pointing to b.example:8883; it sends clients elsewhere; set uplink.mqtt.url to the \
             new address"
        );
    }

    #[test]
    fn being_taken_over_holds_instead_of_fighting() {
        assert_eq!(
            of_disconnect(0x8e, &Words::default()).reaction,
            Reaction::Hold
        );
    }
}
