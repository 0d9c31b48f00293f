"""CPU microseconds of one streamed token in the proxy alone.

Streams are long, so that what a request costs once weighs little, and their tokens come paced, so that a proxy
can't save work by reading many at once: an engine's do neither.
"""

from __future__ import annotations

from ..load_driver import Load, drive
from ..target import Started

LOAD = Load(connections=32, seconds=1.5, warm=32, tokens=100, stream=True, token_interval_ms=5)


def measure(started: Started) -> float:
    phase = drive(LOAD, started)
    return 1e6 * phase.cpu / (phase.completed * LOAD.tokens)
