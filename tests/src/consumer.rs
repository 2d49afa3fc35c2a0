//! What a program that reads the broker does with the trace context it finds:
//! it goes on with the trace.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::ledger::{Delivery, Ledger};
use crate::trace_tree::{Forest, parse_traceparent};

/// The CONSUMER span of one delivery, child of the PRODUCER span that its
/// `traceparent` names; `None` without a valid one.
pub fn span(delivery: &Delivery) -> Option<Span> {
    let (trace_id, parent_span_id) = parse_traceparent(delivery.property("traceparent")?)?;
    // A consumer's id only has to differ from its parent's and be the same each time it is asked.
    let span_id = parent_span_id.iter().map(|byte| !byte).collect();
    Some(Span {
        trace_id,
        span_id,
        parent_span_id,
        name: "process telemetry/metrics".to_owned(),
        kind: SpanKind::Consumer.into(),
        start_time_unix_nano: delivery.received_unix_ns,
        end_time_unix_nano: delivery.decoded_unix_ns,
        ..Span::default()
    })
}

/// All spans of the agent's, and the consumer's of what came over MQTT.
pub fn forest(agent: &Ledger, mqtt: &Ledger) -> Forest {
    let own = agent.spans().into_iter().map(|(_, span)| span);
    Forest::of(own.chain(mqtt.deliveries.iter().filter_map(span)))
}

/// The trace of the delivery that waited longest between its PRODUCER span and
/// the consumer: the one that an outage held up.
pub fn longest_wait(forest: &Forest) -> Option<&Span> {
    forest
        .spans()
        .filter(|span| span.kind() == SpanKind::Consumer)
        .filter_map(|consumer| {
            let producer = forest.find(&consumer.trace_id, &consumer.parent_span_id)?;
            let wait = consumer
                .start_time_unix_nano
                .saturating_sub(producer.end_time_unix_nano);
            Some((wait, producer))
        })
        .max_by_key(|(wait, _)| *wait)
        .map(|(_, producer)| producer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn carried(traceparent: &str) -> Delivery {
        let mut delivery = sample::delivery(sample::frame("a", &[1]));
        delivery.received_unix_ns = 9;
        let property = ("traceparent".to_owned(), traceparent.to_owned());
        delivery.properties.push(property);
        delivery
    }

    #[test]
    fn a_consumer_goes_on_with_the_trace_it_was_given() {
        let producer = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![0xcd; 8],
            name: "publish".to_owned(),
            kind: SpanKind::Producer.into(),
            ..Span::default()
        };
        let consumer = span(&carried(&format!(
            "00-{}-{}-01",
            "ab".repeat(16),
            "cd".repeat(8)
        )));
        let forest = Forest::of([producer, consumer.unwrap()]);
        assert!(forest.tree(&[0xab; 16]).is_whole());
        assert_eq!(longest_wait(&forest).unwrap().name, "publish");
    }

    #[test]
    fn a_broken_traceparent_starts_nothing() {
        assert_eq!(span(&carried("00-xyz-01")), None);
    }
}
