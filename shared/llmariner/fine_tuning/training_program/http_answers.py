"""What requests of a job to the platform and its store have in common."""

from __future__ import annotations

import functools
import json
import os
import ssl
import urllib.error
from typing import Any

__all__ = ["TIMEOUT_SECONDS", "Refused", "error_of", "trusted"]

TIMEOUT_SECONDS = 60.0
"""Of one step of a request."""
_ERROR_BYTES = 64 << 10


class Refused(Exception):
    """The platform refuses what the job asks, and would again; the message and the code are the platform's."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@functools.cache
def trusted() -> ssl.SSLContext:
    """The authorities of the image, and that of the control plane if the pod has one."""
    context = ssl.create_default_context()
    authority = os.environ.get("LLMARINER_AUTHORITY_FILE", "")
    if os.path.exists(authority):
        context.load_verify_locations(authority)
    return context


def error_of(error: urllib.error.HTTPError) -> dict[str, Any]:
    """The platform's error; empty for what a proxy or a store says. Raises OSError, HTTPException where it is cut off."""
    with error:
        body = error.read(_ERROR_BYTES)
        cut_off = len(body) < _ERROR_BYTES and getattr(error.fp, "length", None)
    if cut_off:
        raise ConnectionError(f"The answer was cut off: {error}")
    try:
        return dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
