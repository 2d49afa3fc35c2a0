//! Events as OpenTelemetry event records (log records with an event name), on
//! the way of all log records: buffered, flushed into the spool.
//!
//! Each costs flash while the link is down, so one name gets 20 at once and
//! then one in ten seconds; the next that passes says how many did not
//! (`sonde.event.skipped`). The tally has counted them all.

use std::time::{Duration, UNIX_EPOCH};

use log::Level;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry_sdk::logs::SdkLogger;

use super::{Event, Handler, Name};
use crate::rate::{self, Bucket};

const RATE: rate::Rate = rate::Rate {
    burst: 20,
    refill_ns: 10_000_000_000,
};

/// Names of local programs that are remembered. The SDK wants an event's name
/// for ever, so that is all there will be; others share one rate, and their
/// name is the attribute `event.name`.
const MAX_LOCAL: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Upstream {
    logger: SdkLogger,
    own: Vec<(&'static str, Rate)>,
    local: Vec<(&'static str, Rate)>,
    others: Rate,
}

#[derive(Debug, Default)]
struct Rate {
    bucket: Bucket,
    skipped: u64,
}

impl Upstream {
    /// Sends by `logger`.
    pub fn new(logger: SdkLogger) -> Self {
        Self {
            logger,
            own: Vec::new(),
            local: Vec::new(),
            others: Rate::default(),
        }
    }

    /// The name to send it under, if it is a known one, and its rate.
    fn entry(&mut self, event: &Event<'_>) -> (Option<&'static str>, &mut Rate) {
        let list = match event.own {
            Some(_) => &mut self.own,
            None => &mut self.local,
        };
        let at = list.iter().position(|(name, _)| *name == event.name);
        let at = match (at, event.own) {
            (Some(at), _) => at,
            (None, Some(own)) => {
                list.push((own.as_str(), Rate::default()));
                list.len() - 1
            }
            (None, None) if list.len() < MAX_LOCAL => {
                let name: &'static str = Box::leak(event.name.to_owned().into_boxed_str());
                list.push((name, Rate::default()));
                list.len() - 1
            }
            (None, None) => return (None, &mut self.others),
        };
        match list.get_mut(at) {
            Some((name, rate)) => (Some(name), rate),
            None => (None, &mut self.others),
        }
    }
}

impl Rate {
    /// How many were skipped before this one; `None`: it is skipped itself.
    fn pass(&mut self, now: u64) -> Option<u64> {
        if !self.bucket.take(RATE, now) {
            self.skipped += 1;
            return None;
        }
        Some(std::mem::take(&mut self.skipped))
    }
}

impl Handler for Upstream {
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String> {
        if event.own.is_some_and(Name::is_critical) {
            return Ok(());
        }
        let (name, rate) = self.entry(event);
        let Some(skipped) = rate.pass(event.at.boot_ns) else {
            return Ok(());
        };
        let mut record = self.logger.create_log_record();
        record.set_timestamp(UNIX_EPOCH + Duration::from_nanos(event.at.unix_ns));
        record.set_severity_number(match event.level {
            Level::Error => Severity::Error,
            Level::Warn => Severity::Warn,
            Level::Info | Level::Debug | Level::Trace => Severity::Info,
        });
        record.set_severity_text(event.level.as_str());
        match name {
            Some(name) => record.set_event_name(name),
            None => record.add_attribute("event.name", event.name.to_owned()),
        }
        for (key, value) in event.measurements {
            record.add_attribute((*key).to_owned(), *value);
        }
        for (key, value) in event.metadata {
            record.add_attribute((*key).to_owned(), AnyValue::from((*value).to_owned()));
        }
        if skipped > 0 {
            let skipped = i64::try_from(skipped).unwrap_or(i64::MAX);
            record.add_attribute("sonde.event.skipped", skipped);
        }
        if let Some(span) = &event.span {
            record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
        }
        self.logger.emit(record);
        Ok(())
    }
}
