"""Notebooks of projects."""

import sqlalchemy as sa
from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notebooks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("active_name", sa.String(64)),
        sa.Column("image_type", sa.String(64), nullable=False),
        sa.Column("millicores", sa.Integer, nullable=False),
        sa.Column("memory_megabytes", sa.Integer, nullable=False),
        sa.Column("storage_megabytes", sa.Integer, nullable=False),
        sa.Column("envs", sa.Text, nullable=False),
        sa.Column("ports", sa.Text, nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("key_scopes", sa.Text, nullable=False),
        sa.Column("key_models", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("api_key_id", sa.String(64)),
        sa.Column("sealed_token", sa.Text),
        sa.Column("sealed_key", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("stopped_at", sa.Float),
        sa.Column("deleted_at", sa.Float),
        sa.Column("link_digest", sa.String(64)),
        sa.Column("link_expires_at", sa.Float),
        sa.Column("link_caller", sa.Text),
        sa.UniqueConstraint("project_id", "active_name", name="uq_notebooks_active_name"),
    )
    op.create_index("ix_notebooks_project", "notebooks", ["project_id", "id"])
    op.create_index("ix_notebooks_status", "notebooks", ["status", "id"])
    op.create_index("ix_notebooks_deleted_at", "notebooks", ["deleted_at"])


def downgrade() -> None:
    op.drop_table("notebooks")
