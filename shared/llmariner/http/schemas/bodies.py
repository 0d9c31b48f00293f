"""JSON bodies of administrative requests: every field is one that the route knows, and is given once.

A misspelt restriction would otherwise make an object without it (docs/api.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from llmariner.errors import InvalidRequest, PlatformError

__all__ = ["UNKNOWN_PARAMETER", "Body", "JsonRoute", "parse_json", "rename_error_fields"]

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
UNKNOWN_PARAMETER = "unknown_parameter"
"""The type of the validation error for a field that a body doesn't have; its context has `field` and `nearest`."""


class Body(BaseModel):
    """A JSON object whose fields have exactly the declared types. Any other field is an error that names the nearest."""

    model_config = ConfigDict(strict=True)

    output_only: ClassVar[frozenset[str]] = frozenset()
    """Fields of the resource that a client may send back as it read them; they change nothing."""

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for field in value:
                if field not in cls.model_fields and field not in cls.output_only:
                    raise PydanticCustomError(
                        UNKNOWN_PARAMETER, "no such field", {"field": str(field)[:80], "nearest": cls._nearest(field)}
                    )
        return value

    @classmethod
    def _nearest(cls, field: str) -> str | None:
        said = field.lower()
        near = get_close_matches(said, cls.model_fields, n=1) or [name for name in cls.model_fields if said in name]
        return near[0] if near else None


class JsonRoute(APIRoute):
    """A route that reads its body with `decode`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As the framework's, with our reader."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await answer(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def body(self) -> bytes:
        """The bytes. The framework's list would hold many times as much of a body that comes in parts of two bytes."""
        if not hasattr(self, "_body"):
            whole = bytearray()
            async for part in self.stream():
                whole += part
            self._body = bytes(whole)
        return self._body

    async def json(self) -> Any:
        """The body. JSONDecodeError, or InvalidRequest for a field that is given twice."""
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


def parse_json(raw: bytes) -> Any:
    """The document in a body. JSONDecodeError; UnicodeDecodeError for what is not UTF-8.

    InvalidRequest for a field given twice, a number that JSON hasn't, or half of a surrogate pair, which is no text.
    """
    document = json.loads(
        raw.decode("utf-8-sig"), object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant
    )
    if _SURROGATE.search(raw):
        _reject_lone_surrogates(document)
    return document


def _reject_lone_surrogates(document: Any) -> None:
    """Databases, terminals and UTF-8 itself have no place for a lone surrogate."""
    parts = document.items() if isinstance(document, dict) else [("", document)]
    for field, value in parts:
        try:
            json.dumps({field: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            name = field.encode(errors="replace").decode()[:80]
            raise InvalidRequest(
                f"'{name or 'body'}' holds half of a surrogate pair (\\u{ord(error.object[error.start]):04x}), which is no "
                "Unicode text: send both halves, or the character itself in UTF-8.",
                param=name or None,
                code="invalid_json",
            ) from error


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259 leaves open which of two counts, so readers disagree: one may check what another obeys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)[:80]
        raise InvalidRequest(
            f"'{twice}' is given twice: send each field once.", param=twice, code="duplicate_parameter"
        )
    return found


def _reject_constant(text: str) -> float:
    raise InvalidRequest(f"The body holds {text}, which is no JSON number: send a finite one.", code="invalid_json")


@contextmanager
def rename_error_fields(**fields: str) -> Iterator[None]:
    """In an error, call a field what the caller sent: `sent_as(title="name")` where the rule says `title`."""
    try:
        yield
    except PlatformError as error:
        if error.param in fields:
            error.message = error.message.replace(f"'{error.param}'", f"'{fields[error.param]}'")
            error.param = fields[error.param]
        raise
