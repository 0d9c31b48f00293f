"""Responses of the real model through the real platform, counted to the token."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from llmariner.context import Context
from llmariner.usage.tables import ledger_requests

from .standalone_platform import CHAT_MODEL, EMBEDDING_MODEL

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PARIS = "What is the capital of France?"
TOKENS = "vllm:generation_tokens_total"


def ledger_row(platform: Platform, request_id: str) -> dict[str, Any]:
    """A request in the ledger, as soon as it is closed there."""
    context = Context({"LLMARINER_DATABASE_URL": platform.database_url})
    deadline = time.monotonic() + 15
    while not ((row := context.ledger.request(request_id)) and row["outcome"] != "open"):
        assert time.monotonic() < deadline, f"{request_id} is not closed: {row}"
        time.sleep(0.1)
    context.database.close()
    return row


def test_a_streamed_request_wakes_the_model_from_zero_and_is_counted_to_the_token(platform: Platform) -> None:
    done = platform.llma("models", "deactivate", CHAT_MODEL)
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    options = {"include_usage": True}
    stream = platform.open("/v1/chat/completions", platform.chat_body(PARIS, stream=True, stream_options=options))
    opened = time.monotonic() - began
    first, text = 0.0, ""
    usage: dict[str, int] = {}
    for event in stream.events():
        first = first or time.monotonic() - began
        text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        usage = event.get("usage") or usage
    stream.hang_up()
    print(f"\nopened after {opened:.2f} s, first token after {first:.1f} s, phases {phases(stream.comments)}")
    assert opened < 10
    assert "Paris" in text
    assert {"starting", "loading"} & set(phases(stream.comments))
    row = ledger_row(platform, stream.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert usage["completion_tokens"] == platform.engine_metric(TOKENS)
    assert usage["prompt_tokens"] == platform.engine_metric("vllm:prompt_tokens_total")


def phases(comments: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(comment["phase"]) for comment in comments))


def test_a_non_streamed_response_is_counted_to_the_token(platform: Platform) -> None:
    platform.chat(PARIS, max_tokens=1)
    before = platform.engine_metric(TOKENS)
    answer = platform.chat(PARIS)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    row = ledger_row(platform, answer["request_id"])
    assert row["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert row["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert platform.engine_metric(TOKENS) - before == answer["usage"]["completion_tokens"]


def test_a_disconnect_reaches_the_engine(platform: Platform) -> None:
    platform.chat(PARIS, max_tokens=1)
    before = platform.engine_metric(TOKENS)
    body = platform.chat_body("Tell a long story.", stream=True, max_tokens=3000, ignore_eos=True)
    stream = platform.open("/v1/chat/completions", body)
    seen = 0
    for event in stream.events():
        seen += sum(bool(choice["delta"].get("content")) for choice in event["choices"])
        if seen >= 5:
            break
    assert platform.engine_metric("vllm:num_requests_running") == 1
    stream.hang_up()
    left = time.monotonic()
    while platform.engine_metric("vllm:num_requests_running"):
        assert time.monotonic() - left < 10
        time.sleep(0.05)
    took = time.monotonic() - left
    print(f"\nthe engine was idle {took:.2f} s after the hang-up")
    # A second is promised; the engine looks between two steps, each of which two busy cores may draw out.
    assert took < 3
    row = ledger_row(platform, stream.request_id)
    assert row["outcome"] == "cancelled"
    assert seen - 1 <= row["completion_tokens"] == platform.engine_metric(TOKENS) - before < 3000


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_response_of_a_disconnected_client_is_counted_to_the_token(platform: Platform, path: str) -> None:
    platform.chat(PARIS, max_tokens=1)
    names = {"completion_tokens": TOKENS, "prompt_tokens": "vllm:prompt_tokens_total"}
    before = {column: platform.engine_metric(name) for column, name in names.items()}
    began = time.time()
    body = platform.chat_body("Tell a long story.", max_tokens=3000, ignore_eos=True)
    body |= {"prompt": ["Once upon a time", "It was a dark night and"]} if path == "/v1/completions" else {}
    connection = platform.send(path, body)
    while platform.engine_metric(TOKENS) < before["completion_tokens"] + 10:
        assert time.time() - began < 60
        time.sleep(0.05)
    connection.close()
    row = cancelled_since(platform, began)
    made = {column: platform.engine_metric(name) - before[column] for column, name in names.items()}
    print(f"\nnobody waited for {made}")
    assert {column: row[column] for column in names} == made
    assert made["completion_tokens"] >= 10
    assert made["prompt_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_several_interrupted_choices_count_the_prompt_once_and_each_choice_once(
    platform: Platform, path: str, stream: bool
) -> None:
    prompts = ["Once upon a time", "It was a dark night and"]
    fields: dict[str, Any] = {"prompt": prompts} if path == "/v1/completions" else {}
    short = platform.chat_body("Tell a long story.", n=2, temperature=1, max_tokens=1, ignore_eos=True) | fields
    prompt_tokens = platform.post(path, short)["usage"]["prompt_tokens"]
    before, began = platform.engine_metric(TOKENS), time.time()
    long = {"n": 2, "temperature": 1, "max_tokens": 3000, "ignore_eos": True, "stream": stream}
    body = platform.chat_body("Tell a long story.", **long) | fields
    connection = platform.send(path, body)
    while platform.engine_metric(TOKENS) < before + 24:
        assert time.time() - began < 60
        time.sleep(0.05)
    connection.close()
    row = cancelled_since(platform, began)
    made = platform.engine_metric(TOKENS) - before
    print(f"\nof {prompt_tokens} tokens {made} were made: {row}")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (prompt_tokens, made)


def cancelled_since(platform: Platform, began: float) -> dict[str, Any]:
    """The one request admitted since then, as soon as the ledger has it as cancelled."""
    query = select(ledger_requests).where(ledger_requests.c.admitted_at >= began)
    context = Context({"LLMARINER_DATABASE_URL": platform.database_url})
    deadline = time.monotonic() + 15
    while True:
        with context.database.read() as session:
            rows = [dict(row._mapping) for row in session.rows(query)]
        if rows and all(row["outcome"] == "cancelled" for row in rows):
            context.database.close()
            (row,) = rows
            return row
        assert time.monotonic() < deadline, rows
        time.sleep(0.1)


def cosine(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def test_embeddings_of_similar_texts_are_similar(platform: Platform) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The parliament passed the budget."]
    answer = platform.post("/v1/embeddings", {"model": EMBEDDING_MODEL, "input": texts})
    cat, kitten, budget = (row["embedding"] for row in answer["data"])
    assert len(cat) == 384
    assert cosine(cat, kitten) > 0.5 > 0.3 > cosine(cat, budget)
    row = ledger_row(platform, answer["request_id"])
    assert row["prompt_tokens"] == answer["usage"]["prompt_tokens"] > 10
    assert row["completion_tokens"] == 0


def test_documents_are_ranked_by_an_embedding_model(platform: Platform) -> None:
    documents = ["The parliament passed the budget.", "A kitten naps on the couch.", "A cat. " * 1000]
    body = {"model": EMBEDDING_MODEL, "query": "A cat sleeps on the sofa.", "documents": documents}
    answer = platform.post("/v1/rerank", {**body, "truncate_prompt_tokens": -1})
    scores = {row["index"]: row["relevance_score"] for row in answer["results"]}
    assert list(scores)[-1] == 0
    assert scores[1] > 0.5 > 0.3 > scores[0]
    row = ledger_row(platform, answer["request_id"])
    assert row["route"] == "rerank"
    assert row["prompt_tokens"] == answer["usage"]["prompt_tokens"] > 20


def test_a_text_survives_tokenization(platform: Platform) -> None:
    text = "Ship’s log: 3 knots, 42°N — all well."
    tokens = platform.post("/v1/tokenize", {"model": CHAT_MODEL, "prompt": text})["tokens"]
    assert len(tokens) > 5
    assert platform.post("/v1/detokenize", {"model": CHAT_MODEL, "tokens": tokens})["prompt"] == text


def test_a_strict_schema_is_followed(platform: Platform) -> None:
    # No numbers: nothing in a grammar ends one, and a model this small may count on for ever.
    properties = {"city": {"type": "string"}, "is_capital": {"type": "boolean"}, "size": {"enum": ["small", "large"]}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = platform.chat("Describe Paris as JSON.", response_format=form, max_tokens=200)
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert value.keys() == properties.keys()
    assert isinstance(value["city"], str)
    assert isinstance(value["is_capital"], bool)
    assert value["size"] in ("small", "large")


def test_a_required_tool_is_called_with_arguments_of_its_schema(platform: Platform) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    function = {"name": "get_weather", "description": "Weather of a city", "parameters": parameters, "strict": True}
    tools = [{"type": "function", "function": function}]
    answer = platform.chat("How is the weather in Paris?", tools=tools, tool_choice="required", max_tokens=200)
    (call, *_) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments.keys() == {"city"}
    assert isinstance(arguments["city"], str)


def test_log_probabilities_include_alternatives(platform: Platform) -> None:
    answer = platform.chat(PARIS, logprobs=True, top_logprobs=3, max_tokens=8)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        # At temperature 0 the chosen token is the likeliest.
        assert token["top_logprobs"][0]["token"] == token["token"]
