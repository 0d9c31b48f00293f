"""Errors: the tree in the module's docstring, their JSON form, and when to retry."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import llmariner.errors
from llmariner.errors import (
    BodyTooLarge,
    Conflict,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    PlatformError,
    RateLimited,
    Unavailable,
    UnknownUrl,
    WaitingRoomFull,
)
from llmariner.gateway.control_plane.port import ModelState
from llmariner.gateway.responses.engine_errors import engine_error
from llmariner.gateway.state import model_not_ready

TYPES = {"invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"}


def classes() -> list[type[PlatformError]]:
    found = [getattr(llmariner.errors, name) for name in llmariner.errors.__all__]
    assert all(issubclass(kind, PlatformError) for kind in found)
    return found


def drawn() -> dict[str, int]:
    """Name and status of each error in the module's drawing."""
    text = llmariner.errors.__doc__ or ""
    return {name: int(status) for name, status in re.findall(r"[├└]── (\w+)\s+(\d{3})", text)}


def test_the_documented_tree_matches_the_classes() -> None:
    assert drawn() == {kind.__name__: kind.status for kind in classes() if kind is not PlatformError}


def test_children_are_below_their_parents_in_the_documented_tree() -> None:
    lines = (llmariner.errors.__doc__ or "").splitlines()
    parent = ""
    for line in lines:
        if match := re.match(r"    (│   |    )?[├└]── (\w+)", line):
            nested, name = bool(match[1]), match[2]
            kind = getattr(llmariner.errors, name)
            assert kind.__bases__ == ((getattr(llmariner.errors, parent),) if nested else (PlatformError,))
            parent = parent if nested else name


def test_every_error_has_its_own_status_type_and_code() -> None:
    for kind in classes():
        assert kind.type in TYPES
        assert (kind.type == "server_error") == (kind.status >= 500)
    codes = [kind.code for kind in classes() if kind.code is not None]
    assert sorted(set(codes)) == sorted(codes)


def test_a_body_is_openais_error_object() -> None:
    error = InvalidRequest("'n' is wrong.", param="n", code="invalid_value")
    expected = {"message": "'n' is wrong.", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    assert error.body() == {"error": expected}
    assert str(error) == "'n' is wrong."


def test_a_body_has_its_four_keys_with_nulls() -> None:
    body = PlatformError("Something broke.").body()
    assert body == {"error": {"message": "Something broke.", "type": "server_error", "param": None, "code": None}}
    json.dumps(body)


def test_details_are_beside_the_four_keys() -> None:
    error = ModelNotReady("Not yet.", param="model", details={"phase": "loading", "progress": 0.5})
    assert error.body()["error"] | {} == {
        "message": "Not yet.",
        "type": "server_error",
        "param": "model",
        "code": "model_not_ready",
        "phase": "loading",
        "progress": 0.5,
    }


def test_a_code_of_one_error_does_not_change_its_class() -> None:
    assert NotFound("x", code="other").code == "other"
    assert NotFound("x").code == "not_found"


def test_headers_and_details_belong_to_one_error() -> None:
    headers = {"retry-after": "1"}
    error = Unavailable("x", headers=headers)
    error.headers["x"] = "y"
    assert headers == {"retry-after": "1"}
    assert Unavailable("x").headers == {}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ModelNotFound("gpt-9"), 404, "`gpt-9`"),
        (UnknownUrl("GET", "/v2"), 404, "GET /v2"),
        (MethodNotAllowed("PUT", "/v1/models", "GET, POST"), 405, "Allowed: GET, POST"),
        (BodyTooLarge("Too large."), 413, "Too large."),
        (WaitingRoomFull("Full."), 429, "Full."),
    ],
)
def test_an_error_states_its_subject(error: PlatformError, status: int, said: str) -> None:
    assert error.status == status
    assert said in error.message


def test_an_unsupported_method_lists_the_allowed_ones() -> None:
    assert MethodNotAllowed("PUT", "/x", "GET, POST").headers == {"allow": "GET, POST"}


def test_a_conflict_is_not_retryable() -> None:
    assert Conflict("x").headers == {"x-should-retry": "false"}


def test_a_full_waiting_room_is_a_rate_limit() -> None:
    assert issubclass(WaitingRoomFull, RateLimited)
    assert WaitingRoomFull("x").body()["error"]["code"] == "waiting_room_full"


VLLM = {"error": {"message": "bad top_k", "type": "BadRequestError", "param": "top_k", "code": 400}}
LONG = "This model's maximum context length is 10 tokens, see max_model_len."
ENGINE: list[tuple[str, int, Any, int, str | None, str | None, str]] = [
    ("a vLLM error", 400, VLLM, 400, None, "top_k", "bad top_k"),
    ("a context that is too long", 400, {"message": LONG}, 400, "context_length_exceeded", None, "max_model_len"),
    ("an older shape", 422, {"detail": "wrong"}, 400, None, None, "wrong"),
    ("a list of details", 422, {"detail": [{"loc": ["body"]}]}, 400, None, None, "refused"),
    ("an unknown model", 404, {"error": {"message": "x", "param": "model"}}, 404, "model_not_found", "model", "`m`"),
    ("overload", 429, VLLM, 503, "service_unavailable", None, "bad top_k"),
    ("not ready", 503, {}, 503, "service_unavailable", None, "overloaded"),
    ("a crash", 500, {"error": {"message": "CUDA error at 0x7f"}}, 502, "engine_error", None, "failed"),
    ("an empty refusal", 400, {}, 400, None, None, "refused"),
    ("a string", 400, "no", 400, None, None, "refused"),
    ("an error that is a string", 400, {"error": "no"}, 400, None, None, "no"),
    ("a param that is none", 400, {"error": {"message": "no", "param": 7}}, 400, None, None, "no"),
]


@pytest.mark.parametrize(
    ("_name", "status", "body", "ours", "code", "param", "said"), ENGINE, ids=[r[0] for r in ENGINE]
)
def test_an_engine_error_becomes_a_platform_error(
    _name: str, status: int, body: Any, ours: int, code: str | None, param: str | None, said: str
) -> None:
    error = engine_error(status, json.dumps(body).encode(), "m")
    assert (error.status, error.code, error.param) == (ours, code, param)
    assert said in error.message


def test_an_engine_crash_has_no_internal_details() -> None:
    error = engine_error(500, json.dumps({"error": {"message": "CUDA error at 0x7f"}}).encode(), "m")
    assert "CUDA" not in error.message


def test_an_engine_response_that_is_not_json_is_quoted_in_part() -> None:
    error = engine_error(400, b"\xff<html>" + b"x" * 10_000, "m")
    assert error.message.startswith("\ufffd<html>")
    assert len(error.message) <= 500


def test_an_overloaded_engine_has_retry_after() -> None:
    assert engine_error(503, b"{}", "m").headers == {"retry-after": "1"}


def state(estimate: float | None, message: str = "") -> ModelState:
    return ModelState("m", None, "generate", True, True, "loading", 0.25, estimate, message, None, 0, 0)


@pytest.mark.parametrize(
    ("estimate", "again"), [(None, "6"), (0.0, "6"), (0.2, "1"), (7.9, "8"), (59.0, "60"), (1e6, "60")]
)
def test_a_model_that_is_not_ready_has_retry_after(estimate: float | None, again: str) -> None:
    error = model_not_ready(state(estimate), "Not yet")
    assert error.headers == {"retry-after": again}
    assert error.details == {"phase": "loading", "progress": 0.25, "estimate_seconds": estimate}
    assert (error.status, error.param, error.message) == (503, "model", "Not yet.")


def test_a_model_that_is_not_ready_has_a_cause_if_available() -> None:
    assert model_not_ready(state(1.0, "Not enough memory."), "It failed").message == "It failed: Not enough memory."
    assert model_not_ready(None, "It failed").details["phase"] == "unknown"
