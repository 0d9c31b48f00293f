"""Errors as Kubernetes' Status, so that kubectl shows their message, with OpenAI's error beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.errors import PlatformError

__all__ = ["status_body", "status_content"]

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


# What kubectl accepts when it asks which resources there are. It shows the text of a refusal then, and of JSON nothing.
_DISCOVERY = b"g=apidiscovery.k8s.io"


def status_content(error: PlatformError, request: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes]:
    """The content type and the body of an error, for a request with these fields."""
    if any(name == b"accept" and _DISCOVERY in value for name, value in request):
        return "text/plain; charset=utf-8", error.message.encode()
    return "application/json", status_body(error)


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
