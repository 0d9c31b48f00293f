"""Schema migrations, by Alembic. Imported only where a migration runs: Alembic costs a second of start-up."""

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
# Who was held up by a try comes through before the next one.
_MAX_ATTEMPTS, _PAUSE_SECONDS = 20, 3.0
_LOCK_NOT_AVAILABLE = "55P03"


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Two installers at once are safe: the second waits and finds it done.

    A table that somebody uses for long, such as a backup, is tried for a minute or two; then OperationalError. What was
    done by then stays, and the next call goes on from there.
    """
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
            _log.warning("somebody uses what a migration changes; tried again in %g s: %s", _PAUSE_SECONDS, error.orig)
            time.sleep(_PAUSE_SECONDS)
