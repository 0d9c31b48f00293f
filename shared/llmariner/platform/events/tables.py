"""Tables of the events port. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from llmariner.platform.database import metadata
from llmariner.platform.database.sanitized_text import SanitizedText

__all__ = ["INSTALLATION_AUDIENCE", "OPERATOR_AUDIENCE", "audience_of", "consumed_events", "deliveries", "events"]

INSTALLATION_AUDIENCE = "*"
"""The audience of an event of the installation: everyone."""

OPERATOR_AUDIENCE = "operators"
"""The audience of events that only operators see, such as those with names of all tenants' Kubernetes objects."""


def audience_of(data: Mapping[str, Any]) -> str:
    """Who may see an event with that data."""
    named = (data.get("project_id"), data.get("organization_id"))
    return next((id_ for id_ in named if isinstance(id_, str)), INSTALLATION_AUDIENCE)


# SQLite autoincrements only a column of the exact type INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

events = Table(
    "events",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("type", String(128), nullable=False),
    Column("subject", String(512), nullable=False),
    # The project of the event; NULL: an event of an organization or of the installation.
    Column("project_id", String(64)),
    Column("time", Float, nullable=False),
    Column("data", Text, nullable=False),
    Column("published", Boolean, nullable=False),
    # Who sees it: the id of its project, else of its organization, else INSTALLATION_AUDIENCE; or OPERATOR_AUDIENCE.
    # NULL: the previous release wrote it.
    Column("audience", String(64)),
    Index("ix_events_unpublished", "published", "sequence"),
    Index("ix_events_audience", "audience", "sequence"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sequence", _Sequence, ForeignKey("events.sequence"), primary_key=True),
    Column("consumer", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("last_error", SanitizedText),
    Index("ix_deliveries_due", "state", "due_at"),
)

consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("at", Float, nullable=False),
    Index("ix_consumed_events_at", "at"),
)
