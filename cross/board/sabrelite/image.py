"""What the board boots from: device tree, initrd, SD card."""

import os
import shutil
import subprocess

from . import KERNEL
from emulated.image import initrd as gateway_initrd

# QEMU wants a power of two of a card.
CARD_SIZE = 128 << 20

# As a factory would write it.
SERIAL = "SL-0042"

# Pins first: card detection, network and SPI wait for them. imx2_wdt is how the board reboots.
MODULES = ["gpio-mxc", "imx2_wdt", "sdhci-esdhc-imx", "crc32c_generic", "ext4", "micrel", "fec",
           "i2c-imx", "i2c-dev", "lm75", "dps310", "spi-imx", "max1111"]  # fmt: skip

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
until [ -e /dev/mmcblk3 ]; do sleep 0.1; done
mount -t ext4 /dev/mmcblk3 /root
if [ ! -e /root/bin/sh ]; then
    busybox chown -R 0:0 /root
    busybox --install -s /root/bin
fi
umount /sys /dev /proc
exec switch_root /root /bin/init
"""

RCS = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
dmesg -n 1
hostname -F /etc/hostname
mdev -d
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
for script in /etc/init.d/S??*; do [ -x "$script" ] && "$script" start; done
"""

RCK = """#!/bin/sh
for script in /etc/init.d/S??*; do [ -x "$script" ] && "$script" stop; done
"""

# No editing of lines, no prompt: what is typed here comes from a program.
CONSOLE = """#!/bin/sh
stty -echo
cd /root
sh 2>&1 | cat
"""

INITTAB = """::sysinit:/etc/init.d/rcS
ttymxc1::respawn:/etc/console
::shutdown:/etc/init.d/rcK
::shutdown:/bin/umount -a -r
"""

# Group, then the rights of a bus and of a pin: as an image with mdev gives them.
MDEV = "i2c-[0-9]+ root:i2c 660\ngpiochip[0-9]+ root:gpio 660\nspidev.* root:spi 660\n"


def environment():
    return dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")


# The board's second and fifth SPI are free: on one nothing, for user space (/dev/spidev1.0);
# on the other an ADC, for the kernel's driver.
SPI = "/soc/bus@2000000/spba-bus@2000000/"
ON_SPI = {"spi@200c000/sensor@0": "rohm,dh2228fv", "spi@2018000/adc@0": "maxim,max1111"}


def device_tree(path):
    """The board's own, with a serial number and two more things on SPI."""
    release = (KERNEL / "release").read_text().strip()
    shutil.copy(KERNEL / f"usr/lib/linux-image-{release}/imx6q-sabrelite.dtb", path)

    def put(*words):
        subprocess.run(["fdtput", *words], check=True)

    put("-t", "s", path, "/", "serial-number", SERIAL)
    for place, compatible in ON_SPI.items():
        bus, node = SPI + place.split("/")[0], SPI + place
        put("-t", "s", path, bus, "status", "okay")
        # Without the chip's firmware for DMA.
        put("-d", path, bus, "dmas", "dma-names")
        put("-c", path, node)
        put("-t", "s", path, node, "compatible", compatible)
        put("-t", "u", path, node, "reg", "0")
        put("-t", "u", path, node, "spi-max-frequency", "400000")


def initrd():
    return gateway_initrd(INIT, KERNEL, MODULES)


def card_image(folder, package):
    """BusyBox and nothing else, with the package in /root."""
    tree = folder / "tree"
    for name in "bin sbin usr/bin usr/sbin etc/init.d proc sys dev run tmp root var/lib home".split():
        (tree / name).mkdir(parents=True)
    shutil.copy(KERNEL / "bin/busybox", tree / "bin/busybox")
    shutil.copy(package, tree / "root")
    files = {
        "etc/hostname": "sabrelite\n",
        "etc/hosts": "127.0.0.1 localhost\n10.0.2.2 cloud\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\ni2c:x:101:\ngpio:x:102:\nspi:x:103:\n",
        "etc/shells": "/bin/sh\n",
        "etc/mdev.conf": MDEV,
        "etc/inittab": INITTAB,
    }
    programs = {"etc/init.d/rcS": RCS, "etc/init.d/rcK": RCK, "etc/console": CONSOLE}
    for name, text in {**files, **programs}.items():
        (tree / name).write_text(text)
        if name in programs:
            (tree / name).chmod(0o755)
    image = folder / "card.img"
    with open(image, "wb") as file:
        file.truncate(CARD_SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "root", "-d", tree, image], check=True, env=environment())
    shutil.rmtree(tree)
    data = bytearray(image.read_bytes())
    image.unlink()
    return data
