"""The transactional outbox: an event is written in the transaction of its change, so that both commit or neither does."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

from sqlalchemy import Row, select

from llmariner.identifiers import new_id
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.tables import audience_of, consumed_events, events

__all__ = ["add", "event_from_row", "find_stored", "mark_consumed", "publish_request_count", "request_publish"]

_changes = itertools.count(1)
_last_change = 0


def publish_request_count() -> int:
    """How often this process requested publishing, including transactions that failed."""
    return _last_change


def request_publish() -> None:
    """Request publishing after the caller's transaction ends."""
    global _last_change
    _last_change = next(_changes)


def add(session: WriteSession, type_: str, subject: str, data: dict[str, Any]) -> None:
    """Add an event. `type_` is `ai.llmariner.<noun>.<past tense>.v<n>`, listed in eventing/events.md.

    `project_id` in the data names the event's project, else `organization_id` its organization; without either the event
    is the installation's.
    """
    request_publish()
    session.add(
        events,
        id=new_id("evt"),
        type=type_,
        subject=subject,
        project_id=data.get("project_id"),
        time=time.time(),
        data=json.dumps(data, separators=(",", ":")),
        published=False,
        audience=audience_of(data),
    )


def mark_consumed(session: WriteSession, consumer: str, event_id: str) -> bool:
    """Record that a consumer handled an event; False when it is recorded already.

    Delivery is at least once: a consumer whose work is not idempotent calls this in the transaction of its work and skips
    the event at False.
    """
    row = {"consumer": consumer, "event_id": event_id, "at": time.time()}
    return session.insert_if_absent(consumed_events, [row]) == 1


def find_stored(session: ReadSession, event: Event) -> Event | None:
    """The stored event with the id and type of a received one; None where this platform did not write it.

    Events are kept for a week after publication.
    """
    row = session.first(select(events).where(events.c.id == event.id, events.c.type == event.type))
    return None if row is None else event_from_row(row)


def event_from_row(row: Row[Any]) -> Event:
    """The event of a row of the outbox."""
    return Event(id=row.id, type=row.type, subject=row.subject, time=row.time, data=json.loads(row.data))
