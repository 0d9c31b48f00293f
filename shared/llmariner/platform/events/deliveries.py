"""Deliveries of events to consumers: retries with backoff, order per subject, dead letters that can be replayed."""

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
# The prefix of an ApiServerSource's event types.
_KUBERNETES_TYPE_PREFIX = "dev.knative.apiserver.ref."
_MAX_KUBERNETES_DEAD_LETTERS = 1000
_MAX_CONSUMERS_PER_EVENT = 20
_PENDING, _DELIVERED, _DEAD = "pending", "delivered", "dead"


def backoff(attempts: int) -> float:
    """Seconds until the next attempt after that many failed ones: 0.5, 1, 2 … 32, as with a Broker's exponential policy."""
    return float(_INITIAL_DELAY * 2 ** (attempts - 1))


@dataclass(frozen=True)
class Subscription:
    """A consumer and the event type that it receives."""

    consumer: str
    type: str


@dataclass(frozen=True)
class Delivery:
    """The state of one event for one consumer. `state` is `pending`, `delivered` or `dead`."""

    sequence: int
    consumer: str
    state: str
    attempts: int
    last_error: str | None
    event: Event
    project_id: str | None = None

    @property
    def cursor(self) -> str:
        """The cursor of `Deliveries.page`."""
        return f"{self.sequence}:{self.consumer}"


class Deliveries:
    """The stored deliveries: all of them in standalone mode, on a cluster those that a Broker gave up on."""

    def __init__(self, database: Database, subscriptions: Iterable[Subscription]) -> None:
        self._database = database
        self._subscriptions = tuple(subscriptions)

    def fan_out(self, limit: int = 200) -> int:
        """Create one delivery per subscriber for unpublished events; returns the number of events."""
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
        """Deliveries to attempt now, oldest first, at most `limit` per consumer: a slow consumer does not delay the others.

        The deliveries of one consumer rotate among projects. A delivery waits while an older one of its subject is pending.
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
            # A time beyond the longest delay means that the clock was set back: the delivery is due.
            late = or_(deliveries.c.due_at <= now, deliveries.c.due_at > now + _MAX_DELAY)
            due = and_(ready, late)
            one = _DELIVERIES_WITH_EVENTS.add_columns(of_project.label("of_project")).where(due).subquery()
            in_turn = (one.c.of_project, one.c.number)
            place = func.row_number().over(partition_by=one.c.consumer, order_by=in_turn)
            ranked = select(one, place.label("place")).subquery()
            rows = session.rows(select(ranked).where(ranked.c.place <= limit).order_by(ranked.c.number))
        return [_delivery(row) for row in rows]

    def mark_delivered(self, delivery: Delivery) -> None:
        """Record that the consumer accepted the event."""
        self._set(delivery, state=_DELIVERED, attempts=delivery.attempts + 1, last_error=None)

    def mark_failed(self, delivery: Delivery, reason: str, *, final: bool) -> None:
        """Record a failed attempt; it is retried up to `MAX_ATTEMPTS` times. `final`: a retry would not help (4xx)."""
        attempts = delivery.attempts + 1
        if final or attempts >= MAX_ATTEMPTS:
            self._set(delivery, state=_DEAD, attempts=attempts, last_error=reason)
        else:
            self._set(delivery, attempts=attempts, wait=backoff(attempts), last_error=reason)

    def record_dead_letter(self, event: Event, consumer: str, reason: str) -> None:
        """Store an event that a Broker gave up on as a dead letter of that consumer. Idempotent.

        The report is not authenticated. InvalidRequest for an event that neither this platform nor a change of a Kubernetes
        object produced, and for more consumers of one event than there can be; RateLimited when there are too many dead
        letters of Kubernetes objects.
        """
        dead = {"state": _DEAD, "attempts": MAX_ATTEMPTS, "due_at": 0.0, "last_error": reason}
        with self._database.write() as session:
            sequence = session.value(select(events.c.sequence).where(events.c.id == event.id))
            if sequence is None:
                sequence = _store_kubernetes_event(session, event)
            of_event = deliveries.c.sequence == sequence
            consumers = {row.consumer for row in session.rows(select(deliveries.c.consumer).where(of_event))}
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
        """Deliveries of the project's and the installation's events, newest first; `after` is the cursor of one of them.

        `organization_id` adds events of that organization that belong to no project; `operator` adds events of Kubernetes
        objects, of every tenant. An event without subscribers, or that a Broker delivers, is listed once, with an empty
        consumer. InvalidRequest for an invalid cursor.
        """
        query = _EVENTS_WITH_DELIVERIES.order_by(events.c.sequence.desc(), _CONSUMER).limit(limit)
        if state is not None:
            # Dead letters are rare and have rows: the index on state finds them.
            query = query.where(deliveries.c.state == _DEAD if state == _DEAD else _STATE.in_((state,)))
        if after is not None:
            sequence, _, consumer = after.partition(":")
            if not _SEQUENCE.fullmatch(sequence):
                raise InvalidRequest("'after' must be the 'cursor' of an earlier answer.", param="after")
            same_event, later_consumer = events.c.sequence == int(sequence), consumer < _CONSUMER
            query = query.where(or_(events.c.sequence < int(sequence), and_(same_event, later_consumer)))
        with self._database.read() as session:
            # One query per audience: each reads an index in the page's order, which a combined query could not.
            parts = [session.rows(query.where(seen)) for seen in _visible_events(project_id, organization_id, operator)]
        rows = sorted((row for part in parts for row in part), key=lambda row: -row.number)
        return [_delivery(row) for row in rows[:limit]]

    def replay(
        self, project_id: str, event_id: str, *, organization_id: str | None = None, operator: bool = False
    ) -> int:
        """Make the dead letters of an event pending again; returns their number. Conflict when there are none.

        NotFound for an event that `page` does not list with the same arguments. In standalone mode the dispatcher attempts
        the deliveries, on a cluster the publisher sends the event to the Broker again.
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
        """Delete events older than that many seconds, except those with a pending delivery or a dead letter.

        Each transaction deletes a thousand events at most, a call runs a hundred transactions at most; the next call
        continues. Returns the number of deleted events.
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
    """Conditions of visible events, one per audience: the project, the installation, the organization where it is given."""
    ids = [project_id, INSTALLATION_AUDIENCE]
    ids += [] if organization_id is None else [organization_id]
    ids += [OPERATOR_AUDIENCE] if operator else []
    before = and_(events.c.audience.is_(None), _visible_by_data(project_id, organization_id))
    if not operator:
        before = and_(before, events.c.type.not_like(f"{_KUBERNETES_TYPE_PREFIX}%"))
    return [*(events.c.audience == id_ for id_ in ids), before]


def _visible_by_data(project_id: str, organization_id: str | None) -> ColumnElement[bool]:
    """Visibility of events that the previous release wrote, without an audience: none are left a week after the upgrade."""
    marker = '"organization_id":"'
    visible: ColumnElement[bool] = events.c.data.not_like(f"%{marker}%")
    if organization_id is not None:
        # The data is compact JSON: the escaped quotes of a user's text can't match this pattern.
        visible = or_(visible, events.c.data.contains(f'{marker}{organization_id}"', autoescape=True))
    return or_(events.c.project_id == project_id, and_(events.c.project_id.is_(None), visible))


def _store_kubernetes_event(session: WriteSession, event: Event) -> int:
    """Store an event of a Kubernetes object, which is kept as a dead letter only; returns its sequence."""
    if not event.type.startswith(_KUBERNETES_TYPE_PREFIX):
        raise InvalidRequest(f"No event '{event.id[:80]}' was written by this platform; it is not kept.")
    dead_letters = select(deliveries.c.sequence).join(events, events.c.sequence == deliveries.c.sequence)
    dead_letters = dead_letters.where(deliveries.c.state == _DEAD, events.c.type.startswith(_KUBERNETES_TYPE_PREFIX))
    if len(session.rows(dead_letters.limit(_MAX_KUBERNETES_DEAD_LETTERS))) >= _MAX_KUBERNETES_DEAD_LETTERS:
        raise RateLimited("Enough events of Kubernetes are dead letters: replay them, see GET /v1/events?state=dead.")
    # The time is untrusted input; a future time would keep this event and all older ones from being pruned.
    moment = min(event.time, session.now())
    row = {"id": event.id, "type": event.type, "subject": event.subject, "project_id": None, "time": moment}
    data = json.dumps(event.data, separators=(",", ":"))
    # Two instances may receive the same report concurrently.
    session.insert_if_absent(events, [{**row, "data": data, "published": True, "audience": OPERATOR_AUDIENCE}])
    return int(session.value(select(events.c.sequence).where(events.c.id == event.id)))


def _prune_events(session: WriteSession, before: float) -> int:
    """Delete one batch of old events; returns their number. The search ends at the first event that is not old."""
    in_order = select(events.c.sequence).order_by(events.c.sequence)
    # An event with a future time was written before the clock was set back; the age of later events is independent of it.
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
    """Delete one batch of consumption records of events that are not delivered any more; returns their number."""
    key = tuple_(consumed_events.c.consumer, consumed_events.c.event_id)
    old = select(*consumed_events.primary_key).where(consumed_events.c.at < before).limit(_PRUNE_BATCH_SIZE)
    return session.run(delete(consumed_events).where(key.in_(old)))


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        row.number, row.consumer, row.state, row.attempts, row.last_error, event_from_row(row), row.project_id
    )
