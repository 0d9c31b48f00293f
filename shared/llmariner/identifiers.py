"""Object ids: a prefix that names the kind, a timestamp that makes ids sort by creation time, and random characters."""

from __future__ import annotations

import secrets
import time

__all__ = ["first_id", "id_timestamp", "new_id"]

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """`<prefix>_<10 characters of time><12 random ones>`, e.g. `key_0mb2k1r9xa4t…`; 62 bits of randomness."""
    return f"{prefix}_{_base36(time.time_ns() // 1000, 10)}{_base36(secrets.randbits(62), 12)}"


def first_id(prefix: str, seconds: float) -> str:
    """The least id that `new_id` may return at that time, in seconds since 1970."""
    return f"{prefix}_{_base36(int(seconds * 1e6), 10)}{_base36(0, 12)}"


def id_timestamp(id_: str) -> float | None:
    """The creation time in an id of `new_id`, in seconds since 1970; None for any other text."""
    random = id_.rpartition("_")[2]
    if len(random) != 22 or not set(random) <= set(_ALPHABET):
        return None
    return int(random[:10], 36) / 1e6


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
