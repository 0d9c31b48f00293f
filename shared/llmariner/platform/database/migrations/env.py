"""How Alembic reaches our database; called by `migrate.py`, never from its own command line."""

from alembic import context
from sqlalchemy import text

from llmariner.platform.database import metadata
from llmariner.platform.database.engines import UNBOUNDED

# One installer at a time: the key is ours alone, taken for the length of the migration's transaction.
_LOCK = 7152386001

engine = context.config.attributes["engine"]

with engine.connect().execution_options(writing=True, **{UNBOUNDED: True}) as connection:
    # The metadata lends the migrations its naming convention: a constraint without a name can't be dropped everywhere.
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.run_migrations()
    connection.commit()
