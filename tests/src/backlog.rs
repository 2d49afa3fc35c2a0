//! A large backlog without the hours it would take to sample one: frames of
//! invented gauges, stored by the agent's own spool in a gateway's state folder.

use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use prost::Message;
use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::config::{Durability, SpoolLimits, UplinkName};
use sonde_agent::frame::{Batch, Class, Codec, Signal, Stamp};
use sonde_agent::spool::{Options, Spool, Stopped, Subscription};
use std::io::Write;
use std::path::Path;

/// Series in one frame, and points of each: about 30 KB packed, as 30 s of a
/// gateway with some hundred noisy gauges.
const SERIES: u64 = 130;
const TICKS: u64 = 30;

/// Stores at least `bytes` of bodies for the OTLP uplink in the spool's folder
/// `dir`. Returns how many data points they hold.
///
/// # Errors
/// A sentence for a person.
pub async fn make(dir: &Path, bytes: usize) -> Result<u64, String> {
    let clock = Clock::new(ClockTrust::Always);
    let spool = Spool::start(Options {
        dir: dir.to_path_buf(),
        limits: SpoolLimits {
            quota: 256 << 20,
            reserve: 0,
            memory: 1 << 20,
            loss_window: Duration::from_secs(60),
            write_budget: 0,
            durability: Durability::Always,
            outbox_in_memory: false,
        },
        subscriptions: vec![Subscription {
            uplink: UplinkName::Otlp,
            required: true,
            signals: vec![Signal::Metrics, Signal::Traces, Signal::Logs],
        }],
        boot_id: boot_id(),
        clock: clock.clone(),
    })
    .map_err(|error| format!("the spool for the backlog: {error:?}"))?;
    spool.link(UplinkName::Otlp, false);
    let (mut stored, mut points, mut noise) = (0, 0, 0x9e37_79b9_7f4a_7c15_u64);
    while stored < bytes {
        let now = clock.now();
        let body = body(now, &mut noise);
        stored += body.len();
        points += SERIES * TICKS;
        let batch = Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Gzip,
            items: (SERIES * TICKS) as u32,
            first: now,
            last: now,
            context: None,
            body,
        };
        spool
            .store(batch)
            .await
            .map_err(|refused| format!("the backlog's spool refused a batch: {refused:?}"))?;
    }
    match spool.stop(Duration::from_secs(60)).await {
        Stopped::Whole => Ok(points),
        other => Err(format!("the backlog's spool did not stop well: {other:?}")),
    }
}

fn body(now: Stamp, noise: &mut u64) -> Bytes {
    let metrics = (0..SERIES).map(|series| {
        let data_points = (0..TICKS).map(|tick| {
            // xorshift64: numbers that gzip cannot foresee.
            *noise ^= *noise << 13;
            *noise ^= *noise >> 7;
            *noise ^= *noise << 17;
            NumberDataPoint {
                time_unix_nano: now.unix_ns + tick,
                value: Some(number_data_point::Value::AsDouble(*noise as f64)),
                ..NumberDataPoint::default()
            }
        });
        Metric {
            name: format!("test.backlog.{series}"),
            data: Some(Data::Gauge(Gauge {
                data_points: data_points.collect(),
            })),
            ..Metric::default()
        }
    });
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics: metrics.collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into memory does not fail.
    let _ = packed.write_all(&request.encode_to_vec());
    packed.finish().unwrap_or_default().into()
}

fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.trim().replace('-', "");
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = digits
            .get(2 * at..2 * at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .unwrap_or_default();
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use sonde_agent::frame::MAX_BODY;

    #[test]
    fn a_backlogs_frames_are_as_large_as_real_ones() {
        let body = body(Stamp::default(), &mut 42);
        assert!((20_000..MAX_BODY).contains(&body.len()), "{}", body.len());
    }
}
