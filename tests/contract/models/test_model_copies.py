"""Copies of models in the object store: slices that end, are killed and overtaken; contents that models share; deletion."""

from __future__ import annotations

import hashlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from llmariner.errors import Conflict, ModelNotFound
from llmariner.models.copies import blobs as blobs_module
from llmariner.models.copies import records as records_module
from llmariner.models.copies.contents import write_manifest
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.copies.records import CopyRecords
from llmariner.models.copies.slices import SliceLimits
from llmariner.models.copies.tables import model_blob_chunks, model_blobs, model_copies, model_copy_files
from llmariner.models.ids_and_events import LOADING_REQUESTED
from llmariner.models.model import LoadingStatus, Model, NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.source_credentials import NewSourceCredential, SourceCredentials
from llmariner.models.weight_loads import continue_stalled, load_weights
from llmariner.models.weights import LoadingDeferred, LoadingProgress, LoadingUnfinished, StorageUriFetcher
from llmariner.platform.database import Database
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.tables import events
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.platform.model_files.object_copy import download, manifest_key
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import ModelSettings, S3Settings, Secret

from ..killed_process import Killed
from ..team import Team

if TYPE_CHECKING:
    from standalone.model_server import ModelServer

_server = importlib.import_module("...standalone.model_server", __package__)
_tiny = importlib.import_module("...standalone.tiny_model_files", __package__)
safetensors = _tiny.safetensors

CHUNK = 64 << 10
LIMITS = SliceLimits(seconds=20.0, chunk_bytes=CHUNK, ahead=3)
FILES = {"config.json": _tiny.CONFIG, "tokenizer.json": b"{}", "model.safetensors": safetensors(10 * CHUNK + 777)}
SIZE = len(FILES["model.safetensors"])


@pytest.fixture
def hub() -> Iterator[ModelServer]:
    """A hub with two repositories that have the same weights."""
    with _server.running_server() as server:
        server.repositories = {"org/m": FILES, "org/twin": FILES}
        yield server


@pytest.fixture
def store(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "objects")


NewFetcher = Callable[..., CopyingFetcher]


@pytest.fixture
def new_fetcher(database: Database, hub: ModelServer, store: FolderObjects) -> NewFetcher:
    """Makes fetchers, each a process of its own."""

    def make(**limits: Any) -> CopyingFetcher:
        settings = ModelSettings(hub=hub.url)
        chosen = replace(LIMITS, **limits)
        return CopyingFetcher(database, lambda: store, settings, S3Settings(), StorageUriFetcher(), limits=chosen)

    return make


def ignore(_progress: LoadingProgress) -> None:
    """Ignore the progress."""


def new_model(
    registry: ModelRegistry, name: str = "m", location: str = "org/m", project: str | None = "proj_a"
) -> Model:
    return registry.create(NewModel(name, SourceRepository.HUGGING_FACE, location, project_id=project))


def deliver(registry: ModelRegistry, fetcher: CopyingFetcher, model: Model, event_id: str = "evt_1") -> None:
    load_weights(registry, fetcher, Event(event_id, "x", "models/m", 1.0, {"id": model.id}))


def requested(database: Database) -> list[str]:
    """The models whose loading was asked to continue."""
    with database.read() as session:
        rows = session.rows(select(events).where(events.c.type == LOADING_REQUESTED).order_by(events.c.sequence))
    return [row.subject for row in rows]


def count(database: Database, table: Any) -> int:
    with database.read() as session:
        return int(session.value(select(func.count()).select_from(table)))


def downloaded(folder: str, store: FolderObjects, target: Path) -> dict[str, bytes]:
    download(folder, target, store)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def expire(database: Database) -> None:
    """Let all leases and grace times be over."""
    with database.write() as session:
        for table in (model_blobs, model_copies):
            session.run(update(table).values(held_until=0.0, touched_at=0.0))


def test_a_copied_model_arrives_at_the_engine(
    registry: ModelRegistry, new_fetcher: NewFetcher, store: FolderObjects, tmp_path: Path
) -> None:
    model = new_model(registry)
    deliver(registry, new_fetcher(), model)
    found = registry.get(model.id)
    assert (found.loading_status, found.folder[:19]) == (LoadingStatus.SUCCEEDED, "model-copy://mcopy_")
    assert found.traits.architecture == "LlamaForCausalLM"
    assert found.traits.revision
    assert found.size_bytes == SIZE
    assert downloaded(found.folder, store, tmp_path / "mount") == FILES


def test_a_copy_is_made_in_slices_that_may_be_killed(
    registry: ModelRegistry,
    new_fetcher: NewFetcher,
    hub: ModelServer,
    database: Database,
    store: FolderObjects,
    tmp_path: Path,
) -> None:
    model = new_model(registry)

    def killed_after(bytes_: int) -> Callable[[LoadingProgress], None]:
        def report(progress: LoadingProgress) -> None:
            if progress.done_bytes >= bytes_:
                raise Killed

        return report

    for part in range(1, 5):
        with pytest.raises(Killed):
            new_fetcher().fetch(model, killed_after(part * 2 * CHUNK))
        expire(database)
    deliver(registry, new_fetcher(), model)
    folder = registry.get(model.id).folder
    assert downloaded(folder, store, tmp_path / "mount") == FILES
    # Each death costs the chunks that were in memory, no more.
    assert hub.total_sent() <= sum(map(len, FILES.values())) + 4 * (LIMITS.ahead + 1) * CHUNK


def test_a_slice_ends_in_time_however_slow_the_source_is_and_keeps_every_byte(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "drip" if len(path) == 64 else ""
    kept, slices = 0, 0
    while not kept:  # a loaded machine may list the files only in the first
        began, slices = time.monotonic(), slices + 1
        with pytest.raises(LoadingUnfinished):
            new_fetcher(seconds=0.6).fetch(model, ignore)
        assert time.monotonic() - began < 20
        assert slices < 20
        with database.read() as session:
            kept = session.value(select(func.max(model_blobs.c.stored_bytes)).where(model_blobs.c.state == "storing"))
    assert 0 < kept < CHUNK  # less than a chunk, and not lost
    hub.fault = lambda path, start, number: ""
    deliver(registry, new_fetcher(), model)
    assert registry.get(model.id).loaded


def test_a_content_of_two_models_is_held_once_and_goes_with_the_last(
    registry: ModelRegistry,
    new_fetcher: NewFetcher,
    hub: ModelServer,
    database: Database,
    store: FolderObjects,
    tmp_path: Path,
) -> None:
    first, second = new_model(registry), new_model(registry, "twin", "org/twin", "proj_b")
    deliver(registry, new_fetcher(), first)
    sent = dict(hub.sent)
    deliver(registry, new_fetcher(), second, "evt_2")
    digest = max(sent, key=lambda name: sent[name])
    assert hub.sent[digest] <= sent[digest] + 1  # a byte, as a proof that the second source has it
    registry.delete(first.id, project_id="proj_a")
    fetcher = new_fetcher()
    fetcher.discard(first.id, registry.get(second.id).folder)
    expire(database)
    fetcher.remove_unused(seconds=10.0)
    folder = registry.get(second.id).folder
    assert downloaded(folder, store, tmp_path / "mount") == FILES
    registry.delete(second.id, project_id="proj_b")
    expire(database)
    fetcher.remove_unused(seconds=10.0)
    assert [info.key for info in store.list("models/")] == []
    assert [count(database, table) for table in (model_copies, model_copy_files, model_blobs, model_blob_chunks)] == [
        0
    ] * 4


def test_who_knows_a_digest_alone_does_not_get_the_content(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer
) -> None:
    deliver(registry, new_fetcher(), new_model(registry))
    thief = new_model(registry, "thief", "org/twin", "proj_b")
    # Its hub lists the digest, and has no such content.
    hub.fault = lambda path, start, number: "503" if len(path) == 64 else ""
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=1.0).fetch(thief, ignore)


def test_a_content_that_differs_twice_fails_the_model(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, store: FolderObjects
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "lie" if len(path) == 64 else ""
    deliver(registry, new_fetcher(), model)
    found = registry.get(model.id)
    assert found.loading_status is LoadingStatus.FAILED
    assert "SHA-256 differs, twice" in found.loading_failure_reason


def test_two_slices_of_one_model_do_not_run_at_once(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer
) -> None:
    model, began, may_end = new_model(registry), threading.Event(), threading.Event()

    def report(_progress: LoadingProgress) -> None:
        began.set()
        may_end.wait(20)

    thread = threading.Thread(target=new_fetcher().fetch, args=(model, report))
    thread.start()
    assert began.wait(20)
    with pytest.raises(LoadingDeferred):
        new_fetcher().fetch(model, ignore)
    may_end.set()
    thread.join(30)


def test_a_project_copies_two_models_at_once_and_the_next_begins_when_one_ends(
    registry: ModelRegistry, new_fetcher: NewFetcher, database: Database
) -> None:
    models = [new_model(registry, f"m{number}") for number in range(3)]
    other = new_model(registry, "other", project="proj_b")
    began, may_end = threading.Semaphore(0), threading.Event()

    class Slow(CopyingFetcher):
        def _copied(self, *arguments: Any) -> Any:
            began.release()
            may_end.wait(20)
            return super()._copied(*arguments)

    base = new_fetcher()
    slow = Slow(database, base._objects, base._settings, base._s3, base._otherwise, limits=LIMITS)
    threads = [
        threading.Thread(target=deliver, args=(registry, slow, model, f"evt_{model.id}")) for model in models[:2]
    ]
    for thread in threads:
        thread.start()
        assert began.acquire(timeout=20)
    deliver(registry, new_fetcher(), models[2], "evt_third")
    assert registry.get(models[2].id).loading_status is LoadingStatus.REQUESTED
    assert requested(database) == []  # nobody turns in circles
    deliver(registry, new_fetcher(), other, "evt_other")
    assert registry.get(other.id).loaded
    may_end.set()
    for thread in threads:
        thread.join(30)
    assert set(requested(database)) == {"models/m2"}


def test_an_unfinished_slice_asks_once_for_the_next(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "stall" if len(path) == 64 else ""
    for _ in range(2):  # the same event, delivered twice
        deliver(registry, new_fetcher(seconds=0.3), model)
    assert requested(database) == ["models/m"]


def test_the_sweep_continues_a_copy_whose_process_was_killed(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "stall" if len(path) == 64 else ""
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=0.3).fetch(model, ignore)
    continue_stalled(registry, new_fetcher())
    assert requested(database) == []  # it is not stalled yet
    expire(database)
    for _ in range(2):
        continue_stalled(registry, new_fetcher())
    assert requested(database) == ["models/m"]


def test_a_silent_source_fails_the_model_after_its_patience(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "503" if len(path) == 64 else ""
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=1.0).fetch(model, ignore)
    with database.write() as session:
        session.run(update(model_copies).values(progressed_at=model_copies.c.progressed_at - 700))
    deliver(registry, new_fetcher(seconds=1.0), model)
    assert "status 503. Nothing came for 10 minutes" in registry.get(model.id).loading_failure_reason


def test_a_holder_that_was_presumed_dead_adds_nothing(
    registry: ModelRegistry, new_fetcher: NewFetcher, database: Database, store: FolderObjects, hub: ModelServer
) -> None:
    model = new_model(registry)
    hub.fault = lambda path, start, number: "stall" if len(path) == 64 else ""
    with pytest.raises(LoadingUnfinished):
        new_fetcher(seconds=0.3).fetch(model, ignore)
    records = CopyRecords(database, "one")
    copy = records.hold(model)
    assert copy is not None
    file = next(each.file for each in records.files(copy) if each.file.path.endswith(".safetensors"))
    one, two = (blobs_module.Blobs(database, lambda: store, holder) for holder in ("one", "two"))
    held = one.hold(file.key, file)
    assert held is not None
    assert two.hold(file.key, file) is None
    expire(database)
    taken = two.hold(file.key, file)
    assert taken is not None
    with pytest.raises(blobs_module.LostBlob):
        one.add(held, b"stale")
    two.add(taken, b"fresh")
    with database.read() as session:
        keys = [key for _, size, key in blobs_module.chunks_of(session, file.key) if size == 5]
    assert b"".join(store.read(keys[-1])) == b"fresh"


def test_a_project_that_lost_its_name_keeps_its_copy(
    registry: ModelRegistry, new_fetcher: NewFetcher, database: Database
) -> None:
    model = new_model(registry)
    deliver(registry, new_fetcher(), model)
    new_model(registry, project=None)  # a shared model of that name: the project's id is qualified
    expire(database)
    new_fetcher().remove_unused(seconds=10.0)
    assert count(database, model_copies) == 1


def test_a_failed_copy_is_retried_with_what_was_stored(
    registry: ModelRegistry, new_fetcher: NewFetcher, hub: ModelServer, database: Database
) -> None:
    model = new_model(registry)
    hub.repositories["org/m"] = {**FILES, "z.safetensors": safetensors(1000, seed=9)}
    hub.fault = lambda path, start, number: (
        "lie" if path == hashlib.sha256(safetensors(1000, seed=9)).hexdigest() else ""
    )
    deliver(registry, new_fetcher(), model)
    assert registry.get(model.id).loading_status is LoadingStatus.FAILED
    sent = hub.total_sent()
    hub.repositories["org/m"] = FILES  # its owner withdraws the damaged file
    assert registry.retry(model.id, project_id="proj_a").loading_failure_reason == ""
    assert requested(database) == ["models/m"]
    deliver(registry, new_fetcher(), model, "evt_2")
    assert registry.get(model.id).loaded
    assert hub.total_sent() - sent < SIZE // 2
    with pytest.raises(Conflict, match="nothing to retry"):
        registry.retry(model.id, project_id="proj_a")
    with pytest.raises(ModelNotFound):
        registry.retry(model.id, project_id="proj_b")


def test_a_private_repository_is_fetched_with_the_projects_credential(
    registry: ModelRegistry, hub: ModelServer, database: Database, store: FolderObjects, team: Team
) -> None:
    hub.token, hub.gated = "hf_mine", {"org/m"}
    credentials = SourceCredentials(database, [Secret("s" * 32)])
    caller = team.admin
    credential = credentials.put(caller, NewSourceCredential("mine", SourceRepository.HUGGING_FACE, Secret("hf_mine")))
    settings = ModelSettings(hub=hub.url, hub_token=Secret("hf_installation"))
    fetcher = CopyingFetcher(
        database, lambda: store, settings, S3Settings(), StorageUriFetcher(), credentials.of_model, LIMITS
    )
    for name, credential_id in (("shared", None), ("private", credential.id)):
        new = NewModel(name, SourceRepository.HUGGING_FACE, "org/m", None, "proj_a", credential_id=credential_id)
        deliver(registry, fetcher, registry.create(new), f"evt_{name}")
    assert "gated" in registry.get("shared").loading_failure_reason
    assert registry.get("private").loaded
    credentials.delete(caller, credential.id)
    new = NewModel("late", SourceRepository.HUGGING_FACE, "org/m", None, "proj_a", credential_id=credential.id)
    deliver(registry, fetcher, registry.create(new), "evt_late")
    assert "credential was deleted" in registry.get("late").loading_failure_reason


def test_a_credential_goes_to_no_other_kind_of_source(
    registry: ModelRegistry, hub: ModelServer, database: Database, store: FolderObjects, team: Team
) -> None:
    credentials = SourceCredentials(database, [Secret("s" * 32)])
    new = NewSourceCredential("mine", SourceRepository.OBJECT_STORE, Secret("secret_key"), "access_key")
    credential = credentials.put(team.admin, new)
    fetcher = CopyingFetcher(
        database,
        lambda: store,
        ModelSettings(hub=hub.url),
        S3Settings(),
        StorageUriFetcher(),
        credentials.of_model,
        LIMITS,
    )
    model = registry.create(
        NewModel("m", SourceRepository.OBJECT_STORE, "hf://org/m", None, "proj_a", credential_id=credential.id)
    )
    deliver(registry, fetcher, model)
    assert "credential is for a bucket" in registry.get("m").loading_failure_reason
    assert not any("secret_key" in authorization for _, _, authorization in hub.requests)


def test_a_manifest_that_a_killed_process_left_is_removed(
    registry: ModelRegistry,
    new_fetcher: NewFetcher,
    database: Database,
    store: FolderObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, kept = new_model(registry), new_model(registry, "kept", project="proj_b")
    fetcher = new_fetcher()
    deliver(registry, fetcher, kept, "evt_2")
    folder = fetcher.fetch(model, ignore).folder
    registry.delete(model.id, project_id="proj_a")
    fetcher.discard(model.id, folder)
    write_manifest(
        database, store, folder.removeprefix(COPY_SCHEME), []
    )  # by the process that had no row to record it in
    monkeypatch.setattr(records_module, "GARBAGE_SECONDS", -1.0)
    fetcher.collect_garbage(seconds=10.0)
    keys = [info.key for info in store.list("models/copies/")]
    assert keys == [manifest_key(registry.get(kept.id).folder.removeprefix(COPY_SCHEME))]
