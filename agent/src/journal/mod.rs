//! The agent's own log: stderr (journald's `<N>` prefixes, or for people on a
//! terminal) and, from `log.send` up, OTLP log records. Others call the `log` macros.
//!
//! Promises: a record is one line on stderr whatever it holds; a call site that
//! repeats itself is held back and counted; a record that goes upstream names
//! the span it was made in; logging from within logging cannot recurse.
//!
//! It cannot know what is secret: whoever logs passes a path, never what is in
//! the file, and never a header, a password or a server's whole answer.
//!
//! ```text
//!  log! ─ level ─ limit per call site ─┬─ stderr, one line
//!                                      └─ upstream: Early (64 kept) ─ attach ─► SDK logger
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use opentelemetry::Context;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::logs::SdkLogger;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::boot;
use crate::clock::{Clock, ClockTrust};
use crate::config::Logging;
use crate::frame::Stamp;

mod limit;
mod line;
#[cfg(test)]
mod tests;

use limit::{Limit, Verdict};
use line::{Entry, Form, cut, line};

/// Records kept for upstream until [`attach`]: the start has few, and the first tell why.
const EARLY: usize = 64;

/// Crates whose talk below a warning is never sent: about their own workings,
/// and some of them are what sends.
const NOISY: [&str; 10] = [
    "hyper",
    "hyper_util",
    "mio",
    "opentelemetry",
    "opentelemetry_http",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "rumqttc",
    "rustls",
    "tokio_rustls",
];

static JOURNAL: OnceLock<Journal> = OnceLock::new();

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Makes this the process's logger. Does nothing but set the levels if it is already.
pub fn install(config: &Logging) {
    // Fails only where another logger was installed first, as in someone's test.
    let _ = log::set_logger(JOURNAL.get_or_init(Journal::on_stderr));
    reconfigure(config);
}

/// New levels, as after a reload. Without [`install`] it has no effect.
pub fn reconfigure(config: &Logging) {
    if let Some(journal) = JOURNAL.get() {
        log::set_max_level(journal.set_levels(config));
    }
}

/// From now on records at or above `log.send` go to `logger`, those that
/// waited for it first.
pub fn attach(logger: SdkLogger) {
    if let Some(journal) = JOURNAL.get() {
        journal.attach(logger);
    }
}

/// From now on nothing is sent upstream; what would have been is counted.
pub fn detach() {
    if let Some(journal) = JOURNAL.get() {
        *journal.upstream() = Upstream::Closed;
    }
}

/// Records that were held back or lost here, by reason.
pub fn dropped() -> BTreeMap<String, u64> {
    JOURNAL.get().map(Journal::dropped).unwrap_or_default()
}

/// Reports panics on stderr as one line at error level, with their location,
/// and leaves a record for the next start.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        let place = place.as_deref().unwrap_or("an unknown place");
        let text = format!("The agent has a bug and stops: panic at {place}: {message}");
        let entry = Entry {
            unix_ns: now().unix_ns,
            level: Level::Error,
            target: "panic",
            message: &cut(text),
            repeated: 0,
        };
        // Past the journal's locks: the panic may have come from within them.
        let _ = Stderr.write_all(line(Form::of_stderr(), entry).as_bytes());
        boot::panicked(message, place);
    }));
}

/// Standard error, without waiting for whoever reads it: a log collector that
/// hangs must not hang the agent. What it has no room for is an error.
struct Stderr;

/// What a pipe that polls as writable takes without waiting (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr().lock();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let part = bytes.get(..AT_ONCE).unwrap_or(bytes);
        Ok(rustix::io::write(&stderr, part)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The logger. One per process; tests make their own.
struct Journal {
    form: Form,
    out: Mutex<Box<dyn Write + Send>>,
    now: Box<dyn Fn() -> Stamp + Send + Sync>,
    level: AtomicUsize,
    send: AtomicUsize,
    limit: Mutex<Limit>,
    upstream: Mutex<Upstream>,
    counts: Counts,
}

/// Where records go besides stderr.
enum Upstream {
    /// Nobody there yet.
    Early(Vec<Outgoing>),
    Open(SdkLogger),
    Closed,
}

/// A record on its way upstream.
struct Outgoing {
    unix_ns: u64,
    level: Level,
    target: String,
    message: String,
    repeated: u64,
    /// Of errors only: the message says what happened, this where to look.
    code: Option<(String, u32)>,
    span: Option<SpanContext>,
}

#[derive(Default)]
struct Counts {
    repeated: AtomicU64,
    nested: AtomicU64,
    early: AtomicU64,
    suppressed: AtomicU64,
    stopped: AtomicU64,
    stderr: AtomicU64,
}

impl Journal {
    fn on_stderr() -> Self {
        Self::new(Form::of_stderr(), Box::new(Stderr), Box::new(now))
    }

    fn new(
        form: Form,
        out: Box<dyn Write + Send>,
        now: Box<dyn Fn() -> Stamp + Send + Sync>,
    ) -> Self {
        Self {
            form,
            out: Mutex::new(out),
            now,
            level: AtomicUsize::new(LevelFilter::Info as usize),
            send: AtomicUsize::new(LevelFilter::Warn as usize),
            limit: Mutex::new(Limit::new()),
            upstream: Mutex::new(Upstream::Early(Vec::new())),
            counts: Counts::default(),
        }
    }

    /// Gives the more talkative of the two.
    fn set_levels(&self, config: &Logging) -> LevelFilter {
        self.level.store(config.level as usize, Ordering::Relaxed);
        self.send.store(config.send as usize, Ordering::Relaxed);
        config.level.max(config.send)
    }

    fn attach(&self, logger: SdkLogger) {
        let mut upstream = self.upstream();
        if let Upstream::Early(waiting) = &mut *upstream {
            for record in waiting.drain(..) {
                emit(&logger, record);
            }
        }
        *upstream = Upstream::Open(logger);
    }

    fn dropped(&self) -> BTreeMap<String, u64> {
        let counts = &self.counts;
        [
            ("logs.repeated", &counts.repeated),
            ("logs.nested", &counts.nested),
            ("logs.early", &counts.early),
            ("logs.suppressed", &counts.suppressed),
            ("logs.detached", &counts.stopped),
            ("stderr.failed", &counts.stderr),
        ]
        .into_iter()
        .map(|(reason, count)| (reason.to_owned(), count.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
    }

    fn is_for_stderr(&self, level: Level) -> bool {
        level as usize <= self.level.load(Ordering::Relaxed)
    }

    fn is_for_upstream(&self, level: Level, target: &str) -> bool {
        level as usize <= self.send.load(Ordering::Relaxed)
            && (level <= Level::Warn || !is_noisy(target))
    }

    fn write(&self, entry: Entry<'_>) {
        let text = line(self.form, entry);
        if lock(&self.out).write_all(text.as_bytes()).is_err() {
            add(&self.counts.stderr);
        }
    }

    fn send(&self, record: Outgoing) {
        if Context::is_current_telemetry_suppressed() {
            return add(&self.counts.suppressed);
        }
        match &mut *self.upstream() {
            Upstream::Early(waiting) if waiting.len() < EARLY => waiting.push(record),
            Upstream::Early(_) => add(&self.counts.early),
            Upstream::Open(logger) => emit(logger, record),
            Upstream::Closed => add(&self.counts.stopped),
        }
    }

    fn upstream(&self) -> MutexGuard<'_, Upstream> {
        lock(&self.upstream)
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_for_stderr(metadata.level())
            || self.is_for_upstream(metadata.level(), metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(_inside) = Inside::enter() else {
            return add(&self.counts.nested);
        };
        let at = (self.now)();
        let Verdict::Pass { repeated } = lock(&self.limit).judge(site(record), at.boot_ns) else {
            return add(&self.counts.repeated);
        };
        let level = record.level();
        let message = cut(record.args().to_string());
        if self.is_for_stderr(level) {
            self.write(Entry {
                unix_ns: at.unix_ns,
                level,
                target: record.target(),
                message: &message,
                repeated,
            });
        }
        if self.is_for_upstream(level, record.target()) {
            self.send(Outgoing {
                unix_ns: at.unix_ns,
                level,
                target: record.target().to_owned(),
                message,
                repeated,
                code: code_of(record),
                span: current_span(),
            });
        }
    }

    fn flush(&self) {
        let _ = lock(&self.out).flush();
    }
}

impl Form {
    fn of_stderr() -> Self {
        if io::stderr().is_terminal() {
            Form::Terminal
        } else {
            Form::Journald
        }
    }
}

/// Set while this thread is in [`Journal::log`]: what a `Display` or the SDK
/// logs in there would come back for ever.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        // No access: the thread is ending. Then there is nothing left to recurse.
        let already = INSIDE
            .try_with(|inside| inside.replace(true))
            .unwrap_or(false);
        (!already).then_some(Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

fn emit(logger: &SdkLogger, from: Outgoing) {
    let mut record = logger.create_log_record();
    record.set_timestamp(UNIX_EPOCH + Duration::from_nanos(from.unix_ns));
    record.set_severity_number(severity(from.level));
    record.set_severity_text(from.level.as_str());
    record.set_target(from.target);
    record.set_body(AnyValue::from(from.message));
    if from.repeated > 0 {
        let repeated = i64::try_from(from.repeated).unwrap_or(i64::MAX);
        record.add_attribute("sonde.log.repeated", repeated);
    }
    if let Some((file, line)) = from.code {
        record.add_attribute("code.file.path", file);
        record.add_attribute("code.line.number", i64::from(line));
    }
    if let Some(span) = from.span {
        record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
    }
    logger.emit(record);
}

/// The span that is active on this thread.
fn current_span() -> Option<SpanContext> {
    Context::map_current(|context| {
        let active = context
            .has_active_span()
            .then(|| context.span().span_context().clone());
        active.filter(SpanContext::is_valid)
    })
}

/// Only of errors, and only of this workspace: an absolute path would be the
/// machine's that built the agent.
fn code_of(record: &Record<'_>) -> Option<(String, u32)> {
    let file = record.file().filter(|file| !file.starts_with('/'))?;
    let line = record.line()?;
    (record.level() == Level::Error).then(|| (file.to_owned(), line))
}

/// OpenTelemetry logs data model, "Mapping of SeverityNumber".
fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::Error,
        Level::Warn => Severity::Warn,
        Level::Info => Severity::Info,
        Level::Debug => Severity::Debug,
        Level::Trace => Severity::Trace,
    }
}

fn is_noisy(target: &str) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    NOISY.contains(&krate)
}

fn site(record: &Record<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.target(), record.file(), record.line()).hash(&mut hasher);
    hasher.finish()
}

/// Only these two clocks are read, so it does not matter whom this one trusts.
fn now() -> Stamp {
    Clock::new(ClockTrust::Always).now()
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
