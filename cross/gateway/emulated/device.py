"""The device under test: keeps its disk when the power goes."""

import base64
import json
import random
import struct
import time

from . import ANSWER, BOOT, PACKAGES, ROOT, Failed
from .image import disk_image, initrd, renamed
from .machine import NETWORK, Machine
from .sinks import Cloud
from rig.disk import Disk, Fate

CONFIG = """[device]
id = "gateway-1"
[gauges]
interval = "1s"
[batch]
length = "2s"
[clock]
trust = "always"
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
LOSS_WINDOW = 5


def packages(fast):
    return ROOT / "target/cross/fast/packages" if fast else PACKAGES


class Gateway:
    """`status` and `wait` are how a step looks at it; `boot`, `cut` and `off` are its power."""

    def __init__(self, folder, a):
        self.folder, self.a, self.rng = folder, a, random.Random(a.seed)
        self.cloud = Cloud()
        self.otlp, self.mqtt = self.cloud.otlp, self.cloud.mqtt
        self.config = CONFIG.format(http=self.cloud.http, mqtt=self.cloud.port)
        found = sorted(packages(a.fast).glob("sonde_*_arm64.deb"))
        if not found:
            raise SystemExit("gateway: no package; run: cross/build aarch64 && cross/package aarch64")
        self.version = found[-1].name.split("_")[1]
        # The upgrade is a later version of the same program.
        later = renamed(found[-1], self.version + "+1", folder)
        self.package, self.later = found[-1].name, later.name
        self.image = disk_image(folder, [found[-1], later], self.config)
        (folder / "initrd").write_bytes(initrd())
        self.machine, self.boots, self.said = None, 0, []

    def boot(self, words=(), network=NETWORK, kernel="", slowest=0, resets=False):
        """Until there is a shell; in s. `slowest`: s that a flush of the disk takes at most;
        `resets`: what resets the machine does not end the emulator."""
        began = time.monotonic()
        self.disk = Disk(self.image, str(self.folder / "disk.sock"), slowest=slowest)
        self.machine = Machine(self.folder, self.disk.path, list(words), self.a.verbose, network, kernel, resets)
        self.boots += 1
        self.machine.login()
        return time.monotonic() - began

    def boot_to_agent(self, *rest, **more):
        """Until the agent answers; its status then."""
        self.boot(*rest, **more)
        return self.agent()

    def agent(self):
        self.wait("the agent answers", lambda: self.machine.run("sonde status --json >/dev/null")[0] == 0, BOOT)
        return self.status()

    def _gone(self):
        self.said += [f"=== boot {self.boots}", *self.machine.said]
        self.machine = None

    def reset(self, command):
        """The machine boots anew because of `command`; its memory keeps what no program overwrites."""
        identity = "cat /proc/sys/kernel/random/boot_id"
        before = self.machine.must(identity)
        self.machine.type(command)
        end = time.monotonic() + BOOT
        while True:
            try:
                self.machine.login()
                if (now := self.machine.run(identity, 10)[1]) and now != before:
                    break
            except Failed:
                pass
            if time.monotonic() > end or self.machine.process.poll() is not None:
                raise Failed(f"`{command}` brought no new boot within {BOOT} s")
        self.boots += 1
        return self.agent()

    def cut(self, unflushed=0):
        """The power goes; with `unflushed` while so many writes are on their way to the flash."""
        if unflushed:
            self.disk.stop_within_a_write(unflushed, 60)
        self.disk.stop()
        self.machine.process.kill()
        self.machine.process.wait()
        self.image, counts = self.disk.cut(Fate(0.4, 0.3, 4096), self.rng)
        self._gone()
        return counts

    def off(self):
        """An orderly end."""
        self.machine.type("systemctl poweroff")
        self.machine.ended(BOOT)
        self.image, _ = self.disk.cut(Fate(0, 0, 4096), self.rng)
        self._gone()

    def end(self):
        """Whatever it was doing."""
        if self.machine:
            self.machine.process.kill()
            self.machine.process.wait()
            self._gone()

    def status(self):
        return json.loads(self.machine.must("sonde status --json"))

    def ticks(self):
        return self.status()["agent"]["ticks"]

    def wait(self, what, holds, seconds=ANSWER):
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.2)

    def more_ticks(self, number):
        """Waits for so many more; how many there are then."""
        least = self.ticks() + number
        self.wait(f"{number} more ticks", lambda: self.ticks() >= least)
        return self.ticks()

    def instance(self):
        """What the agent that runs now calls this start of itself."""
        return self.status()["device"]["attributes"]["service.instance.id"]

    def new_instance(self, old, ticks=3):
        """Waits for a start after `old`, and for its first ticks on both ways."""
        def another():
            code, text = self.machine.run("sonde status --json 2>/dev/null")
            return code == 0 and json.loads(text)["device"]["attributes"]["service.instance.id"] != old
        self.wait("a new start", another, BOOT)
        instance = self.instance()
        self.both_have(instance, ticks)
        return instance

    def both_have(self, instance, tick):
        """Both ways have brought this tick of this process start."""
        for name, book in self.cloud.books():
            self.wait(f"tick {tick} at the {name}", lambda book=book: tick in book.ticks.get(instance, {}))

    def no_holes(self, instance):
        """Every tick up to the newest that came has come: the backlog may come last."""
        def holes():
            return {name: missing for name, book in self.cloud.books() if (missing := book.holes().get(instance))}
        try:
            self.wait("all ticks", lambda: not holes())
        except Failed:
            raise Failed(f"ticks of {instance} that never came: {holes()}") from None

    def mended(self):
        """After a step that failed: as the next one wants to find it."""
        if self.machine is None or self.machine.process.poll() is not None:
            if self.machine:
                self.cut()
            self.boot()
        self.machine.link(True)
        self.cloud.secret = None
        for one in self.cloud.brokers:
            one.link(True)
        self.machine.must(
            "rm -rf /etc/systemd/system/sonde.service.d /run/systemd/system/sonde.service.d /var/full; "
            "[ ! -e /root/hosts ] || cp /root/hosts /etc/hosts; [ ! -e /root/fstab ] || cp /root/fstab /etc/fstab; "
            "cp /root/sonde.toml /etc/sonde/sonde.toml; systemctl daemon-reload; systemctl restart sonde"
        )
        self.agent()

    def unit(self, *properties):
        """What systemd says of it."""
        names = ",".join(properties)
        lines = self.machine.must(f"systemctl show sonde -p {names}").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def drop_in(self, name, text):
        """`systemctl edit`, without an editor; no text: takes it away."""
        folder = "/etc/systemd/system/sonde.service.d"
        if text is None:
            self.machine.must(f"rm -f {folder}/{name}.conf; systemctl daemon-reload")
            return
        lines = " ".join(f"'{line}'" for line in ["[Service]", *text])
        self.machine.must(f"mkdir -p {folder}; printf '%s\\n' {lines} > {folder}/{name}.conf; systemctl daemon-reload")

    def first_bytes(self, path, length=256):
        return base64.b64decode(self.machine.must(f"head -c {length} {path} | base64 -w0"))

    def overwrite(self, path, data):
        text = base64.b64encode(data).decode()
        self.machine.must(f"echo {text} | base64 -d | dd of={path} conv=notrunc status=none && sync {path}")


def of_version(header, version):
    """A segment's two headers (docs/SPOOL.md) as a program of that format would write them."""
    from spool_reader import crc32c

    copies = []
    for copy in (header[:128], header[128:256]):
        head = copy[:8] + struct.pack("<H", version) + copy[10:124]
        copies.append(head + struct.pack("<I", crc32c(head)))
    return b"".join(copies)
