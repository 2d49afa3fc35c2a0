//! The trace context that a message, a request or a process brings along, and
//! how it leaves again: W3C Trace Context and W3C Baggage.
//!
//! | carrier | names | case of the names |
//! |---|---|---|
//! | HTTP headers | `traceparent`, `tracestate`, `baggage` | any |
//! | MQTT 5 user properties | the same | lower only |
//! | process environment | `TRACEPARENT`, `TRACESTATE`, `BAGGAGE` | upper only |
//!
//! Promises: what comes out was valid by the specification, whatever went in,
//! and is bounded ([`MAX_STATE`], [`MAX_BAGGAGE`]). An invalid or repeated
//! `traceparent` is no context at all and takes `tracestate` with it; an invalid
//! `tracestate` is dropped whole and `traceparent` stays; of `baggage` only the
//! members that are wrong are dropped. Nothing invalid is passed on.
//!
//! Keys of `tracestate` follow level 1 with its `tenant@vendor` form (as the
//! published test cases do), and may start with a digit as level 2 allows.
//!
//! Sources: W3C Trace Context, level 1 (Recommendation) 3.2, 3.3 and 3.5, level 2
//! for the random flag; W3C Baggage 3; RFC 9110, 5.5 (optional white space) and
//! 5.6.2 (token). Pure: nothing here reads an environment or a socket.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

use super::context_of;
use crate::frame::TraceContext;

/// The longest `tracestate` that is kept and sent, in bytes: what the
/// specification asks for at least (3.3.1.5). More costs flash in every frame.
pub const MAX_STATE: usize = 512;

/// The longest `baggage` that is kept and sent, in bytes: what the
/// specification asks for at least (3.3.2). There is no other limit on the
/// number of members, so the 64 that it asks for always fit if their bytes do.
pub const MAX_BAGGAGE: usize = 8192;

/// Members of a `tracestate` list (3.3.1.1); a longer list is invalid.
const MAX_MEMBERS: usize = 32;

/// Members longer than this go first when a `tracestate` has to be cut.
const LONG_MEMBER: usize = 128;

/// `sampled` and, of level 2, `random`; the others are reserved and sent as zero.
const KNOWN_FLAGS: u8 = 0b11;

/// What came along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The caller's span; `None`: none, or an invalid one.
    pub context: Option<TraceContext>,
    /// The `baggage` header's value, valid, percent-encoding and properties as
    /// they came; empty: none.
    pub baggage: Box<str>,
}

/// What HTTP headers carry, given in the order in which they came.
pub fn extract<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Carried {
    gather(fields, str::eq_ignore_ascii_case)
}

/// What MQTT 5 user properties carry, given in the order in which they came.
pub fn extract_mqtt<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Carried {
    gather(properties, str::eq)
}

/// What a process environment carries: `from_env(|name| std::env::var(name).ok())`.
pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Carried {
    let value = |name| get(name).unwrap_or_default();
    let (parent, state, baggage) = (value("TRACEPARENT"), value("TRACESTATE"), value("BAGGAGE"));
    let fields = [
        (PARENT, parent.as_str()),
        (STATE, state.as_str()),
        (BAGGAGE, baggage.as_str()),
    ];
    extract_mqtt(fields)
}

/// Headers or user properties to send; what is empty is left out.
pub fn fields(carried: &Carried) -> Vec<(&'static str, String)> {
    named(carried, [PARENT, STATE, BAGGAGE])
}

/// Variables for a child's environment; what is empty is left out. Clear all
/// three in what the child inherits first: a parent's stale one must not stay.
pub fn environment(carried: &Carried) -> Vec<(&'static str, String)> {
    named(carried, ["TRACEPARENT", "TRACESTATE", "BAGGAGE"])
}

/// The span that a trace context names, as a parent or link from elsewhere.
///
/// Members of `tracestate` that the SDK does not take (it refuses a vendor of
/// 14 characters, which is valid) are missing on the span; [`Carried::within`]
/// sends them on nevertheless.
pub fn remote(context: &TraceContext) -> SpanContext {
    let members = members(&context.state).filter_map(|member| member.split_once('='));
    let accepted = members.filter(|member| TraceState::from_key_value([*member]).is_ok());
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::new(context.flags),
        true,
        TraceState::from_key_value(accepted).unwrap_or_default(),
    )
}

impl Carried {
    /// The parent for a span that continues this trace; without a context an
    /// empty one, so that the span starts a trace of its own.
    pub fn parent(&self) -> Context {
        match &self.context {
            Some(context) => Context::new().with_remote_span_context(remote(context)),
            None => Context::new(),
        }
    }

    /// The same journey one span further: what work within `span`, which
    /// continues this trace, sends on. `tracestate` and baggage go on untouched.
    #[must_use]
    pub fn within(&self, span: &SpanContext) -> Self {
        let mut next = context_of(span);
        if let Some(before) = &self.context
            && before.trace_id == next.trace_id
        {
            next.state = before.state.clone();
        }
        Self {
            context: span.is_valid().then_some(next),
            baggage: self.baggage.clone(),
        }
    }
}

/// `traceparent`, and `tracestate` (several joined by commas; empty: none), by
/// the specification's rules. `None`: restart the trace.
pub fn parse(traceparent: &str, tracestate: &str) -> Option<TraceContext> {
    let mut context = parse_parent(traceparent)?;
    context.state = parse_state(tracestate).unwrap_or_default().into();
    Some(context)
}

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";

fn gather<'a>(
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    is: impl Fn(&str, &str) -> bool,
) -> Carried {
    let mut parents = Vec::new();
    let (mut state, mut baggage) = (String::new(), String::new());
    for (name, value) in fields {
        if is(name, PARENT) {
            parents.push(value);
        } else if is(name, STATE) {
            join(&mut state, value);
        } else if is(name, BAGGAGE) {
            join(&mut baggage, value);
        }
    }
    let context = match parents.as_slice() {
        [one] => parse(one, &state),
        _ => None,
    };
    Carried {
        context,
        baggage: valid_baggage(&baggage).into(),
    }
}

fn named(carried: &Carried, names: [&'static str; 3]) -> Vec<(&'static str, String)> {
    let context = carried.context.as_ref();
    let parent = context.map(TraceContext::traceparent).unwrap_or_default();
    let state = context.map(|it| it.state.to_string()).unwrap_or_default();
    let values = [parent, state, carried.baggage.to_string()];
    let pairs = names.into_iter().zip(values);
    pairs.filter(|(_, value)| !value.is_empty()).collect()
}

/// 3.2.2 and, for versions to come, 3.2.4: what follows the flags after a dash
/// is none of ours.
fn parse_parent(value: &str) -> Option<TraceContext> {
    let value = trim(value).as_bytes();
    let (known, rest) = value.split_at_checked(55)?;
    let [v0, v1, b'-', rest_of_known @ ..] = known else {
        return None;
    };
    let (trace, known) = rest_of_known.split_at_checked(32)?;
    let [b'-', known @ ..] = known else {
        return None;
    };
    let (span, known) = known.split_at_checked(16)?;
    let [b'-', flags @ ..] = known else {
        return None;
    };
    let fits = match unhex(&[*v0, *v1])? {
        [0] => rest.is_empty(),
        [0xff] => false,
        _ => matches!(rest, [] | [b'-', ..]),
    };
    let [flags] = unhex(flags)?;
    let context = TraceContext {
        trace_id: unhex(trace)?,
        span_id: unhex(span)?,
        flags: flags & KNOWN_FLAGS,
        state: "".into(),
    };
    (fits && context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
}

/// Lower-case digits only.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

/// The list without empty members and white space, cut to [`MAX_STATE`];
/// `None`: it is invalid.
fn parse_state(value: &str) -> Option<String> {
    let mut list: Vec<&str> = Vec::new();
    for member in members(value) {
        let (key, value) = member.split_once('=')?;
        let repeated = |other: &&str| other.split_once('=').is_some_and(|(it, _)| it == key);
        if list.len() == MAX_MEMBERS
            || !is_key(key)
            || !is_value(value)
            || list.iter().any(repeated)
        {
            return None;
        }
        list.push(member);
    }
    while list.iter().map(|member| member.len() + 1).sum::<usize>() > MAX_STATE + 1 {
        let long = list.iter().rposition(|member| member.len() > LONG_MEMBER);
        list.remove(long.unwrap_or(list.len() - 1));
    }
    Some(list.join(","))
}

/// The members of a comma-separated list that are not empty, trimmed.
fn members(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

fn is_key(key: &str) -> bool {
    let simple = |part: &str, most: usize| {
        let bytes = part.as_bytes();
        let starts = bytes
            .first()
            .is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
        let rest = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(b);
        starts && bytes.len() <= most && bytes.iter().all(rest)
    };
    match key.split_once('@') {
        None => simple(key, 256),
        Some((tenant, vendor)) => {
            let by_letter = vendor.starts_with(|first: char| first.is_ascii_lowercase());
            simple(tenant, 241) && by_letter && simple(vendor, 14)
        }
    }
}

/// Trailing white space has gone already: it is not part of a value.
fn is_value(value: &str) -> bool {
    let printable = |b: u8| (0x20..=0x7e).contains(&b) && b != b'=' && b != b',';
    (1..=256).contains(&value.len()) && value.bytes().all(printable)
}

/// The members that are valid and fit, in their order.
fn valid_baggage(value: &str) -> String {
    let mut kept = String::new();
    for member in members(value).filter(|member| is_baggage(member)) {
        if kept.len() + usize::from(!kept.is_empty()) + member.len() <= MAX_BAGGAGE {
            join(&mut kept, member);
        }
    }
    kept
}

fn is_baggage(member: &str) -> bool {
    let pair = |part: &str| {
        part.split_once('=')
            .is_some_and(|(key, value)| is_token(trim(key)) && is_octets(trim(value)))
    };
    let mut parts = member.split(';');
    parts.next().is_some_and(pair) && parts.all(|part| is_token(trim(part)) || pair(part))
}

fn is_token(text: &str) -> bool {
    let char = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(char)
}

fn is_octets(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(&b))
}

fn join(list: &mut String, member: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(member);
}

/// Without optional white space: spaces and tabs, nothing else.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
#[path = "propagation_tests.rs"]
mod tests;
