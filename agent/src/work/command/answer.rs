//! What is answered to a command: JSON, one object a message. Documented in
//! docs/COMMANDS.md. Pure.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::decode::Code;
use crate::frame::{TraceContext, push_hex};
use crate::work::{Captured, Ended, Outcome};

/// The answers' content type.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// The most bytes of a stream's beginning and of its end in an answer. A run's
/// span tells more; an answer is kept, twice, and paid for by the byte.
const HEAD: usize = 2048;
const TAIL: usize = 1024;

/// How a command that was accepted ended without a run's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unrun {
    /// The agent ended while it ran.
    Interrupted,
    /// Its time was up before it could be started.
    Expired,
    /// It was accepted before a restart and may not be run any more.
    Refused(Code, String),
}

/// `received` and `running`.
pub(crate) fn state(job: &str, state: &str, process: Option<&TraceContext>) -> Bytes {
    end(begin(job, state, process))
}

/// Nothing is run.
pub(crate) fn refused(job: &str, code: Code, words: &str, process: Option<&TraceContext>) -> Bytes {
    let mut answer = begin(job, "refused", process);
    put(&mut answer, "code", code.as_str());
    put(&mut answer, "error", words);
    end(answer)
}

/// How a run ended, in a word.
pub(crate) fn status(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Exited(0) => "ok",
        Outcome::Exited(_) | Outcome::Signalled(_) => "failed",
        Outcome::TimedOut => "timed_out",
        Outcome::NotStarted(_) => "not_started",
        Outcome::Interrupted => "interrupted",
    }
}

/// It ran, or should have.
pub(crate) fn done(job: &str, ended: &Ended, process: Option<&TraceContext>) -> Bytes {
    let mut answer = begin(job, "done", process);
    let error = match &ended.outcome {
        Outcome::Exited(0) => String::new(),
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Signalled(signal) => format!("ended by signal {signal}"),
        Outcome::TimedOut => "its time was up, and it was ended".to_owned(),
        Outcome::NotStarted(why) => why.clone(),
        Outcome::Interrupted => "the agent was stopped, and ended it".to_owned(),
    };
    put(&mut answer, "status", status(&ended.outcome));
    match ended.outcome {
        Outcome::Exited(code) => put(&mut answer, "exit_code", code),
        Outcome::Signalled(signal) => put(&mut answer, "signal", signal),
        _ => {}
    }
    if !error.is_empty() {
        put(&mut answer, "error", error);
    }
    put(&mut answer, "duration_s", ended.duration.as_secs_f64());
    if let Some(cpu) = ended.cpu {
        put(&mut answer, "cpu_s", cpu.as_secs_f64());
    }
    if let Some(bytes) = ended.peak_memory {
        put(&mut answer, "peak_memory_bytes", bytes);
    }
    stream(&mut answer, "stdout", &ended.output.stdout);
    stream(&mut answer, "stderr", &ended.output.stderr);
    end(answer)
}

/// It was accepted, and nobody will learn more of it.
pub(crate) fn unrun(job: &str, why: &Unrun, process: Option<&TraceContext>) -> Bytes {
    let (status, error) = match why {
        Unrun::Interrupted => (
            "interrupted",
            "the agent ended while it ran: how far it came is unknown",
        ),
        Unrun::Expired => ("expired", "its time was up before it could be started"),
        Unrun::Refused(_, words) => ("not_started", words.as_str()),
    };
    let mut answer = begin(job, "done", process);
    put(&mut answer, "status", status);
    if let Unrun::Refused(code, _) = why {
        put(&mut answer, "code", code.as_str());
    }
    put(&mut answer, "error", error);
    end(answer)
}

fn begin(job: &str, state: &str, process: Option<&TraceContext>) -> Map<String, Value> {
    let mut answer = Map::new();
    put(&mut answer, "job", job);
    put(&mut answer, "state", state);
    if let Some(process) = process {
        let mut id = String::with_capacity(32);
        push_hex(&mut id, &process.trace_id);
        put(&mut answer, "trace_id", id);
    }
    answer
}

fn put(answer: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    answer.insert(key.to_owned(), value.into());
}

fn end(answer: Map<String, Value>) -> Bytes {
    Value::Object(answer).to_string().into()
}

/// Left out where nothing was printed.
fn stream(answer: &mut Map<String, Value>, name: &str, captured: &Captured) {
    let mut head = captured.head.as_slice();
    let mut tail = captured.tail.as_slice();
    let mut omitted = captured.omitted;
    if tail.is_empty() && omitted == 0 && head.len() > HEAD + TAIL {
        (head, tail) = head.split_at(HEAD);
    }
    if head.len() > HEAD && !tail.is_empty() {
        omitted += (head.len() - HEAD) as u64;
        head = head.get(..HEAD).unwrap_or(head);
    }
    if tail.len() > TAIL {
        let from = tail.len() - TAIL;
        omitted += from as u64;
        tail = tail.get(from..).unwrap_or(tail);
    }
    if head.is_empty() && tail.is_empty() {
        return;
    }
    put(answer, name, String::from_utf8_lossy(head));
    if !tail.is_empty() {
        let key = format!("{name}_tail");
        put(answer, &key, String::from_utf8_lossy(tail));
    }
    if omitted > 0 {
        put(answer, &format!("{name}_omitted_bytes"), omitted);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trace::propagation::Carried;
    use crate::work::Output;

    fn ended(outcome: Outcome, stdout: Captured) -> Ended {
        Ended {
            outcome,
            duration: Duration::from_millis(1500),
            cpu: None,
            peak_memory: None,
            output: Output {
                stdout,
                stderr: Captured::default(),
            },
            context: Carried::default(),
        }
    }

    fn read(answer: &Bytes) -> Value {
        serde_json::from_slice(answer).expect("JSON")
    }

    #[test]
    fn how_it_ended_is_said_in_words_and_numbers() {
        for (outcome, status, key, number) in [
            (Outcome::Exited(0), "ok", "exit_code", Some(0)),
            (Outcome::Exited(3), "failed", "exit_code", Some(3)),
            (Outcome::Signalled(9), "failed", "signal", Some(9)),
            (Outcome::TimedOut, "timed_out", "exit_code", None),
            (Outcome::Interrupted, "interrupted", "exit_code", None),
        ] {
            let answer = read(&done("x", &ended(outcome, Captured::default()), None));
            assert_eq!(answer["state"], "done");
            assert_eq!(answer["status"], status);
            assert_eq!(answer[key].as_i64(), number);
            assert_eq!(answer["duration_s"], 1.5);
            assert_eq!(answer.get("error").is_none(), status == "ok");
        }
    }

    #[test]
    fn long_output_keeps_its_beginning_and_end_and_says_what_is_missing() {
        let long: Vec<u8> = (0..10_000).map(|at| b'a' + (at % 26) as u8).collect();
        let whole = Captured {
            head: long.clone(),
            tail: Vec::new(),
            omitted: 0,
        };
        let cut = Captured {
            head: long[..5000].to_vec(),
            tail: long[7000..].to_vec(),
            omitted: 2000,
        };
        for captured in [whole, cut] {
            let answer = read(&done("x", &ended(Outcome::Exited(0), captured), None));
            let text = |key: &str| answer[key].as_str().expect("text").as_bytes().to_vec();
            assert_eq!(text("stdout"), &long[..HEAD]);
            assert_eq!(text("stdout_tail"), &long[10_000 - TAIL..]);
            let missing = 10_000 - HEAD - TAIL;
            assert_eq!(answer["stdout_omitted_bytes"], missing);
        }
    }

    #[test]
    fn short_output_stands_as_it_is() {
        let captured = Captured {
            head: b"hello \xff\n".to_vec(),
            ..Captured::default()
        };
        let answer = read(&done("x", &ended(Outcome::Exited(0), captured), None));
        assert_eq!(answer["stdout"], "hello \u{fffd}\n");
        assert!(answer.get("stdout_tail").is_none() && answer.get("stderr").is_none());
    }
}
