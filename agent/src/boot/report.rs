//! Reports as OpenTelemetry event records of class `critical`: stored at once,
//! dropped last. Each has a `log.record.uid` that is made from the boot and the
//! run it tells of, so that a report that is made again is the same record.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use log::Level;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::{Reason, Report, What};
use crate::event::{Name, name};
use crate::frame::{Batch, Class, Codec, Signal, Stamp};

impl Report {
    /// The event that it is.
    pub(super) fn name(&self) -> Name {
        match (self.what, self.end.reason) {
            (What::Boot, Reason::Clean) => name::BOOT_END,
            (What::Boot, _) => name::BOOT_FAILED,
            (What::Run, Reason::Stopped | Reason::Boot) => name::AGENT_END,
            (What::Run, _) => name::AGENT_FAILED,
        }
    }

    /// All evidence in one text.
    pub(super) fn evidence(&self) -> String {
        self.end.evidence.join("; ")
    }

    fn record(&self, now: Stamp) -> LogRecord {
        let reason = self.end.reason.as_str();
        let evidence = self.evidence();
        let what = match self.what {
            What::Boot => "The boot before this one",
            What::Run => "The agent's last run",
        };
        let level = self.name().level();
        LogRecord {
            time_unix_nano: now.unix_ns,
            observed_time_unix_nano: now.unix_ns,
            severity_number: match level {
                Level::Error => SeverityNumber::Error,
                Level::Warn => SeverityNumber::Warn,
                _ => SeverityNumber::Info,
            }
            .into(),
            severity_text: level.as_str().to_owned(),
            body: Some(AnyValue {
                value: Some(text(format!("{what} ended: {reason}: {evidence}"))),
            }),
            attributes: vec![
                pair("reason", text(reason.to_owned())),
                pair("evidence", text(evidence)),
                pair(
                    "boot",
                    Value::IntValue(i64::try_from(self.number).unwrap_or(i64::MAX)),
                ),
                pair("log.record.uid", text(self.uid.clone())),
            ],
            event_name: self.name().as_str().to_owned(),
            ..LogRecord::default()
        }
    }
}

/// All of them in one batch; `None`: there are none.
pub(super) fn batch(
    reports: &[Report],
    resource: &[(String, String)],
    now: Stamp,
) -> Option<Batch> {
    let items = u32::try_from(reports.len())
        .ok()
        .filter(|items| *items > 0)?;
    let attributes = resource
        .iter()
        .map(|(key, value)| pair(key, text(value.clone())));
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: attributes.collect(),
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(InstrumentationScope {
                    name: "sonde".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                log_records: reports.iter().map(|report| report.record(now)).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let mut packer = GzEncoder::new(Vec::new(), Compression::new(6));
    packer.write_all(&request.encode_to_vec()).ok()?;
    Some(Batch {
        signal: Signal::Logs,
        class: Class::Critical,
        codec: Codec::Gzip,
        items,
        first: now,
        last: now,
        context: None,
        body: Bytes::from(packer.finish().ok()?),
    })
}

fn text(text: String) -> Value {
    Value::StringValue(text)
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
