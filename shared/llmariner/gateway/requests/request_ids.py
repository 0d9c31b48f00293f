"""Request ids: unique among processes by random bits drawn once, within one by counting."""

from __future__ import annotations

import itertools
import os

__all__ = ["new_request_id", "process_name"]

_process = f"req_{os.urandom(10).hex()}"
_counter = itertools.count(1)


def new_request_id() -> str:
    """`req_<80 random bits of this process><number>`, in hexadecimal digits."""
    return f"{_process}{next(_counter):08x}"


def process_name() -> str:
    """What all request ids of this process begin with."""
    return _process
