"""Errors as Kubernetes' Status, so that kubectl shows their message, with OpenAI's error beside it."""

from __future__ import annotations

import json

from llmariner.errors import PlatformError

__all__ = ["status_body"]

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


def status_body(error: PlatformError) -> bytes:
    """The body of an error."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": _REASONS.get(error.status, "InternalError"),
        "code": error.status,
    }
    return json.dumps({**status, **error.body()}).encode()
