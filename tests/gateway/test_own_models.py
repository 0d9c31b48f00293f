"""Projects whose own models have one name, on the token path: each reaches its own, and neither learns of the other's."""

from __future__ import annotations

import asyncio
import json

from llmariner.models.model import NewModel, SourceRepository, Task

from .caller import Caller
from .running import Platform, eventually


def own_model(platform: Platform, name: str, project_id: str | None) -> str:
    """Register a model that says of itself whose it is, by the length of its answers; returns its id in the registry."""
    model = platform.context.registry.create(NewModel(name, SourceRepository.LOCAL, "here", project_id=project_id))
    value = {"arguments": ["--model", name, "--tokens", "1"], "capacity": 8}
    (platform.folder / f"{model.id}.json").write_text(json.dumps(value))
    platform.context.registry.loaded(model.id, folder=str(platform.folder), size_bytes=1, task=Task.GENERATE)
    return model.id


def status(caller: Caller, model: str) -> int:
    return asyncio.run(caller.chat(model)).status


def test_each_project_reaches_its_own_model(platform: Platform) -> None:
    first, second, third = (platform.tenant(f"same-{each}") for each in "abc")
    mine = own_model(platform, "same", "proj_same-a")
    assert (status(first, "same"), status(second, "same")) == (200, 404)
    theirs = own_model(platform, "same", "proj_same-b")
    eventually(lambda: status(second, "same") == 200, what="the second project's model")
    assert [len(platform.engines(model)) for model in (mine, theirs)] == [1, 1]
    assert status(first, "same") == 200
    assert [len(platform.engines(model)) for model in (mine, theirs)] == [1, 1]
    assert status(third, "same") == 404
    for caller in (first, second, third):
        assert status(caller, theirs) == 404, "what qualifies an id is nothing that a caller can say"


def test_a_name_that_a_project_took_is_free_for_all(platform: Platform) -> None:
    first, second = (platform.tenant(f"free-{each}") for each in "ab")
    own_model(platform, "free", "proj_free-a")
    assert (status(first, "free"), status(second, "free")) == (200, 404)
    own_model(platform, "free", None)
    value = {"arguments": ["--model", "free", "--tokens", "1"], "capacity": 8}
    (platform.folder / "free@proj_free-a.json").write_text(json.dumps(value))
    eventually(lambda: status(second, "free") == 200, what="the model for all")
    eventually(lambda: status(first, "free") == 200 and platform.engines("free@proj_free-a"), what="its own")
