"""The registry of models: visibility, order, and the effect of each change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import event, select, update

from llmariner.errors import Conflict, InvalidRequest, ModelNotFound
from llmariner.limits.restrictions import Restriction
from llmariner.models.model import ActivationStatus, LoadingStatus, Model, ModelConfig, NewModel, SourceRepository, Task
from llmariner.models.queries import ModelSelector
from llmariner.models.registry import ModelRegistry
from llmariner.models.tables import model_wakes, models
from llmariner.models.weights import LoadingProgress
from llmariner.platform.database import Database
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events.tables import events

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]
ACTIVE, INACTIVE = ActivationStatus.ACTIVE, ActivationStatus.INACTIVE


def new(model_id: str = "org/model", **values: Any) -> NewModel:
    return NewModel(model_id, SourceRepository.LOCAL, "/models/x", **values)


def loaded(registry: ModelRegistry, model_id: str = "org/model", **values: Any) -> Model:
    registry.create(new(model_id, **values))
    registry.mark_loaded(model_id, folder="/weights", size_bytes=10, task=Task.GENERATE)
    return registry.get(model_id)


def page(
    registry: ModelRegistry, *, project_id: str | None = None, after: str | None = None, limit: int = 100
) -> list[str]:
    found = registry.page(ModelSelector(project_id), after=after, limit=limit)
    return [model.id for model in found]


def reported(database: Database) -> list[str]:
    with database.read() as session:
        rows = session.rows(select(events.c.type).order_by(events.c.sequence))
    return [row.type.removeprefix("ai.llmariner.model.") for row in rows]


def test_a_new_model_waits_for_its_weights(registry: ModelRegistry) -> None:
    model = registry.create(new(project_id="proj_1", config=ModelConfig(gpu=2, extra_args=("--x",))))
    assert model == registry.get("org/model")
    assert (model.loading_status, model.loaded, model.activation_status) == (LoadingStatus.REQUESTED, False, INACTIVE)
    assert (model.project_id, model.owned_by, model.base_model_id) == ("proj_1", "system", None)
    assert (model.config.gpu, model.config.extra_args) == (2, ("--x",))
    assert abs(model.created_at - time.time()) < 5


def test_an_id_is_unique(registry: ModelRegistry, database: Database) -> None:
    registry.create(new())
    with pytest.raises(Conflict):
        registry.create(new())
    assert reported(database) == ["created.v1"]


def test_one_of_concurrent_creations_of_an_id_succeeds(registry: ModelRegistry, run_concurrently: AtOnce) -> None:
    found = run_concurrently([lambda: registry.create(new())] * 4)
    assert sorted(type(result).__name__ for result in found) == ["Conflict", "Conflict", "Conflict", "Model"]


def test_the_id_of_a_deleted_model_is_reusable(registry: ModelRegistry) -> None:
    first = loaded(registry)
    registry.delete("org/model", project_id=None)
    again = registry.create(new())
    assert not again.loaded
    assert again.revision > first.revision
    assert again.created_at > first.created_at  # distinguished by it, also within a second


def test_models_are_sorted_active_first_then_base_models_then_by_age_and_id(
    registry: ModelRegistry, database: Database
) -> None:
    for name in ("b", "a", "c", "z"):
        loaded(registry, name)
    loaded(registry, "ft:a:x", base_model_id="a")
    registry.activate("c", ACTIVE, project_id=None)
    with database.write() as session:
        session.run(update(models).values(created_at=2))
        session.run(update(models).where(models.c.id.in_(("z", "ft:a:x"))).values(created_at=1))
    assert page(registry) == ["c", "z", "a", "b", "ft:a:x"]


def test_pages_have_no_gap_or_overlap(registry: ModelRegistry) -> None:
    for number in range(7):
        registry.create(new(f"m{number}"))
    whole, met, after = page(registry), [], None
    while part := page(registry, after=after, limit=3):
        met += part
        after = part[-1]
    assert met == whole == [f"m{number}" for number in range(7)]


def test_a_page_continues_after_a_model_deleted_in_the_meantime(registry: ModelRegistry) -> None:
    for number in range(4):
        registry.create(new(f"m{number}"))
    (first, second) = page(registry, limit=2)
    for name in (first, second):
        registry.delete(name, project_id=None)
    assert page(registry, after=second) == ["m2", "m3"]


def test_a_restriction_selects_the_permitted_models(registry: ModelRegistry) -> None:
    for name in ("a", "b", "c"):
        registry.create(new(name))
    loaded(registry, "ft:a:x", base_model_id="a")

    def shown(restriction: Restriction) -> list[str]:
        selector = ModelSelector(None, restriction=restriction)
        found = [model.id for model in registry.page(selector, after=None, limit=10)]
        assert registry.count(selector) == len(found)
        return found

    assert shown(Restriction(frozenset({"b", "nobody"}))) == ["b"]
    assert shown(Restriction(refused_models=frozenset({"b"}))) == ["a", "c", "ft:a:x"]
    assert shown(Restriction(frozenset({"a", "b"}), frozenset({"a"}))) == ["b"]
    assert shown(Restriction(frozenset())) == []
    assert registry.base_ids(ModelSelector(None)) == ["a", "b", "c"]


def test_a_page_reads_only_its_own_rows(registry: ModelRegistry, database: Database) -> None:
    registry.create(new("m"))
    with database.write() as session:
        (row,) = session.rows(select(models))
        rows = [{**row._mapping, "id": f"m{number:04}"} for number in range(3000)]
        session.insert_if_absent(models, rows)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    assert page(registry, after="m1499", limit=2) == ["m1500", "m1501"]
    event.remove(database.engine, "before_cursor_execute", note)
    asked = [statement for statement in statements if "FROM models" in statement]
    assert len(asked) == 2
    assert all("LIMIT" in statement or "models.id = " in statement for statement in asked)


def test_a_page_after_the_last_is_empty(registry: ModelRegistry) -> None:
    registry.create(new())
    assert page(registry, after="org/model") == []


@pytest.mark.parametrize("after", ["nobody", "theirs", ""])
def test_the_cursor_must_be_a_visible_model(registry: ModelRegistry, after: str) -> None:
    registry.create(new())
    registry.create(new("theirs", project_id="proj_2"))
    with pytest.raises(InvalidRequest) as refused:
        page(registry, project_id="proj_1", after=after)
    assert refused.value.param == "after"


def test_loading_models_are_excluded_by_default(registry: ModelRegistry) -> None:
    registry.create(new("a"))
    loaded(registry, "b")
    shown = registry.page(ModelSelector(None, include_loading=False), after=None, limit=10)
    assert [model.id for model in shown] == ["b"]
    assert registry.count(ModelSelector(None, include_loading=False)) == 1
    assert registry.count(ModelSelector(None)) == 2


def test_a_project_sees_its_own_and_shared_models(registry: ModelRegistry) -> None:
    registry.create(new("all"))
    registry.create(new("mine", project_id="proj_1"))
    registry.create(new("theirs", project_id="proj_2"))
    assert page(registry, project_id="proj_1") == ["all", "mine"]
    assert registry.count(ModelSelector("proj_1")) == 2
    assert page(registry) == ["all", "mine", "theirs"]


@pytest.mark.parametrize("model_id", ["nobody", "theirs", "gone"])
def test_an_invisible_model_is_not_found(registry: ModelRegistry, model_id: str) -> None:
    loaded(registry, "theirs", project_id="proj_2")
    loaded(registry, "gone")
    registry.delete("gone", project_id=None)
    attempts: list[Callable[[], object]] = [
        lambda: registry.get(model_id, project_id="proj_1"),
        lambda: registry.configure(model_id, lambda config: config, project_id="proj_1"),
        lambda: registry.activate(model_id, ACTIVE, project_id="proj_1"),
        lambda: registry.delete(model_id, project_id="proj_1"),
        lambda: registry.create(new("ft:x:y", base_model_id=model_id, project_id="proj_1")),
    ]
    for attempt in attempts:
        with pytest.raises(ModelNotFound):
            attempt()


def test_a_configuration_is_stored_completely(registry: ModelRegistry, database: Database) -> None:
    registry.create(new())
    config = ModelConfig(gpu=0, replicas=3, extra_args=("--max-model-len", "ä"), on_demand=False)
    assert registry.configure("org/model", lambda _: config, project_id=None).config == config
    assert registry.get("org/model").config == config
    assert reported(database) == ["created.v1", "updated.v1"]


def test_a_model_is_not_activated_before_its_weights_are_loaded(registry: ModelRegistry) -> None:
    registry.create(new())
    registry.update_progress("org/model", LoadingProgress(0.5, "half"))
    with pytest.raises(ModelNotFound):
        registry.activate("org/model", ACTIVE, project_id=None)
    registry.mark_loaded("org/model", folder="/weights", size_bytes=10, task=Task.GENERATE)
    assert registry.activate("org/model", ACTIVE, project_id=None).activation_status is ACTIVE
    assert registry.activate("org/model", INACTIVE, project_id=None).activation_status is INACTIVE


def test_loading_goes_through_its_states(registry: ModelRegistry, database: Database) -> None:
    registry.create(new())
    registry.update_progress("org/model", LoadingProgress(0.25, "a quarter"))
    model = registry.get("org/model")
    assert (model.loading_status, model.loading_progress) == (LoadingStatus.LOADING, 0.25)
    registry.mark_failed("org/model", "no space\0left")
    model = registry.get("org/model")
    assert (model.loading_status, model.loading_failure_reason) == (LoadingStatus.FAILED, "no space\ufffdleft")
    registry.mark_loaded("org/model", folder="/weights", size_bytes=2**40, task=Task.EMBED)
    model = registry.get("org/model")
    assert (model.loaded, model.loading_failure_reason, model.loading_message) == (True, "", "")
    assert (model.folder, model.size_bytes, model.task) == ("/weights", 2**40, Task.EMBED)
    assert reported(database) == ["created.v1", "failed.v1", "loaded.v1"]


def test_an_active_model_is_not_deleted(registry: ModelRegistry, database: Database) -> None:
    loaded(registry)
    registry.activate("org/model", ACTIVE, project_id=None)
    with pytest.raises(InvalidRequest, match="deactivate"):
        registry.delete("org/model", project_id=None)
    registry.activate("org/model", INACTIVE, project_id=None)
    registry.delete("org/model", project_id=None)
    assert page(registry) == []
    assert reported(database)[-1] == "deleted.v1"


def test_the_base_of_another_model_is_not_deleted(registry: ModelRegistry) -> None:
    loaded(registry, "base")
    loaded(registry, "ft:base:x", base_model_id="base")
    with pytest.raises(InvalidRequest, match="ft:base:x"):
        registry.delete("base", project_id=None)
    registry.delete("ft:base:x", project_id=None)
    registry.delete("base", project_id=None)


def test_a_base_is_not_deleted_while_a_model_of_it_is_created(
    registry: ModelRegistry, database: Database, run_concurrently: AtOnce
) -> None:
    loaded(registry, "base")
    started = threading.Barrier(3)

    def hold() -> None:
        with database.write() as session:
            next_revision(session, "models")
            started.wait(30)
            time.sleep(0.2)  # the others are at the same row by now

    def delete() -> None:
        started.wait(30)
        registry.delete("base", project_id=None)

    def create() -> None:
        started.wait(30)
        registry.create(new("ft:base:x", base_model_id="base"))

    results = run_concurrently([hold, delete, create])
    assert [type(result).__name__ for result in results].count("NoneType") == 2, results
    assert set(page(registry)) in (set(), {"base", "ft:base:x"})


def test_a_fine_tuned_model_has_its_bases_task_and_a_user_as_owner(registry: ModelRegistry) -> None:
    registry.create(new("base"))
    registry.mark_loaded("base", folder="/weights", size_bytes=1, task=Task.EMBED)
    tuned = registry.create(new("ft:base:x", base_model_id="base", project_id="proj_1"))
    assert (tuned.task, tuned.owned_by, tuned.base_model_id) == (Task.EMBED, "user", "base")


def test_a_fine_tuned_model_cannot_be_a_base(registry: ModelRegistry) -> None:
    loaded(registry, "base")
    loaded(registry, "ft:base:x", base_model_id="base")
    with pytest.raises(InvalidRequest) as refused:
        registry.create(new("ft:x:y", base_model_id="ft:base:x"))
    assert refused.value.param == "base_model_id"


def test_the_newest_fifty_wakes_are_kept(registry: ModelRegistry, database: Database) -> None:
    with database.write() as session:
        session.insert_if_absent(model_wakes, [{"model_id": "m", "at": at, "seconds": 1000.0} for at in range(60)])
        session.insert_if_absent(model_wakes, [{"model_id": "other", "at": at, "seconds": 7.0} for at in range(3)])
    registry.record_wake("m", 2.5)
    assert registry.wake_durations("m") == [2.5] + [1000.0] * 49
    assert registry.wake_durations("other") == [7.0] * 3
    assert registry.wake_durations("nobody") == []


def test_wakes_are_listed_shortest_first(registry: ModelRegistry) -> None:
    for seconds in (3.0, 1.0, 2.0):
        registry.record_wake("m", seconds)
    assert registry.wake_durations("m") == [1.0, 2.0, 3.0]


def test_changes_since_a_revision_are_the_models_changed_or_deleted_after_it(registry: ModelRegistry) -> None:
    assert registry.changed_since(0) == (0, [])
    loaded(registry, "a")
    loaded(registry, "b")
    newest, changed = registry.changed_since(0)
    assert (newest, set(changed)) == (registry.get("b").revision, {"a", "b"})
    registry.delete("a", project_id=None)
    newest, changed = registry.changed_since(newest)
    assert changed == ["a"]
    assert registry.changed_since(newest) == (newest, [])


def test_a_revision_reader_misses_no_writer(registry: ModelRegistry, run_concurrently: AtOnce) -> None:
    met: list[str] = []

    def write(name: str) -> None:
        for number in range(8):
            registry.create(new(f"{name}{number}"))

    def follow() -> None:
        cursor, deadline = 0, time.monotonic() + 30
        while len(met) < 24 and time.monotonic() < deadline:
            cursor, changed = registry.changed_since(cursor)
            met.extend(changed)

    assert run_concurrently([lambda: write("a"), lambda: write("b"), lambda: write("c"), follow]) == [None] * 4
    assert sorted(met) == sorted(page(registry))
