"""Logs of processes that append to them for as long as they run: bounded, and read from their end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["MAX_BYTES", "reset", "rotate", "tail"]

MAX_BYTES = 16 * 1024 * 1024
"""Of a log; as many of what was there before are kept beside it."""

_PREVIOUS_SUFFIX = ".1"
_TAIL_BYTES = 64 * 1024


def reset(log: Path) -> None:
    """Empty it, and drop what was kept of before."""
    log.write_bytes(b"")
    with contextlib.suppress(OSError):
        _previous(log).unlink(missing_ok=True)


def rotate(log: Path, max_bytes: int = MAX_BYTES) -> None:
    """Empty a log of more than `max_bytes` bytes; its end is kept as NAME.1. Those who append to it need not know.

    What they write in between is lost. On a full disk the whole of it is: whoever fills the disk by it must not go on.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > max_bytes:
            with contextlib.suppress(OSError):
                _keep_tail(log, max_bytes)
            os.truncate(log, 0)


def tail(log: Path, *, after: int = 0) -> str:
    """Its last 64 KiB, without what stands before byte `after`; of what was kept before, where it was just emptied."""
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
