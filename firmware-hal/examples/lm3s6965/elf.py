#!/usr/bin/env python3
"""Reads a 32-bit ELF file: no symbol of a panic path may be in it, and its
flash and RAM stay within a budget. Needs nothing but Python.

    elf.py FILE FLASH_MAX RAM_MAX [--sizes]

Exit 1, with a line for each thing that is wrong.
"""
import struct
import sys

# core's panic functions, and the formatting that they drag in; `Unwind` names an unwinder.
BAD = ("panicking", "panic_fmt", "panic_bounds", "unwrap_failed", "expect_failed", "core..fmt", "4core3fmt",
       "slice_index_fail", "_Unwind", "rust_begin_unwind", "rust_panic")


def main() -> int:
    name, flash_max, ram_max = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = open(name, "rb").read()
    if data[:5] != b"\x7fELF\x01":
        print(f"{name}: no 32-bit ELF file")
        return 1
    offset, = struct.unpack_from("<I", data, 32)
    size, count, strings = struct.unpack_from("<HHH", data, 46)
    sections = [struct.unpack_from("<10I", data, offset + n * size) for n in range(count)]
    text = lambda table, at: data[table[4] + at:data.index(b"\0", table[4] + at)].decode()
    names = {text(sections[strings], s[0]): s for s in sections}
    symbols = []
    if table := names.get(".symtab"):
        words = sections[table[6]]
        symbols = [text(words, struct.unpack_from("<I", data, at)[0])
                   for at in range(table[4], table[4] + table[5], 16)]
    wrong = []
    # A stripped file would prove nothing.
    if "Reset" not in symbols or not any("Encoder" in symbol or "main" in symbol for symbol in symbols):
        wrong.append("has no symbols to look at")
    wrong += [f"links {symbol}" for symbol in sorted(set(symbols)) if any(bad in symbol for bad in BAD)]
    length = lambda section: names[section][5] if section in names else 0
    flash = sum(map(length, (".vector_table", ".text", ".rodata", ".data")))
    ram = sum(map(length, (".data", ".bss", ".uninit")))
    if flash > flash_max:
        wrong.append(f"takes {flash} bytes of flash, more than {flash_max}")
    if ram > ram_max:
        wrong.append(f"takes {ram} bytes of RAM beside the stack, more than {ram_max}")
    for what in wrong:
        print(f"{name}: {what}")
    if "--sizes" in sys.argv:
        print(f"flash {flash} (text {length('.text')}, constants {length('.rodata')}, vectors {length('.vector_table')}), "
              f"static RAM {ram}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
