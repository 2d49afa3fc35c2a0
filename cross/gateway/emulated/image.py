"""What the emulated gateway boots from: initrd, disk, packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from . import KERNEL, WORK
from rig import cpio

DISK_SIZE = 640 << 20

# Loaded before the root file system is there; the root has no modules of its own.
MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "crc32c_generic", "ext4", "ramoops"]

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
oops=
for word in $(cat /proc/cmdline); do
    case $word in ramoops.*) oops="$oops ${word#ramoops.}" ;; esac
done
for module in /modules/*.ko; do
    case $module in
        *ramoops*) [ -z "$oops" ] || insmod "$module" $oops ;;
        *) insmod "$module" ;;
    esac
done
until [ -e /dev/vda ]; do sleep 0.05; done
case " $(cat /proc/cmdline) " in *" ro "*) how=ro ;; *) how=rw ;; esac
# Which of two disks comes first is the kernel's affair.
for disk in /dev/vda /dev/vdb; do
    mount -t ext4 -o $how $disk /root || continue
    [ -e /root/lib/systemd/systemd ] && break
    umount /root
done
umount /proc /sys /dev
exec switch_root /root /lib/systemd/systemd
"""

# The far side by name: qemu's user network shows this machine's loopback at these two.
HOSTS = "127.0.0.1 localhost\n::1 localhost\n10.0.2.2 cloud\nfec0::2 cloud\n"


def modules(kernel, wanted):
    """The files, each after those that it needs."""
    release = (kernel / "release").read_text().strip()
    folder = kernel / "lib/modules" / release
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name, order = {Path(name).stem: name for name in needs}, []

    def add(name):
        for one in needs[name]:
            add(one)
        if name not in order:
            order.append(name)

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return [folder / name for name in order]


def initrd(init=INIT, kernel=KERNEL, wanted=MODULES):
    entries = [(name, cpio.S_IFDIR | 0o755, b"") for name in "bin dev proc sys root modules".split()]
    entries.append(("dev/console", cpio.S_IFCHR | 0o600, (5, 1)))
    entries.append(("init", cpio.S_IFREG | 0o755, init.encode()))
    entries.append(("bin/busybox", cpio.S_IFREG | 0o755, (kernel / "bin/busybox").read_bytes()))
    for name in "sh mount umount insmod sleep switch_root echo cat".split():
        entries.append((f"bin/{name}", cpio.S_IFLNK | 0o777, b"busybox"))
    for number, path in enumerate(modules(kernel, wanted)):
        entries.append((f"modules/{number:02}-{path.name}", cpio.S_IFREG | 0o644, path.read_bytes()))
    return cpio.archive(entries)


def renamed(package, version, folder):
    """The same package as another version."""
    tree = folder / f"deb-{version}"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.M))
    path = folder / f"sonde_{version}_arm64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, path], check=True, stdout=subprocess.DEVNULL)
    return path


def disk_image(folder, packages, config):
    """Debian, a network, a console that is logged in, and the packages in /root."""
    tree = folder / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xpf", WORK / "rootfs.tar", "-C", tree, "--numeric-owner"], check=True)
    for package in packages:
        shutil.copy(package, tree / "root")
    files = {
        "etc/hostname": "localhost\n",
        "etc/hosts": HOSTS,
        "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
        # As an image is made: the first boot gives it one.
        "etc/machine-id": "",
        "etc/systemd/network/10-lan.network": "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n",
        "etc/systemd/system/serial-getty@ttyAMA0.service.d/login.conf":
            "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 ttyAMA0 dumb\n",
        "root/sonde.toml": config,
    }  # fmt: skip
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    for unit in ("systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer"):
        link = tree / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    image = folder / "disk.img"
    with open(image, "wb") as file:
        file.truncate(DISK_SIZE)
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "root", "-b", "4096", "-d", tree, image], check=True, env=environment)
    shutil.rmtree(tree)
    return bytearray(image.read_bytes())


def empty_ext4(path, size, label):
    """A second partition."""
    with open(path, "wb") as file:
        file.truncate(size)
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", label, path], check=True, env=environment)
