"""Schema migrations, by Alembic. Imported only where a migration runs: importing Alembic takes a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from llmariner.platform.database import Database

__all__ = ["current", "downgrade", "head", "upgrade"]

_log = logging.getLogger(__name__)
_SCRIPTS = Path(__file__).with_name("migrations")
# The pause lets the transactions that queued behind an attempt finish before the next attempt.
_MAX_ATTEMPTS, _PAUSE_SECONDS = 20, 3.0
_LOCK_NOT_AVAILABLE = "55P03"


def upgrade(database: Database, revision: str = "head") -> None:
    """Upgrade the schema to `revision`. Concurrent calls are safe: the second waits and finds nothing to do.

    Where another transaction, such as a backup's, keeps a table locked, the migration is retried for a minute or two; then
    OperationalError. Completed migrations stay, and the next call continues after them.
    """
    _run(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Downgrade the schema to `revision` (`base`: no tables)."""
    _run(database, lambda config: command.downgrade(config, revision))


def current(database: Database) -> str | None:
    """The revision of the database; None before the first migration."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """The newest revision that this code has."""
    return ScriptDirectory(str(_SCRIPTS)).get_current_head()


def _run(database: Database, action: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["engine"] = database.engine
    for left in range(_MAX_ATTEMPTS - 1, -1, -1):
        try:
            return action(config)
        except OperationalError as error:
            if not left or getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            _log.warning(
                "a migration waits for a lock that another transaction holds; retrying in %g s: %s",
                _PAUSE_SECONDS,
                error.orig,
            )
            time.sleep(_PAUSE_SECONDS)
