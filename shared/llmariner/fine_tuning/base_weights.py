"""The weights of base models, as pods of jobs fetch them: piece by piece, from a copy in the object store or a bucket.

A pod holds the token of its attempt and no credential of a store. Where the installation gives out presigned URLs, the
bytes come from the store itself. Each piece is a request of its own, so a model that is deleted ends it with
the reason.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import and_, select

from llmariner.cached_once import cached_once
from llmariner.errors import Conflict, InvalidRequest, NotFound, Unavailable
from llmariner.fine_tuning.base_models import base_model
from llmariner.fine_tuning.job import Stage
from llmariner.fine_tuning.worker_tokens import Worker, load_job_of
from llmariner.model_file_names import is_for_engines
from llmariner.models.copies.tables import model_blob_chunks, model_blobs, model_copy_files
from llmariner.models.registry import ModelRegistry
from llmariner.object_settings import S3Settings
from llmariner.platform.database import Database
from llmariner.platform.model_files import (
    FilesUnavailable,
    ObjectReplaced,
    RemoteFile,
    TransferInterrupted,
    check_files,
)
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.platform.objects import ObjectNotFound, ObjectStore, ObjectStoreUnavailable

if TYPE_CHECKING:
    from llmariner.platform.model_files.s3 import S3Source
    from llmariner.platform.objects.s3_clients import S3Clients

__all__ = ["BaseWeights", "WeightFile", "WeightPiece"]

_PIECE_BYTES = 8 << 20
"""Of files in a bucket. Copies have the pieces in which they are stored."""
_READ_BYTES = 1 << 20
_WEIGHTS = ".safetensors"
_VERSION = re.compile(r'"?[A-Za-z0-9-]{1,128}"?|', re.ASCII)


@dataclass(frozen=True)
class WeightFile:
    """A file of the model's folder. `pieces`: their sizes, in order. `version`: to be sent when each of them is asked for.

    Of the digests at most one is set.
    """

    path: str
    size: int
    sha256: str
    md5: str
    version: str
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class WeightPiece:
    """Bytes of a file: `url` gives them to a request with these `headers`; without it, they are `parts`."""

    size: int
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: Iterator[bytes] = field(default_factory=lambda: iter(()))


class BaseWeights:
    """Of one installation. All methods block, and raise what `load_job_of` and `base_model` do, NotFound, Unavailable.

    `s3`: how the store is reached in which buckets of models are.
    """

    def __init__(
        self, database: Database, registry: ModelRegistry, objects: Callable[[], ObjectStore], s3: S3Settings
    ) -> None:
        self._database = database
        self._registry = registry
        self._objects = objects
        self._s3 = s3

    def files(self, worker: Worker) -> list[WeightFile]:
        """The files that the process reads: for the check of the job's files those without weights."""
        folder, stage = self._folder(worker)
        only_others = stage == Stage.CHECK

        def is_read(path: str) -> bool:
            return "/" not in path and (is_for_engines(path) or (path.endswith(_WEIGHTS) and not only_others))

        with _translated(), self._opened(folder) as weights:
            return weights.files(is_read)

    def piece(self, worker: Worker, path: str, start: int, version: str, *, signed: bool) -> WeightPiece:
        """The piece of a file that begins at the byte `start`. `signed`: as a URL, where the installation gives out such."""
        folder, _ = self._folder(worker)
        if not (is_for_engines(path) or path.endswith(_WEIGHTS)) or start < 0:
            raise _no_piece()
        if not _VERSION.fullmatch(version):
            raise InvalidRequest("'version' must be that of the listed file.", param="version", code="invalid_value")
        with _translated(), self._opened(folder) as weights:
            return weights.piece(path, start, version, signed)

    def _folder(self, worker: Worker) -> tuple[str, str]:
        """Where the weights are, and the stage of the job."""
        with self._database.read() as session:
            job = load_job_of(session, worker)
        model = base_model(self._registry, job)
        if why := self._registry.blocked_reason(model):
            raise Conflict(why, code="model_not_trainable")
        return model.folder, str(job.stage)

    @contextlib.contextmanager
    def _opened(self, folder: str) -> Iterator[_Weights]:
        if folder.startswith(COPY_SCHEME):
            yield _CopiedWeights(self._database, self._objects(), folder.removeprefix(COPY_SCHEME))
        elif folder.startswith("s3://"):
            from llmariner.platform.model_files.s3 import S3Source

            yield _BucketWeights(S3Source(folder, self._s3, self._clients))
        else:
            raise NotFound("The files of this model are not fetched from the platform.")

    @cached_once
    def _clients(self) -> S3Clients:
        from llmariner.platform.objects.s3_clients import S3Clients

        return S3Clients(self._s3)


class _Weights(Protocol):
    def files(self, is_read: Callable[[str], bool]) -> list[WeightFile]:
        """Those whose paths are read."""

    def piece(self, path: str, start: int, version: str, signed: bool) -> WeightPiece: ...


class _CopiedWeights:
    """Those of a copy in the object store, whose pieces are the objects of its contents."""

    def __init__(self, database: Database, objects: ObjectStore, copy_id: str) -> None:
        self._database, self._objects, self._copy_id = database, objects, copy_id

    def files(self, is_read: Callable[[str], bool]) -> list[WeightFile]:
        chunks: dict[str, list[tuple[int, int]]] = {}
        named, chunk = model_copy_files.c, model_blob_chunks.c
        of_copy = named.copy_id == self._copy_id
        stored = model_copy_files.join(model_blob_chunks, chunk.blob_id == named.blob_id)
        sizes = select(named.path, chunk.start, chunk.size).select_from(stored).where(of_copy)
        with self._database.read() as session:
            whole = model_copy_files.join(model_blobs, model_blobs.c.id == named.blob_id)
            files = select(named.path, model_blobs.c.size, model_blobs.c.sha256).select_from(whole)
            rows = session.rows(files.where(of_copy).order_by(named.position))
            for row in session.rows(sizes.order_by(named.position, chunk.start)):
                chunks.setdefault(row.path, []).append((row.start, row.size))
        return [
            WeightFile(row.path, row.size, row.sha256, "", "", tuple(size for _, size in chunks.get(row.path, ())))
            for row in rows
            if is_read(row.path)
        ]

    def piece(self, path: str, start: int, _version: str, signed: bool) -> WeightPiece:
        named, chunk = model_copy_files.c, model_blob_chunks.c
        this = and_(named.copy_id == self._copy_id, named.path == path, chunk.start == start)
        stored = model_copy_files.join(model_blob_chunks, chunk.blob_id == named.blob_id)
        with self._database.read() as session:
            found = session.first(select(chunk.object_key, chunk.size).select_from(stored).where(this))
        if found is None:
            raise _no_piece()
        key, said = found.object_key, {"content_type": "application/octet-stream", "content_disposition": "attachment"}
        if signed and (url := self._objects.signed_download(key, **said)) is not None:
            return WeightPiece(found.size, url)
        return WeightPiece(found.size, parts=self._objects.read(key))


class _BucketWeights:
    """Those below a prefix of a bucket."""

    def __init__(self, source: S3Source) -> None:
        self._source = source

    def files(self, is_read: Callable[[str], bool]) -> list[WeightFile]:
        listed = self._source.list_files(is_read).files
        check_files(listed)
        return [
            WeightFile(each.path, each.size, each.sha256, each.md5, each.version, _pieces(each.size)) for each in listed
        ]

    def piece(self, path: str, start: int, version: str, signed: bool) -> WeightPiece:
        if not version:
            raise _no_piece()
        file = self._source.named(path, version)
        size = min(_PIECE_BYTES, file.size - start)
        if size <= 0 or start % _PIECE_BYTES:
            raise _no_piece()
        if signed and (url := self._source.signed_url(file)) is not None:
            headers = {"range": f"bytes={start}-{start + size - 1}", "if-match": file.version}
            return WeightPiece(size, url, headers)
        parts = self._read(file, start, start + size)
        # What the store refuses is refused before the response has begun.
        return WeightPiece(size, parts=chain((next(parts, b""),), parts))

    def _read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        with self._source.open_range(file, start, end) as stream:
            while part := stream.read(_READ_BYTES):
                yield part


def _pieces(size: int) -> tuple[int, ...]:
    return tuple(min(_PIECE_BYTES, size - start) for start in range(0, size, _PIECE_BYTES))


def _no_piece() -> NotFound:
    return NotFound("The model has no such piece of a file: list its files again.")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (FilesUnavailable, ObjectReplaced, ObjectNotFound) as error:
        said = "a part of them is gone from the object store." if isinstance(error, ObjectNotFound) else str(error)
        raise Conflict(f"The weights of the base model can't be read: {said}", code="weights_unavailable") from error
    except (TransferInterrupted, ObjectStoreUnavailable) as error:
        raise Unavailable(f"The weights of the base model can't be read now: {error}") from error
