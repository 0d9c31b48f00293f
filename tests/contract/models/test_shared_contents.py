"""Contents that copies of several projects make at once: none of them gets, fails or waits by what another's source does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from llmariner.models.copies.blobs import Blobs, HeldBlob
from llmariner.models.copies.records import CopyFile, CopyRecords
from llmariner.models.copies.tables import model_copies
from llmariner.models.model import LoadingStatus
from llmariner.models.registry import ModelRegistry
from llmariner.models.weights import LoadingUnfinished
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects

from .test_model_copies import (
    FILES,
    NewFetcher,
    deliver,
    downloaded,
    expire,
    hub,
    ignore,
    new_fetcher,
    new_model,
    store,
)

if TYPE_CHECKING:
    from standalone.model_server import ModelServer

__all__ = ["hub", "new_fetcher", "store"]


def planned(database: Database, registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer) -> CopyFile:
    """The weights of a copy that another project has begun, of which no byte came."""
    hub.fault = lambda path, start, number: "503" if len(path) == 64 else ""
    first = new_model(registry)
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=0.3).fetch(first, ignore)
    records = CopyRecords(database, "first")
    copy = records.hold(first)
    assert copy is not None
    hub.fault = lambda path, start, number: ""
    return next(each for each in records.files(copy) if each.file.path == "model.safetensors")


def held(blobs: Blobs, file: CopyFile) -> HeldBlob:
    found = blobs.hold(file.blob_id, file.file)
    assert found is not None
    return found


def test_who_has_no_access_gets_no_content_that_lacks_its_last_step_alone(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database, store: FolderObjects
) -> None:
    file = planned(database, registry, new_fetcher, hub)
    blobs = Blobs(database, lambda: store, "first")
    blobs.add(held(blobs, file), FILES["model.safetensors"])  # killed before `finish`
    expire(database)
    hub.fault = lambda path, start, number: "503" if len(path) == 64 else ""
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=1.0).fetch(new_model(registry, "thief", "org/twin", "proj_b"), ignore)


def test_bytes_of_anothers_source_do_not_fail_a_copy(
    registry: ModelRegistry,
    new_fetcher: NewFetcher,
    hub: ModelServer,
    database: Database,
    store: FolderObjects,
    tmp_path: Path,
) -> None:
    file = planned(database, registry, new_fetcher, hub)
    blobs = Blobs(database, lambda: store, "first")
    second = new_model(registry, "second", "org/twin", "proj_b")
    for _ in range(2):  # its source lies, twice
        lie = held(blobs, file)
        blobs.add(lie, bytes(file.file.size))
        assert blobs.finish(lie)
    blobs.add(held(blobs, file), b"lie")
    expire(database)
    deliver(registry, new_fetcher(), second)
    found = registry.get(second.id)
    assert found.loading_failure_reason == ""
    assert downloaded(found.folder, store, tmp_path / "mount") == FILES


def test_a_copy_does_not_wait_for_ever_for_anothers_source(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database, store: FolderObjects
) -> None:
    file = planned(database, registry, new_fetcher, hub)
    held(Blobs(database, lambda: store, "first"), file)
    second = new_model(registry, "second", "org/twin", "proj_b")
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=1.0).fetch(second, ignore)
    with database.write() as session:
        session.run(update(model_copies).values(progressed_at=model_copies.c.progressed_at - 700))
    deliver(registry, new_fetcher(seconds=5.0), second)
    assert registry.get(second.id).loading_status is LoadingStatus.SUCCEEDED
