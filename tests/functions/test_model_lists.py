"""Lists of models and single models agree with the restrictions of keys and projects."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .company import Company
from .conftest import Ask
from .http_calls import assert_error
from .installation import Installation


@pytest.fixture
def company(installation: Installation, ask: Ask) -> Company:
    made = Company(installation, ask)
    for name in ("here", "there"):
        model = f"{name}-{made.number}"
        new = NewModel(model, SourceRepository.HUGGING_FACE, "org/x", project_id=made.vision)
        installation.context.registry.create(new)
        installation.context.registry.mark_loaded(model, folder="hf://org/x", size_bytes=1, task=Task.GENERATE)
    return made


def key(company: Company, **bounds: Any) -> str:
    """The name of one more key of mia, which is bound to some models."""
    place = KeyOwner(company.people["mia"].user_id, company.vision, company.id)
    _, company.secrets["bound"] = company.context.keys.create(place, NewKey("bound", OWNER_SCOPES, **bounds))
    return "bound"


def shown(company: Company, by: str) -> list[str]:
    listed = company.ask("GET /v1/models", by=by, query="limit=500").json
    ids = [each["id"] for each in listed["data"]]
    assert listed["total_items"] == len(ids)
    status = company.ask("GET /v1/inference/status", by=by).json
    served = [each["id"] for each in status["cluster_statuses"][0]["engine_statuses"][0]["models"]]
    mine = [[name for name in found if name.endswith(f"-{company.number}")] for found in (ids, served)]
    assert mine[0] == mine[1]
    return mine[0]


def test_a_key_sees_its_permitted_models(company: Company) -> None:
    here, there = f"here-{company.number}", f"there-{company.number}"
    by = key(company, allowed_models=(here, "tiny"))
    assert shown(company, by) == [here]
    assert shown(company, "mia") == [here, there]
    assert company.ask(f"GET /v1/models/{here}", by="mia").status in (200, 404)  # the static adapter serves others only
    assert_error(company.ask(f"GET /v1/models/{there}", by=by), 403, "model_not_allowed")
    assert_error(company.ask("GET /v1/models/nobody", by=by), 404, "model_not_found")


@pytest.mark.parametrize("mode", ["allow_list", "deny_list"])
def test_a_project_sees_its_permitted_models(company: Company, mode: str) -> None:
    here, there = f"here-{company.number}", f"there-{company.number}"
    path = "/v1/organization/projects/VISION/model_permissions"
    named = here if mode == "allow_list" else there
    assert company.ask(f"POST {path}", {"mode": mode, "model_ids": [named]}).status == 200
    for by in ("mia", key(company)):
        assert shown(company, by) == [here]
        assert_error(company.ask(f"GET /v1/models/{there}", by=by), 403, "model_not_allowed")
