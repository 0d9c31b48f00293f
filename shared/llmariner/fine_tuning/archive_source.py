"""The archive of a model that a job uploaded, as a source of model files: what copies models, copies it by ranges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from llmariner.errors import NotFound, Unavailable
from llmariner.files.files import Files
from llmariner.fine_tuning.file_locations import made_file
from llmariner.fine_tuning.model_archive import InvalidArchive, places_in_archive
from llmariner.models.model import Model
from llmariner.platform.model_files import ByteStream, FilesUnavailable, Listing, RemoteFile, TransferInterrupted
from llmariner.platform.model_files.part_stream import PartStream

__all__ = ["ArchiveSource", "archive_source"]


def archive_source(model: Model, files: Callable[[], Files]) -> ArchiveSource | None:
    """That of a model of which a job trained all weights; None for any other."""
    place = made_file(model)
    return None if place is None or model.base_model_id is not None else ArchiveSource(files, *place)


class ArchiveSource:
    """See `ModelSource`. The URL of a file is where it begins in the archive."""

    only = ""

    def __init__(self, files: Callable[[], Files], project_id: str, file_id: str) -> None:
        self._files = files
        self._project_id = project_id
        self._file_id = file_id

    def list_files(self) -> Listing:
        """See the port."""

        def read(start: int, size: int) -> bytes:
            return b"".join(self._read(start, size))

        try:
            places = places_in_archive(read)
        except InvalidArchive as error:
            raise FilesUnavailable(f"'{self._file_id}' is no archive of a model: {error}.") from error
        return Listing(tuple(RemoteFile(name, size, f"{self._file_id}#{start}") for name, start, size in places))

    def open_range(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[ByteStream]:
        """See the port."""
        first = int(file.url.rpartition("#")[2])
        return contextlib.closing(PartStream(self._read(first + start, end - start)))

    def _read(self, start: int, size: int) -> Generator[bytes, None, None]:
        try:
            files = self._files()
            yield from files.read(files.get(self._project_id, self._file_id), start, size)
        except NotFound as error:
            raise FilesUnavailable(f"The file '{self._file_id}' of the model was deleted.") from error
        except Unavailable as error:
            raise TransferInterrupted(error.message) from error
