"""Request ids: random bits per gateway instance, followed by a counter."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["instance_id", "new_request_id"]

_DIGITS: Final = tuple(f"{low:02x}" for low in range(256))


class _Sequence:
    """The ids of this gateway instance. The digits are not formatted for each id, which would cost ten times as much."""

    __slots__ = ("high", "instance", "low", "prefix")

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.high = self.low = 0
        self.prefix = f"{instance}{0:06x}"

    def next(self) -> str:
        self.low += 1
        if self.low == len(_DIGITS):
            self.low, self.high = 0, self.high + 1
            self.prefix = f"{self.instance}{self.high:06x}"
        return self.prefix + _DIGITS[self.low]


_sequence: Final = _Sequence(f"req_{os.urandom(10).hex()}")


def new_request_id() -> str:
    """`req_<80 random bits of this instance><counter>`, in hexadecimal digits."""
    return _sequence.next()


def instance_id() -> str:
    """The id of this gateway instance, with which all its request ids begin."""
    return _sequence.instance
