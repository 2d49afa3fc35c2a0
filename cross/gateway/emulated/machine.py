"""The emulated gateway while it has power, driven over its serial console."""

import queue
import re
import socket
import subprocess
import threading
import time

from . import ANSWER, BOOT, KERNEL, Failed

NETWORK = ["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net,id=nic"]


class Console:
    """A machine with a shell on its serial line; `command` is qemu's, without the monitor."""

    # Which end of the network cable is pulled.
    CABLE = "nic"

    def __init__(self, folder, command, verbose):
        self.verbose = verbose
        self.monitor_path = str(folder / "monitor")
        command = [*command, "-monitor", f"unix:{self.monitor_path},server=on,wait=off"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines, self.said, self.number = queue.Queue(), [], 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            self.said.append(line)
            if self.verbose:
                print("   |", line, flush=True)
            self.lines.put(line)
        self.lines.put(None)

    def type(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def until(self, pattern, seconds):
        """The lines up to and with the first that matches."""
        end, came = time.monotonic() + seconds, []
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f"no line like {pattern!r} within {seconds} s; the last: {came[-5:]}") from None
            if line is None:
                raise Failed(f"the machine ended before a line like {pattern!r}: {came[-5:]}")
            came.append(line)
            if re.search(pattern, line):
                return came

    def login(self):
        """Waits for the shell that the console gives."""
        end = time.monotonic() + BOOT
        # What is typed before somebody reads can leave the emulated port's input deaf for good.
        self.until("automatic login", BOOT)
        while True:
            self.type("stty -echo; PS1=; PS2=; echo SHELL-$((40+2))")
            try:
                self.until("SHELL-42", 5)
                return
            except Failed:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise

    def run(self, command, seconds=ANSWER):
        """(exit code, output) of a shell command."""
        self.number += 1
        self.type(f"echo BEGIN-{self.number}-; {{ {command}\n}} </dev/null 2>&1; code=$?; echo; echo END-{self.number}-$code")
        self.until(f"^BEGIN-{self.number}-$", seconds)
        came = self.until(rf"^END-{self.number}-(\d+)$", seconds)
        # The kernel may speak in between.
        output = [line for line in came[:-1] if not re.match(r"\[ *\d+\.\d+\]", line)]
        return int(came[-1].rsplit("-", 1)[1]), "\n".join(output).strip()

    def must(self, command, seconds=ANSWER):
        code, output = self.run(command, seconds)
        if code:
            raise Failed(f"`{command}` ended with {code}:\n{output}")
        return output

    def tell(self, words):
        """A command for qemu's monitor."""
        for _ in range(50):
            try:
                with socket.socket(socket.AF_UNIX) as monitor:
                    monitor.connect(self.monitor_path)
                    monitor.sendall(f"{words}\n".encode())
                    time.sleep(0.2)
                return
            except OSError:
                time.sleep(0.1)
        raise Failed("qemu's monitor does not answer")

    def link(self, up):
        """Pulls the network cable, or puts it in."""
        self.tell(f"set_link {self.CABLE} {'on' if up else 'off'}")

    def ended(self, seconds):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the machine did not power off within {seconds} s") from None


class Machine(Console):
    """`network`: qemu's words for it; `kernel`: more words for its command line;
    `resets`: a reset is one, and does not end the emulator."""

    def __init__(self, folder, disk, words, verbose, network=NETWORK, kernel="", resets=False):
        command = [
            "qemu-system-aarch64", "-machine", "virt", "-accel", "tcg", "-cpu", "cortex-a53", "-smp", "2",
            "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", *([] if resets else ["-no-reboot"]),
            "-serial", "stdio",
            "-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(folder / "initrd"),
            "-append", f"console=ttyAMA0 quiet systemd.show_status=0 rd.udev.log_level=3 panic=-1 {kernel}",
            "-blockdev", f"driver=nbd,node-name=disk,server.type=unix,server.path={disk}",
            "-device", "virtio-blk-device,drive=disk",
            "-device", "virtio-rng-device", *network, *words,
        ]  # fmt: skip
        super().__init__(folder, command, verbose)
