//! Thinning on the simulated disk, with bodies as the agent makes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use prost::Message as _;

use super::cursor::Reason;
use super::model::{CALM, OTLP, Plan, SECOND, World, drain, lost_to, open};
use super::queue::Core;
use super::simulated::{Dice, Simulated};
use super::{Lane, Outcome};
use crate::frame::{Batch, Class, Codec, Frame, Signal, Signals, Stamp};
use crate::otlp::rewrite::Rewriter;

const STEP: u64 = 300 * SECOND;
const PLAN: Plan = Plan {
    seed: 51,
    quota: 160_000,
    ..CALM
};

/// Points of one kind of metric: time and value.
type Points = Vec<(u64, i64)>;

fn request(dice: &mut Dice, at: u64) -> Bytes {
    let point = |at: u64, value: u64| NumberDataPoint {
        time_unix_nano: at,
        value: Some(Value::AsInt(value.cast_signed())),
        ..NumberDataPoint::default()
    };
    let times = [at, at + 10 * SECOND, at + 20 * SECOND];
    let mut numbers = |most: u64| -> Vec<NumberDataPoint> {
        times.map(|at| point(at, dice.below(most))).to_vec()
    };
    let sum = |data_points, temporality: AggregationTemporality| {
        Data::Sum(Sum {
            data_points,
            aggregation_temporality: temporality as i32,
            is_monotonic: true,
        })
    };
    let rising = times.map(|at| point(at, at / SECOND)).to_vec();
    let histogram = HistogramDataPoint {
        time_unix_nano: at,
        count: 3,
        ..HistogramDataPoint::default()
    };
    let data = [
        (
            "gauge",
            Data::Gauge(Gauge {
                data_points: numbers(1 << 40),
            }),
        ),
        (
            "other",
            Data::Gauge(Gauge {
                data_points: numbers(9),
            }),
        ),
        ("delta", sum(numbers(50), AggregationTemporality::Delta)),
        ("total", sum(rising, AggregationTemporality::Cumulative)),
        (
            "histogram",
            Data::Histogram(Histogram {
                data_points: vec![histogram],
                aggregation_temporality: AggregationTemporality::Delta as i32,
            }),
        ),
    ];
    let metrics = data.into_iter().map(|(name, data)| Metric {
        name: name.into(),
        data: Some(data),
        ..Metric::default()
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
    request.encode_to_vec().into()
}

/// All points in some bodies, by the metric's name and type.
fn points<'a>(bodies: impl Iterator<Item = (Codec, &'a Bytes)>) -> BTreeMap<String, Points> {
    let mut out: BTreeMap<String, Points> = BTreeMap::new();
    for (codec, body) in bodies {
        let raw = match codec {
            Codec::Identity => body.to_vec(),
            Codec::Gzip => crate::otlp::gunzip(body, 1 << 20).unwrap(),
        };
        let request = ExportMetricsServiceRequest::decode(raw.as_slice()).unwrap();
        let scopes = request
            .resource_metrics
            .iter()
            .flat_map(|r| &r.scope_metrics);
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            let numbers = |points: &[NumberDataPoint]| -> Points {
                let value = |value: Option<Value>| match value {
                    Some(Value::AsInt(number)) => number,
                    other => panic!("{other:?} was never stored"),
                };
                points
                    .iter()
                    .map(|p| (p.time_unix_nano, value(p.value)))
                    .collect()
            };
            let (kind, found) = match metric.data.as_ref().unwrap() {
                Data::Gauge(gauge) => ("gauge", numbers(&gauge.data_points)),
                Data::Sum(sum) => ("sum", numbers(&sum.data_points)),
                Data::Histogram(histogram) => {
                    let all = histogram.data_points.iter();
                    ("histogram", all.map(|p| (p.time_unix_nano, 3)).collect())
                }
                other => panic!("{other:?} was never stored"),
            };
            out.entry(format!("{} {kind}", metric.name))
                .or_default()
                .extend(found);
        }
    }
    out.values_mut().for_each(|points| points.sort_unstable());
    out
}

/// A spool that is fuller than it should be, and what was put into it.
fn filled() -> (World, BTreeMap<String, Points>) {
    let mut world = World::new(PLAN);
    world.core.rewrite = Some(Box::new(Rewriter));
    let mut dice = Dice::new(51);
    let mut bodies = Vec::new();
    let mut n = 0;
    while world.core.log.as_ref().unwrap().usage() < PLAN.quota / 20 * 17 {
        let class = if n % 2 == 0 {
            Class::Bulk
        } else {
            Class::Normal
        };
        let stamp = Stamp {
            unix_ns: 1_700_000_000 * SECOND + world.at,
            boot_ns: world.at,
        };
        let body = request(&mut dice, stamp.unix_ns);
        bodies.push((Codec::Identity, body.clone()));
        let mut batch = Batch {
            signal: Signal::Metrics,
            class,
            codec: Codec::Identity,
            items: 13,
            first: stamp,
            last: stamp,
            context: None,
            body,
        };
        let now = world.now();
        world.core.store(batch.clone(), now).unwrap();
        if n % 5 == 0 {
            batch.signal = Signal::Logs;
            batch.body = Bytes::from(vec![n as u8; 50]);
            world.core.store(batch, now).unwrap();
        }
        assert!(world.core.flush(class, now));
        world.at += 30 * SECOND;
        n += 1;
    }
    let stored = points(bodies.iter().map(|(codec, body)| (*codec, body)));
    (world, stored)
}

/// Thins until there is nothing left to be thinned. Returns how many segments were.
fn thin_all(core: &mut Core<Simulated>, world: (u64, u64)) -> u64 {
    let (mut at, until) = world;
    let mut thinned = 0;
    while at < until {
        let before = lost_items(core);
        core.thin(super::log::Now {
            stamp: Stamp {
                unix_ns: at,
                boot_ns: at,
            },
            synchronised: true,
        });
        thinned += u64::from(lost_items(core) > before);
        at += 61 * SECOND;
    }
    thinned
}

fn lost_items(core: &Core<Simulated>) -> u64 {
    let losses = core.losses.table.iter();
    let thinned = losses.filter(|((_, reason), _)| *reason == Reason::Thinned);
    thinned.map(|(_, loss)| loss.items).sum()
}

/// Invariant 15: real points only; of each gauge the time range, the least and
/// the greatest; of each sum its end; all that may not be thinned.
fn holds(stored: &BTreeMap<String, Points>, found: &BTreeMap<String, Points>) {
    assert_eq!(
        stored.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>(),
        "names and types stay"
    );
    for (name, all) in stored {
        let left = &found[name];
        assert!(
            left.windows(2).all(|pair| pair[0] != pair[1]),
            "{name} twice"
        );
        assert!(
            left.iter().all(|point| all.contains(point)),
            "{name} made up"
        );
        if name.ends_with("gauge") {
            for part in all.chunk_by(|a, b| a.0 / STEP == b.0 / STEP) {
                let same = |(at, _): &&(u64, i64)| at / STEP == part[0].0 / STEP;
                let here: Points = left.iter().filter(same).copied().collect();
                let ends = |points: &[(u64, i64)]| {
                    let values = || points.iter().map(|(_, value)| *value);
                    let times = (points.first().map(|p| p.0), points.last().map(|p| p.0));
                    (times, values().min(), values().max())
                };
                assert_eq!(ends(&here), ends(part), "{name}");
            }
        } else if name.starts_with("total") {
            assert_eq!(left.last(), all.last());
        } else {
            assert_eq!(left, all, "{name} stays whole");
        }
    }
}

fn metrics_of(frames: &BTreeMap<u64, Frame>) -> BTreeMap<String, Points> {
    let metrics = frames.values().map(|frame| &frame.batch);
    let metrics = metrics.filter(|batch| batch.signal == Signal::Metrics);
    points(metrics.map(|batch| (batch.codec, &batch.body)))
}

#[test]
pub(super) fn p15_thinning_keeps_what_it_promises_at_every_cut() {
    let (world, stored) = filled();
    let before = world.core.log.as_ref().unwrap().usage();
    drop(world.core);
    let start = |disk: &Simulated| {
        let mut core = open(&PLAN, disk, 2);
        core.rewrite = Some(Box::new(Rewriter));
        core
    };
    let logs = |found: &BTreeMap<u64, Frame>| {
        let logs = found.values().filter(|f| f.batch.signal == Signal::Logs);
        logs.map(|f| f.batch.body.clone()).collect::<Vec<_>>()
    };
    let untouched = drain(&mut start(&world.disk.fork()));
    // What it comes to, without a cut.
    let disk = world.disk.fork();
    let mut core = start(&disk);
    let times = (world.at, world.at + 1500 * SECOND);
    assert!(thin_all(&mut core, times) > 3, "something is thinned");
    assert!(core.log.as_ref().unwrap().usage() < before / 6 * 5);
    assert!(core.log.as_ref().unwrap().usage() <= PLAN.quota);
    let (frames, items) = (lost_to(&core, Reason::Thinned), lost_items(&core));
    let found = drain(&mut core);
    holds(&stored, &metrics_of(&found));
    assert_eq!(logs(&found), logs(&untouched), "others stay as they were");
    assert_eq!((untouched.len() - found.len()) as u64, frames);
    let left = |found: &BTreeMap<u64, Frame>| -> u64 {
        found.values().map(|f| u64::from(f.batch.items)).sum()
    };
    assert_eq!(left(&untouched) - left(&found), items);
    // And with one at every call.
    for cut in 1.. {
        let disk = world.disk.fork();
        let mut core = start(&disk);
        let calls = disk.state().calls;
        disk.state().cut = Some(calls + cut);
        thin_all(&mut core, (times.0, times.0 + 400 * SECOND));
        if !disk.state().dead {
            assert!(cut > 20, "it reaches the disk");
            break;
        }
        disk.crash();
        let mut core = start(&disk);
        let lost = lost_to(&core, Reason::Thinned);
        let names = disk.files().into_iter().map(|(name, _)| name);
        assert!(
            !names.into_iter().any(|name| name.ends_with(".new")),
            "tidied up"
        );
        let found = drain(&mut core);
        holds(&stored, &metrics_of(&found));
        assert_eq!((untouched.len() - found.len()) as u64, lost, "cut {cut}");
        assert_eq!(lost_to(&core, Reason::Damaged), 0);
    }
}

#[test]
pub(super) fn what_was_read_under_a_wrong_clock_goes_out_with_the_time_it_would_have_had() {
    let mut world = World::new(Plan { seed: 52, ..CALM });
    world.core.rewrite = Some(Box::new(Rewriter));
    let mut dice = Dice::new(52);
    // It booted in 1970, by an hour wrong once, and then right.
    let right = 1_700_000_000 * SECOND;
    for (n, ahead) in [0, 0, right - 3600 * SECOND, right].into_iter().enumerate() {
        let stamp = Stamp {
            unix_ns: ahead + world.at,
            boot_ns: world.at,
        };
        let now = super::log::Now {
            stamp,
            synchronised: ahead == right,
        };
        let batch = Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Identity,
            items: 13,
            first: stamp,
            last: stamp,
            context: None,
            body: request(&mut dice, stamp.unix_ns),
        };
        world.core.store(batch, now).unwrap();
        if n == 0 {
            assert!(world.core.flush(Class::Normal, now));
        }
        world.at += 100 * SECOND;
    }
    // Slewing afterwards must not give a repeat other times.
    for slewed in [0, 1, SECOND] {
        world.core.trust(Stamp {
            unix_ns: right + world.at + slewed,
            boot_ns: world.at,
        });
    }
    let found = drain(&mut world.core);
    assert_eq!(found.len(), 4);
    for (n, frame) in found.values().enumerate() {
        let expected = right + SECOND + n as u64 * 100 * SECOND;
        assert_eq!(frame.batch.first.unix_ns, expected);
        let points = points([(frame.batch.codec, &frame.batch.body)].into_iter());
        assert_eq!(points["gauge gauge"][0].0, expected);
        assert_eq!(
            frame.batch.codec == Codec::Identity,
            n == 3,
            "what is right stays"
        );
    }
}

#[test]
fn a_segment_that_a_cursor_is_inside_is_never_thinned_and_a_failing_disk_costs_nothing() {
    let (world, stored) = filled();
    let disk = world.disk.fork();
    let mut core = open(&PLAN, &disk, 2);
    core.rewrite = Some(Box::new(Rewriter));
    core.link(OTLP, true);
    let mut open_frames = Vec::new();
    let mut seen = BTreeMap::new();
    for _ in 0..3 {
        let frame = core.next(OTLP, Lane::Backlog, Signals::ALL).unwrap();
        open_frames.push(frame.id);
        seen.insert(frame.id.seq, frame);
    }
    disk.state().faults = Some(7);
    let times = (world.at, world.at + 4000 * SECOND);
    thin_all(&mut core, times);
    disk.state().faults = None;
    for id in open_frames {
        core.settle(OTLP, id, &Outcome::Delivered);
    }
    let rest = drain(&mut core);
    seen.extend(rest);
    holds(&stored, &metrics_of(&seen));
    assert_eq!(
        lost_to(&core, Reason::Damaged) + lost_to(&core, Reason::Removed),
        0
    );
}
