"""From where the request under way comes: set at a function's door, and read by whoever tells of an act.

Apart from the log, so that a function without a database does not import one for its sake.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["client_address"]

client_address: ContextVar[str | None] = ContextVar("client_address", default=None)
"""The caller's address; None where nobody knows it."""
