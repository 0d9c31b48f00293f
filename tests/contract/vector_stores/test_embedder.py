"""Embeddings of an engine that is not trusted, over HTTP."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.inference_settings import InferenceSettings
from llmariner.tenancy.background_work import Originator
from llmariner.vector_stores.embedder import Embedder, batches
from llmariner.vector_stores.inference import InferenceClient, InferenceFailed, InferencePaused, InferenceRefused

from .token_path import TOKENS, TokenPath

ONE = Originator("user_1", "proj_1", "org_1")


def embed(token_path: TokenPath, *texts: str, model: str = "m") -> list[Any]:
    embedder = Embedder(token_path.client)
    return [list(vector) for vector in embedder.embed(model, ONE, texts, wait_seconds=1)]


def rows(*vectors: Any) -> bytes:
    return json.dumps({"data": [{"index": index, "embedding": each} for index, each in enumerate(vectors)]}).encode()


def packed(*values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def test_a_request_carries_the_texts_the_name_of_the_model_and_the_originators_token(token_path: TokenPath) -> None:
    token_path.raw = rows(packed(1, 0.5), [0.25, 1])
    assert embed(token_path, "a", "b", model="mine@proj_1") == [[1, 0.5], [0.25, 1]]
    ((path, headers, body),) = token_path.requests
    assert (path, headers["prefer"]) == ("/v1/embeddings", "wait=1")
    assert body == {"model": "mine", "input": ["a", "b"], "encoding_format": "base64"}
    verified = TOKENS.verify(headers["authorization"].removeprefix("Bearer "))
    assert verified is not None
    assert verified[0] == ONE


def test_the_token_is_reused_so_that_gateway_instances_look_it_up_once(token_path: TokenPath) -> None:
    token_path.raw = rows(packed(1))
    for _ in range(2):
        embed(token_path, "a")
    assert len({headers["authorization"] for _, headers, _ in token_path.requests}) == 1


def test_vectors_are_in_the_order_of_the_texts_whatever_the_order_of_the_answer(token_path: TokenPath) -> None:
    said = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    token_path.raw = json.dumps({"data": said}).encode()
    assert embed(token_path, "a", "b") == [[1.0], [2.0]]


HOSTILE: dict[str, bytes] = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "no data": b"{}",
    "data that is a number": b'{"data": 5}',
    "one row too few": rows(packed(1)),
    "the same row twice": json.dumps({"data": [{"index": 0, "embedding": [1.0]}] * 2}).encode(),
    "an empty vector": rows("", ""),
    "half a number": rows("AAA=", "AAA="),
    "no base64": rows("%%", "%%"),
    "vectors of two dimensions": rows(packed(1), packed(1, 2)),
    "words": rows(["x"], ["y"]),
    "null": rows(None, None),
    "not a number": rows(packed(float("nan")), packed(1)),
    "infinity": rows(packed(float("inf")), packed(1)),
    "zeros": rows(packed(0, 0), packed(1, 1)),
    "a number beyond any float": rows([1e300], [1.0]),
    "more dimensions than an index has": rows([1.0] * 40_000, [1.0] * 40_000),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_an_unusable_answer_is_a_failure_of_the_engine(token_path: TokenPath, answer: bytes) -> None:
    token_path.raw = answer
    with pytest.raises(InferenceFailed):
        embed(token_path, "a", "b")


PAUSES = {429: "insufficient_quota", 503: "model_not_ready", 409: "conflict", 504: "timeout"}


@pytest.mark.parametrize("status", PAUSES)
def test_what_passes_by_itself_is_a_pause_with_its_reason(token_path: TokenPath, status: int) -> None:
    token_path.errors = [(status, PAUSES[status], "7")]
    with pytest.raises(InferencePaused) as paused:
        embed(token_path, "a")
    assert (paused.value.message, paused.value.code, paused.value.retry_after) == ("No.", PAUSES[status], 7)


@pytest.mark.parametrize("retry_after", ["0", "-1", "99999999999", "tomorrow", "1e400"])
def test_a_wait_is_between_a_second_and_an_hour(token_path: TokenPath, retry_after: str) -> None:
    token_path.errors = [(429, "x", retry_after)]
    with pytest.raises(InferencePaused) as paused:
        embed(token_path, "a")
    assert 1 <= paused.value.retry_after <= 3600


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_what_stays_wrong_is_a_refusal(token_path: TokenPath, status: int) -> None:
    token_path.errors = [(status, None, "")]
    with pytest.raises(InferenceRefused) as refused:
        embed(token_path, "a")
    assert (refused.value.message, refused.value.status) == ("No.", status)


@pytest.mark.parametrize("status", [500, 502])
def test_an_error_of_the_engine_is_a_failure(token_path: TokenPath, status: int) -> None:
    token_path.errors = [(status, "engine_error", "")]
    with pytest.raises(InferenceFailed):
        embed(token_path, "a")


def test_a_token_path_that_is_away_or_unknown_is_a_pause(token_path: TokenPath) -> None:
    token_path.close()
    for client in (token_path.client, InferenceClient(InferenceSettings(), TOKENS)):
        with pytest.raises(InferencePaused):
            client.call("embeddings", ONE, {}, wait_seconds=1)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([1] * 70, [32, 32, 6]),
        ([400_000, 400_000, 10], [1, 2]),
        ([10_000_000, 1], [1, 1]),
        ([524_288, 0, 1], [2, 1]),
    ],
)
def test_batches_have_32_texts_and_half_a_megabyte_at_most(sizes: list[int], expected: list[int]) -> None:
    found = list(batches(sizes))
    assert [part.stop - part.start for part in found] == expected
    assert [index for part in found for index in range(part.start, part.stop)] == list(range(len(sizes)))


@pytest.mark.parametrize("url", ["ftp://x", "x", "https://x"])
def test_the_address_of_the_token_path_is_an_http_url(url: str) -> None:
    make: Callable[..., Any] = InferenceSettings.load
    with pytest.raises(ValueError, match="LLMARINER_INFERENCE_URL"):
        make({"LLMARINER_INFERENCE_URL": url})
