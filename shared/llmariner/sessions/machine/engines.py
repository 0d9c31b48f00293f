"""Engines of this machine as pods: those of a project's own models, with their logs.

Those of models that all projects share belong to the platform, as the namespace of models does on a worker cluster: nobody's
pods are among them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from llmariner.errors import NotFound
from llmariner.models.tables import models
from llmariner.platform.database import Database
from llmariner.platform.jobs import LogPart
from llmariner.platform.serving import Phase, served_name

__all__ = ["MachineEngine", "ProjectEngines", "pod_name", "without_folders"]

_PART_BYTES = 64 * 1024
_MAX_NAME, _DIGEST = 39, 16
"""Characters of a model's name, and of the hash of its id: two models' names that somebody chooses must not meet."""
_FOLDERS = re.compile(rb"(?<![\w./-])(?:file://)?/(?:[^\s/'\"`,:;()\[\]{}<>|]+/)+")


@dataclass(frozen=True)
class MachineEngine:
    """An engine. Times are Unix seconds; `started_at` None: it waits. `ended_at`: it failed then."""

    model_id: str
    phase: Phase
    message: str
    log: Path
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None


class ProjectEngines:
    """The engines of projects' own models. `engines` are all of the machine; all methods block."""

    def __init__(self, database: Database, engines: Callable[[], Sequence[MachineEngine]] | None) -> None:
        self._database = database
        self._engines = engines

    def of(self, project_id: str) -> list[MachineEngine]:
        """The engines of a project, by the names of their pods."""
        found = {each.model_id: each for each in self._engines()} if self._engines is not None else {}
        own = select(models.c.id).where(models.c.project_id == project_id, models.c.id.in_(sorted(found)))
        with self._database.read() as session:
            ids = [row.id for row in session.rows(own)] if found else []
        return [found[id_] for id_ in sorted(ids, key=pod_name)]

    def get(self, project_id: str, name: str) -> MachineEngine | None:
        """The engine whose pod has the name; None: the project has none."""
        return next((each for each in self.of(project_id) if pod_name(each.model_id) == name), None)

    def log(self, name: str, start: int) -> LogPart:
        """Whole lines of the log of an engine by the name of its pod, for a caller who may read it. NotFound."""
        for each in self._engines() if self._engines is not None else ():
            if pod_name(each.model_id) == name:
                return _read_lines(each.log, start)
        raise NotFound(f'pods "{name[:100]}" not found.')


def pod_name(model_id: str) -> str:
    """The name of the pod of a model's engine."""
    word = re.sub(r"[^a-z0-9]+", "-", served_name(model_id).lower())[:_MAX_NAME].strip("-")
    return f"engine-{word}-{hashlib.sha256(model_id.encode()).hexdigest()[:_DIGEST]}"


def _read_lines(log: Path, start: int) -> LogPart:
    """Whole lines of a log from byte `start` on, which begins a line; from 0 on where it was emptied since."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            begin = start if start <= size else 0
            file.seek(begin)
            data = file.read(_PART_BYTES)
    except OSError:
        return LogPart(b"", 0, 0)
    # A line longer than a part is passed on in parts.
    whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == _PART_BYTES else b"")
    return LogPart(whole, begin, begin + len(whole))


def without_folders(lines: bytes) -> bytes:
    """Lines with the names of files alone in place of their paths, which are the machine's affair."""
    return _FOLDERS.sub("\u2026/".encode(), lines)
