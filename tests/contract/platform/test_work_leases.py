"""Work that one process at a time does, and that is never left undone because another was at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlalchemy import update

from llmariner.platform.database import Database
from llmariner.platform.database.tables import work_leases
from llmariner.platform.database.work_leases import WorkLease

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def leases(database: Database, *holders: str) -> list[WorkLease]:
    return [WorkLease(database, "work", holder) for holder in holders]


def end_all(database: Database) -> None:
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=0.0))


def test_one_of_concurrent_processes_gets_the_lease(database: Database, run_concurrently: AtOnce) -> None:
    takers = leases(database, *"abcdef")
    taken = run_concurrently([partial(taker.acquire, 30.0) for taker in takers])
    assert sorted(taken, key=str) == [0, *[None] * 5]
    (holder,) = (taker for taker, requests in zip(takers, taken, strict=True) if requests is not None)
    assert holder.release(0, 30.0) == 5, "the five others want it done, too"
    assert holder.release(5, 30.0) is None
    assert takers[0].acquire(30.0) == 5


def test_a_request_during_a_lease_extends_it(database: Database) -> None:
    first, second = leases(database, "a", "b")
    assert first.acquire(30.0) == 0
    assert second.acquire(30.0) is None
    assert first.release(0, 30.0) == 1
    assert second.acquire(30.0) is None
    assert first.release(1, 30.0) == 2
    assert first.release(2, 30.0) is None
    assert not first.renew(30.0)
    assert second.acquire(30.0) == 2
    assert second.acquire(30.0) == 2, "who has it may acquire it again, as one does whose work failed"


def test_a_former_holder_neither_renews_nor_releases(database: Database) -> None:
    first, second = leases(database, "a", "b")
    assert first.acquire(30.0) == 0
    end_all(database)
    assert second.acquire(30.0) == 0
    assert not first.renew(30.0)
    assert first.release(0, 30.0) is None
    first.pause(30.0)
    assert second.renew(30.0)


def test_a_paused_lease_has_no_holder_and_records_no_request(database: Database) -> None:
    first, second = leases(database, "a", "b")
    assert first.acquire(30.0) == 0
    first.pause(30.0)
    assert [first.acquire(30.0), second.acquire(30.0)] == [None, None]
    end_all(database)
    assert second.acquire(30.0) == 0


def test_a_lease_from_before_a_clock_change_is_expired(database: Database) -> None:
    first, second = leases(database, "a", "b")
    assert first.acquire(30.0) == 0
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=session.now() + 3600))
    assert second.acquire(30.0) == 0
    assert not first.renew(30.0)
