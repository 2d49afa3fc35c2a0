//! The spans of one trace as a tree. Pure; whatever the parents say (missing,
//! in a circle, ten thousand deep), each span is shown once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::spans::{Span, SpanId};
use crate::frame::push_hex;

/// Deeper ones are not indented further.
const DEEPEST: usize = 24;
/// Attributes shown of a span, and characters of each value.
const ATTRIBUTES: usize = 8;
const VALUE: usize = 60;
/// Where in a program it was made: of no use on a gateway.
const NO_USE: [&str; 2] = ["code.", "thread."];

/// Draws them. Roots first, then under a heading for each parent that is not
/// here, then those whose parents go in a circle.
pub(super) fn draw(spans: &[Span]) -> String {
    let ids: BTreeSet<SpanId> = spans.iter().map(|span| span.id).collect();
    let mut children: BTreeMap<SpanId, Vec<usize>> = BTreeMap::new();
    for (at, span) in spans.iter().enumerate() {
        children.entry(span.parent).or_default().push(at);
    }
    for list in children.values_mut() {
        list.sort_by_key(|at| spans.get(*at).map(|span| span.start));
    }
    let mut out = String::new();
    let mut shown = vec![false; spans.len()];
    let root = SpanId::default();
    if let Some(roots) = children.get(&root) {
        for &at in roots {
            branch(&mut out, spans, &children, &mut shown, at, 0);
        }
    }
    for (parent, orphans) in &children {
        if *parent == root || ids.contains(parent) {
            continue;
        }
        let _ = writeln!(out, "parent not here: {}", hex(parent));
        for &at in orphans {
            branch(&mut out, spans, &children, &mut shown, at, 1);
        }
    }
    let mut told = false;
    for at in 0..spans.len() {
        if shown.get(at) == Some(&false) {
            if !told {
                out.push_str("parents in a circle\n");
                told = true;
            }
            branch(&mut out, spans, &children, &mut shown, at, 1);
        }
    }
    out
}

fn branch(
    out: &mut String,
    spans: &[Span],
    children: &BTreeMap<SpanId, Vec<usize>>,
    shown: &mut [bool],
    at: usize,
    depth: usize,
) {
    let mut stack = vec![(at, depth)];
    while let Some((at, depth)) = stack.pop() {
        let (Some(span), Some(seen)) = (spans.get(at), shown.get_mut(at)) else {
            continue;
        };
        if std::mem::replace(seen, true) {
            continue;
        }
        line(out, span, depth);
        if let Some(below) = children.get(&span.id) {
            stack.extend(below.iter().rev().map(|at| (*at, depth + 1)));
        }
    }
}

fn line(out: &mut String, span: &Span, depth: usize) {
    let indent = "  ".repeat(depth.min(DEEPEST));
    let kind = match span.kind {
        2 => " SERVER",
        3 => " CLIENT",
        4 => " PRODUCER",
        5 => " CONSUMER",
        _ => "",
    };
    let service = match span.service.as_str() {
        "" => "no service.name",
        name => name,
    };
    let status = match (span.status, span.message.as_str()) {
        (1, _) => " · ok".to_owned(),
        (2, "") => " · ERROR".to_owned(),
        (2, message) => format!(" · ERROR: {message}"),
        _ => String::new(),
    };
    let _ = writeln!(
        out,
        "{indent}{}{kind} · {service} · {}{status} · {}",
        span.name,
        length(span.end.saturating_sub(span.start)),
        hex(&span.id),
    );
    attributes(out, span, &indent);
    for (at, name) in &span.events {
        let after = length(at.saturating_sub(span.start));
        let _ = writeln!(out, "{indent}    event +{after} {name}");
    }
    for (trace, id) in &span.links {
        let _ = writeln!(out, "{indent}    link {} {}", hex(trace), hex(id));
    }
    for (more, what) in [(span.more_events, "events"), (span.more_links, "links")] {
        if more > 0 {
            let _ = writeln!(out, "{indent}    {more} more {what}");
        }
    }
}

fn attributes(out: &mut String, span: &Span, indent: &str) {
    let useful = span.attributes.iter();
    let useful = useful.filter(|(key, _)| !NO_USE.iter().any(|start| key.starts_with(start)));
    let mut words: Vec<String> = Vec::new();
    for (key, value) in useful.take(ATTRIBUTES) {
        let mut value = value.clone();
        if let Some((end, _)) = value.char_indices().nth(VALUE) {
            value.truncate(end);
            value.push('…');
        }
        words.push(format!("{key}={value}"));
    }
    let all = span.attributes.len() as u64 + span.more_attributes;
    let hidden = all.saturating_sub(words.len() as u64);
    if hidden > 0 {
        words.push(format!("{hidden} more"));
    }
    if !words.is_empty() {
        let _ = writeln!(out, "{indent}    {}", words.join(" · "));
    }
}

/// `3 µs`, `12.3 ms`, `4.56 s`, `3m 12s`.
pub(super) fn length(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        1_000_000_000..60_000_000_000 => format!("{seconds:.2} s"),
        _ => crate::status::words::duration(seconds),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    push_hex(&mut out, bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, name: &str) -> Span {
        Span {
            id: [id; 8],
            parent: [parent; 8],
            name: name.into(),
            service: "s".into(),
            start: u64::from(id),
            end: u64::from(id) + 2_500_000,
            ..Span::default()
        }
    }

    #[test]
    fn each_span_is_shown_once_whatever_the_parents_say() {
        let spans = [
            span(3, 2, "child of a child"),
            span(2, 1, "child"),
            span(1, 0, "root"),
            span(5, 9, "orphan"),
            span(6, 5, "below the orphan"),
            span(7, 8, "round"),
            span(8, 7, "and round"),
        ];
        let text = draw(&spans);
        let names: Vec<&str> = text
            .lines()
            .map(|l| l.split(" · ").next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "root",
                "  child",
                "    child of a child",
                "parent not here: 0909090909090909",
                "  orphan",
                "    below the orphan",
                "parents in a circle",
                "  round",
                "    and round",
            ]
        );
        assert!(
            text.contains("root · s · 2.5 ms · 0101010101010101"),
            "{text}"
        );
    }

    #[test]
    fn a_chain_of_ten_thousand_takes_no_stack() {
        let id = |n: u64| n.to_be_bytes();
        let spans: Vec<Span> = (1..=10_000)
            .map(|n| Span {
                id: id(n),
                parent: id(n - 1),
                ..Span::default()
            })
            .collect();
        assert_eq!(draw(&spans).lines().count(), 10_000);
    }

    #[test]
    fn status_events_and_links_are_shown() {
        let mut odd = span(1, 0, "x");
        odd.status = 2;
        odd.message = "no".into();
        odd.kind = 5;
        odd.events.push((1_000_001, "started".into()));
        odd.links.push(([0xab; 16], [0xcd; 8]));
        odd.more_events = 3;
        let text = draw(&[odd]);
        for part in [
            "x CONSUMER",
            "ERROR: no",
            "event +1.0 ms started",
            "link abab",
            "3 more events",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
