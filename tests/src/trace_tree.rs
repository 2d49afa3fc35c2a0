//! Spans put together into trees, judged ("one tree, no orphan") and drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// A trace's or span's number as it stands in a `traceparent`.
pub type Id = Vec<u8>;

/// Linked spans that a drawing shows; a batch can have a hundred.
const SHOWN_LINKS: usize = 8;

/// Spans by trace.
#[derive(Debug, Default)]
pub struct Forest {
    spans: BTreeMap<(Id, Id), Span>,
}

/// One trace, by the parents its spans name.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Its number.
    pub trace_id: Id,
    /// Spans without a parent.
    pub roots: Vec<&'a Span>,
    /// Spans whose parent did not come.
    pub orphans: Vec<&'a Span>,
    children: BTreeMap<Id, Vec<&'a Span>>,
}

impl Forest {
    /// Puts spans in; one that comes again is the same span.
    pub fn of(spans: impl IntoIterator<Item = Span>) -> Self {
        let spans = spans
            .into_iter()
            .map(|span| ((span.trace_id.clone(), span.span_id.clone()), span))
            .collect();
        Self { spans }
    }

    /// All traces.
    pub fn trees(&self) -> Vec<Tree<'_>> {
        let ids: BTreeSet<&Id> = self.spans.keys().map(|(trace, _)| trace).collect();
        ids.into_iter().map(|id| self.tree(id)).collect()
    }

    /// One trace; without roots if no span of it came.
    pub fn tree(&self, trace_id: &[u8]) -> Tree<'_> {
        let mut tree = Tree {
            trace_id: trace_id.to_vec(),
            roots: Vec::new(),
            orphans: Vec::new(),
            children: BTreeMap::new(),
        };
        let mut spans: Vec<&Span> = self
            .spans
            .values()
            .filter(|span| span.trace_id == trace_id)
            .collect();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        for span in spans {
            let parent = (span.trace_id.clone(), span.parent_span_id.clone());
            if span.parent_span_id.is_empty() {
                tree.roots.push(span);
            } else if self.spans.contains_key(&parent) {
                tree.children.entry(parent.1).or_default().push(span);
            } else {
                tree.orphans.push(span);
            }
        }
        tree
    }

    /// The span that a link or a `traceparent` names, if it came.
    pub fn find(&self, trace_id: &[u8], span_id: &[u8]) -> Option<&Span> {
        self.spans.get(&(trace_id.to_vec(), span_id.to_vec()))
    }

    /// What is wrong with a trace that should be one tree; empty: nothing.
    ///
    /// `remote`: spans of others that are known to exist and that did not come,
    /// as parents or in links. The tree has one top: a root, or a span whose
    /// parent is among `remote`. Times and kinds are judged too: a child does
    /// not begin before its parent, a SERVER or CONSUMER span does not hang on
    /// one that is not CLIENT or PRODUCER (or of others), every span has a kind,
    /// and every link leads to a span that came or is known.
    pub fn faults(&self, trace_id: &[u8], remote: &[(Id, Id)]) -> Vec<String> {
        let tree = self.tree(trace_id);
        let known = |trace: &[u8], span: &[u8]| {
            let is = |(t, s): &(Id, Id)| t == trace && s == span;
            self.find(trace, span).is_some() || remote.iter().any(is)
        };
        let (remote_tops, orphans): (Vec<&Span>, Vec<&Span>) = tree
            .orphans
            .iter()
            .partition(|span| known(&span.trace_id, &span.parent_span_id));
        let mut faults = Vec::new();
        let tops = tree.roots.len() + remote_tops.len();
        if tops != 1 {
            faults.push(format!("{tops} tops, not one"));
        }
        for span in orphans {
            faults.push(format!("{}: its parent did not come", span.name));
        }
        for span in tree.all() {
            let name = &span.name;
            let kind = span.kind();
            if kind == SpanKind::Unspecified {
                faults.push(format!("{name}: has no kind"));
            }
            if span.end_time_unix_nano < span.start_time_unix_nano {
                faults.push(format!("{name}: ends before it begins"));
            }
            for link in &span.links {
                if !known(&link.trace_id, &link.span_id) {
                    let (trace, id) = (hex(&link.trace_id), hex(&link.span_id));
                    faults.push(format!("{name}: links to {trace} {id}, which did not come"));
                }
            }
            let Some(parent) = self.find(&span.trace_id, &span.parent_span_id) else {
                continue;
            };
            if span.start_time_unix_nano < parent.start_time_unix_nano {
                faults.push(format!("{name}: begins before {}", parent.name));
            }
            let receives = matches!(kind, SpanKind::Server | SpanKind::Consumer);
            let sends = matches!(parent.kind(), SpanKind::Client | SpanKind::Producer);
            if receives && !sends {
                faults.push(format!(
                    "{name}: receives from {}, which sends nothing",
                    parent.name
                ));
            }
        }
        faults
    }

    /// All spans.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.values()
    }

    /// Draws a trace: linked spans of other traces first, then the spans as a
    /// tree, each with its duration and how long after the root it began.
    pub fn draw(&self, tree: &Tree<'_>) -> String {
        let mut out = String::new();
        let mut linked: Vec<&Span> = tree
            .all()
            .iter()
            .flat_map(|span| &span.links)
            .filter(|link| link.trace_id != tree.trace_id)
            .filter_map(|link| self.find(&link.trace_id, &link.span_id))
            .collect();
        linked.sort_by_key(|span| span.start_time_unix_nano);
        for span in linked.iter().take(SHOWN_LINKS) {
            let _ = writeln!(out, "  {}  (own trace)", describe(span));
        }
        if linked.len() > SHOWN_LINKS {
            let _ = writeln!(out, "  … and {} more", linked.len() - SHOWN_LINKS);
        }
        if !linked.is_empty() {
            let _ = writeln!(out, "   ⇣ linked from");
        }
        let _ = writeln!(out, "  trace {}", hex(&tree.trace_id));
        let tops: Vec<&Span> = tree.roots.iter().chain(&tree.orphans).copied().collect();
        for (at, span) in tops.iter().enumerate() {
            let start = tops.first().map_or(0, |top| top.start_time_unix_nano);
            tree.draw(span, start, "  ", at + 1 == tops.len(), &mut out);
        }
        out
    }
}

impl Tree<'_> {
    /// One root and every other span hangs on it.
    pub fn is_whole(&self) -> bool {
        self.roots.len() == 1 && self.orphans.is_empty()
    }

    /// Every span of the trace, roots first.
    pub fn all(&self) -> Vec<&Span> {
        self.roots
            .iter()
            .chain(&self.orphans)
            .chain(self.children.values().flatten())
            .copied()
            .collect()
    }

    /// The spans whose parent this is, by start.
    pub fn children(&self, span: &Span) -> &[&Span] {
        self.children.get(&span.span_id).map_or(&[], Vec::as_slice)
    }

    fn draw(&self, span: &Span, start: u64, indent: &str, last: bool, out: &mut String) {
        let (branch, below) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let after = span.start_time_unix_nano.saturating_sub(start) as f64 / 1e9;
        let _ = writeln!(out, "{indent}{branch}{}  +{after:.3} s", describe(span));
        let children = self.children(span);
        for (at, child) in children.iter().enumerate() {
            let indent = format!("{indent}{below}");
            self.draw(child, start, &indent, at + 1 == children.len(), out);
        }
    }
}

/// `name  KIND  12.3 ms`, and `ERROR` when it says so.
fn describe(span: &Span) -> String {
    let kind = match span.kind() {
        SpanKind::Producer => "PRODUCER",
        SpanKind::Consumer => "CONSUMER",
        SpanKind::Client => "CLIENT",
        SpanKind::Server => "SERVER",
        SpanKind::Internal | SpanKind::Unspecified => "INTERNAL",
    };
    let nanos = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano);
    let failed = match &span.status {
        Some(status) if status.code == 2 => "  ERROR",
        _ => "",
    };
    format!(
        "{:<34} {kind:<9} {:>9.2} ms{failed}",
        span.name,
        nanos as f64 / 1e6
    )
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    sonde_agent::frame::push_hex(&mut out, bytes);
    out
}

/// Trace id and parent span id of a valid `traceparent` of version 00.
pub fn parse_traceparent(text: &str) -> Option<(Id, Id)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && version == "00" && flags.len() == 2;
    let (trace, span) = (unhex(trace)?, unhex(span)?);
    let valid = trace.len() == 16
        && span.len() == 8
        && trace.iter().any(|byte| *byte != 0)
        && span.iter().any(|byte| *byte != 0);
    (whole && valid).then_some((trace, span))
}

fn unhex(text: &str) -> Option<Id> {
    let digits = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if !text.len().is_multiple_of(2) || !text.as_bytes().iter().all(digits) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::trace::v1::span::Link;

    fn span(trace: u8, id: u8, parent: u8, name: &str) -> Span {
        Span {
            trace_id: vec![trace; 16],
            span_id: vec![id; 8],
            parent_span_id: if parent == 0 { vec![] } else { vec![parent; 8] },
            name: name.to_owned(),
            start_time_unix_nano: u64::from(id),
            end_time_unix_nano: u64::from(id) + 1_500_000,
            ..Span::default()
        }
    }

    #[test]
    fn a_whole_trace_is_one_tree() {
        let forest = Forest::of([span(1, 2, 1, "child"), span(1, 1, 0, "root")]);
        assert!(forest.tree(&[1; 16]).is_whole());
    }

    #[test]
    fn a_missing_parent_makes_an_orphan() {
        let forest = Forest::of([span(1, 1, 0, "root"), span(1, 3, 2, "lost")]);
        let tree = forest.tree(&[1; 16]);
        assert!(!tree.is_whole());
        assert_eq!(tree.orphans[0].name, "lost");
    }

    #[test]
    fn two_roots_are_not_one_tree() {
        let forest = Forest::of([span(1, 1, 0, "a"), span(1, 2, 0, "b")]);
        assert!(!forest.tree(&[1; 16]).is_whole());
    }

    #[test]
    fn a_trace_is_judged_with_the_parents_and_links_that_others_are_known_to_have() {
        let of = |id, parent, name: &str, kind: SpanKind| {
            let mut span = span(1, id, parent, name);
            span.kind = kind.into();
            span
        };
        let id = |trace: u8, span: u8| (vec![trace; 16], vec![span; 8]);
        let mut consumer = of(3, 2, "process", SpanKind::Consumer);
        consumer.links.push(Link {
            trace_id: vec![2; 16],
            span_id: vec![9; 8],
            ..Link::default()
        });
        let good = [of(2, 1, "publish", SpanKind::Producer), consumer];
        let forest = Forest::of(good.clone());
        let all = [id(1, 1), id(2, 9)];
        assert_eq!(forest.faults(&[1; 16], &all), Vec::<String>::new());
        assert_eq!(
            forest.faults(&[1; 16], &all[1..]).len(),
            2,
            "no top, an orphan"
        );
        assert_eq!(forest.faults(&[1; 16], &all[..1]).len(), 1, "the link");
        assert_eq!(forest.faults(&[7; 16], &all), ["0 tops, not one"]);

        for (change, wrong) in [
            (of(2, 1, "publish", SpanKind::Internal), "sends nothing"),
            (of(4, 2, "odd", SpanKind::Unspecified), "no kind"),
            (of(4, 0, "second", SpanKind::Internal), "2 tops"),
            (of(1, 9, "early", SpanKind::Internal), "did not come"),
        ] {
            let forest = Forest::of(good.iter().cloned().chain([change]));
            let faults = forest.faults(&[1; 16], &all);
            assert!(
                faults.iter().any(|it| it.contains(wrong)),
                "{wrong}: {faults:?}"
            );
        }
        let mut late = good[0].clone();
        late.start_time_unix_nano = 100;
        late.end_time_unix_nano = 99;
        let forest = Forest::of([late, good[1].clone()]);
        let faults = forest.faults(&[1; 16], &all);
        assert!(
            faults.contains(&"process: begins before publish".to_owned()),
            "{faults:?}"
        );
        assert!(
            faults.contains(&"publish: ends before it begins".to_owned()),
            "{faults:?}"
        );
    }

    #[test]
    fn a_drawing_shows_links_then_parents_then_children() {
        let mut batch = span(1, 1, 0, "batch");
        batch.links.push(Link {
            trace_id: vec![2; 16],
            span_id: vec![9; 8],
            ..Link::default()
        });
        let forest = Forest::of([batch, span(1, 2, 1, "process"), span(2, 9, 0, "tick")]);
        let drawing = forest.draw(&forest.tree(&[1; 16]));
        let at = |name| drawing.find(name).unwrap();
        assert!(
            at("tick") < at("batch") && at("batch") < at("process"),
            "{drawing}"
        );
        assert!(drawing.contains("1.50 ms"), "{drawing}");
    }

    #[test]
    fn only_a_valid_traceparent_is_read() {
        let good = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
        assert_eq!(
            parse_traceparent(&good),
            Some((vec![0xab; 16], vec![0xcd; 8]))
        );
        for bad in [
            good.to_uppercase(),
            good.replace("00-", "ff-"),
            good.replace("ab", "00"),
            good.replace("cd", "00"),
            format!("{good}-x"),
            good[1..].to_owned(),
            String::new(),
            "00-é".to_owned(),
        ] {
            assert_eq!(parse_traceparent(&bad), None, "{bad}");
        }
    }
}
