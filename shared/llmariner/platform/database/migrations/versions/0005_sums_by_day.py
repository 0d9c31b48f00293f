"""Sums by day without outcomes, a third as many rows: how many succeeded and ended stands in columns of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COUNTS = ("successful_requests", "ended_requests")
_KEPT = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
    "prompt_cost",
    "cached_cost",
    "completion_cost",
    "total_microseconds",
    "first_token_microseconds",
    "first_tokens",
)


def upgrade() -> None:
    for name in _COUNTS:
        op.add_column("ledger_rollups", sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE ledger_rollups SET successful_requests = requests WHERE outcome = 'succeeded'")
    op.execute("UPDATE ledger_rollups SET ended_requests = requests WHERE outcome <> 'open'")
    _sum_days_anew(_KEPT + _COUNTS, by_ending=False)


def downgrade() -> None:
    _sum_days_anew(_KEPT, by_ending=True)
    for name in _COUNTS:
        op.drop_column("ledger_rollups", name)


def _sum_days_anew(sums: tuple[str, ...], *, by_ending: bool) -> None:
    groups = "organization_id, start - start % 86400, project_id, user_id, key_id, model, route"
    ending = "outcome, status" if by_ending else "'', 0"
    op.execute("DELETE FROM ledger_rollups WHERE width = 86400")
    op.execute(
        "INSERT INTO ledger_rollups (width, organization_id, start, project_id, user_id, key_id, model, route, "
        f"outcome, status, {', '.join(sums)}) SELECT 86400, {groups}, {ending}, "
        f"{', '.join(f'SUM({name})' for name in sums)} FROM ledger_rollups WHERE width = 3600 "
        f"GROUP BY {groups}{', outcome, status' if by_ending else ''}"
    )
