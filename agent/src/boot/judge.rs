//! From what was found to a reason. Pure.
//!
//! A reason needs something that speaks for it. What is missing speaks for
//! nothing: without an orderly stop a boot may have ended by a power cut, a
//! reset button or a kernel that hung, and is `unknown`.

use std::collections::BTreeMap;

use super::evidence::{Cause, Evidence};
use super::record::{
    BootId, Count, Crash, Faint, MAX_EVIDENCE, MAX_SEEN, Marker, OomKills, Run, RunId, cut, hex,
};
use super::{End, Reason, Report, What};

/// The longest piece of evidence, in bytes: a backtrace.
const LONGEST: usize = 1024;

/// What earlier runs left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) count: Option<Count>,
    pub(super) run: Option<Run>,
    pub(super) marker: Option<Marker>,
    pub(super) crash: Option<Crash>,
    pub(super) faint: Option<Faint>,
}

/// What the new run is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// With this boot counted.
    pub(super) count: Count,
    /// It was not before.
    pub(super) new_boot: bool,
    /// How the last run ended; `None`: there was none.
    pub(super) run: Option<End>,
    pub(super) restarts: BTreeMap<Reason, u64>,
    /// What is to be reported, the oldest first.
    pub(super) reports: Vec<Report>,
}

/// The verdict at the start of the run `now`.
pub(super) fn judge(now: RunId, oom: OomKills, evidence: &Evidence, before: &Before) -> Verdict {
    let of_run = before.run.as_ref().and_then(|run| run.count.as_ref());
    // The runtime folder knows better where the state folder could not be written.
    let known = of_run
        .filter(|count| count.boot == now.boot)
        .or(before.count.as_ref());
    let same_boot = known.filter(|count| count.boot == now.boot);
    let count = match same_boot {
        Some(count) => count.clone(),
        None => Count {
            boot: now.boot,
            count: known.map_or(0, |count| count.count).saturating_add(1),
            end: boot_end(known, evidence, before),
            seen: seen(known, evidence),
        },
    };
    let new_boot = same_boot.is_none();
    let run = known.map(|known| match same_boot {
        Some(_) => ended_in_this_boot(now.boot, oom, before),
        None => ended_in_an_earlier_boot(known.boot, before),
    });

    let mut reports = Vec::new();
    // Of what was before the agent's first start nothing is to be expected.
    let told =
        known.is_some() || count.end.reason != Reason::Unknown || !evidence.panics.is_empty();
    if new_boot && told {
        reports.push(Report {
            what: What::Boot,
            uid: format!("{}-boot", hex(&now.boot)),
            number: count.count,
            end: count.end.clone(),
        });
    }
    let earlier = before.run.as_ref().filter(|run| run.id.boot == now.boot);
    let mut restarts = earlier.map_or_else(BTreeMap::new, |run| run.restarts.clone());
    if let (Some(end), Some(known)) = (&run, known) {
        if !new_boot {
            *restarts.entry(end.reason).or_default() += 1;
        }
        reports.push(Report {
            what: What::Run,
            uid: run_uid(known.boot, before),
            number: count.count,
            end: end.clone(),
        });
    }
    Verdict {
        count,
        new_boot,
        run,
        restarts,
        reports,
    }
}

/// Names the run that ended, the same however often it is asked.
fn run_uid(boot: BootId, before: &Before) -> String {
    let ids = [
        before.run.as_ref().map(|run| run.id),
        before.marker.as_ref().map(|marker| marker.id),
        before.crash.as_ref().map(|crash| crash.id),
    ];
    let id = ids.into_iter().flatten().find(|id| id.boot == boot);
    let start = id.map_or("last".to_owned(), |id| id.start_ns.to_string());
    format!("{}-run-{start}", hex(&boot))
}

/// How the boot before this one ended.
fn boot_end(known: Option<&Count>, found: &Evidence, before: &Before) -> End {
    let mut said: Vec<String> = Vec::new();
    let old = |fingerprint: &u32| known.is_some_and(|count| count.seen.contains(fingerprint));
    let mut panics = found.panics.iter().filter(|p| !old(&p.fingerprint));
    // At the very first start nobody knows of which boot a panic is.
    let panic = panics.next().filter(|_| known.is_some());
    let marker = before.marker.as_ref();
    let marker = marker.filter(|marker| known.is_some_and(|count| count.boot == marker.id.boot));
    let going_down = marker.and_then(|marker| marker.going_down.as_deref());
    let cause = |cause: Cause| found.resets.iter().any(|reset| reset.cause == Some(cause));

    let faint = before.faint.as_ref();
    let faint = faint.filter(|faint| known.is_some_and(|count| count.boot == faint.boot));

    let reason = if let Some(panic) = panic {
        said.push(panic.text.clone());
        if panic.oom {
            Reason::Oom
        } else {
            Reason::Panic
        }
    } else if found.shutdown.is_some() || going_down.is_some() {
        Reason::Clean
    } else if cause(Cause::Watchdog) {
        Reason::Watchdog
    } else if cause(Cause::Heat) {
        Reason::Overheat
    } else if cause(Cause::LowVoltage) {
        Reason::PowerLoss
    } else if cause(Cause::PowerOn) && marker.is_none() && known.is_some() {
        // The power was off, and nobody had stopped the agent before.
        Reason::PowerLoss
    } else if faint.is_some()
        && marker.is_none()
        && !found.resets.iter().any(|it| it.cause.is_some())
    {
        // It was too low, and nothing says otherwise.
        Reason::PowerLoss
    } else {
        Reason::Unknown
    };
    said.extend(found.shutdown.clone());
    said.extend(
        going_down.map(|by| format!("the agent was stopped while the machine went down: {by}")),
    );
    said.extend(found.resets.iter().map(|reset| reset.text.clone()));
    said.extend(
        faint.map(|faint| format!("the voltage had been too low in that boot: {}", faint.by)),
    );
    if known.is_none() {
        said.push("the agent's first start here".to_owned());
        let panics = found.panics.iter();
        said.extend(panics.map(|panic| format!("of an unknown boot: {}", panic.text)));
    } else if marker.is_none() {
        said.push("the agent was not stopped before".to_owned());
    } else if going_down.is_none() {
        said.push("the agent had been stopped before, with no sign of a shutdown".to_owned());
    }
    said.extend(found.notes.iter().cloned());
    end(reason, said)
}

fn seen(known: Option<&Count>, found: &Evidence) -> Vec<u32> {
    let mut seen = known.map_or_else(Vec::new, |count| count.seen.clone());
    for panic in &found.panics {
        seen.retain(|old| *old != panic.fingerprint);
        seen.push(panic.fingerprint);
    }
    let surplus = seen.len().saturating_sub(MAX_SEEN);
    seen.drain(..surplus);
    seen
}

fn ended_in_this_boot(boot: BootId, oom: OomKills, before: &Before) -> End {
    let run = before.run.as_ref().filter(|run| run.id.boot == boot);
    let is_it = |id: RunId| run.map_or(id.boot == boot, |run| run.id == id);
    let crash = before.crash.as_ref().filter(|crash| is_it(crash.id));
    let marker = before.marker.as_ref().filter(|marker| is_it(marker.id));
    if let Some(end) = own_word(marker, crash) {
        return end;
    }
    let Some(run) = run else {
        let lost = "the agent ran in this boot before, and its record of that run is gone";
        return end(Reason::Unknown, vec![lost.to_owned()]);
    };
    let grown = |was: Option<u64>, is: Option<u64>| is?.checked_sub(was?).filter(|by| *by > 0);
    let own = grown(run.oom.own, oom.own);
    let above = grown(run.oom.above, oom.above);
    let host = grown(run.oom.host, oom.host);
    let mut said = Vec::new();
    let mut say = |by: Option<u64>, place: &str| {
        said.extend(by.map(|by| format!("the kernel killed {by} times for memory in {place}")));
    };
    say(own, "the agent's own cgroup");
    say(above, "the cgroup above the agent's");
    say(host, "this machine");
    // Elsewhere on the machine counts only where nobody can say that it was elsewhere.
    let blind = run.oom.above.or(run.oom.own).is_none();
    if own.is_some() || above.is_some() || (blind && host.is_some()) {
        end(Reason::Oom, said)
    } else {
        said.insert(
            0,
            "it ended without a word while the machine ran on".to_owned(),
        );
        end(Reason::Killed, said)
    }
}

fn ended_in_an_earlier_boot(boot: BootId, before: &Before) -> End {
    let run = before.run.as_ref().filter(|run| run.id.boot == boot);
    let is_it = |id: RunId| run.map_or(id.boot == boot, |run| run.id == id);
    let crash = before.crash.as_ref().filter(|crash| is_it(crash.id));
    let marker = before.marker.as_ref().filter(|marker| is_it(marker.id));
    own_word(marker, crash).unwrap_or_else(|| {
        let with = "its boot ended, and nothing says that it ended before";
        end(Reason::Boot, vec![with.to_owned()])
    })
}

/// What the run itself said at its end.
fn own_word(marker: Option<&Marker>, crash: Option<&Crash>) -> Option<End> {
    let panicked = crash.map(|crash| {
        let mut said = vec![crash.message.clone()];
        said.extend(Some(crash.backtrace.clone()).filter(|trace| !trace.is_empty()));
        said
    });
    let lost = marker.and_then(|marker| marker.lost.as_ref());
    match (marker, panicked) {
        (Some(_), panicked) if lost.is_some() => {
            let mut said = panicked.unwrap_or_default();
            said.extend(lost.map(|part| format!("{part} ended by itself")));
            Some(end(Reason::Crash, said))
        }
        (Some(marker), panicked) => {
            let mut said: Vec<String> = marker.going_down.clone().into_iter().collect();
            if said.is_empty() {
                said.push("it was asked to stop, and did in order".to_owned());
            }
            let survived = panicked.and_then(|said| said.into_iter().next());
            said.extend(survived.map(|panic| format!("survived before: {panic}")));
            Some(end(Reason::Stopped, said))
        }
        (None, Some(said)) => Some(end(Reason::Crash, said)),
        (None, None) => None,
    }
}

fn end(reason: Reason, mut evidence: Vec<String>) -> End {
    for text in &mut evidence {
        *text = cut(text, LONGEST);
    }
    evidence.truncate(MAX_EVIDENCE);
    End { reason, evidence }
}
