"""A disk with a volatile write cache, served over NBD on a Unix socket.

What the guest wrote and did not flush is, when the power goes, kept, torn or
lost, write by write, as a seed decides. Killing the emulator alone could never
show that: the host would keep every byte.

    stable   what a flush has made safe
    pending  writes since then, in the order of their arrival
    view     stable with all of pending: what the guest reads

Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
fixed newstyle. FUA and trim are not offered: a guest that wants a write to last
has to flush.
"""

import os
import random
import socket
import struct
import threading
import time

OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY = 0x3E889045565A9
REQUEST = 0x25609513
REPLY = 0x67446698
READ, WRITE, DISCONNECT, FLUSH = range(4)
HAS_FLAGS, SEND_FLUSH = 1, 4
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7
UNSUPPORTED = 0x80000001
EIO, EINVAL = 5, 22


class Fate:
    """How a power cut treats what was not flushed: the chance that a write is
    kept, and that it is torn; the rest is lost. A torn write keeps a random set
    of its sectors."""

    def __init__(self, kept, torn, sector):
        self.kept, self.torn, self.sector = kept, torn, sector

    @classmethod
    def draw(cls, rng, sector):
        """Caches differ: some lose all, some nothing, most a part."""
        kept, torn = rng.choice([(0, 0), (1, 0), (0.4, 0.3), (0.4, 0.3), (0.7, 0.2), (0.1, 0.8)])
        return cls(kept, torn, sector)

    def apply(self, image, pending, rng):
        """Writes into `image` what survives of `pending`, in the order of its
        arrival: a drive forgets what it likes, but an older write to a sector
        never wins over a newer one that it kept. Returns how many were kept,
        torn and lost."""
        count = {"kept": 0, "torn": 0, "lost": 0}
        for at, data in pending:
            chance = rng.random()
            if chance < self.kept:
                image[at : at + len(data)] = data
                count["kept"] += 1
            elif chance < self.kept + self.torn and len(data) > self.sector:
                for piece in range(0, len(data), self.sector):
                    if rng.random() < 0.5:
                        part = data[piece : piece + self.sector]
                        image[at + piece : at + piece + len(part)] = part
                count["torn"] += 1
            else:
                count["lost"] += 1
        return count


class Disk:
    """Serves the bytes of `image` (a bytearray, taken over) until `cut`."""

    def __init__(self, image, path, lying=False, record=False, slowest=0):
        self.path = path
        # Seconds that a flush takes at most. The slower, the more cuts meet one.
        self.slowest = slowest
        self.stable = image
        self.view = bytearray(image)
        self.pending = []
        self.lying = lying
        # With `record`: every (offset, data) and, for a flush, None.
        self.log = [] if record else None
        self.bytes_written = self.writes = self.flushes = 0
        self.lock = threading.Lock()
        self.gone = False
        if os.path.exists(path):
            os.unlink(path)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        """The power goes now: no request is answered any more. To be called
        before the emulator is killed, or a flush that is under way would still
        take place."""
        with self.lock:
            self.gone = True

    def stop_within_a_write(self, least, seconds):
        """The power goes as soon as so many writes wait for their flush; if that
        does not come in time, then all the same. How many there are."""
        end = time.monotonic() + seconds
        while True:
            with self.lock:
                if len(self.pending) >= least or time.monotonic() > end:
                    self.gone = True
                    return len(self.pending)
            time.sleep(0.001)

    def cut(self, fate, rng):
        """Returns the image that a power cut leaves, and the counts."""
        self.stop()
        pending, image = self.pending, self.stable
        self.view = self.stable = self.pending = None
        self._close()
        counts = fate.apply(image, pending, rng)
        return image, counts

    def logged(self):
        """How many writes and flushes there were so far."""
        with self.lock:
            return len(self.log)

    def _close(self):
        try:
            # Wakes accept(), which would hold this object otherwise.
            self.server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.server.close()

    def _accept(self):
        while not self.gone:
            try:
                peer, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with peer, peer.makefile("rb") as stream:
            try:
                if self._handshake(peer, stream):
                    while self._request(peer, stream):
                        pass
            except (EOFError, OSError):
                pass  # the emulator was killed

    def _handshake(self, peer, stream):
        size, flags = len(self.view), HAS_FLAGS | SEND_FLUSH
        peer.sendall(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", 1 | 2))
        (client,) = struct.unpack(">I", exactly(stream, 4))
        while True:
            magic, option, length = struct.unpack(">8sII", exactly(stream, 16))
            exactly(stream, length)

            def reply(kind, body=b""):
                head = struct.pack(">QIII", OPTION_REPLY, option, kind, len(body))
                peer.sendall(head + body)

            if magic != OPTION_MAGIC:
                return False
            if option == EXPORT_NAME:
                padding = b"" if client & 2 else bytes(124)
                peer.sendall(struct.pack(">QH", size, flags) + padding)
                return True
            if option in (INFO, GO):
                reply(3, struct.pack(">HQH", 0, size, flags))
                reply(3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
                reply(1)
                if option == GO:
                    return True
            elif option == ABORT:
                reply(1)
                return False
            else:
                reply(UNSUPPORTED)

    def _request(self, peer, stream):
        magic, _, kind, cookie, at, length = struct.unpack(">IHHQQI", exactly(stream, 28))
        if magic != REQUEST or kind == DISCONNECT:
            return False
        data = exactly(stream, length) if kind == WRITE else b""
        error, answer = 0, b""
        if kind == FLUSH and self.slowest:
            time.sleep(random.uniform(0, self.slowest))
        with self.lock:
            if self.gone:
                return False
            if kind in (READ, WRITE) and at + length > len(self.view):
                error = EINVAL
            elif kind == READ:
                answer = bytes(self.view[at : at + length])
            elif kind == WRITE:
                self.view[at : at + length] = data
                self._wrote(at, data)
            elif kind == FLUSH:
                self._flushed()
            else:
                error = EINVAL
        peer.sendall(struct.pack(">IIQ", REPLY, error, cookie) + answer)
        return True

    def _wrote(self, at, data):
        self.writes += 1
        self.bytes_written += len(data)
        self.pending.append((at, data))
        if self.log is not None:
            self.log.append((at, data))

    def _flushed(self):
        self.flushes += 1
        if self.lying:
            return
        for at, data in self.pending:
            self.stable[at : at + len(data)] = data
        self.pending.clear()
        if self.log is not None:
            self.log.append(None)


def exactly(stream, length):
    """`length` bytes, or EOFError."""
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data
