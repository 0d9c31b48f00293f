"""Errors of the API server, for the adapters that call it; they are not rendered to callers of the platform.

`llmariner.errors.Unavailable` is raised when the server doesn't respond, as with the database.
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
    "unavailable",
]


@dataclass(frozen=True)
class Cause:
    """One cause of an error. `field` is a path such as `spec.replicas`, `owner` its field manager (conflicts of apply)."""

    field: str
    message: str
    owner: str = ""


class ClusterError(Exception):
    """The API server rejected a request; the message is the server's."""

    def __init__(self, message: str, causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.causes = causes


class NotFound(ClusterError):
    """No such object, no such namespace, or a kind that this cluster doesn't have."""


class Forbidden(ClusterError):
    """The ServiceAccount lacks the permission, a quota is exceeded or a webhook denies it; also an invalid credential."""


class Invalid(ClusterError):
    """The object violates its schema or has an unknown field; `causes` name the fields."""


class Conflict(ClusterError):
    """The resourceVersion is stale, or (with `causes`) other managers own the applied fields."""


class AlreadyExists(Conflict):
    """An object of that name exists."""


class Expired(ClusterError):
    """The resourceVersion is older than the server's history: list again."""


_ERROR_OF_STATUS: dict[int, type[ClusterError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}
# The server responds 500 to an apply whose body violates the schema (structured-merge-diff's error has no code).
_SCHEMA_MISMATCH = re.compile(r"failed to create typed (patch|live) object .*")
_OWNER = re.compile(r'conflict with "((?:[^"\\]|\\.)*)"')
_RETRY_AFTER = {"retry-after": "2"}


def raise_for_status(code: int, status: Mapping[str, Any]) -> NoReturn:
    """Raise the error of a response with that HTTP status code and `Status` body."""
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


def unavailable(error: Exception) -> Unavailable:
    """The error for a server that does not answer."""
    return Unavailable(
        f"The Kubernetes API does not answer ({error}). Nothing is known of what was asked; try again shortly.",
        headers={"retry-after": "2"},
    )


def _cause(cause: Mapping[str, Any]) -> Cause:
    message = str(cause.get("message", ""))
    owner = _OWNER.search(message)
    # Fields of conflicts have a leading dot, those of schema errors do not.
    return Cause(str(cause.get("field", "")).removeprefix("."), message, owner[1] if owner else "")
