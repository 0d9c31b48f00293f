"""A change of one key's limit in a process with thousands of cached keys, and in one with a hundred."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .measures import limit_change
from .results import Results
from .run import Bounds, say

ROUNDS = 2
KEYS = (100, limit_change.KEYS)


def measure_limit_changes(results: Results, folder: Path, bounds: Bounds) -> None:
    """Its CPU time, its slowest request and the questions to the control function, by the number of keys."""
    for number in replace(bounds, rounds=min(ROUNDS, bounds.rounds)).each():
        for keys in KEYS:
            say(f"round {number + 1}: a limit changed among {keys:,} keys")
            cost = limit_change.measure(keys)
            subject = f"{keys:,} keys"
            results.add("limit_change_cpu_ms", subject, cost.cpu_milliseconds)
            results.add("limit_change_slowest_ms", subject, cost.slowest_milliseconds)
            results.add("limit_change_questions", subject, cost.questions)
