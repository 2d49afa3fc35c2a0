//! Runs of real programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry_sdk::trace::SpanData;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::job::{Argument, ArgumentKind, Concurrency, Word};
use super::testing::job;
use super::*;
use crate::clock::{Clock, ClockTrust};
use crate::event::testing::{Heard, events};
use crate::frame::TraceContext;
use crate::trace::testing::{Finished, tracer};

/// Longer than anything here should take, short of a hang.
const HANG: Duration = Duration::from_secs(30);

fn desk(jobs: &[Job]) -> (Work, Finished) {
    let (work, spans, _) = desk_heard(jobs);
    (work, spans)
}

fn desk_heard(jobs: &[Job]) -> (Work, Finished, Heard) {
    let (tracer, spans) = tracer();
    let (events, heard) = events();
    let work = Work::new(Setup {
        clock: Clock::new(ClockTrust::Always),
        tracer,
        events,
        root: "/".into(),
        launcher: None,
        environment: vec![
            ("HOME".into(), "/home/x".into()),
            ("SECRET_TOKEN".into(), "hunter2".into()),
            ("TRACEPARENT".into(), "stale".into()),
        ],
    });
    let jobs: BTreeMap<String, Job> = jobs
        .iter()
        .map(|job| (job.name.clone(), job.clone()))
        .collect();
    work.configure(&jobs, Some("http://127.0.0.1:4318".into()));
    (work, spans, heard)
}

fn shell(name: &str, script: &str) -> Job {
    let mut job = job(name, &[]);
    let text = |text: &str| Word(vec![super::job::Part::Text(text.into())]);
    job.program = super::job::Program::Command(vec![text("/bin/sh"), text("-c"), text(script)]);
    job
}

fn order(job: &str) -> Order {
    Order {
        job: job.into(),
        ..Order::default()
    }
}

async fn run_of(job: Job) -> (Ended, SpanData) {
    let name = job.name.clone();
    let (work, spans) = desk(&[job]);
    let admitted = work.admit(order(&name)).unwrap();
    let ended = timeout(HANG, admitted.run()).await.unwrap();
    (ended, spans.named(&format!("run {name}")).await)
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
    found.map(|kv| kv.value.to_string())
}

fn printed(captured: &Captured) -> String {
    captured.text()
}

/// Waits until nothing has this process id but perhaps a zombie.
async fn is_gone(pid: &str) {
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    };
    timeout(HANG, async {
        while alive() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

async fn appears(file: &Path) -> String {
    timeout(HANG, async {
        loop {
            match fs::read_to_string(file) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_run_is_a_span_with_its_output_and_its_end() {
    let (ended, span) = run_of(shell("hello", "echo out; echo err >&2; exit 3")).await;
    assert_eq!(ended.outcome, Outcome::Exited(3));
    assert_eq!(printed(&ended.output.stdout), "out\n");
    assert_eq!(printed(&ended.output.stderr), "err\n");
    assert_eq!(attribute(&span, "process.exit.code").unwrap(), "3");
    assert_eq!(attribute(&span, "process.executable.name").unwrap(), "sh");
    assert_eq!(attribute(&span, "error.type").unwrap(), "3");
    assert_eq!(attribute(&span, "sonde.job.outcome").unwrap(), "failed");
    assert!(attribute(&span, "process.pid").is_some());
    assert!(ended.cpu.is_some());
    assert_eq!(span.status, Status::error("exit code 3"));
    let events: Vec<String> = span
        .events
        .iter()
        .map(|event| {
            let value = |key: &str| {
                let found = event.attributes.iter().find(|kv| kv.key.as_str() == key);
                found.unwrap().value.to_string()
            };
            format!("{} {}", value("log.iostream"), value("sonde.output.text"))
        })
        .collect();
    assert_eq!(events, ["stdout out\n", "stderr err\n"]);
}

#[tokio::test]
async fn a_run_continues_the_trace_that_asked_for_it_and_hands_it_on() {
    let script = "echo $TRACEPARENT; echo $TRACESTATE; echo $BAGGAGE";
    let (work, spans) = desk(&[shell("traced", script)]);
    let parent = Carried {
        context: Some(TraceContext {
            trace_id: [7; 16],
            span_id: [9; 8],
            flags: 1,
            state: "vendor=x".into(),
        }),
        baggage: "tenant=a".into(),
    };
    let order = Order {
        parent,
        ..order("traced")
    };
    let ended = work.admit(order).unwrap().run().await;
    let span = spans.named("run traced").await;
    assert_eq!(span.span_context.trace_id(), TraceId::from_bytes([7; 16]));
    assert_eq!(span.parent_span_id, SpanId::from_bytes([9; 8]));
    let own = span.span_context.span_id();
    let expected = format!("00-{}-{own}-01\nvendor=x\ntenant=a\n", "07".repeat(16));
    assert_eq!(printed(&ended.output.stdout), expected);
    let context = ended.context.context.unwrap();
    assert_eq!(context.span_id, own.to_bytes());
}

#[tokio::test]
async fn the_environment_is_clean_but_for_what_is_documented() {
    let mut job = job("env", &["/usr/bin/env"]);
    job.environment = [("COLOR".into(), "blue".into())].into();
    let (ended, _) = run_of(job).await;
    let printed = printed(&ended.output.stdout);
    let names: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            "COLOR",
            "HOME",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "PATH",
            "SONDE_JOB",
            "SONDE_RUN",
            "TRACEPARENT"
        ]
    );
    assert!(!printed.contains("stale"));
}

#[tokio::test]
async fn a_flood_is_bounded_and_ends_with_the_timeout() {
    let mut job = shell("flood", "yes 0123456789abcdef");
    job.timeout = Duration::from_millis(500);
    let (ended, span) = run_of(job).await;
    assert_eq!(ended.outcome, Outcome::TimedOut);
    let stdout = &ended.output.stdout;
    assert_eq!(stdout.head.len() + stdout.tail.len(), 4096);
    assert!(stdout.omitted > 65_536, "{}", stdout.omitted);
    let shown = span.events[0].attributes[1].value.to_string();
    assert!(shown.len() < 4200, "{}", shown.len());
    assert_eq!(attribute(&span, "error.type").unwrap(), "timed_out");
}

#[tokio::test]
async fn a_measuring_command_that_floods_is_ended_at_its_limit_and_not_read_on() {
    for script in ["yes", "yes >&2", "trap '' TERM; yes"] {
        let mut job = shell("flood", script);
        job.timeout = HANG * 2;
        let (work, _) = desk(&[]);
        let ended = timeout(HANG, work.measure(&std::sync::Arc::new(job)))
            .await
            .unwrap();
        assert_eq!(ended.outcome, Outcome::TimedOut, "{script}");
        let read = ended.output.stdout.total() + ended.output.stderr.total();
        assert!((4097..=16_384).contains(&read), "{script}: {read}");
    }
}

#[tokio::test]
async fn the_end_of_a_flood_is_kept() {
    let (ended, _) = run_of(shell("flood", "yes | head -c 300000; echo last words")).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(ended.output.stdout.total(), 300_011);
    assert!(printed(&ended.output.stdout).ends_with("last words\n"));
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!(
        "trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo $! > {}; while :; do sleep 0.1; done",
        file.display()
    );
    let mut job = shell("stubborn", &script);
    job.timeout = Duration::from_millis(300);
    job.grace = Duration::from_millis(200);
    let (ended, _) = run_of(job).await;
    assert_eq!(ended.outcome, Outcome::TimedOut);
    is_gone(&appears(&file).await).await;
}

#[tokio::test]
async fn a_grandchild_that_is_left_behind_ends_with_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    // Left its session and its group, and holds the output open.
    let script = format!("setsid sleep 600 & echo $! > {}; echo done", file.display());
    let (ended, _) = run_of(shell("forks", &script)).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(printed(&ended.output.stdout), "done\n");
    is_gone(&appears(&file).await).await;
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit_code() {
    let (ended, span) = run_of(shell("killed", "kill -SEGV $$")).await;
    assert_eq!(ended.outcome, Outcome::Signalled(11));
    assert_eq!(attribute(&span, "sonde.job.signal").unwrap(), "SIGSEGV");
    assert_eq!(attribute(&span, "process.exit.code"), None);
    assert_eq!(span.status, Status::error("ended by SIGSEGV"));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_failed_span_that_says_why() {
    for (command, why) in [
        ("/no/such/program", "/no/such/program: No such file"),
        (
            "no-such-program",
            "there is no such program in /usr/local/sbin",
        ),
        ("/etc/passwd", "/etc/passwd: Permission denied"),
        ("/etc", "/etc: Permission denied"),
    ] {
        let (ended, span) = run_of(job("missing", &[command])).await;
        let Outcome::NotStarted(told) = &ended.outcome else {
            panic!("{command}: {:?}", ended.outcome)
        };
        assert!(told.contains(why), "{told}");
        assert_eq!(span.status, Status::error(told.clone()));
    }
    let mut nowhere = job("nowhere", &["/bin/true"]);
    nowhere.directory = "/no/such/folder".into();
    let (ended, _) = run_of(nowhere).await;
    assert!(ended.outcome.to_string().contains("not a folder"));
}

#[tokio::test]
async fn closing_the_output_early_does_not_end_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("done");
    let script = format!("exec >&- 2>&-; sleep 0.2; echo x > {}", file.display());
    let (ended, _) = run_of(shell("quiet", &script)).await;
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(file.exists());
}

#[tokio::test]
async fn standard_input_is_empty() {
    let (ended, _) = run_of(shell("reads", "cat; readlink /proc/self/fd/0")).await;
    assert_eq!(printed(&ended.output.stdout), "/dev/null\n");
}

#[tokio::test]
async fn cpu_and_memory_of_a_run_are_measured() {
    let script = "a=$(head -c 30000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.2";
    let (ended, span) = run_of(shell("busy", script)).await;
    assert!(ended.cpu.unwrap() >= Duration::from_millis(20), "{ended:?}");
    assert!(ended.peak_memory.unwrap() > 20_000_000, "{ended:?}");
    assert!(attribute(&span, "sonde.job.memory_peak").is_some());
}

#[tokio::test]
async fn arguments_reach_the_program_untouched() {
    let mut job = job("args", &["/usr/bin/printf", "[%s]", "{name}", "--x={name}"]);
    job.arguments = [(
        "name".to_owned(),
        Argument {
            kind: ArgumentKind::Text { max_length: 100 },
            required: true,
            default: None,
            choices: vec![],
        },
    )]
    .into();
    let (work, _) = desk(&[job]);
    let nasty = "; rm -rf / $(id) `id` \"' *";
    let mut order = order("args");
    order.arguments.insert("name".into(), json!(nasty));
    let ended = work.admit(order).unwrap().run().await;
    let expected = format!("[{nasty}][--x={nasty}]");
    assert_eq!(printed(&ended.output.stdout), expected);
}

#[tokio::test]
async fn what_may_not_run_is_refused_and_counted() {
    let mut local = job("local", &["/bin/true"]);
    local.remote = false;
    let (work, spans) = desk(&[local]);
    assert_eq!(work.admit(order("nothing")).unwrap_err(), Refusal::Unknown);
    let from_afar = Order {
        origin: Origin::Command,
        ..order("local")
    };
    assert_eq!(work.admit(from_afar).unwrap_err(), Refusal::NotRemote);
    let mut with = order("local");
    with.arguments.insert("x".into(), json!(1));
    assert!(matches!(work.admit(with), Err(Refusal::Arguments(_))));
    let status = work.status(Default::default());
    let refused: Vec<_> = status[0]
        .refused
        .iter()
        .map(|(k, n)| (k.as_str(), *n))
        .collect();
    assert_eq!(refused, [("bad_arguments", 1), ("not_remote", 1)]);
    assert!(spans.all().is_empty());
}

#[tokio::test]
async fn the_concurrency_rule_holds_and_a_dropped_place_is_free_again() {
    let mut refuse = shell("refuse", "exit 0");
    refuse.concurrency = Concurrency::Refuse;
    let mut parallel = refuse.clone();
    parallel.name = "parallel".into();
    parallel.concurrency = Concurrency::Parallel(2);
    let (work, _) = desk(&[refuse, parallel]);
    let first = work.admit(order("refuse")).unwrap();
    assert_eq!(work.admit(order("refuse")).unwrap_err(), Refusal::Busy);
    drop(first);
    work.admit(order("refuse")).unwrap().run().await;
    work.admit(order("refuse")).unwrap();
    let _two = [order("parallel"), order("parallel")].map(|order| work.admit(order).unwrap());
    assert_eq!(work.admit(order("parallel")).unwrap_err(), Refusal::Busy);
}

#[tokio::test]
async fn queued_runs_come_one_after_the_other_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let script = format!(
        "echo begin >> {0}; sleep 0.05; echo end >> {0}",
        file.display()
    );
    let mut queued = shell("queued", &script);
    queued.concurrency = Concurrency::Queue(2);
    let (work, _) = desk(&[queued]);
    let runs: Vec<_> = (0..3)
        .map(|_| tokio::spawn(work.admit(order("queued")).unwrap().run()))
        .collect();
    assert_eq!(work.admit(order("queued")).unwrap_err(), Refusal::Busy);
    for run in runs {
        assert_eq!(run.await.unwrap().outcome, Outcome::Exited(0));
    }
    let log = fs::read_to_string(&file).unwrap();
    assert_eq!(log, "begin\nend\n".repeat(3));
}

#[tokio::test]
async fn all_jobs_together_are_bounded() {
    let mut many = shell("many", "exit 0");
    many.concurrency = Concurrency::Parallel(1000);
    let (work, _) = desk(&[many]);
    let admitted: Vec<_> = (0..20)
        .filter_map(|_| work.admit(order("many")).ok())
        .collect();
    assert_eq!(admitted.len(), 16);
    assert_eq!(work.admit(order("many")).unwrap_err(), Refusal::Full);
}

#[tokio::test]
async fn a_stop_ends_what_runs_and_lets_nothing_else_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done",
        file.display()
    );
    let mut queued = shell("long", &script);
    queued.concurrency = Concurrency::Queue(1);
    let (work, spans) = desk(&[queued]);
    let first = tokio::spawn(work.admit(order("long")).unwrap().run());
    let second = tokio::spawn(work.admit(order("long")).unwrap().run());
    let pid = appears(&file).await;
    assert!(work.stop(HANG).await);
    assert_eq!(first.await.unwrap().outcome, Outcome::Interrupted);
    assert_eq!(second.await.unwrap().outcome, Outcome::Interrupted);
    is_gone(&pid).await;
    assert_eq!(work.admit(order("long")).unwrap_err(), Refusal::Stopping);
    let span = spans.named("run long").await;
    assert_eq!(
        attribute(&span, "sonde.job.outcome").unwrap(),
        "interrupted"
    );
    assert_eq!(spans.all().len(), 1, "what never started is no run");
}

#[tokio::test]
async fn the_status_shows_the_last_run_and_a_reload_keeps_the_counts() {
    let job = shell("counted", "exit 2");
    let (work, _) = desk(std::slice::from_ref(&job));
    work.admit(order("counted")).unwrap().run().await;
    let mut changed = job.clone();
    changed.timeout = Duration::from_secs(1);
    work.configure(&[("counted".to_owned(), changed)].into(), None);
    let status = work.status(Default::default());
    let last = status[0].last.as_ref().unwrap();
    assert_eq!((last.outcome.as_str(), last.exit_code), ("failed", Some(2)));
    assert_eq!(status[0].runs.get("failed"), Some(&1));
    work.configure(&BTreeMap::new(), None);
    assert_eq!(work.admit(order("counted")).unwrap_err(), Refusal::Unknown);
}

#[tokio::test]
async fn a_scheduled_job_runs_by_itself() {
    let mut scheduled = shell("tick", "exit 0");
    scheduled.schedule = Some(super::job::Schedule {
        every: Duration::from_secs(3600),
        jitter: Duration::ZERO,
        at_start: true,
    });
    let (work, spans) = desk(&[scheduled]);
    let agenda = tokio::spawn(agenda::run(work.clone()));
    let span = timeout(HANG, spans.named("run tick")).await.unwrap();
    assert_eq!(attribute(&span, "sonde.job.origin").unwrap(), "schedule");
    assert!(work.stop(HANG).await);
    timeout(HANG, agenda).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_says_when_it_begins_and_how_it_ended() {
    let jobs = [shell("good", "exit 0"), shell("bad", "exit 3")];
    let (work, _, heard) = desk_heard(&jobs);
    for job in ["good", "bad"] {
        work.admit(order(job)).unwrap().run().await;
    }
    let names = heard.names();
    let expected = [
        "sonde.job.start",
        "sonde.job.end",
        "sonde.job.start",
        "sonde.job.failed",
    ];
    assert_eq!(names, expected);
    let failed = heard.named("sonde.job.failed").await;
    assert_eq!(failed.text("job"), Some("bad"));
    assert_eq!(failed.text("outcome"), Some("failed"));
    assert!(failed.has_span);
    assert!(failed.measurements.contains(&("exit_code".into(), 3.0)));
}
