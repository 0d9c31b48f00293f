"""The embedding model of a vector store: the caller's choice among the models that embed, or the platform's."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation


@pytest.fixture(scope="module")
def models(installation: Installation) -> str:
    """Registers some models; returns the project's id."""
    project_id = installation.owner.project_id
    installation.register("own-vectors", task=Task.EMBED, project_id=project_id)
    registry = installation.context.registry
    for owner in ("proj_2", project_id):
        made = registry.create(NewModel("same-vectors", SourceRepository.LOCAL, "/weights/x", project_id=owner))
        registry.mark_loaded(made.id, folder="/weights/x", size_bytes=1, task=Task.EMBED)
    new = NewModel("loading-vectors", SourceRepository.HUGGING_FACE, "org/x", task=Task.EMBED)
    registry.create(new)
    return project_id


def create(ask: Ask, secret: str, **body: Any) -> HttpResponse:
    return ask("vector_stores", HttpRequest("POST", "/v1/vector_stores", body, bearer(secret)))


def test_a_store_has_the_model_that_its_creator_names(ask: Ask, installation: Installation, models: str) -> None:
    for name in ("vectors", "own-vectors", "same-vectors", None):
        made = create(ask, installation.keys.admin, embedding_model=name).json
        assert (made["embedding_model"], made["embedding_dimensions"]) == (name or "all-minilm-l6-v2", None)
        stored = installation.context.vector_stores.get(models, made["id"])
        qualified = name == "same-vectors"  # another project had that name first
        assert stored.embedding_model == made["embedding_model"] + (f"@{models}" if qualified else "")


REFUSED: dict[str, tuple[Any, int, str | None]] = {
    "unknown": ("nobody", 404, "model_not_found"),
    "another project's": ("theirs", 404, "model_not_found"),
    "another project's by its id": ("theirs@proj_2", 404, "model_not_found"),
    "a chat model": ("tiny", 400, "unsupported_model"),
    "without weights": ("loading-vectors", 409, "model_not_loaded"),
    "empty": ("", 400, None),
    "a number": (5, 400, None),
    "NUL": ("vectors\0", 404, "model_not_found"),
    "too long": ("x" * 257, 400, None),
    "an object": ({}, 400, None),
}


def test_another_model_is_refused_and_nothing_is_created(ask: Ask, installation: Installation, models: str) -> None:
    listing = HttpRequest("GET", "/v1/vector_stores", headers=bearer(installation.keys.admin))
    before = ask("vector_stores", listing).json
    for case, (name, status, code) in REFUSED.items():
        answer = create(ask, installation.keys.admin, embedding_model=name)
        assert (answer.status, answer.error["param"]) == (status, "embedding_model"), case
        assert code is None or answer.error["code"] == code, case
    assert ask("vector_stores", listing).json == before


def test_a_key_of_other_models_can_not_name_it(ask: Ask, installation: Installation, models: str) -> None:
    keys, owner = installation.context.keys, installation.owner
    _, secret = keys.create(owner, NewKey("only own-vectors", OWNER_SCOPES, allowed_models=("own-vectors",)))
    assert create(ask, secret, embedding_model="own-vectors").status == 200
    assert_error(create(ask, secret, embedding_model="vectors"), 403, "model_not_allowed")


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
