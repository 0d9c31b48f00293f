"""From the bytes of a body to what the token path must know of it, and back to the bytes that the engine gets.

The body is parsed once, to check it; what goes on is the caller's own bytes, so that unknown fields and the written form
of numbers reach the engine as they came. Only `stream_options` is set on the caller's behalf, by splicing.
"""

from __future__ import annotations

import json
import json.decoder
from typing import Any, NamedTuple

import orjson

from llmariner.errors import InvalidRequest, UnsupportedMedia
from llmariner.gateway.fields import Route, check

__all__ = ["ModelRequest", "parse"]

_DEEPEST = 100
_USAGE_ON = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


class ModelRequest(NamedTuple):
    """A checked request. `body`: the bytes for the engine; the two flags: what the caller asked to see of usage.

    `prompt`: at least as many tokens as the prompt has. `answer`: at most as many as may be generated, all choices
    together; None: as many as the model's context takes.
    """

    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    body: bytes
    prompt: int
    answer: int | None


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
    return ModelRequest(
        model=fields["model"],
        stream=stream,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
        body=_asking_for_usage(body, "stream_options" in fields) if stream else body,
        # A token stands for at least one byte of text, or for at least two of a list of token ids; what JSON and the
        # fields around the text take is more than what a chat template adds.
        prompt=len(body) if route.computes else 0,
        answer=_longest_answer(route, fields),
    )


def _longest_answer(route: Route, fields: dict[str, Any]) -> int | None:
    longest = fields.get("max_completion_tokens") or fields.get("max_tokens")
    if longest is None:
        longest = route.answer
    if longest and ("n" in fields or "prompt" in fields):
        longest *= _choices(fields)
    found: int | None = longest
    return found


def _choices(fields: dict[str, Any]) -> int:
    """How many answers are made: of each prompt, as many as are asked for."""
    choices: int = max(fields.get("n") or 1, fields.get("best_of") or 1)
    prompts = fields.get("prompt")
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        return choices * len(prompts)
    return choices


def _decoded(body: bytes) -> dict[str, Any]:
    if body.count(b"[") + body.count(b"{") > _DEEPEST:
        _check_depth(body)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error}. Check quotes, commas and that it is UTF-8.", code="invalid_json"
        ) from error
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return fields


def _check_depth(body: bytes) -> None:
    """Brackets outside of strings; a body that is no JSON is left to the parser."""
    depth, inside, escaped = 0, False, False
    for byte in body:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            if depth > _DEEPEST:
                raise InvalidRequest(f"The body is nested more than {_DEEPEST} levels deep.", code="nesting_too_deep")
        elif byte in b"]}":
            depth -= 1


def _asking_for_usage(body: bytes, has_options: bool) -> bytes:
    if has_options:
        body = _without_member(body, "stream_options")
    head = body[: body.rindex(b"}")].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return head + comma + _USAGE_ON + b"}"


def _without_member(body: bytes, name: str) -> bytes:
    """The object without one of its members, every other byte kept. The body is known to be a valid object."""
    text = body.decode()
    decoder = json.decoder.JSONDecoder()
    skip = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    kept = []
    at = skip(text, text.index("{") + 1).end()
    while text[at] != "}":
        start = at
        key, at = decoder.raw_decode(text, at)
        at = skip(text, skip(text, at).end() + 1).end()
        _, at = decoder.raw_decode(text, at)
        if key != name:
            kept.append(text[start:at])
        at = skip(text, at).end()
        if text[at] == ",":
            at = skip(text, at + 1).end()
    return ("{" + ",".join(kept) + "}").encode()
