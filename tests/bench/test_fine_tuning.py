"""The benchmark of fine-tuning trains on both sides, and a killed job to its end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED

from . import fine_tuning
from .report import render
from .results import Results
from .run import Bounds

pytestmark = pytest.mark.engine
TINY = Path(__file__).parents[1] / "training_program" / "tiny_model.py"


def test_both_sides_train_and_a_killed_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "ROWS", 4)
    monkeypatch.setattr(fine_tuning, "EPOCHS", 1)
    monkeypatch.setattr(fine_tuning, "PAIRS", 1)
    cache = StandaloneSettings.load(environment()).cache
    engines, packaged = EngineEnvironment(cache, engine_lock()), PACKAGED[0].folder(cache)
    if not engines.is_installed or not packaged.is_dir():
        pytest.skip("the engine environment is not set up: make up")
    subprocess.run([str(engines.python), str(TINY), str(packaged), str(tmp_path / "tiny")], check=True)
    results = Results()
    bounds = Bounds(1, time.monotonic() + 600)
    fine_tuning.measure_fine_tuning(results, tmp_path, bounds, tmp_path / "tiny")
    assert "SKIPPED" not in render(results)
    assert [len(results.figures["steps_per_s"][each]) for each in (fine_tuning.BARE, fine_tuning.JOB)] == [1, 1]
    for ratio in (
        "job_steps_per_second_vs_bare_trl",
        "job_steps_per_wall_second_vs_bare_trl",
        "resume_overhead_vs_uninterrupted",
    ):
        assert f"RATIO {ratio} " in render(results)
