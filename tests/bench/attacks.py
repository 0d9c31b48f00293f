"""Our chat function under attack, in rounds that pair each attack with the quiet before it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from .children import StartError, running
from .load_driver import LoadError
from .measures import attacked
from .peers import gateway
from .results import Results
from .run import Bounds, engine, say
from .target import Site

ROUNDS = 4


def measure_attacks(results: Results, folder: Path, bounds: Bounds) -> None:
    """Skipped, with the reason, when the function does not start or answers wrongly under attack."""
    try:
        with ExitStack() as stack:
            direct = stack.enter_context(running(engine(), folder))
            started = stack.enter_context(running(gateway.target(Site(folder, direct.port)), folder))
            for number in replace(bounds, rounds=min(ROUNDS, bounds.rounds)).each():
                say(f"round {number + 1}: a request while others attack")
                for kind, quantiles in attacked.measure(started).items():
                    results.add("attacked_p50_ms", kind, quantiles["p50"])
                    results.add("attacked_p95_ms", kind, quantiles["p95"])
    except (StartError, LoadError) as reason:
        results.skipped["attacks"] = str(reason)
