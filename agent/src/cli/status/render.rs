//! A status in words for a terminal. Pure but for [`View::of_stdout`].

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use crate::status::words::{bytes, count, duration, of};
use crate::status::{Status, UplinkStatus};

/// What the page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Columns; at least 20 are used.
    pub width: usize,
    /// Colour the verdict.
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

/// The page: verdict, problems, then figures.
pub fn render(status: &Status, view: View) -> String {
    let mut out = String::new();
    let errors = status
        .problems
        .iter()
        .filter(|p| p.severity == "error")
        .count();
    let n = status.problems.len() as u64;
    let (colour, verdict) = match (errors, n) {
        (0, 0) => ("32", "FINE — nothing needs attention".to_owned()),
        (0, n) => ("33", format!("FINE, BUT — {}", of(n, "warning"))),
        (_, n) => ("31", format!("NOT FINE — {}", of(n, "problem"))),
    };
    if view.colour {
        let _ = writeln!(out, "\x1b[1;{colour}m{verdict}\x1b[0m");
    } else {
        let _ = writeln!(out, "{verdict}");
    }
    for problem in &status.problems {
        let mark = if problem.severity == "error" {
            '!'
        } else {
            '-'
        };
        wrap(
            &mut out,
            view,
            &format!("{mark} {}: {}", problem.part, problem.message),
        );
    }
    let agent = &status.agent;
    out.push('\n');
    let up = duration(agent.uptime_s as f64);
    wrap(
        &mut out,
        view,
        &format!("{} · sonde {} · up {up}", status.device.id, agent.version),
    );
    for link in &status.uplinks {
        wrap(&mut out, view, &uplink(link));
    }
    wrap(&mut out, view, &spool(status));
    let gauges = gauges(status);
    if !gauges.is_empty() {
        wrap(&mut out, view, &format!("gauges  {gauges}"));
    }
    let files = if status.config.files.is_empty() {
        "built-in defaults".to_owned()
    } else {
        status.config.files.join(", ")
    };
    wrap(&mut out, view, &format!("config  {files}"));
    out
}

fn uplink(link: &UplinkStatus) -> String {
    let mut line = format!("{}  {} {}", link.name, link.state, duration(link.since_s));
    if let Some(s) = link.last_ack_s {
        let _ = write!(line, " · acknowledged {} ago", duration(s));
    }
    let _ = write!(
        line,
        " · waiting {}, {}",
        of(link.pending_items, "item"),
        bytes(link.pending_bytes)
    );
    if let Some(s) = link.drain_eta_s {
        let _ = write!(line, ", drained in {}", duration(s));
    }
    let _ = write!(
        line,
        " · sent {} · {}",
        bytes(link.wire_sent_bytes),
        link.endpoint
    );
    line
}

fn spool(status: &Status) -> String {
    let spool = &status.spool;
    let mut line = format!(
        "spool  {} of {}",
        bytes(spool.bytes),
        bytes(spool.limit_bytes)
    );
    if let Some(percent) =
        (u128::from(spool.bytes) * 100).checked_div(u128::from(spool.limit_bytes))
    {
        let _ = write!(line, " ({percent} %)");
    }
    let _ = write!(line, " · {}", of(spool.frames, "frame"));
    if let Some(s) = spool.oldest_age_s {
        let _ = write!(line, ", oldest {}", duration(s));
    } else if spool.oldest_unknown {
        line.push_str(", oldest of unknown age");
    }
    let lost: u64 = spool
        .lost
        .iter()
        .fold(0, |sum, lost| sum.saturating_add(lost.items));
    let _ = write!(
        line,
        " · loss window {} · lost {}",
        spool
            .loss_window_s
            .map_or_else(|| "none: memory only".to_owned(), duration),
        count(lost)
    );
    line
}

fn gauges(status: &Status) -> String {
    let values = |name: &'static str| {
        status
            .gauges
            .iter()
            .filter(move |g| g.name == name)
            .filter_map(|g| Some((g, g.value?)))
    };
    let mut parts = Vec::new();
    let idle: Vec<f64> = values("system.cpu.utilization")
        .filter(|(g, _)| {
            g.attributes
                .get("cpu.mode")
                .is_some_and(|mode| mode == "idle")
        })
        .map(|(_, value)| value)
        .collect();
    if !idle.is_empty() {
        let busy = 1.0 - idle.iter().sum::<f64>() / idle.len() as f64;
        parts.push(format!("cpu {:.0} %", busy * 100.0));
    }
    if let Some((_, used)) = values("system.memory.utilization").find(|(g, _)| {
        g.attributes
            .get("system.memory.state")
            .is_none_or(|state| state == "used")
    }) {
        parts.push(format!("memory {:.0} %", used * 100.0));
    }
    if let Some((_, full)) =
        values("system.filesystem.utilization").max_by(|a, b| a.1.total_cmp(&b.1))
    {
        parts.push(format!("disk {:.0} %", full * 100.0));
    }
    if let Some((_, hot)) = values("hw.temperature").max_by(|a, b| a.1.total_cmp(&b.1)) {
        parts.push(format!("hottest {hot:.1} °C"));
    }
    if let Some(rss) = status.agent.rss_bytes {
        parts.push(format!("agent {}", bytes(rss)));
    }
    parts.join(" · ")
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

/// What could steer a terminal becomes `?`; at most 1000 characters.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .take(1000)
        .map(|c| if steers(c) { '?' } else { c })
        .collect()
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
}
