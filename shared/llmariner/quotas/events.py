"""Events of quotas."""

from __future__ import annotations

__all__ = ["DELETED", "SETTLEMENT_REQUESTED", "UPDATED"]

UPDATED = "ai.llmariner.quota.updated.v1"
DELETED = "ai.llmariner.quota.deleted.v1"
SETTLEMENT_REQUESTED = "ai.llmariner.quota.settlement_requested.v1"
