"""The token path relays bodies to the engine and responses to the client unchanged."""

from __future__ import annotations

import asyncio
import http.client
import json

import pytest

from .caller import chat
from .running_platform import EngineProcess, Platform

PATH = "/v1/chat/completions"
ALL_USAGE = {"include_usage": True, "continuous_usage_stats": True}


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("relay", "--tokens", "3")
    asyncio.run(platform.caller.chat(name))
    return name


def direct_stream(engine: EngineProcess, body: bytes, request_id: str) -> bytes:
    """What the engine itself answers."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
    try:
        connection.request("POST", PATH, body, {"x-request-id": request_id})
        return connection.getresponse().read()
    finally:
        connection.close()


def without_times(stream: bytes) -> bytes:
    """The engine writes the second of its answer into each event; two answers may differ in it alone."""
    created = stream.partition(b'"created":')[2].partition(b",")[0]
    return stream.replace(b'"created":' + created, b'"created":0')


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_a_stream_with_requested_usage_is_relayed_byte_for_byte(platform: Platform, model: str, path: str) -> None:
    body = {**chat(model, max_tokens=40), "prompt": "a b c", "stream": True, "stream_options": ALL_USAGE}
    seen = asyncio.run(platform.caller.call(PATH, body))
    made = direct_stream(platform.engine(model), json.dumps(body).encode(), seen.headers["x-request-id"])
    assert without_times(seen.body) == without_times(made)
    assert seen.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_a_stream_without_requested_usage_is_relayed_without_it(platform: Platform, model: str) -> None:
    body = chat(model, max_tokens=40, stream=True)
    seen = asyncio.run(platform.caller.call(PATH, body))
    made = direct_stream(platform.engine(model), json.dumps(body).encode(), seen.headers["x-request-id"])
    # With usage, the engine sends the fingerprint in the usage event only; this client did not request it.
    fingerprint = b',"system_fingerprint":"vllm-0.32.0-scripted"'
    assert without_times(seen.body) == without_times(made.replace(fingerprint, b""))
    assert b"usage" not in seen.body


def test_include_usage_adds_one_event_without_choices_and_null_to_all_others(platform: Platform, model: str) -> None:
    body = chat(model, max_tokens=5, stream=True, stream_options={"include_usage": True})
    *events, last, done = asyncio.run(platform.caller.call(PATH, body)).events()
    assert done == "[DONE]"
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 5)
    assert [event["usage"] for event in events] == [None] * len(events)


def test_continuous_usage_is_in_every_event(platform: Platform, model: str) -> None:
    body = chat(model, max_tokens=5, stream=True, stream_options=ALL_USAGE)
    *events, done = asyncio.run(platform.caller.call(PATH, body)).events()
    assert done == "[DONE]"
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("options", ["null", "{}", '{"include_usage": false}'])
def test_options_without_usage_get_none(platform: Platform, model: str, options: str) -> None:
    body = json.dumps(chat(model, stream=True))[:-1] + f', "stream_options": {options}}}'
    answer = asyncio.run(platform.caller.call(PATH, body.encode()))
    assert len(answer.events()) == 1 + 3 + 1
    assert b"usage" not in answer.body


def test_usage_in_generated_text_is_unchanged(platform: Platform, model: str) -> None:
    # The body comes back in `x_received`: the platform must not take its words for the engine's.
    trap = 'a,"usage":{"completion_tokens":77}'
    answer = asyncio.run(platform.caller.chat(model, user=trap, max_tokens=2))
    assert json.loads(answer.json()["x_received"])["user"] == trap
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_the_engine_gets_the_clients_bytes(platform: Platform, model: str) -> None:
    body = (
        '{ "model":"relay",\n"messages":[{"role":"user","content":"\\u00e9 é \\ud83d\\ude00", "x":[1,{}]}],'
        ' "temperature": 1.0, "top_p": 1e-1, "seed": 9007199254740993, "x_future": {"deep": [1.10, null]},'
        ' "max_tokens": 2 }'
    )
    answer = asyncio.run(platform.caller.call(PATH, body.encode()))
    assert answer.json()["x_received"] == body


def test_the_engine_gets_the_request_id_of_the_response(platform: Platform, model: str) -> None:
    answer = asyncio.run(platform.caller.chat(model))
    headers = answer.json()["x_received_headers"]
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    assert "authorization" not in headers


def test_a_response_has_its_id_limits_and_processing_time(platform: Platform, model: str) -> None:
    caller = platform.key("limited", limited=True)[1]
    answer = asyncio.run(caller.chat(model, max_tokens=2))
    headers = answer.headers
    assert headers["x-request-id"].startswith("req_")
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("6000", "10000000")
    assert headers["x-ratelimit-remaining-requests"] == "5999"
    # As long as the request runs, the most that it may use is taken: a token for each byte of its body, and its answer.
    assert 9_999_700 < int(headers["x-ratelimit-remaining-tokens"]) < 10_000_000 - 2
    assert {"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"} < headers.keys()
    assert 0 <= int(headers["openai-processing-ms"]) < 10_000
    assert headers["openai-organization"] == platform.owner.organization_id


def test_a_stream_has_its_id_and_cache_headers(platform: Platform, model: str) -> None:
    answer = asyncio.run(platform.caller.call(PATH, chat(model, stream=True)))
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-length" not in answer.headers


def test_connections_to_the_engine_are_reused(platform: Platform, model: str) -> None:
    engine = platform.engine(model)
    before = engine.metric("scripted:connections_total")

    async def many() -> None:
        for stream in (False, True) * 10:
            await platform.caller.call(PATH, chat(model, stream=stream))

    asyncio.run(many())
    # The two questions of this test, and the adapter's own look at the counts; none of the twenty requests.
    assert engine.metric("scripted:connections_total") - before <= 3


def test_tokenization_and_detokenization(platform: Platform, model: str) -> None:
    encoded = asyncio.run(platform.caller.call("/v1/tokenize", {"model": model, "prompt": "stones keep stones"}))
    tokens = encoded.json()["tokens"]
    assert tokens[0] == tokens[2] != tokens[1]
    decoded = asyncio.run(platform.caller.call("/v1/detokenize", {"model": model, "tokens": tokens}))
    assert decoded.json() == {"prompt": "stones keep stones"}


def test_embeddings_are_relayed_and_counted(platform: Platform) -> None:
    name = platform.model("vectors", task="embed")
    answer = asyncio.run(platform.caller.call("/v1/embeddings", {"model": name, "input": ["a b", "c"]}))
    assert [row["index"] for row in answer.json()["data"]] == [0, 1]
    row = platform.row(answer.headers["x-request-id"])
    assert (row["prompt_tokens"], row["completion_tokens"], row["outcome"]) == (3, 0, "succeeded")
