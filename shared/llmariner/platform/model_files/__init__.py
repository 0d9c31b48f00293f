"""Sources of model files: one port for the repositories that models are fetched from.

A source lists the files of a location with sizes and digests and serves ranges of them; `fetch.fetch_files` puts them
into a folder. Adapters: `hugging_face`, `ollama`, `s3`. File names and sizes come from the source and are untrusted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ByteStream",
    "FilesUnavailable",
    "Listing",
    "ModelSource",
    "ObjectReplaced",
    "RemoteFile",
    "TransferInterrupted",
    "check_files",
]

_MAX_FILES = 5000
_MAX_NAME_LENGTH = 512
_MAX_DEPTH = 8
_MAX_FILE_BYTES = 1 << 44
# No leading dot: `.git`, `..` and hidden files of tools are no model files.
_SEGMENT = re.compile(r"[A-Za-z0-9_+=,@()\[\] ][A-Za-z0-9_.+=,@()\[\] -]{0,254}", re.ASCII)


class FilesUnavailable(Exception):
    """The files can't be fetched and a retry would not help; the message says why and what to do."""


class TransferInterrupted(Exception):
    """The source did not answer, or not completely; a retry may help."""


class ByteStream(Protocol):
    """The bytes of a range."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end. TransferInterrupted."""


class ObjectReplaced(TransferInterrupted):
    """The source has another content than it listed: a retry helps after another listing."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a source. At most one digest is set, as lower-case hexadecimal.

    `git_sha1`: Git's digest of a blob, over a header and the content. `version`: what identifies the content at its source
    where no digest does, such as the ETag of an object.
    """

    path: str
    size: int
    url: str
    sha256: str = ""
    git_sha1: str = ""
    md5: str = ""
    version: str = ""

    @property
    def has_digest(self) -> bool:
        """Whether the content can be compared with what its source says of it."""
        return bool(self.sha256 or self.git_sha1 or self.md5)

    @property
    def key(self) -> str:
        """Identifies the content, for resuming: equal for two files only if their source says that they are the same."""
        if self.sha256:
            return f"sha256-{self.sha256}"
        said = "\n".join((self.git_sha1, self.md5, self.version, str(self.size), self.url))
        return f"other-{hashlib.sha256(said.encode()).hexdigest()}"


@dataclass(frozen=True)
class Listing:
    """The files of a location. `revision`: the commit or digest that the location meant when it was listed."""

    files: tuple[RemoteFile, ...]
    revision: str = ""


class ModelSource(Protocol):
    """Lists and reads the files of one location. FilesUnavailable and TransferInterrupted from each method. Thread-safe.

    `only`: the one file with weights that the location names; empty for the whole.
    """

    only: str

    def list_files(self) -> Listing:
        """All files of the location."""

    def open_range(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[ByteStream]:
        """Bytes from `start` up to `end`, which is not included. A stream that ends early is an interrupted transfer."""


def check_files(files: Sequence[RemoteFile]) -> None:
    """FilesUnavailable for names that would leave the folder, and for too many or too large files."""
    if len(files) > _MAX_FILES:
        raise FilesUnavailable(f"The location has {len(files):,} files, over the limit of {_MAX_FILES:,}.")
    names: set[str] = set()
    folders: set[str] = set()
    for file in files:
        segments = file.path.split("/")
        plain = all(map(_SEGMENT.fullmatch, segments)) and len(segments) <= _MAX_DEPTH
        if not plain or len(file.path) > _MAX_NAME_LENGTH:
            raise FilesUnavailable(
                f"The source has a file named {file.path[:80]!r}; a name is of letters, digits and simple punctuation, "
                "and begins with no dot."
            )
        above = {"/".join(segments[:count]) for count in range(1, len(segments))}
        if file.path in names or file.path in folders or above & names:
            raise FilesUnavailable(f"The source has two files at {file.path[:80]!r}.")
        if not 0 <= file.size <= _MAX_FILE_BYTES:
            raise FilesUnavailable(f"The source gives the file {file.path[:80]!r} a size of {file.size} bytes.")
        names.add(file.path)
        folders |= above
