"""Tables of the placement of jobs. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table

from llmariner.platform.database import metadata

__all__ = ["job_leftovers"]

# What earlier placements of jobs left on clusters that were away. `name`: the id that the job's port had for it there.
job_leftovers = Table(
    "batch_job_leftovers",
    metadata,
    Column("name", String(80), primary_key=True),
    # NULL: where the platform runs its own jobs.
    Column("cluster_id", String(64)),
    # When its removal is tried next.
    Column("due_at", Float, nullable=False),
    # NULL, by the release before: long ago.
    Column("noted_at", Float),
)
