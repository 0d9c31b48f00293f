"""What `llma` remembers of the files that it uploaded for a vector store, so that a repeated command uploads none twice.

A record is a file of the user's state folder with a line of JSON per upload. It holds paths and ids, no content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.storage.files.upload_records import state_folder

__all__ = ["AddedFiles"]


class AddedFiles:
    """The files of this machine that were uploaded for one vector store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: dict[str, str] = {}
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError, KeyError):  # the last line of a run that was killed
                    record = json.loads(line)
                    self._ids[str(record["file"])] = str(record["id"])

    @classmethod
    def of_store(cls, environment: Mapping[str, str], endpoint: str, store_id: str) -> AddedFiles:
        """The record of a store of a platform; empty if there is none."""
        name = hashlib.sha256(f"{endpoint}\0{store_id}".encode()).hexdigest()[:32]
        return cls(state_folder(environment) / "vector-stores" / f"{name}.jsonl")

    def file_id(self, file: LocalFile) -> str | None:
        """The id under which it was uploaded, unless its path, size or time has changed since."""
        return self._ids.get(_identity(file))

    def add(self, file: LocalFile, file_id: str) -> None:
        """Remember an upload; where no file can be written, such as in a read-only home, only for this run."""
        self._ids[_identity(file)] = file_id
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as out:
                out.write(json.dumps({"file": _identity(file), "id": file_id}) + "\n")


def _identity(file: LocalFile) -> str:
    return f"{file.path.resolve()} {file.size} {file.modified_ns}".encode("utf-8", "backslashreplace").decode()
