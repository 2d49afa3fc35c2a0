"""Reads one telemetry message with other people's code: paho-mqtt for MQTT 5,
opentelemetry-proto for OTLP. Prints what it understood as one JSON object.

Usage: reference_client.py PORT TOPIC
"""

import gzip
import json
import sys

import paho.mqtt.client as mqtt
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)


def on_connect(client, _userdata, _flags, reason, _properties):
    if reason.is_failure:
        sys.exit(f"the broker refused: {reason}")
    client.subscribe(sys.argv[2], qos=1)


def on_message(client, _userdata, message):
    properties = dict(getattr(message.properties, "UserProperty", []))
    body = message.payload
    if properties.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    request = ExportMetricsServiceRequest.FromString(body)
    resource = request.resource_metrics[0].resource.attributes
    attributes = {one.key: one.value.string_value for one in resource}
    points = sum(
        len(metric.gauge.data_points) + len(metric.sum.data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
    print(
        json.dumps(
            {
                "points": points,
                "device": attributes.get("device.id"),
                "content_type": getattr(message.properties, "ContentType", None),
                "properties": properties,
            }
        )
    )
    client.disconnect()


def main():
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id="sonde-reference-client",
        protocol=mqtt.MQTTv5,
    )
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_forever()


main()
