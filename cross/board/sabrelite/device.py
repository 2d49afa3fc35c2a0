"""The device under test: keeps its SD card when the power goes."""

import random
import time

from . import ROOT, TARGET
from .image import card_image, device_tree, initrd
from .machine import Machine
from emulated import ANSWER, BOOT, Failed
from emulated.device import Gateway
from emulated.sinks import Book, Cloud
from rig.disk import Disk, Fate

CONFIG = """[gauges]
interval = "1s"
[batch]
length = "2s"
[clock]
trust = "file:/run/clock-set"
[spool]
loss_window = "5s"
[uplink.otlp]
endpoint = "http://cloud:{http}"
backoff_min = "200ms"
backoff_max = "2s"
first_send_jitter = "0s"
timeout = "10s"
[uplink.mqtt]
url = "mqtt://cloud:{mqtt}"
required = true
backoff_min = "200ms"
backoff_max = "2s"
first_send_jitter = "0s"
timeout = "10s"
keep_alive = "10s"
[route]
metrics = ["otlp", "mqtt"]
"""


class Readings(Book):
    """Also remembers what each series said last, and when."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def take(self, body):
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        super().take(body)
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in [*metric.gauge.data_points, *metric.sum.data_points]:
                        value = point.as_double if point.HasField("as_double") else point.as_int
                        identity = {one.key: one.value.string_value for one in point.attributes}.get("hw.id")
                        with self.lock:
                            self.values.setdefault((metric.name, identity), []).append((point.time_unix_nano / 1e9, value))

    def of(self, name, identity):
        """All that came of one series: (time in s, value)."""
        with self.lock:
            return list(self.values.get((name, identity), []))

    def latest(self, name, identity):
        """By the time of the reading, or None."""
        return max(self.of(name, identity), default=(None, None))[1]


class Board(Gateway):
    """The gateway of `cross/gateway/test`, with BusyBox in place of systemd."""

    def __init__(self, folder, a):
        self.folder, self.a, self.rng = folder, a, random.Random(a.seed)
        self.cloud = Cloud()
        self.cloud.otlp, self.cloud.mqtt = self.otlp, self.mqtt = Readings(), Readings()
        self.config = CONFIG.format(http=self.cloud.http, mqtt=self.cloud.port)
        packages = ROOT / "target/cross" / ("fast/packages" if a.fast else "packages")
        found = sorted(packages.glob(f"sonde-*-{TARGET}.tar.gz"))
        if not found:
            raise SystemExit("board: no package; run: cross/build armv7 && cross/package armv7")
        self.package = found[-1].name
        self.image = card_image(folder, found[-1])
        device_tree(folder / "board.dtb")
        (folder / "initrd").write_bytes(initrd())
        self.machine, self.boots, self.said = None, 0, []
        self.began = time.time()

    def boot(self, words=(), clock=True, link=True):
        """Until there is a shell; in s. `clock`: with the right time then, as from a GPS; `link`: with the cable in."""
        began = time.monotonic()
        self.disk = Disk(self.image, str(self.folder / "disk.sock"))
        self.machine = Machine(self.folder, self.disk.path, list(words), self.a.verbose)
        self.boots += 1
        self.since = time.time()
        if not link:
            self.machine.link(False)
        self.machine.login()
        took = time.monotonic() - began
        if clock:
            self.set_clock()
        return took

    def set_clock(self):
        """What a GPS daemon would do."""
        self.machine.must(f"date -s @{time.time():.0f} && touch /run/clock-set")

    def off(self):
        """An orderly end."""
        self.machine.type("reboot")
        self.machine.ended(BOOT)
        self.image, _ = self.disk.cut(Fate(0, 0, 4096), self.rng)
        self._gone()

    def configure(self, more=""):
        """A configuration of our own, by a reload that must be taken."""
        text = self.config + more
        self.machine.must(f"cat >/etc/sonde/sonde.toml <<'END'\n{text}\nEND\nsonde check && /etc/init.d/S90sonde reload")

    def restart(self):
        self.machine.must("/etc/init.d/S90sonde restart")
        return self.agent()

    def wait(self, what, holds, seconds=ANSWER):
        """Asks seldom: a status costs this board a good part of a second."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(1)

    def join(self, user, group):
        """What `addgroup USER GROUP` does, where there is one."""
        self.machine.must(f"sed -i '/^{group}:/{{s/:$/:{user}/;t;s/$/,{user}/}}' /etc/group; grep -q '^{group}:.*{user}' /etc/group")

    def gauge(self, name, **attributes):
        """The one series of this name with these attributes (dots written __), as the status shows it."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        for one in self.status()["gauges"]:
            if one["name"] == name and wanted.items() <= one.get("attributes", {}).items():
                return one
        raise Failed(f"no series {name} {wanted}")

    def arrives(self, name, identity, value):
        """Waits until this value is the latest of the series on both ways."""
        for way, book in self.cloud.books():
            def there(book=book):
                latest = book.latest(name, identity)
                return latest is not None and abs(latest - value) <= 1e-9 * abs(value)

            try:
                self.wait("", there)
            except Failed:
                raise Failed(f"{name} of {identity} should be {value} at the {way}, is {book.latest(name, identity)}") from None

    def right_times(self, instance, since):
        """Every tick that came is of when it was sampled, as near as can be told from here."""
        for name, book in self.cloud.books():
            with book.lock:
                ticks = sorted(book.ticks[instance].items())
            wrong = {tick: when for tick, when in ticks if not since - 2 < when < time.time() + 2}
            if wrong or [when for _, when in ticks] != sorted(when for _, when in ticks):
                raise Failed(f"times at the {name} that cannot be, since {since:.0f}: {wrong or ticks}")

    def mended(self):
        """After a step that failed: as the next one wants to find it."""
        if self.machine is None or self.machine.process.poll() is not None:
            if self.machine:
                self.cut()
            self.boot()
        self.machine.link(True)
        self.machine.run("echo 21a8000.i2c > /sys/bus/platform/drivers/imx-i2c/bind")
        self.set_clock()
        self.restart()

    def sensor(self, name):
        """Its line in the status; one without anything before it was asked."""
        for one in self.status()["sensors"]:
            if one["name"] == name:
                return one
        return {"name": name, "state": None, "reads": 0, "failures": 0, "missing": None}
