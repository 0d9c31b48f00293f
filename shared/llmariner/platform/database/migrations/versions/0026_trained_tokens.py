"""Trained tokens in the ledger, their price, and what fine-tuning jobs cost."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_ROLLUPS = ("ledger_hours", "ledger_days", "ledger_project_days")


def upgrade() -> None:
    for table in ("ledger_events", "ledger_requests", *_ROLLUPS):
        op.add_column(table, _sum("trained_tokens"))
    for table in _ROLLUPS:
        op.add_column(table, _sum("training_cost"))
    op.add_column("prices", _sum("training"))
    op.add_column("fine_tuning_jobs", sa.Column("estimate_seconds", sa.Float))
    op.add_column("fine_tuning_jobs", sa.Column("estimate_cost", sa.BigInteger))
    op.add_column("fine_tuning_jobs", _sum("cost"))
    op.create_index("ix_fine_tuning_jobs_speed", "fine_tuning_jobs", ["model_id", "method", "id"])


def downgrade() -> None:
    op.drop_index("ix_fine_tuning_jobs_speed", "fine_tuning_jobs")
    for column in ("cost", "estimate_cost", "estimate_seconds"):
        op.drop_column("fine_tuning_jobs", column)
    op.drop_column("prices", "training")
    for table in _ROLLUPS:
        op.drop_column(table, "training_cost")
    for table in ("ledger_events", "ledger_requests", *_ROLLUPS):
        op.drop_column(table, "trained_tokens")


def _sum(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))
