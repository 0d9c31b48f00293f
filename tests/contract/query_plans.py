"""Query plans of the statements that a piece of code sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

from llmariner.platform.database import Database

__all__ = ["fill_ledger", "plans_of"]

# Requests of many instances and models over ten days, so that an index pays off.
_FILLED = """
INSERT INTO ledger_requests (request_id, organization_id, project_id, user_id, key_id, model, route, outcome, status,
  admitted_at, seen_at, closed_at, prompt_tokens, completion_tokens, cached_tokens)
SELECT {request_id}, 'org_1', 'proj_1', 'user_1', 'key_' || (n % 50), 'model_' || (n % 10), 'chat_completions', 'succeeded',
  200, {start} + n * 50, {start} + n * 50 + 5, {start} + n * 50 + 5, 3, 7, 0
FROM {numbers}
"""


def fill_ledger(database: Database, rows: int, *, start: float) -> None:
    """Insert that many requests, 50 s apart; the instance of request n is `req_` and n // 100 in 20 digits."""
    if database.engine.dialect.name == "sqlite":
        name = "printf('req_%020d%08x', n / 100, n)"
        counted = f"SELECT 0 AS n UNION ALL SELECT n + 1 FROM c WHERE n < {rows - 1}"
        numbers = f"(WITH RECURSIVE c(n) AS ({counted}) SELECT n FROM c)"
    else:
        name = "'req_' || lpad(CAST(n / 100 AS TEXT), 20, '0') || lpad(to_hex(n), 8, '0')"
        numbers = f"generate_series(0, {rows - 1}) AS g(n)"
    with database.write() as session:
        session.run(text(_FILLED.format(request_id=name, numbers=numbers, start=int(start))))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE ledger_requests")


def plans_of(database: Database, work: Callable[[], object]) -> list[str]:
    """The plan of each SELECT that the work sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        asked = [connection.exec_driver_sql(explain + statement, parameters).all() for statement, parameters in sent]
    return ["\n".join(str(row[-1]) for row in rows) for rows in asked]
