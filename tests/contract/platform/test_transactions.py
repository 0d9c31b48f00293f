"""Transactions are atomic, and every failure of a database is one of the platform's errors."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from llmariner.errors import InvalidRequest, Unavailable
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision, revisions
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.tables import organizations, projects, users

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def user(name: str) -> dict[str, Any]:
    return {"id": name, "email": f"{name}@example.org", "created_at": 1}


def write(database: Database, *work: Callable[[WriteSession], Any]) -> None:
    """One writing transaction of these steps."""
    with database.write() as session:
        for step in work:
            step(session)


def add_user(name: str) -> Callable[[WriteSession], Any]:
    return lambda session: session.add(users, **user(name))


def fail(_: WriteSession) -> None:
    raise RuntimeError


def names(database: Database) -> list[str]:
    with database.read() as session:
        return [row.id for row in session.rows(select(users.c.id).order_by(users.c.id))]


def test_a_successful_block_is_committed(database: Database) -> None:
    with database.write() as session:
        session.add(users, **user("a"))
    assert names(database) == ["a"]


def test_a_block_that_raises_changes_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError):
        write(database, add_user("a"), fail)
    assert names(database) == []


def test_a_transaction_sees_its_own_writes_and_others_do_not_before_the_commit(database: Database) -> None:
    with database.write() as session:
        session.add(users, **user("a"))
        assert session.value(select(func.count()).select_from(users)) == 1
        assert names(database) == []
    assert names(database) == ["a"]


def test_a_taken_key_is_a_duplicate_and_rolls_back(database: Database) -> None:
    with database.write() as session:
        session.add(users, **user("a"))
    with pytest.raises(Duplicate):
        write(database, add_user("b"), add_user("a"))
    assert names(database) == ["a"]


def test_a_dangling_reference_is_a_duplicate(database: Database) -> None:
    row = {"id": "proj_1", "organization_id": "nobody", "title": "x", "is_default": False, "created_at": 1}
    with pytest.raises(Duplicate), database.write() as session:
        session.add(projects, **row)


def test_insert_if_absent_counts_inserted_rows(database: Database) -> None:
    with database.write() as session:
        assert session.insert_if_absent(users, [user("a"), user("b")]) == 2
        assert session.insert_if_absent(users, [user("b"), user("c")]) == 1
        assert session.insert_if_absent(users, []) == 0
    assert names(database) == ["a", "b", "c"]


def test_run_returns_the_number_of_affected_rows(database: Database) -> None:
    with database.write() as session:
        session.insert_if_absent(users, [user("a"), user("b")])
        assert session.run(update(users).values(created_at=2)) == 2
        assert session.run(update(users).where(users.c.id == "c").values(created_at=3)) == 0


def test_first_and_value_are_none_without_rows(database: Database) -> None:
    with database.read() as session:
        assert session.first(select(users)) is None
        assert session.value(select(users.c.id)) is None
        assert list(session.rows(select(users))) == []


def test_a_reading_session_cannot_write(database: Database) -> None:
    with database.read() as session:
        assert type(session) is ReadSession
        assert not {"run", "add", "insert_if_absent"} & set(dir(session))
    with database.write() as writing:
        assert isinstance(writing, WriteSession)


def test_concurrent_writers_lose_no_increment(database: Database, run_concurrently: AtOnce) -> None:
    def raise_it() -> int:
        with database.write() as session:
            return next_revision(session, "things")

    found = run_concurrently([raise_it] * 6)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]


def test_a_rolled_back_revision_is_reused(database: Database) -> None:
    seen: list[int] = []
    with pytest.raises(RuntimeError):
        write(database, lambda session: seen.append(next_revision(session, "things")), fail)
    for name in ("things", "others", "things"):
        write(database, lambda session, name=name: seen.append(next_revision(session, name)))  # type: ignore[misc]
    assert seen == [1, 1, 1, 2]
    with database.read() as session:
        assert session.value(select(func.count()).select_from(revisions)) == 2


def test_a_number_out_of_the_columns_range_is_rejected(database: Database) -> None:
    beyond = 10**30
    with pytest.raises(InvalidRequest), database.write() as session:
        session.run(update(organizations).where(organizations.c.created_at == beyond).values(created_at=beyond))


@pytest.mark.parametrize("write", [False, True])
def test_a_closed_port_is_unavailable(*, write: bool) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        away = Database(DatabaseSettings(f"postgresql+psycopg://app@127.0.0.1:{unheard.getsockname()[1]}/x"))
        with pytest.raises(Unavailable) as refused, away.write() if write else away.read():
            pass
    away.close()
    assert refused.value.status == 503
    assert refused.value.headers["retry-after"] == "2"
    assert "127.0.0.1" not in refused.value.message


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    away = Database(DatabaseSettings(f"sqlite:///{tmp_path}/nowhere/at/all.db"))
    with pytest.raises(Unavailable), away.read():
        pass
    away.close()


def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_next_works(server: Database) -> None:
    def cut(session: WriteSession) -> None:
        pid = int(session.value(text("SELECT pg_backend_pid()")))
        write(server, lambda other: other.value(text("SELECT pg_terminate_backend(:pid)").bindparams(pid=pid)))

    with pytest.raises(Unavailable):
        write(server, add_user("a"), cut, lambda session: session.value(text("SELECT 1")))
    assert names(server) == []


def test_a_connection_lost_while_idle_is_replaced(server: Database) -> None:
    with server.read() as session, server.read() as other:
        assert session.value(_PID) != other.value(_PID)
    write(server, lambda session: session.value(text(_CUT_OTHERS)))
    for _ in range(3):
        assert names(server) == []


@pytest.fixture
def server(database: Database) -> Database:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no connection to cut")
    return database


_PID = text("SELECT pg_backend_pid()")
_CUT_OTHERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid != pg_backend_pid()
"""
