"""`python -m tests.bench`: measure, print the report, keep the figures as JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from .attacks import measure_attacks
from .cold_starts import measure_cold_starts
from .environments import cache
from .fine_tuning import measure_fine_tuning
from .instructions import measure_instructions
from .limit_changes import measure_limit_changes
from .model_fetches import measure_model_fetches
from .model_wakes import measure_model_wakes
from .report import render
from .results import Results
from .retrieval.measure import measure_retrieval
from .run import Bounds, measure_proxies
from .transfers import measure_transfers
from .vector_search import measure_vector_search


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=360, help="no round starts after that long")
    parser.add_argument("--json", type=Path, default=cache() / "last.json", help="where the figures go")
    options = parser.parse_args()
    bounds = Bounds(options.rounds, time.monotonic() + options.seconds)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="llmariner-bench-") as folder:
        for measure in (
            measure_proxies,
            measure_instructions,
            measure_attacks,
            measure_limit_changes,
            measure_cold_starts,
            measure_model_wakes,
            measure_retrieval,
            measure_transfers,
            measure_model_fetches,
            measure_vector_search,
            measure_fine_tuning,
        ):
            place = Path(folder, measure.__name__)
            place.mkdir()
            measure(results, place, bounds)
    print(render(results))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"figures": results.figures, "skipped": results.skipped}, indent=1))
    print(f"\nfigures: {options.json}")


if __name__ == "__main__":
    main()
