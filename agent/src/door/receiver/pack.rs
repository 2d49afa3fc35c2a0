//! Requests to frames: the gateway's attributes are added to each resource,
//! small requests are piled up, large ones are cut. Pure.
//!
//! A request is a sequence of `ResourceSpans` (or its like), and so are two
//! requests one after the other: protobuf joins repeated fields by standing
//! side by side. So nothing is decoded and encoded again; only the resource is
//! written anew. What was checked by [`super::wire::check`] is taken here as
//! well-formed; whatever is not ends up left out, never in a panic.
//!
//! Cuts fall between spans, log records and metrics at a size that fits a
//! frame however badly it compresses. One item that is larger by itself may
//! still fit when compressed; a metric is then cut between its points.

use bytes::Bytes;

use super::wire::{self, Raw, bytes, head};
use crate::frame::{Batch, Class, Codec, MAX_BODY, Signal, Stamp};
use crate::otlp::wire::Wire;
use crate::trace::buffer::stepped;
use crate::uplink::split;

/// Bytes of a pile before it is compressed: about six times a frame.
const FULL: usize = 384 * 1024;

/// What is cut to fits a frame uncompressed.
const UNIT: usize = 80 * 1024;

/// Attributes that say who made the telemetry, and how: never the gateway's to fill in.
const THEIR_OWN: [&str; 3] = ["service.", "telemetry.", "process."];

/// What the gateway adds to a program's resource, unless it says so itself.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    /// Keys, and the fields of `Resource` that hold them.
    attributes: Vec<(String, Vec<u8>)>,
}

impl Gateway {
    /// Of the agent's own resource: what is about the device.
    pub(super) fn new(resource: &[(String, String)]) -> Self {
        let about_device = |key: &str| !THEIR_OWN.iter().any(|start| key.starts_with(start));
        let encode = |(key, value): &(String, String)| {
            let mut any = Vec::new();
            bytes(&mut any, 1, value.as_bytes());
            let mut pair = Vec::new();
            bytes(&mut pair, 1, key.as_bytes());
            bytes(&mut pair, 2, &any);
            let mut field = Vec::new();
            bytes(&mut field, 1, &pair);
            (key.clone(), field)
        };
        let kept = resource.iter().filter(|(key, _)| about_device(key));
        Self {
            attributes: kept.map(encode).collect(),
        }
    }

    /// The field `resource` of a `ResourceSpans`, complete.
    fn complete(&self, entry: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        for resource in messages(entry, 1) {
            content.extend_from_slice(resource);
        }
        let theirs = content.clone();
        let mut missing: Vec<_> = self.attributes.iter().collect();
        for pair in messages(&theirs, 1) {
            if let Some(key) = messages(pair, 1).last() {
                missing.retain(|(ours, _)| ours.as_bytes() != key);
            }
        }
        for (_, field) in missing {
            content.extend_from_slice(field);
        }
        let mut field = Vec::with_capacity(content.len() + 4);
        bytes(&mut field, 1, &content);
        field
    }
}

/// The fields of a message that was checked.
fn fields(message: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    wire::fields(message).map_while(Result::ok)
}

/// The contents of all fields of that number.
fn messages(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |raw| match raw.value {
        Wire::Bytes(content) if raw.number == number => Some(content),
        _ => None,
    })
}

/// How many spans, records or points are in the content of a `ScopeSpans`.
fn items(signal: Signal, scope: &[u8]) -> u32 {
    messages(scope, 2).map(|item| weight(signal, item)).sum()
}

/// A span and a log record are one; a metric is as many as it has points.
fn weight(signal: Signal, item: &[u8]) -> u32 {
    if signal != Signal::Metrics {
        return 1;
    }
    let data = fields(item).filter_map(|raw| match (raw.number, raw.value) {
        (5 | 7 | 9 | 10 | 11, Wire::Bytes(data)) => Some(data),
        _ => None,
    });
    let points = data.map(|data| messages(data, 1).count()).sum::<usize>();
    u32::try_from(points).unwrap_or(u32::MAX)
}

/// The same of a whole request.
fn items_of_request(signal: Signal, request: &[u8]) -> u32 {
    messages(request, 1)
        .flat_map(|entry| messages(entry, 2))
        .map(|scope| items(signal, scope))
        .sum()
}

/// What waits to become frames, of one signal.
#[derive(Debug)]
pub(super) struct Pile {
    signal: Signal,
    /// Entries of a request, one after the other.
    raw: Vec<u8>,
    units: Vec<Unit>,
    /// When the first and the last of it came.
    first: Stamp,
    last: Stamp,
    /// Frames that are ready.
    sealed: Vec<Sealed>,
    /// Items of the request at hand that no frame can hold.
    too_large: u32,
}

/// A stretch of a pile that may stand alone.
#[derive(Clone, Copy, Debug)]
struct Unit {
    length: usize,
    items: u32,
    /// Of the request at hand.
    own: bool,
}

/// A frame to be stored.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) batch: Batch,
    /// How many of its items are of the request at hand.
    pub(super) own: u32,
}

/// What a request became.
#[derive(Debug)]
pub(super) struct Taken {
    /// Items in it.
    pub(super) items: u32,
    /// Those that no frame can hold.
    pub(super) too_large: u32,
    /// Frames to be stored now; the rest waits in the pile.
    pub(super) sealed: Vec<Sealed>,
}

impl Pile {
    pub(super) fn new(signal: Signal) -> Self {
        Self {
            signal,
            raw: Vec::new(),
            units: Vec::new(),
            first: Stamp::default(),
            last: Stamp::default(),
            sealed: Vec::new(),
            too_large: 0,
        }
    }

    /// What it holds.
    pub(super) fn signal(&self) -> Signal {
        self.signal
    }

    /// When the oldest of it came, in boot nanoseconds; `None`: it is empty.
    pub(super) fn since(&self) -> Option<u64> {
        (!self.units.is_empty()).then_some(self.first.boot_ns)
    }

    /// Takes in a request that was checked.
    pub(super) fn take_in(&mut self, request: &[u8], gateway: &Gateway, now: Stamp) -> Taken {
        // One frame has one idea of the time.
        if !self.units.is_empty() && stepped(self.last, now) {
            self.seal();
        }
        for unit in &mut self.units {
            unit.own = false;
        }
        for sealed in &mut self.sealed {
            sealed.own = 0;
        }
        let mut all = 0_u32;
        for entry in messages(request, 1) {
            let scopes = messages(entry, 2).map(|scope| items(self.signal, scope));
            let count = scopes.sum::<u32>();
            all = all.saturating_add(count);
            if count > 0 {
                self.entry(entry, count, gateway, now);
            }
        }
        Taken {
            items: all,
            too_large: std::mem::take(&mut self.too_large),
            sealed: std::mem::take(&mut self.sealed),
        }
    }

    /// Everything that waits, as frames. What is too large has been
    /// found out when it came.
    pub(super) fn empty(&mut self) -> Vec<Sealed> {
        self.seal();
        std::mem::take(&mut self.sealed)
    }

    fn entry(&mut self, entry: &[u8], count: u32, gateway: &Gateway, now: Stamp) {
        let resource = gateway.complete(entry);
        if resource.len() + entry.len() <= UNIT {
            let rest = fields(entry).filter(|raw| raw.number != 1);
            let mut parts = vec![resource.as_slice()];
            parts.extend(rest.map(|raw| raw.whole));
            self.put(&parts, count, now);
            return;
        }
        let mut cutter = Cutter {
            signal: self.signal,
            frame: resource,
            body: Vec::new(),
            items: 0,
        };
        for raw in fields(entry).filter(|raw| !matches!(raw.number, 1 | 2)) {
            cutter.frame.extend_from_slice(raw.whole);
        }
        let mut put = |parts: &[&[u8]], items: u32| self.put(parts, items, now);
        for scope in fields(entry).filter(|raw| raw.number == 2) {
            cutter.scope(scope, &mut put);
        }
        cutter.flush(&mut put);
    }

    /// Adds one entry, given in parts.
    fn put(&mut self, parts: &[&[u8]], items: u32, now: Stamp) {
        if items == 0 {
            return;
        }
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        // What may not fit by itself is tried at once: whoever sent it is told.
        let large = length > UNIT;
        if !self.raw.is_empty() && (large || self.raw.len() + length > FULL) {
            self.seal();
        }
        if self.units.is_empty() {
            self.first = now;
        }
        self.last = now;
        let start = self.raw.len();
        head(&mut self.raw, 1, length);
        for part in parts {
            self.raw.extend_from_slice(part);
        }
        self.units.push(Unit {
            length: self.raw.len() - start,
            items,
            own: true,
        });
        if large || self.raw.len() >= FULL {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        let units = std::mem::take(&mut self.units);
        self.pack(&raw, &units);
    }

    /// One frame, or as many as it takes.
    fn pack(&mut self, raw: &[u8], units: &[Unit]) {
        if units.is_empty() {
            return;
        }
        if let Ok(body) = split::gzip(raw)
            && body.len() <= MAX_BODY
        {
            let items = units.iter().map(|unit| unit.items).sum();
            let own = units.iter().filter(|unit| unit.own);
            let own = own.map(|unit| unit.items).sum();
            self.ready(body, items, own);
        } else if let [unit] = units {
            self.halve(raw, *unit);
        } else {
            let (one, two) = units.split_at(units.len() / 2);
            let at = one.iter().map(|unit| unit.length).sum();
            let (front, back) = raw.split_at_checked(at).unwrap_or((raw, &[]));
            self.pack(front, one);
            self.pack(back, two);
        }
    }

    fn halve(&mut self, raw: &[u8], unit: Unit) {
        let Ok(Some((one, two))) = split::halve(self.signal, raw) else {
            self.too_large = self.too_large.saturating_add(unit.items);
            return;
        };
        for half in [one, two] {
            let items = items_of_request(self.signal, &half);
            let part = Unit {
                length: half.len(),
                items,
                ..unit
            };
            self.pack(&half, &[part]);
        }
    }

    fn ready(&mut self, body: Vec<u8>, items: u32, own: u32) {
        let batch = Batch {
            signal: self.signal,
            class: Class::Normal,
            codec: Codec::Gzip,
            items,
            first: self.first,
            last: self.last,
            context: None,
            body: Bytes::from(body),
        };
        self.sealed.push(Sealed { batch, own });
    }
}

/// Takes the parts of an entry, and how many items are in it.
type Emit<'a> = &'a mut dyn FnMut(&[&[u8]], u32);

/// Cuts one large entry into several, each with the same resource.
struct Cutter {
    signal: Signal,
    /// What each of them starts with: the resource, and what is not a scope.
    frame: Vec<u8>,
    /// Whole scopes.
    body: Vec<u8>,
    items: u32,
}

impl Cutter {
    fn scope(&mut self, scope: Raw<'_>, emit: Emit<'_>) {
        let Wire::Bytes(content) = scope.value else {
            return;
        };
        if self.frame.len() + self.body.len() + scope.whole.len() > UNIT {
            self.flush(emit);
        }
        if self.frame.len() + scope.whole.len() <= UNIT {
            self.items = self.items.saturating_add(items(self.signal, content));
            self.body.extend_from_slice(scope.whole);
            return;
        }
        // Larger than a frame by itself.
        let mut inner = Vec::new();
        for raw in fields(content).filter(|raw| raw.number != 2) {
            inner.extend_from_slice(raw.whole);
        }
        let common = inner.len();
        for raw in fields(content).filter(|raw| raw.number == 2) {
            let Wire::Bytes(item) = raw.value else {
                continue;
            };
            if inner.len() > common && self.frame.len() + inner.len() + raw.whole.len() > UNIT {
                bytes(&mut self.body, 2, &inner);
                self.flush(emit);
                inner.truncate(common);
            }
            inner.extend_from_slice(raw.whole);
            self.items = self.items.saturating_add(weight(self.signal, item));
        }
        if inner.len() > common {
            bytes(&mut self.body, 2, &inner);
            self.flush(emit);
        }
    }

    fn flush(&mut self, emit: Emit<'_>) {
        if !self.body.is_empty() {
            emit(&[&self.frame, &self.body], self.items);
        }
        self.body.clear();
        self.items = 0;
    }
}
