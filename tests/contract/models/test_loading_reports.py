"""Reports of processes that download a model's weights, concurrent and late ones among them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from llmariner.errors import ModelNotFound
from llmariner.models.model import LoadingStatus, ModelConfig, NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry
from llmariner.models.representation import model_object
from llmariner.models.traits import ModelTraits
from llmariner.models.weights import LoadingProgress
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.serving import EngineModel, Status
from llmariner.platform.serving.local_processes.command_line import feature_arguments


@pytest.fixture
def model(registry: ModelRegistry) -> str:
    return registry.create(NewModel("m", SourceRepository.HUGGING_FACE, "org/m", project_id="proj_a")).id


def test_a_loaded_model_stays_loaded_during_other_downloads(
    registry: ModelRegistry, database: Database, model: str
) -> None:
    registry.mark_loaded(model, folder="/weights", size_bytes=1, task=Task.GENERATE)
    with database.read() as session:
        before = session.value(select(func.count()).select_from(events))
    registry.update_progress(model, LoadingProgress(0.5, "half"))
    registry.mark_failed(model, "no space left")
    found = registry.get(model)
    assert (found.loading_status, found.loading_progress) == (LoadingStatus.SUCCEEDED, 1.0)
    assert (found.loading_message, found.loading_failure_reason) == ("", "")
    with database.read() as session:
        assert session.value(select(func.count()).select_from(events)) == before


def test_progress_reports_change_no_revision(registry: ModelRegistry, model: str) -> None:
    revision, _ = registry.changed_since(0)
    registry.update_progress(model, LoadingProgress(0.5, "half"))
    assert registry.get(model).loading_progress == 0.5
    assert registry.changed_since(revision) == (revision, [])
    registry.mark_loaded(model, folder="/weights", size_bytes=1, task=Task.GENERATE)
    assert registry.changed_since(revision)[1] == [model]


def test_progress_applies_only_to_the_model_it_was_reported_for(registry: ModelRegistry, model: str) -> None:
    created = registry.get(model).created_at
    registry.delete(model, project_id="proj_a")
    with pytest.raises(ModelNotFound):
        registry.update_progress(model, LoadingProgress(0.5, "half"), created=created)
    registry.create(NewModel("m", SourceRepository.HUGGING_FACE, "org/other", project_id="proj_a"))
    with pytest.raises(ModelNotFound):
        registry.update_progress(model, LoadingProgress(0.5, "half"), created=created)
    assert registry.get(model).loading_progress == 0.0


def test_bytes_estimate_and_traits_are_stored(registry: ModelRegistry, model: str) -> None:
    registry.update_progress(model, LoadingProgress(0.5, "half", 2**41, 2**42, 12.5))
    found = registry.get(model)
    assert (found.loaded_bytes, found.total_bytes, found.loading_seconds_left) == (2**41, 2**42, 12.5)
    registry.mark_failed(model, "no space left")
    assert (registry.get(model).loaded_bytes, registry.get(model).loading_seconds_left) == (2**41, None)
    traits = ModelTraits(
        "LlamaForCausalLM",
        4096,
        chat_template="chat_template.jinja",
        tool_parser="mistral",
        reasoning_parser="qwen3",
        tool_parser_origin="chat_template.jinja",
        reasoning_parser_origin="config.json",
    )
    registry.mark_loaded(model, folder="/weights", size_bytes=1, task=Task.GENERATE, traits=traits)
    loaded = registry.get(model)
    assert (loaded.traits, loaded.loading_seconds_left) == (traits, None)
    shown = model_object(loaded, Status())["traits"]
    assert (shown["tool_call_parser"], shown["reasoning_parser"], shown["quantization"]) == ("mistral", "qwen3", None)
    origins = {
        "runtime": "default",
        "chat_template": "chat_template.jinja",
        "tool_call_parser": "chat_template.jinja",
        "reasoning_parser": "config.json",
    }
    assert shown["origins"] == origins
    configured = replace(loaded, config=ModelConfig(extra_args=("--tool-call-parser=hermes",)))
    shown = model_object(configured, Status())["traits"]
    assert shown["tool_call_parser"] == "hermes"
    assert shown["origins"] == origins | {"tool_call_parser": "config.runtime_config.extra_args"}
    earlier = replace(loaded, traits=ModelTraits.from_json('{"tool_parser": "mistral"}'))
    assert model_object(earlier, Status())["traits"]["origins"] == dict.fromkeys(origins) | {"runtime": "default"}


def test_the_engine_gets_the_parsers_of_its_model() -> None:
    model = EngineModel("m", "/weights", "generate", 1, tool_parser="mistral", reasoning_parser="qwen3")
    assert " ".join(feature_arguments(model)).startswith("--enable-auto-tool-choice --tool-call-parser mistral ")
    assert feature_arguments(model)[-2:] == ("--reasoning-parser", "qwen3")
    unknown = feature_arguments(replace(model, tool_parser="", reasoning_parser=""))
    assert (unknown[2], "--reasoning-parser" in unknown) == ("hermes", False)
