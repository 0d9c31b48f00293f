"""A table of sums by hour, one by day, one by day of projects: what long spans are read from is small, and together."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_WHOSE = ("project_id", "user_id", "key_id", "model", "route")
_ENDING = ("outcome", "status")
_OF_PROJECTS = ("project_id", "model", "route")
_LENGTHS = {"model": 256, "outcome": 16}
_SUMS = (
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
    "successful_requests",
    "ended_requests",
)


def upgrade() -> None:
    _create("ledger_hours", *_WHOSE, *_ENDING)
    _create("ledger_days", *_WHOSE)
    _create("ledger_project_days", *_OF_PROJECTS)
    _copy("ledger_rollups", "ledger_hours", (*_WHOSE, *_ENDING), where="width = 3600")
    _copy("ledger_rollups", "ledger_days", _WHOSE, where="width = 86400")
    summed = ", ".join(f"SUM({name})" for name in _SUMS)
    groups = f"organization_id, start, {', '.join(_OF_PROJECTS)}"
    op.execute(
        f"INSERT INTO ledger_project_days ({groups}, {', '.join(_SUMS)}) SELECT {groups}, {summed} FROM ledger_days "
        f"GROUP BY {groups}"
    )
    op.drop_table("ledger_rollups")


def downgrade() -> None:
    _create("ledger_rollups", *_WHOSE, *_ENDING, width=True)
    _copy("ledger_hours", "ledger_rollups", (*_WHOSE, *_ENDING), width="3600")
    _copy("ledger_days", "ledger_rollups", _WHOSE, width="86400")
    for table in ("ledger_project_days", "ledger_days", "ledger_hours"):
        op.drop_table(table)


def _create(name: str, *dimensions: str, width: bool = False) -> None:
    op.create_table(
        name,
        sa.Column("organization_id", sa.String(64), primary_key=True),
        *([sa.Column("width", sa.Integer, primary_key=True, autoincrement=False)] if width else []),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        *(
            sa.Column(each, sa.Integer, primary_key=True, autoincrement=False)
            if each == "status"
            else sa.Column(each, sa.String(_LENGTHS.get(each, 64)), primary_key=True)
            for each in dimensions
        ),
        *(sa.Column(each, sa.BigInteger, nullable=False, server_default=sa.text("0")) for each in _SUMS),
        sqlite_with_rowid=False,
    )


def _copy(source: str, target: str, dimensions: tuple[str, ...], *, where: str = "1 = 1", width: str = "") -> None:
    """Rows as they are; of the old table those by day have no outcome."""
    columns = ", ".join(("organization_id", "start", *dimensions, *_SUMS))
    named, told = ("", "") if not width else (", width", f", {width}")
    if width and dimensions == _WHOSE:
        named, told = f"{named}, outcome, status", f"{told}, '', 0"
    op.execute(
        f"INSERT INTO {target} ({columns}{named}) SELECT {columns}{told} FROM {source} WHERE {where} "
        f"ORDER BY {', '.join(('organization_id', 'start', *dimensions))}"
    )
