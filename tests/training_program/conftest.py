"""The training program as a job runs it: in the engine environment, with a tiny model that has a real tokenizer."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.program import archive
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED

from .runs_in_turn import KILLED
from .scripted_platform import TOKEN, ScriptedPlatform, scripted_platform

HERE = Path(__file__).parent


class Program:
    """Runs the program of a job. `python`: of the engine environment; `packaged`: the folder of a real model.

    `model`: a tiny one, whose tokens are all about as likely; `decided`: one to which some are much likelier than others.
    """

    def __init__(self, python: Path, packaged: Path, folder: Path) -> None:
        self._python = python
        self._packaged = packaged
        self.model = folder / "tiny"
        self.decided = folder / "decided"
        self._folder = folder
        [(name, content)] = archive().items()
        self.archive = folder / name
        self.archive.write_bytes(content)

    def make_models(self) -> None:
        """Write the folders of the models, by one process: each takes seconds to import torch."""
        self.script("tiny_model.py", str(self._packaged), str(self.model), f"{self.decided}=0.6")

    def script(self, name: str, *arguments: str, stdin: str = "") -> str:
        """The output of a script of this folder."""
        command = [str(self._python), str(HERE / name), *arguments]
        done = subprocess.run(
            command, env=self._environment(), input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """The process of a script, begun, with its output to read."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(self._python), *command], env=self._environment(), stdout=pipe, stderr=pipe, text=True
        )

    def start(self, platform: ScriptedPlatform, workers: int = 1) -> subprocess.Popen[str]:
        """The process of a job, begun."""
        work = self._folder / f"work-{len(list(self._folder.iterdir()))}"
        work.mkdir()
        own = {"LLMARINER_TRAINING_URL": f"{platform.url}/job", "LLMARINER_TRAINING_TOKEN": TOKEN}
        own["LLMARINER_TRAINING_WORKERS"] = str(workers)
        return subprocess.Popen(
            [str(self._python), "-m", "llmariner.fine_tuning.training_program"],
            cwd=work,
            env={**self._environment(), **own},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, platform: ScriptedPlatform, **plan: Any) -> int:
        """The exit code of a job with that plan. What it reported before is forgotten."""
        platform.records.clear()
        platform.plan = {"model_folder": str(self.model), **plan}
        with self.start(platform) as process:
            _, said = process.communicate(timeout=120)
        print(said)
        return process.returncode

    def run_in_turn(self, *platforms: ScriptedPlatform) -> None:
        """Run a job at each of them, with the plans that they have, by one process."""
        work = self._folder / f"work-{len(list(self._folder.iterdir()))}"
        urls = [f"{KILLED if each.kills_at else ''}{each.url}/job" for each in platforms]
        for number, each in enumerate(platforms):
            each.process_files.append(work / f"{number}.pid")
        self.script("runs_in_turn.py", str(work), *urls, stdin=TOKEN)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "PYTHONPATH": str(self.archive),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            # A platform's scripts inherit it, and the program has no compiled part.
            "LLMARINER_COMPILED": str(self._folder / "compiled"),
        }


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    cache = StandaloneSettings.load(environment()).cache
    engines, packaged = EngineEnvironment(cache, engine_lock()), PACKAGED[0].folder(cache)
    if not engines.is_installed or not packaged.is_dir():
        pytest.skip("the engine environment is not set up: make up")
    folder = tmp_path_factory.mktemp("training")
    made = Program(engines.python, packaged, folder)
    made.make_models()
    assert zipfile.is_zipfile(made.archive)
    return made


@pytest.fixture
def platform() -> Iterator[ScriptedPlatform]:
    with scripted_platform() as made:
        yield made
