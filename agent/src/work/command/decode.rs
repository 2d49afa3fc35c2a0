//! From an MQTT message to a typed [`Command`], or to why it is none. Pure.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::trace::propagation::{self, Carried};
use crate::uplink::mqtt::Received;
use crate::work::journal::Key;

/// The most bytes of arguments. What goes with them has as much room again in
/// the largest packet that is taken.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;

/// The most correlation data: it is kept, and repeated in each answer.
pub(crate) const MAX_CORRELATION: usize = 256;

/// The longest response topic.
pub(crate) const MAX_TOPIC: usize = 512;

/// The longest job name.
const MAX_NAME: usize = 64;

/// What is answered to where no name can stand.
const NO_NAME: &str = "unknown";

/// Where commands come from and answers may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// `topic_prefix` with the device's id in it.
    pub(crate) prefix: String,
    /// `topic_prefix` as it is configured, for names of spans.
    pub(crate) template: String,
    /// Prefixes of topics that a Response Topic may have besides `{prefix}/response`.
    pub(crate) response_topics: Vec<String>,
}

/// A message that asks for a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    /// Which, and where answers go.
    pub(crate) back: Back,
    /// What the job is given; not compared with its schema yet.
    pub(crate) arguments: Map<String, Value>,
    /// The same as it came.
    pub(crate) payload: Bytes,
    /// Two messages with the same key (and answers' topic) are one command.
    pub(crate) key: Key,
    /// Of job and payload.
    pub(crate) digest: u64,
    /// The broker may have sent it before.
    pub(crate) dup: bool,
    /// Seconds, from now.
    pub(crate) expiry: Option<u32>,
}

/// Who is answered, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Back {
    /// The job that was asked for.
    pub(crate) job: String,
    /// The topic it was asked for on.
    pub(crate) asked_on: String,
    /// Where answers go.
    pub(crate) topic: String,
    /// What they repeat.
    pub(crate) correlation: Option<Bytes>,
    /// The trace that the message brought.
    pub(crate) carried: Carried,
}

/// Why nothing is run; the words of `code` in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Code {
    /// No job of that name is configured with `remote = true`.
    UnknownJob,
    /// No JSON object, or not what the job's schema allows.
    BadArguments,
    /// More than [`MAX_PAYLOAD`] or [`MAX_CORRELATION`].
    TooLarge,
    /// More commands than `commands.per_minute` or `commands.concurrent`.
    TooMany,
    /// The job runs already, and its rule lets no more in.
    Busy,
    /// Its time had passed.
    Expired,
    /// The same correlation data came with another command.
    Conflict,
    /// Answers may not go to that Response Topic.
    ResponseTopic,
    /// What has to be remembered cannot be: the journal is full or broken.
    Unavailable,
    /// The agent is stopping.
    Stopping,
}

/// A message that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) code: Code,
    /// The same for people.
    pub(crate) words: String,
    /// Who is told.
    pub(crate) back: Back,
}

impl Code {
    /// As in answers and the status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Code::UnknownJob => "unknown_job",
            Code::BadArguments => "bad_arguments",
            Code::TooLarge => "too_large",
            Code::TooMany => "too_many",
            Code::Busy => "busy",
            Code::Expired => "expired",
            Code::Conflict => "conflict",
            Code::ResponseTopic => "response_topic",
            Code::Unavailable => "unavailable",
            Code::Stopping => "stopping",
        }
    }
}

/// Reads a message that came with the packet id `pkid` (0 at QoS 0).
///
/// # Errors
/// It is refused; nothing of it may be run.
pub(crate) fn decode(
    received: Received,
    pkid: u16,
    places: &Places,
) -> Result<Command, Box<Refused>> {
    let level = job_of(&received.topic, places).unwrap_or_default();
    let known = is_name(level);
    let default = format!(
        "{}/response/{}",
        places.prefix,
        if known { level } else { NO_NAME }
    );
    let fields = received.properties.iter();
    let mut back = Back {
        job: if known { level } else { NO_NAME }.to_owned(),
        asked_on: if known {
            received.topic.clone()
        } else {
            String::new()
        },
        topic: default,
        correlation: received.correlation,
        carried: propagation::extract_mqtt(fields.map(|(k, v)| (k.as_str(), v.as_str()))),
    };
    let no = |code, words: String, back: Back| Err(Box::new(Refused { code, words, back }));
    if back
        .correlation
        .as_ref()
        .is_some_and(|c| c.len() > MAX_CORRELATION)
    {
        back.correlation = None;
        let words = format!("the correlation data has more than {MAX_CORRELATION} bytes");
        return no(Code::TooLarge, words, back);
    }
    if let Some(topic) = received.response_topic {
        match may_answer_to(&topic, places) {
            Ok(()) => back.topic = topic,
            Err(why) => return no(Code::ResponseTopic, why, back),
        }
    }
    if !known {
        let words = "a job's name has 1 to 64 letters, digits, \"_\" and \"-\"".to_owned();
        return no(Code::UnknownJob, words, back);
    }
    if received.payload.len() > MAX_PAYLOAD {
        let words = format!(
            "the arguments have {} bytes, {MAX_PAYLOAD} is the most",
            received.payload.len()
        );
        return no(Code::TooLarge, words, back);
    }
    let arguments = match read_arguments(&received.payload) {
        Ok(arguments) => arguments,
        Err(words) => return no(Code::BadArguments, words, back),
    };
    Ok(Command {
        key: match &back.correlation {
            Some(correlation) => Key::Named(correlation.clone()),
            None => Key::Unnamed(pkid),
        },
        digest: digest(&back.job, &received.payload),
        arguments,
        payload: received.payload,
        dup: received.dup,
        expiry: received.expiry,
        back,
    })
}

fn job_of<'a>(topic: &'a str, places: &Places) -> Option<&'a str> {
    let rest = topic.strip_prefix(places.prefix.as_str())?;
    rest.strip_prefix("/command/")
}

fn is_name(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fine)
}

/// Nothing at all counts as no arguments.
fn read_arguments(payload: &[u8]) -> Result<Map<String, Value>, String> {
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(payload) {
        Ok(Value::Object(arguments)) => Ok(arguments),
        Ok(_) => Err("the payload is no JSON object".to_owned()),
        Err(error) => Err(format!("the payload is no JSON object: {error}")),
    }
}

/// The broker lets the agent publish where a caller perhaps may not. So an
/// answer goes only below the device's own response topics or where the
/// configuration says, and never to another topic of the device's own.
fn may_answer_to(topic: &str, places: &Places) -> Result<(), String> {
    let odd = |c: char| matches!(c, '+' | '#') || c.is_control();
    if topic.is_empty() || topic.len() > MAX_TOPIC || topic.contains(odd) || topic.starts_with('$')
    {
        return Err(format!(
            "the Response Topic is no topic name of 1 to {MAX_TOPIC} bytes that may be published to"
        ));
    }
    let own = format!("{}/response", places.prefix);
    let mut allowed = places.response_topics.iter();
    let elsewhere = !is_below(topic, &places.prefix);
    let named = elsewhere && allowed.any(|prefix| is_below(topic, prefix));
    if !named && !is_below(topic, &own) {
        return Err(format!(
            "answers may not go to that Response Topic: below {own} they may, and below what \
             commands.response_topics names"
        ));
    }
    Ok(())
}

/// By whole levels.
fn is_below(topic: &str, prefix: &str) -> bool {
    if prefix == "#" {
        return true;
    }
    let prefix = prefix.strip_suffix("/#").unwrap_or(prefix);
    let prefix = prefix.trim_end_matches('/');
    let rest = topic.strip_prefix(prefix);
    !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// FNV-1a, 64 bits: tells a repeat from a mistake. It keeps nobody from
/// making two commands that look the same; whoever could, may send commands.
fn digest(job: &str, payload: &[u8]) -> u64 {
    let bytes = job.bytes().chain([0]).chain(payload.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            prefix: "sonde/gw".to_owned(),
            template: "sonde/{device.id}".to_owned(),
            response_topics: vec!["cloud/answers/".to_owned()],
        }
    }

    fn message(topic: &str, payload: &[u8]) -> Received {
        Received {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            ..Received::default()
        }
    }

    fn code(received: Received) -> (Code, String) {
        let refused = decode(received, 1, &places()).expect_err("refused");
        (refused.code, refused.back.topic)
    }

    #[test]
    fn the_last_level_is_the_job_and_an_empty_payload_is_no_arguments() {
        for payload in [&b""[..], b"{}", b" \n"] {
            let command = decode(message("sonde/gw/command/ping", payload), 7, &places());
            let command = command.expect("a command");
            assert_eq!(command.back.job, "ping");
            assert_eq!(command.back.topic, "sonde/gw/response/ping");
            assert_eq!(command.key, Key::Unnamed(7));
            assert!(command.arguments.is_empty());
        }
    }

    #[test]
    fn a_trace_correlation_data_and_expiry_come_along() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut received = message("sonde/gw/command/ping", b"{\"n\":1}");
        received.correlation = Some(Bytes::from_static(b"\x00\xff"));
        received.response_topic = Some("cloud/answers/7".to_owned());
        received.expiry = Some(30);
        received.properties = vec![("traceparent".to_owned(), parent.to_owned())];
        let command = decode(received, 7, &places()).expect("a command");
        let correlation = Bytes::from_static(b"\x00\xff");
        assert_eq!(command.key, Key::Named(correlation.clone()));
        assert_eq!(command.back.correlation, Some(correlation));
        assert_eq!(command.back.topic, "cloud/answers/7");
        assert_eq!(command.expiry, Some(30));
        let context = command.back.carried.context.expect("a context");
        assert_eq!(context.traceparent(), parent);
    }

    #[test]
    fn what_cannot_be_a_job_is_unknown_and_its_name_goes_nowhere() {
        for level in ["", "a/b", "a b", "ä", "..", "$x", &"x".repeat(65)] {
            let topic = format!("sonde/gw/command/{level}");
            let (code, back) = code(message(&topic, b""));
            assert_eq!(code, Code::UnknownJob, "{level}");
            assert_eq!(back, "sonde/gw/response/unknown");
        }
    }

    #[test]
    fn arguments_that_are_no_object_or_too_many_bytes_are_refused() {
        for payload in [&b"[1]"[..], b"1", b"{", b"\xff", b"{\"a\":1}x"] {
            let (code, _) = code(message("sonde/gw/command/ping", payload));
            assert_eq!(code, Code::BadArguments, "{payload:?}");
        }
        let deep = "{\"a\":".repeat(3000);
        assert_eq!(
            code(message("sonde/gw/command/ping", deep.as_bytes())).0,
            Code::BadArguments
        );
        let large = vec![b' '; MAX_PAYLOAD + 1];
        assert_eq!(
            code(message("sonde/gw/command/ping", &large)).0,
            Code::TooLarge
        );
        let mut long = message("sonde/gw/command/ping", b"");
        long.correlation = Some(Bytes::from(vec![0; MAX_CORRELATION + 1]));
        assert_eq!(code(long).0, Code::TooLarge);
    }

    #[test]
    fn hostile_json_is_refused_with_words_or_is_what_it_says() {
        let nested = |open: &str, close: &str| {
            let depth = 10_000.min(MAX_PAYLOAD / (open.len() + close.len()) - 8);
            format!("{{\"n\":{}1{}}}", open.repeat(depth), close.repeat(depth))
        };
        for payload in [
            nested("[", "]").as_bytes(),
            nested("{\"a\":", "}").as_bytes(),
            "[".repeat(10_000).as_bytes(),
            b"{\"n\":1e999}",
            b"{\"n\":-1e999}",
            b"{\"n\":NaN}",
            b"{\"n\":\"\xc3\x28\"}",
            b"{\"\xff\":1}",
            b"{\"n\":\"\\ud800\"}",
            b"{\"n\":\"\x00\"}",
            b"{\"n\":01}",
            b"\xef\xbb\xbf{}",
            b"{}{}",
        ] {
            let message = message("sonde/gw/command/ping", payload);
            let refused = decode(message, 1, &places()).expect_err("refused");
            assert_eq!(refused.code, Code::BadArguments);
            assert!(refused.words.len() < 200, "{}", refused.words);
        }
        // Of a name that stands twice the last counts, for the schema and the program alike.
        let twice = message("sonde/gw/command/ping", b"{\"n\":1,\"n\":2}");
        let command = decode(twice, 1, &places()).expect("a command");
        assert_eq!(command.arguments["n"], 2);
        assert_eq!(command.arguments.len(), 1);
    }

    #[test]
    fn a_response_topic_or_correlation_data_of_64_kib_is_refused_to_the_default_topic() {
        let long = 65_535;
        let mut wide = message("sonde/gw/command/ping", b"");
        wide.response_topic = Some(format!("sonde/gw/response/{}", "x".repeat(long - 18)));
        let mut named = message("sonde/gw/command/ping", b"");
        named.correlation = Some(Bytes::from(vec![7; long]));
        for (received, code) in [(wide, Code::ResponseTopic), (named, Code::TooLarge)] {
            let refused = decode(received, 1, &places()).expect_err("refused");
            assert_eq!(refused.code, code);
            assert_eq!(refused.back.topic, "sonde/gw/response/ping");
            assert!(refused.words.len() < 300, "{}", refused.words);
            assert!(refused.back.correlation.is_none());
        }
    }

    #[test]
    fn answers_go_only_where_they_may() {
        for (topic, fine) in [
            ("sonde/gw/response/ping", true),
            ("sonde/gw/response", true),
            ("cloud/answers/7", true),
            ("cloud/answers", true),
            ("cloud/answersheet", false),
            ("cloud/answers/+", false),
            ("cloud/answers/#", false),
            ("cloud/answers/\n", false),
            ("sonde/gw/responses", false),
            ("sonde/gw/command/ping", false),
            ("sonde/other/command/ping", false),
            ("sonde/gw/state", false),
            ("$SYS/x", false),
            ("$share/g/cloud/answers", false),
            ("sonde/+/response/ping", false),
            ("sonde/gw/response/#", false),
            ("sonde/gw2/response/ping", false),
            ("/sonde/gw/response/ping", false),
            ("sonde/gw/response/\u{0}", false),
            ("sonde/gw/response/../command/x", true),
            ("", false),
            (&format!("cloud/answers/{}", "x".repeat(MAX_TOPIC)), false),
        ] {
            let mut received = message("sonde/gw/command/ping", b"");
            received.response_topic = Some(topic.to_owned());
            let decoded = decode(received, 1, &places());
            assert_eq!(decoded.is_ok(), fine, "{topic}");
            if let Err(refused) = decoded {
                assert_eq!(refused.code, Code::ResponseTopic);
                assert_eq!(refused.back.topic, "sonde/gw/response/ping", "{topic}");
            }
        }
    }

    #[test]
    fn a_prefix_that_allows_everything_allows_no_topic_of_the_devices_own() {
        for everything in ["sonde", "sonde/#", "#"] {
            let mut places = places();
            places.response_topics = vec![everything.to_owned()];
            for (topic, fine) in [
                ("sonde/gw/command/ping", false),
                ("sonde/gw/state", false),
                ("sonde/gw/response/x", true),
                ("sonde/cloud/answers", true),
            ] {
                let mut received = message("sonde/gw/command/ping", b"");
                received.response_topic = Some(topic.to_owned());
                assert_eq!(decode(received, 1, &places).is_ok(), fine, "{topic}");
            }
        }
    }

    #[test]
    fn the_same_job_and_payload_have_the_same_digest() {
        assert_eq!(digest("a", b"b"), digest("a", b"b"));
        assert_ne!(digest("a", b"b"), digest("ab", b""));
        assert_ne!(digest("a", b"b"), digest("a", b"c"));
    }
}
