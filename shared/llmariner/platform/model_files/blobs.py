"""Model files by content: a file of two models is on the disk once, and each model's folder has a hard link to it.

The number of links counts the uses: a file whose only link is the store's is used by no model. Several processes may use
a store at once; locks of a process that dies end with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

__all__ = ["BlobStore", "locked", "remove_unlocked"]

_PART, _RANGES = ".part", ".ranges"
_ABANDONED_SECONDS = 7 * 86_400.0
_LOCK_POLL_SECONDS = 0.2


class BlobStore:
    """The files below `folder`. The folders that link to them must be on the same file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def partial(self, key: str, check: Callable[[], None]) -> Iterator[tuple[Path, Path]]:
        """The partial file of a transfer, locked, and the path of the record of its finished ranges.

        Waits for another transfer of the same content; `check` raises where the wait must end.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{key}{_PART}"
        with locked(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, check):
            yield part, self._folder / f"{key}{_RANGES}"

    def has(self, sha256: str, size: int) -> bool:
        """Whether a file with that digest is stored; False for an empty digest."""
        blob = self._blob(sha256)
        return bool(sha256) and blob.is_file() and blob.stat().st_size == size

    def link(self, sha256: str, size: int, target: Path) -> bool:
        """Link a stored file to `target`; False where there is none with that digest."""
        with self._lock():
            if not self.has(sha256, size):
                return False
            _link(self._blob(sha256), target)
            return True

    def add(self, part: Path, ranges: Path, sha256: str, target: Path) -> None:
        """Store a complete partial file, whose digest was computed, and link it to `target`."""
        with self._lock():
            blob = self._blob(sha256)
            if blob.is_file():
                part.unlink()
            else:
                # Written for all to read, since an engine may be another user, and for none to change: models share it.
                part.chmod(0o444)
                os.replace(part, blob)
            ranges.unlink(missing_ok=True)
            _link(blob, target)

    def partial_bytes(self, key: str) -> int:
        """The bytes on the disk of the partial file of a transfer."""
        try:
            return (self._folder / f"{key}{_PART}").stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> int:
        """Free bytes of the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free

    def free_unused(self, *, room_for: Collection[str] | None = None) -> int:
        """Remove files that no model uses, and partial files that no transfer continued for a week; returns their bytes.

        `room_for`: room is short for the transfers of these keys: all partial files but theirs that no transfer has open.
        """
        freed = 0
        if not self._folder.is_dir():
            return 0
        with self._lock():
            for path in list(self._folder.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    if path.name.startswith("sha256-") and not path.suffix and found.st_nlink == 1:
                        path.unlink()
                        freed += found.st_size
                    elif path.suffix == _PART and self._is_abandoned(path, found, room_for):
                        freed += _remove_abandoned(path)
        return freed

    def _is_abandoned(self, part: Path, found: os.stat_result, room_for: Collection[str] | None) -> bool:
        if room_for is not None:
            return part.stem not in room_for
        return time.time() - found.st_mtime > _ABANDONED_SECONDS

    def _blob(self, sha256: str) -> Path:
        return self._folder / f"sha256-{sha256}"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Held for short: between finding or storing a file and linking it, nobody removes it as unused."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, flags: int, check: Callable[[], None]) -> Iterator[None]:
    """Lock the file or folder that is at `path`, opened with `flags`; the lock of a process that dies ends with it.

    Waits for its holder, and calls `check` meanwhile.
    """
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                check()
                time.sleep(_LOCK_POLL_SECONDS)
                continue
            if _is_at(descriptor, path):  # else its last holder finished, and moved it
                yield
                return
        finally:
            os.close(descriptor)


def remove_unlocked(folder: Path) -> None:
    """Remove a folder, unless another process or thread has it locked."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)


def _link(blob: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(blob, target)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(part: Path) -> int:
    descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a transfer waits for its source
        return 0
    else:
        used = os.fstat(descriptor).st_blocks * 512
        part.unlink()
        part.with_suffix(_RANGES).unlink(missing_ok=True)
        return used
    finally:
        os.close(descriptor)
