//! A hostile broker, and hostile commands through an honest one; see [`crate::fuzz`].

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};

use super::packet::{Incoming, MAX_INCOMING, decode};
use crate::fuzz::{corpus, run};
use crate::work::command;

/// A command as a cloud service sends it.
fn publish(payload: &str, qos: QoS, properties: PublishProperties) -> Vec<u8> {
    let topic = "sonde/gw/command/ping";
    let mut publish = Publish::new(topic, qos, payload.to_owned(), Some(properties));
    publish.pkid = if qos == QoS::AtMostOnce { 0 } else { 7 };
    let mut out = BytesMut::new();
    Packet::Publish(publish).write(&mut out, None).unwrap();
    out.to_vec()
}

fn packets() -> Vec<Vec<u8>> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let full = PublishProperties {
        message_expiry_interval: Some(600),
        response_topic: Some("sonde/gw/response/ping".to_owned()),
        correlation_data: Some(Bytes::from_static(b"r-4711")),
        content_type: Some("application/json".to_owned()),
        user_properties: vec![
            pair(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            pair("tracestate", "a=b,c=d"),
            pair("baggage", "user=x;p=1, n=%20"),
        ],
        ..PublishProperties::default()
    };
    let none = PublishProperties::default;
    vec![
        publish(
            "{\"slot\": 1, \"name\": \"\\u00e4\"}",
            QoS::AtLeastOnce,
            full,
        ),
        publish("", QoS::AtMostOnce, none()),
        publish("{}", QoS::ExactlyOnce, none()),
        // CONNACK with receive maximum, largest packet, reason; SUBACK, PUBACK, DISCONNECT, PINGRESP.
        b"\x20\x13\x01\x00\x10\x21\x00\x10\x27\x00\x00\x80\x00\x1f\x00\x05hello".to_vec(),
        b"\x20\x03\x00\x87\x00".to_vec(),
        b"\x90\x04\x00\x01\x00\x01".to_vec(),
        b"\x40\x0a\x00\x01\x97\x06\x1f\x00\x03big".to_vec(),
        b"\xe0\x02\x8e\x00".to_vec(),
        b"\xd0\x00".to_vec(),
    ]
}

/// The first packet with a length that leads to its end.
fn mended(input: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = input.split_first() else {
        return Vec::new();
    };
    let long = rest.iter().take_while(|byte| **byte & 0x80 != 0).count();
    let body = rest.get(long + 1..).unwrap_or_default();
    let body = &body[..body.len().min(MAX_INCOMING as usize - 5)];
    let mut out = vec![*first];
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

#[test]
fn mqtt() {
    let target = |input: &[u8]| {
        for bytes in [input, &mended(input)] {
            let mut buffer = BytesMut::from(bytes);
            let mut desk = command::fuzz::Caller::new();
            loop {
                let before = buffer.len();
                let packet = decode(&mut buffer);
                let Ok(Some(packet)) = packet else { break };
                assert!(buffer.len() < before, "it stands still");
                if let Incoming::Publish { pkid, qos, message } = packet {
                    assert_eq!(pkid == 0, qos == 0);
                    if let Ok(message) = message {
                        desk.call(*message, pkid);
                    }
                }
            }
        }
    };
    let mut inputs = packets();
    inputs.extend(corpus("mqtt"));
    run("mqtt", &inputs, target);
}
