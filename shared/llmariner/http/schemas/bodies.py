"""JSON bodies of administrative requests: unknown and duplicate fields are errors.

A misspelled restriction would otherwise create an object without the restriction (docs/api.md).
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
"""The type of the validation error for an unknown field; its context has `field` and `nearest`."""


class Body(BaseModel):
    """A JSON object with exactly the declared types. An unknown field is an error that names the nearest field."""

    model_config = ConfigDict(strict=True)

    output_only: ClassVar[frozenset[str]] = frozenset()
    """Fields of the resource that clients may send back; they are ignored."""

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
        lowered = field.lower()
        containing = [name for name in cls.model_fields if lowered in name]
        near = get_close_matches(lowered, cls.model_fields, n=1) or containing
        return near[0] if near else None


class JsonRoute(APIRoute):
    """A route that reads its body with `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with a request that parses by `parse_json`."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def body(self) -> bytes:
        """The body's bytes. Starlette's list of chunks takes many times the memory for a body in chunks of two bytes."""
        if not hasattr(self, "_body"):
            whole = bytearray()
            async for part in self.stream():
                whole += part
            self._body = bytes(whole)
        return self._body

    async def json(self) -> Any:
        """The parsed body; raises as `parse_json` does."""
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


def parse_json(raw: bytes) -> Any:
    """The document of a body. Raises JSONDecodeError, and UnicodeDecodeError for bytes that are not UTF-8.

    Raises InvalidRequest for a duplicate field, a number outside JSON (NaN, Infinity), or a lone surrogate.
    """
    document = json.loads(
        raw.decode("utf-8-sig"), object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant
    )
    if _SURROGATE.search(raw):
        _reject_lone_surrogates(document)
    return document


def _reject_lone_surrogates(document: Any) -> None:
    """Raises InvalidRequest for a lone surrogate, which UTF-8 cannot encode and databases reject."""
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
    """An `object_pairs_hook`. RFC 8259 leaves open which duplicate counts, so a check and its use could differ."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in fields if names.count(name) > 1)[:80]
        raise InvalidRequest(
            f"'{duplicate}' is given twice: send each field once.", param=duplicate, code="duplicate_parameter"
        )
    return fields


def _reject_constant(text: str) -> float:
    raise InvalidRequest(f"The body holds {text}, which is no JSON number: send a finite one.", code="invalid_json")


@contextmanager
def rename_error_fields(**fields: str) -> Iterator[None]:
    """Rename fields in errors to the names that the caller sent: `rename_error_fields(title="name")`."""
    try:
        yield
    except PlatformError as error:
        if error.param in fields:
            error.message = error.message.replace(f"'{error.param}'", f"'{fields[error.param]}'")
            error.param = fields[error.param]
        raise
