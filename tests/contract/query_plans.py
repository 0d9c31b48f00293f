"""Query plans of the statements that a piece of code sends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import event, text

from llmariner.platform.database import Database

__all__ = ["fill_ledger", "full_scans", "numbers", "plans_of", "statement_plans"]

# Requests of many instances and models over ten days, so that an index pays off.
_FILLED = """
INSERT INTO ledger_requests (request_id, organization_id, project_id, user_id, key_id, model, route, outcome, status,
  admitted_at, seen_at, closed_at, prompt_tokens, completion_tokens, cached_tokens)
SELECT {request_id}, 'org_1', 'proj_1', 'user_1', 'key_' || (n % 50), 'model_' || (n % 10), 'chat_completions', 'succeeded',
  200, {start} + n * 50, {start} + n * 50 + 5, {start} + n * 50 + 5, 3, 7, 0
FROM {numbers}
"""


# A partial index of what is due: reading all of it is what a sweep is for.
_OF_FEW_ROWS = "ix_vector_store_files_attributes"


def numbers(database: Database, rows: int) -> str:
    """What a SELECT reads that many rows from, with the numbers from 0 as column `n`."""
    if database.engine.dialect.name == "sqlite":
        return f"(WITH RECURSIVE c(n) AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM c WHERE n < {rows - 1}) SELECT n FROM c)"
    return f"generate_series(0, {rows - 1}) AS g(n)"


def fill_ledger(database: Database, rows: int, *, start: float) -> None:
    """Insert that many requests, 50 s apart; the instance of request n is `req_` and n // 100 in 20 digits."""
    if database.engine.dialect.name == "sqlite":
        name = "printf('req_%020d%08x', n / 100, n)"
    else:
        name = "'req_' || lpad(CAST(n / 100 AS TEXT), 20, '0') || lpad(to_hex(n), 8, '0')"
    with database.write() as session:
        session.run(text(_FILLED.format(request_id=name, numbers=numbers(database, rows), start=int(start))))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE ledger_requests")


def plans_of(database: Database, work: Callable[[], object]) -> list[str]:
    """The plan of each SELECT that the work sends."""
    return [plan for _, plan in statement_plans(database, work, kinds=("SELECT",), distinct=False)]


def statement_plans(
    database: Database,
    work: Callable[[], object],
    *,
    kinds: tuple[str, ...] = ("SELECT", "WITH", "UPDATE", "DELETE"),
    distinct: bool = True,
) -> list[tuple[str, str]]:
    """The statements of these kinds that the work sends, and the plan of each. `distinct`: of equal texts the first one."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(kinds) and not many and not (distinct and statement in [text for text, _ in sent]):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        asked = [connection.exec_driver_sql(explain + statement, parameters).all() for statement, parameters in sent]
    return [
        (statement, "\n".join(str(row[-1]) for row in rows)) for (statement, _), rows in zip(sent, asked, strict=True)
    ]


def full_scans(plan: str, tables: Iterable[str]) -> list[str]:
    """The lines of a plan that read all rows of one of these tables, or all entries of an index of all rows."""
    names = "|".join(tables)
    lines = plan.splitlines()
    found = [line for line in lines if re.search(rf"\b(SCAN|Seq Scan on) ({names})\b", line)]
    for position, line in enumerate(lines):
        if re.search(rf"Index (Only )?Scan .*on ({names})\b", line):
            node = "\n".join(lines[position + 1 :]).split("->")[0]
            if "Index Cond" not in node:
                found.append(line)
    return [line for line in found if not line.count(_OF_FEW_ROWS)]
