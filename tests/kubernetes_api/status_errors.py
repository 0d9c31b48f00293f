"""Errors of an API server: `Status` bodies with code, reason, details, and the messages of the real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .kinds import Kind

__all__ = [
    "StatusError",
    "already_exists",
    "bad_request",
    "conflict",
    "expired",
    "forbidden",
    "invalid",
    "no_such_resource",
    "not_allowed",
    "not_found",
    "typed_patch_failure",
    "unsupported",
]


class StatusError(Exception):
    """An answer that isn't a success."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """The body."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def _of(kind: Kind, name: str, causes: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    found = list(causes)
    return {"name": name, "group": kind.group, "kind": kind.plural, **({"causes": found} if found else {})}


def not_found(kind: Kind, name: str) -> StatusError:
    """No such object."""
    return StatusError(404, "NotFound", f'{kind.resource} "{name}" not found', _of(kind, name))


def already_exists(kind: Kind, name: str) -> StatusError:
    """The name is taken."""
    return StatusError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _of(kind, name))


def conflict(kind: Kind, name: str, why: str) -> StatusError:
    """Another wrote first, or a precondition doesn't hold."""
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return StatusError(409, "Conflict", message, _of(kind, name))


def invalid(kind: Kind, name: str, faults: list[str]) -> StatusError:
    """The object breaks its schema. A fault is `path: what is wrong`."""
    causes = [
        {"reason": "FieldValueInvalid", "field": fault.partition(": ")[0], "message": fault.partition(": ")[2]}
        for fault in faults
    ]
    shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
    message = f'{shown} "{name}" is invalid: {", ".join(faults)}'
    return StatusError(422, "Invalid", message, {**_of(kind, name, causes), "kind": kind.name})


def forbidden(kind: Kind, name: str, why: str) -> StatusError:
    """A right is missing, or the namespace is going."""
    return StatusError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', _of(kind, name))


def bad_request(why: str) -> StatusError:
    """The request can't be read."""
    return StatusError(400, "BadRequest", why)


def typed_patch_failure(kind: Kind, place: tuple[str, str], unknown: list[str]) -> StatusError:
    """An apply of unknown fields: rejected for any fieldValidation, without a code of its own."""
    where = f"({'/'.join(place)}; {kind.api_version}, Kind={kind.name})"
    said = ", ".join(f".{path}: field not declared in schema" for path in unknown)
    return StatusError(500, "", f"failed to create typed patch object {where}: {said}")


def expired(why: str) -> StatusError:
    """A resourceVersion that isn't remembered."""
    return StatusError(410, "Expired", why)


def unsupported(media: str) -> StatusError:
    """A kind of patch that this resource doesn't take."""
    return StatusError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {media}")


def no_such_resource() -> StatusError:
    """No such path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def not_allowed() -> StatusError:
    """No such verb at this path."""
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
