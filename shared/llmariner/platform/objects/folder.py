"""Objects as files below a folder of one machine: the key is the path.

A writer fills a file in `.unfinished` and moves it to its place, which is atomic. It holds a lock on that file, so that
another process can tell a file that is written from one whose writer was killed. Names of keys do not begin with a dot.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from llmariner.platform.objects import (
    READ_BYTES,
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    check_key,
    check_prefix,
    check_range,
)

__all__ = ["FolderObjects"]

_UNFINISHED = ".unfinished"
_PAGE = 4096
_SYNCED_AT_ONCE = 32 * 1024 * 1024
_ATTEMPTS = 20


class FolderObjects:
    """The objects port on a folder, which is created with the first object. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def writer(self, key: str) -> _Writer:
        """A writer that creates or replaces the object."""
        return _Writer(self._root, check_key(key))

    def read(self, key: str, start: int = 0, size: int | None = None, version: str | None = None) -> _Reader:
        """The bytes from `start`, at most `size` of them. Raises ObjectNotFound."""
        check_range(start, size)
        with _translated(key):
            file = self._path(key).open("rb", buffering=0)
            if version not in (None, _info(key, os.fstat(file.fileno())).version):
                file.close()
                raise ObjectStoreUnavailable("The object was replaced before it was read.")
            if start:
                file.seek(start)
        return _Reader(file, size)

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if there is none."""
        try:
            with _translated(key):
                found = self._path(key).stat()
        except ObjectNotFound:
            return None
        return _info(key, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` and follow `after`, in ascending order of keys.

        Holds the names of one folder in memory. An object that is deleted meanwhile may be left out.
        """
        parent = check_prefix(prefix).rpartition("/")[0]
        return self._list(f"{parent}/" if parent else "", prefix, after)

    def _list(self, folder: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        for name in self._names(folder):
            key = folder + name
            if not key.startswith(prefix):
                continue
            if key.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._list(key, prefix, after)
            elif key > after and (found := self.info(key)):
                yield found

    def _names(self, folder: str) -> Sequence[str]:
        """Names in a folder in the order of keys; those of folders end in a slash, by which their keys sort."""
        try:
            with _translated(folder), os.scandir(self._root / folder) as entries:
                names = [entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(".")]
        except ObjectNotFound:
            return []
        return sorted(names)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are ignored. Folders that become empty are removed."""
        for key in keys:
            path = self._path(key)
            with contextlib.suppress(ObjectNotFound), _translated(key):
                path.unlink()
                # Fails where the folder has other objects. A writer that needs it makes it again.
                with contextlib.suppress(OSError):
                    for parent in path.parents[: key.count("/")]:
                        parent.rmdir()

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Create an object of the bytes of others, in order. Raises ObjectNotFound."""
        with self.writer(key) as writer:
            for part in parts:
                for data in self.read(part):
                    writer.write(data)
            return writer.commit()

    def discard_unfinished(self, prefix: str, before: float) -> int:
        """Remove files of writers that ended without commit; `prefix` does not matter. Returns how many there were."""
        check_prefix(prefix)
        discarded = 0
        for name in self._names_of_unfinished():
            path = self._root / _UNFINISHED / name
            with contextlib.suppress(ObjectNotFound), _translated(name), path.open("rb") as file:
                if _begun(name) < before and _lock(file):
                    path.unlink()
                    discarded += 1
        return discarded

    def signed_download(self, key: str, *, content_type: str, content_disposition: str) -> str | None:
        """None: a folder has no URLs."""
        check_key(key)
        return None

    def _names_of_unfinished(self) -> Sequence[str]:
        try:
            with _translated(_UNFINISHED):
                return os.listdir(self._root / _UNFINISHED)
        except ObjectNotFound:
            return []

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


class _Reader:
    """Reads an open file, and closes it at the end."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file = file
        self._left = size

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> bytes:
        if self._file.closed:
            raise StopIteration
        wanted = READ_BYTES if self._left is None else min(READ_BYTES, self._left)
        with _working():
            data = self._file.read(wanted)
        if not data:
            self.close()
            raise StopIteration
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __del__(self) -> None:
        self.close()


class _Syncing(threading.Thread):
    """Writes what a file has so far to disk."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="sync", daemon=True)
        self._descriptor = descriptor
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        """Of the thread."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._error = error

    def end(self) -> None:
        """Wait for its end. Raises its error: the system reports one once, so that a later call would hide it."""
        self.join()
        if self._error is not None:
            raise self._error


class _Writer:
    """Writes a file beside the objects and moves it to its place."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key
        self._file: BinaryIO | None = None
        self._unsynced = 0
        self._syncing: _Syncing | None = None

    def __enter__(self) -> _Writer:
        with _working():
            self._file = _new_unfinished(self._root)
        return self

    def __exit__(self, *_: object) -> None:
        if self._syncing is not None:
            self._syncing.join()  # it uses the file
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._file.name)
            # What is still in the buffer of the file may not be writable: the disk is full.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def write(self, data: bytes) -> None:
        """Append bytes. A part of zeros becomes a hole of the file, which takes no room on disk."""
        file = self._opened()
        with _working():
            if len(data) >= _PAGE and not data[0] and data.count(0) == len(data):
                file.seek(len(data), os.SEEK_CUR)
            else:
                file.write(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNCED_AT_ONCE and not (self._syncing and self._syncing.is_alive()):
            self._sync_ahead(file)

    def _sync_ahead(self, file: BinaryIO) -> None:
        """Let the disk work while more bytes arrive: a commit waits for the last of them alone."""
        with _working():
            if self._syncing is not None:
                self._syncing.end()
            self._unsynced = 0
            self._syncing = _Syncing(file.fileno())

    def commit(self) -> ObjectInfo:
        """Write the file to disk and move it to its place."""
        file = self._opened()
        with _working():
            file.truncate()  # to the position: a hole at the end has no byte yet
            file.flush()
            if self._syncing is not None:
                self._syncing.end()
            # A file server has a clock of its own; every age is reckoned by that of the platform.
            os.utime(file.fileno(), (now := time.time(), now))
            os.fsync(file.fileno())
            self._move(file.name)
            found = os.fstat(file.fileno())
            self._file = None
            file.close()
        return _info(self._key, found)

    def _move(self, name: str) -> None:
        target = self._root / self._key
        for _ in range(_ATTEMPTS):
            # Another process may remove the folder while it is empty: also between two looks of `mkdir` at it.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                _make_folder(target.parent, self._root)
                os.replace(name, target)
                _sync_folder(target.parent)
                return
        raise ObjectStoreUnavailable(f"{target.parent} is removed again and again, or {name} was.")

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("The writer is not open: use it in a with statement, and not after commit.")
        return self._file


def _new_unfinished(root: Path) -> BinaryIO:
    """A new file that is locked. Another process may remove it before the lock: then another."""
    folder = root / _UNFINISHED
    for _ in range(_ATTEMPTS):
        _make_folder(folder, root)
        file = open(folder / _new_name(), "xb", opener=_open_private)  # noqa: SIM115 - the writer closes it
        if _lock(file) and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()
    raise ObjectStoreUnavailable(f"Files in {folder} are removed again and again.")


def _new_name() -> str:
    return f"{time.time():.0f}-{secrets.token_hex(16)}"


def _begun(name: str) -> float:
    """When a writer began, in seconds; infinite for a file that is not a writer's."""
    begun = name.partition("-")[0]
    return float(begun) if begun.isdecimal() else math.inf


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for this descriptor, if no other holds it; the end of a process releases its locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_folder(folder: Path, root: Path) -> None:
    """Create missing folders down to `folder`, each durable in its parent."""
    missing = [folder, *folder.parents]
    missing = [path for path in missing[: missing.index(root) + 1] if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    version = f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"
    return ObjectInfo(key, found.st_size, found.st_mtime, version)


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    """Raise the port's errors for those of the operating system."""
    with _working():
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectNotFound(key) from error


@contextlib.contextmanager
def _working() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ObjectStoreUnavailable(f"The folder of objects does not work: {error.strerror}.") from error
