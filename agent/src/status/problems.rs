//! Is this gateway fine, and if not why: one pure judgement over a [`Status`],
//! so that the terminal, the JSON and the metrics can never disagree.
//!
//! Each threshold stands here with its reason; docs/STATUS.md repeats them for
//! operators.

use super::words::{by_reason, bytes, count, duration, of};
use super::{
    CommandsStatus, GaugeStatus, Problem, SerialStatus, SpoolStatus, Status, UplinkStatus,
};

/// A link that fails is worth a word after this long: two default batches, so
/// that one lost request is no alarm.
const DOWN_S: f64 = 60.0;

/// A link that claims to be up and has data waiting should have acknowledged
/// something within this: twice the longest sensible keep-alive and request timeout.
const SILENT_S: f64 = 180.0;

/// Of the quota: from here the oldest data is about to be evicted.
const NEARLY_FULL_PERCENT: u128 = 90;

/// Of what the outbox may have: from here programs are about to be refused.
const OUTBOX_PERCENT: u128 = 80;

/// About what a stored message takes beside its own bytes.
const FRAME: u128 = 96;

/// A loss stays a problem for a day, so that the morning after sees it; then
/// it is history, which the spool's figures keep.
const RECENT_LOSS_NS: u64 = 86_400 * 1_000_000_000;

/// How many series may be missing before it is news: a disk or an interface
/// that was unplugged takes a handful of series with it.
const MISSING: usize = 3;

/// A clock without a battery needs the network first; before this much uptime
/// it is expected to be wrong.
const CLOCK_PATIENCE_S: u64 = 120;

/// Late ticks: more than one in a hundred, and at least this many, or a busy
/// start would count.
const OVERRUNS: u64 = 10;

/// Own records that may be dropped without a word: a burst of errors that were
/// rate-limited says itself in the journal.
const DROPPED: u64 = 100;

/// A device that was plugged in again, or a board that starts with the gateway, is open by then.
const SERIAL_PATIENCE_S: f64 = 30.0;

/// A described gauge without a value is worth a word after so many of its
/// intervals, and not before [`SERIAL_PATIENCE_S`].
const ABSENT_INTERVALS: f64 = 3.0;

/// Described gauges that have a line each; of more only the names are said.
const DESCRIBED: usize = 8;

/// Bad runs that are no news: noise while a cable is plugged in.
const NOISE: u64 = 10;

/// Judges. Worst first: errors before warnings, and among those in the order
/// in which an operator should act. Empty: fine.
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    spool_alarm(&status.spool, &mut found);
    for uplink in &status.uplinks {
        circuit(uplink, &mut found);
    }
    for uplink in &status.uplinks {
        held(uplink, &mut found);
    }
    for uplink in &status.uplinks {
        down(uplink, status.agent.uptime_s, &mut found);
    }
    for uplink in &status.uplinks {
        refused_topics(uplink, &mut found);
    }
    nearly_full(&status.spool, &mut found);
    local_programs(status, &mut found);
    losses(status, &mut found);
    rejects(&status.uplinks, &mut found);
    if let Some(why) = &status.config.reload_error {
        found.push(warning(
            "config",
            format!(
                "The last reload was refused and the earlier configuration still runs: {why}. \
                 Correct the file, try it with `sonde check`, then reload."
            ),
        ));
    }
    if status.uplinks.is_empty() {
        found.push(warning(
            "uplink",
            "No uplink is configured: telemetry is only shown here. \
             Add [uplink.otlp] or [uplink.mqtt] to the configuration.",
        ));
    }
    if status.device.id_source == "random" {
        found.push(warning(
            "device",
            "Nothing identifies this device: its device.id was made up and is kept in the state \
             folder. Set [device] id, or make /etc/machine-id with systemd-machine-id-setup.",
        ));
    }
    for sensor in &status.sensors {
        let since_ns = status.clock.boot_ns.saturating_sub(sensor.since_boot_ns);
        let since_s = since_ns as f64 / 1e9;
        if sensor.state == "ok" || since_s < SERIAL_PATIENCE_S {
            continue;
        }
        let why = sensor.missing.as_deref().unwrap_or_default();
        let what = match (sensor.state.as_str(), &sensor.waits_for) {
            ("hangs", _) => "hangs, and holds its bus".to_owned(),
            ("partial", _) => format!("gives {} of {} values ({why})", sensor.values, sensor.of),
            (_, Some(what)) => format!("is not read ({what})"),
            _ => format!("gives no value ({why})"),
        };
        found.push(warning(
            format!("sensor {}", sensor.name),
            format!(
                "The {} at {} {what}, for {}. It is tried again.",
                sensor.kind,
                sensor.place,
                duration(since_s)
            ),
        ));
    }
    for (part, left) in [
        ("sensors", &status.sensors_left_behind),
        ("serial", &status.serial_left_behind),
    ] {
        left_behind(part, left, &mut found);
    }
    for line in &status.serial {
        serial(line, &mut found);
    }
    for job in &status.jobs {
        if let Some(last) = job.last.as_ref().filter(|last| last.is_failure()) {
            let name = &job.name;
            found.push(warning(
                format!("job {name}"),
                format!(
                    "Its last run failed {} ago: {}. What it printed is on the span `run {name}` \
                     of trace {}.",
                    duration(last.ago_s),
                    last.message,
                    last.trace_id
                ),
            ));
        }
    }
    if let Some(status) = &status.commands {
        commands(status, &mut found);
    }
    if !status.clock.synchronised && status.agent.uptime_s >= CLOCK_PATIENCE_S {
        found.push(warning(
            "clock",
            format!(
                "The wall clock is not known to be right (trust: {}), so times on telemetry may be wrong. \
                 Check time synchronisation, or set clock.trust to what this gateway has.",
                status.clock.trust
            ),
        ));
    }
    processes(status, &mut found);
    described(status, &mut found);
    missing(status, &mut found);
    let agent = &status.agent;
    if agent.overruns >= OVERRUNS && agent.overruns > agent.ticks / 100 {
        found.push(warning(
            "gauges",
            format!(
                "{} of {} ticks came while an earlier one was still being read. \
                 Lengthen the interval of the slow gauges, or look for a hanging mount or bus.",
                count(agent.overruns),
                count(agent.ticks)
            ),
        ));
    }
    left_out(status, &mut found);
    dropped(status, &mut found);
    // Stable: within a severity the order above is the order to act in.
    found.sort_by_key(|problem| problem.severity != "error");
    found
}

/// Threads that nobody can end but the kernel.
fn left_behind(part: &str, left: &[String], found: &mut Vec<Problem>) {
    let Some(first) = left.first() else { return };
    let others = match left.len() {
        1 => String::new(),
        count => format!(", and {} more do", count.saturating_sub(1)),
    };
    found.push(warning(
        part,
        format!(
            "A thread hangs in the kernel with {first}, which is no longer read{others}. \
             It ends when the device returns, or with the agent."
        ),
    ));
}

/// What is wrong with a serial line, if it has been so for a while: a device
/// that is plugged in again is open within seconds.
fn serial(line: &SerialStatus, found: &mut Vec<Problem>) {
    let part = || format!("serial {}", line.name);
    let bad = line.bad.values().sum::<u64>();
    let error = line.error.as_deref().unwrap_or_default();
    let device = &line.device;
    if line.state != "open" {
        if line.since_s >= SERIAL_PATIENCE_S {
            let since = duration(line.since_s);
            found.push(warning(
                part(),
                format!("{device} {error}, for {since}. Its readings are missing meanwhile."),
            ));
        }
    } else if line.frames == 0 && bad >= NOISE {
        found.push(warning(
            part(),
            format!(
                "{} came over {device} and no good frame: another baud rate, another \
                 format, or noise. docs/SERIAL.md has the format.",
                bytes(line.bytes)
            ),
        ));
    } else if bad >= NOISE && bad > line.frames / 100 {
        found.push(warning(
            part(),
            format!(
                "{} of {} over {device} were bad ({}). Look at the cable, its length and its ground.",
                count(bad),
                of(bad.saturating_add(line.frames), "frame"),
                by_reason(&line.bad)
            ),
        ));
    }
    if line.refused_gauges + line.refused_sources > 0 {
        found.push(warning(
            part(),
            "Senders name more gauges than the line may have. Raise its max_series, or mend the sender.",
        ));
    }
}

fn error(part: impl Into<String>, message: impl Into<String>) -> Problem {
    problem("error", part.into(), message.into())
}

fn warning(part: impl Into<String>, message: impl Into<String>) -> Problem {
    problem("warning", part.into(), message.into())
}

fn problem(severity: &str, part: String, message: String) -> Problem {
    Problem {
        severity: severity.to_owned(),
        part,
        message,
    }
}

/// An optional uplink holds nothing back, so its trouble is no loss of what matters.
fn of_uplink(uplink: &UplinkStatus, message: String) -> Problem {
    let part = format!("uplink {}", uplink.name);
    if uplink.required {
        error(part, message)
    } else {
        warning(part, message)
    }
}

fn spool_alarm(spool: &SpoolStatus, found: &mut Vec<Problem>) {
    if let Some(alarm) = &spool.alarm {
        found.push(error(
            "spool",
            format!(
                "Data is kept in memory only: {}. Check the state folder's owner, mount and free \
                 space; it is tried again by itself.",
                alarm.trim_end_matches('.')
            ),
        ));
    }
}

fn circuit(uplink: &UplinkStatus, found: &mut Vec<Problem>) {
    if uplink.state != "open" {
        return;
    }
    let retry = match uplink.next_attempt_s {
        Some(s) => format!("next attempt in {}", duration(s)),
        None => "it tries again by itself".to_owned(),
    };
    found.push(of_uplink(
        uplink,
        format!(
            "{} refuses us: {}. Sending is suspended, data is kept ({}). \
             Check credentials, certificates and the endpoint's path; {retry}.",
            uplink.endpoint,
            last_error(uplink),
            waiting(uplink)
        ),
    ));
}

/// A signal that is refused while others pass. The circuit's own words cover
/// the case that all are.
fn held(uplink: &UplinkStatus, found: &mut Vec<Problem>) {
    if uplink.state == "open" {
        return;
    }
    for held in &uplink.held {
        let signal = &held.signal;
        found.push(of_uplink(
            uplink,
            format!(
                "{} has taken no {signal} for {}: {}. {} kept for it until the spool is full; other signals pass. \
                 Mend that, or route them elsewhere: [route] {signal} = [] sends them nowhere.",
                uplink.endpoint,
                duration(held.since_s),
                held.reason.trim_end_matches('.'),
                of(held.pending_items, "item")
            ),
        ));
    }
}

/// How long a link has been down is counted from its failure, not from its last
/// acknowledgement: an uplink that had nothing to send is not down for that.
fn down(uplink: &UplinkStatus, uptime_s: u64, found: &mut Vec<Problem>) {
    let silent_s = uplink.last_ack_s.unwrap_or(uptime_s as f64).max(0.0);
    let since = match uplink.last_ack_s {
        Some(_) => format!("Nothing acknowledged for {}", duration(silent_s)),
        None => "Nothing acknowledged since the start".to_owned(),
    };
    // One that never got an answer nor an error (a black hole) is in its first attempt still.
    let down_s = uplink.down_s.unwrap_or(uplink.since_s);
    match uplink.state.as_str() {
        "waiting" | "connecting" if down_s >= DOWN_S => {
            found.push(of_uplink(
                uplink,
                format!(
                    "Down for {}: {}. {since}. Waiting for it: {}. Check the network and that {} \
                     is reachable from here; it is tried again by itself.",
                    duration(down_s),
                    last_error(uplink),
                    waiting(uplink),
                    uplink.endpoint
                ),
            ));
        }
        "up" if uplink.pending_frames > 0 && silent_s >= SILENT_S && uplink.since_s >= SILENT_S => {
            found.push(of_uplink(
                uplink,
                format!(
                    "{since} although the link looks up. Waiting for it: {}. \
                     Check that {} accepts data.",
                    waiting(uplink),
                    uplink.endpoint
                ),
            ));
        }
        _ => {}
    }
}

fn commands(status: &CommandsStatus, found: &mut Vec<Problem>) {
    if let Some(why) = &status.alarm {
        found.push(error(
            "commands",
            format!(
                "Commands are refused: {}. Check the state folder's owner, mount and free space; \
                 it is tried again with each command.",
                why.trim_end_matches('.')
            ),
        ));
    }
    if let Some(why) = &status.reason {
        found.push(error(
            "commands",
            format!("No command can come: {}.", why.trim_end_matches('.')),
        ));
    }
    let (used, limit) = (
        u128::from(status.remembered_bytes),
        u128::from(status.remembered_limit_bytes),
    );
    if limit > 0 && used * 100 >= limit * NEARLY_FULL_PERCENT {
        found.push(warning(
            "commands",
            format!(
                "{} of {} for what is remembered of commands are used; then new ones are refused. \
                 Give commands an expiry, set commands.remember shorter or commands.journal larger.",
                bytes(status.remembered_bytes),
                bytes(status.remembered_limit_bytes)
            ),
        ));
    }
}

fn last_error(uplink: &UplinkStatus) -> &str {
    match uplink.last_error.as_deref() {
        Some(error) => error.trim_end_matches('.'),
        None => "no reason known",
    }
}

fn waiting(uplink: &UplinkStatus) -> String {
    format!(
        "{}, {}",
        of(uplink.pending_items, "item"),
        bytes(uplink.pending_bytes)
    )
}

fn nearly_full(spool: &SpoolStatus, found: &mut Vec<Problem>) {
    let (used, limit) = (u128::from(spool.bytes), u128::from(spool.limit_bytes));
    if limit == 0 || used * 100 < limit * NEARLY_FULL_PERCENT {
        return;
    }
    found.push(error(
        "spool",
        format!(
            "{} of {} are used; when it is full the least valuable, oldest data goes first. \
             Get the uplink back, or raise spool.quota.",
            bytes(spool.bytes),
            bytes(spool.limit_bytes)
        ),
    ));
}

fn refused_topics(uplink: &UplinkStatus, found: &mut Vec<Problem>) {
    let Some(first) = uplink.refused_topics.first() else {
        return;
    };
    let waiting = uplink.refused_topics.iter().map(|topic| topic.waiting);
    let others = match uplink.refused_topics.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    found.push(warning(
        format!("uplink {}", uplink.name),
        format!(
            "The broker has refused the topic \"{}\"{others} for {}: {}. {} wait, the rest goes on. \
             Allow it at the broker, or let the program publish elsewhere.",
            first.topic,
            duration(first.since_s),
            first.reason.trim_end_matches('.'),
            of(waiting.sum(), "message")
        ),
    ));
}

/// What local programs hand in.
fn local_programs(status: &Status, found: &mut Vec<Problem>) {
    let spool = &status.spool;
    let outbox = spool.classes.get("outbox");
    let held = outbox.map_or(0, |class| {
        u128::from(class.bytes) + u128::from(class.frames) * FRAME
    });
    // An eighth of the quota is never the outbox's.
    let most = u128::from(spool.limit_bytes) / 8 * 7;
    if held > 0 && held * 100 >= most * OUTBOX_PERCENT {
        found.push(warning(
            "outbox",
            format!(
                "{} of local programs wait and nearly fill the spool; when it is full new ones are refused (507). \
                 Get the uplink back, or raise spool.quota.",
                of(outbox.map_or(0, |class| class.frames), "message"),
            ),
        ));
    }
    let refused: u64 = status.outbox.refused.values().sum();
    if refused > 0 {
        found.push(warning(
            "outbox",
            format!(
                "Refused since the start: {} of local programs ({}). Each program was told why; \
                 see [outbox] for what is allowed and how fast.",
                of(refused, "message"),
                by_reason(&status.outbox.refused)
            ),
        ));
    }
    if let Some(why) = &status.receiver.error {
        found.push(error(
            "receiver",
            format!(
                "It {}. Local programs that send there are not heard; free the port or change \
                 receiver.listen. It is tried again by itself.",
                why.trim_end_matches('.')
            ),
        ));
    }
}

/// Data that no uplink takes is an error for as long as it goes on.
const UNROUTED_NS: u64 = 120_000_000_000;

fn losses(status: &Status, found: &mut Vec<Problem>) {
    let now_unix_ns = status.clock.unix_ns;
    // A loss from "the future" means that the clock was stepped: count it as recent.
    let recent: Vec<_> = status
        .spool
        .lost
        .iter()
        .filter(|lost| lost.frames > 0 || lost.items > 0)
        .filter(|lost| now_unix_ns.saturating_sub(lost.last_unix_ns) <= RECENT_LOSS_NS)
        // Old gauges that say less often what they say: how it is meant to be.
        .filter(|lost| lost.reason != "thinned")
        // Without an uplink nothing was promised, and one that is new ends it.
        .filter(|lost| {
            let age = now_unix_ns.saturating_sub(lost.last_unix_ns);
            lost.reason != "no_uplink" || (!status.uplinks.is_empty() && age <= UNROUTED_NS)
        })
        .collect();
    if recent.is_empty() {
        return;
    }
    let kinds: Vec<String> = recent
        .iter()
        .map(|lost| {
            format!(
                "{} {} ({})",
                of(lost.items, "item"),
                lost.class,
                lost.reason
            )
        })
        .collect();
    let lost_by = |reason: &str| recent.iter().any(|lost| lost.reason == reason);
    let advice = if lost_by("condemned") {
        "A server refused some as malformed: its log says why."
    } else if lost_by("disk_full") {
        "The disk is full: free some of it, or give the state a partition of its own."
    } else if lost_by("damaged") {
        "Stored data was damaged: check the disk and its file system."
    } else if lost_by("removed") {
        "Somebody removes or cuts files in the spool's folder: leave that to the agent."
    } else if lost_by("refused") {
        "Local programs were told that their messages were not taken: see the status of disk and quota."
    } else if lost_by("no_uplink") {
        "Nothing takes that signal: see [route] and the uplinks."
    } else {
        "More quota (spool.quota) or a better link keeps more."
    };
    found.push(error(
        "spool",
        format!(
            "Data of the last day is lost: {}. {advice}",
            kinds.join(", ")
        ),
    ));
}

fn rejects(uplinks: &[UplinkStatus], found: &mut Vec<Problem>) {
    for uplink in uplinks.iter().filter(|uplink| uplink.rejected_items > 0) {
        found.push(warning(
            format!("uplink {}", uplink.name),
            format!(
                "The server took frames but rejected {} in them. Its log says why \
                 (times too old, too many series).",
                of(uplink.rejected_items, "item")
            ),
        ));
    }
}

/// The agent's own spans and logs; the gateway's data is judged by [`losses`].
fn dropped(status: &Status, found: &mut Vec<Problem>) {
    let dropped = &status.agent.dropped;
    let sum = dropped
        .values()
        .fold(0, |sum: u64, n| sum.saturating_add(*n));
    if sum < DROPPED {
        return;
    }
    let reasons: Vec<String> = dropped
        .iter()
        .take(4)
        .map(|(reason, n)| format!("{reason} {}", count(*n)))
        .collect();
    found.push(warning(
        "agent",
        format!(
            "{} of the agent's own spans and logs were dropped since the start ({}). \
             Something makes it talk too much: see its journal, or lower [trace] sampling and [log] level.",
            count(sum),
            reasons.join(", ")
        ),
    ));
}

/// More interfaces, disks or sensors than a family may have.
fn left_out(status: &Status, found: &mut Vec<Problem>) {
    let left_out = &status.agent.left_out;
    if left_out.is_empty() {
        return;
    }
    let families: Vec<_> = left_out
        .iter()
        .map(|(family, series)| format!("{family} {series}"))
        .collect();
    found.push(warning(
        "gauges",
        format!(
            "Series are left out, because there are more than a family may have: {}. \
             Something makes devices, interfaces or mounts by the hundred; what came first is reported.",
            families.join(", ")
        ),
    ));
}

/// Other programs that are watched.
fn processes(status: &Status, found: &mut Vec<Problem>) {
    let counts = |g: &&GaugeStatus| g.name == "sonde.process.count";
    for gauge in status.gauges.iter().filter(counts) {
        let Some(name) = gauge.attributes.get(WATCHED) else {
            continue;
        };
        let part = format!("process {name}");
        match &gauge.missing {
            // Its absence is told once, so that its age is how long it lasts.
            Some(reason) if gauge.age_s >= SERIAL_PATIENCE_S => {
                let why = gauge.why.as_deref().unwrap_or_default();
                let colon = if why.is_empty() { "" } else { ": " };
                found.push(warning(
                    part,
                    format!(
                        "Whether it runs could not be told for {} ({reason}){colon}{why}. Correct [process.{name}].",
                        duration(gauge.age_s)
                    ),
                ));
            }
            None if gauge.number() == Some(0.0) => found.push(warning(
                part,
                "It is watched and does not run. Start it, or look why it ended; \
                 if it should not run, remove its [process] table.",
            )),
            _ => {}
        }
    }
}

/// Gauges that the configuration describes and that give no value.
fn described(status: &Status, found: &mut Vec<Problem>) {
    let overdue = |g: &&GaugeStatus| {
        let patience = g.interval_s.unwrap_or_default() * ABSENT_INTERVALS;
        g.value.is_none()
            && g.absent_s
                .is_some_and(|s| s >= patience.max(SERIAL_PATIENCE_S))
    };
    // Several series of one table are one line.
    let mut tables: Vec<(&str, &GaugeStatus)> = Vec::new();
    for gauge in status.gauges.iter().filter(overdue) {
        let table = gauge.table.as_deref().unwrap_or_default();
        if !tables.iter().any(|(known, _)| *known == table) {
            tables.push((table, gauge));
        }
    }
    for (table, gauge) in tables.iter().take(DESCRIBED) {
        let reason = gauge.missing.as_deref().unwrap_or("nothing came");
        let why = match gauge.why.as_deref() {
            Some(why) if !why.is_empty() => format!(": {}", why.trim_end_matches('.')),
            _ => String::new(),
        };
        let advice = match reason {
            "denied" => "Let the agent's user read it",
            "unsupported" => "Correct where it is read, or remove the table",
            "timeout" => "Look at what hangs, or raise its timeout",
            "first" if why.contains("push") => "Let a program push it, or remove the table",
            "first" => "Look at what it waits for",
            _ => "Mend what says it, or how it is read",
        };
        found.push(warning(
            table.replacen('.', " ", 1),
            format!(
                "{} has had no value for {} ({reason}){why}. {advice}: [{table}].",
                gauge.name,
                duration(gauge.absent_s.unwrap_or_default())
            ),
        ));
    }
    let rest: Vec<&str> = tables
        .iter()
        .skip(DESCRIBED)
        .map(|(table, _)| *table)
        .collect();
    if !rest.is_empty() {
        found.push(warning(
            "gauges",
            format!(
                "{} more that the configuration describes have no value: {}. See `sonde status --json`.",
                rest.len(),
                rest.join(", ")
            ),
        ));
    }
}

/// The attribute that names a process that is watched.
const WATCHED: &str = "sonde.process.name";

/// `first` and `unsupported` are how things are; the rest went wrong. Of a
/// process that ended everything is gone, which is said elsewhere.
fn missing(status: &Status, found: &mut Vec<Problem>) {
    let unexpected = |reason: &str| !matches!(reason, "first" | "unsupported");
    let mut names = Vec::new();
    let mut series = 0_usize;
    // These have lines of their own.
    let ended = |g: &&GaugeStatus| g.table.is_some() || g.attributes.contains_key(WATCHED);
    for gauge in status.gauges.iter().filter(|g| !ended(g)) {
        if let Some(reason) = gauge.missing.as_deref().filter(|reason| unexpected(reason)) {
            series += 1;
            let word = format!("{} ({reason})", gauge.name);
            // Three examples fit a line; the rest is in the JSON.
            if names.len() < 3 && !names.contains(&word) {
                names.push(word);
            }
        }
    }
    if series >= MISSING {
        found.push(warning(
            "gauges",
            format!(
                "{series} of {} series can not be read, such as {}. \
                 See `sonde status --json` for all; `denied` wants a permission, the rest a look at the device.",
                status.gauges.len(),
                names.join(", ")
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::LostStatus;
    use crate::status::sample;

    fn check(status: &Status, expected: &[(&str, &str)]) {
        let found = problems(status);
        let found: Vec<_> = found
            .iter()
            .map(|p| (p.severity.as_str(), p.part.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_signal_that_is_held_is_named_with_what_to_do_and_the_link_stays_up() {
        let mut status = sample::fine();
        let held = crate::status::HeldStatus {
            signal: "logs".into(),
            reason: "/v1/logs: the server answered 404".into(),
            since_s: 7200.0,
            pending_items: 55,
        };
        status.uplinks[0].held = vec![held];
        check(&status, &[("error", "uplink otlp")]);
        let said = &problems(&status)[0].message;
        for words in [
            "logs",
            "404",
            "[route] logs = []",
            "55 items",
            "other signals pass",
        ] {
            assert!(said.contains(words), "{said}");
        }
        status.uplinks[0].required = false;
        check(&status, &[("warning", "uplink otlp")]);
    }

    #[test]
    fn a_sensor_that_hangs_is_named_and_those_that_wait_for_it_say_so() {
        let mut status = sample::fine();
        let sensor = |name: &str, state: &str| crate::status::SensorStatus {
            name: name.into(),
            kind: "iio".into(),
            place: format!("/sys/{name}"),
            state: state.into(),
            of: 4,
            ..Default::default()
        };
        let mut partial = sensor("adc", "partial");
        (partial.values, partial.missing) = (2, Some("garbage".into()));
        let mut waits = sensor("room", "waits");
        waits.waits_for = Some("sensor board hangs on its bus".into());
        status.sensors = vec![
            sensor("fine", "ok"),
            sensor("board", "hangs"),
            waits,
            partial,
        ];
        status.sensors_left_behind = vec!["old at /sys/old".into()];
        status.serial_left_behind = vec!["meter at /dev/ttyS1".into(), "b at c".into()];
        let said: Vec<String> = problems(&status)
            .into_iter()
            .map(|problem| format!("{}: {}", problem.part, problem.message))
            .collect();
        for (said, part) in said.iter().zip([
            "sensor board: The iio at /sys/board hangs, and holds its bus, for",
            "sensor room: The iio at /sys/room is not read (sensor board hangs on its bus), for",
            "sensor adc: The iio at /sys/adc gives 2 of 4 values (garbage), for",
            "sensors: A thread hangs in the kernel with old at /sys/old, which is no longer read. ",
            "serial: A thread hangs in the kernel with meter at /dev/ttyS1, which is no longer read, and 1 more do",
        ]) {
            assert!(said.starts_with(part), "{said}");
        }
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn commands_that_cannot_come_or_be_taken_are_a_problem_with_words() {
        let mut status = sample::fine();
        let mut fine = CommandsStatus {
            state: "subscribed".into(),
            remembered_bytes: 89,
            remembered_limit_bytes: 100,
            ..CommandsStatus::default()
        };
        status.commands = Some(fine.clone());
        check(&status, &[]);
        fine.remembered_bytes = 90;
        status.commands = Some(fine.clone());
        check(&status, &[("warning", "commands")]);
        fine.reason = Some("the broker refused to send x/command/+; asked again in 30 s".into());
        fine.alarm = Some("no command is taken: No space left on device".into());
        status.commands = Some(fine);
        let expected = [("error", "commands"), ("error", "commands")];
        check(
            &status,
            &[&expected[..], &[("warning", "commands")]].concat(),
        );
        let found = problems(&status);
        assert!(found[0].message.contains("No space left"), "{found:?}");
        assert!(found[1].message.contains("in 30 s"), "{found:?}");
    }

    #[test]
    fn what_local_programs_meet_is_said_and_a_nearly_full_outbox_before_it_refuses() {
        let three = [
            ("error", "receiver"),
            ("warning", "uplink mqtt"),
            ("warning", "outbox"),
        ];
        let mut status = sample::programs();
        check(&status, &[("warning", "outbox")]);
        status.uplinks[0].refused_topics = vec![crate::status::TopicStatus {
            topic: "plant/1".into(),
            reason: "not authorized (0x87)".into(),
            since_s: 312.0,
            waiting: 17,
        }];
        status.receiver.error = Some("could not listen on 127.0.0.1:4318: in use".into());
        check(&status, &three);
        let mut status = sample::fine();
        let mut waiting = crate::status::ClassStatus {
            frames: 100,
            bytes: 40 << 20,
            ..Default::default()
        };
        let of = |waiting: &crate::status::ClassStatus| [("outbox".to_owned(), waiting.clone())];
        status.spool.classes = of(&waiting).into();
        check(&status, &[]);
        waiting.bytes = 46 << 20;
        status.spool.classes = of(&waiting).into();
        check(&status, &[("warning", "outbox")]);
        // Small ones take more than their bytes.
        waiting = crate::status::ClassStatus {
            frames: 300_000,
            bytes: 20 << 20,
            ..Default::default()
        };
        status.spool.classes = of(&waiting).into();
        check(&status, &[("warning", "outbox")]);
    }

    #[test]
    fn a_healthy_gateway_has_no_problems() {
        check(&sample::fine(), &[]);
        check(&sample::fresh(), &[]);
    }

    #[test]
    fn a_link_is_a_problem_only_after_a_minute_and_says_what_waits() {
        let mut status = sample::fine();
        status.uplinks[0].state = "waiting".into();
        status.uplinks[0].since_s = 1.0;
        // It was idle for an hour and failed just now: not down for an hour.
        status.uplinks[0].last_ack_s = Some(3600.0);
        status.uplinks[0].down_s = Some(59.0);
        check(&status, &[]);
        // Attempts restart `since_s`, not `down_s`.
        status.uplinks[0].down_s = Some(61.0);
        check(&status, &[("error", "uplink otlp")]);

        let message = &problems(&sample::link_down())[0].message;
        assert!(message.contains("5m 12s"), "{message}");
        assert!(message.contains("connection refused"), "{message}");
        assert!(message.contains("12,400 items"), "{message}");
    }

    #[test]
    fn a_first_attempt_that_gets_no_answer_at_all_is_noticed() {
        let mut status = sample::fresh();
        status.uplinks[0].state = "connecting".into();
        status.uplinks[0].since_s = 59.0;
        check(&status, &[]);
        status.uplinks[0].since_s = 61.0;
        check(&status, &[("error", "uplink otlp")]);
    }

    #[test]
    fn own_records_dropped_in_numbers_warn() {
        let mut status = sample::fine();
        status.agent.dropped = [("logs.rate".to_owned(), DROPPED - 1)].into();
        check(&status, &[]);
        status
            .agent
            .dropped
            .insert("spans.refused".into(), u64::MAX);
        check(&status, &[("warning", "agent")]);
    }

    #[test]
    fn a_silent_link_that_claims_to_be_up_is_noticed() {
        let mut status = sample::fine();
        status.uplinks[0].last_ack_s = Some(200.0);
        status.uplinks[0].pending_frames = 7;
        check(&status, &[("error", "uplink otlp")]);
        status.uplinks[0].pending_frames = 0;
        check(&status, &[]);
    }

    #[test]
    fn an_optional_uplink_only_warns() {
        let mut status = sample::circuit_open();
        status.uplinks[0].required = false;
        check(&status, &[("warning", "uplink otlp")]);
    }

    #[test]
    fn errors_come_before_warnings_and_the_alarm_first() {
        let mut status = sample::circuit_open();
        status.clock.synchronised = false;
        status.spool.alarm = Some("read-only".into());
        status.config.reload_error = Some("line 3".into());
        check(
            &status,
            &[
                ("error", "spool"),
                ("error", "uplink otlp"),
                ("warning", "config"),
                ("warning", "clock"),
            ],
        );
    }

    #[test]
    fn data_that_nothing_takes_is_an_error_only_while_it_is_so_and_an_uplink_is_there() {
        let mut status = sample::fine();
        let now = status.clock.unix_ns;
        let lost = |last_unix_ns| LostStatus {
            class: "critical".into(),
            reason: "no_uplink".into(),
            frames: 1,
            items: 1,
            first_unix_ns: last_unix_ns,
            last_unix_ns,
        };
        status.spool.lost = vec![lost(now)];
        check(&status, &[("error", "spool")]);
        status.spool.lost = vec![lost(now - UNROUTED_NS - 1)];
        check(&status, &[]);
        status.spool.lost = vec![lost(now)];
        status.uplinks.clear();
        check(&status, &[("warning", "uplink")]);
    }

    #[test]
    fn losses_are_news_for_a_day_and_then_history() {
        let mut status = sample::fine();
        let now = status.clock.unix_ns;
        let lost = |last_unix_ns| LostStatus {
            class: "normal".into(),
            reason: "quota".into(),
            frames: 2,
            items: 60,
            first_unix_ns: last_unix_ns,
            last_unix_ns,
        };
        status.spool.lost = vec![lost(now - RECENT_LOSS_NS - 1)];
        check(&status, &[]);
        status.spool.lost = vec![lost(now - RECENT_LOSS_NS)];
        check(&status, &[("error", "spool")]);
        // A stepped clock hides nothing.
        status.spool.lost = vec![lost(now + 1)];
        check(&status, &[("error", "spool")]);
    }

    #[test]
    fn the_quota_warns_at_ninety_percent_and_no_quota_is_no_division() {
        let mut status = sample::fine();
        status.spool.limit_bytes = 1000;
        status.spool.bytes = 899;
        check(&status, &[]);
        status.spool.bytes = 900;
        check(&status, &[("error", "spool")]);
        status.spool.limit_bytes = 0;
        check(&status, &[]);
        status.spool.limit_bytes = u64::MAX;
        status.spool.bytes = u64::MAX;
        check(&status, &[("error", "spool")]);
    }

    #[test]
    fn a_watched_process_that_does_not_run_is_one_problem() {
        let mut status = sample::fine();
        let by = [(WATCHED, "broker")];
        let count = |value| sample::gauge("sonde.process.count", "{process}", &by, value);
        status.gauges.push(count(1.0));
        check(&status, &[]);
        status.gauges.pop();
        status.gauges.push(count(0.0));
        status.gauges.extend((0..9).map(|_| GaugeStatus {
            value: None,
            missing: Some("gone".into()),
            ..count(0.0)
        }));
        check(&status, &[("warning", "process broker")]);
    }

    #[test]
    fn a_watched_process_of_which_nothing_can_be_told_is_one_problem_with_the_reason() {
        let mut status = sample::fine();
        let by = [(WATCHED, "broker")];
        let absent = |age_s| GaugeStatus {
            value: None,
            missing: Some("garbage".into()),
            why: Some("/run/broker.pid holds no process number".into()),
            age_s,
            ..sample::gauge("sonde.process.count", "{process}", &by, 0.0)
        };
        status.gauges.extend((0..9).map(|_| GaugeStatus {
            name: "process.uptime".into(),
            ..absent(31.0)
        }));
        status.gauges.push(absent(29.0));
        check(&status, &[]);
        status.gauges.pop();
        status.gauges.push(absent(30.0));
        check(&status, &[("warning", "process broker")]);
        let said = &problems(&status)[0].message;
        assert!(said.contains("(garbage): /run/broker.pid holds"), "{said}");
    }

    #[test]
    fn each_described_gauge_without_a_value_is_a_problem_after_three_intervals() {
        let absent = |table: &str, reason: &str, interval_s, absent_s| GaugeStatus {
            value: None,
            missing: Some(reason.into()),
            why: Some("/run/pmup: No such file or directory (os error 2)".into()),
            table: Some(format!("gauge.{table}")),
            interval_s: Some(interval_s),
            absent_s: Some(absent_s),
            ..sample::gauge("pump.pressure", "bar", &[], 0.0)
        };
        let mut status = sample::fine();
        status.gauges.push(absent("a", "garbage", 1.0, 29.0));
        status.gauges.push(absent("b", "timeout", 20.0, 59.0));
        status.gauges.push(absent("c", "gone", 20.0, 59.0));
        check(&status, &[]);
        status
            .gauges
            .push(absent("inlet", "unsupported", 20.0, 60.0));
        status.gauges.push(absent("inlet", "gone", 20.0, 60.0));
        check(&status, &[("warning", "gauge inlet")]);
        let said = &problems(&status)[0].message;
        assert!(
            said.contains(
                "pump.pressure has had no value for 1m 0s (unsupported): /run/pmup: No such"
            ) && said.ends_with("or remove the table: [gauge.inlet]."),
            "{said}"
        );
        for n in 0..20 {
            status
                .gauges
                .push(absent(&format!("n{n}"), "gone", 1.0, 99.0));
        }
        assert_eq!(problems(&status).len(), DESCRIBED + 1);
        assert!(problems(&status)[DESCRIBED].message.starts_with("13 more"));
    }

    #[test]
    fn series_missing_in_numbers_warn_but_absent_hardware_does_not() {
        let mut status = sample::fine();
        let absent = |reason: &str| GaugeStatus {
            value: None,
            missing: Some(reason.into()),
            ..sample::gauge("hw.temperature", "Cel", &[], 0.0)
        };
        status.gauges.extend((0..9).map(|_| absent("unsupported")));
        status.gauges.extend((0..9).map(|_| absent("first")));
        status.gauges.extend((0..2).map(|_| absent("timeout")));
        check(&status, &[]);
        status.gauges.push(absent("denied"));
        check(&status, &[("warning", "gauges")]);
    }

    #[test]
    fn the_smaller_things_warn() {
        let mut status = sample::fine();
        status.uplinks.clear();
        status.agent.left_out.insert("network".into(), 288);
        check(&status, &[("warning", "uplink"), ("warning", "gauges")]);
        status.agent.left_out.clear();
        status.agent.overruns = 200;
        check(&status, &[("warning", "uplink"), ("warning", "gauges")]);
        let mut status = sample::fine();
        status.uplinks[0].rejected_items = 1;
        check(&status, &[("warning", "uplink otlp")]);
        let mut status = sample::fine();
        status.clock.synchronised = false;
        status.agent.uptime_s = CLOCK_PATIENCE_S - 1;
        check(&status, &[]);
        status.agent.uptime_s = CLOCK_PATIENCE_S;
        check(&status, &[("warning", "clock")]);
    }
}
