"""GGUF files on clusters: copied, converted in slices, and found by the engine as a Hugging Face folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.copies.slices import SliceLimits
from llmariner.models.copies.tables import model_blobs, model_copies, model_copy_files
from llmariner.models.gguf import conversion
from llmariner.models.gguf.conversion import GgufConversion
from llmariner.models.model import LoadingStatus, Model, NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.weight_loads import load_weights
from llmariner.models.weights import LoadingProgress, LoadingUnfinished, StorageUriFetcher
from llmariner.platform.database import Database
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.model_files import TransferInterrupted
from llmariner.platform.model_files.object_copy import download
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import ModelSettings, S3Settings

from ..killed_process import Killed

if TYPE_CHECKING:
    from standalone.model_server import ModelServer

_server = importlib.import_module("...standalone.model_server", __package__)
_tiny = importlib.import_module("...standalone.tiny_model_files", __package__)

CHUNK = 32 << 10
LAYER = "application/vnd.ollama.image."
GGUF: bytes = _tiny.gguf_model()
FOLDER = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def registry_server() -> Iterator[ModelServer]:
    """A hub and an Ollama registry that have the same model."""
    with _server.running_server() as server:
        server.repositories = {
            "tiny:1": {f"{LAYER}model": GGUF, f"{LAYER}template": b"{{ .Prompt }}", f"{LAYER}license": b"MIT"},
            "org/gguf": {"model.Q8_0.gguf": GGUF, "README.md": b"x"},
        }
        yield server


@pytest.fixture
def store(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "objects")


def new_fetcher(database: Database, server: ModelServer, store: FolderObjects, **limits: Any) -> CopyingFetcher:
    settings = ModelSettings(hub=server.url, ollama_registry=server.url)
    chosen = replace(SliceLimits(seconds=20.0, chunk_bytes=CHUNK, ahead=2), **limits)
    return CopyingFetcher(database, lambda: store, settings, S3Settings(), StorageUriFetcher(), limits=chosen)


def new_model(
    registry: ModelRegistry,
    name: str = "m",
    location: str = "tiny:1",
    source: SourceRepository = SourceRepository.OLLAMA,
) -> Model:
    return registry.create(NewModel(name, source, location, project_id="proj_a"))


def deliver(registry: ModelRegistry, fetcher: CopyingFetcher, model: Model) -> Model:
    load_weights(registry, fetcher, Event("evt_1", "x", "models/m", 1.0, {"id": model.id}))
    return registry.get(model.id)


def downloaded(folder: str, store: FolderObjects, target: Path) -> dict[str, bytes]:
    download(folder, target, store)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def converted(content: bytes = GGUF) -> dict[str, bytes]:
    """The files that a conversion in one piece writes."""
    made = GgufConversion("x", len(content), lambda start, end: content[start:end])
    found = {}
    for file in made.list_files().files:
        with made.open_range(file, 0, file.size) as stream:
            found[file.path] = stream.read(file.size)
            while block := stream.read(file.size):
                found[file.path] += block
        assert len(found[file.path]) == file.size
    return found


def stored_contents(database: Database) -> set[str]:
    with database.read() as session:
        return {row.blob_id for row in session.rows(select(model_copy_files.c.blob_id))}


@pytest.mark.parametrize(
    ("location", "source"),
    [("tiny:1", SourceRepository.OLLAMA), ("org/gguf", SourceRepository.HUGGING_FACE)],
    ids=["ollama", "hub"],
)
def test_a_gguf_file_arrives_at_the_engine_as_a_folder(
    location: str,
    source: SourceRepository,
    database: Database,
    registry_server: ModelServer,
    store: FolderObjects,
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(database)
    seen: list[LoadingProgress] = []
    model = new_model(registry, location=location, source=source)
    fetcher = new_fetcher(database, registry_server, store)
    found = fetcher.fetch(model, seen.append)
    files = downloaded(found.folder, store, tmp_path / "pod")
    assert set(files) == FOLDER
    assert files == converted()
    assert (found.traits.converted_from, found.traits.architecture) == ("GGUF", "LlamaForCausalLM")
    assert (found.traits.chat_template, found.traits.tool_parser) == ("chat_template.jinja", "hermes")
    assert (found.traits.context_length, found.size_bytes) == (128, len(files["model.safetensors"]))
    fractions = [each.fraction for each in seen]
    assert fractions == sorted(fractions), "the total is known from the beginning"
    assert seen[-1].message.startswith("converting: ")
    assert fetcher.fetch(model, seen.append) == found, "again"


def test_a_conversion_goes_on_after_each_slice_and_frees_the_file_that_it_read(
    database: Database, registry_server: ModelServer, store: FolderObjects, tmp_path: Path
) -> None:
    registry = ModelRegistry(database)
    model = new_model(registry)
    slices = 0

    def end_after_a_chunk(progress: LoadingProgress) -> None:
        if progress.done_bytes:
            raise LoadingUnfinished("the time is over")

    while True:
        try:
            found = new_fetcher(database, registry_server, store).fetch(model, end_after_a_chunk)
            break
        except LoadingUnfinished:
            slices += 1
            assert slices < 200
    assert slices > 5
    assert downloaded(found.folder, store, tmp_path / "pod") == converted()
    assert len(stored_contents(database)) == len(FOLDER), "the GGUF file is none of them"
    with database.write() as session:
        for table in (model_blobs, model_copies):
            session.run(update(table).values(held_until=0.0, touched_at=0.0))
    fetcher = new_fetcher(database, registry_server, store)
    fetcher.remove_unused(seconds=20)
    with database.read() as reading:
        assert len(reading.rows(select(model_blobs.c.id))) == len(FOLDER)
    assert downloaded(found.folder, store, tmp_path / "again") == converted()


def test_a_conversion_of_another_release_begins_again(
    database: Database,
    registry_server: ModelServer,
    store: FolderObjects,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = ModelRegistry(database)
    model = new_model(registry)

    def kill(progress: LoadingProgress) -> None:
        if progress.message.startswith("converting"):
            raise Killed

    monkeypatch.setattr(conversion, "REVISION", 0)
    with pytest.raises(Killed):
        new_fetcher(database, registry_server, store).fetch(model, kill)
    monkeypatch.undo()
    found = new_fetcher(database, registry_server, store).fetch(model, lambda _progress: None)
    assert downloaded(found.folder, store, tmp_path / "pod") == converted()


def test_a_source_that_is_slow_with_the_header_is_converted_when_all_is_there(
    database: Database,
    registry_server: ModelServer,
    store: FolderObjects,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object) -> None:
        raise TransferInterrupted("slow")

    monkeypatch.setattr(conversion, "conversion_of_source", slow)
    model = new_model(ModelRegistry(database))
    found = new_fetcher(database, registry_server, store).fetch(model, lambda _progress: None)
    assert downloaded(found.folder, store, tmp_path / "pod") == converted()


def test_a_gguf_file_that_no_engine_serves_fails_before_it_is_fetched(
    database: Database, registry_server: ModelServer, store: FolderObjects
) -> None:
    registry = ModelRegistry(database)
    registry_server.repositories["tiny:1"] = {f"{LAYER}model": _tiny.gguf_model({"general.architecture": "mamba"})}
    model = deliver(registry, new_fetcher(database, registry_server, store), new_model(registry))
    assert model.loading_status is LoadingStatus.FAILED
    assert "architecture 'mamba' can't be converted" in (model.loading_failure_reason or "")
    assert not list(store.list("models/blobs/")), "nothing of it was stored"


def test_the_copy_of_another_projects_model_is_converted_once(
    database: Database, registry_server: ModelServer, store: FolderObjects
) -> None:
    registry = ModelRegistry(database)
    fetcher = new_fetcher(database, registry_server, store)
    for number, location in enumerate(("tiny:1", "tiny:1")):
        model = registry.create(NewModel(f"m{number}", SourceRepository.OLLAMA, location, project_id=f"proj_{number}"))
        assert deliver(registry, fetcher, model).loaded
    assert len(stored_contents(database)) == len(FOLDER)


def test_without_copies_a_model_of_ollama_says_what_it_needs(database: Database) -> None:
    registry = ModelRegistry(database)
    model = new_model(registry)
    load_weights(registry, StorageUriFetcher(), Event("evt_1", "x", "models/m", 1.0, {"id": model.id}))
    assert "LLMARINER_MODEL_COPIES=1" in (registry.get(model.id).loading_failure_reason or "")
