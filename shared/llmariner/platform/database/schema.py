"""Whether a database has the schema of this code: one query, where Alembic would cost a second of imports."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from llmariner.platform.database import Database

__all__ = ["is_current", "newest_revision"]

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


def newest_revision() -> str:
    """The revision of this code: migrations are files that begin with their number."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def is_current(database: Database) -> bool:
    """Whether every migration of this code has been applied."""
    if not inspect(database.engine).has_table("alembic_version"):
        return False
    with database.read() as session:
        return bool(session.value(text("SELECT version_num FROM alembic_version")) == newest_revision())
