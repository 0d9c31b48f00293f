"""What was delivered to whom: retries with backoff, order within a subject, dead letters kept and replayable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, delete, exists, func, or_, select, tuple_, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, RateLimited
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.outbox import event_from_row, request_publish
from llmariner.platform.events.tables import (
    INSTALLATION_AUDIENCE,
    OPERATOR_AUDIENCE,
    consumed_events,
    deliveries,
    events,
)

__all__ = ["MAX_ATTEMPTS", "Deliveries", "Delivery", "Subscription", "backoff"]

MAX_ATTEMPTS = 8
_INITIAL_DELAY = 0.5
_MAX_DELAY = _INITIAL_DELAY * 2**MAX_ATTEMPTS
_SEQUENCE = re.compile(r"[0-9]{1,18}")
_PRUNE_BATCH_SIZE = 1000
_MAX_PRUNE_BATCHES = 100
_CLOCK_SKEW_SECONDS = 60.0
# An ApiServerSource's.
_KUBERNETES_TYPE_PREFIX = "dev.knative.apiserver.ref."
_MAX_KUBERNETES_DEAD_LETTERS = 1000
_MAX_CONSUMERS_PER_EVENT = 20
_PENDING, _DELIVERED, _DEAD = "pending", "delivered", "dead"


def backoff(attempts: int) -> float:
    """Seconds to wait after that many failed attempts: 0.5, 1, 2 … 32. A Broker's exponential policy does the same."""
    return float(_INITIAL_DELAY * 2 ** (attempts - 1))


@dataclass(frozen=True)
class Subscription:
    """A consumer and the one event type that wakes it."""

    consumer: str
    type: str


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one consumer."""

    sequence: int
    consumer: str
    state: str
    attempts: int
    last_error: str | None
    event: Event
    project_id: str | None = None

    @property
    def cursor(self) -> str:
        """Its place in the order of `Deliveries.page`."""
        return f"{self.sequence}:{self.consumer}"


class Deliveries:
    """The book of deliveries: all of them on one machine, on a cluster those that a Broker gave up on."""

    def __init__(self, database: Database, subscriptions: Iterable[Subscription]) -> None:
        self._database = database
        self._subscriptions = tuple(subscriptions)

    def fan_out(self, limit: int = 200) -> int:
        """Turn events that are not published yet into one delivery per subscriber; returns how many events."""
        unpublished = select(events).where(events.c.published.is_(False)).order_by(events.c.sequence).limit(limit)
        with self._database.write() as session:
            rows = session.rows(unpublished)
            for row in rows:
                due = {"sequence": row.sequence, "state": _PENDING, "attempts": 0, "due_at": 0.0}
                consumers = [s.consumer for s in self._subscriptions if s.type == row.type]
                session.insert_if_absent(deliveries, [{**due, "consumer": consumer} for consumer in consumers])
                session.run(update(events).where(events.c.sequence == row.sequence).values(published=True))
        return len(rows)

    def due(self, limit: int = 16) -> list[Delivery]:
        """Deliveries to attempt now, oldest first, at most `limit` of each consumer: who is slow keeps nobody else waiting.

        Of one consumer's those of all projects in turn. One waits while an older event of its subject is pending.
        """
        older, older_event = deliveries.alias(), events.alias()
        blocked = exists(
            select(older.c.sequence)
            .join(older_event, older.c.sequence == older_event.c.sequence)
            .where(
                older.c.consumer == deliveries.c.consumer,
                older.c.state == _PENDING,
                older.c.sequence < deliveries.c.sequence,
                older_event.c.subject == events.c.subject,
            )
        )
        ready = and_(deliveries.c.state == _PENDING, ~blocked)
        of_project = func.row_number().over(
            partition_by=(deliveries.c.consumer, func.coalesce(events.c.project_id, "")), order_by=deliveries.c.sequence
        )
        with self._database.read() as session:
            now = session.now()
            # What is due later than any delay goes was put off before the clock was set back.
            late = or_(deliveries.c.due_at <= now, deliveries.c.due_at > now + _MAX_DELAY)
            due = and_(ready, late)
            one = _DELIVERIES_WITH_EVENTS.add_columns(of_project.label("of_project")).where(due).subquery()
            in_turn = (one.c.of_project, one.c.number)
            place = func.row_number().over(partition_by=one.c.consumer, order_by=in_turn)
            ranked = select(one, place.label("place")).subquery()
            rows = session.rows(select(ranked).where(ranked.c.place <= limit).order_by(ranked.c.number))
        return [_delivery(row) for row in rows]

    def mark_delivered(self, delivery: Delivery) -> None:
        """The consumer took it."""
        self._set(delivery, state=_DELIVERED, attempts=delivery.attempts + 1, last_error=None)

    def mark_failed(self, delivery: Delivery, reason: str, *, final: bool) -> None:
        """The consumer refused it. `final`: a retry would not help (4xx); else it is due again until attempts end."""
        attempts = delivery.attempts + 1
        if final or attempts >= MAX_ATTEMPTS:
            self._set(delivery, state=_DEAD, attempts=attempts, last_error=reason)
        else:
            self._set(delivery, attempts=attempts, wait=backoff(attempts), last_error=reason)

    def record_dead_letter(self, event: Event, consumer: str, reason: str) -> None:
        """Keep an event that a Broker gave up on as that consumer's dead letter, once however often it is told.

        Whoever tells of it may be anybody. InvalidRequest for an event that is neither ours nor a change of Kubernetes'
        objects, or that more consumers are said to have refused than there can be; RateLimited when Kubernetes' are many.
        """
        dead = {"state": _DEAD, "attempts": MAX_ATTEMPTS, "due_at": 0.0, "last_error": reason}
        with self._database.write() as session:
            sequence = session.value(select(events.c.sequence).where(events.c.id == event.id))
            if sequence is None:
                sequence = _store_kubernetes_event(session, event)
            here = deliveries.c.sequence == sequence
            consumers = {row.consumer for row in session.rows(select(deliveries.c.consumer).where(here))}
            if consumer not in consumers and len(consumers) >= _MAX_CONSUMERS_PER_EVENT:
                raise InvalidRequest(f"Event '{event.id[:80]}' has {len(consumers)} consumers, no more are believed.")
            session.upsert(deliveries, [{"sequence": sequence, "consumer": consumer, **dead}])

    def page(
        self,
        project_id: str,
        state: str | None,
        *,
        organization_id: str | None = None,
        operator: bool = False,
        after: str | None,
        limit: int,
    ) -> list[Delivery]:
        """Deliveries of the project's and the installation's events, newest first; `after`: the cursor of one of them.

        `organization_id`: of those of this organisation, too, which belong to none of its projects. `operator`: of
        Kubernetes' objects, too, whosever they are.
        An event that no consumer takes, or that a Broker delivers, stands there once, with an empty consumer.
        """
        query = _EVENTS_WITH_DELIVERIES.order_by(events.c.sequence.desc(), _CONSUMER).limit(limit)
        if state is not None:
            # What is dead is rare, and has a row that says so: found by that row's index.
            query = query.where(deliveries.c.state == _DEAD if state == _DEAD else _STATE.in_((state,)))
        if after is not None:
            sequence, _, consumer = after.partition(":")
            if not _SEQUENCE.fullmatch(sequence):
                raise InvalidRequest("'after' must be the 'cursor' of an earlier answer.", param="after")
            here, later = events.c.sequence == int(sequence), consumer < _CONSUMER
            query = query.where(or_(events.c.sequence < int(sequence), and_(here, later)))
        with self._database.read() as session:
            # One query for each audience: each follows an index in the page's order, where a single one could not.
            parts = [session.rows(query.where(seen)) for seen in _visible_events(project_id, organization_id, operator)]
        rows = sorted((row for part in parts for row in part), key=lambda row: -row.number)
        return [_delivery(row) for row in rows[:limit]]

    def replay(
        self, project_id: str, event_id: str, *, organization_id: str | None = None, operator: bool = False
    ) -> int:
        """Make the dead deliveries of an event due again; returns how many. NotFound, or Conflict when none is dead.

        Of the events that `page` shows with the same arguments.

        On one machine the dispatcher attempts them, on a cluster the publisher gives the event to the Broker again.
        """
        with self._database.write() as session:
            seen = or_(*_visible_events(project_id, organization_id, operator))
            sequence = session.value(select(events.c.sequence).where(events.c.id == event_id, seen))
            if sequence is None:
                raise NotFound(f"No event with id '{event_id}'. List them with GET /v1/events.", param="id")
            dead = and_(deliveries.c.sequence == sequence, deliveries.c.state == _DEAD)
            revived = session.run(update(deliveries).where(dead).values(state=_PENDING, attempts=0, due_at=0.0))
            request_publish()
        if not revived:
            raise Conflict(f"Event '{event_id}' has no dead delivery; there is nothing to replay.")
        return revived

    def prune(self, *, older_than: float) -> int:
        """Forget events older than that many seconds, but for those with a delivery that is pending or dead.

        In transactions of a thousand, a hundred of them at most: what is left is for the next time.
        """
        total = 0
        for _ in range(_MAX_PRUNE_BATCHES):
            with self._database.write() as session:
                before = session.now() - older_than
                pruned = _prune_events(session, before)
                consumed = _prune_consumed_events(session, before)
            total += pruned
            if pruned < _PRUNE_BATCH_SIZE and consumed < _PRUNE_BATCH_SIZE:
                break
        return total

    def _set(self, delivery: Delivery, *, wait: float | None = None, **values: Any) -> None:
        row = and_(deliveries.c.sequence == delivery.sequence, deliveries.c.consumer == delivery.consumer)
        with self._database.write() as session:
            if wait is not None:
                values["due_at"] = session.now() + wait
            session.run(update(deliveries).where(row).values(**values))


_DELIVERIES_WITH_EVENTS = select(
    deliveries.c.sequence.label("number"),
    deliveries.c.consumer,
    deliveries.c.state,
    deliveries.c.attempts,
    deliveries.c.last_error,
    events,
).join(events, deliveries.c.sequence == events.c.sequence)


_CONSUMER: ColumnElement[str] = func.coalesce(deliveries.c.consumer, "")
_STATE: ColumnElement[str] = func.coalesce(deliveries.c.state, case((events.c.published, _DELIVERED), else_=_PENDING))
_EVENTS_WITH_DELIVERIES = select(
    events.c.sequence.label("number"),
    _CONSUMER.label("consumer"),
    _STATE.label("state"),
    func.coalesce(deliveries.c.attempts, 0).label("attempts"),
    deliveries.c.last_error,
    events,
).select_from(events.outerjoin(deliveries, deliveries.c.sequence == events.c.sequence))


def _visible_events(project_id: str, organization_id: str | None, operator: bool) -> list[ColumnElement[bool]]:
    """The events that somebody sees: of the project, of the installation, of the organization where it is given."""
    ids = [project_id, INSTALLATION_AUDIENCE]
    ids += [] if organization_id is None else [organization_id]
    ids += [OPERATOR_AUDIENCE] if operator else []
    before = and_(events.c.audience.is_(None), _visible_by_data(project_id, organization_id))
    if not operator:
        before = and_(before, events.c.type.not_like(f"{_KUBERNETES_TYPE_PREFIX}%"))
    return [*(events.c.audience == id_ for id_ in ids), before]


def _visible_by_data(project_id: str, organization_id: str | None) -> ColumnElement[bool]:
    """Of events that the release before wrote, without their audience: they are gone a week after the upgrade."""
    whose = '"organization_id":"'
    reached: ColumnElement[bool] = events.c.data.not_like(f"%{whose}%")
    if organization_id is not None:
        # The data is JSON in one form, in which a text of somebody's can't look like this.
        reached = or_(reached, events.c.data.contains(f'{whose}{organization_id}"', autoescape=True))
    return or_(events.c.project_id == project_id, and_(events.c.project_id.is_(None), reached))


def _store_kubernetes_event(session: WriteSession, event: Event) -> int:
    """The sequence of an event of Kubernetes', which is kept only because it is a dead letter."""
    if not event.type.startswith(_KUBERNETES_TYPE_PREFIX):
        raise InvalidRequest(f"No event '{event.id[:80]}' was written by this platform; it is not kept.")
    theirs = select(deliveries.c.sequence).join(events, events.c.sequence == deliveries.c.sequence)
    theirs = theirs.where(deliveries.c.state == _DEAD, events.c.type.startswith(_KUBERNETES_TYPE_PREFIX))
    if len(session.rows(theirs.limit(_MAX_KUBERNETES_DEAD_LETTERS))) >= _MAX_KUBERNETES_DEAD_LETTERS:
        raise RateLimited("Enough events of Kubernetes are dead letters: replay them, see GET /v1/events?state=dead.")
    # The time is whoever's word; one to come would keep the event, and what is pruned up to it, until then.
    moment = min(event.time, session.now())
    row = {"id": event.id, "type": event.type, "subject": event.subject, "project_id": None, "time": moment}
    data = json.dumps(event.data, separators=(",", ":"))
    # Two copies may be told of the same one at the same time.
    session.insert_if_absent(events, [{**row, "data": data, "published": True, "audience": OPERATOR_AUDIENCE}])
    return int(session.value(select(events.c.sequence).where(events.c.id == event.id)))


def _prune_events(session: WriteSession, before: float) -> int:
    """Drop old events; returns how many. They are looked for from the oldest on, up to the first that is not old."""
    in_order = select(events.c.sequence).order_by(events.c.sequence)
    # One of a time to come was written before the clock was set back, and says nothing of those after it.
    young = events.c.time.between(before, session.now() + _CLOCK_SKEW_SECONDS)
    first_kept = session.value(in_order.where(young).limit(1))
    open_ = exists().where(deliveries.c.sequence == events.c.sequence, deliveries.c.state.in_((_PENDING, _DEAD)))
    old = and_(events.c.time < before, events.c.published.is_(True), ~open_)
    if first_kept is not None:
        old = and_(old, events.c.sequence < first_kept)
    sequences = [row.sequence for row in session.rows(in_order.where(old).limit(_PRUNE_BATCH_SIZE))]
    session.run(delete(deliveries).where(deliveries.c.sequence.in_(sequences)))
    session.run(delete(events).where(events.c.sequence.in_(sequences)))
    return len(sequences)


def _prune_consumed_events(session: WriteSession, before: float) -> int:
    """Drop what consumers noted of events that are not delivered any more; returns how many."""
    key = tuple_(consumed_events.c.consumer, consumed_events.c.event_id)
    old = select(*consumed_events.primary_key).where(consumed_events.c.at < before).limit(_PRUNE_BATCH_SIZE)
    return session.run(delete(consumed_events).where(key.in_(old)))


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        row.number, row.consumer, row.state, row.attempts, row.last_error, event_from_row(row), row.project_id
    )
