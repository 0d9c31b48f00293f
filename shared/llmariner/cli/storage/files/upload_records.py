"""What `llma` remembers of an upload in parts, so that the same command continues with it after an interruption.

A record is a file of the user's state folder. It holds ids and the file's path, no content and no key.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmariner.cli import private_files
from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.support.configuration import Target
from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["UploadRecord", "state_folder"]

_KEPT_SECONDS = 86_400
"""Uploads expire after an hour; later than this their records are removed."""


def state_folder(environment: Mapping[str, str]) -> Path:
    """The folder of what `llma` remembers (XDG base directory specification); it need not exist."""
    home = environment.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "llmariner"


@dataclass
class UploadRecord:
    """An upload of one file to one project of one platform. `parts`: the ids of its parts by number, from 0."""

    path: Path
    upload_id: str = ""
    part_bytes: int = 0
    parts: dict[int, str] = field(default_factory=dict)
    is_saved: bool = False
    """Whether another run can find it."""

    @classmethod
    @contextmanager
    def locked(cls, folder: Path, target: Target, file: LocalFile, body: Mapping[str, Any]) -> Iterator[UploadRecord]:
        """Yields the record of this upload, empty if there is none. CommandError while another process has it.

        `body`: the request that began it. Another size, time, purpose or platform makes it another upload.
        """
        facts = [target.endpoint, target.organization, target.project]
        facts += [str(file.path.resolve()), str(file.modified_ns), json.dumps(body, sort_keys=True)]
        name = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        record = cls(folder / "uploads" / f"{name}.yaml")
        with _lock(record.path.with_suffix(".lock"), file):
            record._load()
            yield record

    def save(self) -> None:
        """Write it; where no file can be written, such as in a read-only home, the upload continues without a record."""
        content = {"upload": self.upload_id, "part_bytes": self.part_bytes, "parts": self.parts}
        with suppress(OSError):
            private_files.replace(self.path, content)
            os.utime(self.path, (now := time.time(), now))
            self.is_saved = True

    def discard(self) -> None:
        """Remove it and forget the upload."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.upload_id, self.parts, self.is_saved = "", {}, False

    def _load(self) -> None:
        import yaml

        _remove_old(self.path.parent)
        with suppress(OSError, ValueError, yaml.YAMLError, AttributeError, TypeError):
            content = yaml.safe_load(private_files.read(self.path))
            parts = {int(number): str(part) for number, part in content["parts"].items()}
            self.upload_id, self.part_bytes, self.parts = str(content["upload"]), int(content["part_bytes"]), parts
            self.is_saved = True


@contextmanager
def _lock(path: Path, file: LocalFile) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield  # a read-only home: there is no record to share either
        return
    try:
        # The age counts, by the clock of this machine and not by that of a file server.
        with suppress(OSError):
            os.utime(descriptor, (now := time.time(), now))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                ExitCode.USAGE,
                f"another llma is uploading {file.path} already.",
                next_step="wait for it, or end it and run this command again.",
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def _remove_old(folder: Path) -> None:
    oldest = time.time() - _KEPT_SECONDS
    with suppress(OSError):
        for each in folder.iterdir():
            if each.stat().st_mtime < oldest:
                each.unlink()
