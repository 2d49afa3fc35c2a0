"""Writes an initial RAM file system (cpio, the format `newc`)."""

import stat

S_IFLNK, S_IFREG, S_IFDIR, S_IFCHR = (
    stat.S_IFLNK,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFCHR,
)


def archive(entries):
    """`entries`: (name, mode, data) in order, a folder before what is in it;
    for a character device the data is (major, minor)."""
    parts = []
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        major, minor = data if isinstance(data, tuple) else (0, 0)
        data = b"" if isinstance(data, tuple) else data
        name = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)
