"""The end of a process in the middle of its work, in tests of what the next one finds."""

from __future__ import annotations

__all__ = ["Killed"]


class Killed(BaseException):
    """The process is killed here: no `except Exception` of the code under test sees it."""
