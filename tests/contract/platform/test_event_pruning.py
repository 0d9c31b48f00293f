"""Old events are pruned, except those that are pending or dead."""

from __future__ import annotations

import time

from sqlalchemy import func, select, update

from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.deliveries import Deliveries, Subscription
from llmariner.platform.events.tables import consumed_events, events


def test_old_events_are_pruned_unless_pending_or_dead(database: Database) -> None:
    store = Deliveries(database, [Subscription("taker", "t")])
    with database.write() as session:
        for subject in ("delivered", "dead", "pending", "fresh"):
            outbox.add(session, "t", subject, {})
    store.fan_out()
    by_subject = {delivery.event.subject: delivery for delivery in store.due()}
    store.mark_delivered(by_subject["delivered"])
    store.mark_failed(by_subject["dead"], "no", final=True)
    store.mark_delivered(by_subject["fresh"])
    with database.write() as session:
        session.run(update(events).where(events.c.subject != "fresh").values(time=time.time() - 100))
    assert store.prune(older_than=50) == 1
    with database.read() as session:
        assert session.value(select(func.count()).select_from(events)) == 3
        assert {row.subject for row in session.rows(select(events.c.subject))} == {"dead", "pending", "fresh"}


def test_an_event_from_before_a_clock_change_keeps_no_other(database: Database) -> None:
    store = Deliveries(database, [])
    with database.write() as session:
        for subject in ("of tomorrow", "old", "fresh"):
            outbox.add(session, "t", subject, {})
    store.fan_out()
    with database.write() as session:
        for subject, seconds in (("of tomorrow", 86400), ("old", -100)):
            session.run(update(events).where(events.c.subject == subject).values(time=time.time() + seconds))
    assert store.prune(older_than=50) == 1
    with database.read() as session:
        assert {row.subject for row in session.rows(select(events.c.subject))} == {"of tomorrow", "fresh"}


def test_events_behind_a_kept_event_are_pruned_later(database: Database) -> None:
    """No transaction reads all events of a week to find the old ones."""
    with database.write() as session:
        for subject, seconds in (("old", 100), ("young", 0), ("old, too", 100)):
            outbox.add(session, "t", subject, {})
            session.run(
                update(events).where(events.c.subject == subject).values(time=time.time() - seconds, published=True)
            )
    assert Deliveries(database, []).prune(older_than=50) == 1
    with database.read() as session:
        assert {row.subject for row in session.rows(select(events.c.subject))} == {"young", "old, too"}


def test_an_event_of_kubernetes_with_a_future_time_is_dated_today(database: Database) -> None:
    store = Deliveries(database, [])
    store.record_dead_letter(
        Event("1", "dev.knative.apiserver.ref.add", "/apis/x", time.time() + 86400, {}), "a", "503: no"
    )
    with database.read() as session:
        assert session.value(select(events.c.time)) <= session.now()


def test_consumer_records_of_old_events_are_pruned(database: Database) -> None:
    with database.write() as session:
        assert outbox.mark_consumed(session, "taker", "old")
        session.run(update(consumed_events).values(at=time.time() - 100))
        assert outbox.mark_consumed(session, "taker", "fresh")
    Deliveries(database, []).prune(older_than=50)
    with database.read() as session:
        assert [row.event_id for row in session.rows(select(consumed_events.c.event_id))] == ["fresh"]
