"""The table of notebooks. Times are seconds since 1970.

Rows are the truth of what is asked for, the notebooks port of what runs.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, Text, UniqueConstraint, false

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["notebooks"]

notebooks = Table(
    "notebooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    # Its owner, and the key that it was created with. NULL: a signed-in person without a key.
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64)),
    Column("name", String(64), nullable=False),
    # The name as long as it is not deleted, then NULL: unique in the project.
    Column("active_name", String(64)),
    Column("image_type", String(64), nullable=False),
    Column("millicores", Integer, nullable=False),
    Column("memory_megabytes", Integer, nullable=False),
    Column("storage_megabytes", Integer, nullable=False),
    # NULL, of a row of an earlier release: none.
    Column("gpu_count", Integer),
    # JSON: variables of its programs, ports that are reached by path.
    Column("envs", Text, nullable=False),
    Column("ports", Text, nullable=False),
    # Whether members of the project may use it, besides its owner.
    Column("shared", Boolean, nullable=False, server_default=false()),
    # What its own key may do, and the models that it may use (JSON; NULL: all).
    Column("key_scopes", Text, nullable=False),
    Column("key_models", Text),
    # queued, initializing, running, stopping, stopped, failed.
    Column("status", String(16), nullable=False),
    Column("error_code", String(64)),
    Column("error_message", SanitizedText),
    # Counts its starts. What one start has: its key, and its token and the key's secret, encrypted.
    Column("run", Integer, nullable=False),
    Column("api_key_id", String(64)),
    Column("sealed_token", Text),
    Column("sealed_key", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", Float),
    Column("stopped_at", Float),
    # It is gone for every caller; a consumer ends it and deletes the row.
    Column("deleted_at", Float),
    # The digest of a link that opens it once, its end, and for whom it was made (JSON).
    Column("link_digest", String(64)),
    Column("link_expires_at", Float),
    Column("link_caller", Text),
    UniqueConstraint("project_id", "active_name", name="uq_notebooks_active_name"),
    Index("ix_notebooks_project", "project_id", "id"),
    Index("ix_notebooks_status", "status", "id"),
    Index("ix_notebooks_deleted_at", "deleted_at"),
)
