"""How long a model's context is: asked from its engine, once, when a request leaves the length of its answer open."""

from __future__ import annotations

import asyncio

import orjson

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["DEFAULT_CONTEXT_LENGTH", "fetch_context_length"]

DEFAULT_CONTEXT_LENGTH = 131_072
"""What is assumed of a model whose engine does not say, or sleeps."""

_MAX_LENGTH = 2**31 - 1
# A request waits for it, whose caller's hang-up nobody watches yet.
_TIMEOUT_SECONDS = 5.0
_MAX_RESPONSE_BYTES = 1024 * 1024


async def fetch_context_length(client: Client, endpoint: str, model_id: str) -> int:
    """Tokens, as vLLM tells them in its list of models; 0 when it does not, or tells what is no length."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            response = await client.request(endpoint, "GET", "/v1/models")
            rows = orjson.loads(await response.read(_MAX_RESPONSE_BYTES))["data"]
        told = {row["id"]: row.get("max_model_len") for row in rows}
    except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    lengths = {name: length for name, length in told.items() if type(length) is int and 0 < length <= _MAX_LENGTH}
    return lengths.get(model_id) or max(lengths.values(), default=0)
