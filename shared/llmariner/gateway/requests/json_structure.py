"""How deep and how manifold a JSON body is, found before it is parsed, in time linear in its length and without a loop
over its bytes in Python: what it counts would hold up every other stream of the process while it is parsed.
"""

from __future__ import annotations

from itertools import accumulate

from llmariner.errors import InvalidRequest

__all__ = ["check_structure"]

_DEEPEST = 100
_MOST_CONTAINERS = 50_000
_MOST_VALUES = 500_000
# Names in objects: to read one costs as much as many values.
_MOST_NAMES = 100_000
# Strings that hold brackets, commas or colons; all others cost nothing.
_MOST_QUOTES = 200_000
_MARKS = b'"[]{},:'
_OTHERS = bytes(byte for byte in range(256) if byte not in _MARKS)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check_structure(body: bytes) -> None:
    """InvalidRequest for what is nested too deep or has too many values. What is no JSON is left to the parser."""
    containers = body.count(b"[") + body.count(b"{")
    if containers <= _DEEPEST and body.count(b",") <= _MOST_VALUES and body.count(b":") <= _MOST_NAMES:
        return
    outside = _outside_strings(body)
    brackets = outside.translate(None, b",:")
    depths = accumulate(map(_STEPS.__getitem__, brackets[: 2 * _MOST_CONTAINERS]))
    if max(depths, default=0) > _DEEPEST:
        raise InvalidRequest(f"The body is nested more than {_DEEPEST} levels deep.", code="nesting_too_deep")
    many = outside.count(b",") > _MOST_VALUES or outside.count(b":") > _MOST_NAMES
    if many or len(brackets) > 2 * _MOST_CONTAINERS:
        raise _too_many()


def _outside_strings(body: bytes) -> bytes:
    """Its brackets, commas and colons that are not part of a string."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side end one string and begin the next, or are an empty one: nothing changes between them.
    marks = body.translate(None, _OTHERS).replace(b'""', b"")
    if marks.count(b'"') > _MOST_QUOTES:
        raise _too_many()
    return b"".join(marks.split(b'"')[::2])


def _too_many() -> InvalidRequest:
    return InvalidRequest(
        f"The body has more than {_MOST_VALUES} values, {_MOST_NAMES} fields, or {_MOST_CONTAINERS} arrays and objects. "
        "Send it in several requests.",
        code="too_many_values",
    )
