"""An emulated 64-bit ARM machine, and its console."""

import queue
import subprocess
import threading
import time

# One core, slow, and the same everywhere: no KVM.
COMMAND = """qemu-system-aarch64 -machine virt -accel tcg -cpu cortex-a53 -smp 1 -m 256
    -nodefaults -no-user-config -display none -no-reboot -serial stdio
    -device virtio-blk-device,drive=disk -netdev user,id=net
    -device virtio-net-device,netdev=net -device virtio-rng-device""".split()


class Machine:
    """Boots at once. `heard(line)` is called for each whole line of the
    console, in a thread of its own and before anybody waits for it."""

    def __init__(self, kernel, initrd, disk, words, heard=None):
        append = "console=ttyAMA0 quiet panic=-1 " + " ".join(words)
        command = COMMAND + ["-kernel", kernel, "-initrd", initrd, "-append", append]
        blockdev = f"driver=nbd,node-name=disk,server.type=unix,server.path={disk}"
        self.process = subprocess.Popen(
            command + ["-blockdev", blockdev],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines, self.said = queue.Queue(), []
        self.heard = heard or (lambda line: None)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def wait(self, wanted, seconds):
        """The first line that starts with one of `wanted`; None when the time
        is over or the machine has ended."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self.lines.put(None)
                return None
            if line.startswith(wanted):
                return line

    def kill(self):
        """The power goes. What had left the console by then has been heard
        when this returns."""
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def _read(self):
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            # What stands after the last line end was cut off while it was said.
            if raw.endswith(b"\n") and line:
                self.said.append(line)
                self.heard(line)
                self.lines.put(line)
        self.lines.put(None)
