"""Objects through the API: a created object is visible to permitted callers, and to no others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.models.model import NewModel, SourceRepository
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.deliveries import Deliveries, Subscription
from llmariner.tenancy.roles.scopes import INSTALLATION_SCOPES, OWNER_SCOPES

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation

Call = Callable[..., HttpResponse]


@pytest.fixture
def call(ask: Ask, admin: dict[str, str]) -> Call:
    """`call("POST /v1/models", body)`, as the administrator unless `by` says the headers of another."""
    functions = {"models": "models", "api_keys": "api_keys", "events": "events", "chat": "chat_completions"}

    def called(route: str, body: Any = None, *, by: dict[str, str] | None = None, query: str = "") -> HttpResponse:
        method, path = route.split()
        name = functions.get(path.split("/")[2], path.split("/")[2])
        return ask(name, HttpRequest(method, path, body, admin if by is None else by, query))

    return called


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_key_works_from_creation_to_revocation(call: Call) -> None:
    made = call("POST /v1/api_keys", {"name": "life", "scopes": ["api.model.read"]})
    assert made.status == 200
    key, secret = made.json, made.json["secret"]
    assert call("GET /v1/models", by=bearer(secret)).status == 200
    assert call("POST /v1/models", {"source_repository": "LOCAL"}, by=bearer(secret)).status == 403
    rotated = call(f"POST /v1/api_keys/{key['id']}:rotate", {"overlap_seconds": 60}).json
    assert [call("GET /v1/models", by=bearer(s)).status for s in (secret, rotated["secret"])] == [200, 200]
    call(f"POST /v1/api_keys/{key['id']}:rotate", {})
    assert call("GET /v1/models", by=bearer(rotated["secret"])).status == 401
    assert call(f"DELETE /v1/api_keys/{key['id']}").json["deleted"] is True
    assert_error(call(f"DELETE /v1/api_keys/{key['id']}"), 404, "not_found")


def test_a_secret_is_only_in_the_creation_response(call: Call) -> None:
    made = call("POST /v1/api_keys", {"name": "shown once"})
    secret, key_id = made.json["secret"], made.json["id"]
    renamed = call(f"PATCH /v1/api_keys/{key_id}", {"name": "shown once more"})
    listed = call("GET /v1/api_keys")
    for answer in (renamed, listed):
        assert answer.status == 200
        assert secret.encode() not in answer.body
        assert secret[7:-2].encode() not in answer.body
    [found] = [key for key in listed.json["data"] if key["id"] == key_id]
    assert (found["name"], found["secret"], found["prefix"]) == (
        "shown once more",
        made.json["prefix"],
        found["prefix"],
    )


def test_a_key_has_no_scope_that_its_creator_lacks(call: Call) -> None:
    scopes = ["api.organizations.projects.api_keys.write"]
    small = call("POST /v1/api_keys", {"name": "small", "scopes": scopes}).json["secret"]
    made = call("POST /v1/api_keys", {"name": "smaller"}, by=bearer(small))
    assert made.json["scopes"] == scopes
    refused = call("POST /v1/api_keys", {"name": "greater", "scopes": ["api.model.read"]}, by=bearer(small))
    assert (refused.status, refused.error["param"]) == (400, "scopes[0]")


def test_a_duplicate_name_is_a_non_retryable_conflict(call: Call) -> None:
    assert call("POST /v1/api_keys", {"name": "taken"}).status == 200
    refused = call("POST /v1/api_keys", {"name": "taken"})
    assert_error(refused, 409, "conflict")
    assert refused.headers["x-should-retry"] == "false"


def test_the_administrator_has_every_owner_scope(call: Call) -> None:
    admin = next(key for key in call("GET /v1/api_keys").json["data"] if key["name"] == "admin")
    assert admin["scopes"] == sorted(OWNER_SCOPES | INSTALLATION_SCOPES)


KEY_CHANGES = {"PATCH": {"name": "stolen"}, "DELETE": None}


def test_another_projects_key_is_not_found(call: Call, outsider: dict[str, str]) -> None:
    key_id = call("POST /v1/api_keys", {"name": "mine"}).json["id"]
    for method, body in KEY_CHANGES.items():
        assert_error(call(f"{method} /v1/api_keys/{key_id}", body, by=outsider), 404, "not_found")
    assert_error(call(f"POST /v1/api_keys/{key_id}:rotate", {}, by=outsider), 404, "not_found")
    assert key_id not in [key["id"] for key in call("GET /v1/api_keys", by=outsider).json["data"]]
    assert key_id in [key["id"] for key in call("GET /v1/api_keys").json["data"]]


@pytest.mark.parametrize("key_id", ["key_nobody", "a b", "x" * 500, "ä", "'; DROP TABLE api_keys; --"])
def test_an_unknown_key_is_not_found(call: Call, ask: Ask, admin: dict[str, str], key_id: str) -> None:
    for method, body in KEY_CHANGES.items():
        assert_error(ask("api_keys", HttpRequest(method, f"/v1/api_keys/{key_id}", body, admin)), 404, "not_found")


@pytest.mark.parametrize("model_id", ["nobody", "org/nobody", "theirs", "a b", "ä", "x" * 500, "..", "org//x", ":x"])
def test_an_invisible_model_is_not_found(ask: Ask, admin: dict[str, str], model_id: str) -> None:
    path = f"/v1/models/{model_id}"
    update = {"config": {}, "update_mask": "config"}
    questions = [HttpRequest("GET", path), HttpRequest("PATCH", path, update), HttpRequest("DELETE", path)]
    questions += [HttpRequest("POST", f"{path}:{verb}") for verb in ("activate", "deactivate")]
    for http_request in questions:
        asked = HttpRequest(http_request.method, http_request.path.replace(" ", "%20"), http_request.body, admin)
        assert_error(ask("models", asked), 404, "model_not_found")


@pytest.mark.parametrize("model", ["nobody", "theirs"])
def test_an_invisible_model_is_not_found_on_the_token_path(call: Call, model: str) -> None:
    answer = call("POST /v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}]})
    assert_error(answer, 404, "model_not_found")
    assert answer.error["param"] == "model"


def test_an_embedding_model_rejects_chat(call: Call) -> None:
    answer = call("POST /v1/chat/completions", {"model": "vectors", "messages": [{"role": "user", "content": "x"}]})
    assert_error(answer, 400, "unsupported_model")


def test_the_lifecycle_of_a_model(call: Call, installation: Installation) -> None:
    made = call("POST /v1/models", {"id": "org/life", "source_repository": "hugging-face", "is_project_scoped": True})
    assert (made.status, made.json["loading_status"]) == (200, "MODEL_LOADING_STATUS_REQUESTED")
    again = {"id": "org/life", "source_repository": "LOCAL", "is_project_scoped": True}
    assert_error(call("POST /v1/models", again), 409, "conflict")
    assert call("GET /v1/models/org/life").json["id"] == "org/life"
    ids = [model["id"] for model in call("GET /v1/models", query="limit=500").json["data"]]
    assert "org/life" not in ids
    loading = call("GET /v1/models", query="include_loading_models=true&limit=500").json["data"]
    assert "org/life" in [model["id"] for model in loading]
    change = {"config": {"runtime_config": {"extra_args": ["--x"]}}, "update_mask": "config.runtime_config.extra_args"}
    changed = call("PATCH /v1/models/org/life", change).json
    runtime = {"resources": {"gpu": 1}, "replicas": 1, "max_replicas": 0, "extra_args": ["--x"]}
    assert changed["config"]["runtime_config"] == runtime
    assert_error(call("POST /v1/models/org/life:activate"), 404, "model_not_found")
    assert call("DELETE /v1/models/org/life").json == {"id": "org/life", "object": "model", "deleted": True}
    assert_error(call("GET /v1/models/org/life"), 404, "model_not_found")


def test_a_models_task_can_be_declared(call: Call) -> None:
    said = {"id": "org/vectors", "source_repository": "OBJECT_STORE", "task": "embed"}
    assert call("POST /v1/models", said).json["task"] == "embed"
    call("DELETE /v1/models/org/vectors")


def test_an_active_model_is_not_deleted(call: Call, installation: Installation) -> None:
    assert call("POST /v1/models/tiny:activate").json == {}
    assert call("GET /v1/models/tiny").json["activation_status"] == "ACTIVATION_STATUS_ACTIVE"
    refused = call("DELETE /v1/models/tiny")
    assert (refused.status, refused.error["param"]) == (400, "model")
    assert call("POST /v1/models/tiny:deactivate").json == {}
    assert call("GET /v1/models/tiny").json["serving"]["phase"] == "ready"


def test_pages_of_models_are_consecutive(call: Call) -> None:
    whole = [model["id"] for model in call("GET /v1/models", query="limit=500").json["data"]]
    first = call("GET /v1/models", query="limit=1").json
    assert (first["has_more"], first["total_items"], len(first["data"])) == (True, len(whole), 1)
    rest = call("GET /v1/models", query=f"limit=500&after={first['data'][0]['id']}").json
    assert rest["has_more"] is False
    assert [model["id"] for model in [*first["data"], *rest["data"]]] == whole


def test_another_projects_events_are_not_found(
    call: Call, outsider: dict[str, str], installation: Installation
) -> None:
    registry = installation.context.registry
    registry.create(NewModel("evented", SourceRepository.LOCAL, "/x", project_id=installation.owner.project_id))
    store = Deliveries(installation.context.database, [Subscription("nobody", "ai.llmariner.model.created.v1")])
    while store.fan_out():
        pass
    [mine] = [d for d in store.page(installation.owner.project_id, None, after=None, limit=100) if names(d, "evented")]
    store.mark_failed(mine, "400", final=True)
    event_id = mine.event.id
    assert event_id not in [
        event["id"] for event in call("GET /v1/events", query="limit=100", by=outsider).json["data"]
    ]
    assert_error(call(f"POST /v1/events/{event_id}:replay", by=outsider), 404, "not_found")
    [dead] = [e for e in call("GET /v1/events", query="state=dead&limit=100").json["data"] if e["id"] == event_id]
    assert (dead["consumer"], dead["last_error"], dead["data"]["id"]) == ("nobody", "400", "evented")
    assert call(f"POST /v1/events/{event_id}:replay").json["replayed"] == 1
    assert_error(call(f"POST /v1/events/{event_id}:replay"), 409, "conflict")
    assert_error(call("POST /v1/events/evt_nobody:replay"), 404, "not_found")


def test_names_of_kubernetes_objects_are_visible_to_operators_only(
    call: Call, outsider: dict[str, str], installation: Installation
) -> None:
    event = Event("kube-1", "dev.knative.apiserver.ref.add", "/apis/x/theirs", time.time(), {"name": "theirs"})
    Deliveries(installation.context.database, ()).record_dead_letter(event, "model_adoption", "503: no")
    made = call("POST /v1/api_keys", {"name": "narrow", "scopes": ["api.events.read"]}).json
    assert len(_shown(call, event.id, bearer(made["secret"]))) == 1
    assert _shown(call, event.id, outsider) == []
    assert_error(call(f"POST /v1/events/{event.id}:replay", by=outsider), 404, "not_found")
    assert call(f"POST /v1/events/{event.id}:replay").json["replayed"] == 1


def test_internal_errors_are_visible_to_operators_only(
    call: Call, outsider: dict[str, str], installation: Installation
) -> None:
    type_ = "ai.llmariner.test.inside.v1"
    with installation.context.database.write() as session:
        outbox.add(session, type_, "x", {})
    takers = ("a", "b", "c", "broker")
    store = Deliveries(installation.context.database, [Subscription(name, type_) for name in takers])
    while store.fan_out():
        pass
    reasons = {
        "a": "500: OperationalError: no route to db.inside",
        "b": "no answer: db.inside",
        "c": "400: no such name",
    }
    reasons["broker"] = "403: broker.inside does not know you"
    for due in [due for due in store.due() if due.event.type == type_]:
        store.mark_failed(due, reasons[due.consumer], final=True)
    event_id = next(d.event.id for d in store.page("proj_2", None, after=None, limit=9) if d.event.type == type_)
    assert {each["consumer"]: each["last_error"] for each in _shown(call, event_id, None)} == reasons
    theirs = {each["consumer"]: each["last_error"] for each in _shown(call, event_id, outsider)}
    hidden = "The platform could not deliver it. Who runs this installation sees why."
    assert theirs == {"a": hidden, "b": hidden, "c": reasons["c"], "broker": hidden}


def _shown(call: Call, event_id: str, by: dict[str, str] | None) -> list[Any]:
    page = call("GET /v1/events", by=by, query="limit=100").json["data"]
    return [event for event in page if event["id"] == event_id]


def test_pages_of_deliveries_are_consecutive(call: Call, installation: Installation) -> None:
    project = installation.owner.project_id
    types = [Subscription(consumer, "ai.llmariner.test.paged.v1") for consumer in ("a", "b", "c")]
    with installation.context.database.write() as session:
        for number in range(3):
            outbox.add(session, types[0].type, f"x/{number}", {"project_id": project})
    Deliveries(installation.context.database, types).fan_out()
    met: list[tuple[str, str]] = []
    query = "limit=2&state=pending"
    while True:
        page = call("GET /v1/events", query=query).json
        met += [(event["subject"], event["consumer"]) for event in page["data"] if event["type"] == types[0].type]
        if not page["has_more"]:
            break
        query = f"limit=2&state=pending&after={page['data'][-1]['cursor']}"
    assert met == [(f"x/{number}", consumer) for number in (2, 1, 0) for consumer in "abc"]


def names(delivery: Any, model: str) -> bool:
    return bool(delivery.event.data.get("id") == model)
