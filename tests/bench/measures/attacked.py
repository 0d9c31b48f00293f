"""Milliseconds of one caller's request with and without an attack of others on the same process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..load_driver import Load, LoadError, drive
from ..target import Started

ATTACKS = ("chunks", "readers", "bodies", "brackets")
QUIET = "quiet"
LOAD = Load(connections=1, seconds=1.5, warm=20, tokens=4)
_PROGRAM = Path(__file__).parents[1] / "attack.py"


def measure(started: Started) -> dict[str, dict[str, float]]:
    """Quantiles by attack. LoadError when a request fails: an attack must not take anybody's answer."""
    found = {QUIET: drive(LOAD, started).latency_ms}
    for kind in ATTACKS:
        with _under(kind, started):
            found[kind] = drive(LOAD, started).latency_ms
    return found


@contextmanager
def _under(kind: str, started: Started) -> Iterator[None]:
    command = [sys.executable, str(_PROGRAM), kind, str(started.port), json.dumps(dict(started.headers))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attack:
        assert attack.stdout is not None
        try:
            if attack.stdout.readline() != "begun\n":
                raise LoadError(f"the attack {kind} could not begin")
            yield
        finally:
            attack.kill()
