"""The context length of a model, queried from its engine for requests without a bound on the completion."""

from __future__ import annotations

import asyncio

import orjson

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["DEFAULT_CONTEXT_LENGTH", "fetch_context_length"]

DEFAULT_CONTEXT_LENGTH = 131_072
"""Assumed where the engine reports none, or is not running."""

_MAX_LENGTH = 2**31 - 1
# A request waits for the result, and a client disconnect is not detected yet.
_TIMEOUT_SECONDS = 5.0
_MAX_RESPONSE_BYTES = 1024 * 1024


async def fetch_context_length(client: Client, endpoint: str, model_id: str) -> int:
    """Return the tokens that vLLM lists as `max_model_len`; 0 if the engine does not respond or lists no valid length."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            response = await client.request(endpoint, "GET", "/v1/models")
            rows = orjson.loads(await response.read(_MAX_RESPONSE_BYTES))["data"]
        by_id = {row["id"]: row.get("max_model_len") for row in rows}
    except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    lengths = {name: length for name, length in by_id.items() if type(length) is int and 0 < length <= _MAX_LENGTH}
    return lengths.get(model_id) or max(lengths.values(), default=0)
