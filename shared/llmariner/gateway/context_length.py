"""How long a model's context is: asked from its engine, once, when a request leaves the length of its answer open."""

from __future__ import annotations

import orjson

from llmariner.client import Client, ConnectionFailed, ResponseBroken

__all__ = ["LONGEST_CONTEXT", "context_length"]

LONGEST_CONTEXT = 131_072
"""What is assumed of a model whose engine does not say, or sleeps."""


async def context_length(client: Client, endpoint: str, model_id: str) -> int:
    """Tokens, as vLLM tells them in its list of models; 0 when it does not."""
    try:
        response = await client.request(endpoint, "GET", "/v1/models")
        rows = orjson.loads(await response.read())["data"]
    except (ConnectionFailed, ResponseBroken, ValueError, KeyError, TypeError):
        return 0
    lengths = {row.get("id"): row.get("max_model_len") for row in rows}
    found = lengths.get(model_id) or max((length for length in lengths.values() if length), default=0)
    return int(found)
