"""Aliases of models, and where they pointed."""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256)),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Index("ix_model_aliases_model", "model"),
        sa.Index("ix_model_aliases_revision", "revision"),
    )
    op.create_table(
        "model_alias_revisions",
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256)),
        sa.Column("previous_model", sa.String(256)),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("fine_tuning_job_id", sa.String(64)),
        sa.ForeignKeyConstraint(
            ["project_id", "name"],
            ["model_aliases.project_id", "model_aliases.name"],
            ondelete="CASCADE",
            name="fk_model_alias_revisions_alias",
        ),
    )


def downgrade() -> None:
    op.drop_table("model_alias_revisions")
    op.drop_table("model_aliases")
