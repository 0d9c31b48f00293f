"""Whether this code may run on the schema that a database has: a query or two, where Alembic would cost a second of imports.

A release only adds to what the release before runs on. So code runs on newer schemas than its own, up to one that
takes away what it needs: `schema_compatibility` names the oldest revision whose code a schema still serves.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import inspect, select, text

from llmariner.platform.database import Database
from llmariner.platform.database.tables import schema_compatibility

__all__ = ["SchemaMismatch", "newest_revision", "schema_mismatch"]

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


class SchemaMismatch(NamedTuple):
    """Why this code must not run on a schema, and what to do. `upgradable`: the migrations of this code mend it."""

    reason: str
    upgradable: bool


def newest_revision() -> str:
    """The revision of this code: migrations are files that begin with their number."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def schema_mismatch(database: Database) -> SchemaMismatch | None:
    """None where this code may run. Unavailable when the database does not answer."""
    ours = newest_revision()
    with database.read() as session:
        tables = inspect(session.connection)
        known = tables.has_table("alembic_version")
        # The table stays, without its row, where every migration was undone.
        theirs = session.value(text("SELECT version_num FROM alembic_version")) if known else None
        if theirs is None:
            return SchemaMismatch(
                f"The database has no schema yet, this version needs revision {ours}. {_MIGRATE}", True
            )
        if theirs < ours:
            return SchemaMismatch(f"The database is at revision {theirs}, this version needs {ours}. {_MIGRATE}", True)
        if theirs == ours or not tables.has_table(schema_compatibility.name):
            return None
        oldest = session.value(select(schema_compatibility.c.oldest_revision))
    if oldest is None or oldest <= ours:
        return None
    return SchemaMismatch(
        f"The database is at revision {theirs}, which serves code of revision {oldest} or newer; this version is of {ours}. "
        "Install the newer version again, or restore the backup that was made before the upgrade.",
        False,
    )


_MIGRATE = "Wait for the migrations Job of this version, or run `python -m llmariner.installation migrations`."
