"""Fetches the files of a listing into a folder, which appears when it is complete."""

from __future__ import annotations

import collections
import contextlib
import glob
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmariner.platform.model_files import FilesUnavailable, ModelSource, RemoteFile, TransferInterrupted, check_files
from llmariner.platform.model_files.blobs import BlobStore, locked
from llmariner.platform.model_files.ranges import RangeTransfer, TransferLimits

__all__ = ["PART", "FetchProgress", "fetch_files", "unfinished_folders"]

PART = ".part"
"""Suffix of the folder of a fetch that is not complete."""

_SPARE_BYTES = 512 << 20
_RATE_WINDOW_SECONDS = 30.0
_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class FetchProgress:
    """Bytes that are here, of how many; `estimate_seconds` by the rate of the last half minute, None before there is one."""

    done_bytes: int
    total_bytes: int
    estimate_seconds: float | None = None


def fetch_files(
    source: ModelSource,
    files: Sequence[RemoteFile],
    target: Path,
    blobs: BlobStore,
    report: Callable[[FetchProgress], None],
    limits: TransferLimits = TransferLimits(),  # noqa: B008
) -> None:
    """Fetch `files` into the folder `target`; what an interrupted call left is used. Blocks.

    `report` is called about once a second, from this thread; what it raises stops the fetch. FilesUnavailable.
    """
    check_files(files)
    meter = _Meter(sum(file.size for file in files), report)
    part = target.with_name(f"{target.name}.{_digest(files)}{PART}")
    for other in unfinished_folders(target):
        if other != part:  # of files that the location does not have any more
            shutil.rmtree(other, ignore_errors=True)
    while not target.is_dir():
        part.mkdir(parents=True, exist_ok=True)
        # Another fetch of the same target may hold the lock; the folder that it renames is at this path no more.
        with contextlib.suppress(FileNotFoundError), locked(part, os.O_RDONLY | os.O_DIRECTORY, meter.report):
            _fill(part, source, files, blobs, meter, limits)
            os.replace(part, target)
    meter.report(force=True)


def unfinished_folders(target: Path) -> list[Path]:
    """The folders in which interrupted fetches of `target` left complete files."""
    return [path for path in target.parent.glob(f"{glob.escape(target.name)}.*{PART}") if path.is_dir()]


def _fill(
    part: Path,
    source: ModelSource,
    files: Sequence[RemoteFile],
    blobs: BlobStore,
    meter: _Meter,
    limits: TransferLimits,
) -> None:
    _check_room(blobs, [file for file in files if not (part / file.path).is_file()])
    for file in files:
        if (part / file.path).is_file():  # a link, made when the file was complete
            meter.add(file.size)
        else:
            _fetch_file(source, file, part / file.path, blobs, meter, limits)


def _digest(files: Sequence[RemoteFile]) -> str:
    said = "\n".join(f"{file.path}\n{file.key}" for file in files)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _fetch_file(
    source: ModelSource, file: RemoteFile, place: Path, blobs: BlobStore, meter: _Meter, limits: TransferLimits
) -> None:
    if _linked(source, file, place, blobs):
        meter.add(file.size)
        return
    for attempt in range(2):
        with blobs.partial(file.key, meter.report) as (part, ranges):
            # Another model's transfer of the same file, which this one waited for, may have stored it.
            if _linked(source, file, place, blobs):
                part.unlink()
                meter.add(file.size)
                return
            _check_room(blobs, [file])
            before = meter.done
            transfer = RangeTransfer(source, file, part, ranges, limits, meter.add, meter.report)
            digests = transfer.run()
            if not (wrong := digests.mismatch(file)):
                blobs.add(part, ranges, digests.sha256, place)
                return
            part.unlink()
            ranges.unlink(missing_ok=True)
            meter.add(before - meter.done)
        # The first time, the ranges of an interrupted transfer may be to blame: power failed before they were written.
        if attempt:
            raise FilesUnavailable(
                f"'{file.path}' is not what its source says: its {wrong} differs, twice. Nothing of it is kept; tell who "
                "runs the source, or name another revision."
            )


def _linked(source: ModelSource, file: RemoteFile, place: Path, blobs: BlobStore) -> bool:
    """Link a file that is stored already, if the source has it too.

    Who only knows the digest of another's file must not get it from the store.
    """
    if not blobs.has(file.sha256, file.size):
        return False
    try:
        if file.size:
            with source.open_range(file, 0, 1) as stream:
                stream.read(1)
    except TransferInterrupted:
        return False
    return blobs.link(file.sha256, file.size, place)


def _check_room(blobs: BlobStore, files: Sequence[RemoteFile]) -> None:
    """FilesUnavailable where what is missing of files does not fit, not even after other models' partial files went."""
    missing = {file.key: file for file in files if not blobs.has(file.sha256, file.size)}
    if not missing:
        return
    needed = sum(file.size - blobs.partial_bytes(key) for key, file in missing.items()) + _SPARE_BYTES
    if needed > blobs.free_bytes():
        blobs.free_unused(room_for=missing.keys())
    if needed > (free := blobs.free_bytes()):
        what = f"'{files[0].path}' needs" if len(files) == 1 else f"'{files[0].path}' and the other files together need"
        raise FilesUnavailable(
            f"{what} {needed / 1e9:,.1f} GB on the disk, and {free / 1e9:,.1f} GB are free. Delete models that are not "
            "needed, then retry this one."
        )


class _Meter:
    """Counts bytes from several threads, and reports from one."""

    def __init__(self, total: int, report: Callable[[FetchProgress], None]) -> None:
        self.done = 0
        self._total = total
        self._report = report
        self._lock = threading.Lock()
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._reported_at = 0.0

    def add(self, count: int) -> None:
        """Count bytes."""
        with self._lock:
            self.done += count

    def report(self, *, force: bool = False) -> None:
        """Report, unless the last report is less than a second ago."""
        now = time.monotonic()
        if not force and now - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_at = now
        self._marks.append((now, self.done))
        while now - self._marks[0][0] > _RATE_WINDOW_SECONDS:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = (self.done - before) / (now - began) if now > began else 0.0
        estimate = (self._total - self.done) / rate if rate > 0 else None
        self._report(FetchProgress(self.done, self._total, estimate))
