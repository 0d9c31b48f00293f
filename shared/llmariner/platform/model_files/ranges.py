"""The transfer of one file by parallel ranges into a partial file, with a record of the ranges that are there.

After an interruption at any byte, finished ranges are not fetched again; the digest of the whole file is checked at the
end, so a record that is wrong costs a new transfer, never a wrong file. Of a file without a digest, a range is on the disk
before the record says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from llmariner.platform.model_files import FilesUnavailable, ModelSource, RemoteFile, TransferInterrupted

__all__ = ["Digests", "RangeTransfer", "TransferLimits"]

_MIN_RANGE_BYTES = 4 << 20
_MAX_RANGE_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.5
_JOIN_SECONDS = 1.0


@dataclass(frozen=True)
class TransferLimits:
    """`workers`: parallel ranges. `patience`: seconds without a new MiB after which a transfer is given up."""

    workers: int = 4
    patience: float = 600.0
    first_pause: float = 0.5
    """Seconds before a range is asked for again; it doubles with each failure, up to 30."""


@dataclass(frozen=True)
class Digests:
    """Digests of a complete file, as hexadecimal."""

    sha256: str
    git_sha1: str
    md5: str

    def mismatch(self, file: RemoteFile) -> str:
        """The name of the digest of `file` that differs; empty if none does."""
        pairs = (
            ("SHA-256", file.sha256, self.sha256),
            ("Git digest", file.git_sha1, self.git_sha1),
            ("MD5", file.md5, self.md5),
        )
        return next((name for name, said, found in pairs if said and said != found), "")


@dataclass
class RangeTransfer:
    """One transfer. `on_bytes` gets the number of bytes of each block; `check` raises where the transfer must stop."""

    source: ModelSource
    file: RemoteFile
    part: Path
    ranges: Path
    limits: TransferLimits
    on_bytes: Callable[[int], None]
    check: Callable[[], None]
    _stopped: threading.Event = field(default_factory=threading.Event)
    _finished: set[int] = field(default_factory=set)
    _marked_at: float = 0.0
    _since_mark: int = 0

    def run(self) -> Digests:
        """Fetch what is missing and return the digests of the whole. FilesUnavailable, and what `check` raises."""
        self._marked_at = time.monotonic()
        count = -(-self.file.size // self._range_bytes)
        with self.part.open("r+b") as part, _open_record(self.ranges) as record:
            self._resume(part.fileno(), record.fileno(), count)
            hashes = _Hashes(part.fileno(), self.file)
            self._fetch([index for index in range(count) if index not in self._finished], hashes)
            hashes.read_to(self.file.size, self.check)
            os.fsync(part.fileno())
        return hashes.digests()

    @property
    def _range_bytes(self) -> int:
        return min(_MAX_RANGE_BYTES, max(_MIN_RANGE_BYTES, -(-self.file.size // 64)))

    def _resume(self, part: int, record: int, count: int) -> None:
        """Read the record: a byte 1 at the index of each finished range."""
        if os.fstat(part).st_size != self.file.size:
            os.ftruncate(record, 0)
            os.ftruncate(part, self.file.size)
        said = os.pread(record, count, 0)
        self._finished = {index for index, flag in enumerate(said) if flag == 1}
        self.on_bytes(sum(self._end(index) - index * self._range_bytes for index in self._finished))

    def _end(self, index: int) -> int:
        return min(self.file.size, (index + 1) * self._range_bytes)

    def _fetch(self, missing: list[int], hashes: _Hashes) -> None:
        """Fetch the missing ranges in parallel, and hash what is there from the beginning meanwhile."""
        tasks: queue.SimpleQueue[int] = queue.SimpleQueue()
        results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        for index in missing:
            tasks.put(index)
        # Daemon threads: one that waits for a silent source delays neither a cancellation nor the end of the process.
        threads = [
            threading.Thread(target=self._work, args=(tasks, results), name="model-file", daemon=True)
            for _ in range(min(self.limits.workers, len(missing)))
        ]
        for thread in threads:
            thread.start()
        try:
            left = len(missing)
            while left:
                try:
                    if error := results.get(timeout=_POLL_SECONDS):
                        raise error
                    left -= 1
                except queue.Empty:
                    # A thread may wait for longer than the patience: for headers, or for a store that sends byte by byte.
                    if self._is_overdue():
                        raise self._given_up("The source is too slow.") from None
                self.check()
                hashes.read_to(self._contiguous(), self.check)
        finally:
            self._stopped.set()
            until = time.monotonic() + _JOIN_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self, tasks: queue.SimpleQueue[int], results: queue.SimpleQueue[Exception | None]) -> None:
        try:
            # With descriptors of its own: those of `run` may be closed, and their numbers another file's, while it waits.
            with self.part.open("r+b") as part, self.ranges.open("r+b") as record, contextlib.suppress(queue.Empty):
                while not self._stopped.is_set():
                    self._fetch_range(tasks.get_nowait(), part.fileno(), record.fileno())
                    results.put(None)
        except Exception as error:  # raised again by the thread that waits
            results.put(error)

    def _contiguous(self) -> int:
        index = 0
        while index in self._finished:
            index += 1
        return min(self.file.size, index * self._range_bytes)

    def _fetch_range(self, index: int, part: int, record: int) -> None:
        position, end = index * self._range_bytes, self._end(index)
        pause = self.limits.first_pause
        while position < end:
            before = position
            try:
                with self.source.open_range(self.file, position, end) as stream:
                    while position < end and not self._stopped.is_set():
                        block = stream.read(min(_BLOCK_BYTES, end - position))
                        if not block:
                            raise TransferInterrupted("The source ended the transfer early.")
                        if self._stopped.is_set():
                            return
                        if self._is_overdue():
                            raise TransferInterrupted("The source is too slow.")
                        position += _write(part, block, position)
                        self._count(len(block))
                        self.on_bytes(len(block))
            except TransferInterrupted as error:
                if self._is_overdue():
                    raise self._given_up(str(error)) from error
                pause = self.limits.first_pause if position > before else min(30.0, pause * 2)
                # Random, so that the ranges of many transfers don't return to a source that recovers all at once.
                self._stopped.wait(pause * random.uniform(0.5, 1.0))
            if self._stopped.is_set():
                return
        self._count(_BLOCK_BYTES)
        if not self.file.has_digest:
            os.fsync(part)
        os.pwrite(record, b"\1", index)
        self._finished.add(index)

    def _given_up(self, why: str) -> FilesUnavailable:
        return FilesUnavailable(
            f"{why} It sent less than 1 MiB in {self.limits.patience:.0f} s; what is here already is kept for a week. "
            "Retry the model when the source answers."
        )

    def _count(self, size: int) -> None:
        """Count bytes towards the next MiB; the patience begins again with each."""
        self._since_mark += size
        if self._since_mark >= _BLOCK_BYTES:
            self._since_mark, self._marked_at = 0, time.monotonic()

    def _is_overdue(self) -> bool:
        return time.monotonic() - self._marked_at > self.limits.patience


def _open_record(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")  # not for appending, which ignores the position of a write


def _write(part: int, block: bytes, position: int) -> int:
    written = 0
    try:
        while written < len(block):
            written += os.pwrite(part, block[written:] if written else block, position + written)
    except OSError as error:
        raise FilesUnavailable(
            f"The file can't be written: {error.strerror}. Free some room and retry the model."
        ) from error
    return written


class _Hashes:
    """Digests of a file that grows, read from its beginning."""

    def __init__(self, descriptor: int, file: RemoteFile) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._sha256 = hashlib.sha256()
        # Digests of the source that nothing depends on but the comparison with what it says.
        self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False) if file.git_sha1 else None
        self._md5 = hashlib.md5(usedforsecurity=False) if file.md5 else None

    def read_to(self, end: int, check: Callable[[], None]) -> None:
        """Add what is before `end`."""
        while self._position < end:
            block = os.pread(self._descriptor, min(4 * _BLOCK_BYTES, end - self._position), self._position)
            if not block:
                raise FilesUnavailable("The file was cut short while it was fetched.")
            for digest in (self._sha256, self._git, self._md5):
                if digest is not None:
                    digest.update(block)
            self._position += len(block)
            check()

    def digests(self) -> Digests:
        """The digests of what was read."""
        git = self._git.hexdigest() if self._git else ""
        return Digests(self._sha256.hexdigest(), git, self._md5.hexdigest() if self._md5 else "")
