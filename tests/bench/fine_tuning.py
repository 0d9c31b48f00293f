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
from typing import Any, NamedTuple

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
ROWS, EPOCHS, BATCH = 8, 2, 4
PAIRS = 3
_PAIRS_SECONDS = 60.0
"""No pair starts later than this after the first one."""
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
    steps, enough = EPOCHS * -(-ROWS // BATCH), time.monotonic() + _PAIRS_SECONDS
    whole = 0.0
    for number in range(PAIRS):
        if number and time.monotonic() > min(enough, bounds.deadline):
            say(f"out of time after {number} of {PAIRS} pairs")
            break
        spent: dict[str, Spent] = {}
        # By turns one of them is first.
        for subject in (BARE, JOB) if number % 2 == 0 else (JOB, BARE):
            spent[subject], seconds = training.bare() if subject == BARE else training.job()
            whole = seconds if subject == JOB else whole
        for subject, found in spent.items():
            results.add("steps_per_s", subject, steps / found.cpu)
            results.add("steps_per_wall_s", subject, steps / found.wall)
    # Beside the job that ran last.
    results.add("job_seconds", WHOLE, whole)
    results.add("job_seconds", KILLED, training.killed_job(steps // 2))


def _rows() -> Iterator[dict[str, Any]]:
    """Conversations of different lengths, as those of a file are."""
    for number in range(ROWS):
        asked = {"role": "user", "content": _SENTENCE.format(number) * (1 + number % 3)}
        yield {"messages": [asked, {"role": "assistant", "content": _SENTENCE.format(number + 1) * (1 + number % 2)}]}


def _cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Spent(NamedTuple):
    """Seconds of a training alone: of the processor, and by the clock."""

    cpu: float
    wall: float


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

    def bare(self) -> tuple[Spent, float]:
        """What the training by TRL takes, and the seconds of its process."""
        began = time.monotonic()
        program = str(Path(__file__).parent / "peers" / "bare_trl.py")
        numbers = [str(self._place / "trl"), str(EPOCHS), str(BATCH)]
        command = [self._python, program, self._model, str(self._rows), *numbers]
        done = subprocess.run(
            command, env=self._variables, capture_output=True, text=True, check=True, timeout=_LIMIT_SECONDS
        )
        printed = json.loads(done.stdout.splitlines()[-1])
        return Spent(float(printed["seconds"]), float(printed["wall_seconds"])), time.monotonic() - began

    def job(self) -> tuple[Spent, float]:
        """What a job's training takes from its first report to its last, and the seconds of its process."""
        began = time.monotonic()
        seen: dict[str, Spent] = {}
        with self._prepared() as platform, self._start(platform) as process:
            while process.poll() is None and "finished" not in seen:
                for moment in ("training", "finished"):
                    if moment not in seen and platform.of_type(moment):
                        seen[moment] = Spent(_cpu_seconds(process.pid), time.monotonic())
                time.sleep(_LOOK_SECONDS)
            assert process.wait(_LIMIT_SECONDS) == 0
        first, last = seen["training"], seen["finished"]
        return Spent(last.cpu - first.cpu, last.wall - first.wall), time.monotonic() - began

    def killed_job(self, after_step: int) -> float:
        """Seconds of both processes of a job that is killed after a step, and continues from its last state."""
        with self._prepared() as platform:
            began = time.monotonic()
            with self._start(platform) as process:
                while max((record["step"] for record in platform.of_type("step")), default=0) < after_step:
                    assert process.poll() is None
                    time.sleep(_LOOK_SECONDS)
                process.kill()
            with self._start(platform) as process:
                assert process.wait(_LIMIT_SECONDS) == 0
            return time.monotonic() - began

    @contextmanager
    def _prepared(self) -> Iterator[ScriptedPlatform]:
        """A platform with the plan of the job."""
        with scripted_platform() as platform:
            self._prepare(platform)
            yield platform

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
