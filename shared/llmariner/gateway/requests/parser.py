"""From the bytes of a body to what the token path must know of it, and back to the bytes that the engine gets.

The body is parsed once, to check it; what goes on is the caller's own bytes, so that unknown fields and the written form
of numbers reach the engine as they came. Set on the caller's behalf, by splicing, are only `stream_options` and the
answer's maximum, by the one name that every engine obeys.
"""

from __future__ import annotations

import json
import json.decoder
from typing import Any, NamedTuple

import orjson

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.requests.fields import Route, check
from llmariner.gateway.requests.json_structure import check_structure

__all__ = ["ModelRequest", "parse"]

_MOST_MEMBERS = 1000
_USAGE_ON = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'
_TEXT_PARTS = ("text", "refusal")
# By these a caller tells vLLM's chat templates what to write, or brings another template.
_TEMPLATE_FIELDS = frozenset({"chat_template", "chat_template_kwargs", "documents"})


class ModelRequest(NamedTuple):
    """A checked request. `body`: the bytes for the engine; the two flags: what the caller asked to see of usage.

    `prompt`: at least as many tokens as its prompts have, but for what a chat template adds. `unbounded`: pictures or sound
    are among them, or a template of the caller's own, so that no count of bytes bounds their tokens. `functions`: how many
    are offered to a chat. `answers`: how many are made of how many `prompts`. `answer`: at most as many
    tokens as may be generated, all answers together; None: as many as the model's context takes, for each.
    """

    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    body: bytes
    prompt: int
    answer: int | None
    prompts: int = 1
    answers: int = 1
    unbounded: bool = False
    functions: int = 0


def parse(route: Route, content_type: bytes, body: bytes) -> ModelRequest:
    """Check a body. InvalidRequest and UnsupportedMedia say what is wrong and where."""
    if content_type and not content_type.lower().startswith(b"application/json"):
        raise UnsupportedMedia("Send the body as JSON, with the header 'content-type: application/json'.")
    fields = _decoded(body)
    check(route, fields)
    stream = bool(fields.get("stream")) and route.streams
    options = fields.get("stream_options")
    if options is not None and not stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    options = options or {}
    maximum = _maximum(route, fields)
    prompts = 1 if route.prompts is None else _prompts(fields.get(route.prompts))
    answers = prompts
    for name in route.choices:
        if name in fields:
            answers = max(answers, (fields[name] or 1) * prompts)
    return ModelRequest(
        model=fields["model"],
        stream=stream,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
        body=_for_engine(route, fields, body, stream=stream, maximum=maximum),
        # A token stands for at least one byte of text, or for at least two of a list of token ids.
        prompt=len(body) if route.computes else 0,
        # An engine that is asked for the echo of a prompt alone makes a token all the same.
        answer=maximum if maximum is None or not route.maximum else max(maximum, 1) * answers,
        prompts=prompts,
        answers=answers,
        unbounded="messages" in route.required and _is_unbounded(fields, body),
        functions=len(fields.get("tools") or ()) if "messages" in route.required else 0,
    )


def _maximum(route: Route, fields: dict[str, Any]) -> int | None:
    """The most tokens of one answer, by whichever name the route knows; None: as many as the context takes."""
    for name in route.maximum:
        if (value := fields.get(name)) is not None:
            found: int = value
            return found
    return route.answer


def _prompts(prompts: Any) -> int:
    """How many prompts there are: a list of integers is one of them."""
    if isinstance(prompts, list) and not isinstance(prompts[0], int):
        return len(prompts)
    return 1


def _is_unbounded(fields: dict[str, Any], body: bytes) -> bool:
    """Whether bytes do not bound the prompt of a chat."""
    if not _TEMPLATE_FIELDS.isdisjoint(fields):
        arguments = fields.get("chat_template_kwargs")
        values = arguments.values() if isinstance(arguments, dict) else ()
        # A template that goes through a text as through a list writes something for each of its letters.
        handed = any(isinstance(value, dict | list | str) for value in values)
        if fields.get("chat_template") or fields.get("documents") or handed:
            return True
    # Brackets can't be written otherwise in JSON: a chat of texts alone has one.
    return body.count(b"[") > 1 and _has_media(fields["messages"])


def _has_media(messages: list[dict[str, Any]]) -> bool:
    """Whether a chat holds more than text."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and not all(
            isinstance(part, dict) and part.get("type") in _TEXT_PARTS for part in content
        ):
            return True
    return False


def _decoded(body: bytes) -> dict[str, Any]:
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


def _for_engine(route: Route, fields: dict[str, Any], body: bytes, *, stream: bool, maximum: int | None) -> bytes:
    """The body with what is set on the caller's behalf; the very same bytes where that is nothing."""
    if stream:
        body = _with_member(body, "stream_options", _USAGE_ON, replacing="stream_options" in fields)
    if maximum is not None and route.maximum and fields.get(route.maximum[0]) is None:
        name = route.maximum[0]
        body = _with_member(body, name, b'"%b":%d' % (name.encode(), maximum), replacing=name in fields)
    return body


def _with_member(body: bytes, name: str, member: bytes, *, replacing: bool) -> bytes:
    """The object with one member at its end, every other byte kept. The body is known to be a valid object."""
    if replacing:
        body = _without_member(body, name)
    head = body[: body.rindex(b"}")].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return head + comma + member + b"}"


def _without_member(body: bytes, name: str) -> bytes:
    """The object without one of its members, every other byte kept. The body is known to be a valid object."""
    text = body.decode()
    decoder = json.decoder.JSONDecoder()
    skip = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    kept: list[str] = []
    at = skip(text, text.index("{") + 1).end()
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        at = skip(text, skip(text, at).end() + 1).end()
        _, at = decoder.raw_decode(text, at)
        if key != name:
            kept.append(text[start:at])
        if len(kept) > _MOST_MEMBERS:
            raise InvalidRequest(f"The body has more than {_MOST_MEMBERS} fields.", code="too_many_values")
        at = skip(text, at).end()
        if text[at] == ",":
            at = skip(text, at + 1).end()
    return ("{" + ",".join(kept) + "}").encode()
