"""People on the token path: a model responds as long as the sign-in and the membership are valid."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.members.memberships import Members

from .issuer import RunningIssuer
from .served_platform import ServedPlatform

_processes = importlib.import_module("..functions.processes", __package__)


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[RunningIssuer]:
    with RunningIssuer(tmp_path) as running:
        yield running


@pytest.fixture
def served(issuer: RunningIssuer, tmp_path: Path) -> Iterator[ServedPlatform]:
    """With one model, and alice a member of the default project by her group."""
    with _processes.process(_processes.engine_command(), {}, tmp_path / "engine.log") as port:
        static = f'{{"tiny": "http://127.0.0.1:{port}"}}'
        with ServedPlatform(tmp_path, issuer.url, LLMARINER_SERVING_STATIC=static) as running:
            registry = running.context.registry
            registry.create(NewModel("tiny", SourceRepository.LOCAL, "/weights/tiny"))
            registry.mark_loaded("tiny", folder="/weights/tiny", size_bytes=1, task=Task.GENERATE)
            owner = running.context.authenticator.caller_for_user(running.owner.user_id)
            mapping = {"issuer": issuer.url, "group": "staff", "role": "member", "project_id": running.owner.project_id}
            GroupRoles(running.context.database).create(owner, **mapping)
            yield running


def chat(served: ServedPlatform, token: str, **headers: str) -> Any:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "say it"}], "max_tokens": 3}
    said = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx2.post(f"{served.url}/chat/completions", json=body, headers=said, trust_env=False, timeout=30)


def test_a_signed_in_person_gets_a_response(served: ServedPlatform, issuer: RunningIssuer) -> None:
    answer = chat(served, issuer.token())
    assert answer.status_code == 200, answer.text
    assert chat(served, issuer.token(), openai_project="Default Project").status_code == 200
    refused = chat(served, issuer.token(), openai_project="Others")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
    refused = chat(served, issuer.token(aud="other"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")


def test_the_audit_log_has_the_client_address_of_sign_ins_and_rejections(
    served: ServedPlatform, issuer: RunningIssuer
) -> None:
    chat(served, issuer.token(aud="other"))
    chat(served, issuer.token())
    acts = httpx2.get(
        f"{served.url}/organization/audit_logs?event_types[]=login.failed&event_types[]=login.succeeded",
        headers={"authorization": f"Bearer {served.admin_key}"},
        trust_env=False,
    ).json()["data"]
    assert [act["type"] for act in acts] == ["login.succeeded", "login.failed"]
    assert {act["actor"]["session"]["ip_address"] for act in acts} == {"127.0.0.1"}
    assert acts[1]["login.failed"]["error_code"] == "invalid_token"


def test_headers_that_contradict_the_key_are_rejected(served: ServedPlatform) -> None:
    for headers in ({}, {"openai_organization": "Default Organization"}, {"openai_project": served.owner.project_id}):
        assert chat(served, served.admin_key, **headers).status_code == 200
    for kind in ("organization", "project"):
        refused = chat(served, served.admin_key, **{f"openai_{kind}": "Others"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, f"mismatched_{kind}")


def test_a_cached_token_expires(served: ServedPlatform, issuer: RunningIssuer) -> None:
    token = issuer.token(exp=int(time.time()) + 3)
    assert chat(served, token).status_code == 200
    time.sleep(3.1)
    refused = chat(served, token)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_expired")
    assert "llma auth login" in refused.json()["error"]["message"]


def test_a_cached_token_works_without_the_issuer_and_ends_with_the_membership(
    served: ServedPlatform, issuer: RunningIssuer
) -> None:
    token = issuer.token()
    assert chat(served, token).status_code == 200
    issuer.stop()
    assert chat(served, token).status_code == 200
    context = served.context
    with context.database.read() as session:
        from llmariner.tenancy.members.memberships import person_id_by_email

        alice = person_id_by_email(session, "alice@example.org")
    assert alice is not None
    Members(context.database).remove(context.authenticator.caller_for_user(served.owner.user_id), alice)
    started = time.monotonic()
    while chat(served, token).status_code == 200:
        assert time.monotonic() - started < 5
        time.sleep(0.1)
    time.sleep(6)  # longer than a sign-in is remembered
    assert chat(served, token).status_code == 403, "the group in the token does not bring them back"


def test_a_cached_token_ends_with_its_groups_role(served: ServedPlatform, issuer: RunningIssuer) -> None:
    token = issuer.token()
    assert chat(served, token).status_code == 200
    mappings, owner = (
        GroupRoles(served.context.database),
        served.context.authenticator.caller_for_user(served.owner.user_id),
    )
    (mapped,) = mappings.of_organization(served.owner.organization_id)
    mappings.delete(owner, mapped.id)
    started = time.monotonic()
    while chat(served, token).status_code == 200:
        assert time.monotonic() - started < 5
        time.sleep(0.1)
    for _ in range(3):
        assert chat(served, token).status_code == 403
        time.sleep(0.5)
