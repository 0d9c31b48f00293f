"""Tables of models. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, String, Table, Text, false, text

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["model_wakes", "models"]

models = Table(
    "models",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    # NULL: shared, every project of the installation may use it.
    Column("project_id", String(64), index=True),
    Column("owned_by", String(16), nullable=False),
    Column("source_repository", String(16), nullable=False),
    Column("model_file_location", String(1024), nullable=False),
    Column("format", String(16), nullable=False),
    Column("task", String(16), nullable=False),
    Column("base_model_id", String(256), index=True),
    Column("loading_status", String(16), nullable=False),
    Column("loading_progress", Float, nullable=False),
    Column("loading_message", SanitizedText, nullable=False),
    Column("loading_failure_reason", SanitizedText, nullable=False),
    Column("activation_status", String(16), nullable=False),
    Column("folder", String(1024), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("config", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    # As in `Model`. False for models of the previous release, which did not check.
    Column("approved", Boolean, nullable=False, server_default=false()),
    Column("revision", BigInteger, nullable=False, index=True),
    # Of a loading that is under way: bytes, and seconds until it is done, where that is known.
    Column("loaded_bytes", BigInteger, nullable=False, server_default="0"),
    Column("total_bytes", BigInteger, nullable=False, server_default="0"),
    Column("loading_seconds_left", Float),
    # As JSON of `models.traits.ModelTraits`; empty for models of the previous release.
    Column("traits", Text, nullable=False, server_default=text("''")),
)

model_wakes = Table(
    "model_wakes",
    metadata,
    Column("model_id", String(256), primary_key=True),
    Column("at", Float, primary_key=True),
    Column("seconds", Float, nullable=False),
    Index("ix_model_wakes_recent", "model_id", "at"),
)
