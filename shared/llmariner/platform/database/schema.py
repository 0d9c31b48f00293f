"""Whether this code may run on the schema of a database: one or two queries, without the second that Alembic's import takes.

A release only adds to the schema of the previous release. Code therefore runs on newer schemas than its own, up to one that
removes what it needs: `schema_compatibility` has the oldest revision whose code a schema still supports.
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
    """Why this code must not run on a schema, and what to do. `upgradable`: the migrations of this code resolve it."""

    reason: str
    upgradable: bool


def newest_revision() -> str:
    """The newest revision that this code has: names of migration files begin with their revision."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def schema_mismatch(database: Database) -> SchemaMismatch | None:
    """Why this code must not run on the schema; None where it may. Unavailable when the database does not answer."""
    code_revision = newest_revision()
    with database.read() as session:
        tables = inspect(session.connection)
        migrated = tables.has_table("alembic_version")
        # The table stays, without a row, after a downgrade to `base`.
        schema_revision = session.value(text("SELECT version_num FROM alembic_version")) if migrated else None
        if schema_revision is None:
            return SchemaMismatch(
                f"The database has no schema yet, this version needs revision {code_revision}. {_MIGRATE}", True
            )
        if schema_revision < code_revision:
            return SchemaMismatch(
                f"The database is at revision {schema_revision}, this version needs {code_revision}. {_MIGRATE}", True
            )
        if schema_revision == code_revision or not tables.has_table(schema_compatibility.name):
            return None
        oldest = session.value(select(schema_compatibility.c.oldest_revision))
    if oldest is None or oldest <= code_revision:
        return None
    return SchemaMismatch(
        f"The database is at revision {schema_revision}, which serves code of revision {oldest} or newer; "
        f"this version is of {code_revision}. "
        "Install the newer version again, or restore the backup that was made before the upgrade.",
        False,
    )


_MIGRATE = "Wait for the migrations Job of this version, or run `python -m llmariner.installation migrations`."
