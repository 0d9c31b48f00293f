"""SQLAlchemy engines for SQLite and PostgreSQL; every wait on a connection has a timeout."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.engine import Engine

from llmariner.settings import DatabaseSettings

__all__ = ["NO_TIMEOUTS", "create_database_engine"]

NO_TIMEOUTS = "no_timeouts"
"""Execution option of a migration's connection: its statements have no timeout. Its lock timeout is a few seconds, since
every later transaction on the same table queues behind a waiting migration."""

_BEGIN_WITHOUT_TIMEOUTS = (
    "BEGIN; SET LOCAL lock_timeout = 3000; SET LOCAL statement_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)

# The kernel detects a server that vanished without closing the connection within about half a minute.
_KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


def create_database_engine(settings: DatabaseSettings) -> Engine:
    """The engine for a URL of SQLite or PostgreSQL; it connects on first use."""
    return _sqlite(settings) if settings.url.startswith("sqlite") else _postgresql(settings)


def _sqlite(settings: DatabaseSettings) -> Engine:
    # An in-memory database has one connection per thread, and no pool that could be exhausted.
    pool = {"pool_timeout": settings.connect_seconds} if make_url(settings.url).database else {}
    connect = {"timeout": settings.lock_seconds, "check_same_thread": False}
    engine = create_engine(settings.url, connect_args=connect, **pool)

    def prepare(connection: Any, _record: Any) -> None:
        # The driver's implicit BEGIN comes too late for IMMEDIATE; `begin` issues BEGIN explicitly.
        connection.isolation_level = None
        busy = f"busy_timeout={int(settings.lock_seconds * 1000)}"
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", busy):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        # A transaction that begins as a reader fails at its first write if another wrote in between: lock at the start.
        writing = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _postgresql(settings: DatabaseSettings) -> Engine:
    engine = create_engine(
        settings.url,
        pool_size=settings.pool_size,
        max_overflow=2,
        pool_timeout=settings.connect_seconds,
        pool_pre_ping=True,
        # The driver does not begin transactions: `begin` does, and sets the timeouts in the same message.
        isolation_level="AUTOCOMMIT",
        # PgBouncer in transaction mode gives each transaction another server connection, so statements are not prepared.
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": max(2, int(settings.connect_seconds)),
            **_KEEPALIVES,
        },
    )
    # SET LOCAL, for the transaction only: PgBouncer ignores startup options, and session settings would leak to the next
    # client of the server connection.
    limits = {
        "lock_timeout": settings.lock_seconds,
        "statement_timeout": settings.statement_seconds,
        "idle_in_transaction_session_timeout": settings.idle_seconds,
    }
    bounded = "; ".join(["BEGIN", *(f"SET LOCAL {name} = {int(each * 1000)}" for name, each in limits.items())])

    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql(_BEGIN_WITHOUT_TIMEOUTS if options.get(NO_TIMEOUTS) else bounded)

    event.listen(engine, "begin", begin)
    return engine
