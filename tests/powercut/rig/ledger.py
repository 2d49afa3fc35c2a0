"""What was promised, what came of it, and what must hold."""

import threading

from .guest import filler

FILLER = filler(32768)


class Ledger:
    """Hears the console of one gateway over all its boots, and what reached
    the other side. A problem is a sentence; `problems` collects them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.problems = []
        self.boot = 0
        # (topic, number) -> length, as acknowledged.
        self.acknowledged = {}
        self.delivered = set()
        # What the newest start found; None: it has not been told in full.
        self.found = set()
        self.listed = False
        self.refused = 0
        # Of what arrived: the highest number of each topic, and each frame's content.
        self.newest, self.frames = {}, {}
        self.repeats = 0

    def problem(self, text):
        if len(self.problems) < 20:
            self.problems.append(f"boot {self.boot}: {text}")

    def booted(self):
        with self.lock:
            self.boot += 1
            self.found, self.listed = set(), False

    def heard(self, line):
        """A line of the console."""
        words = line.split(" ")
        with self.lock:
            if words[0] == "ACK" and words[-1] == ".":
                self.acknowledged[words[1], int(words[2])] = int(words[3])
            elif words[0] == "SENT" and words[-1] == ".":
                self.delivered.add((words[1], int(words[2])))
            elif words[0] == "HAS" and words[-1] == ".":
                self._found(words[1], int(words[2]), int(words[3]), words[4])
            elif words[0] == "READY":
                self.listed = True
            elif words[0] == "NAK":
                self.refused += 1
            elif words[0] in ("BAD", "DIED", "MODULE", "UNMOUNTABLE"):
                self.problem(line)

    def _found(self, topic, number, length, frame):
        if self.acknowledged.get((topic, number), length) != length:
            self.problem(f"{topic} {number} has another length than was acknowledged")
        self._named(frame, (topic, number, length))
        self.found.add((topic, number))

    def arrived(self, topic, payload, pairs):
        """The broker has this; it will never forget it."""
        frame = pairs.get("sonde-frame")
        with self.lock:
            if frame:
                self._named(frame, (topic, payload))
            head, _, rest = payload.partition(b"\n")
            if not topic.startswith("t"):
                return
            try:
                said, number, length = head.decode().split(" ")
                number, length = int(number), int(length)
            except ValueError:
                return self.problem(f"{topic}: arrived in pieces: {head[:60]!r}")
            if said != topic or rest != FILLER[:length]:
                self.problem(f"{topic} {number}: not the bytes that were stored")
            if self.acknowledged.get((topic, number), length) != length:
                self.problem(f"{topic} {number} has another length than was acknowledged")
            if (topic, number) in self.delivered:
                self.repeats += 1
            elif number < self.newest.get(topic, 0):
                self.problem(f"{topic} {number} came after {self.newest[topic]}")
            self.newest[topic] = max(number, self.newest.get(topic, 0))
            self.delivered.add((topic, number))

    def _named(self, frame, content):
        """A frame's name stands for one content for ever."""
        if self.frames.setdefault(frame, hash(content)) != hash(content):
            self.problem(f"frame {frame} was two things")

    def outstanding(self):
        """Acknowledged, and not seen on the other side."""
        with self.lock:
            return self.acknowledged.keys() - self.delivered

    def check_found(self):
        """All that is outstanding must have been found by this start."""
        lost = self.outstanding() - self.found
        if lost:
            with self.lock:
                self.lose(lost)

    def lose(self, lost):
        """Each loss is told once."""
        self.problem(f"LOST {len(lost)} acknowledged messages, such as {sorted(lost)[:3]}")
        self.delivered |= lost
