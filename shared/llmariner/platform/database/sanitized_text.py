"""Texts that others wrote: answers of servers, messages of exceptions. They hold what no database stores."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text
from sqlalchemy.types import TypeDecorator

__all__ = ["SanitizedText"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SanitizedText(TypeDecorator[str]):
    """A text whose NUL characters, which PostgreSQL refuses, and lone surrogates are replaced when it is stored.

    So what is to be noted of a failure never fails by how the failure was told.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """What is stored."""
        return None if value is None else value.replace("\0", _REPLACEMENT).encode(errors="replace").decode()
