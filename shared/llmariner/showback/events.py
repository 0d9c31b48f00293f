"""Events of showback."""

from __future__ import annotations

__all__ = ["CHECK_REQUESTED", "ENDED", "STARTED"]

STARTED = "ai.llmariner.allocation.started.v1"
CHECK_REQUESTED = "ai.llmariner.allocation.check_requested.v1"
ENDED = "ai.llmariner.allocation.ended.v1"
