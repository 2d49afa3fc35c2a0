"""As much of an MQTT 5 broker as the agent needs, with a link that can be down.

It runs on the side that keeps its power, and remembers every message before it
acknowledges it. Source: MQTT 5.0 (OASIS). Only QoS 0 and 1, no forwarding.
"""

import socket
import struct
import threading

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14

# How each property's value is stored (2.2.2.2): a width in bytes, or a form.
PROPERTY = {
    0x01: 1, 0x02: 4, 0x03: "text", 0x08: "text", 0x09: "text", 0x0B: "varint",
    0x11: 4, 0x12: "text", 0x13: 2, 0x15: "text", 0x16: "text", 0x17: 1, 0x18: 4,
    0x19: 1, 0x1A: "text", 0x1C: "text", 0x1F: "text", 0x21: 2, 0x22: 2, 0x23: 2,
    0x24: 1, 0x25: 1, 0x26: "pair", 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip


class Broker:
    """`arrived(topic, payload, user_properties)` is called once for each
    PUBLISH, before it is acknowledged."""

    def __init__(self, arrived, address=("127.0.0.1", 0)):
        self.arrived = arrived
        self.lock = threading.Lock()
        self.up = False
        self.peers = set()
        self.refused = 0
        self.server = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server.bind(address)
        self.server.listen(16)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def link(self, up):
        """Down: connections end, and new ones are closed at once."""
        with self.lock:
            self.up = up
            peers = [] if up else list(self.peers)
        for peer in peers:
            try:
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while True:
            peer, _ = self.server.accept()
            with self.lock:
                if self.up:
                    self.peers.add(peer)
                else:
                    self.refused += 1
                    peer.close()
                    continue
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with peer, peer.makefile("rb") as stream:
            try:
                while self._packet(peer, stream):
                    pass
            except (EOFError, OSError):
                pass  # the link or the power went
            finally:
                with self.lock:
                    self.peers.discard(peer)

    def _packet(self, peer, stream):
        first = stream.read(1)
        if not first:
            return False
        kind, flags = first[0] >> 4, first[0] & 15
        body = Reader(read_exactly(stream, read_varint(stream)))
        if kind == CONNECT:
            # No session, receive maximum 16, assigned keep-alive and the rest by default.
            send(peer, CONNACK << 4, b"\0\0" + properties(b"\x21" + struct.pack(">H", 16)))
        elif kind == PUBLISH:
            self._publish(peer, flags, body)
        elif kind == SUBSCRIBE:
            number = body.take(2)
            body.properties()
            codes = b""
            while body.left():
                body.text()
                codes += bytes([min(body.take(1)[0] & 3, 1)])
            send(peer, SUBACK << 4, number + properties() + codes)
        elif kind == UNSUBSCRIBE:
            send(peer, UNSUBACK << 4, body.take(2) + properties() + b"\0")
        elif kind == PINGREQ:
            send(peer, PINGRESP << 4, b"")
        elif kind == DISCONNECT:
            return False
        return True

    def _publish(self, peer, flags, body):
        topic = body.text()
        number = body.take(2) if flags & 6 else None
        pairs = body.properties()
        with self.lock:
            if not self.up:
                raise EOFError
        self.arrived(topic, body.rest(), pairs)
        if number:
            send(peer, PUBACK << 4, number)


class Reader:
    """Takes a packet's body apart."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, length):
        if length > self.left():
            raise EOFError
        self.at += length
        return self.data[self.at - length : self.at]

    def rest(self):
        return self.take(self.left())

    def varint(self):
        return read_varint(self)

    def read(self, length):
        return self.take(length)

    def text(self):
        (length,) = struct.unpack(">H", self.take(2))
        return self.take(length).decode()

    def properties(self):
        """The user properties; others are stepped over."""
        inner, pairs = Reader(self.take(self.varint())), {}
        while inner.left():
            form = PROPERTY[inner.varint()]
            if form == "pair":
                name = inner.text()
                pairs[name] = inner.text()
            elif form == "text":
                inner.take(struct.unpack(">H", inner.take(2))[0])
            elif form == "varint":
                inner.varint()
            else:
                inner.take(form)
        return pairs


def properties(data=b""):
    return bytes([len(data)]) + data


def send(peer, first, body):
    length, head = len(body), bytes([first])
    while True:
        length, low = divmod(length, 128)
        head += bytes([low | (128 if length else 0)])
        if not length:
            break
    peer.sendall(head + body)


def read_exactly(stream, length):
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data


def read_varint(stream):
    value = shift = 0
    while True:
        (byte,) = read_exactly(stream, 1)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
