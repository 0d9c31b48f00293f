"""Lone surrogates are rejected in any field of any body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Ask
from .declared_routes import TOKEN_PATH
from .http_calls import HttpRequest, assert_error
from .installation import Installation
from .test_bodies import BODIES, send, with_ids

__all__ = ["send"]

_FUNCTIONS = {route: body for route, (name, body) in BODIES.items() if name not in TOKEN_PATH}


def broken(body: Any) -> Iterator[Any]:
    """The body with each of its texts broken in turn, at any depth."""
    if isinstance(body, str):
        yield "\ud800" + body
        yield body + "\udfff"
    for at in body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ():
        for value in broken(body[at]):
            copy = body.copy()
            copy[at] = value
            yield copy


@pytest.mark.parametrize("route", BODIES)
def test_a_lone_surrogate_is_rejected_in_every_field(route: str, send: Any) -> None:
    for body in [*broken(BODIES[route][1]), {"name": "\ud800"}, {"\udc00": 1}]:
        raw = json.dumps(body).encode()
        answer = send(route, raw)
        assert answer.status == 400, (body, answer.body)
        assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("route", _FUNCTIONS)
def test_a_surrogate_pair_is_a_character(
    route: str, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    method, path = with_ids(route, installation).split()
    body = b'{"no_such_field": "\\ud83d\\ude00"}'
    answer = ask(BODIES[route][0], HttpRequest(method, path, body, admin))
    assert "surrogate" not in answer.body.decode()


def test_a_lone_surrogate_is_rejected_before_authentication(ask: Ask) -> None:
    raw = b'{"token": "inv-\\ud800"}'
    answer = ask("invitations", HttpRequest("POST", "/v1/invitations:accept", raw))
    assert_error(answer, 400, "invalid_json")
    assert answer.error["param"] == "token"
