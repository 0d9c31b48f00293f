"""/v1/model_credentials: set, listed without secrets, named by models of the same project and source, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, select

from llmariner.models.tables import model_credentials
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, assert_error
from .installation import Installation

NEW = {"name": "mine", "source_repository": "hugging-face", "secret": "hf_s3cret"}


@pytest.fixture
def send(ask: Ask, admin: dict[str, str], installation: Installation) -> Iterator[Any]:
    """Send a request: `send("GET")`, as the administrator unless a key is given."""

    def call(
        method: str, path: str = "", body: Any = None, *, key: str = "", function: str = "model_credentials"
    ) -> Any:
        headers = {"authorization": f"Bearer {key}"} if key else dict(admin)
        return ask(function, HttpRequest(method, f"/v1/{function}{path}", body, headers))

    yield call
    with installation.context.database.write() as session:
        session.run(delete(model_credentials))


def test_a_secret_is_never_read_back(send: Any, installation: Installation) -> None:
    made = send("POST", body=NEW)
    assert made.status == 200, made.body
    assert made.json == {
        "id": made.json["id"],
        "object": "model_credential",
        "name": "mine",
        "source_repository": "SOURCE_REPOSITORY_HUGGING_FACE",
        "username": None,
        "created_at": made.json["created_at"],
        "updated_at": made.json["updated_at"],
    }
    again = send("POST", body={**NEW, "secret": "hf_s4cret"}).json
    assert again["id"] == made.json["id"]
    listed = send("GET")
    assert again in listed.json["data"]
    assert b'cret"' not in listed.body + made.body
    with installation.context.database.read() as session:
        stored = session.rows(select(model_credentials))
    assert all("s4cret" not in str(row) for row in stored)
    _, key = installation.context.keys.create(
        installation.owner, NewKey("member", frozenset({"api.model.read", "api.model.write"}))
    )
    assert send("GET", key=key).json["data"] == listed.json["data"]
    assert_error(send("POST", body=NEW, key=key), 403, code="insufficient_permissions")
    assert_error(send("DELETE", f"/{again['id']}", key=key), 403, code="insufficient_permissions")
    assert send("DELETE", f"/{again['id']}").json["deleted"]
    assert_error(send("DELETE", f"/{again['id']}"), 404, code="not_found")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "n" * 65}, "name"),
        ({"source_repository": "local"}, "source_repository"),
        ({"source_repository": "kubernetes"}, "source_repository"),
        ({"secret": "a b"}, "secret"),
        ({"secret": ""}, "secret"),
        ({"username": "ann"}, "username"),
        ({"source_repository": "object-store"}, "username"),
        ({"source_repository": "ollama", "username": "a:b"}, "username"),
    ],
)
def test_what_no_source_takes_is_rejected(send: Any, change: dict[str, str], param: str) -> None:
    answer = send("POST", body={**NEW, **change})
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_credential_does_not_change_its_source(send: Any) -> None:
    assert send("POST", body=NEW).status == 200
    answer = send("POST", body={**NEW, "source_repository": "ollama"})
    assert (answer.status, answer.error["param"]) == (400, "name")
    assert "is for HUGGING_FACE" in answer.error["message"]


def test_a_model_names_a_credential_of_its_project_and_source(send: Any, installation: Installation) -> None:
    credential = send("POST", body=NEW).json
    body = {"id": "private/one", "source_repository": "HUGGING_FACE", "credential": "mine", "is_project_scoped": True}
    made = send("POST", body=body, function="models")
    assert made.status == 200, made.body
    assert b"mcred_" not in made.body
    assert installation.context.registry.get("private/one").credential_id == credential["id"]
    for change in ({"credential": "other"}, {"source_repository": "OLLAMA"}):
        answer = send("POST", body={**body, "id": "private/two", **change}, function="models")
        assert (answer.status, answer.error["param"]) == (400, "credential")
        assert "POST /v1/model_credentials" in answer.error["message"]
    installation.context.registry.delete("private/one", project_id=None)
