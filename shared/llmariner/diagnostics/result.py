"""The result of a check, and the error of an object that may not be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Body", "CheckResult", "CheckStatus", "Unreadable", "failed", "join_names", "ok", "optional"]

Body = dict[str, Any]
_MAX_NAMES = 5


class CheckStatus(StrEnum):
    """`optional`: absent, and only some installations need it. `unknown`: these permissions do not allow reading it."""

    OK = "ok"
    FAILED = "failed"
    OPTIONAL = "optional"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check: `detail` is what was observed, `remedy` what to do (empty when healthy)."""

    check: str
    result: CheckStatus
    detail: str
    remedy: str = ""

    @property
    def is_healthy(self) -> bool:
        """Whether no action is required: the result is ok or optional."""
        return self.result in (CheckStatus.OK, CheckStatus.OPTIONAL)

    def to_json(self) -> dict[str, str]:
        """The JSON object that `llma cluster check` prints; its key `mend` is the remedy."""
        return {
            "check": self.check,
            "result": str(self.result),
            "detail": self.detail,
            "mend": self.remedy,
        }


class Unreadable(Exception):
    """The API server refuses to return what a check reads; `remedy` says how to get access."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def ok(check: str, detail: str) -> CheckResult:
    """A result without a problem."""
    return CheckResult(check, CheckStatus.OK, detail)


def failed(check: str, detail: str, remedy: str) -> CheckResult:
    """A result for something missing or misconfigured."""
    return CheckResult(check, CheckStatus.FAILED, detail, remedy)


def optional(check: str, detail: str, remedy: str) -> CheckResult:
    """A result for something absent that only some installations need."""
    return CheckResult(check, CheckStatus.OPTIONAL, detail, remedy)


def join_names(names: Iterable[str]) -> str:
    """The names sorted and joined, at most five of them: `a, b, c, d, e and 3 more`."""
    listed = sorted(names)
    more = f" and {len(listed) - _MAX_NAMES} more" if len(listed) > _MAX_NAMES else ""
    return ", ".join(listed[:_MAX_NAMES]) + more
