//! A scripted broker that misbehaves on command, made from rumqttc's own codec
//! over an in-memory pipe, and frames to send it.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PubAck, Publish,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::inbox::{Inbound, Inbox};
use super::link::{Frames, run};
use super::piece::{Piece, PieceId};
use super::reason::End;
use super::session::{Attempt, Keep, Plan, States, Verdict};
use super::topics::Topics;
use crate::frame::{Batch, Class, Codec, Frame, FrameId, Signal, Stamp, TraceContext};
use crate::uplink::Stop;

pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(super) fn frame(seq: u64, body: &[u8]) -> Frame {
    Frame {
        id: FrameId { epoch: 7, seq },
        batch: Batch {
            signal: Signal::Metrics,
            class: Class::Normal,
            codec: Codec::Gzip,
            items: 1,
            first: Stamp::default(),
            last: Stamp::default(),
            context: Some(TraceContext {
                trace_id: [0xab; 16],
                span_id: [0xcd; 8],
                flags: 1,
                state: "vendor=1".into(),
            }),
            body: Bytes::copy_from_slice(body),
        },
        resent: false,
    }
}

/// A real request of gauge points, gzipped.
pub(super) fn frame_of_points(seq: u64, points: u64) -> Frame {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
        number_data_point::Value,
    };
    use prost::Message as _;
    let point = |at: u64| NumberDataPoint {
        time_unix_nano: at,
        // Noise, so that packing does not make it tiny.
        value: Some(Value::AsInt(at.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64)),
        ..NumberDataPoint::default()
    };
    let gauge = Gauge {
        data_points: (1..=points).map(point).collect(),
    };
    let metrics = vec![Metric {
        name: "x".to_owned(),
        data: Some(Data::Gauge(gauge)),
        ..Metric::default()
    }];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            scope_metrics: vec![ScopeMetrics {
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let body = crate::uplink::split::gzip(&request.encode_to_vec()).expect("packs");
    frame(seq, &body)
}

pub(super) fn plan() -> Plan {
    Plan {
        client_id: "sonde-gw".to_owned(),
        topics: Topics::new("sonde/{device.id}", "gw"),
        keep_alive: KEEP_ALIVE,
        window: 4,
        expiry: Some(3600),
        timeout: Duration::from_secs(30),
        keep: Keep::Nothing,
    }
}

pub(super) fn attempt() -> Attempt {
    Attempt {
        states: States {
            online: Bytes::from_static(b"{\"state\":\"online\"}"),
            offline: Bytes::from_static(b"{\"state\":\"offline\"}"),
            stopped: Bytes::from_static(b"{\"state\":\"stopped\"}"),
        },
        ..Attempt::default()
    }
}

/// Frames from a queue; verdicts are kept. What is put off is not given out again.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Frame>,
    pub(super) settled: Vec<(u64, Verdict)>,
    pub(super) online: u32,
}

impl Queue {
    pub(super) fn of(frames: impl IntoIterator<Item = Frame>) -> Self {
        Self {
            waiting: frames.into_iter().collect(),
            ..Self::default()
        }
    }
}

impl Frames for Queue {
    fn online(&mut self) {
        self.online += 1;
    }

    fn ready(&mut self) -> impl Future<Output = ()> + Send {
        let any = !self.waiting.is_empty();
        async move {
            if !any {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn take(&mut self, _drain: bool) -> Option<Piece> {
        self.waiting.pop_front().map(Piece::whole)
    }

    fn settled(&mut self, id: PieceId, verdict: Verdict) {
        self.settled.push((id.frame.seq, verdict));
    }
}

/// The other side.
pub(super) struct Broker {
    pub(super) stream: DuplexStream,
    pub(super) buffer: BytesMut,
}

impl Broker {
    /// The next packet; `None`: the agent closed.
    pub(super) async fn hear(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the agent sent garbage: {error}"),
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(super) async fn hear_publish(&mut self) -> Publish {
        loop {
            match self.hear().await {
                Some(Packet::Publish(publish)) => return publish,
                Some(Packet::PingReq(_)) => {}
                other => panic!("wanted PUBLISH, got {other:?}"),
            }
        }
    }

    pub(super) async fn say(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).expect("encodes");
        self.say_bytes(&out).await;
    }

    pub(super) async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("agent listens");
    }

    pub(super) async fn ack(&mut self, pkid: u16) {
        self.say(Packet::PubAck(PubAck::new(pkid, None))).await;
    }

    /// CONNECT, CONNACK, birth and its acknowledgement.
    pub(super) async fn welcome(&mut self, properties: Option<ConnAckProperties>) {
        assert!(matches!(self.hear().await, Some(Packet::Connect(..))));
        self.say(accept(properties)).await;
        let birth = self.hear_publish().await;
        assert_eq!(birth.topic, "sonde/gw/state");
        self.ack(birth.pkid).await;
    }
}

pub(super) fn accept(properties: Option<ConnAckProperties>) -> Packet {
    Packet::ConnAck(ConnAck {
        session_present: false,
        code: ConnectReturnCode::Success,
        properties,
    })
}

pub(super) fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

/// Runs one connection against `script`; gives back how it ended.
pub(super) async fn meet<S, Fut>(
    plan: Plan,
    attempt: Attempt,
    queue: Queue,
    script: S,
) -> (End, Queue)
where
    S: FnOnce(Broker, Stop) -> Fut,
    Fut: Future<Output = ()>,
{
    meet_with(plan, attempt, queue, None, script).await
}

/// The same with somebody who takes commands.
pub(super) async fn meet_with<S, Fut>(
    plan: Plan,
    attempt: Attempt,
    mut queue: Queue,
    commands: Option<Inbound>,
    script: S,
) -> (End, Queue)
where
    S: FnOnce(Broker, Stop) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut inbox = Inbox::new(commands);
    let (near, far) = duplex(64 * 1024);
    let stop = Stop::default();
    let broker = Broker {
        stream: far,
        buffer: BytesMut::new(),
    };
    let script = script(broker, stop.clone());
    let (end, ()) = tokio::join!(
        run(near, &plan, &attempt, &mut queue, &mut inbox, &stop),
        script
    );
    (end, queue)
}

/// The end of a connection whose CONNECT is answered with `bytes`.
pub(super) async fn answered_with(bytes: &'static [u8]) -> End {
    let script = async |mut broker: Broker, _| {
        broker.hear().await;
        broker.say_bytes(bytes).await;
        broker.hear().await;
    };
    meet(plan(), attempt(), Queue::default(), script).await.0
}

pub(super) fn frames(count: u64) -> Queue {
    Queue::of((1..=count).map(|seq| frame(seq, b"body")))
}

pub(super) fn delivered(queue: &Queue) -> Vec<u64> {
    let taken = |(seq, verdict): &(u64, Verdict)| (*verdict == Verdict::Delivered).then_some(*seq);
    queue.settled.iter().filter_map(taken).collect()
}
