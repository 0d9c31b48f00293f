"""An engine's error becomes one sentence, with the field under OpenAI's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmariner.errors import EngineFailed, InvalidRequest, ModelNotFound, Unavailable
from llmariner.gateway.responses.engine_errors import engine_error

UNION = (
    "19 validation errors:\n"
    "  {'type': 'string_type', 'loc': 'body.messages.0.content', 'msg': 'Input should be a valid string', 'input': 7}\n"
    "  {'type': 'list_type', 'loc': 'body.messages.0.content', 'msg': 'Input should be a valid list', 'input': 7}\n"
    "  ...and 17 more errors"
)
PRINTED = """4 validation errors for ValidatorIterator
0.ChatCompletionContentPartTextParam
  Input should be a valid dictionary [type=dict_type, input_value=7, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/dict_type
0.ChatCompletionContentPartImageParam
  Input should be a valid dictionary [type=dict_type, input_value=7, input_type=int]"""
QUOTED = """1 validation error:
  {'type': 'value_error', 'loc': 'body', 'msg': "Value error, `top_k` can't be -7.", 'input': '<dict of 3 items>'}"""


def translate(status: int, **error: Any) -> tuple[type[Exception], str, str | None, str | None]:
    found = engine_error(status, json.dumps({"error": error}).encode(), "m")
    return type(found), found.message, found.param, found.code


@pytest.mark.parametrize(
    ("message", "param", "said", "name"),
    [
        (
            UNION,
            "body.messages.0.content",
            "Invalid 'messages[0].content': Input should be a valid string (the first of 19 errors).",
            "messages[0].content",
        ),
        (PRINTED, None, "Input should be a valid dictionary (the first of 4 errors).", None),
        (QUOTED, "body", "`top_k` can't be -7.", None),
        ("The prompt is empty.", None, "The prompt is empty.", None),
        ("A tool lacks a name.", "tools.1.function.name", "A tool lacks a name.", "tools[1].function.name"),
        ("Too small.", "max_tokens", "Too small.", "max_tokens"),
    ],
)
def test_an_engine_error_becomes_one_sentence(message: str, param: str | None, said: str, name: str | None) -> None:
    assert translate(400, message=message, param=param) == (InvalidRequest, said, name, None)


def test_fastapis_error_format_is_parsed() -> None:
    detail = [{"loc": ["body", "input", 3], "msg": "Field required", "type": "missing"}]
    found = engine_error(422, json.dumps({"detail": detail}).encode(), "m")
    assert (found.message, found.param) == ("Invalid 'input[3]': Field required.", "input[3]")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"message": "The model `m` does not exist.", "param": "model"}, ModelNotFound, "model_not_found"),
        ({"message": "Not Found"}, InvalidRequest, "unsupported_model"),
        ({}, InvalidRequest, "unsupported_model"),
        ({"message": "There is nothing at https://images/x.png."}, InvalidRequest, None),
    ],
)
def test_only_a_model_missing_in_the_engine_is_reported_as_not_found(
    error: dict[str, Any], kind: type, code: str | None
) -> None:
    found = engine_error(404, json.dumps({"error": error}).encode(), "m")
    assert (type(found), found.code) == (kind, code)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, EngineFailed), (429, Unavailable), (500, EngineFailed), (501, InvalidRequest), (503, Unavailable)],
)
def test_platform_faults_are_not_reported_as_client_errors(status: int, kind: type) -> None:
    assert translate(status, message="words")[0] is kind


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'{"error": null}',
        b'{"error": "words"}',
        b'{"error": {"message": 5, "param": 7}}',
        b'{"detail": []}',
        b'{"detail": [7]}',
        b'{"detail": [{"loc": 1}]}',
        b'{"error": {"message": "3 validation errors", "param": "...0..body"}}',
        b"\xff" * 2000,
    ],
)
def test_any_other_body_is_an_error(body: bytes) -> None:
    for status in (400, 404, 422, 500, 999):
        assert engine_error(status, body, "m").body()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "No.", "param": "a." * 400_000}},
        {"error": {"message": {"a": [1.5] * 150_000}}},
        {"error": [1.5] * 150_000},
        {"detail": [{"loc": list(range(100_000)), "msg": ["No."] * 100_000}]},
        {"detail": [{"loc": [["a" * 800_000]], "msg": "No."}]},
    ],
)
def test_an_error_of_a_megabyte_is_truncated(body: dict[str, Any]) -> None:
    found = engine_error(400, json.dumps(body).encode(), "m")
    assert len(json.dumps(found.body())) < 3000
