"""What an API server says no with. All are facts for the adapter that called, not yet for a caller of the platform.

A server that doesn't answer is `llmariner.errors.Unavailable`, as with the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from llmariner.errors import Unavailable

__all__ = [
    "AlreadyExists",
    "Cause",
    "ClusterError",
    "Conflict",
    "Expired",
    "Forbidden",
    "Invalid",
    "NotFound",
    "raise_for_status",
]


@dataclass(frozen=True)
class Cause:
    """One reason of a refusal. `field` is a path such as `spec.replicas`, `owner` who holds it (conflicts of apply)."""

    field: str
    message: str
    owner: str = ""


class ClusterError(Exception):
    """A request that the API server refused; the message is the server's own, with what to do where we know it."""

    def __init__(self, message: str, causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.causes = causes


class NotFound(ClusterError):
    """No such object, no such namespace, or a kind that this cluster doesn't have."""


class Forbidden(ClusterError):
    """Our ServiceAccount lacks the right, a quota is full or a webhook says no; also a credential that isn't taken."""


class Invalid(ClusterError):
    """The object breaks its schema, or has a field that the schema doesn't know; `causes` say where."""


class Conflict(ClusterError):
    """Another wrote first: the resourceVersion is stale, or (with `causes`) others own the fields that we apply."""


class AlreadyExists(Conflict):
    """An object of that name is there."""


class Expired(ClusterError):
    """The resourceVersion is older than what the server remembers: list again."""


_ERROR_OF_STATUS: dict[int, type[ClusterError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    415: Invalid,
    422: Invalid,
}
# A server answers 500 to an apply whose body doesn't fit the schema (structured-merge-diff's own error has no code).
_SCHEMA_MISMATCH = re.compile(r"failed to create typed (patch|live) object .*")
_OWNER = re.compile(r'conflict with "((?:[^"\\]|\\.)*)"')
_RETRY_AFTER = {"retry-after": "2"}


def raise_for_status(code: int, status: Mapping[str, Any]) -> NoReturn:
    """Raise what a `Status` body means. `code` counts where the body has none."""
    details = status.get("details") or {}
    message = str(status.get("message") or f"HTTP {code}")
    error_class = _ERROR_OF_STATUS.get(code)
    if status.get("reason") == "AlreadyExists":
        error_class = AlreadyExists
    elif _SCHEMA_MISMATCH.match(message):
        error_class = Invalid
    if error_class is None:
        raise Unavailable(
            f"The Kubernetes API can't serve this now ({message}). Try again shortly.",
            headers={"retry-after": str(details.get("retryAfterSeconds") or _RETRY_AFTER["retry-after"])},
        )
    raise error_class(message, tuple(_cause(each) for each in details.get("causes") or ()))


def _cause(cause: Mapping[str, Any]) -> Cause:
    message = str(cause.get("message", ""))
    owner = _OWNER.search(message)
    # Conflicts are written with a leading dot, faults without one.
    return Cause(str(cause.get("field", "")).removeprefix("."), message, owner[1] if owner else "")
