"""What the steps of an installation have in common: they may have to wait for each other."""

from __future__ import annotations

__all__ = ["Waiting"]


class Waiting(Exception):
    """Something that somebody else brings is not there yet; the message says what, and how to bring it."""
