"""Wakes of a model by a running platform, and plain starts of the same engine, taking turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .children import StartError
from .environments import UnavailableError
from .measures.model_wake import (
    chosen_model,
    left_as_found,
    plain_engine,
    plain_start,
    put_to_sleep,
    running_platform,
    wake,
)
from .results import Results
from .run import Bounds, say

ROUNDS = 2  # a plain start takes half a minute


def measure_model_wakes(results: Results, folder: Path, bounds: Bounds) -> None:
    """Skipped, with the reason, when no platform runs or its engine can't be started by hand."""
    try:
        service = running_platform()
        model = chosen_model(service)
        with left_as_found(service, model):
            for number in replace(bounds, rounds=min(ROUNDS, bounds.rounds)).each():
                say(f"round {number + 1}: wake of {model}, then a plain start")
                results.add("model_seconds", "wake", wake(service, model))
                engine = plain_engine(model)
                put_to_sleep(service, model)
                results.add("model_seconds", "plain start", plain_start(engine, folder, model))
    except (UnavailableError, StartError) as reason:
        results.skipped["model wake"] = str(reason)
