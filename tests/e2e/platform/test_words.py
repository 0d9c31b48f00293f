"""Messages of the real engine for invalid requests, and usage in its events, as a client sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PATH = "/v1/chat/completions"


def refusal(platform: Platform, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The status and the error of an answer that is one."""
    stream = platform.open(PATH, body)
    error: dict[str, Any] = json.loads(stream.response.read())["error"]
    stream.connection.close()
    return stream.response.status, error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
        ({"top_k": -7}, None),
        ({"tools": [{"type": "function", "function": {"name": 7}}]}, "tools[0].function.name"),
    ],
    ids=["a text that is none", "a part that is none", "a value out of range", "a name that is none"],
)
def test_an_error_is_one_sentence_that_names_openais_field(
    platform: Platform, fields: dict[str, Any], param: str | None
) -> None:
    status, error = refusal(platform, platform.chat_body("hi") | fields)
    print(f"\n{error}")
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "\n" not in error["message"]
    assert "validation error" not in error["message"]
    assert "'loc'" not in error["message"]
    if param is not None:
        assert (error["param"] or "").startswith(param)


def test_usage_is_null_in_all_events_except_the_last(platform: Platform) -> None:
    body = platform.chat_body("hi", stream=True, max_tokens=5, stream_options={"include_usage": True})
    stream = platform.open(PATH, body)
    *events, last = list(stream.events())
    stream.hang_up()
    assert [event["usage"] for event in events] == [None] * len(events)
    assert last["usage"]["completion_tokens"] <= 5


def test_a_circular_schema_is_rejected_before_the_engine_is_called(platform: Platform) -> None:
    described = {"name": "x", "schema": {"$ref": "#"}}
    body = platform.chat_body("hi", response_format={"type": "json_schema", "json_schema": described})
    _, error = refusal(platform, body)
    assert (error["code"], error["param"]) == ("invalid_json_schema", "response_format.json_schema.schema")
