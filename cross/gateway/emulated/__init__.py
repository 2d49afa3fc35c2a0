"""The parts of `cross/gateway/test`: the emulated machine, its disk's contents,
what stands on this side of its network, and the steps."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
WORK = ROOT / "target/gateway"
KERNEL = ROOT / "target/powercut/kernel"
PACKAGES = ROOT / "target/cross/packages"

# Shared with the power cuts: disk, broker, archive; and the reader of a spool.
sys.path[:0] = [str(ROOT / "tests/powercut"), str(ROOT / "tests")]

# Seconds; generous, as the machine that emulates may have other work.
BOOT, ANSWER = 600, 240


class Failed(Exception):
    """Something was not as it should be."""


def check(condition, what):
    if not condition:
        raise Failed(what)
