"""The client address of the current request, set by the HTTP middleware and read when audit entries are appended.

A module of its own, so that functions without a database do not import the log.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["client_address"]

client_address: ContextVar[str | None] = ContextVar("client_address", default=None)
"""The client's IP address; None if unknown."""
