"""HTTP to the platform of this machine, for the commands that start and check it. A proxy for the outside world, which the
environment may name, is never asked: it can't reach this machine's own addresses."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

__all__ = ["get", "post"]

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, seconds: float) -> dict[str, Any]:
    """The JSON object at a URL. HTTPError for another status than a good one, OSError when nobody answers."""
    with _direct.open(url, timeout=seconds) as answer:
        return _object(answer.read())


def post(url: str, secret: str, body: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """The answer to a JSON object, with an API key, by a server that may wait nearly as long before it answers."""
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    headers["prefer"] = f"wait={max(1, int(seconds - 10))}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with _direct.open(request, timeout=seconds) as answer:
        return _object(answer.read())


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw or b"{}")
    return value if isinstance(value, dict) else {}
