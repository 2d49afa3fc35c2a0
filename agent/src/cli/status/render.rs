//! A status in words for a terminal. Pure but for [`View::of_stdout`].

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use super::custom;
use crate::status::words::{by_reason, bytes, count, duration, of, utc};
use crate::status::{
    BootStatus, CommandsStatus, EndStatus, GaugeStatus, JobStatus, LostStatus, ReceiverStatus,
    SerialStatus, SpoolStatus, Status, UplinkStatus,
};

/// What the page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Columns; at least 20 are used.
    pub width: usize,
    /// Colour the verdict; only `shown` does.
    pub colour: bool,
}

impl View {
    /// The terminal behind stdout; 80 plain columns where there is none.
    pub fn of_stdout() -> Self {
        let out = std::io::stdout();
        let tty = out.is_terminal();
        let size = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
        Self {
            width: if size == 0 { 80 } else { size.max(20) },
            colour: tty && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// Columns of the labels at the left.
const LABEL: usize = 9;

/// Below this a label gets a line of its own.
const NARROW: usize = 60;

/// The page: verdict, problems, then figures in aligned blocks.
pub fn render(status: &Status, view: View) -> String {
    let mut page = Page {
        out: String::new(),
        view,
    };
    page.verdict(status);
    page.out.push('\n');
    page.device(status);
    page.boot(&status.boot);
    if !status.uplinks.is_empty() {
        page.uplinks(&status.uplinks);
    }
    page.spool(&status.spool);
    let outbox = outbox(status);
    if !outbox.is_empty() {
        page.block("outbox", &outbox);
    }
    let receiver = receiver(&status.receiver);
    if !receiver.is_empty() {
        page.block("receiver", &receiver);
    }
    page.block("gauges", &gauges(status));
    let custom = custom::items(status);
    if !custom.is_empty() {
        page.list("custom", &custom);
    }
    let processes = processes(status);
    if !processes.is_empty() {
        page.block("watched", &processes);
    }
    if !status.sensors.is_empty() {
        page.block("sensors", &sensors(status));
    }
    if !status.serial.is_empty() {
        page.block("serial", &serial(status));
    }
    if !status.jobs.is_empty() {
        page.block("jobs", &jobs(status));
    }
    if let Some(status) = &status.commands {
        page.block("commands", &commands(status));
    }
    page.block("agent", &agent(status));
    page.config(status);
    page.out
}

struct Page {
    out: String,
    view: View,
}

impl Page {
    fn verdict(&mut self, status: &Status) {
        let problems = &status.problems;
        let errors = problems.iter().filter(|p| p.severity == "error").count();
        let n = problems.len() as u64;
        let verdict = match (errors, n) {
            (0, 0) => "FINE — nothing needs attention".to_owned(),
            (0, n) => format!("FINE, BUT — {}", of(n, "warning")),
            (_, n) => format!("NOT FINE — {}", of(n, "problem")),
        };
        let _ = writeln!(self.out, "{verdict}");
        for problem in problems {
            let error = problem.severity == "error";
            let mark = if error { '!' } else { '-' };
            let text = format!("{mark} {}: {}", problem.part, problem.message);
            wrap(&mut self.out, self.view, &text);
        }
    }

    /// A label and what belongs to it, parted by dots; lines break between
    /// items where they can. Nothing to say: no block.
    fn block(&mut self, label: &str, items: &[String]) {
        self.packed(label, items, true);
    }

    /// The same with a line for each item.
    fn list(&mut self, label: &str, items: &[String]) {
        self.packed(label, items, false);
    }

    fn packed(&mut self, label: &str, items: &[String], several: bool) {
        let width = self.view.width.max(20);
        let narrow = width < NARROW;
        let indent = if narrow { 2 } else { LABEL };
        let mut column = if narrow && !label.is_empty() {
            let _ = writeln!(self.out, "{label}");
            self.out.push_str("  ");
            2
        } else {
            let _ = write!(self.out, "{label:indent$}");
            indent
        };
        let start = column;
        for item in items {
            let item = clean(item);
            let length = item.chars().count();
            if several && column > start && column + 3 + length <= width {
                self.out.push_str(" · ");
                column += 3;
            } else if column > start {
                let _ = write!(self.out, "\n{:indent$}", "");
                column = indent;
            }
            // Longer than a line: cut where the line ends.
            for c in item.chars() {
                if column >= width {
                    let _ = write!(self.out, "\n{:indent$}", "");
                    column = indent;
                }
                self.out.push(c);
                column += 1;
            }
        }
        self.out.push('\n');
    }

    fn device(&mut self, status: &Status) {
        let attribute = |key: &str| status.device.attributes.get(key).cloned();
        let mut items = vec![status.device.id.clone()];
        items.extend(attribute("device.model.identifier"));
        items.extend(attribute("os.description"));
        self.block("device", &items);
        let agent = &status.agent;
        let clock = &status.clock;
        let believed = if clock.synchronised {
            "synchronised"
        } else {
            "NOT synchronised"
        };
        self.block(
            "",
            &[
                format!("sonde {}", agent.version),
                format!("up {}", duration(agent.uptime_s as f64)),
                format!("booted {} ago", duration(clock.boot_ns as f64 / 1e9)),
            ],
        );
        let believed = format!("{believed} ({})", clock.trust);
        self.block("", &[utc(clock.unix_ns), believed]);
    }

    /// How the last ones ended, each with what speaks most for it.
    fn boot(&mut self, boot: &BootStatus) {
        let told = |what: &str, end: &EndStatus| {
            let reason = end.reason.replace('_', " ");
            match end.evidence.first() {
                _ if end.reason == "boot" => format!("{what} ended with its boot"),
                Some(first) => format!("{what} ended: {reason} ({first})"),
                None => format!("{what} ended: {reason}"),
            }
        };
        let mut items: Vec<String> = boot.count.iter().map(|n| format!("number {n}")).collect();
        items.extend(boot.last_boot.iter().map(|end| told("last boot", end)));
        items.extend(boot.last_run.iter().map(|end| told("last run", end)));
        if !boot.restarts.is_empty() {
            items.push(format!("restarts: {}", by_reason(&boot.restarts)));
        }
        items.extend(boot.alarm.iter().map(|why| format!("NOT reliable: {why}")));
        if !items.is_empty() {
            self.block("boot", &items);
        }
    }

    fn uplinks(&mut self, uplinks: &[UplinkStatus]) {
        let mut rows =
            vec![["uplink", "state", "since", "last ack", "waiting", "sent"].map(String::from)];
        rows.extend(uplinks.iter().map(row));
        let mut widths = [LABEL - 2, 0, 0, 0, 0, 0];
        for cells in &rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let table = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        let fits = table <= self.view.width;
        if fits && let Some(head) = rows.first() {
            self.row(head, &widths);
        }
        for (uplink, cells) in uplinks.iter().zip(rows.iter().skip(1)) {
            if fits {
                self.row(cells, &widths);
            } else {
                let [name, state, since, ack, waiting, sent] = cells;
                let items = [
                    format!("{state} since {since}"),
                    format!("last ack {ack}"),
                    format!("waiting {waiting}"),
                    format!("sent {sent}"),
                ];
                self.block(&format!("uplink {name}"), &items);
            }
            let mut items = vec![uplink.endpoint.clone()];
            if uplink.state != "up" {
                let next = uplink.next_attempt_s;
                items.extend(next.map(|s| format!("next attempt in {}", duration(s))));
            }
            let eta = uplink.drain_eta_s;
            items.extend(eta.map(|s| format!("drained in {}", duration(s))));
            items.retain(|item| !item.is_empty());
            if !items.is_empty() {
                self.block("", &items);
            }
            if let Some(error) = &uplink.last_error
                && uplink.state != "up"
            {
                let ago = uplink.last_error_s.map_or("?".to_owned(), duration);
                self.block("", &[format!("{ago} ago: {error}")]);
            }
        }
    }

    fn row(&mut self, cells: &[String; 6], widths: &[usize; 6]) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(self.out, "{}", line.trim_end());
    }

    fn spool(&mut self, spool: &SpoolStatus) {
        let mut items = Vec::new();
        let (used, limit) = (u128::from(spool.bytes), u128::from(spool.limit_bytes));
        if spool.path.is_none() {
            items.push("memory only".to_owned());
        } else if let Some(percent) = (used * 100).checked_div(limit) {
            let filled = usize::try_from(percent.min(100) / 5).unwrap_or(0);
            let bar = format!("[{}{}]", "#".repeat(filled), "-".repeat(20 - filled));
            let (used, limit) = (bytes(spool.bytes), bytes(spool.limit_bytes));
            items.push(format!("{bar} {percent} % used, {used} of {limit}"));
        }
        self.block("spool", &items);
        let mut items = vec![format!("{} waiting", of(spool.frames, "frame"))];
        items.extend(
            spool
                .oldest_age_s
                .map(|s| format!("oldest {}", duration(s))),
        );
        if spool.oldest_age_s.is_none() && spool.oldest_unknown {
            items.push("oldest of unknown age".to_owned());
        }
        items.push(format!("{} in memory", bytes(spool.memory_bytes)));
        items.push(format!("{} on flash", bytes(spool.bytes)));
        self.block("", &items);
        let window = match spool.loss_window_s {
            Some(window) => format!("loss window {}", duration(window)),
            None => "in memory only: a restart loses what waits".to_owned(),
        };
        let mut items = vec![
            window,
            format!("{} written since the start", bytes(spool.written_bytes)),
        ];
        if let Some(written) = spool.device_written_bytes {
            items.push(format!("{} to its device by all programs", bytes(written)));
        }
        self.block("", &items);
        if spool.lost.is_empty() {
            self.block("", &["nothing lost".to_owned()]);
        }
        // Classes times reasons can be dozens; the JSON has them all.
        for lost in spool.lost.iter().take(4) {
            let LostStatus { class, reason, .. } = lost;
            let items = [
                format!("lost {} {class} ({reason})", of(lost.items, "item")),
                format!("{} to {}", utc(lost.first_unix_ns), utc(lost.last_unix_ns)),
            ];
            self.block("", &items);
        }
        if let more @ 1.. = spool.lost.len().saturating_sub(4) {
            self.block("", &[format!("and {more} more kinds of loss: see --json")]);
        }
    }

    fn config(&mut self, status: &Status) {
        let config = &status.config;
        let mut items = config.files.clone();
        if items.is_empty() {
            items.push("built-in defaults".to_owned());
        }
        items.push(format!("loaded {}", utc(config.loaded_unix_ns)));
        if config.reload_error.is_some() {
            items.push("last reload REFUSED, see above".to_owned());
        }
        self.block("config", &items);
    }
}

fn row(uplink: &UplinkStatus) -> [String; 6] {
    let waiting = if uplink.pending_frames == 0 && uplink.pending_items == 0 {
        "nothing".to_owned()
    } else {
        let (items, size) = (uplink.pending_items, uplink.pending_bytes);
        format!("{}, {}", of(items, "item"), bytes(size))
    };
    let since = uplink.down_s.unwrap_or(uplink.since_s);
    [
        uplink.name.clone(),
        uplink.state.clone(),
        duration(since),
        uplink
            .last_ack_s
            .map_or("never".to_owned(), |s| format!("{} ago", duration(s))),
        waiting,
        bytes(uplink.wire_sent_bytes),
    ]
    .map(|cell| clean(&cell))
}

/// The gauges that tell a host's health. One that is sampled but has no value
/// says why; one that is not sampled says so.
fn gauges(status: &Status) -> Vec<String> {
    if status.gauges.is_empty() {
        return vec!["nothing read yet".to_owned()];
    }
    let series = |name: &'static str| status.gauges.iter().filter(move |g| g.name == name);
    let attribute = |g: &GaugeStatus, key: &str| g.attributes.get(key).cloned().unwrap_or_default();
    let highest = |name| {
        let valued = series(name).filter_map(|g| Some((g, g.number()?)));
        valued.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let why = |name| {
        let reason = series(name).find_map(|g| g.missing.as_deref());
        reason.unwrap_or("not sampled").to_owned()
    };
    let cpu = series("system.cpu.utilization")
        .find(|g| attribute(g, "cpu.mode") == "idle")
        .and_then(GaugeStatus::number)
        .map_or_else(
            || why("system.cpu.utilization"),
            |idle| format!("{:.0} %", (1.0 - idle) * 100.0),
        );
    let load = highest("sonde.load.1m")
        .map_or_else(|| why("sonde.load.1m"), |(_, load)| format!("{load:.2}"));
    let memory = series("system.memory.utilization")
        .find(|g| matches!(attribute(g, "system.memory.state").as_str(), "used" | ""))
        .and_then(GaugeStatus::number)
        .map_or_else(
            || why("system.memory.utilization"),
            |used| format!("{:.0} %", used * 100.0),
        );
    let disk = highest("system.filesystem.utilization").map_or_else(
        || why("system.filesystem.utilization"),
        |(g, full)| {
            let mount = attribute(g, "system.filesystem.mountpoint");
            format!("{:.0} % {mount}", full * 100.0)
        },
    );
    let hottest = highest("hw.temperature").map_or_else(
        || why("hw.temperature"),
        |(g, hot)| {
            let name = Some(attribute(g, "hw.name")).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| attribute(g, "hw.id"));
            format!("{hot:.1} °C {name}")
        },
    );
    vec![
        format!("cpu {cpu}"),
        format!("load {load}"),
        format!("memory {memory}"),
        format!("fullest disk {disk}"),
        format!("hottest {hottest}"),
    ]
}

/// Local programs' messages; nothing where there were none and none may be.
fn outbox(status: &Status) -> Vec<String> {
    let outbox = &status.outbox;
    let class = status.spool.classes.get("outbox");
    // Those that wait for a refused topic are given out, to the uplink.
    let topics = status.uplinks.iter().flat_map(|up| &up.refused_topics);
    let aside: u64 = topics.map(|topic| topic.waiting).sum();
    let waiting = class.map_or(0, |class| class.frames);
    if outbox.allow.is_empty() && outbox.stored == 0 && outbox.refused.is_empty() && waiting == 0 {
        return Vec::new();
    }
    let mut items = vec![match waiting {
        0 => "nothing waits".to_owned(),
        n => format!("{} waiting", of(n, "message")),
    }];
    let oldest = class.and_then(|class| class.oldest_age_s);
    items.extend(oldest.map(|s| format!("oldest {}", duration(s))));
    if aside > 0 {
        items.push(format!("{} for refused topics", count(aside)));
    }
    items.push(format!("{} taken", count(outbox.stored)));
    if !outbox.refused.is_empty() {
        items.push(format!("refused: {}", by_reason(&outbox.refused)));
    }
    items
}

/// What local programs sent; nothing where there is no port and nothing came.
fn receiver(receiver: &ReceiverStatus) -> Vec<String> {
    let taken = receiver.signals.values();
    let (requests, items) = taken.fold((0, 0), |(requests, items), signal| {
        (requests + signal.requests, items + signal.items)
    });
    if receiver.listen.is_none() && requests == 0 && receiver.refused.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    if let Some(at) = &receiver.listen {
        lines.push(match receiver.error {
            Some(_) => format!("{at} NOT open, see above"),
            None => at.clone(),
        });
    }
    lines.push(format!(
        "{} in {} taken",
        of(items, "item"),
        of(requests, "request")
    ));
    if !receiver.refused.is_empty() {
        lines.push(format!("refused: {}", by_reason(&receiver.refused)));
    }
    lines
}

fn sensors(status: &Status) -> Vec<String> {
    let fine = status.sensors.iter().filter(|one| one.state == "ok");
    let mut lines = vec![format!("{} of {} ok", fine.count(), status.sensors.len())];
    let bad = status.sensors.iter().filter(|one| one.state != "ok");
    lines.extend(bad.take(JOBS).map(|one| {
        let why = one.missing.as_deref().unwrap_or_default();
        match &one.waits_for {
            Some(what) => format!("{} waits: {what}", one.name),
            None if one.state == "partial" => {
                format!("{} {} of {} values ({why})", one.name, one.values, one.of)
            }
            None => format!("{} {} ({why})", one.name, one.state),
        }
    }));
    lines
}

fn serial(status: &Status) -> Vec<String> {
    let line = |line: &SerialStatus| {
        let mut text = format!("{} {}", line.name, line.state);
        if line.state == "open" {
            let _ = match line.last_frame_s {
                Some(ago) => write!(
                    text,
                    ", {} from {}, last {} ago",
                    of(count_of(line.gauges), "gauge"),
                    of(count_of(line.sources), "sender"),
                    duration(ago)
                ),
                None => write!(text, ", no good frame yet"),
            };
        }
        let bad = line.bad.values().sum::<u64>();
        for (count, what) in [(bad, "bad"), (line.lost, "lost")] {
            if count > 0 {
                let _ = write!(text, ", {} {what}", of(count, "frame"));
            }
        }
        text
    };
    status.serial.iter().map(line).collect()
}

fn count_of(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The most that are shown one by one; `--json` has all.
const PROCESSES: usize = 8;

/// Other programs' processes that are watched.
fn processes(status: &Status) -> Vec<String> {
    let name = |g: &GaugeStatus| g.attributes.get("sonde.process.name").cloned();
    let watched = |g: &&GaugeStatus| g.name == "sonde.process.count" && name(g).is_some();
    let mut lines = Vec::new();
    for counted in status.gauges.iter().filter(watched).take(PROCESSES) {
        let figure = |gauge: &str| {
            let mut gauges = status.gauges.iter();
            let found = gauges.find(|g| g.name == gauge && name(g) == name(counted));
            found.and_then(GaugeStatus::number)
        };
        let mut line = name(counted).unwrap_or_default();
        match counted.number() {
            None => {
                let why = counted.missing.as_deref().unwrap_or("not read yet");
                let _ = write!(line, " {why}");
                if let Some(words) = &counted.why {
                    let _ = write!(line, ": {words}");
                }
            }
            Some(0.0) => line.push_str(" NOT running"),
            Some(number) => {
                let uptime = figure("process.uptime").map_or_else(String::new, duration);
                let _ = write!(line, " up {uptime}");
                if let Some(memory) = figure("process.memory.usage") {
                    let _ = write!(line, ", {}", bytes(memory as u64));
                }
                if number > 1.0 {
                    let _ = write!(line, " in {} processes", count(number as u64));
                }
            }
        }
        if let Some(restarts) = figure("sonde.process.restarts").filter(|number| *number > 0.0) {
            let _ = write!(line, ", {}", of(restarts as u64, "restart"));
        }
        lines.push(line);
    }
    let more = status.gauges.iter().filter(watched).count();
    let more = more.saturating_sub(PROCESSES);
    if more > 0 {
        lines.push(format!("{more} more"));
    }
    lines
}

/// The most that are shown one by one; `--json` has all.
const JOBS: usize = 8;

fn jobs(status: &Status) -> Vec<String> {
    let mut lines: Vec<String> = status.jobs.iter().take(JOBS).map(job).collect();
    let more = status.jobs.len().saturating_sub(JOBS);
    if more > 0 {
        lines.push(format!("{more} more"));
    }
    lines
}

fn job(job: &JobStatus) -> String {
    let mut line = job.name.clone();
    match (&job.last, job.running) {
        (_, 1..) => line.push_str(" running"),
        (None, 0) => line.push_str(" not run yet"),
        (Some(last), 0) => {
            let _ = write!(
                line,
                " {} {} ago",
                last.outcome.replace('_', " "),
                duration(last.ago_s)
            );
        }
    }
    if let Some(next) = job.next_run_s {
        let _ = write!(line, ", next in {}", duration(next));
    }
    line
}

fn commands(status: &CommandsStatus) -> Vec<String> {
    let refused: Vec<String> = status
        .refused
        .iter()
        .map(|(code, times)| format!("{} {}", count(*times), code.replace('_', " ")))
        .collect();
    let mut lines = vec![
        status.state.clone(),
        format!("{} received", count(status.received)),
        format!("{} accepted", count(status.accepted)),
    ];
    if !refused.is_empty() {
        lines.push(format!("refused: {}", refused.join(", ")));
    }
    if status.unanswered + status.dropped > 0 {
        let (unanswered, dropped) = (count(status.unanswered), count(status.dropped));
        lines.push(format!("{unanswered} unanswered, {dropped} dropped"));
    }
    lines.push(format!("{} under way", count(status.under_way)));
    lines.push(format!(
        "{} remembered in {} of {}",
        count(status.remembered),
        bytes(status.remembered_bytes),
        bytes(status.remembered_limit_bytes)
    ));
    lines
}

fn agent(status: &Status) -> Vec<String> {
    let agent = &status.agent;
    let unread = || "not read yet".to_owned();
    let cpu = agent.cpu_ms.map_or_else(unread, |ms| {
        let used = ms as f64 / 1000.0;
        let share = 100.0 * used / (agent.uptime_s.max(1) as f64);
        format!("{used:.1} s ({share:.1} %)")
    });
    let rss = agent.rss_bytes.map_or_else(unread, bytes);
    let (points, ticks) = (count(agent.points), of(agent.ticks, "tick"));
    let mut lines = vec![
        format!("memory {rss}"),
        format!("cpu {cpu}"),
        format!("{points} points in {ticks}"),
    ];
    let mut gauges = status.gauges.iter();
    let lag = gauges.find(|g| g.name == "sonde.runtime.lag");
    if let Some(lag) = lag.and_then(GaugeStatus::number) {
        lines.push(format!("timers at most {:.1} ms late", lag * 1000.0));
    }
    lines
}

/// One paragraph, cleaned, continuation lines indented.
fn wrap(out: &mut String, view: View, text: &str) {
    let width = view.width.max(20);
    let mut column = 0;
    for word in clean(text).split(' ').filter(|word| !word.is_empty()) {
        let mut rest: Vec<char> = word.chars().collect();
        if column > 0 && column + 1 + rest.len() > width {
            out.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        while column + rest.len() > width {
            let tail = rest.split_off(width - column);
            out.extend(rest);
            out.push_str("\n  ");
            column = 2;
            rest = tail;
        }
        column += rest.len();
        out.extend(rest);
    }
    out.push('\n');
}

/// Could steer a terminal or turn text around.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// More than this is no message; the JSON has it whole.
const LONGEST: usize = 4000;

/// What could steer a terminal becomes `?`; what is cut off says so.
pub(in crate::cli) fn clean(text: &str) -> String {
    let mut chars = text.chars().map(|c| if steers(c) { '?' } else { c });
    let mut out: String = chars.by_ref().take(LONGEST).collect();
    let more = chars.count();
    if more > 0 {
        let _ = write!(out, "… ({more} more characters: see --json)");
    }
    out
}

/// A page as it came from the agent, for this terminal: cleaned, and its first
/// line coloured where that is wanted.
pub(super) fn shown(page: &str, view: View) -> String {
    let safe = |c: char| if c != '\n' && steers(c) { '?' } else { c };
    let page: String = page.chars().map(safe).collect();
    let colour = match page.as_str() {
        _ if !view.colour => return page,
        fine if fine.starts_with("FINE —") => "32",
        but if but.starts_with("FINE") => "33",
        _ => "31",
    };
    let (verdict, rest) = page.split_once('\n').unwrap_or((&page, ""));
    format!("\x1b[1;{colour}m{verdict}\x1b[0m\n{rest}")
}

/// The same JSON with such characters escaped (or, between values, blank).
pub(super) fn clean_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii_control() && c != '\u{7f}' {
            out.push(if c == '\n' { c } else { ' ' });
        } else if steers(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    const PLAIN: View = View {
        width: 80,
        colour: false,
    };

    #[test]
    fn the_first_line_is_the_verdict() {
        for (status, verdict) in [
            (sample::fine(), "FINE — nothing needs attention\n"),
            (sample::fresh(), "FINE — nothing needs attention\n"),
            (sample::link_down(), "NOT FINE — 1 problem\n"),
            (sample::circuit_open(), "NOT FINE — 1 problem\n"),
            (sample::memory_only(), "NOT FINE — 1 problem\n"),
        ] {
            let page = render(&status, PLAIN);
            assert!(page.starts_with(verdict), "{page}");
            assert!(!page.contains("NaN"), "{page}");
        }
    }

    #[test]
    fn narrow_terminals_and_hostile_strings_stay_inside_the_lines() {
        let mut status = sample::link_down();
        status.device.id = format!("\x1b[2J\u{202e}\u{9b}{}\n", "x".repeat(5000));
        for width in [0, 20, 40, 80] {
            let page = render(
                &status,
                View {
                    width,
                    colour: false,
                },
            );
            assert!(page.chars().all(|c| c == '\n' || !steers(c)));
            assert!(
                page.lines()
                    .skip(1)
                    .all(|l| l.chars().count() <= width.max(20)),
                "{page}"
            );
        }
    }

    /// The whole page, so that a change of it is seen in review.
    fn golden(name: &str, status: &Status, view: View, expected: &str) {
        let page = render(status, view);
        assert!(page.lines().count() <= 24 || view.width < 80, "{page}");
        for line in page.lines() {
            assert!(line.chars().count() <= view.width.max(20), "{line:?}");
        }
        if std::env::var_os("SONDE_WRITE_DOCS").is_some() {
            let file = format!("src/cli/status/golden/{name}.txt");
            std::fs::write(file, &page).unwrap();
        } else {
            assert_eq!(page, expected, "{name}:\n{page}");
        }
    }

    #[test]
    fn pages_read_as_they_were_agreed() {
        let narrow = View {
            width: 40,
            colour: false,
        };
        let mut hostile = sample::circuit_open();
        hostile.uplinks[0].name = "\x1b[31motlp".into();
        hostile.uplinks[0].endpoint = "http://\u{202e}x\x07".into();
        hostile.device.id = "\x1b]0;title\x07".into();
        hostile.spool.path = Some("\x1b[2J".into());
        for (name, status, view, expected) in [
            (
                "fine",
                sample::fine(),
                PLAIN,
                include_str!("golden/fine.txt"),
            ),
            (
                "link_down",
                sample::link_down(),
                PLAIN,
                include_str!("golden/link_down.txt"),
            ),
            (
                "circuit_open",
                sample::circuit_open(),
                PLAIN,
                include_str!("golden/circuit_open.txt"),
            ),
            (
                "memory_only",
                sample::memory_only(),
                PLAIN,
                include_str!("golden/memory_only.txt"),
            ),
            (
                "losses",
                sample::losses(),
                PLAIN,
                include_str!("golden/losses.txt"),
            ),
            (
                "fresh",
                sample::fresh(),
                PLAIN,
                include_str!("golden/fresh.txt"),
            ),
            (
                "programs",
                sample::programs(),
                PLAIN,
                include_str!("golden/programs.txt"),
            ),
            (
                "narrow",
                sample::link_down(),
                narrow,
                include_str!("golden/narrow.txt"),
            ),
            (
                "hostile",
                hostile,
                PLAIN,
                include_str!("golden/hostile.txt"),
            ),
        ] {
            golden(name, &status, view, expected);
        }
    }

    #[test]
    fn colour_marks_only_the_verdict_and_what_is_cut_says_so() {
        let view = View {
            colour: true,
            ..PLAIN
        };
        let page = shown(&render(&sample::losses(), view), view);
        assert!(page.starts_with("\x1b[1;31mNOT FINE"), "{page}");
        let fine = shown(&render(&sample::fine(), view), view);
        assert!(fine.starts_with("\x1b[1;32mFINE"), "{fine}");
        assert_eq!(shown("FINE\n\x1b[2J", PLAIN), "FINE\n?[2J");
        assert_eq!(page.matches('\x1b').count(), 2);
        assert!(!clean(&"x".repeat(LONGEST)).contains('…'));
        assert!(clean(&"x".repeat(LONGEST + 7)).ends_with("(7 more characters: see --json)"));
    }

    #[test]
    fn commands_are_shown_where_they_are_on() {
        let mut status = sample::fine();
        let view = View {
            width: 100,
            colour: false,
        };
        assert!(!render(&status, view).contains("commands"));
        status.commands = Some(CommandsStatus {
            state: "subscribed".into(),
            received: 10_000,
            accepted: 66,
            refused: [("too_many".into(), 9_933), ("unknown_job".into(), 1)].into(),
            unanswered: 9_900,
            under_way: 2,
            remembered: 66,
            remembered_bytes: 40_000,
            remembered_limit_bytes: 262_144,
            ..CommandsStatus::default()
        });
        let page = render(&status, view);
        for part in [
            "commands subscribed",
            "10,000 received",
            "refused: 9,933 too many, 1 unknown job",
            "2 under way",
            "66 remembered in",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn watched_processes_and_the_lag_of_the_event_loop_are_shown() {
        let mut status = sample::fine();
        let mut add = |gauge: &str, process: &str, value| {
            let by = [("sonde.process.name", process)];
            status.gauges.push(sample::gauge(gauge, "1", &by, value));
        };
        add("sonde.process.count", "broker", 1.0);
        add("process.uptime", "broker", 62.0);
        add("process.memory.usage", "broker", 2_097_152.0);
        add("sonde.process.restarts", "broker", 2.0);
        add("sonde.process.count", "modem", 0.0);
        add("sonde.process.count", "web", 3.0);
        add("process.uptime", "web", 5.0);
        let by = [("sonde.process.name", "gps")];
        status.gauges.push(GaugeStatus {
            value: None,
            missing: Some("garbage".into()),
            why: Some("/run/gps.pid holds no process' number".into()),
            ..sample::gauge("sonde.process.count", "1", &by, 0.0)
        });
        let lag = sample::gauge("sonde.runtime.lag", "s", &[], 0.0123);
        status.gauges.push(lag);
        status.problems = crate::status::problems(&status);
        let view = View {
            width: 100,
            colour: false,
        };
        let page = render(&status, view);
        for line in [
            "watched  broker up 1m 2s, 2.0 MiB, 2 restarts · modem NOT running · web up 5s in 3 processes",
            "gps garbage: /run/gps.pid holds no process' number",
            "timers at most 12.3 ms late",
            "process modem: It is watched and does not run.",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }

    #[test]
    fn jobs_are_shown_with_their_last_run_and_their_next() {
        let mut status = sample::fine();
        let last = |outcome: &str| {
            Some(crate::status::RunStatus {
                outcome: outcome.into(),
                message: "exit code 3".into(),
                ago_s: 62.0,
                ..Default::default()
            })
        };
        let job = |name: &str, last| JobStatus {
            name: name.into(),
            last,
            next_run_s: Some(5.0),
            ..JobStatus::default()
        };
        status.jobs = vec![job("backup", last("failed")), job("later", None)];
        status.problems = crate::status::problems(&status);
        let page = render(
            &status,
            View {
                width: 100,
                colour: false,
            },
        );
        let line = "jobs     backup failed 1m 2s ago, next in 5s · later not run yet, next in 5s";
        assert!(page.contains(line), "{page}");
        assert!(page.contains("job backup: Its last run failed"), "{page}");
    }
}
