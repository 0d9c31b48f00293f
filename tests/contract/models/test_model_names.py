"""Names of models: project models do not reserve names of others, and shared names cannot be taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from llmariner.errors import Conflict, InvalidRequest, ModelNotFound
from llmariner.limits.restrictions import Restriction
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.queries import ModelSelector
from llmariner.models.registry import ModelRegistry
from llmariner.models.weights import LoadingProgress
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events


def create(registry: ModelRegistry, name: str, project: str | None, base: str | None = None) -> str:
    new = NewModel(name, SourceRepository.HUGGING_FACE, f"org/{project}", project_id=project, base_model_id=base)
    return registry.create(new).id


def where(registry: ModelRegistry, name: str, project: str) -> str:
    return registry.get(name, project_id=project).model_file_location


def names(registry: ModelRegistry, project: str, **restricted: frozenset[str]) -> list[str]:
    selector = ModelSelector(project, restriction=Restriction(**restricted))  # type: ignore[arg-type]
    return [model.name for model in registry.page(selector, after=None, limit=10)]


def test_a_name_of_another_project_is_available(registry: ModelRegistry) -> None:
    ids = [create(registry, "gpt-4", project) for project in ("proj_a", "proj_b", "proj_c")]
    assert len(set(ids)) == 3
    for project in ("proj_a", "proj_b", "proj_c"):
        assert where(registry, "gpt-4", project) == f"org/{project}"
        assert names(registry, project) == ["gpt-4"]
        with pytest.raises(Conflict):
            create(registry, "gpt-4", project)
    with pytest.raises(ModelNotFound):
        registry.get("gpt-4", project_id="proj_d")


def test_a_shared_model_takes_the_id_of_a_project_model_which_keeps_its_name(registry: ModelRegistry) -> None:
    create(registry, "gpt-4", "proj_a")
    create(registry, "ft:gpt-4:x", "proj_a", base="gpt-4")
    before = registry.get("gpt-4")
    registry.record_wake("gpt-4", 2.0)
    assert create(registry, "gpt-4", None) == "gpt-4"
    shared = registry.get("gpt-4")
    assert (shared.project_id, shared.created_at > before.created_at) == (None, True)
    own = registry.get("gpt-4", project_id="proj_a")
    assert (own.name, own.project_id, own.created_at) == ("gpt-4", "proj_a", before.created_at)
    assert registry.get("ft:gpt-4:x", project_id="proj_a").base_model_id == own.id
    assert (registry.wake_durations(own.id), registry.wake_durations("gpt-4")) == ([2.0], [])
    assert where(registry, "gpt-4", "proj_b") == "org/None"
    with pytest.raises(Conflict):
        create(registry, "gpt-4", "proj_b")
    assert registry.qualified_names("proj_a") == {"gpt-4"}
    assert registry.qualified_names("proj_b") == frozenset()


def test_pending_work_of_one_model_does_not_apply_to_another_of_its_name(
    registry: ModelRegistry, database: Database
) -> None:
    create(registry, "gpt-4", "proj_a")
    before = registry.get("gpt-4")
    create(registry, "gpt-4", None)
    of = before.created_at
    reports: list[Callable[[], object]] = [
        lambda: registry.mark_loaded("gpt-4", folder="hf://evil/x", size_bytes=1, task=Task.GENERATE, created=of),
        lambda: registry.update_progress("gpt-4", LoadingProgress(0.5, ""), created=of),
        lambda: registry.mark_failed("gpt-4", "broken", created=of),
    ]
    for report in reports:
        with pytest.raises(ModelNotFound):
            report()
    assert not registry.get("gpt-4").loaded
    with database.read() as session:
        asked_again = [row.data for row in session.rows(select(events.c.data).order_by(events.c.sequence))][1]
    assert '"registry_id":"gpt-4@proj_a"' in asked_again.replace(" ", "")


def test_an_id_qualifier_is_not_part_of_a_name(registry: ModelRegistry) -> None:
    create(registry, "m", "proj_a")
    own = create(registry, "m", "proj_b")
    for project in ("proj_a", "proj_b"):
        with pytest.raises(ModelNotFound):
            registry.get(own, project_id=project)
    with pytest.raises(InvalidRequest):
        create(registry, "m@proj_c", "proj_a")


def test_each_project_changes_and_deletes_its_own_model(registry: ModelRegistry) -> None:
    create(registry, "m", "proj_a")
    create(registry, "m", "proj_b")
    registry.configure(
        "m",
        lambda config: config.apply_patch({"runtime_config": {"resources": {"gpu": 3}}}, paths=None),
        project_id="proj_b",
    )
    assert [registry.get("m", project_id=each).config.gpu for each in ("proj_a", "proj_b")] == [1, 3]
    registry.delete("m", project_id="proj_b")
    assert where(registry, "m", "proj_a") == "org/proj_a"
    with pytest.raises(ModelNotFound):
        registry.get("m", project_id="proj_b")
    assert create(registry, "m", "proj_b") == "m@proj_b"


def test_lists_and_restrictions_use_names(registry: ModelRegistry) -> None:
    for name in ("x", "y"):
        create(registry, name, "proj_a")
        create(registry, name, "proj_b")
    assert names(registry, "proj_b") == ["x", "y"]
    assert names(registry, "proj_b", models=frozenset({"x"})) == ["x"]
    assert names(registry, "proj_b", refused_models=frozenset({"x"})) == ["y"]
    page = registry.page(ModelSelector("proj_b"), after="x", limit=5)
    assert [(model.name, model.project_id) for model in page] == [("y", "proj_b")]


def test_a_list_shows_each_name_once_and_ends(registry: ModelRegistry) -> None:
    for name in ("x", "y"):
        create(registry, name, "proj_a")
        create(registry, name, None)
    selector, seen = ModelSelector("proj_a"), list[str]()
    while page := registry.page(selector, after=seen[-1] if seen else None, limit=1):
        assert page[0].project_id == "proj_a"
        seen.append(page[0].name)
        assert len(seen) <= 2
    assert (seen, registry.count(selector), registry.base_ids(selector)) == (
        ["x", "y"],
        2,
        ["x@proj_a", "y@proj_a"],
    )
    registry.delete("x", project_id="proj_a")
    left = {model.name: model.project_id for model in registry.page(selector, after=None, limit=9)}
    assert left == {"x": None, "y": "proj_a"}


def test_a_restriction_on_a_model_hides_its_adapters(registry: ModelRegistry) -> None:
    create(registry, "x", None)
    create(registry, "ft:x:a", "proj_a", base="x")
    create(registry, "y", "proj_a")
    assert names(registry, "proj_a", refused_models=frozenset({"x"})) == ["y"]
    assert not Restriction(refused_models=frozenset({"x"})).allows("ft:x:a", "x")
    assert Restriction(refused_models=frozenset({"x"})).allows("y", None)
