"""Events of showback."""

from __future__ import annotations

__all__ = ["ENDED", "STARTED"]

STARTED = "ai.llmariner.allocation.started.v1"
ENDED = "ai.llmariner.allocation.ended.v1"
