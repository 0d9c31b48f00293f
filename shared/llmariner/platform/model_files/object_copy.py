"""Copies of models in the object store, as a source of model files: `model-copy://<id>`.

A manifest names each file with its digest and the objects that its bytes are in. The engines' pods run
`python -m llmariner.platform.model_files.object_copy` as KServe's storage initializer: pairs of a URI and a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llmariner.platform.model_files import ByteStream, FilesUnavailable, Listing, RemoteFile, TransferInterrupted
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.platform.model_files.fetch import FetchProgress, fetch_files
from llmariner.platform.model_files.part_stream import PartStream
from llmariner.platform.objects import ObjectNotFound, ObjectStore, ObjectStoreUnavailable

__all__ = ["COPY_PREFIX", "ManifestFile", "ObjectCopySource", "download", "manifest_key"]

COPY_PREFIX = "models/copies/"
_LOCATION = re.compile(r"model-copy://(mcopy_[a-z0-9]{22})", re.ASCII)
_MAX_MANIFEST_BYTES = 64 << 20
_BEING_FETCHED = ".fetch"


@dataclass(frozen=True)
class ManifestFile:
    """A file of a copy. `chunks`: start, size and key of its objects, in order and without gaps."""

    path: str
    size: int
    sha256: str
    chunks: tuple[tuple[int, int, str], ...]


def manifest_key(copy_id: str) -> str:
    """The object with the manifest of a copy."""
    return f"{COPY_PREFIX}{copy_id}.json"


class ObjectCopySource:
    """See `ModelSource`."""

    only = ""

    def __init__(self, location: str, objects: ObjectStore) -> None:
        found = _LOCATION.fullmatch(location)
        if found is None:
            raise FilesUnavailable(f"'{location[:200]}' is no copy of a model: the platform writes {COPY_SCHEME}<id>.")
        self._key = manifest_key(found[1])
        self._objects = objects
        self._files: dict[str, ManifestFile] = {}

    def list_files(self) -> Listing:
        """See the port."""
        try:
            content = b"".join(self._objects.read(self._key, size=_MAX_MANIFEST_BYTES))
            files = [
                ManifestFile(**{**each, "chunks": tuple(map(tuple, each["chunks"]))}) for each in json.loads(content)
            ]
        except ObjectNotFound as error:
            raise FilesUnavailable("The copy is not in the object store: its model was deleted.") from error
        except ObjectStoreUnavailable as error:
            raise TransferInterrupted(str(error)) from error
        except (ValueError, TypeError, KeyError) as error:
            raise FilesUnavailable(
                f"The manifest {self._key} is damaged. Delete the model and create it again."
            ) from error
        self._files = {each.path: each for each in files}
        return Listing(tuple(RemoteFile(each.path, each.size, each.path, sha256=each.sha256) for each in files))

    def open_range(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[ByteStream]:
        """See the port."""
        return contextlib.closing(PartStream(_read(self._objects, self._files[file.path].chunks, start, end)))


def _read(
    objects: ObjectStore, chunks: Sequence[tuple[int, int, str]], start: int, end: int
) -> Generator[bytes, None, None]:
    """The bytes of a range, out of the objects that it is in."""
    try:
        for begin, size, key in chunks:
            first, last = max(start, begin), min(end, begin + size)
            if first < last:
                with contextlib.closing(objects.read(key, first - begin, last - first)) as reader:
                    yield from reader
    except ObjectNotFound as error:
        raise FilesUnavailable("A part of the copy is gone from the object store: its model was deleted.") from error
    except ObjectStoreUnavailable as error:
        raise TransferInterrupted(str(error)) from error


def download(location: str, folder: Path, objects: ObjectStore) -> None:
    """Fetch the files of a copy into a folder, which may exist and be a mount. FilesUnavailable, TransferInterrupted.

    A container that starts again continues where it was. One that runs again, as all of a pod do after its node was started
    again, fetches nothing that is there.
    """
    source = ObjectCopySource(location, objects)
    files, work = source.list_files().files, folder / _BEING_FETCHED
    if all(_is_there(folder / each.path, each) for each in files):
        shutil.rmtree(work, ignore_errors=True)
        return
    work.mkdir(parents=True, exist_ok=True)

    def report(progress: FetchProgress) -> None:
        print(f"{progress.done_bytes / 1e6:,.0f} of {progress.total_bytes / 1e6:,.0f} MB", flush=True)

    fetch_files(source, files, work / "model", BlobStore(work / "blobs"), report)
    for each in files:
        target = folder / each.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it was moved before the container ended
            os.replace(work / "model" / each.path, target)
    shutil.rmtree(work)


def _is_there(path: Path, file: RemoteFile) -> bool:
    """Whether a file is complete."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def main(arguments: Sequence[str]) -> int:
    """Exit status 0: all is there. 1: the last line says what is wrong, which `kubectl` shows."""
    from llmariner.object_settings import ObjectSettings
    from llmariner.platform.objects.s3 import S3Objects

    objects = S3Objects(ObjectSettings.load(os.environ).s3)
    try:
        for location, folder in zip(arguments[::2], arguments[1::2], strict=True):
            download(location, Path(folder), objects)
    except (FilesUnavailable, TransferInterrupted) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
