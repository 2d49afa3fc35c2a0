"""The parts of `cross/board/test`: the emulated board, its SD card's contents, what
its pins and chips are told from outside, and the steps. What is not about this board
comes from `cross/gateway/emulated`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
KERNEL = ROOT / "target/board/kernel"
TARGET = "armv7-unknown-linux-musleabihf"

sys.path.insert(0, str(HERE.parent / "gateway"))
