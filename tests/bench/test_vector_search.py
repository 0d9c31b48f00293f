"""The benchmark of vector stores indexes the same chunks twice and finds ten of them on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import vector_search
from .results import Results
from .run import Bounds


def test_both_sides_index_and_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHUNKS": 60, "CHUNKS_PER_FILE": 30, "SEARCHES": 1, "_IDLE_SECONDS": 0}.items():
        monkeypatch.setattr(vector_search, name, value)
    results = Results()
    vector_search.measure_vector_search(results, tmp_path, Bounds(1, 0))
    for measure, figures in (("chunks_per_s", 2), ("search_ms", 1)):
        for side in (vector_search.OURS, vector_search.BARE):
            assert len(results.figures[measure][side]) == figures
