"""A function runs on the schema of its own version and on newer ones that still serve it, and on no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text, update

from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.http.middleware.readiness import Readiness
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import downgrade, head, upgrade
from llmariner.platform.database.schema import newest_revision, schema_mismatch
from llmariner.platform.database.tables import schema_compatibility

NewDatabase = Callable[[], Database]


def at_revision(database: Database, revision: str, oldest: str) -> None:
    """A schema as a newer version's migrations would leave it."""
    with database.write() as session:
        session.run(text(f"UPDATE alembic_version SET version_num = '{revision}'"))
        session.run(update(schema_compatibility).values(oldest_revision=oldest))


def test_the_newest_revision_is_the_head_of_the_migrations() -> None:
    assert newest_revision() == head()


def test_a_database_without_a_schema_needs_a_migration(new_database: NewDatabase) -> None:
    never, undone = new_database(), new_database()
    upgrade(undone)
    downgrade(undone, "base")
    for database in (never, undone):
        found = schema_mismatch(database)
        assert found is not None
        assert found.upgradable
        assert "has no schema yet" in found.reason
        assert "migrations Job" in found.reason


def test_an_older_schema_needs_a_migration(new_database: NewDatabase) -> None:
    database = new_database()
    upgrade(database, "0008")
    found = schema_mismatch(database)
    assert found is not None
    assert found.upgradable
    assert "is at revision 0008" in found.reason
    upgrade(database)
    assert schema_mismatch(database) is None


def test_a_newer_schema_is_accepted_if_it_serves_this_version(
    new_database: NewDatabase,
) -> None:
    database = new_database()
    upgrade(database)
    at_revision(database, "9998", newest_revision())
    assert schema_mismatch(database) is None
    at_revision(database, "9999", "9998")
    found = schema_mismatch(database)
    assert found is not None
    assert not found.upgradable
    assert "serves code of revision 9998" in found.reason


def test_a_function_becomes_ready_with_the_schema_and_stays_ready(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmariner.http.middleware.readiness._RETRY_SECONDS", 0.0)
    database = new_database()
    upgrade(database, "0008")
    readiness = Readiness(Context({"LLMARINER_DATABASE_URL": database.url}))
    for _ in range(2):
        with pytest.raises(Unavailable, match="needs") as refused:
            readiness.check()
    assert refused.value.code == "schema_mismatch"
    assert caplog.text.count("not ready") == 1
    upgrade(database)
    readiness.check()
    with database.write() as session:
        session.run(text("UPDATE alembic_version SET version_num = '0001'"))
    readiness.check()
    readiness._context.database.close()


def test_a_database_that_is_down_blocks_no_request(tmp_path: Path) -> None:
    Readiness(Context({"LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path}/nowhere/x.db"})).check()
