"""A cluster's loader looks at a repository: commit, size and traits without the weights, and what engines can't read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llmariner.context import Context
from llmariner.models.copies.fetcher import CopyingFetcher
from llmariner.models.hub_inspection import InspectingUriFetcher
from llmariner.models.model import SourceRepository, Task
from llmariner.models.weights import StorageUriFetcher, WeightsUnavailable
from llmariner.settings import ModelSettings

from .model_server import COMMIT, ModelServer, running_server
from .test_weights import MODEL, ignore_progress
from .tiny_model_files import CONFIG, gguf_model, safetensors

WEIGHTS = safetensors(100_000)
TOKENIZER = json.dumps({"chat_template": "<|python_tag|>"}).encode()


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        files = {"config.json": CONFIG, "tokenizer_config.json": TOKENIZER, "model.safetensors": WEIGHTS}
        server.repositories["org/repository"] = files
        yield server


@pytest.fixture
def weights(server: ModelServer) -> InspectingUriFetcher:
    return InspectingUriFetcher(ModelSettings(hub=server.url))


def test_a_repository_is_pinned_and_described_without_its_weights(
    server: ModelServer, weights: InspectingUriFetcher
) -> None:
    for location in ("org/repository", "hf://org/repository", "org/repository:main"):
        found = weights.fetch(replace(MODEL, model_file_location=location), ignore_progress)
        assert (found.folder, found.size_bytes) == (f"hf://org/repository:{COMMIT}", len(WEIGHTS))
        assert (found.task, found.traits.tool_parser, found.traits.revision) == (Task.GENERATE, "llama3_json", COMMIT)
    assert set(server.sent) == {"config.json", "tokenizer_config.json"}


def test_an_adapter_is_pinned_and_keeps_its_bases_task(server: ModelServer, weights: InspectingUriFetcher) -> None:
    server.repositories["org/repository"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
    found = weights.fetch(replace(MODEL, base_model_id="org/base"), ignore_progress)
    assert (found.folder, found.task) == (f"hf://org/repository:{COMMIT}", None)
    with pytest.raises(WeightsUnavailable, match=r"no config\.json"):
        weights.fetch(MODEL, ignore_progress)


def test_what_engines_of_a_cluster_cannot_read_is_refused(server: ModelServer, weights: InspectingUriFetcher) -> None:
    cases = [
        ({"config.json": CONFIG, "a.bin": b"x"}, "org/repository", "pickles"),
        ({"config.json": CONFIG, "a.gguf": gguf_model()}, "org/repository", "another format"),
        ({"m/config.pbtxt": b"x"}, "org/repository", "another format"),
        ({}, "org/repository/a.gguf", "whole repositories"),
        ({}, "org/gone", "Check the name"),
    ]
    for files, location, said in cases:
        server.repositories["org/repository"] = files
        with pytest.raises(WeightsUnavailable, match=said):
            weights.fetch(replace(MODEL, model_file_location=location), ignore_progress)
    with pytest.raises(WeightsUnavailable, match="LLMARINER_MODEL_INSPECTION=0"):
        InspectingUriFetcher(ModelSettings(hub="http://127.0.0.1:9")).fetch(MODEL, ignore_progress)


def test_other_locations_are_as_before(weights: InspectingUriFetcher) -> None:
    for source, location in ((SourceRepository.OBJECT_STORE, "s3://b/x"), (SourceRepository.LOCAL, "pvc://c/x")):
        model = replace(MODEL, source_repository=source, model_file_location=location)
        assert weights.fetch(model, ignore_progress) == StorageUriFetcher().fetch(model, ignore_progress)
    with pytest.raises(WeightsUnavailable, match="HUGGING_FACE"):
        weights.fetch(replace(MODEL, source_repository=SourceRepository.OLLAMA), ignore_progress)


def test_it_is_chosen_by_a_setting() -> None:
    assert type(Context({}).weights) is StorageUriFetcher
    assert type(Context({"LLMARINER_MODEL_INSPECTION": "1"}).weights) is InspectingUriFetcher
    copying = Context({"LLMARINER_MODEL_COPIES": "1", "LLMARINER_DATABASE_URL": "sqlite:///unused.db"})
    assert type(copying.weights) is CopyingFetcher
