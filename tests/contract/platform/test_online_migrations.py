"""An upgrade of a database in use blocks other transactions for a few seconds at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from llmariner.platform.database import Database, engines
from llmariner.platform.database import migrate as migrating
from llmariner.platform.database.migrate import current, head, upgrade
from llmariner.tenancy.tables import users

BEFORE = "0008"


@pytest.fixture
def older(new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch) -> Database:
    """A PostgreSQL database of the previous release, with a lock timeout of 0.2 s for migrations."""
    database = new_database()
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's readers never wait for a writer")
    upgrade(database, BEFORE)
    monkeypatch.setattr(engines, "_BEGIN_WITHOUT_TIMEOUTS", engines._BEGIN_WITHOUT_TIMEOUTS.replace("3000", "200"))
    monkeypatch.setattr(migrating, "_PAUSE_SECONDS", 0.2)
    return database


@contextmanager
def held(database: Database, statement: str) -> Iterator[None]:
    """An open transaction that ran this statement."""
    url = database.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
        yield


def until_it_waits(database: Database) -> None:
    """Wait until a statement waits for the lock of a table."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with database.read() as session:
            if session.value(waiting):
                return
        time.sleep(0.01)
    raise AssertionError("no migration waits")


def read_users(database: Database) -> None:
    with database.read() as session:
        session.rows(select(users.c.id))


def test_a_long_read_delays_the_upgrade_only(older: Database) -> None:
    with held(older, "SELECT count(*) FROM users"):
        upgrading = threading.Thread(target=upgrade, args=(older,))
        upgrading.start()
        for _ in range(3):
            until_it_waits(older)
            read_users(older)
        assert upgrading.is_alive()
    upgrading.join(60)
    assert current(older) == head()


def test_locks_of_a_migration_are_released_before_the_next(older: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "_MAX_ATTEMPTS", 1)
    # 0009 changes `users`; 0017 creates an index of a table that is being written.
    with held(older, "LOCK TABLE ledger_requests IN ROW EXCLUSIVE MODE"):
        with pytest.raises(OperationalError, match="lock timeout"):
            upgrade(older)
        assert current(older) == "0016"
        read_users(older)
    upgrade(older)
    assert current(older) == head()
