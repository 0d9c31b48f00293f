"""The number of tokens that a model's chat template adds to a chat, queried from its engine.

A template may add a system message, instructions for functions, or repeat the functions: tokens that no byte of the request
body accounts for. The engine tokenizes the shortest possible chats.
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
# Templates render functions as JSON with up to four spaces of indentation, and repeat their names.
_TEMPLATE_FACTOR = 4
# Functions of larger bodies are not parsed.
_MAX_PARSED_BYTES = 64 * 1024


class TemplateTokens(NamedTuple):
    """Tokens that a template adds per chat, and per function in `tools`."""

    per_chat: int
    per_function: int


DEFAULT_TEMPLATE_TOKENS = TemplateTokens(4096, 256)
"""Assumed where the engine does not respond, or is not running."""


async def fetch_template_tokens(client: Client, endpoint: str, model: str) -> TemplateTokens:
    """Measure the template by the engine's `/tokenize`; `model`: its name in the engine. The default on any failure."""

    async def count(messages: Sequence[dict[str, Any]], functions: int) -> int:
        tools = {"tools": [_FUNCTION] * functions} if functions else {}
        body = orjson.dumps({"model": model, "messages": messages, **tools})
        headers = [(b"content-type", b"application/json")]
        response = await client.request(endpoint, "POST", "/tokenize", headers=headers, body=body, idempotent=True)
        tokens = orjson.loads(await response.read(_MAX_RESPONSE_BYTES))["count"]
        if type(tokens) is not int or not 0 < tokens <= _MAX_TOKENS:
            raise ValueError("no number of tokens")
        return tokens

    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            bare = max([await count([_USER], 0), await count([_SYSTEM, _USER], 0)])
            one = [await count([_USER], 1), await count([_SYSTEM, _USER], 1)]
            two = await count([_USER], 2)
    except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, KeyError, TypeError):
        return DEFAULT_TEMPLATE_TOKENS
    return TemplateTokens(max(bare, *one), max(0, two - one[0]))


def max_prompt_tokens(template: TemplateTokens, body: bytes, functions: int) -> int | None:
    """An upper bound of the tokens of a chat's prompt; None: only the context length bounds it."""
    if not functions:
        return len(body) + template.per_chat
    if len(body) > _MAX_PARSED_BYTES:
        return None
    rendered = orjson.dumps(orjson.loads(body)["tools"], option=orjson.OPT_INDENT_2)
    return len(body) + template.per_chat + functions * template.per_function + _TEMPLATE_FACTOR * len(rendered)
