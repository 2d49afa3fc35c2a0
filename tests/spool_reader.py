#!/usr/bin/env python3
"""Reads a spool's folder, made from docs/SPOOL.md alone and with nothing but
Python's standard library: if it and the agent disagree, the document is wrong.

    spool_reader.py FOLDER      a line of JSON for each data frame, in the order of
                                classes and seqs, then one for the ledger
    --bodies                    with each payload, unpacked, in base64
"""

import base64
import json
import os
import re
import struct
import sys
import zlib

CLASSES = ["critical", "outbox", "normal", "bulk"]
SIGNALS = {1: "metrics", 2: "traces", 3: "logs", 4: "messages"}
DATA, COMMIT, ANCHOR, FOOTER = 1, 2, 3, 4
UPLINKS = {1: "otlp", 2: "mqtt"}
REASONS = ["", "quota", "condemned", "damaged", "memory", "no_uplink", "too_large", "optional", "refused", "disk_full",
           "expired", "removed", "thinned"]


def table():
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


TABLE = list(table())


def crc32c(*parts):
    crc = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def segment_header(data):
    """Either copy of 128 bytes; None: both bad; "newer": not for this reader."""
    for copy in (data[:128], data[128:256]):
        if len(copy) < 128 or copy[:8] != b"SNDESEG\n" or struct.unpack_from("<H", copy, 10)[0] != 128:
            continue
        if crc32c(copy[:124]) != struct.unpack_from("<I", copy, 124)[0]:
            continue
        if struct.unpack_from("<H", copy, 8)[0] > 1:
            return "newer"
        klass, flags = copy[12], copy[13]
        ident, nonce, epoch, previous_end, previous = struct.unpack_from("<QQIIQ", copy, 16)
        boot, made, floor = struct.unpack_from("<QQQ", copy, 64)
        return {
            "class": klass, "believed": flags & 1, "id": ident, "nonce": copy[24:32], "epoch": epoch,
            "previous": previous, "previous_end": previous_end, "boot_id": copy[48:64].hex(), "floor": floor,
        }
    return None


def frame_header(data, at, nonce):
    """The header at an offset, or None."""
    if data[at:at + 4] != b"SNf\x01" or len(data) < at + 72:
        return None
    version, kind, signal, codec, length, meta, payload = struct.unpack_from("<BBBBHHI", data, at + 4)
    if version > 1 or length != 72 + meta or meta > 4096 or payload > 98304 or len(data) < at + length:
        return None
    if kind not in (DATA, COMMIT, ANCHOR, FOOTER) or codec > 1 or (kind == DATA and signal not in SIGNALS):
        return None
    head = data[at:at + length - 4]
    if crc32c(nonce, head) != struct.unpack_from("<I", data, at + length - 4)[0]:
        return None
    seq, items = struct.unpack_from("<QI", data, at + 16)
    first_boot, first_wall, last_boot, last_wall, crc = struct.unpack_from("<QQQQI", data, at + 32)
    context, given = None, False
    entries = data[at + 68:at + 68 + meta]
    while len(entries) >= 3:
        tag, size = struct.unpack_from("<BH", entries)
        value, entries = entries[3:3 + size], entries[3 + size:]
        if len(value) < size:
            break
        if tag == 1 and size >= 25:
            context = "00-%s-%s-%02x" % (value[:16].hex(), value[16:24].hex(), value[24])
        given = given or tag == 2
    return {
        "kind": kind, "signal": signal, "codec": codec, "length": length, "payload": payload, "seq": seq,
        "items": items, "first": first_wall, "last": last_wall, "crc": crc, "context": context, "given": given,
    }


def payload_of(data, at, frame, nonce):
    payload = data[at + frame["length"]:at + frame["length"] + frame["payload"]]
    whole = len(payload) == frame["payload"] and crc32c(nonce, payload) == frame["crc"]
    return payload if whole else None


def frames_of(data, header, limit):
    """Each whole header up to the end of the frames, with its payload or None."""
    nonce, end = header["nonce"], min(len(data), limit)
    foot = len(data) - 224
    footer = frame_header(data, foot, nonce) if foot >= 256 else None
    if footer and footer["kind"] == FOOTER:
        payload = payload_of(data, foot, footer, nonce)
        if payload and struct.unpack_from("<I", payload, 16)[0] <= foot:
            end = struct.unpack_from("<I", payload, 16)[0]
    at = 256
    while at < end:
        frame = frame_header(data, at, nonce)
        if frame is None or at + frame["length"] + frame["payload"] > end:
            at = data.find(b"SNf\x01", at + 1)
            if at < 0:
                return
            continue
        yield frame, payload_of(data, at, frame, nonce)
        at += frame["length"] + frame["payload"]


def ledger_of(data):
    """The ledger at the start of some bytes, or None."""
    try:
        version, following, cursors, losses = struct.unpack_from("<QQBB", data)
        at, done, lost = 18, [], []
        for _ in range(cursors):
            uplink, about, count = struct.unpack_from("<BBH", data, at)
            at += 4
            end, ranges = 0, []
            for _ in range(count):
                gap, at = leb128(data, at)
                length, at = leb128(data, at)
                ranges.append([end + gap, end + gap + length])
                end += gap + length
            signals = [number for number in SIGNALS if about >> 4 == 0 or about >> 4 & 1 << number - 1]
            done.append({"uplink": UPLINKS.get(uplink), "class": about & 15, "signals": signals, "ranges": ranges})
        for _ in range(losses):
            klass, reason, frames, items, first, last = struct.unpack_from("<BBQQQQ", data, at)
            at += 34
            lost.append({"class": klass, "reason": reason, "frames": frames, "items": items})
        return {"version": version, "next": following, "done": done, "lost": lost}
    except (struct.error, IndexError):
        return None


def leb128(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def slots_of(data):
    for at in (0, 16384):
        slot = data[at:at + 16384]
        if slot[:8] != b"SNDECUR\n" or len(slot) < 20:
            continue
        version, _, length, crc = struct.unpack_from("<HHII", slot, 8)
        ledger = slot[20:20 + length]
        if version == 1 and len(ledger) == length and crc32c(ledger) == crc:
            yield ledger_of(ledger)


def read(folder):
    """All data frames, and the newest ledger."""
    frames, ledgers = [], []
    for number, name in enumerate(CLASSES):
        chain = {}
        path = os.path.join(folder, name)
        for file in os.listdir(path) if os.path.isdir(path) else []:
            if re.fullmatch("[0-9a-f]{16}[.]seg", file):
                with open(os.path.join(path, file), "rb") as opened:
                    data = opened.read()
                header = segment_header(data)
                if isinstance(header, dict) and (header["class"], header["id"]) == (number, int(file[:16], 16)):
                    chain[header["id"]] = header, data
        order = sorted(chain)
        for place, ident in enumerate(order):
            header, data = chain[ident]
            following = chain[order[place + 1]][0] if place + 1 < len(order) else None
            limit = following["previous_end"] if following and following["previous"] == ident else len(data)
            for frame, payload in frames_of(data, header, limit):
                if frame["kind"] == COMMIT and payload is not None:
                    ledgers.append(ledger_of(payload))
                if frame["kind"] == DATA:
                    frames.append((name, header["epoch"], frame, payload))
    try:
        with open(os.path.join(folder, "cursors"), "rb") as opened:
            ledgers.extend(slots_of(opened.read()))
    except FileNotFoundError:
        pass
    newest = max((ledger for ledger in ledgers if ledger), key=lambda ledger: ledger["version"], default=None)
    return frames, newest


def is_done(ledger, uplink, name, frame):
    for cursor in ledger["done"] if ledger else []:
        if cursor["uplink"] == uplink and CLASSES[cursor["class"]] == name and frame["signal"] in cursor["signals"]:
            if any(start <= frame["seq"] < end for start, end in cursor["ranges"]):
                return True
    return False


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--bodies"]
    frames, ledger = read(arguments[0])
    for name, epoch, frame, payload in frames:
        line = {
            "frame": "%08x-%d" % (epoch, frame["seq"]),
            "class": name,
            "signal": SIGNALS[frame["signal"]],
            "items": frame["items"],
            "bytes": frame["payload"],
            "first_unix_ns": frame["first"],
            "last_unix_ns": frame["last"],
            "traceparent": frame["context"],
            "whole": payload is not None,
            "acknowledged": [uplink for uplink in UPLINKS.values() if is_done(ledger, uplink, name, frame)],
        }
        if "--bodies" in sys.argv and payload is not None:
            body = zlib.decompress(payload, 31) if frame["codec"] == 1 else payload
            line["body"] = base64.b64encode(body).decode()
        print(json.dumps(line))
    lost = [dict(loss, **{"class": CLASSES[loss["class"]], "reason": REASONS[loss["reason"]]})
            for loss in ledger["lost"]] if ledger else []
    print(json.dumps({"ledger": ledger["version"] if ledger else 0, "next": ledger["next"] if ledger else 0, "lost": lost}))


if __name__ == "__main__":
    main()
