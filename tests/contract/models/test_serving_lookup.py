"""The registry's lookup of the engine that serves a model, and of the other models that it serves."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from llmariner.errors import ModelNotFound
from llmariner.models.model import ActivationStatus, NewModel, SourceRepository, Task
from llmariner.models.registry import ModelRegistry
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.models.tables import models
from llmariner.platform.database import Database
from llmariner.usage.ledger import Ledger


def add(registry: ModelRegistry, model_id: str, base: str | None = None, project: str | None = None) -> None:
    registry.create(NewModel(model_id, SourceRepository.HUGGING_FACE, "org/x", base_model_id=base, project_id=project))
    registry.mark_loaded(model_id, folder="hf://org/x", size_bytes=1, task=Task.GENERATE)


@pytest.fixture
def lookup(registry: ModelRegistry, ledger: Ledger) -> RegistryModelLookup:
    add(registry, "shared")
    add(registry, "own", project="proj_a")
    for project in ("proj_a", "proj_b"):
        add(registry, f"ft:shared:{project}", "shared", project)
    add(registry, "ft:own:x", "own", "proj_a")
    return RegistryModelLookup(registry, ledger)


def test_adapters_of_a_shared_base_are_served_separately_per_project(lookup: RegistryModelLookup) -> None:
    base = asyncio.run(lookup.engine("shared"))
    assert (base.engine.id, base.engine.adapters_of, base.ids) == ("shared", None, ["shared"])
    tuned = asyncio.run(lookup.engine("ft:shared:proj_b"))
    assert (tuned.engine.id, tuned.engine.adapters_of, tuned.engine.project) == ("shared", "proj_b", "proj_b")
    assert tuned.ids == ["ft:shared:proj_b"]


def test_adapters_of_a_projects_own_base_are_served_with_it(lookup: RegistryModelLookup) -> None:
    for model_id in ("own", "ft:own:x"):
        served = asyncio.run(lookup.engine(model_id))
        assert (served.engine.id, served.engine.adapters_of) == ("own", None)
        assert served.ids == ["own", "ft:own:x"]
    with pytest.raises(ModelNotFound):
        asyncio.run(lookup.engine("nobody"))


def test_an_always_on_adapter_keeps_its_engine_awake(lookup: RegistryModelLookup, registry: ModelRegistry) -> None:
    registry.activate("ft:shared:proj_a", ActivationStatus.ACTIVE, project_id="proj_a")
    assert asyncio.run(lookup.engine("ft:shared:proj_a")).engine.keep_awake
    assert not asyncio.run(lookup.engine("ft:shared:proj_b")).engine.keep_awake
    assert not asyncio.run(lookup.engine("shared")).engine.keep_awake


def test_an_unapproved_adapter_is_in_no_engine(lookup: RegistryModelLookup, database: Database) -> None:
    with database.write() as session:
        values = {"approved": False, "model_file_location": "oci://evil/image"}
        session.run(update(models).where(models.c.id == "ft:own:x").values(**values))
    served = asyncio.run(lookup.engine("ft:own:x"))
    assert served.ids == ["own"]
    assert "api.model.admin" in served.rejection
    assert asyncio.run(lookup.engine("own")).rejection == ""


def test_adapters_of_other_projects_are_not_even_read(lookup: RegistryModelLookup, registry: ModelRegistry) -> None:
    found = registry.adapters_of([("shared", "proj_a"), ("shared", None), ("own", "proj_b")])
    assert {key: [model.id for model in each] for key, each in found.items()} == {
        ("shared", "proj_a"): ["ft:shared:proj_a"]
    }
    assert registry.adapters_of([]) == {}


def test_many_engines_are_looked_up_at_once(lookup: RegistryModelLookup) -> None:
    keys = {("shared", None), ("shared", "proj_a"), ("shared", "proj_c"), ("own", None), ("nobody", None)}
    found = asyncio.run(lookup.engines(keys, waking=["own"]))
    assert {key: served.ids for key, served in found.items()} == {
        ("shared", None): ["shared"],
        ("shared", "proj_a"): ["ft:shared:proj_a"],
        ("shared", "proj_c"): [],
        ("own", None): ["own", "ft:own:x"],
    }


def test_an_inference_service_of_another_name_replaces_a_deleted_one(
    lookup: RegistryModelLookup, registry: ModelRegistry
) -> None:
    asyncio.run(lookup.import_existing({"first": "theirs"}))
    assert registry.imported_services() == {"theirs": "first"}
    asyncio.run(lookup.import_existing({"second": "theirs"}))
    assert registry.imported_services() == {"theirs": "second"}
    asyncio.run(lookup.import_existing({}))
    assert registry.imported_services() == {}


def test_the_first_of_two_services_of_one_model_wins(lookup: RegistryModelLookup, registry: ModelRegistry) -> None:
    asyncio.run(lookup.import_existing({"m": "theirs"}))
    for rival in ("a", "z"):
        asyncio.run(lookup.import_existing({"m": "theirs", rival: "theirs"}))
        asyncio.run(lookup.import_existing({rival: "theirs"}, only=rival))
        assert registry.imported_services() == {"theirs": "m"}
    asyncio.run(lookup.import_existing({}, only="z"))
    assert registry.imported_services() == {"theirs": "m"}
    asyncio.run(lookup.import_existing({}, only="m"))
    assert registry.imported_services() == {}
