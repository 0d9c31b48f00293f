"""The error by which a step of an installation asks to be retried."""

from __future__ import annotations

__all__ = ["RetryLater"]


class RetryLater(Exception):
    """A prerequisite does not exist yet; the message says which, and how to create it."""
