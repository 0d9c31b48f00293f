"""Files of this machine: what is uploaded, in ranges, and safe names for what is downloaded."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.terminal import strip_control_characters

__all__ = ["FileRange", "LocalFile", "file_changed", "files_below", "safe_file_name", "standard_input"]

_MAX_NAME_BYTES = 200
"""Of 255 that file systems allow; the rest is for the name of an incomplete download."""


@dataclass(frozen=True)
class LocalFile:
    """A regular file. `name`: the one that the platform gets. `size`: bytes. `modified_ns`: nanoseconds since 1970."""

    path: Path
    name: str
    size: int
    modified_ns: int

    @classmethod
    def from_path(cls, path: Path, name: str | None = None) -> LocalFile:
        """The file as it is now. CommandError for what is not a readable regular file."""
        try:
            found = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(
                ExitCode.USAGE,
                f"{path} is not a regular file.",
                next_step="name a file, or pipe what it holds: `... | llma storage files upload - --name NAME`.",
            )
        # A file name need not be valid UTF-8, but a form is.
        own_name = (name or path.name).encode("utf-8", "replace").decode()
        return cls(path, own_name, found.st_size, found.st_mtime_ns)

    def md5(self) -> str:
        """The MD5 of the content, in hexadecimal, by which the platform checks what arrived."""
        try:
            with self.path.open("rb") as content:
                return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def is_unchanged(self) -> bool:
        """Whether size and time of modification are still the same."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.modified_ns)


class FileRange:
    """`size` bytes of a file from `start`, as a binary stream; `report` gets the offset in the file of each read.

    CommandError if the file cannot be read or has become shorter.
    """

    def __init__(self, file: LocalFile, start: int, size: int, report: Callable[[int], None]) -> None:
        self._file, self._start, self._size, self._report = file, start, size, report
        self._offset = 0
        try:
            self._stream = file.path.open("rb")
        except OSError as error:
            raise _unreadable(file.path, error) from error

    def __enter__(self) -> FileRange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def tell(self) -> int:
        """The offset in the range."""
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset of the range; returns it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        self._offset = base + offset
        return self._offset

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end of the range."""
        left = self._size - self._offset
        wanted = left if size < 0 else min(size, left)
        if wanted <= 0:
            return b""
        try:
            self._stream.seek(self._start + self._offset)
            data = self._stream.read(wanted)
        except OSError as error:
            raise _unreadable(self._file.path, error) from error
        if not data:
            raise file_changed(self._file)
        self._offset += len(data)
        self._report(self._start + self._offset)
        return data


def file_changed(file: LocalFile) -> CommandError:
    """The error for a file that another program writes to."""
    return CommandError(
        ExitCode.USAGE,
        f"{file.path} changed while it was being read; nothing of it is kept.",
        next_step="upload it when nothing writes to it.",
    )


def files_below(paths: Sequence[Path], patterns: Sequence[str]) -> list[LocalFile]:
    """The files named, and those in the folders named, sorted. CommandError for anything that cannot be read.

    Of folders: without hidden files and folders, without links to folders (which may form a loop), and with patterns
    (`*.pdf`) only files whose names match one.
    """
    found: dict[Path, LocalFile] = {}
    for path in paths:
        for each in _regular_files(path, patterns) if path.is_dir() else (path,):
            found.setdefault(each.resolve(), LocalFile.from_path(each))
    return list(found.values())


def _regular_files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error) from error

    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            wanted = not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            if wanted and not name.startswith(".") and path.is_file():
                yield path


@contextmanager
def standard_input(name: str) -> Iterator[LocalFile]:
    """Standard input, copied to a temporary file, since an upload begins with its size."""
    with tempfile.TemporaryDirectory(prefix="llma-") as folder:
        copy = Path(folder, "input")
        try:
            with copy.open("wb") as out:
                shutil.copyfileobj(sys.stdin.buffer, out)
        except OSError as error:
            raise CommandError(
                ExitCode.USAGE,
                f"standard input cannot be copied to {folder}: {error.strerror}.",
                next_step="make room there, or set TMPDIR to a folder with more of it.",
            ) from error
        yield LocalFile.from_path(copy, name)


def safe_file_name(name: str, fallback: str) -> str:
    """A name of one file for a name that a server gave: without folders, control characters, and a dot in front.

    The result is never empty, `.` or `..`, holds no separator, and fits into a directory entry.
    """
    for candidate in (name, fallback, "download"):
        last = candidate.replace("\\", "/").rsplit("/", 1)[-1].replace("\n", " ").replace("\t", " ")
        cleaned = strip_control_characters(last).encode("utf-8", "replace").decode().strip().lstrip(".")
        if cleaned:
            return _shortened(cleaned)
    raise AssertionError("the last candidate is a name")


def _shortened(name: str) -> str:
    """At most `_MAX_NAME_BYTES` of UTF-8, with the suffix."""
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    suffix = Path(name).suffix if len(Path(name).suffix.encode()) <= 20 else ""
    stem = name.removesuffix(suffix).encode()[: _MAX_NAME_BYTES - len(suffix.encode())]
    return stem.decode("utf-8", "ignore") + suffix


def _unreadable(path: Path, error: OSError) -> CommandError:
    return CommandError(
        ExitCode.USAGE, f"{path} cannot be read: {error.strerror or error}.", next_step="name a file that you may read."
    )
