"""Request ids: random bits per gateway instance, followed by a counter."""

from __future__ import annotations

import itertools
import os

__all__ = ["instance_id", "new_request_id"]

_instance = f"req_{os.urandom(10).hex()}"
_counter = itertools.count(1)


def new_request_id() -> str:
    """`req_<80 random bits of this instance><counter>`, in hexadecimal digits."""
    return "%s%08x" % (_instance, next(_counter))  # noqa: UP031 - a format of a number costs four times as much, compiled


def instance_id() -> str:
    """The id of this gateway instance, with which all its request ids begin."""
    return _instance
