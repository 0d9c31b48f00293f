"""An engine environment whose `vllm` is the scripted engine.

The launcher with its pipes, forks and signals is real. `test_real_engine.py` tests vLLM itself.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.settings import ProcessSettings

__all__ = ["MEMORY", "PARENT", "model", "processes_with", "scripted_settings"]

MEMORY = 1412 << 20
"""The memory that the platform expects of an engine with hardly any weights: KV cache and overhead."""

PARENT = 64 << 20
"""More than the memory of the launcher, which imports nothing here."""

_SCRIPTED = Path(__file__).parents[1] / "engines" / "scripted.py"
_PROGRAM = """#!{python}
# Takes the arguments of `vllm serve` that the scripted engine has too, under its own names.
import os
import sys

given = sys.argv[1:]
names = {{"--served-model-name": "--model", "--uds": "--uds"}}
kept = ("--ready-after", "--tokens", "--token-interval", "--max-running", "--crash-after-tokens")
arguments = ["--fail-load"] if "--fail-load" in given else []
for name, value in zip(given, given[1:] + [""]):
    if name in names or name in kept:
        arguments += [names.get(name, name), value]
print("Loading weights took 0.01 seconds", flush=True)
os.execv({python!r}, [{python!r}, {scripted!r}, *arguments])
"""


def scripted_settings(
    folder: Path, *, warm: bool = False, idle_seconds: float = 0, engines: float = 8, logs: str = "logs"
) -> ProcessSettings:
    """Settings of a serving adapter with memory for that many engines."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (folder / logs).mkdir(exist_ok=True)
    if not (programs / "vllm").exists():
        (programs / "python").symlink_to(sys.executable)
        (programs / "vllm").write_text(_PROGRAM.format(python=sys.executable, scripted=str(_SCRIPTED)))
        (programs / "vllm").chmod(0o755)
    return ProcessSettings(
        python=programs / "python",
        logs=folder / logs,
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
        budget=int(engines * (MEMORY + 1024)) + PARENT,
        idle_seconds=idle_seconds,
        warm=warm,
    )


def model(folder: Path, name: str, *extra_args: str, keep_awake: bool = False) -> EngineModel:
    """A model whose engine gets these arguments."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text(json.dumps({"architectures": [], "max_position_embeddings": 128}))
    return EngineModel(
        id=name,
        folder=str(weights),
        task="generate",
        size_bytes=1,
        extra_args=extra_args,
        keep_awake=keep_awake,
        typical_wake_seconds=1.0,
    )


def processes_with(mark: str) -> list[int]:
    """Ids of processes whose command line contains a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return sorted(found)
