"""Makes the folder of a model of the archive that a job uploaded. Nothing of a job is code here, or chooses a path.

The archive is a tar file of regular files alone: any other kind of entry is refused, such as links and extended headers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from llmariner.fine_tuning.training_program.model_tar import (
    MAX_OTHER_BYTES,
    MAX_OTHER_FILES,
    WEIGHTS,
    is_other_file,
)
from llmariner.platform.model_files.blobs import BlobStore

__all__ = ["InvalidArchive", "places_in_archive", "write_model_folder"]

_NEEDED = frozenset({"config.json", WEIGHTS})
"""Any other that a model needs its base has as well: one that is trained without it is served without it."""
_MAX_WEIGHT_BYTES = 1 << 50
"""A header may say more than any store takes for a position."""
_BLOCK_BYTES = 512


class InvalidArchive(Exception):
    """The file is no archive of a model; the message says why."""


def write_model_folder(parts: Iterator[bytes], folder: Path, blobs: BlobStore, check: Callable[[], None]) -> None:
    """Write the folder, which appears whole or not at all, its files by their contents in `blobs`.

    What `check` raises ends it. Raises InvalidArchive, OSError, and what `parts` raises.
    """
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        for name, content in _archived_files(parts):
            with blobs.partial(f"archived-{folder.name}-{name}", check) as (part, ranges):
                try:
                    blobs.add(part, ranges, _write(content, part, check), work / name)
                finally:
                    part.unlink(missing_ok=True)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _archived_files(parts: Iterator[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of an archive: the name and the content of each, which is to be read to its end before the next one.

    Raises InvalidArchive.
    """
    stream, seen = _Stream(parts), set[str]()
    while (block := b"".join(stream.take(_BLOCK_BYTES))) != bytes(_BLOCK_BYTES):
        name, size = _entry(block, seen)
        yield name, stream.take(size)
        for _ in stream.take(-size % _BLOCK_BYTES):
            pass
    _check_complete(seen)


def places_in_archive(read: Callable[[int, int], bytes]) -> list[tuple[str, int, int]]:
    """The files of an archive: name, first byte and size of each. `read`: a start and a number of bytes, fewer at the end.

    It reads the headers alone. Raises InvalidArchive, and what `read` raises.
    """
    places, seen, position = list[tuple[str, int, int]](), set[str](), 0
    while (block := read(position, _BLOCK_BYTES)) != bytes(_BLOCK_BYTES):
        if len(block) < _BLOCK_BYTES:
            raise InvalidArchive("it ends early")
        name, size = _entry(block, seen)
        places.append((name, position + _BLOCK_BYTES, size))
        position += _BLOCK_BYTES + size + -size % _BLOCK_BYTES
    _check_complete(seen)
    return places


def _check_complete(seen: Collection[str]) -> None:
    if missing := sorted(_NEEDED.difference(seen)):
        raise InvalidArchive(f"it has no {', '.join(missing)}")


def _entry(block: bytes, seen: set[str]) -> tuple[str, int]:
    """The name and the size that the header of a file says, whose name is added to `seen`."""
    try:
        entry = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise InvalidArchive("it is no tar file") from error
    if entry.type != tarfile.REGTYPE or not (entry.name == WEIGHTS or is_other_file(entry.name)):
        raise InvalidArchive(f"its entry {entry.name[:100]!r} is none of a model")
    if not 0 <= entry.size <= (_MAX_WEIGHT_BYTES if entry.name == WEIGHTS else MAX_OTHER_BYTES):
        raise InvalidArchive(f"its file '{entry.name}' has {entry.size} bytes")
    if entry.name in seen:
        raise InvalidArchive(f"it has two files '{entry.name}'")
    if len(seen) > MAX_OTHER_FILES:
        raise InvalidArchive(f"it has more than {MAX_OTHER_FILES:,} files besides the weights")
    seen.add(entry.name)
    return entry.name, entry.size


def _write(content: Iterator[bytes], path: Path, check: Callable[[], None]) -> str:
    """Write a file; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in content:
            check()
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class _Stream:
    """Bytes in parts of any sizes, taken in the sizes that are needed."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, in pieces. Raises InvalidArchive where there are fewer."""
        while size:
            self._rest = self._rest or next(self._parts, b"")
            if not self._rest:
                raise InvalidArchive("it ends early")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece
