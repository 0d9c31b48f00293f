"""Concurrent changes of one model: none is lost, and a check holds for the state that it was made on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmariner.errors import Conflict, InvalidRequest, ModelNotFound
from llmariner.models.model import ActivationStatus, ModelConfig, NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry

# Long enough for the second to proceed as far as it can before the first ends.
_MEANWHILE = 0.3


def new(name: str, base: str | None = None) -> NewModel:
    return NewModel(name, SourceRepository.HUGGING_FACE, "org/x", project_id="proj_a", base_model_id=base)


def change(value: dict[str, Any], before: Callable[[], object]) -> Callable[[ModelConfig], ModelConfig]:
    def changed(config: ModelConfig) -> ModelConfig:
        before()
        return config.apply_patch({"runtime_config": value}, paths=None)

    return changed


def test_no_concurrent_change_is_lost(registry: ModelRegistry) -> None:
    registry.create(new("m"))
    first_read, second_read = threading.Event(), threading.Event()

    def hold() -> None:
        first_read.set()
        second_read.wait(_MEANWHILE)

    first, second = change({"replicas": 2}, hold), change({"max_replicas": 5}, second_read.set)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(lambda: registry.configure("m", first, project_id="proj_a"))
        assert first_read.wait(10)
        registry.configure("m", second, project_id="proj_a")
        held.result(10)
    config = registry.get("m").config
    assert (config.replicas, config.max_replicas) == (2, 5)


def test_a_model_activated_concurrently_is_not_deleted(registry: ModelRegistry) -> None:
    registry.create(new("m"))
    registry.mark_loaded("m", folder="hf://org/x", size_bytes=1, task=Task.GENERATE)
    outcomes = _both(
        lambda: registry.activate("m", ActivationStatus.ACTIVE, project_id="proj_a"),
        lambda: registry.delete("m", project_id="proj_a"),
    )
    assert outcomes.count("done") == 1


def test_a_base_model_that_gets_an_adapter_concurrently_is_not_deleted(registry: ModelRegistry) -> None:
    registry.create(new("base"))
    outcomes = _both(
        lambda: registry.create(new("tuned", "base")),
        lambda: registry.delete("base", project_id="proj_a"),
    )
    assert outcomes.count("done") == 1


def test_a_name_is_unique_and_reusable_after_deletion(registry: ModelRegistry) -> None:
    outcomes = _both(lambda: registry.create(new("m")), lambda: registry.create(new("m")))
    assert outcomes.count("done") == 1
    created = registry.get("m").created_at
    registry.delete("m", project_id="proj_a")
    assert registry.create(new("m")).created_at > created


def _both(*attempts: Callable[[], object]) -> list[str]:
    """Run both concurrently; "done" or the error's name of each."""
    start = threading.Barrier(len(attempts))

    def one(attempt: Callable[[], object]) -> str:
        start.wait(10)
        try:
            attempt()
        except (Conflict, InvalidRequest, ModelNotFound) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(len(attempts)) as pool:
        return list(pool.map(one, attempts))
