"""Restrictions of keys by model, project and network on the token path."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES
from llmariner.tenancy.tables import projects

from .caller import Answer, Caller
from .running_platform import Platform, eventually, running


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("for-callers", "--tokens", "1")
    asyncio.run(platform.caller.chat(name))
    return name


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    """A platform that believes this machine's X-Forwarded-For."""
    proxies = {"TRUSTED_PROXIES": "127.0.0.0/8, 10.0.0.0/8"}
    with running(tmp_path_factory.mktemp("behind"), database, **proxies) as found:
        yield found


def restricted(platform: Platform, name: str, **fields: Any) -> Caller:
    new = NewKey(name=name, scopes=OWNER_SCOPES, **fields)
    return Caller(platform.port, platform.context.keys.create(platform.owner, new)[1])


def chat(caller: Caller, model: str, **headers: str) -> Answer:
    return asyncio.run(caller.chat(model, headers={name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize("what", ["organization", "project"])
def test_a_key_works_in_its_own_organization_and_project_only(platform: Platform, model: str, what: str) -> None:
    own, title = getattr(platform.owner, f"{what}_id"), f"Default {what.capitalize()}"
    for name in (own, title):
        assert chat(platform.caller, model, **{f"openai_{what}": name}).status == 200
    for _ in range(2):
        refused = chat(platform.caller, model, **{f"openai_{what}": "another"})
        assert (refused.status, refused.error()["code"]) == (401, f"mismatched_{what}")
    assert chat(platform.caller, model).status == 200


def test_a_key_of_one_model_is_rejected_for_others(platform: Platform, model: str) -> None:
    caller = restricted(platform, "one model", allowed_models=("for-callers",))
    other = platform.model("not-for-callers", "--tokens", "1")
    assert chat(caller, model).status == 200
    refused = chat(caller, other)
    assert (refused.status, refused.error()["code"], refused.error()["param"]) == (403, "model_not_allowed", "model")
    assert chat(caller, "nowhere").status == 404
    assert platform.engines(other) == []


@pytest.mark.parametrize(("mode", "statuses"), [("allow", (200, 403)), ("deny", (403, 200))])
def test_a_projects_model_restriction_applies_to_its_keys(
    platform: Platform, model: str, mode: str, statuses: tuple[int, int]
) -> None:
    other = platform.model(f"other-than-{mode}", "--tokens", "1")
    caller = platform.tenant(f"lists-{mode}")
    with platform.context.database.write() as session:
        session.run(
            update(projects)
            .where(projects.c.id == f"proj_lists-{mode}")
            .values(model_mode=mode, model_ids=f'["{model}"]')
        )
    assert (chat(caller, model).status, chat(caller, other).status) == statuses


def test_a_key_of_a_network_is_rejected_elsewhere(platform: Platform, model: str) -> None:
    here = restricted(platform, "here", allowed_sources=("127.0.0.0/8", "::1/128"))
    elsewhere = restricted(platform, "elsewhere", allowed_sources=("192.0.2.0/24",))
    assert chat(here, model).status == 200
    # The peer is not a trusted proxy.
    for headers in ({}, {"x_forwarded_for": "192.0.2.7"}):
        refused = chat(elsewhere, model, **headers)
        assert (refused.status, refused.error()["code"]) == (403, "source_not_allowed")
        assert "127.0.0.1" in refused.error()["message"]


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("192.0.2.7", 200),
        ("192.0.2.7, 10.1.2.3", 200),
        # What a caller claims stands before what our own Gateway saw.
        ("192.0.2.7, 198.51.100.9", 403),
        ("192.0.2.7, 198.51.100.9, 10.1.2.3", 403),
        ("::ffff:192.0.2.7", 200),
        ("nonsense", 403),
        ("", 403),
    ],
)
def test_a_trusted_gateway_forwards_the_client_address(behind_proxy: Platform, forwarded: str, status: int) -> None:
    name = behind_proxy.model(f"from-{abs(hash(forwarded))}", "--tokens", "1")
    caller = restricted(behind_proxy, name, allowed_sources=("192.0.2.0/24",))
    assert chat(caller, name, x_forwarded_for=forwarded).status == status


def test_a_changed_restriction_applies_within_five_seconds(platform: Platform, model: str) -> None:
    new = NewKey(name="narrowed", scopes=OWNER_SCOPES)
    key, secret = platform.context.keys.create(platform.owner, new)
    caller = Caller(platform.port, secret)
    assert chat(caller, model).status == 200
    platform.context.keys.update(platform.owner, key.id, allowed_models=("another",))
    assert eventually(lambda: chat(caller, model).status == 403, what="the refusal") < 5
