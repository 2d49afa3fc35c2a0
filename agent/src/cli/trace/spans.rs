//! Spans out of export requests, one after the other: no request exists as a
//! whole in memory, and of each span only what a tree shows.

use prost::encoding::encode_varint;

use crate::otlp::wire::{Fields, Malformed, Wire};

/// The longest name, message or value that is kept, in characters.
const TEXT: usize = 200;
/// Attributes, events and links kept of one span, of each.
const EACH: usize = 32;

pub(super) type TraceId = [u8; 16];
pub(super) type SpanId = [u8; 8];

/// What is shown of a span.
#[derive(Clone, Debug, Default)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    /// All zero: a root.
    pub(super) parent: SpanId,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) kind: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// 0 unset, 1 ok, 2 error.
    pub(super) status: u64,
    pub(super) message: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) more_attributes: u64,
    /// Time and name.
    pub(super) events: Vec<(u64, String)>,
    pub(super) more_events: u64,
    pub(super) links: Vec<(TraceId, SpanId)>,
    pub(super) more_links: u64,
}

impl Span {
    pub(super) fn is_error(&self) -> bool {
        self.status == 2
    }
}

/// Gives every span of an `ExportTraceServiceRequest`.
pub(super) fn each(body: &[u8], work: &mut dyn FnMut(Span)) -> Result<(), Malformed> {
    let mut request = Fields::new(body);
    while let Some(field) = request.next()? {
        let (1, Wire::Bytes(resource_spans)) = field else {
            continue;
        };
        let service = service(resource_spans)?;
        let mut scopes = Fields::new(resource_spans);
        while let Some(field) = scopes.next()? {
            let (2, Wire::Bytes(scope)) = field else {
                continue;
            };
            let mut spans = Fields::new(scope);
            while let Some(field) = spans.next()? {
                if let (2, Wire::Bytes(bytes)) = field {
                    let mut span = span(bytes)?;
                    span.service.clone_from(&service);
                    work(span);
                }
            }
        }
    }
    Ok(())
}

/// `service.name` of a resource; empty: it has none.
fn service(resource_spans: &[u8]) -> Result<String, Malformed> {
    let mut name = String::new();
    let mut fields = Fields::new(resource_spans);
    while let Some(field) = fields.next()? {
        let (1, Wire::Bytes(resource)) = field else {
            continue;
        };
        let mut attributes = Fields::new(resource);
        while let Some(field) = attributes.next()? {
            let (1, Wire::Bytes(attribute)) = field else {
                continue;
            };
            let (key, value) = pair_of(attribute)?;
            if key == b"service.name"
                && let Some((1, Wire::Bytes(value))) = Fields::new(value).next()?
            {
                name = text(value);
            }
        }
    }
    Ok(name)
}

/// The same request with nothing but the spans of wanted traces; `None`: it has none.
pub(super) fn only(
    body: &[u8],
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    only_of(body, &[1, 2, 2], wanted)
}

/// `path`: the fields that lead from a message to its spans.
fn only_of(
    message: &[u8],
    path: &[u32],
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    let mut out = Vec::new();
    let mut any = false;
    let Some((inner, path)) = path.split_first() else {
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            if let (1, Wire::Bytes(trace)) = field {
                any = wanted(trace);
            }
        }
        return Ok(any.then(|| message.to_vec()));
    };
    let mut fields = Fields::new(message);
    loop {
        let before = fields.rest();
        let Some((number, wire)) = fields.next()? else {
            break;
        };
        let length = before.len().saturating_sub(fields.rest().len());
        match wire {
            Wire::Bytes(content) if number == *inner => {
                if let Some(kept) = only_of(content, path, wanted)? {
                    any = true;
                    encode_varint(u64::from(number << 3 | 2), &mut out);
                    encode_varint(kept.len() as u64, &mut out);
                    out.extend_from_slice(&kept);
                }
            }
            _ => out.extend_from_slice(before.get(..length).unwrap_or_default()),
        }
    }
    Ok(any.then_some(out))
}

/// Key and value of a `KeyValue`.
fn pair_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value): (&[u8], &[u8]) = (b"", b"");
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Bytes(bytes)) => key = bytes,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// An `AnyValue` in a word; what is made of several is not shown.
fn shown(value: &[u8]) -> Result<String, Malformed> {
    Ok(match Fields::new(value).next()? {
        Some((1, Wire::Bytes(bytes))) => text(bytes),
        Some((2, Wire::Varint(flag))) => (flag != 0).to_string(),
        Some((3, Wire::Varint(number))) => number.cast_signed().to_string(),
        Some((4, Wire::Fixed64(bits))) => f64::from_bits(bits).to_string(),
        _ => "…".to_owned(),
    })
}

fn span(bytes: &[u8]) -> Result<Span, Malformed> {
    let mut span = Span::default();
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Bytes(id)) => span.trace = id.try_into().unwrap_or_default(),
            (2, Wire::Bytes(id)) => span.id = id.try_into().unwrap_or_default(),
            (4, Wire::Bytes(id)) => span.parent = id.try_into().unwrap_or_default(),
            (5, Wire::Bytes(name)) => span.name = text(name),
            (6, Wire::Varint(kind)) => span.kind = kind,
            (7, Wire::Fixed64(at)) => span.start = at,
            (8, Wire::Fixed64(at)) => span.end = at,
            (9, Wire::Bytes(_)) if span.attributes.len() >= EACH => span.more_attributes += 1,
            (9, Wire::Bytes(pair)) => {
                let (key, value) = pair_of(pair)?;
                span.attributes.push((text(key), shown(value)?));
            }
            (11, Wire::Bytes(_)) if span.events.len() >= EACH => span.more_events += 1,
            (11, Wire::Bytes(event)) => span.events.push(self::event(event)?),
            (13, Wire::Bytes(_)) if span.links.len() >= EACH => span.more_links += 1,
            (13, Wire::Bytes(link)) => span.links.push(self::link(link)?),
            (15, Wire::Bytes(status)) => {
                let mut fields = Fields::new(status);
                while let Some(field) = fields.next()? {
                    match field {
                        (2, Wire::Bytes(message)) => span.message = text(message),
                        (3, Wire::Varint(code)) => span.status = code,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(span)
}

fn event(bytes: &[u8]) -> Result<(u64, String), Malformed> {
    let (mut at, mut name) = (0, String::new());
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Fixed64(time)) => at = time,
            (2, Wire::Bytes(bytes)) => name = text(bytes),
            _ => {}
        }
    }
    Ok((at, name))
}

fn link(bytes: &[u8]) -> Result<(TraceId, SpanId), Malformed> {
    let (mut trace, mut span) = (TraceId::default(), SpanId::default());
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Wire::Bytes(id)) => trace = id.try_into().unwrap_or_default(),
            (2, Wire::Bytes(id)) => span = id.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    Ok((trace, span))
}

/// Bounded, and nothing in it steers a terminal.
fn text(bytes: &[u8]) -> String {
    let some = bytes.get(..TEXT * 4).unwrap_or(bytes);
    let text: String = String::from_utf8_lossy(some).chars().take(TEXT).collect();
    crate::cli::status::clean(&text)
}
