"""Events that the platform wrote: consumers believe no other."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from llmariner.platform.events import outbox, tables
from llmariner.platform.events.cloudevents import Event

from .installation import Installation

__all__ = ["written"]


def written(installation: Installation, type_: str, data: dict[str, Any], subject: str = "models/x") -> Event:
    """One such event, as it is brought to a consumer."""
    with installation.context.database.write() as session:
        outbox.add(session, type_, subject, data)
        newest = select(tables.events).order_by(tables.events.c.sequence.desc()).limit(1)
        return outbox.event_from_row(session.rows(newest)[0])
