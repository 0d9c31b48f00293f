"""`llma admin audit`: the message for a log that was tampered with, and the display of every kind of actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

VERIFY, LIST = "GET /organization/audit_logs:verify", "GET /organization/audit_logs"
BROKEN = {"whole": False, "entries": 3, "head": "ab" * 32, "broken_at": "audit_log_4", "reason": "it was changed"}


def test_a_modified_log_fails_the_command_and_names_the_entry(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(VERIFY, BROKEN)
    result = llma("admin", "audit", "verify")
    assert result.code == 1
    assert "written: 3." in result.out
    assert "audit_log_4" in result.err
    assert "it was changed" in result.err


def test_a_truncated_log_fails_the_command(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(VERIFY, {**BROKEN, "broken_at": None, "reason": "entries are missing"})
    result = llma("admin", "audit", "verify", "--output", "json")
    assert (result.code, result.json["whole"]) == (1, False)
    assert "the chain: entries are missing" in result.err


ACTORS: dict[str, tuple[dict[str, Any], str]] = {
    "a person": ({"type": "session", "session": {"user": {"id": "user_1", "email": "bo@x.org"}}}, "bo@x.org"),
    "a service account": (
        {"type": "api_key", "api_key": {"id": "key_7", "service_account": {"id": "user_9"}}},
        "user_9 (key_7)",
    ),
    "the platform": ({"type": "session", "session": {"user": {"id": "platform", "email": None}}}, "platform"),
}


@pytest.mark.parametrize(("actor", "shown"), ACTORS.values(), ids=ACTORS)
def test_the_actor_is_shown(llma: Llma, platform: FakePlatform, actor: dict[str, Any], shown: str) -> None:
    platform.respond(LIST, {"data": [{"id": "a", "type": "user.added", "actor": actor, "effective_at": 1}]})
    assert shown in llma("admin", "audit", "list").out


def test_an_empty_log_is_reported(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(LIST, {"data": []})
    assert "Nothing was done." in llma("admin", "audit", "list").err


def test_days_become_a_timestamp(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(LIST, {"data": []})
    llma("admin", "audit", "list", "--days", "2")
    assert int(platform.requests[-1].query["effective_at[gte]"]) > 1_700_000_000
