"""Migrating a ledger from before costs and rollups loses nothing, and every request can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import downgrade, head, upgrade
from llmariner.usage.ledger import Ledger

from ..ledgers import assert_rebuilt_equals_stored, closing_event, expected_rollups, stored_rollups

REQUEST = text(
    "INSERT INTO ledger_requests (request_id, organization_id, project_id, user_id, key_id, model, route, outcome, status, "
    "admitted_at, seen_at, closed_at, waited_seconds, first_token_seconds, prompt_tokens, completion_tokens, cached_tokens) "
    "VALUES (:id, 'o', 'p', 'u', 'k', 'm', 'chat_completions', :outcome, :status, 86399.5, 86409.25, :closed, :waited, "
    ":waited, 7, 5, 3)"
)
EVENT = text(
    "INSERT INTO ledger_events (request_id, sequence, kind, at, prompt_tokens, completion_tokens, cached_tokens) "
    "VALUES (:id, :sequence, :kind, :at, 7, 5, 3)"
)


@pytest.fixture
def before(new_database: Callable[[], Database]) -> Database:
    """Insert a request that ended, an interrupted one and an open one."""
    database = new_database()
    upgrade(database, "0002")
    states = (("ended", "succeeded", 200, 86409.25), ("gone", "interrupted", 0, 86409.25), ("open", "open", 0, None))
    with database.write() as session:
        for name, outcome, status, at in states:
            said = {"id": name, "outcome": outcome, "status": status, "closed": at}
            session.run(REQUEST.bindparams(**said, waited=0.0000005 if status else None))
            session.run(EVENT.bindparams(id=name, sequence=0, kind="admitted", at=86409.25))
        session.run(EVENT.bindparams(id="ended", sequence=2**31 - 1, kind="closed", at=86409.25))
    return database


def test_an_older_ledger_is_aggregated_and_can_be_rebuilt(before: Database) -> None:
    upgrade(before)
    assert_rebuilt_equals_stored(before, ["ended", "gone", "open"])
    assert stored_rollups(before) == expected_rollups(before)
    starts = {(key[0], key[2]) for key in stored_rollups(before)}
    assert starts == {("ledger_hours", 82800), ("ledger_days", 0), ("ledger_project_days", 0)}
    Ledger(before).record(
        [closing_event("open", (9, 9, 9), organization_id="o", project_id="p", user_id="u", key_id="k")]
    )
    assert_rebuilt_equals_stored(before, ["ended", "gone", "open"])
    assert stored_rollups(before) == expected_rollups(before)


@pytest.mark.parametrize("revision", ["0003", "0004", "0005"])
def test_rollups_survive_a_downgrade_and_an_upgrade(revision: str, before: Database) -> None:
    upgrade(before)
    known = stored_rollups(before)
    downgrade(before, revision)
    upgrade(before, str(head()))
    assert stored_rollups(before) == known
