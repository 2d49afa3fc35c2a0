"""A cloud service that sends one command to a gateway and waits for the answer.

Nothing in it is Sonde's: the OpenTelemetry SDK makes its spans and carries the
context, paho-mqtt the messages. It prints one JSON line a response; the last
line is {"trace": ..., "responses": [...]}.

    cloud.py --broker PORT --collector URL --command TOPIC --answers TOPIC
             [--arguments JSON] [--expiry S] [--unsampled] [--patience S] [--correlation TEXT]

Its context carries the tracestate `vendor=1` and the baggage `tenant=seven`.
"""

import argparse
import json
import queue
import sys
import time

import paho.mqtt.client as mqtt
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, TraceState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

ENDS = {"done", "refused"}


class Stated(Sampler):
    """Samples all or nothing, and sets a tracestate."""

    def __init__(self, decision):
        self.decision = decision

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        return SamplingResult(self.decision, attributes, TraceState([("vendor", "1")]))

    def get_description(self):
        return "Stated"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", type=int, required=True)
    parser.add_argument("--collector", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--answers", required=True)
    parser.add_argument("--arguments", default="")
    parser.add_argument("--expiry", type=int)
    parser.add_argument("--unsampled", action="store_true")
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--correlation", default="one")
    return parser.parse_args()


def main():
    said = arguments()
    provider = TracerProvider(
        resource=Resource.create({"service.name": "cloud"}),
        sampler=Stated(Decision.DROP if said.unsampled else Decision.RECORD_AND_SAMPLE))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(said.collector + "/v1/traces")))
    tracer = provider.get_tracer("cloud")

    came = queue.Queue()
    subscribed = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="cloud", protocol=mqtt.MQTTv5)
    client.on_message = lambda _client, _data, message: came.put(message)
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.connect("127.0.0.1", said.broker, 30)
    client.loop_start()
    client.subscribe(said.answers, qos=1)
    subscribed.get(timeout=20)

    responses = []
    context.attach(baggage.set_baggage("tenant", "seven"))
    with tracer.start_as_current_span("cloud request", kind=SpanKind.SERVER) as root:
        with tracer.start_as_current_span("publish command", kind=SpanKind.PRODUCER):
            carrier = {}
            propagate.inject(carrier)
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = said.answers
            properties.CorrelationData = said.correlation.encode()
            properties.UserProperty = list(carrier.items())
            if said.expiry is not None:
                properties.MessageExpiryInterval = said.expiry
            client.publish(said.command, said.arguments, qos=1, properties=properties).wait_for_publish(20)
        until = time.monotonic() + said.patience
        while time.monotonic() < until:
            try:
                message = came.get(timeout=max(0.05, until - time.monotonic()))
            except queue.Empty:
                break
            carried = dict(getattr(message.properties, "UserProperty", []))
            payload = json.loads(message.payload)
            with tracer.start_as_current_span(
                    "process response", context=propagate.extract(carried), kind=SpanKind.CONSUMER):
                one = {
                    "payload": payload,
                    "correlation": getattr(message.properties, "CorrelationData", b"").decode(),
                    "properties": carried,
                }
            responses.append(one)
            print(json.dumps(one), flush=True)
            if payload["state"] in ENDS:
                break
        trace_id = trace.format_trace_id(root.get_span_context().trace_id)
    provider.shutdown()
    client.disconnect()
    client.loop_stop()
    print(json.dumps({"trace": trace_id, "responses": responses}), flush=True)
    return 0 if responses else 1


sys.exit(main())
