"""Restrictions of models by role: engine arguments, locations of weights, and shared models."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.boot import load
from llmariner.models.model import LoadingStatus, NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.models.serving_lookup import RegistryModelLookup
from llmariner.models.tables import models
from llmariner.platform.events.cloudevents import to_http
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.roles.scopes import MODEL_ADMIN, OWNER_SCOPES

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .outbox_events import write_event
from .processes import CHECKOUT

EVIL = ["--trust-remote-code", "--middleware=evil.Tap"]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Company:
    made = Company(installation, ask)
    # A member of the default organization who does not own it.
    admin = installation.context.authenticator.caller_for_user(installation.owner.user_id)
    members, owner = Members(installation.context.database), installation.owner
    user_id = members.add(admin, made.email("plain"), "reader").user_id
    members.add_to_project(admin, owner.project_id, user_id, "member")
    place = KeyOwner(user_id, owner.project_id, owner.organization_id)
    _, made.secrets["plain"] = installation.context.keys.create(place, NewKey("plain", OWNER_SCOPES | {MODEL_ADMIN}))
    return made


def create(company: Company, by: str, *, args: tuple[str, ...] = (), **fields: Any) -> HttpResponse:
    config = {"runtime_config": {"extra_args": list(args)}}
    body = {"id": f"walk/{next(_numbers)}", "source_repository": "HUGGING_FACE", "is_project_scoped": True}
    return company.ask("POST /v1/models", {**body, "config": config, **fields}, by=by)


def patch(company: Company, by: str, model: str, args: list[str], **more: Any) -> HttpResponse:
    body = {"config": {"runtime_config": {"extra_args": args}}, "update_mask": "config.runtime_config.extra_args"}
    return company.ask(f"PATCH /v1/models/{model}", {**body, **more}, by=by)


def shared(company: Company, *args: str) -> str:
    made = create(company, "admin", args=args, is_project_scoped=False)
    assert made.status == 200
    name: str = made.json["id"]
    company.context.registry.mark_loaded(
        name, folder="hf://org/x", size_bytes=1, task=company.context.registry.get(name).task
    )
    return name


def of_the_release_before(installation: Installation, location: str, *args: str) -> str:
    """A model of a release without lists, which no operator approved."""
    name = f"old/{next(_numbers)}"
    new = NewModel(name, SourceRepository.HUGGING_FACE, location, project_id="proj_2")
    installation.context.registry.create(new)
    installation.context.registry.configure(
        name,
        lambda config: config.apply_patch({"runtime_config": {"extra_args": list(args)}}, paths=None),
        project_id=None,
    )
    with installation.context.database.write() as session:
        session.run(update(models).where(models.c.id == name).values(approved=False))
    return name


@pytest.mark.parametrize("by", ["mia", "lead", "boss", "plain"])
def test_only_an_operator_chooses_arbitrary_engine_arguments(company: Company, by: str) -> None:
    project = {"boss": "lead"}.get(by, by)  # an admin key works in no project
    refused = create(company, project, args=("--enforce-eager", *EVIL))
    assert_error(refused, 403, "insufficient_permissions")
    assert refused.error["param"] == "config.runtime_config.extra_args[1]"
    assert MODEL_ADMIN in refused.error["message"]
    made = create(company, project, args=("--max-model-len=4096", "--enforce-eager"))
    assert made.status == 200
    model = made.json["id"]
    assert_error(patch(company, project, model, EVIL), 403, "insufficient_permissions")
    assert patch(company, project, model, ["--dtype", "bfloat16"]).status == 200


@pytest.mark.parametrize(
    "location",
    [
        "oci://registry.evil.example/image:1",
        "pvc://weights/tenant-a/secret",
        "s3://bucket/other",
        "http://169.254.169.254/",
    ],
)
@pytest.mark.parametrize("source", ["HUGGING_FACE", "OBJECT_STORE", "LOCAL", "FINE_TUNING", "OLLAMA"])
def test_weights_come_from_permitted_locations(company: Company, location: str, source: str) -> None:
    refused = create(company, "mia", model_file_location=location, source_repository=source)
    assert_error(refused, 403, "insufficient_permissions")
    assert refused.error["param"] == "model_file_location"
    assert create(company, "mia", model_file_location="hf://org/model", source_repository=source).status == 200


def test_a_local_path_is_no_location_for_a_projects_weights(company: Company) -> None:
    assert_error(
        create(company, "mia", model_file_location="/etc", source_repository="LOCAL"), 403, "insufficient_permissions"
    )
    assert create(company, "admin", model_file_location="/etc", source_repository="LOCAL").status == 200


def test_adapters_have_the_same_restrictions(company: Company) -> None:
    base = shared(company)
    tuned: dict[str, Any] = {"is_fine_tuned_model": True, "base_model_id": base, "source_repository": "FINE_TUNING"}
    assert_error(create(company, "mia", model_file_location="pvc://no/x", **tuned), 403, "insufficient_permissions")
    assert create(company, "mia", model_file_location="hf://org/adapter", **tuned).status == 200


def test_shared_models_are_managed_by_operators(company: Company) -> None:
    model = shared(company)
    questions: list[tuple[str, str, Any]] = [("PATCH", f"/v1/models/{model}", {"config": {}, "update_mask": "config"})]
    questions += [("POST", f"/v1/models/{model}:{verb}", None) for verb in ("activate", "deactivate")]
    questions += [("DELETE", f"/v1/models/{model}", None)]
    for by in ("plain", "mia", "lead", "vic", "outsider"):
        assert_error(create(company, by, is_project_scoped=False), 403, "insufficient_permissions")
        for method, path, body in questions:
            assert_error(company.ask(f"{method} {path}", body, by=by), 403, "insufficient_permissions")
    assert company.ask(f"DELETE /v1/models/{model}", by="admin").status == 200


def test_no_role_grants_operator_permissions(company: Company) -> None:
    made = company.ask("POST /v1/api_keys", {"name": "greedy", "scopes": [MODEL_ADMIN]}, by="lead")
    assert made.status == 400
    role = {"role_name": "greedy", "permissions": [MODEL_ADMIN]}
    assert company.ask("POST /v1/organization/roles", role, by="boss").status == 400


def test_an_operators_arguments_are_free_and_kept_by_members_updates(company: Company) -> None:
    made = create(company, "admin", args=tuple(EVIL), model_file_location="oci://registry/image:1")
    assert made.status == 200
    model = made.json["id"]
    assert company.context.registry.blocked_reason(company.context.registry.get(model)) == ""
    more = {"config": {"runtime_config": {"extra_args": EVIL, "replicas": 2}}, "update_mask": "config"}
    assert company.ask(f"PATCH /v1/models/{model}", more, by="plain").json["config"]["runtime_config"]["replicas"] == 2
    assert_error(patch(company, "plain", model, [*EVIL, "--port=1"]), 403, "insufficient_permissions")


@pytest.mark.parametrize(("location", "args"), [("hf://org/x", ("--middleware=evil.Tap",)), ("oci://evil/image", ())])
def test_models_from_before_the_restrictions_are_not_started(
    installation: Installation, in_process: InProcessClient, company: Company, location: str, args: tuple[str, ...]
) -> None:
    name, registry = of_the_release_before(installation, location, *args), installation.context.registry
    loader: Any = load(CHECKOUT / "eventing/model_loader")
    loader.use_context(installation.context)
    headers, body = to_http(write_event(installation, "ai.llmariner.model.created.v1", {"id": name}))
    assert in_process.send(loader, HttpRequest("POST", "/", body, headers)).status == 204
    model = registry.get(name)
    assert model.loading_status is LoadingStatus.FAILED
    assert MODEL_ADMIN in model.loading_failure_reason
    registry.mark_loaded(name, folder=location, size_bytes=1, task=model.task)
    lookup = RegistryModelLookup(registry, installation.context.ledger)
    assert MODEL_ADMIN in asyncio.run(lookup.find(name)).blocked
    assert_error(company.ask(f"POST /v1/models/{name}:activate", by="outsider"), 403, "insufficient_permissions")


def test_a_member_cannot_approve_arguments_by_repeating_them(installation: Installation, company: Company) -> None:
    registry, args = installation.context.registry, ["--middleware=evil.Tap"]
    name = of_the_release_before(installation, "hf://org/x", *args)
    for said in ({}, {"created": registry.get(name).created_at}):
        assert patch(company, "outsider", name, args, **said).status == 200
    assert (registry.get(name).approved, registry.blocked_reason(registry.get(name)) != "") == (False, True)


def test_a_members_model_is_checked_against_the_current_list(installation: Installation, company: Company) -> None:
    made = create(company, "mia", model_file_location="hf://org/model")
    model = installation.context.registry.get(made.json["id"], project_id=company.vision)
    assert not model.approved
    assert installation.context.registry.blocked_reason(model) == ""
    narrower = ModelRegistry(installation.context.database, ("hf://other/",))
    assert MODEL_ADMIN in narrower.blocked_reason(model)


@pytest.mark.parametrize("by", ["mia", "admin"])
def test_an_inference_service_cannot_be_registered(company: Company, by: str) -> None:
    refused = create(company, by, source_repository="KUBERNETES", model_file_location="somebodys")
    assert_error(refused, 400, None)
    assert refused.error["param"] == "source_repository"


def test_an_operator_approves_arguments_by_repeating_them(installation: Installation, company: Company) -> None:
    registry = installation.context.registry
    name = of_the_release_before(installation, "hf://org/x", "--middleware=evil.Tap")
    with installation.context.database.write() as session:
        session.run(update(models).where(models.c.id == name).values(project_id=None))
    body = {"config": {"runtime_config": {"replicas": 2}}, "update_mask": "config.runtime_config.replicas"}
    assert company.ask(f"PATCH /v1/models/{name}", body, by="admin").status == 200
    assert registry.blocked_reason(registry.get(name))
    refused = patch(company, "admin", name, ["--middleware=evil.Tap"])
    assert (refused.status, refused.error["param"]) == (400, "created")
    assert registry.blocked_reason(registry.get(name))
    seen = company.ask(f"GET /v1/models/{name}", by="admin").json["created"]
    assert patch(company, "admin", name, ["--middleware=evil.Tap"], created=seen).status == 200
    assert registry.blocked_reason(registry.get(name)) == ""


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_recreated_after_the_review_is_not_approved(
    installation: Installation, company: Company, wrapped: bool
) -> None:
    registry = installation.context.registry
    name = of_the_release_before(installation, "hf://org/x", "--seed=1")
    seen = registry.get(name).created_at
    registry.delete(name, project_id="proj_2")
    registry.create(NewModel(name, SourceRepository.HUGGING_FACE, "oci://evil/image"))
    with installation.context.database.write() as session:
        session.run(update(models).where(models.c.id == name).values(approved=False))
    fields: dict[str, Any] = {"config": {"runtime_config": {"extra_args": ["--seed=1"]}}}
    # LLMariner's clients write 64-bit numbers as texts.
    said = {"model": {**fields, "created": str(seen)}} if wrapped else {**fields, "created": seen}
    answer = company.ask(f"PATCH /v1/models/{name}", {**said, "update_mask": "config"}, by="admin")
    assert (answer.status, answer.error["param"]) == (409, "created")
    assert not registry.get(name).approved
    assert "oci://evil/image" in registry.blocked_reason(registry.get(name))


def test_the_approval_error_has_arguments_and_location(installation: Installation) -> None:
    name = of_the_release_before(installation, "oci://evil/image", "--middleware=evil.Tap")
    why = installation.context.registry.blocked_reason(installation.context.registry.get(name))
    assert "--middleware" in why
    assert "oci://evil/image" in why
