"""Tenancy, models, events and the ledger: the tables of the walking platform."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    _tenancy()
    _models()
    _events()
    _ledger()


def downgrade() -> None:
    for table in (
        "ledger_requests",
        "ledger_events",
        "consumed_events",
        "deliveries",
        "events",
        "model_wakes",
        "models",
        "api_keys",
        "users",
        "projects",
        "organizations",
        "revisions",
    ):
        op.drop_table(table)


def _tenancy() -> None:
    op.create_table(
        "organizations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("title", sa.String(256), nullable=False, unique=True),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("title", sa.String(256), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("email", sa.String(320), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("user_id", sa.String(64), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("organization_id", sa.String(64), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.Float),
        sa.Column("excluded_from_rate_limiting", sa.Boolean, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("previous_digest", sa.String(64), unique=True),
        sa.Column("previous_expires_at", sa.Float),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_api_keys_revision", "api_keys", ["revision"])
    op.create_index("ix_api_keys_live_name", "api_keys", ["user_id", "name"])


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("project_id", sa.String(64)),
        sa.Column("owned_by", sa.String(16), nullable=False),
        sa.Column("source_repository", sa.String(16), nullable=False),
        sa.Column("model_file_location", sa.String(1024), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("task", sa.String(16), nullable=False),
        sa.Column("base_model_id", sa.String(256)),
        sa.Column("loading_status", sa.String(16), nullable=False),
        sa.Column("loading_progress", sa.Float, nullable=False),
        sa.Column("loading_message", sa.Text, nullable=False),
        sa.Column("loading_failure_reason", sa.Text, nullable=False),
        sa.Column("activation_status", sa.String(16), nullable=False),
        sa.Column("folder", sa.String(1024), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_models_project_id", "models", ["project_id"])
    op.create_index("ix_models_revision", "models", ["revision"])
    op.create_table(
        "model_wakes",
        sa.Column("model_id", sa.String(256), primary_key=True),
        sa.Column("at", sa.Float, primary_key=True),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    op.create_index("ix_model_wakes_recent", "model_wakes", ["model_id", "at"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("project_id", sa.String(64)),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("published", sa.Boolean, nullable=False),
    )
    op.create_index("ix_events_unpublished", "events", ["published", "sequence"])
    op.create_table(
        "deliveries",
        sa.Column("sequence", _SEQUENCE, sa.ForeignKey("events.sequence"), primary_key=True),
        sa.Column("consumer", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["state", "due_at"])
    op.create_table(
        "consumed_events",
        sa.Column("consumer", sa.String(64), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )


def _ledger() -> None:
    op.create_table(
        "ledger_events",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ledger_requests",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("admitted_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("waited_seconds", sa.Float),
        sa.Column("first_token_seconds", sa.Float),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_ledger_requests_project_time", "ledger_requests", ["project_id", "admitted_at"])
    op.create_index("ix_ledger_requests_model_time", "ledger_requests", ["model", "admitted_at"])
    op.create_index("ix_ledger_requests_open", "ledger_requests", ["outcome", "seen_at"])
