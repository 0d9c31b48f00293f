"""Requests to rerank documents: what is refused, and how many tokens they may cost at most."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest
from llmariner.gateway.metering.token_counts import TokenBounds, TokenUsage
from llmariner.gateway.requests.fields import RERANK
from llmariner.gateway.requests.parser import ModelRequest, parse

JSON = b"application/json"


def parsed(**fields: Any) -> ModelRequest:
    body = {"model": "m", "query": "q", "documents": ["d"], **fields}
    return parse(RERANK, JSON, json.dumps({name: value for name, value in body.items() if value is not ...}).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ...}, "model"),
        ({"query": ...}, "query"),
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": ["q"]}, "query"),
        ({"query": 5}, "query"),
        ({"documents": ...}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "d"}, "documents"),
        ({"documents": {"text": "d"}}, "documents"),
        ({"documents": ["d", 5]}, "documents[1]"),
        ({"documents": [[1, 2]]}, "documents[0]"),
        ({"documents": ["d", None]}, "documents[1]"),
        ({"documents": ["d", {"content": [{"image_embeds": {"usage": "x"}}]}]}, "documents[1]"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"top_n": "3"}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"Query": "q"}, "Query"),
    ],
)
def test_what_no_engine_accepts_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert refused.value.param == param


def test_documents_may_speak_of_usage() -> None:
    text = '"usage":{"prompt_tokens":0}'
    assert parsed(documents=[text, {"text": text}, {"text": "usage"}]).prompt_count == 4


def test_the_engine_gets_the_body_as_it_is() -> None:
    body = b'{ "model":"m", "query":"q","documents":["d", {"text": "e"}, ""],\n"top_n":2,"x":[1],"stream":true}'
    request = parse(RERANK, JSON, body)
    assert (request.body, request.stream, request.max_completion_tokens) == (body, False, 0)


@settings(max_examples=100, deadline=None)
@given(query=st.text(min_size=1), documents=st.lists(st.text(), min_size=1, max_size=20))
def test_a_request_reserves_the_query_for_each_document(query: str, documents: list[str]) -> None:
    """A token has at least one byte. Cross-encoders read query and document together, other models the query once."""
    request = parsed(query=query, documents=documents)
    pairs = len(documents) * len(query.encode()) + sum(len(each.encode()) for each in documents)
    assert request.max_prompt_tokens >= pairs
    # A template may add to each pair, so that budgets reserve what the model can read at most.
    assert (request.prompt_unbounded, request.prompt_count) == (True, len(documents) + 1)
    context = 512
    longest = context * (len(documents) + 1)
    bounds = TokenBounds.from_request(request, context)
    assert bounds.plausible(TokenUsage(longest)) is not None
    assert bounds.plausible(TokenUsage(longest + 1)) is None


def test_a_query_in_an_engines_own_form_counts_as_the_whole_body() -> None:
    request = parsed(query={"content": [{"type": "text", "text": "q"}]}, documents=["d", "e"])
    assert request.max_prompt_tokens == 3 * len(request.body)
