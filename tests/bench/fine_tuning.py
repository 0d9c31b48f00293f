"""A fine-tuning job's process beside TRL alone: steps in a CPU second, and what it costs to be killed and to continue.

The job's process is the one that the platform starts, with all that it reports and uploads. Both train the same adapter of
the packaged model on the same rows in one thread. Imports and the loading of the model are left out of the first figure;
the second is the seconds of two processes of a killed job, beside those of a job that nothing interrupts.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmariner.fine_tuning.program import archive
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED

from ..training_program.scripted_platform import (  # type: ignore[import-not-found]
    TOKEN,
    ScriptedPlatform,
    scripted_platform,
)
from .results import Results
from .run import Bounds, say

JOB, BARE = "fine-tuning job", "bare TRL"
KILLED, WHOLE = "killed job", "whole job"
ROWS, EPOCHS, BATCH = 16, 2, 4
_STATE_SECONDS = 2.0
_LIMIT_SECONDS = 900.0
_LOOK_SECONDS = 0.02
_SENTENCE = "The river runs past the old mill and under three bridges before it meets the sea at {}. "


def measure_fine_tuning(results: Results, place: Path, bounds: Bounds, model: Path | None = None) -> None:
    """One round: both trainings, then a job that is killed in the middle. `model`: a folder; None: the packaged one."""
    cache = StandaloneSettings.load(environment()).cache
    engines, packaged = EngineEnvironment(cache, engine_lock()), PACKAGED[0].folder(cache)
    if not engines.is_installed or not packaged.is_dir():
        results.skipped["fine-tuning"] = "the engine environment is not set up: make up"
        return
    if time.monotonic() > bounds.deadline:
        results.skipped["fine-tuning"] = "there was no time left for it"
        return
    say("fine-tuning beside TRL")
    rows = place / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, _rows())))
    training = _Training(engines.python, model or packaged, place, rows)
    steps = EPOCHS * -(-ROWS // BATCH)
    results.add("steps_per_s", BARE, steps / training.bare())
    with scripted_platform() as platform:
        whole, inner = training.job(platform)
        results.add("steps_per_s", JOB, steps / inner)
        results.add("job_seconds", WHOLE, whole)
    with scripted_platform() as platform:
        results.add("job_seconds", KILLED, training.killed_job(platform, steps // 2))


def _rows() -> Iterator[dict[str, Any]]:
    """Conversations of different lengths, as those of a file are."""
    for number in range(ROWS):
        asked = {"role": "user", "content": _SENTENCE.format(number) * (1 + number % 3)}
        yield {"messages": [asked, {"role": "assistant", "content": _SENTENCE.format(number + 1) * (1 + number % 2)}]}


def _cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Training:
    def __init__(self, python: Path, model: Path, place: Path, rows: Path) -> None:
        self._python = str(python)
        self._model = str(model)
        self._place = place
        self._rows = rows
        [(name, content)] = archive().items()
        self._archive = place / name
        self._archive.write_bytes(content)
        self._variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def bare(self) -> float:
        """CPU seconds of the training by TRL."""
        program = str(Path(__file__).parent / "peers" / "bare_trl.py")
        numbers = [str(self._place / "trl"), str(EPOCHS), str(BATCH)]
        command = [self._python, program, self._model, str(self._rows), *numbers]
        done = subprocess.run(
            command, env=self._variables, capture_output=True, text=True, check=True, timeout=_LIMIT_SECONDS
        )
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"])

    def job(self, platform: ScriptedPlatform) -> tuple[float, float]:
        """Seconds of a job's process, and CPU seconds between the first and the last report of its training."""
        self._prepare(platform)
        began = time.monotonic()
        spent: dict[str, float] = {}
        with self._start(platform) as process:
            while process.poll() is None and "finished" not in spent:
                for moment in ("training", "finished"):
                    if moment not in spent and platform.of_type(moment):
                        spent[moment] = _cpu_seconds(process.pid)
                time.sleep(_LOOK_SECONDS)
            assert process.wait(_LIMIT_SECONDS) == 0
        return time.monotonic() - began, spent["finished"] - spent["training"]

    def killed_job(self, platform: ScriptedPlatform, after_step: int) -> float:
        """Seconds of both processes of a job that is killed after a step, and continues from its last state."""
        self._prepare(platform)
        began = time.monotonic()
        with self._start(platform) as process:
            while max((record["step"] for record in platform.of_type("step")), default=0) < after_step:
                assert process.poll() is None
                time.sleep(_LOOK_SECONDS)
            process.kill()
        with self._start(platform) as process:
            assert process.wait(_LIMIT_SECONDS) == 0
        return time.monotonic() - began

    def _prepare(self, platform: ScriptedPlatform) -> None:
        platform.continues = True
        platform.plan = {
            "stage": "train",
            "model_folder": self._model,
            "training_file": platform.add_file("rows", self._rows.read_bytes()),
            "seed": 7,
            "n_epochs": EPOCHS,
            "batch_size": BATCH,
            "learning_rate": 1e-3,
            "checkpoint_seconds": _STATE_SECONDS,
        }

    @contextmanager
    def _start(self, platform: ScriptedPlatform) -> Iterator[subprocess.Popen[bytes]]:
        own = {"LLMARINER_TRAINING_URL": f"{platform.url}/job", "LLMARINER_TRAINING_TOKEN": TOKEN}
        process = subprocess.Popen(
            [self._python, "-m", "llmariner.fine_tuning.training_program"],
            cwd=self._place,
            env={**self._variables, **own, "PYTHONPATH": str(self._archive)},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
