"""Credentials of projects for the sources of models."""

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("credential_id", sa.String(64)))
    op.create_table(
        "model_credentials",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("username", sa.String(256)),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Index("ix_model_credentials_key_id", "key_id"),
        sa.UniqueConstraint("project_id", "name", name="uq_model_credentials_name"),
    )


def downgrade() -> None:
    op.drop_table("model_credentials")
    op.drop_column("models", "credential_id")
