use std::sync::Arc;

use opentelemetry::logs::LoggerProvider as _;
use opentelemetry::trace::{Span as _, Tracer as _};
use opentelemetry::{InstrumentationScope, Key};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord, SdkLoggerProvider};

use super::*;
use crate::trace::testing;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone, Debug, Default)]
struct Sent(Arc<Mutex<Vec<SdkLogRecord>>>);

impl LogProcessor for Sent {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        self.0.lock().unwrap().push(record.clone());
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
}

impl Sent {
    fn logger(&self) -> SdkLogger {
        SdkLoggerProvider::builder()
            .with_log_processor(self.clone())
            .build()
            .logger("test")
    }

    fn all(&self) -> Vec<SdkLogRecord> {
        self.0.lock().unwrap().clone()
    }
}

/// A journal that writes to memory, its clock standing still at one hour after boot.
fn journal(level: LevelFilter, send: LevelFilter) -> (Journal, Output) {
    let output = Output::default();
    let still = Stamp {
        unix_ns: 1_000_000_000_000_000_000,
        boot_ns: 3_600_000_000_000,
    };
    let journal = Journal::new(
        Form::Journald,
        Box::new(output.clone()),
        Box::new(move || still),
    );
    journal.set_levels(&Logging { level, send });
    (journal, output)
}

fn say(journal: &Journal, level: Level, target: &str, line: u32, message: impl std::fmt::Display) {
    journal.log(
        &Record::builder()
            .level(level)
            .target(target)
            .file(Some("agent/src/some.rs"))
            .line(Some(line))
            .args(format_args!("{message}"))
            .build(),
    );
}

fn body(record: &SdkLogRecord) -> String {
    match record.body() {
        Some(AnyValue::String(text)) => text.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

fn attribute<'a>(record: &'a SdkLogRecord, key: &'static str) -> Option<&'a AnyValue> {
    let mut all = record.attributes_iter();
    all.find(|(k, _)| *k == Key::from_static_str(key))
        .map(|(_, value)| value)
}

#[test]
fn each_way_out_has_a_level_of_its_own_and_a_reload_changes_both() {
    let (journal, output) = journal(LevelFilter::Info, LevelFilter::Error);
    let sent = Sent::default();
    journal.attach(sent.logger());
    say(&journal, Level::Info, "a", 1, "one");
    say(&journal, Level::Debug, "a", 2, "two");
    say(&journal, Level::Error, "a", 3, "three");
    assert_eq!(output.text(), "<6>a: one\n<3>a: three\n");
    assert_eq!(sent.all().iter().map(body).collect::<Vec<_>>(), ["three"]);

    let max = journal.set_levels(&Logging {
        level: LevelFilter::Off,
        send: LevelFilter::Debug,
    });
    assert_eq!(max, LevelFilter::Debug);
    say(&journal, Level::Debug, "a", 4, "four");
    assert_eq!(output.text(), "<6>a: one\n<3>a: three\n");
    assert_eq!(sent.all().len(), 2);
}

#[test]
fn what_came_before_upstream_was_there_is_sent_first_and_the_excess_counted() {
    let (journal, _) = journal(LevelFilter::Off, LevelFilter::Warn);
    for line in 0..100 {
        say(&journal, Level::Warn, "a", line, line);
    }
    let sent = Sent::default();
    journal.attach(sent.logger());
    say(&journal, Level::Warn, "a", 100, "attached");
    let bodies: Vec<_> = sent.all().iter().map(body).collect();
    assert_eq!(bodies.len(), EARLY + 1);
    assert_eq!(bodies.first().unwrap(), "0");
    assert_eq!(bodies.last().unwrap(), "attached");
    assert_eq!(journal.dropped().get("logs.early"), Some(&36));
}

#[test]
fn a_record_carries_the_span_that_is_active_here_even_if_it_had_to_wait() {
    let (tracer, _) = testing::tracer();
    let (journal, _) = journal(LevelFilter::Off, LevelFilter::Warn);
    let sent = Sent::default();
    let span = tracer.start("work");
    let expected = span.span_context().clone();
    {
        let _active = Context::current_with_span(span).attach();
        say(&journal, Level::Warn, "a", 1, "waits");
    }
    journal.attach(sent.logger());
    say(&journal, Level::Warn, "a", 2, "outside");
    let records = sent.all();
    let inside = records[0].trace_context().unwrap();
    assert_eq!(inside.trace_id, expected.trace_id());
    assert_eq!(inside.span_id, expected.span_id());
    assert_eq!(inside.trace_flags, Some(expected.trace_flags()));
    assert!(records[1].trace_context().is_none());
}

#[test]
fn repeats_are_held_on_both_ways_out_and_said_with_the_next() {
    let (mut journal, output) = journal(LevelFilter::Warn, LevelFilter::Warn);
    let sent = Sent::default();
    journal.attach(sent.logger());
    for _ in 0..50 {
        say(&journal, Level::Warn, "a", 1, "again");
    }
    assert_eq!(output.text().lines().count(), 5);
    assert_eq!(sent.all().len(), 5);
    assert_eq!(journal.dropped().get("logs.repeated"), Some(&45));
    journal.now = Box::new(|| Stamp {
        unix_ns: 0,
        boot_ns: 7_200_000_000_000,
    });
    say(&journal, Level::Warn, "a", 1, "again");
    assert!(output.text().ends_with("<4>a: again (repeated 45 times)\n"));
    let last = sent.all().pop().unwrap();
    assert_eq!(body(&last), "again");
    assert_eq!(
        attribute(&last, "sonde.log.repeated"),
        Some(&AnyValue::Int(45))
    );
}

#[test]
fn libraries_talking_about_themselves_are_not_sent_below_a_warning() {
    let (journal, output) = journal(LevelFilter::Debug, LevelFilter::Debug);
    let sent = Sent::default();
    journal.attach(sent.logger());
    say(&journal, Level::Info, "rumqttc::v5::state", 1, "collision");
    say(&journal, Level::Debug, "hyper::proto::h1", 2, "flushed");
    say(&journal, Level::Warn, "rustls::conn", 3, "alert");
    say(&journal, Level::Info, "rumqttcx", 4, "another crate");
    assert_eq!(
        sent.all().iter().map(body).collect::<Vec<_>>(),
        ["alert", "another crate"]
    );
    assert_eq!(output.text().lines().count(), 4);
}

/// Logs while it is being printed.
struct Chatty<'a>(&'a Journal);

impl std::fmt::Display for Chatty<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        say(self.0, Level::Error, "inner", 9, "inner");
        f.write_str("outer")
    }
}

#[test]
fn logging_from_within_logging_is_counted_and_does_not_recurse() {
    let (journal, output) = journal(LevelFilter::Warn, LevelFilter::Warn);
    say(&journal, Level::Warn, "a", 1, Chatty(&journal));
    say(&journal, Level::Warn, "a", 2, "and goes on");
    assert_eq!(output.text(), "<4>a: outer\n<4>a: and goes on\n");
    assert_eq!(journal.dropped().get("logs.nested"), Some(&1));
}

#[test]
fn what_the_export_path_says_stays_on_stderr() {
    let (journal, output) = journal(LevelFilter::Warn, LevelFilter::Warn);
    let sent = Sent::default();
    journal.attach(sent.logger());
    let _quiet = Context::enter_telemetry_suppressed_scope();
    say(&journal, Level::Warn, "a", 1, "could not store");
    assert_eq!(output.text(), "<4>a: could not store\n");
    assert!(sent.all().is_empty());
    assert_eq!(journal.dropped().get("logs.suppressed"), Some(&1));
}

#[test]
fn errors_say_where_in_the_code_and_never_a_path_of_the_build_machine() {
    let (journal, _) = journal(LevelFilter::Off, LevelFilter::Info);
    let sent = Sent::default();
    journal.attach(sent.logger());
    say(&journal, Level::Error, "a", 42, "bad");
    say(&journal, Level::Warn, "a", 43, "not so bad");
    journal.log(
        &Record::builder()
            .level(Level::Error)
            .file(Some("/somewhere/registry/src/lib.rs"))
            .line(Some(1))
            .args(format_args!("from a library"))
            .build(),
    );
    let records = sent.all();
    assert_eq!(records[0].severity_number(), Some(Severity::Error));
    assert_eq!(
        attribute(&records[0], "code.line.number"),
        Some(&AnyValue::Int(42))
    );
    assert!(attribute(&records[0], "code.file.path").is_some());
    assert!(attribute(&records[1], "code.file.path").is_none());
    assert!(attribute(&records[2], "code.file.path").is_none());
}

#[test]
fn a_stderr_that_is_gone_is_counted_and_nothing_else() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut journal, _) = journal(LevelFilter::Warn, LevelFilter::Warn);
    journal.out = Mutex::new(Box::new(Gone));
    let sent = Sent::default();
    journal.attach(sent.logger());
    say(&journal, Level::Warn, "a", 1, "hello");
    assert_eq!(sent.all().len(), 1);
    assert_eq!(journal.dropped().get("stderr.failed"), Some(&1));
}
