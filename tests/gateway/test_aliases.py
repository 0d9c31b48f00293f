"""Aliases on the token path: which model answers, what is recorded, and how soon a move is in force."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.principal import Caller as Person
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .caller import Answer, Caller
from .running_platform import Platform, eventually


@pytest.fixture(scope="module")
def person(platform: Platform) -> Person:
    """Who moves the aliases of the default project."""
    for name in ("aliased-a", "aliased-b"):
        platform.model(name, "--tokens", "1")
    return platform.context.authenticator.caller_for_user(platform.owner.user_id)


def chat(caller: Caller, model: str, *, stream: bool = False) -> Answer:
    return asyncio.run(caller.chat(model, stream=stream))


def models_of(answer: Answer) -> set[str]:
    """The model that each chunk of a stream, or a whole answer, names."""
    if answer.body.startswith(b"data:") or answer.body.startswith(b":"):
        lines = [line[6:] for line in answer.body.splitlines() if line.startswith(b"data: {")]
    else:
        lines = [answer.body]
    return {json.loads(line)["model"] for line in lines}


def test_an_alias_answers_as_its_model_and_is_moved_within_seconds(platform: Platform, person: Person) -> None:
    aliases = platform.context.model_aliases
    assert chat(platform.caller, "support-bot").status == 404
    aliases.create(person, "support-bot", "aliased-a", "")
    eventually(lambda: chat(platform.caller, "support-bot").status == 200, what="the alias")
    for stream in (False, True):
        answer = chat(platform.caller, "support-bot", stream=stream)
        assert (answer.status, models_of(answer)) == (200, {"aliased-a"})
        assert platform.row(answer.headers["x-request-id"])["model"] == "aliased-a"
    aliases.move(person, "support-bot", "aliased-b", "")
    moved = eventually(lambda: models_of(chat(platform.caller, "support-bot")) == {"aliased-b"}, what="the move")
    assert moved < 8
    aliases.delete(person, "support-bot")
    eventually(lambda: chat(platform.caller, "support-bot").status == 404, what="the deletion")


def test_another_projects_alias_is_no_model(platform: Platform, person: Person) -> None:
    other = platform.tenant("without-aliases")
    platform.context.model_aliases.create(person, "ours-alone", "aliased-a", "")
    eventually(lambda: chat(platform.caller, "ours-alone").status == 200, what="the alias")
    assert chat(other, "ours-alone").status == 404


def test_a_bound_key_gets_what_its_list_names(platform: Platform, person: Person) -> None:
    platform.context.model_aliases.create(person, "listed", "aliased-a", "")

    def bound(name: str) -> Caller:
        new = NewKey(f"bound to {name}", OWNER_SCOPES, allowed_models=(name,))
        return Caller(platform.port, platform.context.keys.create(platform.owner, new)[1])

    by_model, by_other, by_alias = bound("aliased-a"), bound("aliased-b"), bound("listed")
    eventually(lambda: chat(platform.caller, "listed").status == 200, what="the alias")
    assert [chat(caller, "listed").status for caller in (by_model, by_other, by_alias)] == [200, 403, 200]
    assert [chat(by_alias, model).status for model in ("aliased-a", "aliased-b")] == [200, 403]
    platform.context.model_aliases.move(person, "listed", "aliased-b", "")
    eventually(lambda: chat(by_other, "listed").status == 200, what="the move")
    assert [chat(caller, "listed").status for caller in (by_model, by_alias)] == [403, 200]


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":"\\"model\\":\\"spelled\\""}],"model" : "spelled"}',
        b'{"metadata":{"model":"spelled"},"model":"spelled","messages":[{"role":"user","content":"x"}]}',
        b'{"\\u006dodel":"spelled","metadata":{"model":"spelled"},"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"aliased-b","model":"spelled","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"sp\\u0065lled","messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_however_the_field_is_written_the_engine_gets_the_model(
    platform: Platform, person: Person, body: bytes
) -> None:
    aliases = platform.context.model_aliases
    if "spelled" not in aliases.targets(person.key_owner.project_id):
        aliases.create(person, "spelled", "aliased-a", "")
        eventually(lambda: chat(platform.caller, "spelled").status == 200, what="the alias")
    answer = asyncio.run(platform.caller.call("/v1/chat/completions", body))
    assert (answer.status, models_of(answer)) == (200, {"aliased-a"}), answer.body


def test_a_model_that_is_gone_is_not_found_by_its_alias(platform: Platform, person: Person) -> None:
    platform.model("gone-soon", "--tokens", "1")
    platform.context.model_aliases.create(person, "orphan", "gone-soon", "")
    eventually(lambda: chat(platform.caller, "orphan").status == 200, what="the alias")
    platform.context.registry.delete("gone-soon", project_id=None)
    eventually(lambda: chat(platform.caller, "orphan").status == 404, what="the deletion")
