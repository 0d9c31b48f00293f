"""How deep and how manifold a JSON body is, found before it is parsed, in time linear in its length and without a loop
over its bytes in Python: what it counts would hold up every other stream of the process while it is parsed.
"""

from __future__ import annotations

from itertools import accumulate

from llmariner.errors import InvalidRequest

__all__ = ["check_structure"]

_MAX_DEPTH = 100
_MAX_CONTAINERS = 50_000
_MAX_VALUES = 500_000
# Names in objects: to read one costs as much as many values.
_MAX_NAMES = 100_000
# Strings that hold brackets, commas or colons; all others cost nothing.
_MAX_QUOTES = 200_000
_STRUCTURAL = b'"[]{},:'
_NOT_STRUCTURAL = bytes(byte for byte in range(256) if byte not in _STRUCTURAL)
_DEPTH_CHANGES = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check_structure(body: bytes) -> None:
    """InvalidRequest for what is nested too deep or has too many values. What is no JSON is left to the parser."""
    containers = body.count(b"[") + body.count(b"{")
    if containers <= _MAX_DEPTH and body.count(b",") <= _MAX_VALUES and body.count(b":") <= _MAX_NAMES:
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
    """Its brackets, commas and colons that are not part of a string."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side end one string and begin the next, or are an empty one: nothing changes between them.
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
