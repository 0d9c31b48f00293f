"""Parameters of queries, as Kubernetes' API server reads them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from llmariner.errors import InvalidRequest

__all__ = ["first_values", "is_set", "whole_number"]

_MAX_DIGITS = 15


def first_values(query: bytes) -> dict[str, str]:
    """The first value of each parameter."""
    return dict(reversed(parse_qsl(query.decode(), keep_blank_values=True)))


def is_set(values: Mapping[str, str], name: str) -> bool:
    """Whether a parameter is true: everything but `false` and `0` is."""
    return values.get(name, "false").lower() not in ("false", "0")


def whole_number(values: Mapping[str, str], name: str, least: int) -> int | None:
    """A number from `least` on; None where there is none. InvalidRequest."""
    text = values.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and int(text) >= least):
        raise InvalidRequest(f"'{name}' must be a whole number from {least} on.", param=name)
    return int(text)
