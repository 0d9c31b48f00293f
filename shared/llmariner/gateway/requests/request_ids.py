"""Request ids: unique among processes by random bits drawn once, within one by counting."""

from __future__ import annotations

import itertools
import os

__all__ = ["instance_id", "new_request_id"]

_instance = f"req_{os.urandom(10).hex()}"
_counter = itertools.count(1)


def new_request_id() -> str:
    """`req_<80 random bits of this process><number>`, in hexadecimal digits."""
    return f"{_instance}{next(_counter):08x}"


def instance_id() -> str:
    """What all request ids of this process begin with."""
    return _instance
