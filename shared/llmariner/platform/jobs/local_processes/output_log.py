"""The output of a job in files of bounded size: the last ones are kept, and bytes are numbered from the first of all output.

One process writes; others read at any time.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from llmariner.platform.jobs import LogPart

__all__ = ["OutputLog", "read_log"]

_SEGMENT_BYTES = 4 * 1024 * 1024
_SEGMENTS = 2
_PART_BYTES = 64 * 1024


class OutputLog:
    """Writes to a folder, after what an earlier writer wrote there. A file's name is the number of its first byte."""

    def __init__(self, folder: Path, segment_bytes: int = _SEGMENT_BYTES) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        last = next(reversed(_segments(folder)), None)
        self._begin = int(last.name) if last else 0
        self._size = last.stat().st_size if last else 0

    def write(self, data: bytes) -> None:
        """Append output. What a full disk does not take is lost."""
        if self._size >= self._segment_bytes:
            self._begin += self._size
            self._size = 0
            for old in _segments(self._folder)[: -(_SEGMENTS - 1)]:
                old.unlink(missing_ok=True)
        with contextlib.suppress(OSError), self._path.open("ab") as file:
            self._size += file.write(data)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._begin:020}"


def read_log(folder: Path, start: int) -> LogPart:
    """Output from byte `start` on, at most 64 KiB; from the first that is kept, where that one is not."""
    for path in _segments(folder):
        try:
            with path.open("rb") as file:
                begin, size = int(path.name), path.stat().st_size
                if begin + size <= start:
                    continue
                first = max(start, begin)
                file.seek(first - begin)
                data = file.read(_PART_BYTES)
        except OSError:  # removed meanwhile, so a later one has the first byte that is kept
            continue
        return LogPart(data, first, first + len(data))
    return LogPart(b"", start, start)


def _segments(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.isdecimal())
    except OSError:
        return []
