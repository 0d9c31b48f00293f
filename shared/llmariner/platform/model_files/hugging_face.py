"""Repositories of the Hugging Face Hub, or of a mirror with its API: `owner/name[:revision][/file]`.

https://huggingface.co/docs/hub/api lists the API; a listing is pinned to the commit that the revision meant at that time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from llmariner.platform.model_files import ByteStream, FilesUnavailable, Listing, RemoteFile
from llmariner.platform.model_files.http_reader import HttpReader, HttpStatus

__all__ = ["HuggingFaceSource"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True)
class _Location:
    """A repository, its revision (a branch, tag or commit), and one file of it; empty: all files."""

    repository: str
    revision: str
    file: str

    @classmethod
    def parse(cls, location: str) -> _Location:
        """Parse `[hf://]owner/name[:revision][/file]`. FilesUnavailable for anything else."""
        segments = location.removeprefix("hf://").strip("/").split("/")
        named, file = "/".join(segments[:2]), "/".join(segments[2:])
        repository, _, revision = named.partition(":")
        names = repository.split("/")
        if not all(map(_NAME.fullmatch, names)) or (":" in named and not _REVISION.fullmatch(revision)):
            raise FilesUnavailable(
                f"'{location[:200]}' is no repository of a Hugging Face Hub: write owner/name, owner/name:revision or "
                "owner/name/file."
            )
        return cls(repository, revision or "main", file)


class HuggingFaceSource:
    """See `ModelSource`. `token` is sent to the host of `endpoint` only; empty: none."""

    def __init__(self, location: str, *, endpoint: str, token: str = "", private_allowed: bool = False) -> None:
        self._location = _Location.parse(location)
        self.only = self._location.file
        self.repository = self._location.repository
        self._endpoint = endpoint.rstrip("/")
        self._has_token = bool(token)
        headers = {"User-Agent": "llmariner"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._http = HttpReader(self._endpoint, headers, private_allowed=private_allowed)

    def list_files(self) -> Listing:
        """See the port."""
        place = self._location
        url = f"{self._endpoint}/api/models/{place.repository}/revision/{quote(place.revision, safe='')}?blobs=true"
        with self._explained():
            document, _ = self._http.document(url)
        commit, siblings = _fields(document)
        found = (self._file(each, commit) for each in siblings)
        # Files of Git and of tools.
        return Listing(tuple(file for file in found if not f"/{file.path}".count("/.")), commit)

    @contextlib.contextmanager
    def open_range(self, file: RemoteFile, start: int, end: int) -> Iterator[ByteStream]:
        """See the port."""
        with self._explained(), self._http.range(file.url, start, end) as body:
            yield body

    def _file(self, sibling: Any, commit: str) -> RemoteFile:
        lfs = sibling.get("lfs") if isinstance(sibling, dict) else None
        lfs = lfs if isinstance(lfs, dict) else {}
        try:
            path, size = str(sibling["rfilename"]), int(lfs.get("size", sibling.get("size")))
            url = f"{self._endpoint}/{self._location.repository}/resolve/{commit}/{quote(path)}"
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FilesUnavailable("The hub lists a file without a name or a size.") from error
        sha256, blob = str(lfs.get("sha256", "")), str(sibling.get("blobId", ""))
        if lfs:
            if not _SHA256.fullmatch(sha256):
                raise FilesUnavailable(f"The hub lists {path[:80]!r} without its SHA-256.")
            return RemoteFile(path, size, url, sha256=sha256)
        return RemoteFile(path, size, url, git_sha1=blob if _SHA1.fullmatch(blob) else "", version=commit)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Replace a status by what to do about it."""
        try:
            yield
        except HttpStatus as error:
            raise FilesUnavailable(self._advice(error)) from error

    def _advice(self, error: HttpStatus) -> str:
        place, name = self._location, self._location.repository
        if error.code == "RevisionNotFound":
            return f"The repository '{name}' has no revision '{place.revision}'."
        if error.code == "GatedRepo" or error.status == 403:
            return (
                f"The repository '{name}' is gated. Accept its terms on the hub with the account whose token the platform "
                "has in HF_TOKEN, then retry the model."
            )
        if error.status in (401, 404):
            token = "the token in HF_TOKEN may not read it" if self._has_token else "it is private: set HF_TOKEN"
            return f"The hub has no repository or file '{name}' at '{place.revision}', or {token}. Check the name."
        return f"The hub refuses '{name}': {error}."


def _fields(document: Any) -> tuple[str, list[Any]]:
    commit = document.get("sha") if isinstance(document, dict) else None
    siblings = document.get("siblings") if isinstance(document, dict) else None
    if not isinstance(commit, str) or not _REVISION.fullmatch(commit) or not isinstance(siblings, list):
        raise FilesUnavailable("The hub's answer names no commit and no files; is HF_ENDPOINT the address of a hub?")
    return commit, siblings
