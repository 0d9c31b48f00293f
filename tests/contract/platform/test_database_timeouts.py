"""Every wait for the database ends, and its outcome is reported correctly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import select, text, update

from llmariner.errors import TransactionConflict, Unavailable
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.database.revisions import revisions
from llmariner.settings import DatabaseSettings

SHORT = {"connect_seconds": 1.0, "lock_seconds": 0.3, "statement_seconds": 0.6, "idle_seconds": 30.0}


@pytest.fixture
def short_timeouts(database: Database) -> Iterator[Database]:
    """The same database with short timeouts; it has two rows."""
    with database.write() as session:
        for name in ("a", "b"):
            session.add(revisions, name=name, value=0)
    made = Database(DatabaseSettings(database.url, pool_size=1, **SHORT))
    yield made
    made.close()


def raise_value(session: WriteSession, name: str) -> None:
    session.run(update(revisions).where(revisions.c.name == name).values(value=revisions.c.value + 1))


def test_waiting_for_a_lock_times_out(database: Database, short_timeouts: Database) -> None:
    with database.write() as session:
        raise_value(session, "a")
        with pytest.raises(Unavailable, match="busy") as refused, short_timeouts.write() as other:
            raise_value(other, "a")
    assert refused.value.headers["retry-after"] == "2"
    with short_timeouts.write() as session:
        raise_value(session, "a")


def test_an_exhausted_connection_pool_is_reported(short_timeouts: Database) -> None:
    if short_timeouts.engine.dialect.name == "sqlite":
        pytest.skip("a thread of SQLite's is not limited to few connections")
    with ExitStack() as held:
        for _ in range(3):  # one, and two that may come on top
            held.enter_context(short_timeouts.read())
        with pytest.raises(Unavailable, match="in use") as refused, short_timeouts.read():
            pass
    assert refused.value.headers["retry-after"] == "1"
    with short_timeouts.read() as session:
        assert session.value(select(revisions.c.value).where(revisions.c.name == "a")) == 0


def test_a_slow_statement_is_cancelled(short_timeouts: Database) -> None:
    if short_timeouts.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no limit of a statement's time")
    with pytest.raises(Unavailable, match="took too long"), short_timeouts.read() as session:
        session.rows(text("SELECT pg_sleep(60)"))


def test_an_idle_transaction_is_ended_by_the_server(short_timeouts: Database) -> None:
    if short_timeouts.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's transactions end with their process")
    impatient = Database(DatabaseSettings(short_timeouts.url, idle_seconds=0.2))

    def change_slowly() -> None:
        with impatient.write() as session:
            raise_value(session, "a")
            time.sleep(0.5)
            raise_value(session, "a")

    with pytest.raises(Unavailable, match="took too long"):
        change_slowly()
    impatient.close()
    with short_timeouts.read() as session:
        assert session.value(select(revisions.c.value).where(revisions.c.name == "a")) == 0


def test_timeouts_are_set_per_transaction_not_per_session(short_timeouts: Database) -> None:
    if short_timeouts.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no sessions")
    with short_timeouts.read() as session:
        assert session.value(text("SHOW lock_timeout")) == "300ms"
        assert session.value(text("SHOW statement_timeout")) == "600ms"
        assert session.value(text("SHOW idle_in_transaction_session_timeout")) == "30s"
    with short_timeouts.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def deadlocked(database: Database, do: Callable[[Callable[[WriteSession], None]], object]) -> list[Exception]:
    """Two transactions that lock the same two rows in opposite order; returns their errors."""
    met, failed = threading.Barrier(2), []

    def change(first: str, second: str) -> None:
        attempts = []

        def work(session: WriteSession) -> None:
            attempts.append(1)
            raise_value(session, first)
            if len(attempts) == 1:
                met.wait(30)
            raise_value(session, second)

        try:
            do(work)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=change, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failed


def test_a_deadlock_is_retried_and_not_an_outage(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with database.write() as session:
        for name in ("a", "b"):
            session.add(revisions, name=name, value=0)

    def once(work: Callable[[WriteSession], None]) -> None:
        with database.write() as session:
            work(session)

    (failure,) = deadlocked(database, once)
    assert isinstance(failure, TransactionConflict)
    assert (failure.status, failure.code, failure.headers["retry-after"]) == (503, "transaction_conflict", "1")
    assert deadlocked(database, database.transact) == []
    with database.read() as reading:
        assert {row.value for row in reading.rows(select(revisions))} == {3}


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_serialization_failures_are_retried_three_times(database: Database, state: str) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    tried = []

    def work(session: WriteSession) -> int:
        tried.append(1)
        if len(tried) < 3:
            session.run(text(f"DO $$ BEGIN RAISE EXCEPTION 'given up' USING ERRCODE = '{state}'; END $$"))
        return session.insert_if_absent(revisions, [{"name": "a", "value": len(tried)}])

    assert database.transact(work) == 1
    with database.read() as reading:
        assert [row.value for row in reading.rows(select(revisions))] == [3]


def test_a_missing_server_is_reported_soon() -> None:
    database = Database(DatabaseSettings("postgresql+psycopg://nobody@127.0.0.1:9/none", connect_seconds=1.0))
    with pytest.raises(Unavailable, match="does not answer"), database.read():
        pass
