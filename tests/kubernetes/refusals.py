"""How an API server says no: `Status` bodies with code, reason, details, and the words of the real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .kinds import Kind

__all__ = [
    "Refusal",
    "already_exists",
    "bad_request",
    "conflict",
    "expired",
    "forbidden",
    "invalid",
    "no_such_resource",
    "not_allowed",
    "not_found",
    "unsupported",
    "untyped",
]


class Refusal(Exception):
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


def not_found(kind: Kind, name: str) -> Refusal:
    """No such object."""
    return Refusal(404, "NotFound", f'{kind.resource} "{name}" not found', _of(kind, name))


def already_exists(kind: Kind, name: str) -> Refusal:
    """The name is taken."""
    return Refusal(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _of(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Refusal:
    """Another wrote first, or a precondition doesn't hold."""
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return Refusal(409, "Conflict", message, _of(kind, name))


def invalid(kind: Kind, name: str, faults: list[str]) -> Refusal:
    """The object breaks its schema. A fault is `path: what is wrong`."""
    causes = [
        {"reason": "FieldValueInvalid", "field": fault.partition(": ")[0], "message": fault.partition(": ")[2]}
        for fault in faults
    ]
    shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
    message = f'{shown} "{name}" is invalid: {", ".join(faults)}'
    return Refusal(422, "Invalid", message, {**_of(kind, name, causes), "kind": kind.name})


def forbidden(kind: Kind, name: str, why: str) -> Refusal:
    """A right is missing, or the namespace is going."""
    return Refusal(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', _of(kind, name))


def bad_request(why: str) -> Refusal:
    """The request can't be read."""
    return Refusal(400, "BadRequest", why)


def untyped(kind: Kind, place: tuple[str, str], unknown: list[str]) -> Refusal:
    """An apply of fields that the schema doesn't know: refused whatever fieldValidation says, with no code of its own."""
    where = f"({'/'.join(place)}; {kind.api_version}, Kind={kind.name})"
    said = ", ".join(f".{path}: field not declared in schema" for path in unknown)
    return Refusal(500, "", f"failed to create typed patch object {where}: {said}")


def expired(why: str) -> Refusal:
    """A resourceVersion that isn't remembered."""
    return Refusal(410, "Expired", why)


def unsupported(media: str) -> Refusal:
    """A kind of patch that this resource doesn't take."""
    return Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {media}")


def no_such_resource() -> Refusal:
    """No such path."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def not_allowed() -> Refusal:
    """No such verb at this path."""
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
