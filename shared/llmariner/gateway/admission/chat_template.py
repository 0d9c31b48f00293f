"""How many tokens a model's chat template adds to what a chat holds itself: asked from its engine, once.

A template may have a system message of its own, instructions for functions, or write functions down twice: of that a body
has no byte. The engine is asked for the prompts of the shortest chats that there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["DEFAULT_TEMPLATE_TOKENS", "TemplateTokens", "fetch_template_tokens", "max_prompt_tokens"]

_TIMEOUT_SECONDS = 5.0
_MAX_RESPONSE_BYTES = 1024 * 1024
_MAX_TOKENS = 1_000_000
_USER = {"role": "user", "content": "."}
_SYSTEM = {"role": "system", "content": "."}
_FUNCTION = {"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}
# Templates write functions as JSON that is indented by up to four spaces, and name them once more.
_TEMPLATE_FACTOR = 4
# How functions of a larger body are written is not looked at.
_MAX_PARSED_BYTES = 64 * 1024


class TemplateTokens(NamedTuple):
    """Tokens that it adds to any chat, and for each function that is offered."""

    per_chat: int
    per_function: int


DEFAULT_TEMPLATE_TOKENS = TemplateTokens(4096, 256)
"""What is assumed of a model whose engine does not say, or sleeps."""


async def fetch_template_tokens(client: Client, endpoint: str, model: str) -> TemplateTokens:
    """What an engine's `/tokenize` tells of it; `model`: as the engine knows it. UNKNOWN where it tells no number."""

    async def count(messages: Sequence[dict[str, Any]], functions: int) -> int:
        tools = {"tools": [_FUNCTION] * functions} if functions else {}
        body = orjson.dumps({"model": model, "messages": messages, **tools})
        headers = [(b"content-type", b"application/json")]
        response = await client.request(endpoint, "POST", "/tokenize", headers=headers, body=body, idempotent=True)
        told = orjson.loads(await response.read(_MAX_RESPONSE_BYTES))["count"]
        if type(told) is not int or not 0 < told <= _MAX_TOKENS:
            raise ValueError("no number of tokens")
        return told

    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            bare = max([await count([_USER], 0), await count([_SYSTEM, _USER], 0)])
            one = [await count([_USER], 1), await count([_SYSTEM, _USER], 1)]
            two = await count([_USER], 2)
    except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, KeyError, TypeError):
        return DEFAULT_TEMPLATE_TOKENS
    return TemplateTokens(max(bare, *one), max(0, two - one[0]))


def max_prompt_tokens(template: TemplateTokens, body: bytes, functions: int) -> int | None:
    """At least as many tokens as a chat's prompt has; None: only the model's context bounds it."""
    if not functions:
        return len(body) + template.per_chat
    if len(body) > _MAX_PARSED_BYTES:
        return None
    written = orjson.dumps(orjson.loads(body)["tools"], option=orjson.OPT_INDENT_2)
    return len(body) + template.per_chat + functions * template.per_function + _TEMPLATE_FACTOR * len(written)
