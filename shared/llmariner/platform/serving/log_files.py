"""Log files that child processes append to: rotation and reading of the tail."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["MAX_BYTES", "reset", "rotate", "tail"]

MAX_BYTES = 16 * 1024 * 1024
"""Size of a log at which it is rotated; the same number of bytes is kept of its previous content."""

_PREVIOUS_SUFFIX = ".1"
_TAIL_BYTES = 64 * 1024


def reset(log: Path) -> None:
    """Empty a log and delete its previous content."""
    log.write_bytes(b"")
    with contextlib.suppress(OSError):
        _previous(log).unlink(missing_ok=True)


def rotate(log: Path, max_bytes: int = MAX_BYTES) -> None:
    """Empty a log of more than `max_bytes` bytes; its end is kept as NAME.1. Writers may keep the file open for appending.

    Lines written during the rotation are lost. On a full disk all content is dropped, so that the log frees space.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > max_bytes:
            with contextlib.suppress(OSError):
                _keep_tail(log, max_bytes)
            os.truncate(log, 0)


def tail(log: Path, *, after: int = 0) -> str:
    """The last 64 KiB of a log from byte `after` on; of its previous content, if the log was just emptied."""
    try:
        with log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(after, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return text if size or log.suffix == _PREVIOUS_SUFFIX else tail(_previous(log))


def _previous(log: Path) -> Path:
    return log.with_name(log.name + _PREVIOUS_SUFFIX)


def _keep_tail(log: Path, max_bytes: int) -> None:
    previous = _previous(log)
    previous.unlink(missing_ok=True)
    with (
        log.open("rb") as source,
        os.fdopen(os.open(previous, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target,
    ):
        source.seek(-max_bytes, os.SEEK_END)
        target.write(source.read(max_bytes))
