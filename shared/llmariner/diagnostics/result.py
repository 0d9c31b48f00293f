"""What a check found, and what stops it from finding anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Body", "Finding", "Result", "Unreadable", "failed", "named", "ok", "optional"]

Body = dict[str, Any]
_SHOWN = 5


class Result(StrEnum):
    """`optional`: not there, and only some installations need it. `unknown`: it may not be read with these rights."""

    OK = "ok"
    FAILED = "failed"
    OPTIONAL = "optional"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing: how it is, what was seen, and what to do about it (empty when it is well)."""

    check: str
    result: Result
    detail: str
    mend: str = ""

    @property
    def well(self) -> bool:
        """Whether nobody needs to do anything."""
        return self.result in (Result.OK, Result.OPTIONAL)

    def shown(self) -> dict[str, str]:
        """As a JSON object."""
        return {**asdict(self), "result": str(self.result)}


class Unreadable(Exception):
    """The cluster refuses to show what a check looks at; `mend` says how to be shown it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


def ok(check: str, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Result.OK, detail)


def failed(check: str, detail: str, mend: str) -> Finding:
    """It is missing or mis-set."""
    return Finding(check, Result.FAILED, detail, mend)


def optional(check: str, detail: str, mend: str) -> Finding:
    """It isn't there, and that is well unless one wants what it is for."""
    return Finding(check, Result.OPTIONAL, detail, mend)


def named(names: Iterable[str]) -> str:
    """`a, b, c and 3 more`."""
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
