"""A request reserves at least what an engine may generate for it, for any form of its body.

The engines of these tests read a body as vLLM's request models do: of a member given twice the last one, numbers written as
text or as decimals, and one field or the other for the answer's length. Other engines prefer another of the two, or know
only the older name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest
from llmariner.gateway.admission.chat_template import TemplateTokens, max_prompt_tokens
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, Route
from llmariner.gateway.requests.parser import ModelRequest, parse

CONTEXT = 4096
Body = dict[str, Any]
Maximum = Callable[[Body], "int | None"]


class RefusedError(Exception):
    """The engine would answer 400."""


def integer(body: Body, name: str) -> int | None:
    """As pydantic reads `int | None` when it is not strict."""
    value = body.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, float) and value != int(value):
            raise RefusedError(name)
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RefusedError(name) from error


def newer_name_first(body: Body) -> int | None:
    """vLLM's chat."""
    newer = integer(body, "max_completion_tokens")
    return integer(body, "max_tokens") if newer is None else newer


def older_name_first(body: Body) -> int | None:
    """SGLang's chat."""
    return integer(body, "max_tokens") or integer(body, "max_completion_tokens")


def older_name_only(body: Body) -> int | None:
    return integer(body, "max_tokens")


def sixteen_by_default(body: Body) -> int | None:
    """vLLM's completions, where null is 16, too."""
    maximum = integer(body, "max_tokens")
    return 16 if maximum is None else maximum


ENGINES: list[tuple[Route, Maximum]] = [
    (CHAT_COMPLETIONS, newer_name_first),
    (CHAT_COMPLETIONS, older_name_first),
    (CHAT_COMPLETIONS, older_name_only),
    (COMPLETIONS, sixteen_by_default),
    (COMPLETIONS, older_name_only),
]


def generated(body: Body, maximum: Maximum, prompts: int) -> int:
    """The most tokens that an engine makes: of each prompt `n` answers, each as long as it may be."""
    longest = maximum(body)
    if longest is not None and longest < 0:
        raise RefusedError("max_tokens")
    if longest == 0 and not body.get("echo"):
        longest = None  # some take it for no limit at all
    choices = max(integer(body, "n") or 1, integer(body, "best_of") or 1 if prompts else 1)
    each = CONTEXT if longest is None else max(1, min(longest, CONTEXT))
    return each * choices * max(prompts, 1)


def reserved(request: ModelRequest) -> int:
    """Tokens of answers as a budget pays for them."""
    return request.choice_count * CONTEXT if request.max_completion_tokens is None else request.max_completion_tokens


NUMBERS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 600),
    st.sampled_from([2**31 - 1, 2**31, 2**63, -(10**9), 10**30, 1.0, 400.0, 0.5, -1.0, 1e300]),
    st.sampled_from(["1", "400", "x", "", None, True, False, [], [1], {}]),
)
NAMES = st.sampled_from(
    [
        *("max_tokens", "max_completion_tokens", "n", "best_of", "echo", "use_beam_search", "min_tokens"),
        *("max_output_tokens", "max_new_tokens", "Max_Tokens", "max_completion_token", "N", "num_predict"),
    ]
)
MEMBERS = st.lists(st.tuples(NAMES, NUMBERS), max_size=6)
PROMPTS: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=5),
    st.lists(st.text(max_size=3), min_size=1, max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=5),
)


def written(members: list[tuple[str, Any]], *, escaped: bool) -> bytes:
    """A JSON object with its members in that order, some of them twice, their names perhaps with escapes."""
    pairs = (f"{_name(name, escaped)}:{json.dumps(value)}" for name, value in members)
    return ("{" + ",".join(pairs) + "}").encode()


def _name(name: str, escaped: bool) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"' if escaped else json.dumps(name)


@pytest.mark.parametrize(("route", "maximum"), ENGINES, ids=lambda value: getattr(value, "name", None))
@settings(max_examples=400, deadline=None)
@given(members=MEMBERS, prompt=PROMPTS, escaped=st.booleans(), stream=st.booleans())
def test_no_engine_generates_more_than_the_reservation(
    route: Route, maximum: Maximum, members: list[tuple[str, Any]], prompt: Any, escaped: bool, stream: bool
) -> None:
    asked = ("messages", [{"role": "user", "content": "x"}]) if route is CHAT_COMPLETIONS else ("prompt", prompt)
    body = written([("model", "m"), *members, asked, ("stream", stream)], escaped=escaped)
    try:
        request = parse(route, b"application/json", body)
    except InvalidRequest:
        return
    assert request.max_prompt_tokens >= 0
    many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts = 0 if route is CHAT_COMPLETIONS else len(prompt) if many else 1
    assert reserved(request) >= 1
    try:
        made = generated(json.loads(request.body), maximum, prompts)
    except RefusedError:
        return
    assert made <= reserved(request)


@settings(max_examples=100, deadline=None)
@given(members=MEMBERS, prompt=PROMPTS, escaped=st.booleans())
def test_no_field_changes_the_reservation_of_an_embedding(
    members: list[tuple[str, Any]], prompt: Any, escaped: bool
) -> None:
    body = written([("model", "m"), *members, ("input", prompt)], escaped=escaped)
    request = parse(EMBEDDINGS, b"application/json", body)
    assert (request.max_prompt_tokens, request.max_completion_tokens) == (len(body), 0)


PLAIN: dict[str, Body] = {
    "chat_completions": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    "completions": {"model": "m", "prompt": "x"},
    "embeddings": {"model": "m", "input": "x"},
}
WRONG: list[tuple[Route, Body, str]] = [
    (CHAT_COMPLETIONS, {"max_tokens": 400, "max_completion_tokens": 1}, "max_completion_tokens"),
    (CHAT_COMPLETIONS, {"max_completion_tokens": -(10**9)}, "max_completion_tokens"),
    (CHAT_COMPLETIONS, {"max_completion_tokens": "x"}, "max_completion_tokens"),
    (CHAT_COMPLETIONS, {"max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT_COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    (CHAT_COMPLETIONS, {"use_beam_search": True}, "use_beam_search"),
    (COMPLETIONS, {"max_tokens": 400, "max_completion_tokens": 1}, "max_completion_tokens"),
    (COMPLETIONS, {"max_completion_tokens": -(10**9)}, "max_completion_tokens"),
    (COMPLETIONS, {"max_completion_tokens": "x"}, "max_completion_tokens"),
    (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    (COMPLETIONS, {"max_tokens": -1}, "max_tokens"),
    (COMPLETIONS, {"prompt_embeds": "AAAA"}, "prompt_embeds"),
    (COMPLETIONS, {"use_beam_search": True}, "use_beam_search"),
    (EMBEDDINGS, {"encoding_format": "bytes"}, "encoding_format"),
    (EMBEDDINGS, {"encoding_format": "bytes_only"}, "encoding_format"),
    (EMBEDDINGS, {"padding": "max_length"}, "padding"),
    (EMBEDDINGS, {"messages": [{"role": "user", "content": "x"}]}, "messages"),
]


@pytest.mark.parametrize(("route", "fields", "param"), WRONG, ids=[f"{r.name}-{f}" for r, f, _ in WRONG])
def test_an_unrepresentable_length_is_rejected(route: Route, fields: Body, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(route, b"application/json", json.dumps({**PLAIN[route.name], **fields}).encode())
    assert refused.value.param == param
    assert f"'{param}'" in refused.value.message


@pytest.mark.parametrize("route", [CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS], ids=lambda route: route.name)
@pytest.mark.parametrize("value", [100_000, None])
def test_field_names_that_case_insensitive_engines_match_are_rejected(route: Route, value: Any) -> None:
    known = {"model": "Model", "user": "u\u017fer"}
    known |= {name: name.upper() for name in route.max_tokens_fields}
    known |= {name: name.replace("k", "\u212a") for name in route.max_tokens_fields if "k" in name}
    for written in known.values():
        with pytest.raises(InvalidRequest) as refused:
            parse(route, b"", json.dumps({**PLAIN[route.name], written: value}).encode())
        assert (refused.value.param, refused.value.code) == (written, "unknown_parameter")
    assert parse(route, b"", json.dumps({**PLAIN[route.name], "Unknown_Option": value}).encode()).model == "m"


def test_an_echo_of_the_prompt_reserves_one_generated_token() -> None:
    body = json.dumps({**PLAIN["completions"], "echo": True, "max_tokens": 0, "n": 2}).encode()
    request = parse(COMPLETIONS, b"", body)
    assert (request.max_completion_tokens, request.body) == (2, body)


@pytest.mark.parametrize(
    ("content", "unbounded"),
    [
        ("x", False),
        ([{"type": "text", "text": "x"}], False),
        ([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}], True),
        ([{"type": "text", "text": "x"}, {"type": "input_audio"}], True),
    ],
)
def test_prompts_with_more_than_text_are_not_bounded_by_their_bytes(content: Any, unbounded: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], "tools": []}).encode()
    assert parse(CHAT_COMPLETIONS, b"", body).prompt_unbounded is unbounded


@pytest.mark.parametrize(
    ("fields", "unbounded"),
    [
        ({"chat_template": "{{ 'a ' * 10 ** 6 }}"}, True),
        ({"chat_template": None}, False),
        ({"documents": [{"title": "x", "text": "x"}]}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"documents": []}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True, "documents": "aaaa"}}, True),
        ({"chat_template_kwargs": "x"}, False),
    ],
)
def test_template_arguments_are_not_bounded_by_their_bytes(fields: Body, unbounded: bool) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
    assert parse(CHAT_COMPLETIONS, b"", body).prompt_unbounded is unbounded


def test_the_maximum_is_forwarded_by_the_name_that_all_engines_obey() -> None:
    chat = {**PLAIN["chat_completions"], "max_tokens": None, "max_completion_tokens": 7}
    sent = json.loads(parse(CHAT_COMPLETIONS, b"", json.dumps(chat).encode()).body, object_pairs_hook=list)
    assert [value for name, value in sent if name == "max_tokens"] == [7]
    completion = json.dumps(PLAIN["completions"]).encode()
    assert json.loads(parse(COMPLETIONS, b"", completion).body) == {**PLAIN["completions"], "max_tokens": 16}


@pytest.mark.parametrize("depth", [1, 20, 90])
def test_tool_definitions_are_reserved_as_templates_render_them(depth: int) -> None:
    """As JSON indented by four spaces, where each byte may be a token; and named once more."""
    nested: Any = [1] * 10
    for _ in range(depth):
        nested = [nested]
    tools = [{"type": "function", "function": {"name": "f" * 50, "parameters": {"enum": nested}}}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools}).encode()
    request = parse(CHAT_COMPLETIONS, b"", body)
    assert request.tool_count == 1
    longest = max_prompt_tokens(TemplateTokens(30, 7), request.body, 1)
    assert longest is not None
    assert longest >= len(json.dumps(tools, indent=4)) + len("f" * 50) + 37


def test_tool_definitions_of_a_large_body_reserve_the_whole_context() -> None:
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(2000)]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools}).encode()
    assert max_prompt_tokens(TemplateTokens(30, 7), body, 2000) is None
    assert max_prompt_tokens(TemplateTokens(30, 7), body, 0) == len(body) + 30
