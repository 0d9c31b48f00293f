"""Logs of processes that append to them for as long as they run: bounded, and read from their end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["MOST_BYTES", "begin", "bound", "end_of"]

MOST_BYTES = 16 * 1024 * 1024
"""Of a log; as many of what was there before are kept beside it."""

_KEPT = ".1"
_END_BYTES = 64 * 1024


def begin(log: Path) -> None:
    """Empty it, and drop what was kept of before."""
    log.write_bytes(b"")
    with contextlib.suppress(OSError):
        _kept(log).unlink(missing_ok=True)


def bound(log: Path, most: int = MOST_BYTES) -> None:
    """Empty a log of more than `most` bytes; its end is kept as NAME.1. Those who append to it need not know.

    What they write in between is lost. On a full disk the whole of it is: whoever fills the disk by it must not go on.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > most:
            with contextlib.suppress(OSError):
                _keep_end(log, most)
            os.truncate(log, 0)


def end_of(log: Path, *, after: int = 0) -> str:
    """Its last 64 KiB, without what stands before byte `after`; of what was kept before, where it was just emptied."""
    try:
        with log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(after, size - _END_BYTES))
            said = file.read(_END_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return said if size or log.suffix == _KEPT else end_of(_kept(log))


def _kept(log: Path) -> Path:
    return log.with_name(log.name + _KEPT)


def _keep_end(log: Path, most: int) -> None:
    kept = _kept(log)
    kept.unlink(missing_ok=True)
    with (
        log.open("rb") as source,
        os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target,
    ):
        source.seek(-most, os.SEEK_END)
        target.write(source.read(most))
