"""Limits on the depth and the number of values of a JSON body, checked before it is parsed.

Parsing a body beyond these limits would block every other stream of the process. The check takes linear time, without a
loop over bytes in Python.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from llmariner.errors import InvalidRequest

__all__ = ["check_structure"]

_MAX_DEPTH: Final = 100
_MAX_CONTAINERS = 50_000
_MAX_VALUES: Final = 500_000
# Names in objects: parsing one costs as much as many values.
_MAX_NAMES: Final = 100_000
# Quotes that remain around strings with brackets, commas or colons; all other strings cost nothing.
_MAX_QUOTES = 200_000
_STRUCTURAL = b'"[]{},:'
_NOT_STRUCTURAL = bytes(byte for byte in range(256) if byte not in _STRUCTURAL)
_DEPTH_CHANGES = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check_structure(body: bytes) -> None:
    """InvalidRequest for a body that is nested too deep or has too many values. Invalid JSON is left to the parser."""
    if len(body) <= 2 * _MAX_DEPTH:
        return  # each level takes two bytes
    containers = body.count(b"[") + body.count(b"{")
    # A body has no more commas and colons than bytes.
    if containers <= _MAX_DEPTH and (
        len(body) <= _MAX_NAMES or (body.count(b",") <= _MAX_VALUES and body.count(b":") <= _MAX_NAMES)
    ):
        return
    outside = _outside_strings(body)
    brackets = outside.translate(None, b",:")
    depths = accumulate(map(_DEPTH_CHANGES.__getitem__, brackets[: 2 * _MAX_CONTAINERS]))
    if max(depths, default=0) > _MAX_DEPTH:
        raise InvalidRequest(f"The body is nested more than {_MAX_DEPTH} levels deep.", code="nesting_too_deep")
    too_many = outside.count(b",") > _MAX_VALUES or outside.count(b":") > _MAX_NAMES
    if too_many or len(brackets) > 2 * _MAX_CONTAINERS:
        raise _too_many_values()


def _outside_strings(body: bytes) -> bytes:
    """The brackets, commas and colons of a body that are not part of a string."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two adjacent quotes end one string and begin the next, or are an empty string: removing them changes nothing.
    structural = body.translate(None, _NOT_STRUCTURAL).replace(b'""', b"")
    if structural.count(b'"') > _MAX_QUOTES:
        raise _too_many_values()
    return b"".join(structural.split(b'"')[::2])


def _too_many_values() -> InvalidRequest:
    return InvalidRequest(
        f"The body has more than {_MAX_VALUES} values, {_MAX_NAMES} fields, or {_MAX_CONTAINERS} arrays and objects. "
        "Send it in several requests.",
        code="too_many_values",
    )
