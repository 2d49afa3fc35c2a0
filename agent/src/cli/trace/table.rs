//! `sonde trace --recent` and `--errors`: one line a trace.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::spans::{Span, SpanId, TraceId};
use super::tree::{hex, length};
use crate::status::words::{of, utc};

/// Traces printed.
const SHOWN: usize = 50;
/// Traces remembered; at twice as many the older half goes.
const KEPT: usize = 2000;

/// What is known of some traces.
#[derive(Debug, Default)]
pub(super) struct Table {
    traces: BTreeMap<TraceId, Row>,
    more: u64,
}

#[derive(Debug)]
struct Row {
    spans: u64,
    errors: u64,
    first: u64,
    last: u64,
    /// Of the root, or the earliest span.
    name: String,
    service: String,
    root: bool,
    named_at: u64,
    error: String,
}

impl Table {
    pub(super) fn add(&mut self, span: &Span) {
        if self.traces.len() >= 2 * KEPT && !self.traces.contains_key(&span.trace) {
            self.forget();
        }
        let root = span.parent == SpanId::default();
        let row = self.traces.entry(span.trace).or_insert_with(|| Row {
            spans: 0,
            errors: 0,
            first: u64::MAX,
            last: 0,
            name: String::new(),
            service: String::new(),
            root: false,
            named_at: u64::MAX,
            error: String::new(),
        });
        row.spans += 1;
        let better = match (root, row.root) {
            (true, false) => true,
            (false, true) => false,
            _ => span.start < row.named_at,
        };
        if better {
            row.named_at = span.start;
            row.name.clone_from(&span.name);
            row.service.clone_from(&span.service);
            row.root = root;
        }
        row.first = row.first.min(span.start);
        row.last = row.last.max(span.end);
        if span.is_error() {
            row.errors += 1;
            if row.error.is_empty() {
                row.error = format!("{}: {}", span.name, span.message);
            }
        }
    }

    fn forget(&mut self) {
        let mut ages: Vec<u64> = self.traces.values().map(|row| row.last).collect();
        ages.sort_unstable();
        let border = ages.get(KEPT).copied().unwrap_or(0);
        let before = self.traces.len();
        self.traces.retain(|_, row| row.last > border);
        self.more += before.saturating_sub(self.traces.len()) as u64;
    }

    /// The newest last, where a terminal shows them. `false`: there are none.
    pub(super) fn text(&self, errors: bool) -> (String, bool) {
        let all = self.traces.iter();
        let mut rows: Vec<_> = all.filter(|(_, row)| !errors || row.errors > 0).collect();
        rows.sort_by_key(|(_, row)| row.last);
        let mut out = String::new();
        if rows.is_empty() {
            let what = if errors {
                "no trace with an error"
            } else {
                "no trace"
            };
            let _ = writeln!(out, "{what} is held");
            return (out, true);
        }
        let hidden = rows.len().saturating_sub(SHOWN) as u64 + self.more;
        if hidden > 0 {
            let _ = writeln!(out, "({} more, older)", of(hidden, "trace"));
        }
        for (trace, row) in rows.iter().skip(rows.len().saturating_sub(SHOWN)) {
            let error = match row.errors {
                0 => String::new(),
                n => format!(" · {} · {}", of(n, "error"), row.error),
            };
            let orphan = if row.root { "" } else { " (root not here)" };
            let _ = writeln!(
                out,
                "{} {} {} · {}{orphan} · {} · {}{error}",
                utc(row.first),
                hex(*trace),
                row.name,
                row.service,
                of(row.spans, "span"),
                length(row.last.saturating_sub(row.first)),
            );
        }
        (out, true)
    }
}
