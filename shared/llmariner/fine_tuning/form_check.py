"""Checks the form of a job's files, a part at a time: a file may have hundreds of megabytes, and a delivery a minute."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from sqlalchemy import Row, update

from llmariner.errors import InvalidRequest, NotFound
from llmariner.files.file import File
from llmariner.files.jsonl import MAX_LINE_BYTES, JsonlCheck
from llmariner.fine_tuning.example_lines import check_line
from llmariner.fine_tuning.graders.definition import read_grader
from llmariner.fine_tuning.hyperparameters import Method
from llmariner.fine_tuning.promotion import gate_grader
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.platform.database import Database

__all__ = ["FormCheck", "InvalidFile", "ReadableFiles"]

_PART_BYTES = 2 * MAX_LINE_BYTES
"""More than one line may have, so that a part has the end of a line unless the line is too long."""
_PIECE_BYTES = 256 * 1024
"""After so many the time is looked at: a grader with many templates takes seconds for a MiB of short lines."""


class ReadableFiles(Protocol):
    """The part of `files.Files` that this uses."""

    def get(self, project_id: str, file_id: str) -> File:
        """A file of the project. NotFound."""

    def read(self, file: File, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Its bytes from `start`, at most `size`."""


class InvalidFile(Exception):
    """A file that a job can't be trained on; the message names the line. `param`: the field of the job that names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class FormCheck:
    """The checks of one installation."""

    def __init__(self, database: Database, files: ReadableFiles) -> None:
        self._database = database
        self._files = files

    def run(self, job: Row[Any], *, seconds: float) -> bool:
        """Check the files from where they were checked to; returns whether they are checked to their ends.

        Raises InvalidFile. Idempotent: two at once do the same work.
        """
        until = time.monotonic() + seconds
        names = [name for name in ("training_file", "validation_file") if getattr(job, name) is not None]
        # The file that is being checked; those before it are checked.
        first = names.index(_param_of(job, job.checked_file)) if job.checked_file else 0
        for index in range(first, len(names)):
            resumed = index == first and job.checked_file is not None
            start, lines = (job.checked_bytes, job.checked_lines) if resumed else (0, 0)
            if not self._check(job, names[index], start, lines, until):
                return False
        return True

    def _check(self, job: Row[Any], param: str, start: int, lines: int, until: float) -> bool:
        grader = None if job.grader is None else read_grader(json.loads(job.grader))
        gate = gate_grader(job) if param == "validation_file" else None
        of_gate = None if gate is None else gate.read()
        try:
            file = self._files.get(job.project_id, getattr(job, param))
            while start < file.size_bytes:
                part = b"".join(self._files.read(file, start, _PART_BYTES))
                end = len(part) if start + len(part) >= file.size_bytes else part.rfind(b"\n") + 1 or len(part)
                for piece in _pieces(part[:end]):
                    check = JsonlCheck(check_line(Method(job.method), grader, of_gate), lines)
                    check.feed(piece if piece.endswith(b"\n") else piece + b"\n")
                    start, lines = start + len(piece), check.lines
                    if time.monotonic() > until:
                        break
                self._save(job, file.id, start, lines)
                if start < file.size_bytes and time.monotonic() > until:
                    return False
                if not part:  # an object outside the store may be shorter than it was
                    break
        except InvalidRequest as error:
            raise InvalidFile(param, error.message) from error
        except NotFound as error:
            raise InvalidFile(
                param, f"The file '{getattr(job, param)}' is gone: it was deleted or has expired."
            ) from error
        return True

    def _save(self, job: Row[Any], file_id: str, checked_bytes: int, checked_lines: int) -> None:
        values = {"checked_file": file_id, "checked_bytes": checked_bytes, "checked_lines": checked_lines}
        with self._database.write() as session:
            session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id).values(**values))


def _pieces(part: bytes) -> Iterator[bytes]:
    """The part in pieces that end with lines."""
    start = 0
    while start < len(part):
        end = part.find(b"\n", start + _PIECE_BYTES) + 1 or len(part)
        yield part[start:end]
        start = end


def _param_of(job: Row[Any], file_id: str) -> str:
    return "validation_file" if file_id == job.validation_file else "training_file"
