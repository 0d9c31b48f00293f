"""The benchmark of model fetches fetches a model with each program."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import model_fetches
from .results import Results
from .run import Bounds


def test_every_program_fetches_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_fetches, "SIZE", 6 << 20)
    results = Results()
    model_fetches.measure_model_fetches(results, tmp_path, Bounds(1, 0))
    if results.skipped:
        pytest.skip(str(results.skipped))
    for network in model_fetches.NETWORKS:
        assert results.subjects(f"model_fetch_{network}_bytes_per_s") == [
            model_fetches.FETCH,
            model_fetches.CURL,
            model_fetches.CURL_CHECKED,
        ]
