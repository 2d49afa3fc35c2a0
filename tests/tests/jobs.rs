//! Jobs as the whole program runs them: from the configuration to their spans
//! at the collector.

use std::path::Path;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use sonde_tests::agent::{Agent, Gateway};
use sonde_tests::ledger::text;
use sonde_tests::world::{Otlp, SOON, finish};
use tokio::process::Command;

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == key);
    text(found.and_then(|one| one.value.as_ref()))
}

async fn span_of(otlp: &Otlp, name: &str) -> Span {
    let find = |spans: Vec<(String, Span)>| spans.into_iter().find(|(_, span)| span.name == name);
    otlp.collector
        .book
        .wait(&format!("a span {name:?}"), SOON, |ledger| {
            find(ledger.spans()).is_some()
        })
        .await
        .unwrap();
    find(otlp.collector.book.copy().spans()).unwrap().1
}

fn job(gateway: &mut Gateway, name: &str, script: &str) {
    let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
    gateway.set(&format!("job.{name}.command"), &command);
}

#[tokio::test]
async fn a_scheduled_job_reaches_the_collector_with_its_output_and_its_failure() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("jobs-span");
    job(
        &mut gateway,
        "fails",
        "echo working; echo broken >&2; exit 3",
    );
    gateway
        .text("job.fails.every", "1h")
        .set("job.fails.at_start", "true");
    let mut agent = gateway.start();
    let span = span_of(&otlp, "run fails").await;
    let status = span.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, "exit code 3");
    assert_eq!(attribute(&span, "process.exit.code"), "3");
    assert_eq!(attribute(&span, "sonde.job.origin"), "schedule");
    let output: Vec<String> = span
        .events
        .iter()
        .map(|event| {
            let found = event
                .attributes
                .iter()
                .find(|one| one.key == "sonde.output.text");
            text(found.and_then(|one| one.value.as_ref()))
        })
        .collect();
    assert_eq!(output, ["working\n", "broken\n"]);
    let status = agent.status().await.unwrap();
    let job = &status.jobs[0];
    let last = job.last.as_ref().unwrap();
    assert_eq!((last.outcome.as_str(), last.exit_code), ("failed", Some(3)));
    assert!(job.next_run_s.unwrap() > 3000.0);
    finish(&mut agent, Some(&otlp), None).await;
    let logs = otlp.collector.book.copy();
    let log = logs
        .logs()
        .into_iter()
        .find(|log| text(log.body.as_ref()).contains("job fails"));
    let log = log.expect("a log record about the failure");
    assert_eq!(log.span_id, span.span_id);
}

#[tokio::test]
async fn limits_hold_from_the_programs_first_instruction() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("jobs-limits");
    let script = "ulimit -n; ulimit -f; nice; readlink /proc/self/fd/0; echo $PPID";
    job(&mut gateway, "limited", script);
    gateway
        .text("job.limited.every", "1h")
        .set("job.limited.at_start", "true")
        .set("job.limited.limits.open_files", "33")
        .text("job.limited.limits.file_size", "1MiB")
        .set("job.limited.limits.nice", "3");
    let mut agent = gateway.start();
    let own = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let own = own
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(16)
        .unwrap();
    let nice = own.parse::<i32>().unwrap() + 3;
    let span = span_of(&otlp, "run limited").await;
    let output = span.events[0]
        .attributes
        .iter()
        .find(|one| one.key == "sonde.output.text");
    // POSIX counts files in blocks of 512 bytes.
    let expected = format!("33\n2048\n{nice}\n/dev/null\n{}\n", agent.pid());
    assert_eq!(text(output.unwrap().value.as_ref()), expected);
    finish(&mut agent, Some(&otlp), None).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_run_that_says_so() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("jobs-missing");
    gateway
        .set("job.missing.command", "[\"/no/such/program\"]")
        .text("job.missing.every", "1h")
        .set("job.missing.at_start", "true");
    let mut agent = gateway.start();
    let span = span_of(&otlp, "run missing").await;
    assert_eq!(attribute(&span, "error.type"), "not_started");
    let message = span.status.clone().unwrap().message;
    assert!(
        message.contains("/no/such/program: No such file"),
        "{message}"
    );
    finish(&mut agent, Some(&otlp), None).await;
}

/// Starts a job that hangs, and its process id.
async fn hanging(gateway: &mut Gateway) -> (Agent, i32) {
    let file = gateway.path("pid");
    let script = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 0.1; done",
        file.display()
    );
    job(gateway, "hangs", &script);
    gateway
        .text("job.hangs.every", "1h")
        .set("job.hangs.at_start", "true");
    let mut agent = gateway.start();
    let running = |status: &sonde_agent::status::Status| {
        status.jobs.first().is_some_and(|job| job.running == 1) && file.exists()
    };
    agent.wait("the run", SOON, running).await.unwrap();
    let pid = std::fs::read_to_string(&file).unwrap();
    (agent, pid.trim().parse().unwrap())
}

async fn is_gone(pid: i32) {
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    };
    let gone = async {
        while alive() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("the job ends with the agent");
}

#[tokio::test]
async fn an_agent_that_stops_ends_its_runs_first_and_tells_of_them() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("jobs-stop");
    let (mut agent, pid) = hanging(&mut gateway).await;
    assert!(agent.terminate(SOON).await.unwrap().success());
    is_gone(pid).await;
    let span = span_of(&otlp, "run hangs").await;
    assert_eq!(attribute(&span, "sonde.job.outcome"), "interrupted");
}

#[tokio::test]
async fn a_killed_agent_leaves_no_program_behind() {
    let mut gateway = Gateway::new("jobs-kill");
    let (mut agent, pid) = hanging(&mut gateway).await;
    agent.kill().await;
    is_gone(pid).await;
}

#[tokio::test]
async fn a_reload_brings_and_takes_jobs() {
    let mut gateway = Gateway::new("jobs-reload");
    let mut agent = gateway.start();
    agent
        .wait("no job", SOON, |status| status.jobs.is_empty())
        .await
        .unwrap();
    job(&mut gateway, "new", "exit 0");
    gateway.text("job.new.every", "1s").write();
    agent.reload();
    let ran = |status: &sonde_agent::status::Status| {
        let runs = status
            .jobs
            .first()
            .and_then(|job| job.runs.get("succeeded"));
        runs.is_some_and(|runs| *runs >= 1)
    };
    agent.wait("a run", SOON, ran).await.unwrap();
    gateway.set("job.new.enabled", "false").write();
    agent.reload();
    agent
        .wait("no job again", SOON, |status| status.jobs.is_empty())
        .await
        .unwrap();
    assert!(agent.terminate(SOON).await.unwrap().success());
}

/// A cgroup made for the test, with nobody in it; `None`: this machine lets nobody make one.
fn cgroup(name: &str) -> Option<Folder> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let folder = Path::new(mount.split(' ').nth(4)?).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir(&folder).ok()?;
    Some(Folder(folder))
}

struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.0.join("agent"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn in_a_cgroup_of_its_own_each_run_gets_one_and_takes_all_of_it_along() {
    let Some(folder) = cgroup("sonde-jobs") else {
        eprintln!("no cgroup 2 can be made here: not tested");
        return;
    };
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("jobs-cgroup");
    let file = gateway.path("pid");
    // Out of its session and its group, its mark wiped: only the cgroup still knows it.
    let script = format!(
        "cat /proc/self/cgroup | grep ^0::; setsid env -i /bin/sleep 600 & echo $! > {}",
        file.display()
    );
    job(&mut gateway, "apart", &script);
    gateway
        .text("job.apart.every", "1h")
        .set("job.apart.at_start", "true");
    let enter = "echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", enter])
        .arg(&folder.0)
        .arg(sonde_tests::agent::binary());
    let mut agent = gateway.start_with(&mut command);
    let span = span_of(&otlp, "run apart").await;
    let output = span.events[0]
        .attributes
        .iter()
        .find(|one| one.key == "sonde.output.text");
    let output = text(output.unwrap().value.as_ref());
    assert!(output.contains("/run-"), "{output}");
    let pid = std::fs::read_to_string(&file).unwrap();
    is_gone(pid.trim().parse().unwrap()).await;
    let status = agent.status().await.unwrap();
    assert_eq!(status.jobs[0].isolation, "cgroup");
    finish(&mut agent, Some(&otlp), None).await;
    let left: Vec<_> = std::fs::read_dir(&folder.0)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with("run-")),
        "{left:?}"
    );
}
