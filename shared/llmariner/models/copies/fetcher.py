"""Copies models of a hub or a bucket into the installation's object store, in slices.

The engines' pods read the copy (`platform.model_files.object_copy`) and need no hub. Each call of `fetch` takes less than a
minute; any may be killed between two lines, and the next continues with the bytes that are stored.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sqlalchemy import select

from llmariner.models.copies.blobs import Blobs, LostBlob
from llmariner.models.copies.contents import inspected_copy, stored_conversion, write_manifest
from llmariner.models.copies.records import CopyFile, CopyRecords, ModelCopy
from llmariner.models.copies.slices import CopySlice, SliceLimits
from llmariner.models.model import Model, SourceRepository
from llmariner.models.sources import CredentialOf, no_credential, open_source
from llmariner.models.tables import models
from llmariner.models.weights import (
    FetchedWeights,
    LoadingDeferred,
    LoadingUnfinished,
    ReportProgress,
    WeightFetcher,
    WeightsUnavailable,
)
from llmariner.platform.database import Database
from llmariner.platform.model_files import FilesUnavailable, ModelSource
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.platform.model_files.object_copy import manifest_key
from llmariner.platform.objects import ObjectStore, ObjectStoreUnavailable
from llmariner.settings import ModelSettings, S3Settings

if TYPE_CHECKING:
    from llmariner.models.gguf.conversion import GgufConversion

__all__ = ["CopyingFetcher"]

_REMOVAL_SECONDS = 20.0


class CopyingFetcher:
    """See `WeightFetcher`. `otherwise` fetches what is not copied: volumes, adapters of bases that were not copied.

    `trained`: the source of a model whose weights a job made; None for others.
    """

    def __init__(
        self,
        database: Database,
        objects: Callable[[], ObjectStore],
        settings: ModelSettings,
        s3: S3Settings,
        otherwise: WeightFetcher,
        credential_of: CredentialOf = no_credential,
        limits: SliceLimits = SliceLimits(),  # noqa: B008
        trained: Callable[[Model], ModelSource | None] = lambda _model: None,
    ) -> None:
        self._database, self._objects = database, objects
        self._settings, self._s3, self._otherwise = settings, s3, otherwise
        self._credential_of, self._limits, self._trained = credential_of, limits, trained

    def fetch(self, model: Model, report: ReportProgress) -> FetchedWeights:
        """See the port. LoadingUnfinished after each slice but the last."""
        if not self._is_copied(model):
            return self._otherwise.fetch(model, report)
        holder = f"slice_{secrets.token_hex(8)}"
        records = CopyRecords(self._database, holder)
        copy = records.hold(model)
        if copy is None:
            raise LoadingDeferred("Another process copies it, or other models of the project are before it.")
        try:
            return self._copied(model, copy, records, Blobs(self._database, self._objects, holder), report)
        except FilesUnavailable as error:
            raise WeightsUnavailable(str(error)) from error
        except (LostBlob, ObjectStoreUnavailable) as error:
            raise LoadingUnfinished(str(error)) from error
        finally:
            records.release(copy)

    def discard(self, model_id: str, folder: str, successor: Model | None = None) -> None:
        """See the port. What takes longer than some seconds, `remove_unused` continues with."""
        self._otherwise.discard(model_id, folder, successor)
        self.remove_unused(seconds=_REMOVAL_SECONDS)

    def next_waiting(self, project_id: str | None) -> tuple[str, int] | None:
        """See the port."""
        return CopyRecords(self._database, "").next_waiting(project_id)

    def stalled(self) -> list[tuple[str, int]]:
        """See the port."""
        return CopyRecords(self._database, "").stalled()

    def remove_unused(self, *, seconds: float) -> None:
        """See the port."""
        records = CopyRecords(self._database, "")
        if orphans := records.orphans():
            self._objects().delete(map(manifest_key, orphans))
            records.remove_orphans(orphans)
        Blobs(self._database, self._objects, "").remove_unused(seconds=seconds)

    def collect_garbage(self, *, seconds: float) -> None:
        """See the port."""
        Blobs(self._database, self._objects, "").collect_garbage(seconds=seconds)
        CopyRecords(self._database, "").collect_manifests(self._objects())

    def _copied(
        self, model: Model, copy: ModelCopy, records: CopyRecords, blobs: Blobs, report: ReportProgress
    ) -> FetchedWeights:
        pickles = self._settings.pickles
        with self._source(model) as source:
            files = CopySlice(source, copy, records, blobs, report, self._conversion, self._limits, pickles).run()
        manifest = write_manifest(self._database, self._objects(), copy.id, files)
        is_converted = any(each.is_converted for each in files)
        return inspected_copy(self._objects(), model, manifest, records.revision(copy), is_converted=is_converted)

    @contextlib.contextmanager
    def _source(self, model: Model) -> Iterator[ModelSource]:
        if (trained := self._trained(model)) is not None:
            yield trained
            return
        with open_source(model, self._settings, self._s3, self._credential_of) as source:
            assert source is not None  # `_is_copied` names the sources
            yield source

    def _conversion(self, stored: CopyFile) -> GgufConversion:
        return stored_conversion(self._database, self._objects(), stored)

    def _is_copied(self, model: Model) -> bool:
        location = model.model_file_location
        on_hub = model.source_repository is SourceRepository.HUGGING_FACE and "://" not in location
        if model.source_repository is SourceRepository.OLLAMA or self._trained(model) is not None:
            return True
        if not (on_hub or location.startswith(("hf://", "s3://"))):
            return False
        if model.base_model_id is None:
            return True
        # One container fetches a base model with its adapters: KServe's own, or that of copies.
        with self._database.read() as session:
            base = session.first(select(models.c.folder).where(models.c.id == model.base_model_id))
        return base is not None and (not base.folder or base.folder.startswith(COPY_SCHEME))
