"""Writing events in the transaction of the change that they tell of: both are there, or neither."""

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
    """How often this process left something to publish, in transactions that failed, too."""
    return _last_change


def request_publish() -> None:
    """There is something to publish once the caller's transaction ends."""
    global _last_change
    _last_change = next(_changes)


def add(session: WriteSession, type_: str, subject: str, data: dict[str, Any]) -> None:
    """Note that something happened. `type_` is `ai.llmariner.<noun>.<past tense>.v<n>`, listed in eventing/events.md.

    `project_id` in the data says whose event it is, else `organization_id`; without either it is the installation's.
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
    """Whether this consumer meets the event for the first time; to be asked in the transaction of what it does about it.

    Delivery is at least once, so a consumer whose work is not idempotent by nature asks here and stops at False.
    """
    row = {"consumer": consumer, "event_id": event_id, "at": time.time()}
    return session.insert_if_absent(consumed_events, [row]) == 1


def find_stored(session: ReadSession, event: Event) -> Event | None:
    """What the outbox holds of an event that somebody brings; None where this platform never wrote one of its id and type.

    Events are kept for a week after they were published.
    """
    row = session.first(select(events).where(events.c.id == event.id, events.c.type == event.type))
    return None if row is None else event_from_row(row)


def event_from_row(row: Row[Any]) -> Event:
    """The event that a row of the outbox holds."""
    return Event(id=row.id, type=row.type, subject=row.subject, time=row.time, data=json.loads(row.data))
