"""Migrations upgrade, downgrade and upgrade again, and match the tables that the code declares."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text

from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.queries import ModelSelector
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, metadata
from llmariner.platform.database.migrate import current, downgrade, head, upgrade
from llmariner.platform.database.revisions import revisions
from llmariner.settings import DatabaseSettings, Secret
from llmariner.tenancy.keys.store import Keys
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

NewDatabase = Callable[[], Database]
# Installers are processes: Alembic keeps the migration under way in its module.
INSTALLER = """
import sys
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings
upgrade(Database(DatabaseSettings(sys.argv[1])))
"""


def tables(database: Database) -> set[str]:
    """The existing tables, except Alembic's own."""
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def fill(database: Database) -> None:
    """Rows in most tables."""
    owner = ensure_first_owner(database)
    create_bootstrap_key(Keys(database, Secret("p" * 32)), owner, "admin")
    ModelRegistry(database).create(NewModel("org/model", SourceRepository.LOCAL, "/models/x"))


def test_an_empty_database_has_no_revision(new_database: NewDatabase) -> None:
    assert current(new_database()) is None


def test_an_upgrade_of_an_empty_database_ends_at_the_head(new_database: NewDatabase) -> None:
    database = new_database()
    upgrade(database)
    assert current(database) == head()
    assert tables(database) == set(metadata.tables)


def test_an_upgrade_of_a_current_database_keeps_the_data(new_database: NewDatabase) -> None:
    database = new_database()
    upgrade(database)
    fill(database)
    upgrade(database)
    assert [model.id for model in all_models(database)] == ["org/model"]


def test_a_downgrade_to_the_base_removes_every_table_and_can_be_upgraded(new_database: NewDatabase) -> None:
    database = new_database()
    upgrade(database)
    fill(database)
    downgrade(database, "base")
    assert tables(database) == set()
    assert current(database) is None
    upgrade(database)
    assert all_models(database) == []
    fill(database)
    assert [model.id for model in all_models(database)] == ["org/model"]


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_schema_of_the_code_matches_the_migrations(installed: Database) -> None:
    with installed.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_two_concurrent_upgrades_succeed(new_url: Callable[[], str]) -> None:
    url = new_url()
    command = [sys.executable, "-c", INSTALLER, url]
    installers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [(installer.communicate(timeout=60)[1], installer.returncode) for installer in installers]
    assert ended == [(b"", 0), (b"", 0)]
    database = Database(DatabaseSettings(url))
    assert current(database) == head()
    assert tables(database) == set(metadata.tables)
    database.close()


def test_a_failed_migration_changes_nothing(new_database: NewDatabase) -> None:
    database = new_database()
    with database.write() as session:
        session.run(text("CREATE TABLE ledger_events (request_id VARCHAR(64))"))
    with pytest.raises(Exception, match=r"ledger_events"):
        upgrade(database)
    assert tables(database) == {"ledger_events"}
    assert current(database) is None


def all_models(database: Database) -> list[Any]:
    return ModelRegistry(database).page(ModelSelector(None), after=None, limit=10)


def test_revisions_have_one_row_per_kind(new_database: NewDatabase) -> None:
    database = new_database()
    upgrade(database)
    fill(database)
    with database.read() as session:
        found = {row.name for row in session.rows(select(revisions))}
    assert found == {"api_keys", "models"}
