"""The queue of events to publish to the Broker, and the outcome of each attempt.

An event that the Broker rejected has a delivery to the consumer BROKER: pending until its next attempt, or a dead letter
that is listed and replayed like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, select, update

from llmariner.platform.database import Database
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.outbox import event_from_row
from llmariner.platform.events.tables import deliveries, events

__all__ = ["BROKER", "Backlog", "PublishQueue", "QueuedEvent"]

BROKER = "broker"
"""The consumer that represents the Broker; no consumer in `eventing/` has this name."""

_BATCH_SIZE = 100
_PENDING, _DEAD = "pending", "dead"
_INITIAL_BACKOFF, _MAX_BACKOFF = 0.5, 300.0
# A Broker may fail for a weekend; an event that it rejects for longer becomes a dead letter.
_RETRY_WINDOW_SECONDS = 3 * 86400.0


class Backlog(NamedTuple):
    """The number of unpublished events, and the age of the oldest in seconds."""

    events: int
    oldest_seconds: float


@dataclass(frozen=True)
class QueuedEvent:
    """An event to send now."""

    sequence: int
    event: Event


class PublishQueue:
    """The publisher's view of the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def next_batch(self) -> list[QueuedEvent]:
        """The events to send now, in order: replayed dead letters, then unpublished events.

        A rejected event waits for its next attempt, and later events of its subject wait for it.
        """
        with self._database.read() as session:
            now = session.now()
            new = and_(events.c.published.is_(False), ~_blocked(now))
            revived = select(deliveries.c.sequence).where(
                deliveries.c.state == _PENDING, ~_in_backoff(deliveries.c, now)
            )
            in_order = select(events).order_by(events.c.sequence).limit(_BATCH_SIZE)
            rows = [
                *session.rows(in_order.where(events.c.published.is_(True), events.c.sequence.in_(revived))),
                *session.rows(in_order.where(new)),
            ]
        return [QueuedEvent(row.sequence, event_from_row(row)) for row in rows]

    def mark_accepted(self, queued: QueuedEvent) -> None:
        """Record that the Broker accepted the event; the Broker is responsible for the deliveries to consumers."""
        pending = and_(deliveries.c.sequence == queued.sequence, deliveries.c.state == _PENDING)
        with self._database.write() as session:
            session.run(update(events).where(events.c.sequence == queued.sequence).values(published=True))
            session.run(delete(deliveries).where(pending))

    def mark_rejected(self, queued: QueuedEvent, reason: str, *, final: bool) -> float | None:
        """Record a rejection; returns the seconds until the next attempt, None when the event becomes a dead letter."""
        return self._record_failure(queued, reason, final=final, retry_window=_RETRY_WINDOW_SECONDS)

    def mark_unanswered(self, queued: QueuedEvent, reason: str) -> None:
        """Record that there was no response. The event is retried without limit."""
        self._record_failure(queued, reason, final=False, retry_window=math.inf)

    def _record_failure(self, queued: QueuedEvent, reason: str, *, final: bool, retry_window: float) -> float | None:
        with self._database.write() as session:
            now = session.now()
            attempts = 1 + int(
                session.value(select(deliveries.c.attempts).where(_matches(queued.sequence, BROKER))) or 0
            )
            wait = None if final or now - queued.event.time > retry_window else _backoff(attempts)
            outcome = {
                "state": _DEAD if wait is None else _PENDING,
                "due_at": 0.0 if wait is None else now + wait,
                "last_error": reason,
            }
            broker_delivery = {"sequence": queued.sequence, "consumer": BROKER, "attempts": attempts, **outcome}
            session.upsert(deliveries, [broker_delivery])
            # Pending replays to consumers get the same outcome.
            pending = and_(deliveries.c.sequence == queued.sequence, deliveries.c.state == _PENDING)
            session.run(update(deliveries).where(pending).values(**outcome))
            if wait is None:
                session.run(update(events).where(events.c.sequence == queued.sequence).values(published=True))
        return wait

    def backlog(self) -> Backlog:
        """The events that wait for publication."""
        with self._database.read() as session:
            waiting = select(func.count().label("number"), func.min(events.c.time).label("oldest"))
            row = session.rows(waiting.where(events.c.published.is_(False)))[0]
            return Backlog(row.number, max(0.0, session.now() - row.oldest) if row.number else 0.0)


def _matches(sequence: int, consumer: str) -> ColumnElement[bool]:
    return and_(deliveries.c.sequence == sequence, deliveries.c.consumer == consumer)


def _in_backoff(delivery: Any, now: float) -> ColumnElement[bool]:
    """Its next attempt is in the future. A time beyond the longest backoff means that the clock was set back: it is due."""
    due: ColumnElement[bool] = delivery.due_at.between(now, now + _MAX_BACKOFF)
    return due


def _backoff(attempts: int) -> float:
    return float(min(_INITIAL_BACKOFF * 2 ** min(attempts - 1, 30), _MAX_BACKOFF))


def _blocked(now: float) -> ColumnElement[bool]:
    """An event that waits for its next attempt, or that follows such an event of its subject."""
    older, older_event = deliveries.alias(), events.alias()
    return exists(
        select(older.c.sequence)
        .join(older_event, older.c.sequence == older_event.c.sequence)
        .where(
            older.c.consumer == BROKER,
            older.c.state == _PENDING,
            _in_backoff(older.c, now),
            older.c.sequence <= events.c.sequence,
            older_event.c.subject == events.c.subject,
        )
    )
