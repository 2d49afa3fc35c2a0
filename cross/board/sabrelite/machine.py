"""The emulated board while it has power, and what of it can be reached from outside:
the temperature around its chips, the voltage at its pins, its network cable."""

import socket
import time

from . import KERNEL
from emulated import Failed
from emulated.machine import Console

# On the board's third I2C bus, /dev/i2c-2: a TMP105 and a DPS310 (pressure).
CHIPS = ["-device", "tmp105,bus=i2c-bus.2,address=0x48,id=thermometer",
         "-device", "tmp105,bus=i2c-bus.2,address=0x49,id=thermometer2",
         "-device", "dps310,bus=i2c-bus.2,address=0x77",
         "-device", "max1111,bus=spi,id=adc,input0=100"]  # fmt: skip


class Machine(Console):
    """A Boundary Devices SABRE Lite: i.MX6 with four Cortex-A9, of which two are used."""

    CABLE = "net"

    def __init__(self, folder, disk, words, verbose, kernel=""):
        release = (KERNEL / "release").read_text().strip()
        self.pins_path = str(folder / "pins")
        command = [
            "qemu-system-arm", "-machine", "sabrelite", "-accel", "tcg", "-smp", "2", "-m", "256",
            "-no-user-config", "-display", "none", "-no-reboot",
            # Linux' console is the second line.
            "-serial", "null", "-serial", "stdio",
            "-qtest", f"unix:{self.pins_path},server=on,wait=off", "-qtest-log", "none",
            "-kernel", str(KERNEL / f"boot/vmlinuz-{release}"), "-dtb", str(folder / "board.dtb"),
            "-initrd", str(folder / "initrd"), "-append", f"console=ttymxc1 quiet panic=-1 {kernel}",
            # An SD card has no flush: what it has answered is kept, as writethrough makes it.
            "-drive", f"if=none,id=card,format=raw,cache=writethrough,file.driver=nbd,file.server.type=unix,file.server.path={disk}",
            "-device", "sd-card,drive=card",
            "-nic", "user,id=net", *CHIPS, *words,
        ]  # fmt: skip
        super().__init__(folder, command, verbose)

    def temperature(self, chip, celsius):
        """Around a thermometer."""
        self.tell(f"qom-set /machine/peripheral/{chip} temperature {round(celsius * 1000)}")

    def pin(self, device, line, level, name="unnamed-gpio-in"):
        """What lies at a pin, from outside."""
        answer = b""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                with socket.socket(socket.AF_UNIX) as pins:
                    pins.settimeout(5)
                    pins.connect(self.pins_path)
                    pins.sendall(f"set_irq_in {device} {name} {line} {level}\n".encode())
                    while b"\n" not in answer:
                        answer += pins.recv(256)
                if answer.startswith(b"OK"):
                    return
            except OSError:
                time.sleep(0.1)
        raise Failed(f"qemu set no pin {line} of {device}: {answer!r}")
