"""Events of clusters."""

from __future__ import annotations

__all__ = ["CREATED", "DELETED", "UPDATED"]

CREATED = "ai.llmariner.cluster.created.v1"
UPDATED = "ai.llmariner.cluster.updated.v1"
DELETED = "ai.llmariner.cluster.deleted.v1"
