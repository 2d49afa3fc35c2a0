"""The emulated gateway's files: its initial RAM file system and its disk."""

import hashlib
import os
import subprocess
from base64 import b64encode
from pathlib import Path

from . import cpio

HERE = Path(__file__).resolve().parent.parent
WORK = HERE.parent.parent / "target" / "powercut"
PROGRAMS = HERE.parent.parent / "target/cross/fast/out/aarch64-unknown-linux-musl"
KERNEL = str(WORK / "kernel/vmlinuz")

COMMON = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng"]
MODULES = {
    # libcrc32c and f2fs ask for their checksums by name, which modules.dep does not know.
    "ext4": ["crc32c_generic", "ext4"],
    "f2fs": ["crc32_generic", "crc32c_generic", "f2fs"],
    "ubifs": ["crc32c_generic", "lzo", "lzo-rle", "zstd", "mtd", "ubi", "ubifs"],
}
# These are loaded once the disk is there.
LATE = ["cutflash", "ubi", "ubifs"]
APPLETS = """sh mount umount mkdir cat insmod sleep ip head echo killall tr""".split()
MIB = 1 << 20
SIZE = {"ext4": 48 * MIB, "f2fs": 64 * MIB, "ubifs": 64 * MIB}
PAGE, BLOCK = 2048, 128 * 1024


def filler(length):
    """What messages are filled with: always the same, and no two pieces alike."""
    out = bytearray()
    while len(out) < length:
        out += b64encode(hashlib.sha256(b"%d" % len(out)).digest())
    return bytes(out[:length])


def modules(filesystem):
    """The module files, each after those that it needs."""
    release = (WORK / "kernel/release").read_text().strip()
    folder = WORK / "kernel/lib/modules" / release
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {Path(name).stem: name for name in needs}
    order = []

    def add(name):
        for one in needs[name]:
            add(one)
        if name not in order:
            order.append(name)

    built_in = (folder / "modules.builtin").read_text()
    for name in COMMON + MODULES[filesystem]:
        if name in by_name:
            add(by_name[name])
        elif f"/{name}.ko" not in built_in:
            raise SystemExit(f"Debian's kernel {release} has no module {name}")
    return [folder / name for name in order]


def initrd(filesystem, config, programs=PROGRAMS):
    """The archive's bytes."""
    folders = "bin dev proc sys data run tmp etc etc/sonde modules modules/late"
    entries = [(name, cpio.S_IFDIR | 0o755, b"") for name in folders.split()]
    # The kernel opens the console before /init can mount anything.
    entries.append(("dev/console", cpio.S_IFCHR | 0o600, (5, 1)))

    def file(name, path, mode=0o755):
        entries.append((name, cpio.S_IFREG | mode, Path(path).read_bytes()))

    file("init", HERE / "guest/init")
    for name in ("sonde", "spooler"):
        file(f"bin/{name}", programs / name)
    file("bin/busybox", WORK / "kernel/bin/busybox")
    for name in APPLETS:
        entries.append((f"bin/{name}", cpio.S_IFLNK | 0o777, b"busybox"))
    for number, path in enumerate(modules(filesystem)):
        late = filesystem == "ubifs" and path.stem in LATE
        name = f"late/{path.name}" if late else f"{number:02}-{path.name}"
        file(f"modules/{name}", path)
    if filesystem == "ubifs":
        file("modules/late/cutflash.ko", WORK / "flash/cutflash.ko")
    for name, text in (("sonde/sonde.toml", config.encode()), ("filler", filler(32768))):
        entries.append((f"etc/{name}", cpio.S_IFREG | 0o644, text))
    return cpio.archive(entries)


def new_disk(filesystem, folder, size=None):
    """The bytes of a disk with an empty file system."""
    path = Path(folder) / "new.img"
    size = size or SIZE[filesystem]
    with open(path, "wb") as file:
        file.truncate(size)
    if filesystem == "ubifs":
        return new_flash(path, size)
    # 4 KiB blocks: with 1 KiB, what mkfs takes for a disk this small, ext4 itself can fail to mount.
    make = {"ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096"], "f2fs": ["mkfs.f2fs", "-q", "-f"]}
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run([*make[filesystem], str(path)], check=True, env=environment, stdout=subprocess.DEVNULL)
    image = bytearray(path.read_bytes())
    path.unlink()
    return image


def new_flash(path, size):
    """Erased blocks with one empty volume, `data`. UBIFS makes itself at home at its first mount."""
    layout = Path(path).with_suffix(".ini")
    # A volume for the application: all that UBI's own blocks and its reserve leave.
    layout.write_text(
        f"[data]\nmode=ubi\nvol_id=0\nvol_type=dynamic\nvol_name=data\n"
        f"vol_size={size * 3 // 4}\nvol_flags=autoresize\n"
    )
    ubinize = ["ubinize", "-o", str(path), "-m", str(PAGE), "-p", str(BLOCK), str(layout)]
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run(ubinize, check=True, env=environment)
    image = bytearray(Path(path).read_bytes())
    layout.unlink()
    Path(path).unlink()
    return image + b"\xff" * (size - len(image))
