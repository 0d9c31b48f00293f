"""Table of quotas. Times are seconds since 1970; amounts are GPUs, thousandths of a core, bytes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table

from llmariner.platform.database import metadata

__all__ = ["quota_revisions", "quotas"]

quotas = Table(
    "quotas",
    metadata,
    # The id of the project or of the organization.
    Column("subject_id", String(64), primary_key=True),
    Column("organization_id", String(64), ForeignKey("organizations.id"), nullable=False),
    # NULL: it is the organization's, for all of its projects together.
    Column("project_id", String(64)),
    # NULL: no quota on that resource.
    Column("gpu_nominal", BigInteger),
    Column("cpu_nominal", BigInteger),
    Column("memory_nominal", BigInteger),
    # NULL: no limit on what is borrowed.
    Column("gpu_borrowing", BigInteger),
    Column("cpu_borrowing", BigInteger),
    Column("memory_borrowing", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # NULL: a release that did not note it; otherwise `quota.OPERATOR` or `quota.ORGANIZATION`.
    Column("set_by", String(16)),
    Index("ix_quotas_organization", "organization_id", "subject_id"),
)

# Grows with each change of a quota in an organization, and makes changes wait for each other.
quota_revisions = Table(
    "quota_revisions",
    metadata,
    Column("organization_id", String(64), ForeignKey("organizations.id"), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    # The last revision that is in effect, with nothing left of those before; NULL: none is known.
    Column("applied_revision", BigInteger),
    # When that was begun to be put into effect; projects that are archived later have queues still.
    Column("applied_at", BigInteger),
)
