//! Leaves what was received in the report folder, as OTLP JSON that any
//! OpenTelemetry tool reads.

use std::io;
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use crate::ledger::{Ledger, Payload};

/// `report/` of the workspace, or where `SONDE_REPORT` says.
pub fn folder() -> PathBuf {
    std::env::var_os("SONDE_REPORT")
        .map_or_else(|| crate::workspace().join("report"), PathBuf::from)
}

/// Writes the traces of a ledger to `traces-NAME.json` in the report folder.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn traces(name: &str, ledger: &Ledger) -> io::Result<PathBuf> {
    write_traces(&folder(), name, ledger)
}

fn write_traces(folder: &Path, name: &str, ledger: &Ledger) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let mut all = ExportTraceServiceRequest::default();
    for delivery in &ledger.deliveries {
        if let Payload::Traces(request) = &delivery.payload {
            all.resource_spans.extend(request.resource_spans.clone());
        }
    }
    let path = folder.join(format!("traces-{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(&all)?)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Delivery;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    #[test]
    fn a_report_is_otlp_json() {
        let span = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            name: "tick".to_owned(),
            ..Span::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![span],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let ledger = Ledger {
            deliveries: vec![Delivery {
                payload: Payload::Traces(request),
                target: String::new(),
                body_bytes: 0,
                properties: vec![],
                received_unix_ns: 0,
                decoded_unix_ns: 0,
            }],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = write_traces(dir.path(), "test", &ledger).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "ab".repeat(16));
        assert_eq!(span["name"], "tick");
    }
}
