"""Errors have OpenAI's format: a status before the first byte, and an event of the stream after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .caller import Answer, chat
from .running_platform import Platform, soon

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("errors", "--tokens", "3")
    asyncio.run(platform.caller.chat(name))
    return name


def refused(answer: Answer, status: int, code: str | None, **more: Any) -> dict[str, Any]:
    error = answer.error()
    assert (answer.status, error["code"]) == (status, code), error
    assert error.keys() >= {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    assert more.items() <= error.items()
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("engine", "status", "code", "kind"),
    [
        (400, 400, None, "invalid_request_error"),
        (404, 400, None, "invalid_request_error"),
        (422, 400, None, "invalid_request_error"),
        (500, 502, "engine_error", "server_error"),
        (503, 503, "service_unavailable", "server_error"),
        (429, 503, "service_unavailable", "server_error"),
    ],
)
def test_engine_errors_are_rephrased(
    platform: Platform, model: str, engine: int, status: int, code: str | None, kind: str, stream: bool
) -> None:
    body = chat(model, stream=stream, x_script={"fail_status": engine})
    answer = asyncio.run(platform.caller.call(PATH, body))
    refused(answer, status, code, type=kind)
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["status"]) == ("rejected" if status < 500 else "failed", status)
    assert row["completion_tokens"] == 0


def test_an_overloaded_engines_error_has_retry_after(platform: Platform, model: str) -> None:
    answer = asyncio.run(platform.caller.chat(model, x_script={"fail_status": 503}))
    assert int(answer.headers["retry-after"]) >= 1


def test_the_engines_message_reaches_the_client_with_its_field(platform: Platform, model: str) -> None:
    answer = asyncio.run(platform.caller.chat(model, x_script={"fail_statsu": 1}))
    error = refused(answer, 400, None, param="x_script")
    assert "fail_statsu" in error["message"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"model":"errors"}', "missing_required_parameter", "messages"),
        (b'{"messages":[{"role":"user","content":"x"}]}', "missing_required_parameter", "model"),
        (b'{"model":"errors","messages":[]}', "empty_array", "messages"),
        (b'{"model":"errors","messages":[{"content":"x"}]}', "missing_required_parameter", "messages[0].role"),
        (
            b'{"model":"errors","messages":[{"role":"user","content":"x"}],"temperature":3}',
            "invalid_value",
            "temperature",
        ),
        (b'{"model":"errors","messages":[{"role":"user","content":"x"}],"n":"1"}', "invalid_type", "n"),
        (b'{"model":"errors","messages":' + b"[" * 200 + b"]" * 200 + b"}", "nesting_too_deep", None),
        (b'{"model":"errors","messages":[{"role":"user","content":[7]}]}', "invalid_type", "messages[0].content[0]"),
        (
            b'{"model":"errors","messages":[{"role":"user","content":[{"type":"text","text":7}]}]}',
            "invalid_type",
            "messages[0].content[0].text",
        ),
        (b'{"model":"\xff"}', "invalid_json", None),
    ],
)
def test_an_invalid_request_never_reaches_the_engine(
    platform: Platform, model: str, body: bytes, code: str, param: str | None
) -> None:
    read = platform.engine(model).metric("vllm:prompt_tokens_total")
    refused(asyncio.run(platform.caller.call(PATH, body)), 400, code, param=param)
    assert platform.engine(model).metric("vllm:prompt_tokens_total") == read


def test_authentication_and_authorization_come_first(platform: Platform, model: str) -> None:
    async def statuses() -> list[Answer]:
        call = platform.caller.call
        return [
            await call(PATH, chat(model), headers={"authorization": "Bearer sk-wrong"}),
            await call(PATH, chat(model), headers={"authorization": "Basic x"}),
            await call(PATH, chat("nowhere")),
            await call(PATH, chat(model), headers={"content-type": "text/plain"}),
            await call(PATH, b" " * (9 << 20)),
            await call(PATH),
            await call("/v1/chat/completion", chat(model)),
        ]

    wrong, scheme, unknown, media, large, method, url = asyncio.run(statuses())
    refused(wrong, 401, "invalid_api_key")
    refused(scheme, 401, "invalid_api_key")
    refused(unknown, 404, "model_not_found", param="model")
    refused(media, 415, "unsupported_media_type")
    refused(large, 413, "request_too_large")
    assert (method.status, method.headers["allow"]) == (405, "POST")
    assert (url.status, url.error()["code"]) == (404, "unknown_url")


def test_another_projects_model_is_not_found(platform: Platform) -> None:
    other_tenant = platform.tenant("other_project")
    name = platform.model("private", project_id=platform.owner.project_id)
    assert asyncio.run(platform.caller.chat(name)).status == 200
    refused(asyncio.run(other_tenant.chat(name)), 404, "model_not_found")


def test_an_embedding_model_rejects_chat(platform: Platform) -> None:
    name = platform.model("silent", task="embed")
    refused(asyncio.run(platform.caller.chat(name)), 400, "unsupported_model", param="model")
    assert platform.engines(name) == []


def test_an_engine_crash_mid_stream_ends_the_stream_with_an_error(platform: Platform) -> None:
    name = platform.model("dying", "--tokens", "50")
    body = chat(name, stream=True, x_script={"crash_after_tokens": 7, "token_interval_ms": 10})
    answer = asyncio.run(platform.caller.call(PATH, body))
    assert answer.status == 200
    *chunks, error = answer.events()
    assert error["error"]["code"] == "engine_error"
    assert error["error"].keys() >= {"message", "type", "param", "code"}
    # The engine writes its last token and dies before or after it leaves the process: six or seven were delivered.
    seen = sum(bool(chunk["choices"][0]["delta"]["content"]) for chunk in chunks)
    assert seen in (6, 7)
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["status"], row["completion_tokens"]) == ("failed", 502, seen)
    assert row["prompt_tokens"] == 3


def test_a_request_is_retried_once_if_its_engine_crashes_before_the_first_byte(platform: Platform) -> None:
    name = platform.model("reborn", "--tokens", "3", "--crash-after-tokens", "1")

    async def scenario() -> Answer:
        open_ = await platform.caller.open(PATH, chat(name, x_script={"delay_ms": 500}))
        await soon(lambda: platform.engines(name))
        platform.script(name, "--tokens", "3")
        return await open_.read()

    answer = asyncio.run(scenario())
    assert (answer.status, answer.json()["usage"]["completion_tokens"]) == (200, 3)
    assert len(platform.engines(name)) == 2
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["completion_tokens"]) == ("succeeded", 3)


def test_a_request_that_crashes_two_engines_is_502_and_reaches_no_third(platform: Platform) -> None:
    name = platform.model("deadly")
    answer = asyncio.run(platform.caller.chat(name, x_script={"crash_after_tokens": 1}))
    refused(answer, 502, "engine_error", type="server_error")
    assert len(platform.engines(name)) == 2
    assert platform.row(answer.headers["x-request-id"])["outcome"] == "failed"


def test_a_model_put_to_sleep_between_requests_is_woken(platform: Platform) -> None:
    name = platform.model("drowsy", "--tokens", "2")

    async def scenario() -> list[int]:
        first = await platform.caller.chat(name)
        slept = await platform.caller.call(f"/v1/models/{name}:deactivate", {})
        second = await platform.caller.chat(name)
        return [first.status, slept.status, second.status]

    assert asyncio.run(scenario()) == [200, 200, 200]
    assert len(platform.engines(name)) == 2


def test_a_model_with_a_crashed_engine_is_woken(platform: Platform) -> None:
    name = platform.model("shot", "--tokens", "2")
    assert asyncio.run(platform.caller.chat(name)).status == 200
    platform.engine(name).kill()
    assert asyncio.run(platform.caller.chat(name)).status == 200
    assert len(platform.engines(name)) == 2
