"""Connections to SQLite and PostgreSQL, each with a limit of time on every wait."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.engine import Engine

from llmariner.settings import DatabaseSettings

__all__ = ["NO_TIMEOUTS", "create_database_engine"]

NO_TIMEOUTS = "no_timeouts"
"""Execution option of a connection whose statements may take any time, a migration's. It waits for locks for a few
seconds only: everybody who comes after it for the same table waits behind it."""

_BEGIN_WITHOUT_TIMEOUTS = (
    "BEGIN; SET LOCAL lock_timeout = 3000; SET LOCAL statement_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)

# A server that is gone without a word is noticed by the system within about half a minute.
_KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


def create_database_engine(settings: DatabaseSettings) -> Engine:
    """Connections are made when first needed."""
    return _sqlite(settings) if settings.url.startswith("sqlite") else _postgresql(settings)


def _sqlite(settings: DatabaseSettings) -> Engine:
    # A database in memory has one connection for each thread, and no pool that could be exhausted.
    pool = {"pool_timeout": settings.connect_seconds} if make_url(settings.url).database else {}
    connect = {"timeout": settings.lock_seconds, "check_same_thread": False}
    engine = create_engine(settings.url, connect_args=connect, **pool)

    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own implicit BEGIN comes too late for IMMEDIATE; `begin` issues ours.
        connection.isolation_level = None
        busy = f"busy_timeout={int(settings.lock_seconds * 1000)}"
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", busy):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        # A writer that began as a reader fails at its first write when another wrote in between: take the lock at once.
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
        # The driver begins no transaction by itself: `begin` does, and sets its limits in the same message.
        isolation_level="AUTOCOMMIT",
        # PgBouncer in transaction mode gives each transaction another server connection, so nothing is prepared.
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": max(2, int(settings.connect_seconds)),
            **_KEEPALIVES,
        },
    )
    # For the transaction only: PgBouncer ignores what a client asks for when it connects, and would give what is set for a
    # session to whoever has the server connection next.
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
