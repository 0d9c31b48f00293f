"""Runs of fine-tuning jobs at tracking servers, and the credentials for those."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("integrations", sa.Text))
    op.create_table(
        "fine_tuning_runs",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("server", sa.String(256), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(256)),
        sa.Column("run_url", sa.String(1024)),
        sa.Column("run_place", sa.String(1024)),
        sa.Column("sent_step", sa.BigInteger, nullable=False),
        sa.Column("sent_points", sa.BigInteger, nullable=False),
        sa.Column("requested", sa.BigInteger, nullable=False),
        sa.Column("served", sa.BigInteger, nullable=False),
        sa.Column("asked_at", sa.Float, nullable=False),
        sa.Column("leased_until", sa.Float, nullable=False),
        sa.Column("retry_at", sa.Float, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failing_since", sa.Float),
        sa.Index("ix_fine_tuning_runs_state", "state", "retry_at"),
    )
    op.create_table(
        "fine_tuning_credentials",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("server", sa.String(256), nullable=False),
        sa.Column("username", sa.String(256)),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Index("ix_fine_tuning_credentials_key_id", "key_id"),
        sa.UniqueConstraint("project_id", "type", "server", name="uq_fine_tuning_credentials_server"),
    )


def downgrade() -> None:
    op.drop_table("fine_tuning_credentials")
    op.drop_table("fine_tuning_runs")
    op.drop_column("fine_tuning_jobs", "integrations")
