"""Events in the outbox: consumers reject all others."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from llmariner.platform.events import outbox, tables
from llmariner.platform.events.cloudevents import Event

from .installation import Installation

__all__ = ["write_event"]


def write_event(installation: Installation, type_: str, data: dict[str, Any], subject: str = "models/x") -> Event:
    """Write an event to the outbox and return it as a consumer gets it."""
    with installation.context.database.write() as session:
        outbox.add(session, type_, subject, data)
        newest = select(tables.events).order_by(tables.events.c.sequence.desc()).limit(1)
        return outbox.event_from_row(session.rows(newest)[0])
