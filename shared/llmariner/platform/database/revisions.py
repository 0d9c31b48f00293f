"""Counters that rise with every change of a kind of resource: a reader asks for the changes since its last revision."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table, update

from llmariner.platform.database import WriteSession, metadata

__all__ = ["next_revision", "revisions"]

revisions = Table(
    "revisions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)


def next_revision(session: WriteSession, name: str) -> int:
    """Increment the counter of that name and return it.

    Its row stays locked until the transaction ends, so that revisions become visible in order: no reader sees revision 8
    before revision 7.
    """
    increment = update(revisions).where(revisions.c.name == name).values(value=revisions.c.value + 1)
    value = session.value(increment.returning(revisions.c.value))
    if value is None:
        session.insert_if_absent(revisions, [{"name": name, "value": 0}])
        value = session.value(increment.returning(revisions.c.value))
    return int(value)
