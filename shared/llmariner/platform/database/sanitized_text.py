"""A column type for text from outside, such as server responses and exception messages, with any characters."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text
from sqlalchemy.types import TypeDecorator

__all__ = ["SanitizedText"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SanitizedText(TypeDecorator[str]):
    """Text whose NUL characters, which PostgreSQL rejects, and lone surrogates are replaced when it is stored.

    Recording a failure therefore never fails because of the failure's message.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """The sanitized text."""
        return None if value is None else value.replace("\0", _REPLACEMENT).encode(errors="replace").decode()
