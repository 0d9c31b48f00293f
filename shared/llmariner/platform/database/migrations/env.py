"""Alembic's environment; `migrate.py` runs it, not Alembic's command line.

On PostgreSQL each migration is a transaction of its own: it releases its locks before the next one builds an index over
millions of rows. On SQLite, which has one writer anyway, all migrations share a transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import text

from llmariner.platform.database import metadata
from llmariner.platform.database.engines import NO_TIMEOUTS

# The key of the advisory lock: one installer at a time.
_LOCK = 7152386001

engine = context.config.attributes["engine"]
postgresql = engine.dialect.name == "postgresql"


@contextmanager
def installer_lock() -> Iterator[None]:
    """Hold the installers' lock in a transaction of its own: PgBouncer would lose a session-level lock."""
    if not postgresql:
        yield
        return
    with engine.connect().execution_options(**{NO_TIMEOUTS: True}) as connection, connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield


with installer_lock(), engine.connect().execution_options(writing=True, **{NO_TIMEOUTS: True}) as connection:
    # The metadata's naming convention names every constraint: an unnamed one can't be dropped on every database.
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transactional_ddl=True,
        transaction_per_migration=postgresql,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
