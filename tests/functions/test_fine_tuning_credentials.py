"""/v1/fine_tuning/credentials: set, listed without secrets, deleted; and jobs with integrations."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete

from llmariner.fine_tuning.tables import fine_tuning_credentials, fine_tuning_jobs
from llmariner.tenancy.keys.store import NewKey

from .conftest import Ask
from .http_calls import HttpRequest, assert_error
from .installation import Installation
from .test_fine_tuning_jobs import training_file

__all__ = ["training_file"]

SERVER = "http://127.0.0.1:9"


@pytest.fixture
def send(ask: Ask, admin: dict[str, str], installation: Installation) -> Any:
    """Send a request: `send("GET")`, as the administrator unless a key is given."""

    def call(method: str, path: str = "", body: Any = None, *, key: str = "", function: str = "credentials") -> Any:
        headers = {"authorization": f"Bearer {key}"} if key else dict(admin)
        return ask(f"fine_tuning_{function}", HttpRequest(method, f"/v1/fine_tuning/{function}{path}", body, headers))

    yield call
    with installation.context.database.write() as session:
        session.run(delete(fine_tuning_credentials))
        session.run(delete(fine_tuning_jobs).where(fine_tuning_jobs.c.id != "ftjob-worker"))


def test_a_secret_is_never_read_back(send: Any, installation: Installation) -> None:
    made = send("POST", body={"type": "mlflow", "secret": "s3cret", "username": "ann"})
    assert made.status == 200, made.body
    assert made.json == {
        "id": made.json["id"],
        "object": "fine_tuning.credential",
        "type": "mlflow",
        "server": SERVER,
        "username": "ann",
        "created_at": made.json["created_at"],
        "updated_at": made.json["updated_at"],
    }
    again = send("POST", body={"type": "mlflow", "secret": "s4cret", "server": SERVER}).json
    assert (again["id"], again["username"]) == (made.json["id"], None)
    listed = send("GET")
    assert listed.json == {"object": "list", "data": [again], "has_more": False}
    assert b'cret"' not in listed.body + made.body
    member = NewKey("reads credentials", frozenset({"api.fine_tuning.jobs.read", "api.fine_tuning.jobs.write"}))
    _, key = installation.context.keys.create(installation.owner, member)
    assert send("GET", key=key).json["data"] == [again]
    assert_error(send("POST", body={"type": "mlflow", "secret": "x"}, key=key), 403, code="insufficient_permissions")
    assert_error(send("DELETE", f"/{again['id']}", key=key), 403, code="insufficient_permissions")
    gone = {"id": again["id"], "object": "fine_tuning.credential.deleted", "deleted": True}
    assert send("DELETE", f"/{again['id']}").json == gone
    assert_error(send("DELETE", f"/{again['id']}"), 404, code="not_found")
    assert_error(send("POST", body={"type": "mlflow", "secret": "a b"}), 400, code="invalid_value")
    not_allowed = {"type": "mlflow", "secret": "s", "server": "http://169.254.169.254"}
    assert_error(send("POST", body=not_allowed), 400, code="tracking_server_not_allowed")


def test_a_job_shows_its_integrations(send: Any, training_file: str) -> None:
    body = {"model": "tiny", "training_file": training_file}

    def create(*integrations: dict[str, Any]) -> Any:
        return send("POST", body={**body, "integrations": list(integrations)}, function="jobs")

    said: dict[str, Any] = {"type": "mlflow", "mlflow": {"experiment": "e", "tags": {"team": "a"}}}
    made = create(said)
    assert made.status == 200, made.body
    shown = {"type": "mlflow", "mlflow": {**said["mlflow"], "run_name": None, "tracking_uri": None}}
    assert made.json["integrations"] == [shown]
    assert send("GET", f"/{made.json['id']}", function="jobs").json["integrations"] == [shown]
    refused: dict[str, dict[str, Any]] = {
        "integrations[0].mlflow": {"type": "mlflow"},
        "integrations[0].type": {"type": "comet"},
        "integrations[0].mlflow.experiment": {"type": "mlflow", "mlflow": {"run_name": "r"}},
        "integrations[0].mlflow.tags": {
            "type": "mlflow",
            "mlflow": {"experiment": "e", "tags": {"mlflow.user": "root"}},
        },
        "integrations[0].mlflow.url": {"type": "mlflow", "mlflow": {"experiment": "e", "url": "http://x"}},
        "integrations": {"type": "mlflow", "mlflow": {"experiment": "e", "tracking_uri": "http://169.254.169.254"}},
    }
    for param, integration in refused.items():
        answer = create(integration)
        assert answer.status == 400, answer.body
        assert answer.error["param"].replace(".0.", "[0].") == param, answer.error
