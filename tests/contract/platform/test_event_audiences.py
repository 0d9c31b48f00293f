"""Visibility of events: by an index, and for events of the previous release by their data."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import event as happening
from sqlalchemy import select, update

from llmariner.errors import NotFound
from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.events.tables import events

from ..query_plans import plans_of

NAMED: dict[str, dict[str, Any]] = {
    "mine": {"project_id": "proj_1", "organization_id": "org_1"},
    "theirs": {"project_id": "proj_2", "organization_id": "org_1"},
    "organizations": {"project_id": None, "organization_id": "org_1"},
    "unrelated": {"organization_id": "org_2"},
    "everybodys": {"project_id": None, "organization_id": None},
}


@pytest.fixture(params=["this release", "the release before"])
def written(request: pytest.FixtureRequest, database: Database) -> Deliveries:
    """One event of each kind, in this order, as the previous release writes them."""
    with database.write() as session:
        for subject, data in NAMED.items():
            outbox.add(session, "t", subject, data)
        if request.param == "the release before":
            session.run(update(events).values(audience=None))
    return Deliveries(database, ())


def seen(store: Deliveries, organization_id: str | None) -> list[str]:
    found = store.page("proj_1", None, organization_id=organization_id, after=None, limit=10)
    return [delivery.event.subject for delivery in found]


def test_a_member_sees_events_of_the_project_and_shared_ones_an_owner_those_of_the_organization(
    written: Deliveries,
) -> None:
    assert seen(written, None) == ["everybodys", "mine"]
    assert seen(written, "org_1") == ["everybodys", "organizations", "mine"]


def test_invisible_events_cannot_be_replayed(written: Deliveries, database: Database) -> None:
    with database.read() as session:
        ids = {row.subject: row.id for row in session.rows(select(events))}
    for subject in ("theirs", "unrelated"):
        with pytest.raises(NotFound):
            written.replay("proj_1", ids[subject], organization_id="org_1")


def test_pages_of_several_audiences_are_consecutive(database: Database) -> None:
    store = Deliveries(database, ())
    wanted: list[str] = []
    with database.write() as session:
        for number in range(12):
            subject = list(NAMED)[number % len(NAMED)]
            outbox.add(session, "t", f"{subject}{number}", NAMED[subject])
            if subject in ("mine", "organizations", "everybodys"):
                wanted.insert(0, f"{subject}{number}")
    met: list[str] = []
    after = None
    while part := store.page("proj_1", None, organization_id="org_1", after=after, limit=2):
        met += [delivery.event.subject for delivery in part]
        after = part[-1].cursor
    assert met == wanted


def test_a_page_of_a_project_with_few_events_does_not_read_those_of_others(database: Database) -> None:
    with database.write() as session:
        rows = ({"project_id": "proj_1" if number % 1000 == 0 else "proj_2"} for number in range(3000))
        for data in rows:
            outbox.add(session, "t", "x", data)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE events")
    plans = plans_of(database, lambda: seen(Deliveries(database, ()), "org_1"))
    assert all("ix_events_audience" in plan for plan in plans), plans


def test_old_events_are_pruned_in_short_transactions(database: Database) -> None:
    with database.write() as session:
        for number in range(2500):
            outbox.add(session, "t", f"x{number}", {})
        session.run(update(events).values(published=True, time=time.time() - 100))
        outbox.add(session, "t", "fresh", {})
    begun = []

    def note(*_: object) -> None:
        begun.append(1)

    happening.listen(database.engine, "begin", note)
    try:
        assert Deliveries(database, ()).prune(older_than=50) == 2500
    finally:
        happening.remove(database.engine, "begin", note)
    assert len(begun) == 3
    with database.read() as reading:
        assert [row.subject for row in reading.rows(select(events.c.subject))] == ["fresh"]
