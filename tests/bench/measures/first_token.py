"""Milliseconds from request to first byte of a stream, one caller at a time; what the engine itself takes included."""

from __future__ import annotations

from dataclasses import replace

from ..load_driver import Load, drive
from ..target import Started

LOAD = Load(connections=1, seconds=0.8, warm=20, tokens=4, stream=True, count=1000)


def measure(started: Started) -> dict[str, float]:
    return drive(LOAD, started).first_ms


def answers(started: Started) -> None:
    """Two streams, so that what is made at the first request exists; LoadError when they fail."""
    drive(replace(LOAD, warm=1, count=1), started)
