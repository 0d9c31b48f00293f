"""How a request for an engine is written on the tunnel: which pod, and which of the engine's paths.

The function `sessions` writes it and the agent reads it. Imports the standard library alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["FAILED", "PREFIX", "EnginePath"]

PREFIX = b"/engines/"
"""The start of `:path` in requests for engines; every other path is Kubernetes' API."""
FAILED = (b"llmariner-tunnel", b"failed")
"""A field of responses that no engine gave: the way to it is broken, or it closed its connection before it responded."""
_NAME = rb"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
# One segment per name: nothing encoded, no `.` or `..`, so that every server reads the path alike.
_TARGET = rb"(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255}){1,9}"
_PATH = re.compile(rb"/engines/(%b)/(%b)(%b)" % (_NAME, _NAME, _TARGET))


class EnginePath(NamedTuple):
    """`target`: the path at the engine, which starts with a slash; it has no query."""

    namespace: str
    pod: str
    target: str

    @classmethod
    def parse(cls, path: bytes) -> EnginePath | None:
        """The parts of a `:path`; None for one that is not plain."""
        found = _PATH.fullmatch(path)
        return None if found is None else cls(*(each.decode() for each in found.groups()))

    def text(self) -> bytes:
        """The `:path`."""
        return f"/engines/{self.namespace}/{self.pod}{self.target}".encode()
