"""Schema migrations, by Alembic. Imported only where a migration runs: Alembic costs a second of start-up."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from llmariner.platform.database import Database

__all__ = ["current", "downgrade", "head", "upgrade"]

_SCRIPTS = Path(__file__).with_name("migrations")


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Two installers at once are safe: the second waits and finds it done."""
    _run(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema back to `revision` (`base`: no tables)."""
    _run(database, lambda config: command.downgrade(config, revision))


def current(database: Database) -> str | None:
    """The revision that the database is at; None before the first migration."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """The newest revision of this code."""
    return ScriptDirectory(str(_SCRIPTS)).get_current_head()


def _run(database: Database, action: object) -> None:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["engine"] = database.engine
    action(config)  # type: ignore[operator]
