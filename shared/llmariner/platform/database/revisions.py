"""Numbers that rise with every change of a kind of thing, so that a reader can ask what changed since it last looked."""

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
    """The next number of that name. Its row stays locked to the end of the transaction, so that numbers become
    visible in their order: nobody can see 8 and later find a 7 that was still under way."""
    increment = update(revisions).where(revisions.c.name == name).values(value=revisions.c.value + 1)
    value = session.value(increment.returning(revisions.c.value))
    if value is None:
        session.insert_if_absent(revisions, [{"name": name, "value": 0}])
        value = session.value(increment.returning(revisions.c.value))
    return int(value)
