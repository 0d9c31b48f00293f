"""Events of quotas."""

from __future__ import annotations

__all__ = ["DELETED", "UPDATED"]

UPDATED = "ai.llmariner.quota.updated.v1"
DELETED = "ai.llmariner.quota.deleted.v1"
