"""Parsing of a request body into a `ModelRequest`, and the body that the engine receives.

The body is parsed once, for validation; the engine receives the client's bytes, so that unknown fields and the notation
of numbers are preserved. Only `stream_options` and the maximum of completion tokens, under the name that every engine
supports, are spliced in.
"""

from __future__ import annotations

import json
import json.decoder
import re
from typing import Any, Final

import orjson

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.requests.fields import Route, check_fields, is_file_search, requested_max_tokens
from llmariner.gateway.requests.json_structure import check_structure

__all__ = ["ModelRequest", "parse", "with_member", "with_model", "without_member"]

_MAX_MEMBERS: Final = 1000
_FEW_MESSAGES: Final = 3
_USAGE_OPTIONS: Final = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
_TEXT_PARTS: Final = ("text", "refusal")
# With these fields a request parametrizes vLLM's chat template, or replaces it.
_TEMPLATE_FIELDS: Final = frozenset({"chat_template", "chat_template_kwargs", "documents"})


class ModelRequest:
    """A validated request, never changed. `body`: the bytes for the engine. The two usage flags are of `stream_options`.

    `max_prompt_tokens`: an upper bound, without what a chat template adds. `prompt_unbounded`: the prompt has images or
    audio, or a chat template of its own, or the model's template adds to each of several prompts, so that its length in
    bytes is no upper bound. `max_completion_tokens`: an upper bound of all choices together; None: the context length, for
    each. `choice_count`: the choices of all prompts.
    `file_search`: one of the tools is `file_search`, which no engine has: `llmariner.file_search` answers it.
    """

    # No named tuple: compiled code would create one by an interpreted function, and look up each of its fields by name.
    __slots__ = (
        "body",
        "choice_count",
        "continuous_usage",
        "file_search",
        "include_usage",
        "max_completion_tokens",
        "max_prompt_tokens",
        "model",
        "prompt_count",
        "prompt_unbounded",
        "stream",
        "tool_count",
    )

    def __init__(
        self,
        model: str,
        stream: bool,
        include_usage: bool,
        continuous_usage: bool,
        body: bytes,
        max_prompt_tokens: int,
        max_completion_tokens: int | None,
        prompt_count: int = 1,
        choice_count: int = 1,
        prompt_unbounded: bool = False,
        tool_count: int = 0,
        file_search: bool = False,
    ) -> None:
        self.model, self.stream, self.body = model, stream, body
        self.include_usage, self.continuous_usage = include_usage, continuous_usage
        self.max_prompt_tokens, self.max_completion_tokens = max_prompt_tokens, max_completion_tokens
        self.prompt_count, self.choice_count, self.prompt_unbounded = prompt_count, choice_count, prompt_unbounded
        self.tool_count, self.file_search = tool_count, file_search

    def replace(
        self,
        *,
        model: str | None = None,
        body: bytes | None = None,
        max_prompt_tokens: int | None = None,
        prompt_unbounded: bool | None = None,
        tool_count: int | None = None,
        file_search: bool | None = None,
    ) -> ModelRequest:
        """The same request with other values; None: the value stays."""
        return ModelRequest(
            self.model if model is None else model,
            self.stream,
            self.include_usage,
            self.continuous_usage,
            self.body if body is None else body,
            self.max_prompt_tokens if max_prompt_tokens is None else max_prompt_tokens,
            self.max_completion_tokens,
            self.prompt_count,
            self.choice_count,
            self.prompt_unbounded if prompt_unbounded is None else prompt_unbounded,
            self.tool_count if tool_count is None else tool_count,
            self.file_search if file_search is None else file_search,
        )


def parse(route: Route, content_type: bytes, body: bytes) -> ModelRequest:
    """Validate a body. Raises InvalidRequest and UnsupportedMedia."""
    if content_type and not content_type.lower().startswith(b"application/json"):
        raise UnsupportedMedia("Send the body as JSON, with the header 'content-type: application/json'.")
    fields = _decode(body)
    check_fields(route, fields)
    stream = bool(fields.get("stream")) and route.streams
    options = fields.get("stream_options")
    if options is not None and not stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    include_usage = continuous_usage = False
    if options:
        include_usage = options.get("include_usage") is True
        continuous_usage = options.get("continuous_usage_stats") is True
    is_chat = "messages" in route.required
    max_tokens = requested_max_tokens(route, fields)
    # A token takes at least one byte of text, or at least two of a list of token ids.
    prompt_count, prompt_bytes = 1, len(body)
    if route.prompt_field is not None:
        prompt_count = _count_prompts(fields.get(route.prompt_field))
        if route.query_field is not None:
            prompt_bytes += prompt_count * _query_bytes(fields[route.query_field], body)
            prompt_count += 1  # some models read the query once, by itself
    choice_count = prompt_count
    for name in route.choice_count_fields:
        if name in fields:
            choice_count = max(choice_count, (fields[name] or 1) * prompt_count)
    tools: list[Any] = (fields.get("tools") or []) if is_chat else []
    max_completion_tokens = _max_completion_tokens(route, max_tokens, choice_count)
    prompt_unbounded = _is_prompt_unbounded(fields, body) if is_chat else route.query_field is not None
    # In the order of the fields: twelve names would cost as much as the decoding of a small body.
    return ModelRequest(
        fields["model"],
        stream,
        include_usage,
        continuous_usage,
        _engine_body(route, fields, body, stream=stream, max_tokens=max_tokens),
        prompt_bytes if route.runs_model else 0,
        max_completion_tokens,
        prompt_count,
        choice_count,
        prompt_unbounded,
        len(tools),
        bool(tools) and any(is_file_search(tool) for tool in tools),
    )


def _max_completion_tokens(route: Route, max_tokens: int | None, choice_count: int) -> int | None:
    """The upper bound of all choices together; None where the context length is the only bound of each."""
    if max_tokens is None or not route.max_tokens_fields:
        return max_tokens
    # An engine that is asked only to echo the prompt generates one token nevertheless.
    return max(max_tokens, 1) * choice_count


def _query_bytes(query: Any, body: bytes) -> int:
    """The most bytes of a query that is read with each prompt."""
    return len(query.encode()) if isinstance(query, str) else len(body)


def _count_prompts(prompts: Any) -> int:
    """The number of prompts; a list of integers (token ids) is one prompt."""
    if isinstance(prompts, list) and not isinstance(prompts[0], int):
        return len(prompts)
    return 1


def _is_prompt_unbounded(fields: dict[str, Any], body: bytes) -> bool:
    """Whether the length of a chat in bytes is no upper bound of its prompt tokens."""
    if not _TEMPLATE_FIELDS.isdisjoint(fields):
        arguments = fields.get("chat_template_kwargs")
        values = arguments.values() if isinstance(arguments, dict) else ()
        # A template that iterates over a string may write something for each of its characters.
        passes_text = any(isinstance(value, dict | list | str) for value in values)
        if fields.get("chat_template") or fields.get("documents") or passes_text:
            return True
    messages: list[dict[str, Any]] = fields["messages"]
    # JSON has no escape for brackets outside of strings, so a chat of plain strings has exactly one. A look at a few
    # messages costs less than the count.
    return (len(messages) <= _FEW_MESSAGES or body.count(b"[") > 1) and _has_media(messages)


def _has_media(messages: list[dict[str, Any]]) -> bool:
    """Whether a chat has content parts other than text."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and not all(
            isinstance(part, dict) and part.get("type") in _TEXT_PARTS for part in content
        ):
            return True
    return False


def _decode(body: bytes) -> dict[str, Any]:
    check_structure(body)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error}. Check quotes, commas and that it is UTF-8.", code="invalid_json"
        ) from error
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return fields


def _engine_body(route: Route, fields: dict[str, Any], body: bytes, *, stream: bool, max_tokens: int | None) -> bytes:
    """The body for the engine, with `stream_options` and the maximum set where needed; otherwise the same bytes."""
    if stream:
        body = with_member(body, "stream_options", _USAGE_OPTIONS, replacing="stream_options" in fields)
    if max_tokens is not None and route.max_tokens_fields and fields.get(route.max_tokens_fields[0]) is None:
        name = route.max_tokens_fields[0]
        body = with_member(body, name, b'"%b":%d' % (name.encode(), max_tokens), replacing=name in fields)
    return body


def with_model(request: ModelRequest, model: str) -> ModelRequest:
    """The request for another model: engines know models by their own names, not by aliases."""
    body, member = request.body, b'"model":' + orjson.dumps(model)
    asked = re.compile(rb'"model"\s*:\s*' + re.escape(orjson.dumps(request.model)))
    # Nearly always the only place is the field itself. Reading the result again is several times as fast as finding the
    # field among the others, and shows whether it was.
    if body.count(b'"model"') == 1:
        replaced = asked.sub(lambda _: member, body)
        if orjson.loads(replaced)["model"] == model:
            return request.replace(model=model, body=replaced)
    return request.replace(model=model, body=with_member(body, "model", member, replacing=True))


def with_member(body: bytes, name: str, member: bytes, *, replacing: bool) -> bytes:
    """The JSON object with one member appended, all other bytes unchanged. The body must be a valid object."""
    if replacing:
        body = without_member(body, name)
    head = body[: body.rindex(b"}")].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return head + comma + member + b"}"


def without_member(body: bytes, name: str) -> bytes:
    """The JSON object without a member, all other members unchanged. The body must be a valid object."""
    text = body.decode()
    decoder = json.decoder.JSONDecoder()
    skip = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    members: list[str] = []
    position = skip(text, text.index("{") + 1).end()
    while text[position] != "}":
        start = position
        key, position = decoder.raw_decode(text, position)
        position = skip(text, skip(text, position).end() + 1).end()
        _, position = decoder.raw_decode(text, position)
        if key != name:
            members.append(text[start:position])
        if len(members) > _MAX_MEMBERS:
            raise InvalidRequest(f"The body has more than {_MAX_MEMBERS} fields.", code="too_many_values")
        position = skip(text, position).end()
        if text[position] == ",":
            position = skip(text, position + 1).end()
    return ("{" + ",".join(members) + "}").encode()
