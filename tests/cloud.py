"""A cloud service that sends commands and reads the answers, with other
people's code: paho-mqtt for MQTT 5.

Usage: cloud.py serve PORT TOPIC...    JSON requests by line in, what comes out
       cloud.py figures PORT PREFIX JOB COUNT

A request: {"topic", "payload", "correlation", "response_topic", "expiry",
"qos", "retain", "properties": [[key, value]...], "count"}; with `count` so many are sent in
one go, a number appended to each correlation.
"""

import json
import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def connect(port, topics, on_message):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    ready = queue.Queue()

    def on_connect(client, _userdata, _flags, reason, _properties):
        if reason.is_failure:
            sys.exit(f"the broker refused: {reason}")
        client.subscribe([(topic, mqtt.SubscribeOptions(qos=1)) for topic in topics])

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: ready.put(True)
    client.on_message = on_message
    client.max_inflight_messages_set(1000)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port, keepalive=60)
    client.loop_start()
    ready.get(timeout=10)
    return client


def publish(client, request, number=""):
    properties = Properties(PacketTypes.PUBLISH)
    if request.get("response_topic"):
        properties.ResponseTopic = request["response_topic"]
    if request.get("correlation") is not None:
        properties.CorrelationData = (request["correlation"] + number).encode()
    if request.get("expiry") is not None:
        properties.MessageExpiryInterval = request["expiry"]
    if request.get("properties"):
        properties.UserProperty = [tuple(one) for one in request["properties"]]
    return client.publish(
        request["topic"],
        request.get("payload", ""),
        qos=request.get("qos", 1),
        retain=request.get("retain", False),
        properties=properties,
    )


def serve(port, topics):
    def on_message(_client, _userdata, message):
        more = message.properties
        correlation = getattr(more, "CorrelationData", b"").decode(errors="replace")
        print(
            json.dumps(
                {
                    "topic": message.topic,
                    "payload": message.payload.decode(errors="replace"),
                    "correlation": correlation,
                    "content_type": getattr(more, "ContentType", None),
                    "properties": getattr(more, "UserProperty", []),
                }
            ),
            flush=True,
        )

    client = connect(port, topics, on_message)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        count = request.get("count")
        if count is None:
            publish(client, request).wait_for_publish(10)
        else:
            for number in range(count):
                publish(client, request, str(number))
    client.loop_stop()


def figures(port, prefix, job, count):
    answers = queue.Queue()

    def on_message(_client, _userdata, message):
        answers.put((time.monotonic(), message.properties.CorrelationData, message.payload))

    client = connect(port, [f"{prefix}/response/#"], on_message)
    first, last, ran = [], [], []
    for number in range(count):
        request = {"topic": f"{prefix}/command/{job}", "correlation": f"f{number}", "expiry": 600}
        sent = time.monotonic()
        publish(client, request)
        seen = None
        while True:
            at, correlation, payload = answers.get(timeout=30)
            if correlation.decode() != f"f{number}":
                continue
            answer = json.loads(payload)
            seen = seen or at
            if answer["state"] == "done":
                first.append((seen - sent) * 1000)
                last.append((at - sent) * 1000)
                ran.append(answer["duration_s"] * 1000)
                break
            if answer["state"] == "refused":
                sys.exit(f"refused: {answer}")

    def quantiles(values):
        values = sorted(values)
        at = lambda part: round(values[min(len(values) - 1, int(len(values) * part))], 2)
        return {"p50": at(0.5), "p99": at(0.99), "max": at(1)}

    beside = [whole - job for whole, job in zip(last, ran)]
    figures = {"first_answer_ms": first, "done_ms": last, "job_ms": ran, "beside_the_job_ms": beside}
    print(json.dumps({name: quantiles(values) for name, values in figures.items()} | {"count": count}))


def main():
    mode, port, *rest = sys.argv[1:]
    if mode == "serve":
        serve(int(port), rest)
    else:
        prefix, job, count = rest
        figures(int(port), prefix, job, int(count))


main()
