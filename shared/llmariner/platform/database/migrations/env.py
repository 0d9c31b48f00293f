"""How Alembic reaches our database; called by `migrate.py`, never from its own command line."""

from alembic import context
from sqlalchemy import text

# One installer at a time: the key is ours alone, taken for the length of the migration's transaction.
_LOCK = 7152386001

engine = context.config.attributes["engine"]

with engine.connect().execution_options(writing=True) as connection:
    context.configure(connection=connection, render_as_batch=True, transactional_ddl=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.run_migrations()
    connection.commit()
