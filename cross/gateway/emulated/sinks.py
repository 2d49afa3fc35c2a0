"""What stands on this side, which keeps its power: a collector, a broker, and a
name server that takes its time; on IPv4 and IPv6."""

import gzip
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import Failed
from rig.broker import Broker


WITH_REASON = ("sonde.boot.reason", "sonde.boot.count", "sonde.agent.restarts")


def decoded(body):
    """(instance, tick number, time in s) of each tick, all metric names, and
    (instance, name, reason, value) of what tells why something ended."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    ticks, names, reasons = [], set(), set()
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                names.add(metric.name)
                if metric.name == "sonde.sampler.tick":
                    for point in metric.gauge.data_points:
                        ticks.append((attributes["service.instance.id"], point.as_int, point.time_unix_nano / 1e9))
                if metric.name in WITH_REASON:
                    for point in (metric.gauge if metric.HasField("gauge") else metric.sum).data_points:
                        of = {one.key: one.value.string_value for one in point.attributes}
                        value = point.as_int if point.HasField("as_int") else point.as_double
                        reasons.add((attributes["service.instance.id"], metric.name, of.get("sonde.reason", ""), value))
    return ticks, names, reasons


def text_of(value):
    """An attribute's value, as text."""
    return str(getattr(value, value.WhichOneof("value") or "string_value"))


def events(body):
    """(event name, instance, attributes) of each log record that is an event."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    came = []
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        instance = {one.key: one.value.string_value for one in resource.resource.attributes}["service.instance.id"]
        for scope in resource.scope_logs:
            for record in scope.log_records:
                if record.event_name:
                    came.append((record.event_name, instance, {one.key: text_of(one.value) for one in record.attributes}))
    return came


class Book:
    """What arrived on one way."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ticks, self.names, self.reasons, self.repeats = {}, set(), set(), 0

    def take(self, body):
        ticks, names, reasons = decoded(body)
        with self.lock:
            self.names |= names
            self.reasons |= reasons
            for instance, tick, when in ticks:
                seen = self.ticks.setdefault(instance, {})
                self.repeats += tick in seen
                seen[tick] = when

    def holes(self):
        """instance -> ticks that are missing before the last one that came."""
        with self.lock:
            return {
                instance: sorted(set(range(1, max(seen) + 1)) - seen.keys())
                for instance, seen in self.ticks.items()
            }


class Collector(ThreadingHTTPServer):
    """As much of an OTLP collector as it takes."""

    daemon_threads = True

    def __init__(self, cloud, address, port):
        self.cloud = cloud
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        cloud = self.server.cloud
        secret = self.headers.get("authorization")
        allowed = cloud.secret is None or secret == cloud.secret
        if allowed and self.path == "/v1/logs":
            cloud.events += events(body)
        if allowed and self.path == "/v1/metrics":
            cloud.otlp.take(body)
            cloud.secrets.add(secret)
            cloud.families.add(self.server.address_family)
        self.send_response(200 if allowed else 401)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Cloud:
    """Both ways' ends. `secret`: what the collector wants as `Authorization`; None: nothing."""

    def __init__(self):
        self.otlp, self.mqtt = Book(), Book()
        self.secret, self.secrets, self.families = None, set(), set()
        # What came as log records that are events, in the order of its arrival.
        self.events = []
        self.collector = Collector(self, "127.0.0.1", 0)
        self.http = self.collector.server_port
        Collector(self, "::1", self.http)
        self.broker = Broker(self.arrived)
        self.port = self.broker.port
        self.brokers = [self.broker, Broker(self.arrived, ("::1", self.port))]
        for one in self.brokers:
            one.link(True)

    def arrived(self, topic, payload, properties):
        if topic.endswith("/telemetry/metrics"):
            gzipped = properties.get("content-encoding") == "gzip"
            self.mqtt.take(gzip.decompress(payload) if gzipped else payload)

    def books(self):
        return (("collector", self.otlp), ("broker", self.mqtt))


class SlowNames:
    """A name server on port 53 of this machine's loopback, which the emulated
    network shows as 10.0.2.2. It knows one name, and answers late."""

    def __init__(self, name, address, seconds):
        self.name, self.address, self.seconds, self.asked = name, address, seconds, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.bind(("127.0.0.1", 53))
        except OSError as error:
            raise Failed(f"no name server could be put on 127.0.0.1:53 (root, and nobody else on it): {error}") from None
        # So that it notices when it is closed.
        self.socket.settimeout(0.5)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(512)
            except TimeoutError:
                continue
            except OSError:
                return
            self.asked += 1
            threading.Timer(self.seconds, self._answer, (query, peer)).start()

    def _answer(self, query, peer):
        # RFC 1035, 4.1: the question comes back; A with an address, anything else without.
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        wanted = b"".join(bytes([len(part)]) + part.encode() for part in self.name.split(".")) + b"\0"
        known = question[:-4].lower() == wanted
        (kind,) = struct.unpack(">H", question[-4:-2])
        answer = known and kind == 1
        head = query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, int(answer), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(self.address) if answer else b""
        try:
            self.socket.sendto(head + question + record, peer)
        except OSError:
            pass  # closed meanwhile

    def close(self):
        self.socket.close()
