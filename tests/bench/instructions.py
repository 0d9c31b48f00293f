"""Instructions of the gateway for a small request and for a streamed token, counted by valgrind's callgrind.

They repeat to a few percent on busy machines too, where times do not: a budget can be set on them. Counted is the user
code of the process of `chat_completions`; the kernel's part is not seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .children import StartError, running
from .environments import UnavailableError
from .load_driver import Load, LoadError, drive
from .peers import gateway
from .results import Results
from .run import Bounds, engine
from .target import Site, Started

__all__ = ["Instructions", "count", "measure_instructions"]

# A process under callgrind takes fifty times as long.
_START_SECONDS = 300
_REQUESTS = Load(connections=4, seconds=300, warm=300, tokens=8, count=600)
_STREAMS = Load(connections=4, seconds=300, warm=8, tokens=100, stream=True, token_interval_ms=5, count=24)
_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Instructions:
    """User instructions; those of a token include a hundredth of those of its request."""

    per_request: float
    per_token: float


def count(folder: Path) -> Instructions:
    """Of the gateway before the scripted engine.

    Raises UnavailableError (no valgrind here), StartError and LoadError.
    """
    with running(engine(), folder) as direct, _counted(Site(folder, direct.port)) as counted:
        return Instructions(
            _during(_REQUESTS, counted, folder) / _REQUESTS.count,
            _during(_STREAMS, counted, folder) / (_STREAMS.count * _STREAMS.tokens),
        )


def measure_instructions(results: Results, folder: Path, _: Bounds) -> None:
    """One count for the report."""
    try:
        found = count(folder)
    except (UnavailableError, StartError, LoadError) as reason:
        results.skipped["instructions"] = str(reason)
        return
    results.add("request_instructions", "gateway", found.per_request)
    results.add("token_instructions", "gateway", found.per_token)


@contextmanager
def _counted(site: Site) -> Iterator[Started]:
    """The chat function under callgrind."""
    if not all(map(shutil.which, ("valgrind", "callgrind_control"))):
        raise UnavailableError("valgrind is not installed (apt install valgrind)")
    target = gateway.target(site)
    callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={site.folder}/callgrind"]
    # The order of sets, and so the path through the code, depends on the seed.
    environment = {**target.environment, "PYTHONHASHSEED": "0"}
    target = replace(target, command=[*callgrind, *target.command], environment=environment)
    with running(target, site.folder, _START_SECONDS) as started:
        yield started


def _during(load: Load, started: Started, folder: Path) -> int:
    """Instructions of a phase of the load; its warm-up comes before it and is not counted."""
    drive(replace(load, count=1), started)
    _dump(started, folder)
    drive(replace(load, warm=0), started)
    return _dump(started, folder)


def _dump(started: Started, folder: Path) -> int:
    """Instructions since the last dump."""
    # callgrind finds the process by a name that holds the HOST in the environment of both.
    environment = {**os.environ, "HOST": "127.0.0.1"}
    command = ["callgrind_control", "--dump", str(started.pid)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    newest = max(folder.glob("callgrind.*"), key=lambda file: int(file.suffix[1:]))
    found = _TOTAL.search(newest.read_text())
    if found is None:
        raise LoadError(f"{newest} has no total: the process was not counted")
    return int(found[1])
