"""An answer that is too large to be passed on was computed all the same: it is paid for, and not computed once more."""

from __future__ import annotations

import asyncio

import pytest

from .caller import Answer, chat
from .running_platform import Platform

PATH = "/v1/chat/completions"


def answered(platform: Platform, **fields: object) -> Answer:
    name = fields.pop("model")
    assert isinstance(name, str)
    answer = asyncio.run(platform.caller.call(PATH, chat(name, max_tokens=7, **fields)))
    assert answer.body
    return answer


@pytest.fixture(scope="module")
def large(platform: Platform) -> str:
    name = platform.model("large-answers")
    asyncio.run(platform.caller.chat(name, max_tokens=1))
    return name


@pytest.mark.parametrize(("stream", "size"), [(False, 70_000_000), (True, 3_000_000)])
def test_a_response_over_the_size_limit_is_charged(platform: Platform, large: str, stream: bool, size: int) -> None:
    before = platform.engine(large).tokens
    answer = answered(
        platform, model=large, stream=stream, x_script={"huge_chunk_bytes": size, "token_interval_ms": 20}
    )
    error = answer.events()[-1]["error"] if stream else answer.error()
    assert error["code"] == "engine_error"
    assert "too large" in error["message"]
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["prompt_tokens"]) == ("failed", 3)
    assert 1 <= row["completion_tokens"] <= 7
    assert platform.engine(large).tokens - before == row["completion_tokens"], "it was computed once"


def test_a_response_without_buffer_space_is_charged(hurried: Platform) -> None:
    name = hurried.model("no-room")
    asyncio.run(hurried.caller.chat(name, max_tokens=1))
    answer = answered(hurried, model=name, x_script={"huge_chunk_bytes": 8_000_000})
    assert (answer.status, "large answers" in answer.error()["message"]) == (503, True)
    row = hurried.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("failed", 3, 7)
