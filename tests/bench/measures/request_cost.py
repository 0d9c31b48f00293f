"""CPU microseconds of one small non-streamed request in the proxy alone."""

from __future__ import annotations

from ..load_driver import Load, drive
from ..target import Started

LOAD = Load(connections=16, seconds=1.5, warm=64, tokens=8)


def measure(started: Started) -> float:
    phase = drive(LOAD, started)
    return 1e6 * phase.cpu / phase.completed
