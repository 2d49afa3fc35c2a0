//! What a receiver got, kept whole: every request and message in the order in
//! which it came, so that a proof can be made from it, and made to fail by
//! taking one of them out.
//!
//! A [`Ledger`] is plain data. [`Book`] is the shared, growing one that
//! receivers write into and tests wait on.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::frame::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

/// The most that one body may unpack to: a bomb must not take the receiver down.
const MAX_UNPACKED: u64 = 64 << 20;

/// One accepted request or message.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What it carried.
    pub payload: Payload,
    /// Path or topic.
    pub target: String,
    /// Bytes of the body as it came (packed).
    pub body_bytes: usize,
    /// MQTT user properties in order; empty over HTTP.
    pub properties: Vec<(String, String)>,
    /// When it had come, nanoseconds since 1970.
    pub received_unix_ns: u64,
    /// When it had been read and understood.
    pub decoded_unix_ns: u64,
}

/// A decoded export request.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Gauges.
    Metrics(ExportMetricsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

/// Deliveries in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// All of them.
    pub deliveries: Vec<Delivery>,
}

/// One data point with everything that identifies it.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// `service.instance.id` of the resource: one process start.
    pub instance: String,
    /// Metric name and attributes.
    pub series: String,
    /// Its time.
    pub unix_ns: u64,
    /// Its value; `None`: explicitly none.
    pub value: Option<f64>,
}

/// The shared ledger of one receiver.
#[derive(Clone, Debug)]
pub struct Book {
    ledger: Arc<Mutex<Ledger>>,
    changed: watch::Sender<u64>,
}

/// A condition did not become true in time.
#[derive(Debug)]
pub struct TooLate(pub String);

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did not happen in time: {}", self.0)
    }
}

impl std::error::Error for TooLate {}

impl Payload {
    /// Decodes a body of a signal, unpacking it first if `gzip`.
    ///
    /// # Errors
    /// A sentence for a person: what could not be read.
    pub fn decode(signal: Signal, gzip: bool, body: &[u8]) -> Result<Self, String> {
        let unpacked;
        let bytes = if gzip {
            let mut out = Vec::new();
            MultiGzDecoder::new(body)
                .take(MAX_UNPACKED)
                .read_to_end(&mut out)
                .map_err(|error| format!("not gzip: {error}"))?;
            unpacked = out;
            unpacked.as_slice()
        } else {
            body
        };
        let bytes = Bytes::copy_from_slice(bytes);
        let bad = |error: prost::DecodeError| format!("not OTLP {}: {error}", signal.as_str());
        match signal {
            Signal::Metrics => Ok(Self::Metrics(Message::decode(bytes).map_err(bad)?)),
            Signal::Traces => Ok(Self::Traces(Message::decode(bytes).map_err(bad)?)),
            Signal::Logs => Ok(Self::Logs(Message::decode(bytes).map_err(bad)?)),
            Signal::Message => Err("a local program's message is not OTLP".to_owned()),
        }
    }

    /// Data points, spans or log records inside.
    pub fn items(&self) -> usize {
        match self {
            Self::Metrics(request) => numbers_of(request)
                .map(|(_, _, numbers)| numbers.len())
                .sum(),
            Self::Traces(request) => spans_of(request).count(),
            Self::Logs(request) => logs_of(request).count(),
        }
    }
}

impl Ledger {
    /// All data points, repeats included, in the order they came.
    pub fn points(&self) -> Vec<Point> {
        self.deliveries
            .iter()
            .filter_map(|delivery| match &delivery.payload {
                Payload::Metrics(request) => Some(points_of(request)),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// All spans with the process start they came from, repeats removed.
    pub fn spans(&self) -> Vec<(String, Span)> {
        let mut seen = BTreeSet::new();
        self.deliveries
            .iter()
            .filter_map(|delivery| match &delivery.payload {
                Payload::Traces(request) => Some(spans_of(request)),
                _ => None,
            })
            .flatten()
            .filter(|(_, span)| seen.insert((span.trace_id.clone(), span.span_id.clone())))
            .map(|(instance, span)| (instance, span.clone()))
            .collect()
    }

    /// All log records, repeats included.
    pub fn logs(&self) -> Vec<&LogRecord> {
        self.deliveries
            .iter()
            .filter_map(|delivery| match &delivery.payload {
                Payload::Logs(request) => Some(logs_of(request)),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Bytes of the bodies that carried one signal.
    pub fn body_bytes(&self, signal: Signal) -> usize {
        self.of(signal).map(|delivery| delivery.body_bytes).sum()
    }

    /// Deliveries of one signal.
    pub fn of(&self, signal: Signal) -> impl Iterator<Item = &Delivery> {
        self.deliveries
            .iter()
            .filter(move |delivery| delivery.signal() == signal)
    }

    /// The highest `sonde.sampler.tick` that came from a process start; 0: none.
    pub fn last_tick(&self, instance: Option<&str>) -> u64 {
        self.points()
            .iter()
            .filter(|point| instance.is_none_or(|wanted| point.instance == wanted))
            .filter(|point| point.series == crate::proof::TICK)
            .filter_map(|point| point.value)
            .fold(0.0_f64, f64::max) as u64
    }

    /// The process starts that data points came from, in order of first sight.
    pub fn instances(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for point in self.points() {
            if !found.contains(&point.instance) {
                found.push(point.instance);
            }
        }
        found
    }

    /// Takes one delivery of data points out of the middle, as if it had been
    /// lost on the way. Returns how many points went with it.
    pub fn tamper(&mut self) -> usize {
        let metrics: Vec<usize> = (0..self.deliveries.len())
            .filter(|&at| self.deliveries[at].signal() == Signal::Metrics)
            .collect();
        match metrics.get(metrics.len() / 2) {
            Some(&at) => self.deliveries.remove(at).payload.items(),
            None => 0,
        }
    }
}

impl Delivery {
    /// What it carried.
    pub fn signal(&self) -> Signal {
        match self.payload {
            Payload::Metrics(_) => Signal::Metrics,
            Payload::Traces(_) => Signal::Traces,
            Payload::Logs(_) => Signal::Logs,
        }
    }

    /// The first user property of that name.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            ledger: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Book {
    /// Writes one delivery down.
    pub fn record(&self, delivery: Delivery) {
        self.lock().deliveries.push(delivery);
        self.changed.send_modify(|count| *count += 1);
    }

    /// A copy of what is written so far.
    pub fn copy(&self) -> Ledger {
        self.lock().clone()
    }

    /// Reads without copying.
    pub fn read<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }

    /// Deliveries so far.
    pub fn len(&self) -> usize {
        self.lock().deliveries.len()
    }

    /// Nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the ledger satisfies a condition, looking after every delivery.
    ///
    /// # Errors
    /// [`TooLate`] with `what` when it does not within `limit`.
    pub async fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Ledger) -> bool,
    ) -> Result<(), TooLate> {
        let mut changed = self.changed.subscribe();
        let search = async {
            loop {
                if self.read(&condition) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(limit, search).await.map_err(|_| {
            TooLate(format!(
                "{what} (within {limit:?}, {} deliveries)",
                self.len()
            ))
        })
    }

    /// The first span that `is` it, waited for.
    ///
    /// # Errors
    /// [`TooLate`] with `what` when none comes within `limit`.
    pub async fn wait_span(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&Span) -> bool,
    ) -> Result<Span, TooLate> {
        let find = |ledger: &Ledger| {
            let spans = ledger.spans().into_iter().map(|(_, span)| span);
            spans.into_iter().find(|span| is(span))
        };
        self.wait(what, limit, |ledger| find(ledger).is_some())
            .await?;
        self.read(find).ok_or_else(|| TooLate(what.to_owned()))
    }

    /// The first log record that `is` it, waited for.
    ///
    /// # Errors
    /// [`TooLate`] with `what` when none comes within `limit`.
    pub async fn wait_log(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&LogRecord) -> bool,
    ) -> Result<LogRecord, TooLate> {
        let find = |ledger: &Ledger| ledger.logs().into_iter().find(|it| is(it)).cloned();
        self.wait(what, limit, |ledger| find(ledger).is_some())
            .await?;
        self.read(find).ok_or_else(|| TooLate(what.to_owned()))
    }

    /// The first event record of that name, waited for.
    ///
    /// # Errors
    /// [`TooLate`] when none comes within `limit`.
    pub async fn wait_event(&self, name: &str, limit: Duration) -> Result<LogRecord, TooLate> {
        self.wait_log(name, limit, |record| record.event_name == name)
            .await
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Data points of a request with their names.
fn points_of(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut points = Vec::new();
    for (resource, metric, numbers) in numbers_of(request) {
        let instance = instance_of(resource);
        points.extend(numbers.iter().map(|number| Point {
            instance: instance.clone(),
            series: series_name(&metric.name, &number.attributes),
            unix_ns: number.time_unix_nano,
            value: match number.value {
                Some(number_data_point::Value::AsInt(value)) => Some(value as f64),
                Some(number_data_point::Value::AsDouble(value)) => Some(value),
                None => None,
            },
        }));
    }
    points
}

/// A request's metrics; only the numbers, since the agent sends no histograms.
fn numbers_of(
    request: &ExportMetricsServiceRequest,
) -> impl Iterator<Item = (Option<&Resource>, &Metric, &[NumberDataPoint])> {
    request.resource_metrics.iter().flat_map(|resource| {
        let metrics = resource
            .scope_metrics
            .iter()
            .flat_map(|scope| &scope.metrics);
        metrics.map(|metric| {
            let numbers: &[NumberDataPoint] = match &metric.data {
                Some(Data::Gauge(gauge)) => &gauge.data_points,
                Some(Data::Sum(sum)) => &sum.data_points,
                _ => &[],
            };
            (resource.resource.as_ref(), metric, numbers)
        })
    })
}

fn spans_of(request: &ExportTraceServiceRequest) -> impl Iterator<Item = (String, &Span)> {
    request.resource_spans.iter().flat_map(|resource| {
        let instance = instance_of(resource.resource.as_ref());
        resource
            .scope_spans
            .iter()
            .flat_map(|scope| &scope.spans)
            .map(move |span| (instance.clone(), span))
    })
}

fn logs_of(request: &ExportLogsServiceRequest) -> impl Iterator<Item = &LogRecord> {
    request
        .resource_logs
        .iter()
        .flat_map(|resource| &resource.scope_logs)
        .flat_map(|scope| &scope.log_records)
}

/// `service.instance.id`; empty when there is none.
fn instance_of(resource: Option<&Resource>) -> String {
    resource
        .and_then(|resource| {
            resource
                .attributes
                .iter()
                .find(|attribute| attribute.key == "service.instance.id")
        })
        .map(|attribute| text(attribute.value.as_ref()))
        .unwrap_or_default()
}

/// `name{key=value,…}`, sorted by key; the bare name without attributes.
fn series_name(name: &str, attributes: &[KeyValue]) -> String {
    if attributes.is_empty() {
        return name.to_owned();
    }
    let mut pairs: Vec<String> = attributes
        .iter()
        .map(|attribute| format!("{}={}", attribute.key, text(attribute.value.as_ref())))
        .collect();
    pairs.sort();
    format!("{name}{{{}}}", pairs.join(","))
}

/// The wall clock, nanoseconds since 1970.
pub fn now_unix_ns() -> u64 {
    Clock::new(ClockTrust::Always).now().unix_ns
}

/// An attribute's value as people read it.
pub fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(value)) => value.clone(),
        Some(Any::IntValue(value)) => value.to_string(),
        Some(Any::DoubleValue(value)) => value.to_string(),
        Some(Any::BoolValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_not_what_it_says_is_refused_in_words() {
        let error = Payload::decode(Signal::Metrics, true, b"plain").unwrap_err();
        assert!(error.contains("not gzip"), "{error}");
        let error = Payload::decode(Signal::Traces, false, &[0xff; 9]).unwrap_err();
        assert!(error.contains("not OTLP traces"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_what_never_comes_ends_and_says_for_what() {
        let error = Book::default()
            .wait("a whale", Duration::from_secs(3), |_| false)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("a whale"), "{error}");
    }
}
