"""HTTP client of the commands that start and check the platform of this machine.

It ignores proxies in the environment, which cannot reach this machine's own addresses.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

__all__ = ["get", "post"]

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, seconds: float) -> dict[str, Any]:
    """The JSON object at a URL. Raises HTTPError for an error status, OSError without a response."""
    with _direct.open(url, timeout=seconds) as answer:
        return _object(answer.read())


def post(url: str, secret: str, body: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """POST a JSON object with an API key; returns the response's. The server may wait nearly `seconds` for a model."""
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    headers["prefer"] = f"wait={max(1, int(seconds - 10))}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with _direct.open(request, timeout=seconds) as answer:
        return _object(answer.read())


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw or b"{}")
    return value if isinstance(value, dict) else {}
