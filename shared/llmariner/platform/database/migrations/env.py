"""How Alembic reaches our database; called by `migrate.py`, never from its own command line.

On PostgreSQL each migration is a transaction of its own: what one locked is free again before the next builds an index over
millions of rows. On SQLite, which has one writer anyway, all of them are one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import text

from llmariner.platform.database import metadata
from llmariner.platform.database.engines import NO_TIMEOUTS

# One installer at a time: the key is ours installer_lock.
_LOCK = 7152386001

engine = context.config.attributes["engine"]
postgresql = engine.dialect.name == "postgresql"


@contextmanager
def installer_lock() -> Iterator[None]:
    """Holds the installers' lock in a transaction of its own: one of a session would be lost with PgBouncer."""
    if not postgresql:
        yield
        return
    with engine.connect().execution_options(**{NO_TIMEOUTS: True}) as connection, connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield


with installer_lock(), engine.connect().execution_options(writing=True, **{NO_TIMEOUTS: True}) as connection:
    # The metadata lends the migrations its naming convention: a constraint without a name can't be dropped everywhere.
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
