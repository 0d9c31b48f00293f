"""Tables of models. Times are seconds since 1970."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["model_alias_revisions", "model_aliases", "model_credentials", "model_placements", "model_wakes", "models"]

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
    # The credential by which its files are fetched; NULL: the installation's.
    Column("credential_id", String(64)),
)

model_credentials = Table(
    "model_credentials",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("source", String(16), nullable=False),
    Column("username", String(256)),
    # Encrypted; and which of the installation's keys encrypted it.
    Column("sealed", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_model_credentials_key_id", "key_id"),
    UniqueConstraint("project_id", "name", name="uq_model_credentials_name"),
)

model_wakes = Table(
    "model_wakes",
    metadata,
    Column("model_id", String(256), primary_key=True),
    Column("at", Float, primary_key=True),
    Column("seconds", Float, nullable=False),
    Index("ix_model_wakes_recent", "model_id", "at"),
)

# Engines on worker clusters, or what is left of them there. Those at home have no row.
model_placements = Table(
    "model_placements",
    metadata,
    Column("model_id", String(256), primary_key=True),
    # As in `EngineModel`; empty: of the model's own project.
    Column("adapters_of", String(64), primary_key=True),
    Column("cluster_id", String(64), primary_key=True),
    # Of the model, which distinguishes those that had the id one after another.
    Column("created", BigInteger, nullable=False),
    # When it was placed or last woken there.
    Column("woken_at", Float, nullable=False),
    # Of all replicas, for placements before the cluster's next inventory.
    Column("gpus", Integer, nullable=False),
    Index("ix_model_placements_cluster", "cluster_id"),
)

# Names by which a project refers to models. A deleted one keeps its row for a while, so that gateways learn of it.
model_aliases = Table(
    "model_aliases",
    metadata,
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    # The name of the model, which means the same model within the project until that is deleted. NULL: it is deleted.
    Column("model", String(256)),
    # The number of its last revision.
    Column("number", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", Float, nullable=False),
    # The revision of the registry that changed it.
    Column("revision", BigInteger, nullable=False, index=True),
    Index("ix_model_aliases_model", "model"),
)

# Where an alias pointed: each change is a row.
model_alias_revisions = Table(
    "model_alias_revisions",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("model", String(256)),
    Column("previous_model", String(256)),
    Column("at", Float, nullable=False),
    # created, moved, rolled_back, promoted, deleted.
    Column("cause", String(16), nullable=False),
    Column("reason", SanitizedText, nullable=False),
    # Who changed it. NULL key: a signed-in person.
    Column("user_id", String(64), nullable=False),
    Column("key_id", String(64)),
    # The fine-tuning job that promoted its result.
    Column("fine_tuning_job_id", String(64)),
    ForeignKeyConstraint(
        ["project_id", "name"],
        ["model_aliases.project_id", "model_aliases.name"],
        ondelete="CASCADE",
        name="fk_model_alias_revisions_alias",
    ),
)
